//! The log: what has been written since the database was last on disk.
//!
//! A commit of the database writes its pages all over the file before it waits for the disk; a record
//! here is one short write. So most transactions are made durable by their record, which says what
//! they do, and their pages stay in memory. One that doesn't fit any more takes the database to the
//! disk, all of it, and the log begins anew. Whoever opens the database does again what the log holds
//! beyond it (decision 27). What operations mean isn't known here.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::writer::Operation;

/// Size of the log, bytes. It bounds what is done again at a start (some 2,000 transactions of a
/// workflow: a tenth of a second), and how long a write waits while the database goes to the disk.
/// Less in tests, which want to see that.
pub(super) const LOG_BYTES: u64 = if cfg!(test) { 16 << 10 } else { 1 << 20 };

/// The file grows by this much at a time. A write that makes its file longer takes the disk twice as
/// long as one over what is there.
const CHUNK_BYTES: u64 = if cfg!(test) { 4 << 10 } else { 64 << 10 };

/// Encoding of the records. A change of an operation counts it up.
const ENCODING: u8 = 1;

/// Before the content: its length and digest.
const HEADER_BYTES: usize = 4 + DIGEST_BYTES;

/// Of a SHA-256, bytes: it tells records that are whole and this store's from all else.
const DIGEST_BYTES: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Log {
    place: Box<dyn StorageBackend>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Where the next record goes.
    end: u64,
    /// Number of the last one; `None` if there is none.
    last: Option<u64>,
}

/// A transaction, as the log knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Identity of the store: another store's log is none of ours.
    pub(super) store: u64,
    /// Its number, one above that of the transaction before.
    pub(super) number: u64,
}

impl Log {
    pub(super) fn new(place: Box<dyn StorageBackend>) -> Self {
        let state = Mutex::default();
        Self { place, state }
    }

    /// Writes what a transaction does; it is on disk if this returns `true`. `false`: it has no place
    /// here, and the database itself must go to the disk.
    pub(super) fn append(&self, stamp: Stamp, operations: &[Operation]) -> bool {
        let mut state = self.lock();
        let follows = state.last.is_none_or(|last| last + 1 == stamp.number);
        let bytes: usize = operations.iter().map(Operation::value_bytes).sum();
        let is_long = |bytes: usize| state.end + bytes as u64 > LOG_BYTES;
        if !follows || is_long(bytes) {
            return false;
        }
        let record = match encode(stamp, operations) {
            Ok(record) if !is_long(record.len()) => record,
            Ok(_) => return false,
            Err(error) => {
                warn!(%error, "a write can't be logged");
                return false;
            }
        };
        if let Err(error) = self.put(state.end, &record) {
            warn!(%error, "the store's log can't be written");
            // What may be there of it is not to be found, as it may fail altogether.
            let _ = self.place.write(state.end, &[0; HEADER_BYTES]);
            return false;
        }
        state.end += record.len() as u64;
        state.last = Some(stamp.number);
        true
    }

    fn put(&self, at: u64, record: &[u8]) -> io::Result<()> {
        let length = self.place.len()?;
        let end = at + record.len() as u64;
        if end > length {
            let longer = end.next_multiple_of(CHUNK_BYTES).min(LOG_BYTES);
            self.place.set_len(longer)?;
            let rest = usize::try_from(longer - end).unwrap_or(0);
            self.place.write(end, &vec![0; rest])?;
        }
        self.place.write(at, record)?;
        self.place.sync_data()
    }

    /// The database is on disk: what is here is there.
    pub(super) fn rewind(&self) {
        *self.lock() = State::default();
    }

    /// Shows, in order, what transactions after `known` did, and goes on behind them.
    pub(super) fn replay<E: From<io::Error>>(
        &self,
        known: Stamp,
        mut redo: impl FnMut(u64, Vec<Operation>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut state = self.lock();
        *state = State::default();
        let length = usize::try_from(self.place.len()?.min(LOG_BYTES)).unwrap_or(0);
        let mut bytes = vec![0; length];
        self.place.read(0, &mut bytes)?;
        let mut rest = bytes.as_slice();
        while let Some((number, content, behind)) = next(known.store, rest) {
            // Records of a former round may follow the last one.
            if state.last.is_some_and(|last| last + 1 != number) {
                break;
            }
            if state.last.is_none() && number > known.number + 1 {
                warn!("the store's log is of a later state of it, and is left out");
                break;
            }
            if number > known.number {
                redo(number, decode(content)?)?;
            }
            state.last = Some(number);
            rest = behind;
            state.end = (length - rest.len()) as u64;
        }
        // If all of it is in the database, the next transaction's number may not follow.
        if state.last.is_some_and(|last| last < known.number) {
            *state = State::default();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Changed after what it speaks of.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(stamp: Stamp, operations: &[Operation]) -> io::Result<Vec<u8>> {
    let mut record = vec![0; HEADER_BYTES];
    record.extend(stamp.number.to_le_bytes());
    record.push(ENCODING);
    let record = postcard::to_extend(operations, record);
    let mut record = record.map_err(io::Error::other)?;
    let content = record.get(HEADER_BYTES..).unwrap_or_default();
    let length = u32::try_from(content.len()).map_err(io::Error::other)?;
    let digest = digest(stamp.store, content);
    record[..4].copy_from_slice(&length.to_le_bytes());
    record[4..HEADER_BYTES].copy_from_slice(&digest);
    Ok(record)
}

fn digest(store: u64, content: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut hash = Sha256::new();
    hash.update(store.to_le_bytes());
    hash.update(content);
    let mut digest = [0; DIGEST_BYTES];
    digest.copy_from_slice(&hash.finalize()[..DIGEST_BYTES]);
    digest
}

/// The first record if it is whole: its number, its content, and what follows it.
fn next(store: u64, bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (length, bytes) = bytes.split_first_chunk::<4>()?;
    let (found, bytes) = bytes.split_first_chunk::<DIGEST_BYTES>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (content, behind) = bytes.split_at_checked(length)?;
    if digest(store, content) != *found {
        return None;
    }
    let (number, content) = content.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), content, behind))
}

fn decode(content: &[u8]) -> io::Result<Vec<Operation>> {
    let (&encoding, content) = content.split_first().unwrap_or((&0, &[]));
    if encoding != ENCODING {
        return Err(io::Error::other(format!(
            "the store's log has encoding {encoding} and this version reads {ENCODING}: start the \
             version of serverledge that wrote it, and stop it in an orderly way"
        )));
    }
    postcard::from_bytes(content).map_err(io::Error::other)
}
