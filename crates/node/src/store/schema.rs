//! The tables, and what happens to them when a store is opened.

use std::path::Path;
use std::sync::Arc;

use redb::{Database, Durability, ReadableTable, TableDefinition};

use super::StoreError;

/// Format of the tables below. A change of their meaning counts it up.
const FORMAT: u64 = 1;

/// `format` and `boots`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Name of a function to its record.
pub(super) const FUNCTIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("functions");

/// Id of a pending call to its sequence number and the attempts made. Apart from the bodies, so
/// that counting an attempt or listing what is pending doesn't touch megabytes of parameters.
pub(super) const CALLS: TableDefinition<'_, &str, (u64, u32)> = TableDefinition::new("calls");

/// Sequence number of a pending call to what was accepted.
pub(super) const BODIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("bodies");

/// Id of a finished call to the second when its result expires, and the result.
pub(super) const RESULTS: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("results");

/// When which result expires, in the order of time.
pub(super) const EXPIRIES: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("expiries");

/// What a store says about itself when it is opened.
#[derive(Debug)]
pub(super) struct State {
    pub(super) boot: u64,
    pub(super) next_sequence: u64,
}

/// Makes missing tables, checks the format, counts the boot.
pub(super) fn prepare(database: &Database, path: &Path) -> Result<State, StoreError> {
    let failed = |error: redb::Error| match error {
        redb::Error::Corrupted(reason) => StoreError::Damaged {
            path: path.to_path_buf(),
            reason,
        },
        // Somebody else's redb file, most likely.
        error @ (redb::Error::TableTypeMismatch { .. } | redb::Error::TableIsMultimap(_)) => {
            StoreError::Damaged {
                path: path.to_path_buf(),
                reason: error.to_string(),
            }
        }
        error => StoreError::Open {
            path: path.to_path_buf(),
            source: Arc::new(error),
        },
    };
    let (state, found) = write_state(database).map_err(failed)?;
    match found {
        FORMAT => Ok(state),
        found => Err(StoreError::Format {
            path: path.to_path_buf(),
            found,
            known: FORMAT,
        }),
    }
}

/// Returns the format as well. A foreign format is left as it was found.
fn write_state(database: &Database) -> Result<(State, u64), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    let state;
    {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get("format")?.map_or(FORMAT, |format| format.value());
        if found != FORMAT {
            return Ok((
                State {
                    boot: 0,
                    next_sequence: 0,
                },
                found,
            ));
        }
        let boot = meta.get("boots")?.map_or(0, |boots| boots.value()) + 1;
        meta.insert("format", FORMAT)?;
        meta.insert("boots", boot)?;
        transaction.open_table(FUNCTIONS)?;
        transaction.open_table(CALLS)?;
        transaction.open_table(RESULTS)?;
        transaction.open_table(EXPIRIES)?;
        let bodies = transaction.open_table(BODIES)?;
        let next_sequence = bodies.last()?.map_or(0, |(last, _)| last.value() + 1);
        state = State {
            boot,
            next_sequence,
        };
    }
    transaction.commit()?;
    Ok((state, FORMAT))
}
