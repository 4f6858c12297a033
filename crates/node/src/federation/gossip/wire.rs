//! What goes over the wire between nodes that gossip.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `SLG1` |
//! | 8 | number: microseconds since 1970, each larger than its sender's last |
//! | | a message |
//! | 32 | with a secret: seal of all before it |
//!
//! A message is what the library says, in this form: kind (1), who sends it (identity), its
//! incarnation (2), whom it is for (digest of the path, 16, and generation, 8; zeros are whoever gets
//! it), what belongs to the kind, and, if there are any, the number of updates (2) and those: state
//! (1), incarnation (2), identity. An identity is a member's path and value, as the registry would
//! have them, each with its length (1) before it, and a generation (8).
//!
//! So nothing is read that is longer than its datagram, and nothing is allocated by what a number
//! claims.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Message, State};

use super::super::member::Member;
use super::super::question::{self, AGE_MAX, Id};
use super::super::seal::{self, Purpose, Secret};

/// What begins a datagram.
pub(in super::super) const MAGIC: &[u8; 4] = b"SLG1";

/// Longest datagram, bytes: one that no network splits.
pub(in super::super) const DATAGRAM_MAX: usize = 1200;

/// Longest message.
pub(super) const MESSAGE_MAX: usize = DATAGRAM_MAX - ENVELOPE - seal::BYTES;

const ENVELOPE: usize = MAGIC.len() + 8;

/// What path and value of a member may have together, bytes: of the longest message, with three
/// identities in it, there is room left for updates.
pub(super) const IDENTITY_MAX: usize = 240;

/// How far the next generation is from one that was declared dead. More than a clock that was set
/// back is off by, so that a node that starts again outlives its former self soon.
const RENEWAL: u64 = Duration::from_secs(3600).as_micros() as u64;

/// A member, of one start of its process. Equal are those of one path and generation.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// Digest of the path.
    pub(super) id: Id,
    /// Of two with one path, the larger counts.
    pub(super) generation: u64,
    /// Missing where a message is for somebody: that one knows.
    pub(super) member: Option<Arc<Member>>,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        (self.id, self.generation) == (other.id, other.generation)
    }
}

impl Eq for Identity {}

impl foca::Identity for Identity {
    type Addr = Id;

    fn renew(&self) -> Option<Self> {
        Some(Self {
            generation: self.generation.saturating_add(RENEWAL),
            ..self.clone()
        })
    }

    fn addr(&self) -> Id {
        self.id
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.generation > adversary.generation
    }
}

impl Identity {
    pub(super) fn new(member: Arc<Member>, generation: u64) -> Self {
        Self {
            id: question::id(&member.path()),
            generation,
            member: Some(member),
        }
    }

    /// Whoever gets the message.
    pub(super) fn anyone() -> Self {
        Self {
            id: Id::default(),
            generation: 0,
            member: None,
        }
    }
}

/// Whether a member can be told of.
pub(super) fn fits(member: &Member) -> bool {
    let (path, value) = (member.path(), member.value());
    path.len() + value.len() <= IDENTITY_MAX
        && path.len().max(value.len()) <= usize::from(u8::MAX)
        && !(path + &value).chars().any(char::is_control)
}

/// Why a message is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum WireError {
    #[error("it is too short")]
    Short,
    #[error("it is too long")]
    Long,
    #[error("it has something that is no {0}")]
    Unknown(&'static str),
}

impl From<bytes::TryGetError> for WireError {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Short
    }
}

/// Writes and reads messages at one node.
#[derive(Debug)]
pub(super) struct Wire {
    /// This node, for what is for whoever gets it.
    pub(super) own: Id,
}

impl Codec<Identity> for Wire {
    type Error = WireError;

