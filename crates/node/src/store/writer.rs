//! The thread that writes: one transaction for everything that waits, then the answers.

use std::sync::Arc;

use redb::{Database, Durability, ReadableTable, Table, WriteTransaction};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::{error, info, warn};

use super::executions::{Change, ExecutionTables};
use super::handle::Handle;
use super::log::Log;
use super::{StoreError, schema};

/// Writes that share one commit at most.
const GROUP_MAX: usize = 1024;

/// One change. Its answer is a number: of attempts, of results removed, or 1 for "there was one". The
/// log holds these, encoded by position: a change of their fields changes its encoding.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Operation {
    PutFunction {
        name: String,
        record: Vec<u8>,
    },
    DeleteFunction {
        name: String,
    },
    AcceptCall {
        id: String,
        body: Vec<u8>,
    },
    AttemptCall {
        id: String,
    },
    WithdrawAttempt {
        id: String,
    },
    FinishCall {
        id: String,
        result: Vec<u8>,
        expires_unix: u64,
    },
    Sweep {
        now_unix: u64,
        limit: u32,
    },
    /// Of workflows and their executions.
    Workflow(Change),
    ForgetCall {
        id: String,
    },
}

impl Operation {
    /// Size of the value to be written, which is what may be large.
    pub(super) fn value_bytes(&self) -> usize {
        match self {
            Self::PutFunction { record: value, .. }
            | Self::AcceptCall { body: value, .. }
            | Self::FinishCall { result: value, .. } => value.len(),
            Self::Workflow(change) => change.value_bytes(),
            Self::DeleteFunction { .. }
            | Self::AttemptCall { .. }
            | Self::WithdrawAttempt { .. }
            | Self::ForgetCall { .. }
            | Self::Sweep { .. } => 0,
        }
    }
}

/// What the writer is asked.
#[derive(Debug)]
pub(super) enum Command {
    Write {
        operation: Operation,
        answer: oneshot::Sender<Result<u64, StoreError>>,
        /// Its share of the bytes that may wait, given back with the answer.
        _waiting: OwnedSemaphorePermit,
    },
    Close {
        answer: oneshot::Sender<()>,
    },
}

/// The writer's side of the store.
pub(super) struct Writer {
    database: Arc<Handle>,
    queue: mpsc::Receiver<Command>,
    next_sequence: u64,
}

impl Writer {
    pub(super) fn new(
        database: Arc<Handle>,
        queue: mpsc::Receiver<Command>,
        next_sequence: u64,
    ) -> Self {
        Self {
            database,
            queue,
            next_sequence,
        }
    }

    /// Until it is told to close, or nobody is left who could ask.
    pub(super) fn run(mut self) {
        let mut group = Vec::with_capacity(GROUP_MAX);
        while self.queue.blocking_recv_many(&mut group, GROUP_MAX) > 0 {
            if let Some(close) = self.write_group(&mut group) {
                self.close();
                // Dropping the queue tells those who still wait in it.
                drop(self.queue);
                let _ = close.send(());
                return;
            }
        }
        self.close();
    }

    /// Every answered write is on disk already; this saves the next start doing it again.
    fn close(&self) {
        let settled = self.database.with(settle, StoreError::writing);
        if let Err(error) = settled {
            warn!(error = %crate::chain(&error), "the store's log stays for the next start");
        }
        self.database.close();
    }

