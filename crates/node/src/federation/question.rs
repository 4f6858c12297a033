//! What goes over the wire to ask for a status and to tell it.
//!
//! Plain, as the original's nodes have it: any datagram is a question, an answer is JSON, and who
//! sent it shows only in its address. Sealed, among nodes with one secret:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `SLS1` |
//! | 1 | `Q` or `A` |
//! | 8 | number: of a question, microseconds since 1970, each larger than the last; of an answer, its question's |
//! | 16 | from whom: digest of the path in the registry |
//! | 16 | to whom |
//! | | an answer's JSON |
//! | 32 | seal of all before it |
//!
//! So a question is good once, at one node, for [`AGE_MAX`]; and an answer is good for the one
//! question that waits for it. Nothing is kept of what isn't: a datagram without a true seal costs
//! its check. See `docs/decisions/0018-status-datagrams.md`.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::seal::{self, Purpose, Secret};

/// What the original's nodes send.
pub(super) const PLAIN: &[u8] = b"A";

/// Longest answer: what the original's nodes read, sealed or not.
pub(super) const ANSWER_MAX: usize = 1024;

const MAGIC: &[u8; 4] = b"SLS1";
const HEAD: usize = MAGIC.len() + 1 + 8 + 16 + 16;

/// How old a question may be, and how far the clocks of two nodes may be apart.
pub(super) const AGE_MAX: Duration = Duration::from_secs(30);

/// Nodes whose last question is remembered. With the secret, one could make up more.
const ASKERS_MAX: usize = 10_000;

/// A node, by the digest of its path in the registry.
pub(super) type Id = [u8; 16];

/// The identity of the member with this path.
pub(super) fn id(path: &str) -> Id {
    let digest = Sha256::digest(path.as_bytes());
    std::array::from_fn(|index| digest[index])
}

/// How nodes ask each other.
#[derive(Debug, Clone)]
pub(super) struct Protocol {
    secret: Option<Secret>,
}

/// An answer that came.
#[derive(Debug, PartialEq)]
pub(super) struct Answer<'a> {
    /// Who sends it, and to which question, if that is told.
    pub(super) sealed: Option<(Id, u64)>,
    pub(super) json: &'a [u8],
}

/// A question to be answered.
#[derive(Debug, PartialEq)]
pub(super) struct Question {
    /// Its number and who asks, if that is told.
    sealed: Option<(u64, Id)>,
}

impl Protocol {
    pub(super) fn new(secret: Option<Secret>) -> Self {
        Self { secret }
    }

    /// Bytes of a question.
    pub(super) fn question_bytes(&self) -> usize {
        match self.secret {
            None => PLAIN.len(),
            Some(_) => HEAD + seal::BYTES,
        }
    }

    /// Bytes of JSON that an answer may have.
    pub(super) fn json_max(&self) -> usize {
        match self.secret {
            None => ANSWER_MAX,
            Some(_) => ANSWER_MAX - HEAD - seal::BYTES,
        }
    }

    /// Asks `to`.
    pub(super) fn question(&self, number: u64, from: &Id, to: &Id) -> Vec<u8> {
        match &self.secret {
            None => PLAIN.to_vec(),
            Some(secret) => write(secret, b'Q', number, from, to, &[]),
        }
    }

    /// The question in a datagram that came to `own` at `now`, microseconds since 1970; `None` if it
    /// is none, or an old one.
    pub(super) fn read_question(
        &self,
        datagram: &[u8],
        own: &Id,
        now: u64,
        asked: &mut Asked,
    ) -> Option<Question> {
        let Some(secret) = &self.secret else {
            return Some(Question { sealed: None });
        };
        // Cheap first: most of what a stranger sends ends here.
        let whole = HEAD + seal::BYTES;
        let (kind, number, from, to, _) = read(datagram).filter(|_| datagram.len() == whole)?;
        let is_now = now.abs_diff(number) <= AGE_MAX.as_micros() as u64;
        if kind != b'Q' || to != *own || !is_now || !is_sealed(secret, datagram) {
            return None;
        }
        let sealed = Some((number, from));
        asked
            .is_new(from, number, now)
            .then_some(Question { sealed })
    }

    /// Answers `question` with this JSON.
    pub(super) fn answer(&self, question: &Question, own: &Id, json: Vec<u8>) -> Vec<u8> {
        match (&self.secret, question.sealed) {
            (Some(secret), Some((number, asker))) => {
                write(secret, b'A', number, own, &asker, &json)
            }
            _ => json,
        }
    }

