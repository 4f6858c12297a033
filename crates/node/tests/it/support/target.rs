//! A target of a load balancer that does what the test says: an HTTP server of a few lines, which
//! notes what it gets.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a connection with nothing to read looks whether the test is over.
const LOOK: Duration = Duration::from_millis(50);

/// A status that has room.
const STATUS: &str = r#"{"AvailableWarmContainers":{},"TotalMemory":4096,"AvailableMemory":4096,"FreeMemory":4096,"TotalCPU":1.0,"UsedCPU":0.0,"Coordinates":{"Vec":[0,0,0]},"LoadAvg":[0,0,0],"LastUpdateTime":1}"#;

/// What a target got.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// All lines of the head, as they came.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The values of a header.
    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        let lines = self.head.split("\r\n").skip(1);
        lines
            .filter_map(|line| line.split_once(':'))
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }
}

/// What happens to the connection after an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Keep,
    Close,
}

type Answer = dyn Fn(&Request, &mut TcpStream) -> io::Result<Then> + Send + Sync;

/// A target that is up.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

/// A target that is well and answers requests, other than those for its status, like this.
pub(crate) fn target(
    answer: impl Fn(&Request, &mut TcpStream) -> io::Result<Then> + Send + Sync + 'static,
) -> Target {
    target_at("127.0.0.1:0".parse().unwrap(), answer)
}

/// As [`target`], at this address.
pub(crate) fn target_at(
    address: SocketAddr,
    answer: impl Fn(&Request, &mut TcpStream) -> io::Result<Then> + Send + Sync + 'static,
) -> Target {
    let listener = TcpListener::bind(address).expect("an address for the target");
    let address = listener.local_addr().unwrap();
    let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
    let connections = Arc::new(AtomicUsize::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let answer: Arc<Answer> = Arc::new(answer);
    let shared = (
        Arc::clone(&seen),
        Arc::clone(&connections),
        Arc::clone(&over),
    );
    let acceptor = std::thread::spawn(move || {
        let (seen, connections, over) = shared;
        for stream in listener.incoming() {
            if over.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            connections.fetch_add(1, Ordering::SeqCst);
            let (seen, over, answer) = (Arc::clone(&seen), Arc::clone(&over), Arc::clone(&answer));
            std::thread::spawn(move || drop(serve(stream, &seen, &over, &*answer)));
        }
    });
    Target {
        address,
        seen,
        connections,
        over,
        acceptor: Some(acceptor),
    }
}

impl Target {
    /// What it got, other than for its status.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// How many connections it has had.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

/// Answers with this, in one piece.
pub(crate) fn reply(
    stream: &mut TcpStream,
    status: &str,
    headers: &str,
    body: &str,
) -> io::Result<Then> {
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    stream.write_all(text.as_bytes())?;
    Ok(Then::Keep)
}

/// Answers like a node that has run a call in so many milliseconds.
pub(crate) fn report(stream: &mut TcpStream, node: &str, milliseconds: u32) -> io::Result<Then> {
    let seconds = f64::from(milliseconds) / 1000.0;
    let body = format!(
        r#"{{"Success":true,"Result":"{{}}","ResponseTime":{seconds},"IsWarmStart":true,"InitTime":0,"QueueingTime":0,"OffloadLatency":0,"Duration":{seconds},"Output":"","ExecutionArea":"ROME","ExecutionNode":"{node}"}}"#
    );
    reply(
        stream,
        "200 OK",
        "Content-Type: application/json\r\n",
        &body,
    )
}

fn serve(
    mut stream: TcpStream,
    seen: &Mutex<Vec<Request>>,
    over: &AtomicBool,
    answer: &Answer,
) -> io::Result<()> {
    stream.set_read_timeout(Some(LOOK))?;
    stream.set_nodelay(true)?;
    let mut received = Vec::new();
    loop {
        let Some(request) = read(&mut stream, &mut received, over)? else {
            return Ok(());
        };
        let then = if request.path == "/status" {
            reply(&mut stream, "200 OK", "", STATUS)?
        } else {
            seen.lock().unwrap().push(request.clone());
            answer(&request, &mut stream)?
        };
        if then == Then::Close {
            return Ok(());
        }
    }
}

/// A request with its body, unless that is chunked: such a one is left to the test.
fn read(
    stream: &mut TcpStream,
    received: &mut Vec<u8>,
    over: &AtomicBool,
) -> io::Result<Option<Request>> {
    let end = loop {
        if let Some(at) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if !more(stream, received, over)? {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&received[..end]).into_owned();
    received.drain(..end + 4);
    let mut words = head.split(' ');
    let mut request = Request {
        method: words.next().unwrap_or_default().to_owned(),
        path: words.next().unwrap_or_default().to_owned(),
        head: head.clone(),
        body: Vec::new(),
    };
    let length = request.headers("content-length");
    let length: usize = length.first().map_or(0, |it| it.parse().unwrap());
    // A body that comes little by little is a matter of the test, too.
    if request.path.contains("streamed") {
        request.body = std::mem::take(received);
        return Ok(Some(request));
    }
    while received.len() < length {
        if !more(stream, received, over)? {
            return Ok(None);
        }
    }
    request.body = received.drain(..length).collect();
    Ok(Some(request))
}

/// Reads on; `false` at the end.
fn more(stream: &mut TcpStream, received: &mut Vec<u8>, over: &AtomicBool) -> io::Result<bool> {
    let mut chunk = [0; 16 * 1024];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(false),
            Ok(count) => {
                received.extend_from_slice(&chunk[..count]);
                return Ok(true);
            }
            Err(error) if is_pause(&error) => {
                if over.load(Ordering::SeqCst) {
                    return Ok(false);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_pause(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

/// Reads until the other side closes, as a test that waits for that.
pub(crate) fn wait_for_end(stream: &mut TcpStream) -> io::Result<()> {
    let mut chunk = [0; 1024];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if is_pause(&error) => {}
            // A reset is an end as well.
            Err(_) => return Ok(()),
        }
    }
}
