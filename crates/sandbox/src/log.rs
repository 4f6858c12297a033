//! The end of what a sandbox writes outside of calls, kept to explain how it ended.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use crate::lock;

/// How much is kept.
const KEPT: usize = 8 << 10;
/// How much is read in one [`PAUSE`]: endless output must not cost the node a core, so the
/// function waits in its `write` instead.
const READ_MAX: usize = 64 << 10;
const PAUSE: Duration = Duration::from_millis(10);
/// How long the rest is waited for after the end of the sandbox. It takes longer only if a process
/// outside holds the pipe open.
const REST: Duration = Duration::from_millis(200);

/// Reads to the end in the background.
pub(crate) struct LogTail {
    tail: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl LogTail {
    pub(crate) fn start(pipe: OwnedFd) -> io::Result<Self> {
        Ok(LogTail::of(pipe::Receiver::from_owned_fd(pipe)?))
    }

    pub(crate) fn of(source: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let tail = Arc::new(Mutex::new(Vec::new()));
        let reader = tokio::spawn(read(source, tail.clone()));
        LogTail { tail, reader }
    }

    /// What was kept, once the writers are gone.
    pub(crate) async fn finish(mut self) -> String {
        if tokio::time::timeout(REST, &mut self.reader).await.is_err() {
            self.reader.abort();
        }
        String::from_utf8_lossy(&lock(&self.tail)).into_owned()
    }
}

async fn read(mut source: impl AsyncRead + Unpin, tail: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = Vec::with_capacity(4096);
    let mut read = 0;
    loop {
        buffer.clear();
        match source.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => read += count,
        }
        {
            let mut tail = lock(&tail);
            tail.extend_from_slice(&buffer);
            let surplus = tail.len().saturating_sub(KEPT);
            tail.drain(..surplus);
        }
        if read >= READ_MAX {
            read = 0;
            tokio::time::sleep(PAUSE).await;
        }
    }
}