    /// The answer in a datagram that came to `own`; whether it answers a question that was asked is
    /// for the caller to see.
    pub(super) fn read_answer<'a>(&self, datagram: &'a [u8], own: &Id) -> Option<Answer<'a>> {
        let Some(secret) = &self.secret else {
            return Some(Answer {
                sealed: None,
                json: datagram,
            });
        };
        let (kind, number, from, to, json) = read(datagram)?;
        let is_ours = kind == b'A' && to == *own && is_sealed(secret, datagram);
        is_ours.then_some(Answer {
            sealed: Some((from, number)),
            json,
        })
    }
}

fn write(secret: &Secret, kind: u8, number: u64, from: &Id, to: &Id, json: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(HEAD + json.len() + seal::BYTES);
    datagram.extend_from_slice(MAGIC);
    datagram.push(kind);
    datagram.extend_from_slice(&number.to_be_bytes());
    datagram.extend_from_slice(from);
    datagram.extend_from_slice(to);
    datagram.extend_from_slice(json);
    let seal = secret.seal(Purpose::Datagram, &[&datagram]);
    datagram.extend_from_slice(&seal);
    datagram
}

/// The parts of a datagram of this form, unchecked.
fn read(datagram: &[u8]) -> Option<(u8, u64, Id, Id, &[u8])> {
    let (head, rest) = datagram.strip_prefix(MAGIC)?.split_first_chunk::<41>()?;
    let (kind, head) = head.split_first()?;
    let (number, head) = head.split_first_chunk::<8>()?;
    let (from, to) = head.split_first_chunk::<16>()?;
    let json = rest.get(..rest.len().checked_sub(seal::BYTES)?)?;
    Some((
        *kind,
        u64::from_be_bytes(*number),
        *from,
        to.try_into().ok()?,
        json,
    ))
}

fn is_sealed(secret: &Secret, datagram: &[u8]) -> bool {
    let parts = datagram.split_last_chunk::<{ seal::BYTES }>();
    parts.is_some_and(|(content, seal)| secret.verifies(Purpose::Datagram, &[content], seal))
}

/// The number of each node's last question: what isn't above it was asked before.
#[derive(Debug, Default)]
pub(super) struct Asked {
    last: BTreeMap<Id, u64>,
}