    /// Commits a group and answers it. A `Close` in it is returned, after what came before it has
    /// been written; what came behind it is dropped, hence answered with "closed".
    fn write_group(&mut self, group: &mut Vec<Command>) -> Option<oneshot::Sender<()>> {
        let mut operations = Vec::with_capacity(group.len());
        let mut answers = Vec::with_capacity(group.len());
        let mut close = None;
        for command in group.drain(..) {
            match command {
                Command::Write {
                    operation,
                    answer,
                    _waiting,
                } => {
                    operations.push(operation);
                    answers.push((answer, _waiting));
                }
                Command::Close { answer } => {
                    close = Some(answer);
                    break;
                }
            }
        }
        match self.commit(&operations) {
            Ok(numbers) => {
                for ((answer, _), number) in answers.into_iter().zip(numbers) {
                    // Whoever asked may have given up; the write stands.
                    let _ = answer.send(Ok(number));
                }
            }
            Err(error) => {
                for (answer, _) in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
        close
    }

    fn commit(&mut self, operations: &[Operation]) -> Result<Vec<u64>, StoreError> {
        if operations.is_empty() {
            return Ok(Vec::new());
        }
        let next_sequence = &mut self.next_sequence;
        // Of a transaction that is in the log, but could not be committed after that: the database
        // is opened again and has it from there.
        let mut logged = None;
        let result = self.database.with(
            |database, log| match logged.take() {
                Some(numbers) => Ok(numbers),
                None => apply(database, log, operations, next_sequence, &mut logged),
            },
            StoreError::writing,
        );
        result.inspect_err(|error| {
            error!(error = ?error, writes = operations.len(), "a commit failed");
        })
    }
}

/// All of the operations or, on an error, none. On disk when this returns.
fn apply(
    database: &Database,
    log: Option<&Log>,
    operations: &[Operation],
    next_sequence: &mut u64,
    logged: &mut Option<Vec<u64>>,
) -> Result<Vec<u64>, redb::Error> {
    let mut transaction = database.begin_write()?;
    let numbers = carry_out(&transaction, operations, next_sequence)?;
    let stamp = schema::count(&transaction)?;
    let Some(log) = log else {
        transaction.set_durability(Durability::Immediate)?;
        transaction.commit()?;
        return Ok(numbers);
    };
    if log.append(stamp, operations) {
        transaction.set_durability(Durability::None)?;
        if let Err(error) = transaction.commit() {
            error!(%error, "the database is behind its log, and is opened again");
            *logged = Some(numbers);
            return Err(redb::Error::PreviousIo);
        }
    } else {
        transaction.set_durability(Durability::Immediate)?;
        transaction.commit()?;
        log.rewind();
    }
    Ok(numbers)
}

/// Takes all that is in the log to the database on disk.
fn settle(database: &Database, log: Option<&Log>) -> Result<(), redb::Error> {
    let Some(log) = log else {
        return Ok(());
    };
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.commit()?;
    log.rewind();
    Ok(())
}

/// Does again what is in the log and not in the database, which has just been opened.
pub(super) fn replay(database: &Database, log: &Log) -> Result<(), redb::Error> {
    let known = schema::stamp(database)?;
    let mut next_sequence = schema::next_sequence(database)?;
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::None)?;
    let mut last = None;
    log.replay(known, |number, operations| {
        last = Some(number);
        carry_out(&transaction, &operations, &mut next_sequence).map(drop)
    })?;
    let Some(last) = last else {
        return Ok(transaction.abort()?);
    };
    schema::set_number(&transaction, last)?;
    transaction.commit()?;
    info!(
        transactions = last - known.number,
        "read from the store's log"
    );
    Ok(())
}

fn carry_out(
    transaction: &WriteTransaction,
    operations: &[Operation],
    next_sequence: &mut u64,
) -> Result<Vec<u64>, redb::Error> {
    let mut numbers = Vec::with_capacity(operations.len());
    // Opened when there is something to write: most groups are of one kind.
    let mut tables = None;
    let mut executions = None;
    for operation in operations {
        let number = match operation {
            Operation::Workflow(change) => {
                let tables = match &mut executions {
                    Some(tables) => tables,
                    none => none.insert(ExecutionTables::open(transaction)?),
                };
                tables.apply(change)?
            }
            other => {
                let tables = match &mut tables {
                    Some(tables) => tables,
                    none => none.insert(Tables::open(transaction)?),
                };
                tables.apply(other, next_sequence)?
            }
        };
        numbers.push(number);
    }
    Ok(numbers)
}

struct Tables<'txn> {
    functions: Table<'txn, &'static str, &'static [u8]>,
    calls: Table<'txn, &'static str, (u64, u32)>,
    bodies: Table<'txn, u64, &'static [u8]>,
    results: Table<'txn, &'static str, (u64, &'static [u8])>,
    expiries: Table<'txn, (u64, &'static str), ()>,
}

