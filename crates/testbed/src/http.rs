//! Just enough of HTTP to talk to nodes: one request a connection, from the calling thread's network.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// How long a connection, and each part of an answer, may take.
const TIME_MAX: Duration = Duration::from_secs(90);

/// Longest answer.
const ANSWER_MAX: u64 = 64 << 20;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Lines of its head, as they came.
    head: String,
    /// What it says.
    pub body: String,
}

impl Reply {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body, as JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {}", self.body))
    }
}

/// Sends a request and reads the answer.
pub(crate) fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> anyhow::Result<Reply> {
    let mut stream =
        TcpStream::connect_timeout(&to, TIME_MAX).with_context(|| format!("connecting to {to}"))?;
    stream.set_read_timeout(Some(TIME_MAX))?;
    stream.set_write_timeout(Some(TIME_MAX))?;
    stream.set_nodelay(true)?;
    let length = body.len();
    let message = format!(
        "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(message.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> anyhow::Result<Reply> {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        bail!("an answer that breaks off: {text:?}");
    };
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let mut reply = Reply {
        status: status.with_context(|| format!("no status: {head:?}"))?,
        head: head.to_owned(),
        body: String::new(),
    };
    reply.body = match reply.header("transfer-encoding") {
        Some(_) => dechunk(body).context("chunks that break off")?,
        None => body.to_owned(),
    };
    Ok(reply)
}

/// The text of a body in chunks.
fn dechunk(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.push_str(rest.get(..size)?);
        body = rest.get(size..)?.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_in_both_forms() {
        let plain = parse(b"HTTP/1.1 429 Too Many Requests\r\nA: b\r\n\r\n{\"n\":1}").unwrap();
        assert_eq!((plain.status, plain.header("a")), (429, Some("b")));
        assert_eq!(plain.json().unwrap()["n"], 1);
        let chunks =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        assert_eq!(parse(chunks).unwrap().body, "abcd");
        assert!(parse(b"HTTP/1.1 200 OK\r\n").is_err());
        assert!(parse(b"nonsense\r\n\r\n").is_err());
    }
}
