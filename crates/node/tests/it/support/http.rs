//! A small blocking HTTP/1.1 client: one request a connection, nothing hidden from the test.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// No reply takes longer than this unless the node hangs.
const REPLY_TIME_MAX: Duration = Duration::from_secs(90);

/// A reply, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The value of the header `name`, whatever its case on the wire.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    /// The body as text.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in the body of {self:?}"))
    }

    /// The reply itself if its status is `status`.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.shown());
        self
    }

    /// Checks that the body is a problem that says all of `words`, in any case, and gives it.
    #[track_caller]
    pub(crate) fn problem(&self, words: &[&str]) -> Value {
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{}", self.shown());
        assert!(problem["title"].is_string(), "{}", self.shown());
        let detail = problem["detail"]
            .as_str()
            .unwrap_or_default()
            .to_lowercase();
        for word in words {
            assert!(
                detail.contains(&word.to_lowercase()),
                "the detail doesn't mention {word:?}: {}",
                self.shown()
            );
        }
        problem
    }

    /// The result of a call that went well: what the function returned.
    #[track_caller]
    pub(crate) fn result(&self) -> Value {
        serde_json::from_str(&self.result_text())
            .unwrap_or_else(|error| panic!("{error} in the Result of {}", self.shown()))
    }

    /// The result of a call that went well: the JSON text of what the function returned.
    #[track_caller]
    pub(crate) fn result_text(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.shown());
        let reply = self.json();
        assert_eq!(reply["Success"], true, "{}", self.shown());
        reply["Result"].as_str().expect("Result is a string").into()
    }

    /// One field of a JSON body.
    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> Value {
        self.json()[name].clone()
    }

    /// For the message of a failed assertion, cut to what can be read.
    pub(crate) fn shown(&self) -> String {
        let body: String = String::from_utf8_lossy(&self.body)
            .chars()
            .take(2000)
            .collect();
        format!(
            "status {}, headers {:?}, body {body}",
            self.status, self.headers
        )
    }
}

/// Sends one request and reads the whole reply.
pub(crate) fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Response> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let mut stream = connect(address)?;
    let mut message = head.into_bytes();
    message.extend_from_slice(body);
    // A node may answer and close before it has read everything; its answer counts.
    let sent = stream.write_all(&message);
    read_response(&mut stream, method == "HEAD").map_err(|error| sent.err().unwrap_or(error))
}

/// A connection whose reads give up in the end.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(REPLY_TIME_MAX))?;
    stream.set_write_timeout(Some(REPLY_TIME_MAX))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends `bytes` as they are, ends the sending side, and gives whatever comes back until the node
/// closes. An error of the connection ends the reading: a node may close on rubbish.
pub(crate) fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(address).expect("the node accepts connections");
    // The node may have closed before everything was sent: what it said is what counts.
    drop(stream.write_all(bytes));
    drop(stream.shutdown(std::net::Shutdown::Write));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    answer
}

/// Reads one reply from `stream`.
pub(crate) fn read_response(stream: &mut impl Read, is_head: bool) -> io::Result<Response> {
    let mut received = Vec::new();
    let end = loop {
        if let Some(at) = find(&received, b"\r\n\r\n") {
            break at;
        }
        let mut chunk = [0; 16 * 1024];
        let count = match stream.read(&mut chunk) {
            // With a time limit, the kernel doesn't begin again by itself.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("closed after {:?}", String::from_utf8_lossy(&received)),
            ));
        }
        received.extend_from_slice(&chunk[..count]);
    };
    let (status, headers) = parse_head(&received[..end])?;
    let mut body = received.split_off(end + 4);
    let mut response = Response {
        status,
        headers,
        body: Vec::new(),
    };
    if is_head {
        return Ok(response);
    }
    if response
        .header("Transfer-Encoding")
        .is_some_and(|value| value.contains("chunked"))
    {
        stream.read_to_end(&mut body)?;
        response.body = unchunk(&body)?;
        return Ok(response);
    }
    match response.header("Content-Length").map(str::parse::<usize>) {
        Some(Ok(length)) => {
            let missing = length.saturating_sub(body.len());
            stream.take(missing as u64).read_to_end(&mut body)?;
            if body.len() != length {
                return Err(bad("the body's length isn't its Content-Length"));
            }
        }
        Some(Err(_)) => return Err(bad("Content-Length is not a number")),
        None => {
            stream.read_to_end(&mut body)?;
        }
    }
    response.body = body;
    Ok(response)
}

fn parse_head(head: &[u8]) -> io::Result<(u16, Vec<(String, String)>)> {
    let head = String::from_utf8_lossy(head).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| bad("no status line"))?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    Ok((status, headers))
}

fn unchunk(mut rest: &[u8]) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = find(rest, b"\r\n").ok_or_else(|| bad("chunk without a length"))?;
        let length = std::str::from_utf8(&rest[..line])
            .ok()
            .and_then(|text| usize::from_str_radix(text, 16).ok())
            .ok_or_else(|| bad("chunk with a bad length"))?;
        rest = &rest[line + 2..];
        if length == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(..length).ok_or_else(|| bad("chunk cut short"))?);
        rest = rest
            .get(length + 2..)
            .ok_or_else(|| bad("chunk cut short"))?;
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
