//! A server of the test in another program's place: it keeps what it is sent and answers what it is
//! told to.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use serde_json::Value;

use crate::support::PATIENCE;

/// What a peer answers.
pub(crate) struct Answer {
    /// `None` hangs up.
    status: Option<u16>,
    body: String,
}

impl Answer {
    pub(crate) fn ok(body: &str) -> Self {
        Self::status(200, body)
    }

    pub(crate) fn status(status: u16, body: &str) -> Self {
        Self {
            status: Some(status),
            body: body.to_owned(),
        }
    }

    pub(crate) fn hang_up() -> Self {
        Self {
            status: None,
            body: String::new(),
        }
    }
}

/// What a peer was sent.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// The request line and the headers.
    pub(crate) head: String,
    pub(crate) body: Value,
}

/// See the module. Serves one connection after the other.
pub(crate) struct Peer {
    address: SocketAddr,
    requests: Receiver<Request>,
    stopping: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Peer {
    /// Answers requests, which are numbered from 0.
    pub(crate) fn start(answer: impl Fn(usize) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stopping);
        let server = std::thread::spawn(move || {
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept() {
                if told.load(Ordering::SeqCst) {
                    return;
                }
                if serve(stream, &sender, || answer(number)).is_some() {
                    number += 1;
                }
            }
        });
        Self {
            address,
            requests,
            stopping,
            server: Some(server),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The next of the requests that it was sent.
    #[track_caller]
    pub(crate) fn received(&self) -> Request {
        self.requests
            .recv_timeout(PATIENCE)
            .expect("a request in time")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(server) = self.server.take() {
            drop(server.join());
        }
    }
}

/// One request of a connection; `None` if none came.
fn serve(
    stream: TcpStream,
    sender: &Sender<Request>,
    answer: impl FnOnce() -> Answer,
) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let lower = line.to_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let path = head.split(' ').nth(1)?.to_owned();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let Answer { status, body: text } = answer();
    // Before the answer, so that who has seen that can ask for the request.
    drop(sender.send(Request { path, head, body }));
    if let Some(status) = status {
        let bytes = text.len();
        let reply = format!(
            "HTTP/1.1 {status} Told\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n{text}"
        );
        drop(reader.get_mut().write_all(reply.as_bytes()));
    }
    Some(())
}
