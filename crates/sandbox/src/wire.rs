//! The framed connection to a shim, and the socket on which shims connect.
//!
//! What comes in is written by the function if it likes, so nothing here trusts it: lengths are
//! limited, memory is taken as bytes arrive and never ahead of them, and every oddity is an error
//! value.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};
pub(crate) use serverledge_executor::kind;
use serverledge_executor::{FRAME_MAX, PREFIX};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;

/// Most that is read, and so allocated, at a time.
const READ_STEP: usize = 256 << 10;
/// Least room for what arrives: an ordinary reply comes whole.
const RECEIVED_MIN: usize = 4096;
/// A buffer that grew beyond this is given back after the call.
const BUFFER_KEPT: usize = 1 << 20;

#[derive(Debug, Deserialize)]
pub(crate) struct Hello {
    pub(crate) slot: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct Load<'a> {
    pub(crate) function: &'a str,
    pub(crate) handler: &'a str,
    pub(crate) handler_dir: &'a str,
    pub(crate) memory_mb: u64,
    pub(crate) slots: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct Invoke<'a> {
    pub(crate) id: &'a str,
    pub(crate) deadline: f64,
    pub(crate) output: bool,
}

/// The head of `LOADED` and `RESULT`.
#[derive(Debug, Deserialize)]
pub(crate) struct Outcome {
    /// Of the call that this answers; none in `LOADED`.
    #[serde(default)]
    pub(crate) id: Option<String>,
    pub(crate) ok: bool,
    #[serde(default)]
    pub(crate) error: Option<Failure>,
    #[serde(default)]
    pub(crate) output: Text,
    #[serde(default)]
    pub(crate) left: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Failure {
    #[serde(rename = "type")]
    pub(crate) kind: Text,
    pub(crate) message: Text,
    pub(crate) stack: Text,
}

/// What a function printed or raised. Interpreters have strings that Unicode has not, such as
/// Python's for a file name in an unknown encoding: what can't be told is replaced.
#[derive(Debug, Default)]
pub(crate) struct Text(pub(crate) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Lossy;

        impl Visitor<'_> for Lossy {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Text, E> {
                Ok(Text(String::from_utf8_lossy(bytes).into_owned()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }
        }

        // As bytes, because a lone surrogate is an error in a string.
        deserializer.deserialize_bytes(Lossy)
    }
}

impl From<Failure> for crate::FunctionError {
    fn from(failure: Failure) -> Self {
        crate::FunctionError {
            kind: failure.kind.0,
            message: failure.message.0,
            stack: failure.stack.0,
        }
    }
}

/// Why there is no frame.
#[derive(Debug)]
pub(crate) enum WireError {
    /// The other side is gone.
    Closed,
    /// The other side doesn't keep to the protocol; says how.
    Invalid(String),
}

impl From<io::Error> for WireError {
    fn from(_: io::Error) -> Self {
        // A Unix socket fails in one way only: the peer has closed it, with or without data unread.
        WireError::Closed
    }
}

pub(crate) struct Frame<'a> {
    head: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl Frame<'_> {
    pub(crate) fn head<'a, T: Deserialize<'a>>(&'a self) -> Result<T, WireError> {
        serde_json::from_slice(self.head)
            .map_err(|error| WireError::Invalid(format!("unreadable head of a frame: {error}")))
    }
}

/// A connection to one slot of a shim. Not safe to use again after a future of it was dropped.
///
/// Only readability is watched. A Unix socket reports "writable" whenever its peer has read
/// something, so a stream that watches both is woken twice by every call.
pub(crate) struct Connection {
    stream: AsyncFd<UnixStream>,
    peer_pid: Option<i32>,
    sent: Vec<u8>,
    received: Vec<u8>,
}

impl Connection {
    fn new(stream: tokio::net::UnixStream) -> io::Result<Self> {
        let peer_pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        // It stays non-blocking.
        let stream = watch(stream.into_std()?, Interest::READABLE)?;
        Ok(Connection {
            stream,
            peer_pid: peer_pid.filter(|pid| *pid > 0),
            sent: Vec::new(),
            received: Vec::with_capacity(RECEIVED_MIN),
        })
    }

