//! HTTP/1.1 over one kept connection, with as little as a load generator needs: whatever it costs
//! is added to what is measured.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

/// No reply may take longer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// No reply may be larger.
const REPLY_BYTES_MAX: usize = 1 << 20;

/// A connection to a server on this machine.
pub(super) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(super) fn connect(port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).context("connecting")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self {
            stream,
            buffer: vec![0; 16 << 10],
        })
    }

    /// One request and its whole reply; the reply's body. Any status but 200 is an error.
    pub(super) fn exchange(&mut self, request: &[u8]) -> anyhow::Result<&[u8]> {
        self.stream.write_all(request)?;
        let mut filled = 0;
        loop {
            if filled == self.buffer.len() {
                ensure!(filled < REPLY_BYTES_MAX, "a reply of more than 1 MiB");
                self.buffer.resize(filled * 2, 0);
            }
            let got = self.stream.read(&mut self.buffer[filled..])?;
            ensure!(got > 0, "the server closed the connection");
            filled += got;
            let Some((head, length)) = head(&self.buffer[..filled])? else {
                continue;
            };
            if filled < head + length {
                continue;
            }
            let reply = &self.buffer[..head + length];
            if !reply.starts_with(b"HTTP/1.1 200") {
                bail!("the reply was {}", String::from_utf8_lossy(reply));
            }
            return Ok(&reply[head..]);
        }
    }
}

/// A request's bytes.
pub(super) fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// Length of a reply's head and of its body; nothing before the head is complete.
fn head(reply: &[u8]) -> anyhow::Result<Option<(usize, usize)>> {
    let Some(end) = reply.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    for line in reply[..end].split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        if line[..colon].eq_ignore_ascii_case(b"content-length") {
            let length = std::str::from_utf8(&line[colon + 1..])?.trim().parse()?;
            return Ok(Some((end + 4, length)));
        }
    }
    bail!("a reply without a length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read() {
        let reply = b"HTTP/1.1 200 OK\r\nX: y\r\ncontent-LENGTH: 12\r\n\r\nbody";
        assert_eq!(head(reply).unwrap(), Some((reply.len() - 4, 12)));
        assert_eq!(head(b"HTTP/1.1 200 OK\r\nX: y\r\n").unwrap(), None);
        assert!(head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
