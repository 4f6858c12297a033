//! As much HTTP/1.1 as the bridge needs, over the sandbox's own loopback.

use std::io::{self, BufRead, Read as _};

/// Bytes of a start line with its headers.
const HEAD_MAX: u64 = 64 << 10;
/// Bytes of a body.
const BODY_MAX: u64 = super::frame::RESULT_MAX as u64;

/// A request or a response.
pub(super) struct Message {
    /// The first line.
    pub(super) start: String,
    /// Names in lower case; trailers come last.
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// What ends a body that has no length.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unmeasured {
    /// There is none: a request.
    Empty,
    /// The end of the connection: a response.
    Close,
}

impl Message {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter().rev();
        let found = headers.find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The first line's words.
    pub(super) fn words(&self) -> impl Iterator<Item = &str> {
        self.start.split_ascii_whitespace()
    }

    /// Whether another message may follow this response: its end was clear without the end of the
    /// connection, and neither its version nor a header speaks against it.
    pub(super) fn is_kept_alive(&self) -> bool {
        let is_measured =
            self.header("content-length").is_some() || self.header("transfer-encoding").is_some();
        let closes = self.header("connection").unwrap_or_default();
        is_measured
            && self.start.starts_with("HTTP/1.1 ")
            && !closes.to_ascii_lowercase().contains("close")
    }

    /// Reads the next message; `None` at the end of the connection. `proceed` is called when the
    /// other side waits for leave to send the body.
    pub(super) fn read(
        reader: &mut impl BufRead,
        unmeasured: Unmeasured,
        proceed: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Option<Message>> {
        let mut message = Message {
            start: String::new(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        let mut head = reader.by_ref().take(HEAD_MAX);
        loop {
            let Some(line) = line(&mut head)? else {
                return Ok(None);
            };
            // Empty lines before a message are allowed, and answers that announce another.
            if line.is_empty() || !message.start.is_empty() {
                if message.start.is_empty() {
                    continue;
                }
                if line.is_empty() {
                    if !message.start.contains(" 100 ") || unmeasured == Unmeasured::Empty {
                        break;
                    }
                    message.start.clear();
                    message.headers.clear();
                } else {
                    message.headers.push(header(&line)?);
                }
            } else {
                message.start = line;
            }
        }
        let expects = message.header("expect");
        if expects.is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            proceed()?;
        }
        message.read_body(reader, unmeasured)?;
        Ok(Some(message))
    }

    fn read_body(&mut self, reader: &mut impl BufRead, unmeasured: Unmeasured) -> io::Result<()> {
        let chunked = self.header("transfer-encoding");
        if chunked.is_some_and(|value| value.to_ascii_lowercase().contains("chunked")) {
            return self.read_chunks(reader);
        }
        match self.header("content-length").map(str::parse::<u64>) {
            Some(Ok(length)) if length <= BODY_MAX => self.append(reader, length),
            Some(Ok(_)) => Err(too_long()),
            Some(Err(_)) => Err(invalid("a length that is no number")),
            None if unmeasured == Unmeasured::Empty => Ok(()),
            None => {
                reader.take(BODY_MAX + 1).read_to_end(&mut self.body)?;
                match self.body.len() as u64 > BODY_MAX {
                    true => Err(too_long()),
                    false => Ok(()),
                }
            }
        }
    }

    fn read_chunks(&mut self, reader: &mut impl BufRead) -> io::Result<()> {
        loop {
            let line = line(&mut reader.take(HEAD_MAX))?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size =
                u64::from_str_radix(size, 16).map_err(|_| invalid("a chunk without size"))?;
            if size == 0 {
                break;
            }
            if size > BODY_MAX - self.body.len() as u64 {
                return Err(too_long());
            }
            self.append(reader, size)?;
            line_end(reader)?;
        }
        let mut trailers = reader.take(HEAD_MAX);
        loop {
            match line(&mut trailers)? {
                Some(line) if !line.is_empty() => self.headers.push(header(&line)?),
                _ => return Ok(()),
            }
        }
    }

    /// Memory is taken as bytes come, not as they are announced.
    fn append(&mut self, reader: &mut impl BufRead, length: u64) -> io::Result<()> {
        match reader.take(length).read_to_end(&mut self.body)? as u64 == length {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// The next line, without its end; `None` if there is none.
fn line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if reader.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(invalid("a head that ends too soon or is too long"));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    let line = String::from_utf8(line).map_err(|_| invalid("a head that is not text"))?;
    Ok(Some(line))
}

fn line_end(reader: &mut impl BufRead) -> io::Result<()> {
    match line(&mut reader.take(2))? {
        Some(rest) if rest.is_empty() => Ok(()),
        _ => Err(invalid("a chunk longer than its size")),
    }
}

fn header(line: &str) -> io::Result<(String, String)> {
    let (name, value) = line
        .split_once(':')
        .ok_or_else(|| invalid("a header without name"))?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn too_long() -> io::Error {
    invalid("a body that is too long")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, unmeasured: Unmeasured) -> Result<String, String> {
        let message = Message::read(&mut text.as_bytes(), unmeasured, || Ok(()));
        let message = message.map_err(|error| error.to_string())?;
        let Some(message) = message else {
            return Ok("none".into());
        };
        let body = String::from_utf8_lossy(&message.body).into_owned();
        let trailer = message.header("t").unwrap_or_default();
        Ok(format!("{}|{body}|{trailer}", message.start))
    }

    #[test]
    fn messages_are_read() {
        for (text, unmeasured, expected) in [
            (
                "GET /x HTTP/1.1\r\nA: b\r\n\r\n",
                Unmeasured::Empty,
                "GET /x HTTP/1.1||",
            ),
            (
                "\r\nPOST / HTTP/1.1\ncontent-length: 2\n\nabc",
                Unmeasured::Empty,
                "POST / HTTP/1.1|ab|",
            ),
            (
                "HTTP/1.1 200 OK\r\n\r\nrest",
                Unmeasured::Close,
                "HTTP/1.1 200 OK|rest|",
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
                Unmeasured::Close,
                "HTTP/1.1 200 OK|x|",
            ),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n1\r\nc\r\n0\r\nT: v\r\n\r\n",
                Unmeasured::Empty,
                "POST / HTTP/1.1|abc|v",
            ),
            ("", Unmeasured::Close, "none"),
        ] {
            assert_eq!(read(text, unmeasured).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn connections_are_kept_only_when_that_is_clear() {
        for (head, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", true),
            ("HTTP/1.1 200 OK\r\n", false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n", false),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n",
                false,
            ),
        ] {
            let text = format!("{head}\r\n");
            let message = Message::read(&mut text.as_bytes(), Unmeasured::Close, || Ok(()));
            assert_eq!(
                message.unwrap().unwrap().is_kept_alive(),
                expected,
                "{head}"
            );
        }
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let endless = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
        for text in [
            "GET / HTTP/1.1",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc",
            "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
            &endless,
        ] {
            assert!(read(text, Unmeasured::Empty).is_err(), "{text:.80}");
        }
    }
}
