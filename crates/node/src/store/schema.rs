//! The tables, and what happens to them when a store is opened.

use std::path::Path;
use std::sync::Arc;

use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};

use super::{StoreError, executions};

/// Format of the tables below. A change of their meaning counts it up.
const FORMAT: u64 = 1;

/// `format`.
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

/// Checks the format; makes the tables of a new store. Returns the next sequence number.
pub(super) fn prepare(database: &Database, path: &Path) -> Result<u64, StoreError> {
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
    let found = match read_format(database) {
        Err(redb::Error::TableDoesNotExist(_)) => {
            make_tables(database).map_err(failed)?;
            FORMAT
        }
        found => found.map_err(failed)?,
    };
    match found {
        FORMAT => {
            executions::prepare(database).map_err(failed)?;
            next_sequence(database).map_err(failed)
        }
        found => Err(StoreError::Format {
            path: path.to_path_buf(),
            found,
            known: FORMAT,
        }),
    }
}

fn read_format(database: &Database) -> Result<u64, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    Ok(meta.get("format")?.map_or(FORMAT, |format| format.value()))
}

fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    make_first_tables(&transaction)?;
    executions::make_tables(&transaction)?;
    transaction.commit()?;
    Ok(())
}

/// Those that every store has had.
pub(super) fn make_first_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(META)?.insert("format", FORMAT)?;
    transaction.open_table(FUNCTIONS)?;
    transaction.open_table(CALLS)?;
    transaction.open_table(BODIES)?;
    transaction.open_table(RESULTS)?;
    transaction.open_table(EXPIRIES)?;
    Ok(())
}

fn next_sequence(database: &Database) -> Result<u64, redb::Error> {
    let bodies = database.begin_read()?.open_table(BODIES)?;
    Ok(bodies.last()?.map_or(0, |(last, _)| last.value() + 1))
}