impl<'txn> Tables<'txn> {
    fn open(transaction: &'txn WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            functions: transaction.open_table(schema::FUNCTIONS)?,
            calls: transaction.open_table(schema::CALLS)?,
            bodies: transaction.open_table(schema::BODIES)?,
            results: transaction.open_table(schema::RESULTS)?,
            expiries: transaction.open_table(schema::EXPIRIES)?,
        })
    }

    fn apply(
        &mut self,
        operation: &Operation,
        next_sequence: &mut u64,
    ) -> Result<u64, redb::Error> {
        let there_was_one = match operation {
            Operation::PutFunction { name, record } => self
                .functions
                .insert(name.as_str(), record.as_slice())?
                .is_some(),
            Operation::DeleteFunction { name } => self.functions.remove(name.as_str())?.is_some(),
            Operation::AcceptCall { id, body } => {
                let replaced = self.forget_call(id)?;
                let sequence = *next_sequence;
                *next_sequence += 1;
                self.calls.insert(id.as_str(), (sequence, 0))?;
                self.bodies.insert(sequence, body.as_slice())?;
                replaced
            }
            Operation::AttemptCall { id } => return self.count(id, |n| n.saturating_add(1)),
            Operation::WithdrawAttempt { id } => return self.count(id, |n| n.saturating_sub(1)),
            Operation::FinishCall {
                id,
                result,
                expires_unix,
            } => {
                self.put_result(id, result, *expires_unix)?;
                self.forget_call(id)?
            }
            Operation::ForgetCall { id } => self.forget_call(id)?,
            Operation::Sweep { now_unix, limit } => return self.sweep(*now_unix, *limit),
            // Has tables of its own.
            Operation::Workflow(_) => false,
        };
        Ok(u64::from(there_was_one))
    }

    fn forget_call(&mut self, id: &str) -> Result<bool, redb::Error> {
        let Some(sequence) = self.calls.remove(id)?.map(|call| call.value().0) else {
            return Ok(false);
        };
        self.bodies.remove(sequence)?;
        Ok(true)
    }

    fn count(&mut self, id: &str, change: fn(u32) -> u32) -> Result<u64, redb::Error> {
        let Some((sequence, attempts)) = self.calls.get(id)?.map(|call| call.value()) else {
            return Ok(0);
        };
        let attempts = change(attempts);
        self.calls.insert(id, (sequence, attempts))?;
        Ok(u64::from(attempts))
    }

    fn put_result(&mut self, id: &str, result: &[u8], expires: u64) -> Result<(), redb::Error> {
        let former = self
            .results
            .insert(id, (expires, result))?
            .map(|former| former.value().0);
        if let Some(former) = former {
            self.expiries.remove((former, id))?;
        }
        self.expiries.insert((expires, id), ())?;
        Ok(())
    }

    fn sweep(&mut self, now_unix: u64, limit: u32) -> Result<u64, redb::Error> {
        let mut removed = 0;
        while removed < u64::from(limit) {
            let first = self.expiries.first()?.map(|(key, _)| {
                let (expires, id) = key.value();
                (expires, id.to_string())
            });
            let Some((expires, id)) = first.filter(|(expires, _)| *expires <= now_unix) else {
                break;
            };
            self.expiries.remove((expires, id.as_str()))?;
            self.results.remove(id.as_str())?;
            removed += 1;
        }
        Ok(removed)
    }
}
