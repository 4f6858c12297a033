//! A small HTTP server to fetch code from, which can be as bad as a test wants it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// What a request is answered with.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// These bytes, whatever they are, then the end.
    Raw(Vec<u8>),
    /// These bytes again and again, as long as the client takes them.
    Endless(Vec<u8>),
    /// These bytes and then nothing, until the client has gone.
    Stuck(Vec<u8>),
}

/// 200 with a body.
pub(crate) fn ok(body: &[u8]) -> Answer {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    Answer::Raw([head.as_bytes(), body].concat())
}

/// A reply without a body: status line and header lines, without their ends.
pub(crate) fn head(lines: &[&str]) -> Answer {
    Answer::Raw(format!("{}\r\nContent-Length: 0\r\n\r\n", lines.join("\r\n")).into_bytes())
}

/// A running server; it ends with its owner.
pub(crate) struct Server {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

/// Serves on loopback, answering by path.
pub(crate) fn serve(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (requests, stopping) = (Arc::default(), Arc::default());
    let (counter, stop) = (Arc::clone(&requests), Arc::clone(&stopping));
    let answer = Arc::new(answer);
    let acceptor = std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), false) = (stream, AtomicBool::load(&stop, Ordering::SeqCst)) else {
                break;
            };
            AtomicUsize::fetch_add(&counter, 1, Ordering::SeqCst);
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || converse(stream, &*answer));
        }
    });
    Server {
        address,
        requests,
        stopping,
        acceptor: Some(acceptor),
    }
}

impl Server {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

/// Errors mean that the client has gone, which is its right.
fn converse(mut stream: TcpStream, answer: &dyn Fn(&str) -> Answer) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    match answer(path) {
        Answer::Raw(bytes) => drop(stream.write_all(&bytes)),
        Answer::Endless(bytes) => while stream.write_all(&bytes).is_ok() {},
        Answer::Stuck(bytes) => {
            drop(stream.write_all(&bytes));
            drop(stream.read(&mut [0]));
        }
    }
}
