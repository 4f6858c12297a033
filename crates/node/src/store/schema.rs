//! The tables, and what happens to them when a store is opened.

use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::sync::Arc;

use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};

use super::log::Stamp;
use super::{StoreError, executions};

/// Format of the tables below. A change of their meaning counts it up. The first had no log beside it,
/// and is otherwise the same.
const FORMAT: u64 = 2;
const WITHOUT_LOG: u64 = 1;

/// `format`; `store`: a number that no other store has; `number`: of the last transaction.
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

/// Checks the format; makes the tables of a new store.
pub(super) fn prepare(database: &Database, path: &Path) -> Result<(), StoreError> {
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
        FORMAT => Ok(()),
        WITHOUT_LOG => {
            executions::prepare(database).map_err(failed)?;
            identify(database).map_err(failed)
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
    make_identity(&transaction)?;
    transaction.commit()?;
    Ok(())
}

/// Those that every store has had.
pub(super) fn make_first_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction
        .open_table(META)?
        .insert("format", WITHOUT_LOG)?;
    transaction.open_table(FUNCTIONS)?;
    transaction.open_table(CALLS)?;
    transaction.open_table(BODIES)?;
    transaction.open_table(RESULTS)?;
    transaction.open_table(EXPIRIES)?;
    Ok(())
}

/// Makes a store of one without a log.
fn identify(database: &Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    make_identity(&transaction)?;
    transaction.commit()?;
    Ok(())
}

fn make_identity(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    meta.insert("format", FORMAT)?;
    // The standard library seeds this by chance.
    meta.insert("store", RandomState::new().hash_one(()))?;
    meta.insert("number", 0)?;
    Ok(())
}

/// The last transaction of the database.
pub(super) fn stamp(database: &Database) -> Result<Stamp, redb::Error> {
    stamp_of(&database.begin_read()?.open_table(META)?)
}

fn stamp_of(meta: &impl ReadableTable<&'static str, u64>) -> Result<Stamp, redb::Error> {
    let read = |key| -> Result<u64, redb::Error> { Ok(meta.get(key)?.map_or(0, |it| it.value())) };
    Ok(Stamp {
        store: read("store")?,
        number: read("number")?,
    })
}

/// Gives a transaction its number.
pub(super) fn count(transaction: &WriteTransaction) -> Result<Stamp, redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let mut stamp = stamp_of(&meta)?;
    stamp.number += 1;
    meta.insert("number", stamp.number)?;
    Ok(stamp)
}

/// A transaction does what others did, up to the one of this number.
pub(super) fn set_number(transaction: &WriteTransaction, number: u64) -> Result<(), redb::Error> {
    transaction.open_table(META)?.insert("number", number)?;
    Ok(())
}

/// The next sequence number of calls.
pub(super) fn next_sequence(database: &Database) -> Result<u64, redb::Error> {
    let bodies = database.begin_read()?.open_table(BODIES)?;
    Ok(bodies.last()?.map_or(0, |(last, _)| last.value() + 1))
}