    /// The process at the other end, if it is visible from here.
    pub(crate) fn peer_pid(&self) -> Option<i32> {
        self.peer_pid
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }

    /// Nothing may have arrived between calls: what has is nobody's answer, whoever wrote it. Tells
    /// too when the other end is gone.
    pub(crate) fn check_idle(&self) -> Result<(), String> {
        // No system call unless there was an event.
        let peek = |mut stream: &UnixStream| stream.read(&mut [0]);
        match self.stream.try_io(Interest::READABLE, peek) {
            Ok(0) => Err("it closed its connection".to_owned()),
            Ok(_) => Err("it sent something between calls".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(crate) async fn send<H: Serialize>(
        &mut self,
        kind: u8,
        head: &H,
        body: &[u8],
    ) -> Result<(), WireError> {
        self.sent.clear();
        self.sent.extend_from_slice(&[0; PREFIX]);
        serde_json::to_writer(&mut self.sent, head)
            .map_err(|error| WireError::Invalid(error.to_string()))?;
        let head = self.sent.len() - PREFIX;
        let total = PREFIX - 4 + head + body.len();
        if total > FRAME_MAX {
            return Err(WireError::Invalid(format!(
                "a call of {total} bytes is larger than {FRAME_MAX}"
            )));
        }
        // Both fit 32 bits, as FRAME_MAX does.
        self.sent[..4].copy_from_slice(&(total as u32).to_be_bytes());
        self.sent[4] = kind;
        self.sent[5..PREFIX].copy_from_slice(&(head as u32).to_be_bytes());

        let mut slices = [IoSlice::new(&self.sent), IoSlice::new(body)];
        let mut slices = &mut slices[..];
        IoSlice::advance_slices(&mut slices, 0); // drops an empty body
        while !slices.is_empty() {
            let written = write(self.stream.get_ref(), slices).await?;
            if written == 0 {
                return Err(WireError::Closed);
            }
            IoSlice::advance_slices(&mut slices, written);
        }
        Ok(())
    }

    /// Receives a frame that must be of this kind.
    pub(crate) async fn receive(&mut self, kind: u8) -> Result<Frame<'_>, WireError> {
        self.received.clear();
        self.received.shrink_to(BUFFER_KEPT);
        self.fill(PREFIX).await?;
        let total = length(&self.received[..4]);
        if !(PREFIX - 4..=FRAME_MAX).contains(&total) {
            return Err(WireError::Invalid(format!("a frame of {total} bytes")));
        }
        self.fill(4 + total).await?;
        let received = &self.received[..];
        if received.len() > 4 + total {
            return Err(WireError::Invalid(
                "more than one frame at a time".to_owned(),
            ));
        }
        if received[4] != kind {
            let got = received[4];
            return Err(WireError::Invalid(format!(
                "a frame of kind {got} instead of {kind}"
            )));
        }
        let head = length(&received[5..PREFIX]);
        let rest = &received[PREFIX..];
        let (head, body) = rest.split_at_checked(head).ok_or_else(|| {
            WireError::Invalid(format!("a head of {head} bytes in a frame of {total}"))
        })?;
        Ok(Frame { head, body })
    }

    async fn fill(&mut self, wanted: usize) -> Result<(), WireError> {
        while self.received.len() < wanted {
            let missing = wanted - self.received.len();
            let room = missing.clamp(RECEIVED_MIN, READ_STEP);
            if read(&self.stream, &mut self.received, room).await? == 0 {
                return Err(WireError::Closed);
            }
        }
        Ok(())
    }
}

fn watch(stream: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    // SAFETY: a `UnixStream` owns its descriptor, always tells the same one, and is only lent out
    // shared while it is registered.
    Ok(unsafe { AsyncFd::register_with_interest(stream, interest)? })
}

/// Appends what has arrived, at most `room` bytes; 0 at the end of the stream.
async fn read(
    stream: &AsyncFd<UnixStream>,
    buffer: &mut Vec<u8>,
    room: usize,
) -> io::Result<usize> {
    let before = buffer.len();
    loop {
        let mut ready = stream.readable().await?;
        buffer.resize(before + room, 0);
        let read = stream.get_ref().read(&mut buffer[before..]);
        buffer.truncate(before + read.as_ref().map_or(0, |read| *read));
        match read {
            Ok(read) => {
                // The socket is empty: the next arrival is a new event.
                if (1..room).contains(&read) {
                    ready.clear_ready();
                }
                return Ok(read);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes some of it; waits for room only if there is none.
async fn write(mut stream: &UnixStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    loop {
        match stream.write_vectored(slices) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // A descriptor of its own, because each is watched once.
                let watched = watch(stream.try_clone()?, Interest::WRITABLE)?;
                watched.writable().await?.retain_ready();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn length(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

/// The socket on which a sandbox connects. Dropping it removes the file.
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens at this path; whoever can reach the path may connect.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        // The path in a socket's address is short; the one through an open directory always is.
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let dir = std::fs::File::open(dir)?;
        let dir = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string());
        let listener = UnixListener::bind(dir.join(name))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        Ok(Listener {
            listener,
            path: path.to_owned(),
        })
    }

    /// The next connection and the slot for which it is.
    pub(crate) async fn accept(&self) -> Result<(Connection, u32), WireError> {
        let (stream, _) = self.listener.accept().await?;
        let mut connection = Connection::new(stream)?;
        let hello: Hello = connection.receive(kind::HELLO).await?.head()?;
        Ok((connection, hello.slot))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may be gone already, with its directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// Feeds bytes as a hostile peer would and says how the connection took them.
    async fn check(bytes: &[u8], expected: &str) {
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let mut connection = Connection::new(ours).unwrap();
        theirs.write_all(bytes).await.unwrap();
        drop(theirs);
        let got = match connection.receive(kind::RESULT).await {
            Ok(frame) => match frame.head::<Outcome>() {
                Ok(head) => format!("{} {:?}", head.ok, String::from_utf8_lossy(frame.body)),
                Err(error) => format!("{error:?}"),
            },
            Err(error) => format!("{error:?}"),
        };
        assert!(got.contains(expected), "{got} has no {expected}");
    }

    #[tokio::test]
    async fn hostile_bytes_are_errors() {
        check(b"", "Closed").await;
        check(b"\0\0\0", "Closed").await;
        check(
            b"\xff\xff\xff\xff\x05\0\0\0\0",
            "a frame of 4294967295 bytes",
        )
        .await;
        check(b"\0\0\0\x04\x05\0\0\0\0", "a frame of 4 bytes").await;
        check(b"\x03\xff\xff\xff\x05\0\0\0\x02{}", "Closed").await;
        check(
            b"\0\0\0\x07\x05\xff\xff\xff\xff{}",
            "a head of 4294967295 bytes",
        )
        .await;
        check(b"\0\0\0\x07\x04\0\0\0\x02{}", "kind 4 instead of 5").await;
        check(b"\0\0\0\x07\x05\0\0\0\x02{}", "missing field `ok`").await;
        check(b"\0\0\0\x07\x05\0\0\0\x02{}x", "more than one frame").await;
        check(b"\0\0\0\x11\x05\0\0\0\x0b{\"ok\":true}7", "true \"7\"").await;
    }

    #[tokio::test]
    async fn frames_arrive_as_sent() {
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let mut ours = Connection::new(ours).unwrap();
        let mut theirs = Connection::new(theirs).unwrap();
        let body = vec![b'x'; 3 << 20];
        let head = Load {
            function: "f",
            handler: "f.h",
            handler_dir: "/app",
            memory_mb: 1,
            slots: 7,
        };
        let send = ours.send(kind::LOAD, &head, &body);
        let receive = async {
            let frame = theirs.receive(kind::LOAD).await.unwrap();
            let head: serde_json::Value = frame.head().unwrap();
            (head["slots"].as_u64(), frame.body.len())
        };
        let (sent, received) = tokio::join!(send, receive);
        sent.unwrap();
        assert_eq!(received, (Some(7), body.len()));
    }
}