    fn encode_header(
        &mut self,
        header: &Header<Identity>,
        buf: impl BufMut,
    ) -> Result<(), WireError> {
        let mut bytes = Vec::with_capacity(2 * IDENTITY_MAX);
        let (kind, about, number) = match &header.message {
            Message::Ping(number) => (0, None, Some(*number)),
            Message::Ack(number) => (1, None, Some(*number)),
            Message::PingReq {
                target,
                probe_number,
            } => (2, Some(target), Some(*probe_number)),
            Message::IndirectPing {
                origin,
                probe_number,
            } => (3, Some(origin), Some(*probe_number)),
            Message::IndirectAck {
                target,
                probe_number,
            } => (4, Some(target), Some(*probe_number)),
            Message::ForwardedAck {
                origin,
                probe_number,
            } => (5, Some(origin), Some(*probe_number)),
            Message::Announce => (6, None, None),
            Message::Feed => (7, None, None),
            Message::Gossip => (8, None, None),
            Message::TurnUndead => (9, None, None),
            Message::Broadcast => return Err(WireError::Unknown("kind of message")),
        };
        bytes.put_u8(kind);
        put_identity(&header.src, &mut bytes)?;
        bytes.put_u16(header.src_incarnation);
        bytes.put_slice(&header.dst.id);
        bytes.put_u64(header.dst.generation);
        if let Some(about) = about {
            put_identity(about, &mut bytes)?;
        }
        if let Some(number) = number {
            bytes.put_u8(number);
        }
        put(&bytes, buf)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, WireError> {
        let kind = buf.try_get_u8()?;
        let src = identity(&mut buf)?;
        let src_incarnation = buf.try_get_u16()?;
        let mut id = Id::default();
        buf.try_copy_to_slice(&mut id)?;
        let generation = buf.try_get_u64()?;
        let dst = Identity {
            id: if id == Id::default() { self.own } else { id },
            generation,
            member: None,
        };
        let message = match kind {
            0 => Message::Ping(buf.try_get_u8()?),
            1 => Message::Ack(buf.try_get_u8()?),
            2 => Message::PingReq {
                target: identity(&mut buf)?,
                probe_number: buf.try_get_u8()?,
            },
            3 => Message::IndirectPing {
                origin: identity(&mut buf)?,
                probe_number: buf.try_get_u8()?,
            },
            4 => Message::IndirectAck {
                target: identity(&mut buf)?,
                probe_number: buf.try_get_u8()?,
            },
            5 => Message::ForwardedAck {
                origin: identity(&mut buf)?,
                probe_number: buf.try_get_u8()?,
            },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::TurnUndead,
            _ => return Err(WireError::Unknown("kind of message")),
        };
        Ok(Header {
            src,
            src_incarnation,
            dst,
            message,
        })
    }

    fn encode_member(
        &mut self,
        member: &foca::Member<Identity>,
        buf: impl BufMut,
    ) -> Result<(), WireError> {
        let mut bytes = Vec::with_capacity(IDENTITY_MAX);
        bytes.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        bytes.put_u16(member.incarnation());
        put_identity(member.id(), &mut bytes)?;
        put(&bytes, buf)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<foca::Member<Identity>, WireError> {
        let state = match buf.try_get_u8()? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(WireError::Unknown("state")),
        };
        let incarnation = buf.try_get_u16()?;
        Ok(foca::Member::new(identity(&mut buf)?, incarnation, state))
    }
}

/// All of it or nothing.
fn put(bytes: &[u8], mut buf: impl BufMut) -> Result<(), WireError> {
    if buf.remaining_mut() < bytes.len() {
        return Err(WireError::Long);
    }
    buf.put_slice(bytes);
    Ok(())
}

fn put_identity(identity: &Identity, bytes: &mut Vec<u8>) -> Result<(), WireError> {
    let member = identity.member.as_ref();
    let member = member.ok_or(WireError::Unknown("member"))?;
    for part in [member.path(), member.value()] {
        bytes.put_u8(u8::try_from(part.len()).map_err(|_| WireError::Long)?);
        bytes.put_slice(part.as_bytes());
    }
    bytes.put_u64(identity.generation);
    Ok(())
}

fn identity(buf: &mut impl Buf) -> Result<Identity, WireError> {
    let mut part = || -> Result<String, WireError> {
        let mut bytes = vec![0; usize::from(buf.try_get_u8()?)];
        buf.try_copy_to_slice(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| WireError::Unknown("text"))
    };
    let (path, value) = (part()?, part()?);
    // Such that it can be told on, under the very path it has come with.
    let member = Member::parse(&path, value.as_bytes());
    let member = member.filter(|member| fits(member) && member.path() == path);
    Ok(Identity::new(
        Arc::new(member.ok_or(WireError::Unknown("member"))?),
        buf.try_get_u64()?,
    ))
}

/// Puts messages into datagrams.
#[derive(Debug)]
pub(super) struct Sealer {
    secret: Option<Secret>,
    /// Number of the last datagram.
    last: u64,
}

impl Sealer {
    pub(super) fn new(secret: Option<Secret>) -> Self {
        Self { secret, last: 0 }
    }

    /// A datagram with this message, as of `now`, microseconds since 1970.
    pub(super) fn seal(&mut self, message: &[u8], now: u64) -> Vec<u8> {
        // Increasing even if the clock doesn't.
        self.last = now.max(self.last + 1);
        let mut datagram = Vec::with_capacity(ENVELOPE + message.len() + seal::BYTES);
        datagram.extend_from_slice(MAGIC);
        datagram.extend_from_slice(&self.last.to_be_bytes());
        datagram.extend_from_slice(message);
        if let Some(secret) = &self.secret {
            let seal = secret.seal(Purpose::Gossip, &[&datagram]);
            datagram.extend_from_slice(&seal);
        }
        datagram
    }
}

/// Number and message of a datagram that came at `now`; `None` if it is none, too old, or not sealed
/// by who has the secret.
pub(super) fn open<'a>(
    secret: Option<&Secret>,
    datagram: &'a [u8],
    now: u64,
) -> Option<(u64, &'a [u8])> {
    if datagram.len() > DATAGRAM_MAX {
        return None;
    }
    let (number, message) = datagram.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    let number = u64::from_be_bytes(*number);
    let Some(secret) = secret else {
        return Some((number, message));
    };
    // Cheap first: most of what a stranger sends ends here.
    let (message, seal) = message.split_last_chunk::<{ seal::BYTES }>()?;
    let is_now = now.abs_diff(number) <= AGE_MAX.as_micros() as u64;
    let sealed = &datagram[..ENVELOPE + message.len()];
    let is_good = is_now && secret.verifies(Purpose::Gossip, &[sealed], seal);
    is_good.then_some((number, message))
}

/// Who sends a message.
pub(super) fn sender(message: &[u8]) -> Option<Id> {
    let mut rest = message.get(1..)?;
    identity(&mut rest).ok().map(|it| it.id)
}
