//! The bridge's side of the frame protocol.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;

const HELLO: u8 = 1;
pub(super) const LOAD: u8 = 2;
pub(super) const LOADED: u8 = 3;
pub(super) const INVOKE: u8 = 4;
pub(super) const RESULT: u8 = 5;

/// Largest frame, as in the protocol.
const FRAME_MAX: usize = 64 << 20;
/// Kind and length of the head.
const FIXED: usize = 5;

/// What a result may have at most, so that it fits a frame beside its head.
pub(super) const RESULT_MAX: usize = FRAME_MAX - (8 << 20);

pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) head: Vec<u8>,
    pub(super) body: Vec<u8>,
}

/// A connection to the node, for one slot.
pub(super) struct Connection(UnixStream);

impl Connection {
    /// Connects and says hello.
    pub(super) fn open(slot: u32) -> io::Result<Self> {
        let path = std::env::var_os("SERVERLEDGE_SOCKET").unwrap_or_default();
        let mut connection = Connection(UnixStream::connect(path)?);
        let hello = format!(r#"{{"slot":{slot},"runtime":"bridge","version":"1"}}"#);
        connection.send(HELLO, &hello, &[])?;
        Ok(connection)
    }

    /// The next frame; `None` when the node is gone.
    pub(super) fn receive(&mut self) -> io::Result<Option<Frame>> {
        let mut length = [0; 4];
        match self.0.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let length = u32::from_be_bytes(length) as usize;
        if !(FIXED..=FRAME_MAX).contains(&length) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut rest = vec![0; length];
        self.0.read_exact(&mut rest)?;
        let mut head = rest.split_off(FIXED);
        let size = rest[1..]
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        if size > head.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let body = head.split_off(size);
        Ok(Some(Frame {
            kind: rest[0],
            head,
            body,
        }))
    }

    pub(super) fn send(&mut self, kind: u8, head: &str, body: &[u8]) -> io::Result<()> {
        let length = FIXED + head.len() + body.len();
        if length > FRAME_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // Both fit 32 bits, as FRAME_MAX does.
        let mut bytes = Vec::with_capacity(4 + FIXED + head.len());
        bytes.extend_from_slice(&(length as u32).to_be_bytes());
        bytes.push(kind);
        bytes.extend_from_slice(&(head.len() as u32).to_be_bytes());
        bytes.extend_from_slice(head.as_bytes());
        self.0.write_all(&bytes)?;
        self.0.write_all(body)
    }
}