impl Asked {
    fn is_new(&mut self, from: Id, number: u64, now: u64) -> bool {
        if self.last.len() >= ASKERS_MAX && !self.last.contains_key(&from) {
            // Those are too old to be asked again, whatever is remembered.
            let oldest = now.saturating_sub(AGE_MAX.as_micros() as u64);
            self.last.retain(|_, number| *number >= oldest);
            if self.last.len() >= ASKERS_MAX {
                return false;
            }
        }
        let last = self.last.entry(from).or_default();
        let is_new = number > *last;
        *last = number.max(*last);
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000_000;

    fn sealed() -> Protocol {
        Protocol::new(Some(Secret::new("the secret of one fleet")))
    }

    fn ids() -> (Id, Id) {
        (id("registry/ROME/amd64/a"), id("registry/ROME/amd64/b"))
    }

    #[test]
    fn the_plain_form_is_the_originals() {
        let plain = Protocol::new(None);
        let (a, b) = ids();
        assert_eq!(plain.question(NOW, &a, &b), b"A");
        assert_eq!((plain.question_bytes(), plain.json_max()), (1, 1024));
        let mut asked = Asked::default();
        for question in [&b"A"[..], b"", b"anything"] {
            let read = plain.read_question(question, &b, NOW, &mut asked).unwrap();
            assert_eq!(plain.answer(&read, &b, b"{}".to_vec()), b"{}");
        }
        let answer = plain.read_answer(b"{}", &a).unwrap();
        assert_eq!((answer.json, answer.sealed), (&b"{}"[..], None));
    }

    #[test]
    fn a_question_is_good_once_at_one_node_for_a_while() {
        let protocol = sealed();
        let (a, b) = ids();
        let question = protocol.question(NOW, &a, &b);
        assert_eq!(question.len(), protocol.question_bytes());
        let read = |own: &Id, now: u64, asked: &mut Asked| {
            protocol.read_question(&question, own, now, asked).is_some()
        };
        let age = AGE_MAX.as_micros() as u64;
        assert!(!read(&a, NOW, &mut Asked::default()));
        assert!(!read(&b, NOW + age + 1, &mut Asked::default()));
        assert!(!read(&b, NOW - age - 1, &mut Asked::default()));
        let mut asked = Asked::default();
        assert!(read(&b, NOW + age, &mut asked));
        assert!(!read(&b, NOW, &mut asked));
        // Nor is one from before it.
        let earlier = protocol.question(NOW - 1, &a, &b);
        assert_eq!(protocol.read_question(&earlier, &b, NOW, &mut asked), None);
        let later = protocol.question(NOW + 1, &a, &b);
        assert!(
            protocol
                .read_question(&later, &b, NOW, &mut asked)
                .is_some()
        );
    }

    #[test]
    fn an_answer_is_for_who_asked() {
        let protocol = sealed();
        let (a, b) = ids();
        let question = protocol.question(NOW, &a, &b);
        let question = protocol.read_question(&question, &b, NOW, &mut Asked::default());
        let answer = protocol.answer(&question.unwrap(), &b, b"{}".to_vec());
        let expected = Answer {
            sealed: Some((b, NOW)),
            json: b"{}",
        };
        assert_eq!(protocol.read_answer(&answer, &a), Some(expected));
        assert_eq!(protocol.read_answer(&answer, &b), None);
        // A question is no answer, and the other way round.
        assert_eq!(
            protocol.read_question(&answer, &a, NOW, &mut Asked::default()),
            None
        );
        let question = protocol.question(NOW, &b, &a);
        assert_eq!(protocol.read_answer(&question, &a), None);
        // A plain answer is none either.
        assert_eq!(protocol.read_answer(b"{\"TotalMemory\":1}", &a), None);
    }

    #[test]
    fn a_million_forged_or_replayed_datagrams_change_nothing() {
        let protocol = sealed();
        let stranger = Protocol::new(Some(Secret::new("what somebody guessed")));
        let (a, b) = ids();
        let mut asked = Asked::default();
        // Two true ones, that came: b was asked by a, and asked it back.
        let question = protocol.question(NOW, &a, &b);
        let read = protocol
            .read_question(&question, &b, NOW, &mut asked)
            .unwrap();
        let answer = protocol.answer(&read, &b, br#"{"TotalMemory":1024}"#.to_vec());
        let before = asked.last.clone();
        let mut seed = 1_u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize
        };
        for round in 0..1_000_000_u64 {
            let mut forged = match round % 8 {
                0 | 1 => question.clone(),
                2 | 3 => answer.clone(),
                4 => stranger.question(NOW + round, &a, &b),
                5 => stranger.question(NOW + round, &b, &a),
                // The number, the asker and the seal of different ones.
                6 => {
                    let mut mixed = protocol.question(NOW + round, &a, &a);
                    mixed[29..45].copy_from_slice(&b);
                    mixed
                }
                _ => (0..random() % 200).map(|_| random() as u8).collect(),
            };
            match round % 4 {
                // Sent again as it was.
                0 => {}
                1 | 3 if !forged.is_empty() => {
                    let at = random() % forged.len();
                    forged[at] ^= 1 << (random() % 8);
                }
                _ => forged.truncate(random() % (forged.len() + 1)),
            }
            let now = NOW + round % 1_000;
            // Each comes to one of both, whom it may be meant for or not.
            let own = if random() % 2 == 0 { &a } else { &b };
            let question = protocol.read_question(&forged, own, now, &mut asked);
            assert_eq!(question, None, "{round}");
            // An answer that is replayed is a true one: that nobody waits for it, `ask` sees.
            let is_replayed = own == &a && forged == answer;
            let answer = protocol.read_answer(&forged, own);
            assert_eq!(answer.is_some(), is_replayed, "{round}");
        }
        assert_eq!(asked.last, before);
    }

    #[test]
    fn few_askers_are_remembered() {
        let mut asked = Asked::default();
        for number in 0..ASKERS_MAX as u64 + 10 {
            let from = id(&number.to_string());
            assert_eq!(asked.is_new(from, NOW, NOW), number < ASKERS_MAX as u64);
        }
        let later = NOW + 2 * AGE_MAX.as_micros() as u64;
        assert!(asked.is_new(id("late"), later, later));
        assert_eq!(asked.last.len(), 1);
    }
}
