//! What the node must not forget: functions, accepted asynchronous calls, and their results.
//!
//! A database (redb) and a log beside it. Everything is written by one thread that commits in groups:
//! whatever has arrived while the last commit was on its way to the disk goes into the next one, so
//! the cost of an `fsync` is shared and an answer means *on disk*: most often in the log, whose
//! content goes to the database's file when there is much of it. Reads take a snapshot and never wait for
//! the writer. Not here: what the bytes mean (the caller serialises), code (`code`), and any clock
//! (times are arguments). Nothing here is on the path of a synchronous invocation.

mod error;
pub(crate) mod executions;
mod handle;
mod log;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Builder, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend};
use tokio::sync::{Semaphore, mpsc, oneshot};

pub use self::error::StoreError;
use self::handle::{Handle, Opener};
use self::log::Log;
use self::writer::{Command, Operation, Writer};

/// Largest value, in bytes: results are bounded by the frame of the sandbox protocol (64 MiB), and
/// escaping may inflate them.
pub const VALUE_BYTES_MAX: usize = 256 << 20;

/// Bytes of values that may wait for the writer at once; further writes wait for their turn. Less
/// in tests, which want to see that.
const WAITING_BYTES_MAX: usize = if cfg!(test) { 1 << 20 } else { 64 << 20 };

/// Writes that may wait for the writer at once; further ones wait for their turn.
const WAITING_WRITES_MAX: usize = 1024;

/// Memory redb may use for pages. The catalog holds what is read often; this only has to keep the
/// upper levels of the trees.
const CACHE_BYTES: usize = 8 << 20;

/// Results that one transaction of a sweep removes, so that a large sweep doesn't hold up writes.
const SWEEP_STEP: u32 = 4096;

/// The node's store. Share it by `Arc`; [`Store::close`] it before the process ends.
///
/// Writes are cancel safe in this sense: a future dropped before its answer may or may not have
/// written, but never half.
pub struct Store {
    database: Arc<Handle>,
    commands: Option<mpsc::Sender<Command>>,
    waiting_bytes: Arc<Semaphore>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens the store in the file `path`, which is created with its directories if it is missing,
    /// and its log beside it, of the same name with `.log` behind it. Blocks on the disk; after a
    /// crash, redb reads the whole file to check it. One that exists needs no room on the disk.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        create_file(path)?;
        let place = path.to_path_buf();
        let opener = move || builder().create(&place);
        let log = log_path(path);
        let logger = || -> Result<Box<dyn StorageBackend>, StoreError> {
            let file = FileBackend::new(create_file(&log)?);
            let file = file.map_err(|error| StoreError::opening(&log, error))?;
            Ok(Box::new(file))
        };
        Self::start(path, Box::new(opener), Some(&logger))
    }

    /// A store that forgets everything when it is dropped.
    pub fn in_memory() -> Result<Self, StoreError> {
        let opener = || builder().create_with_backend(InMemoryBackend::new());
        Self::start(Path::new("(memory)"), Box::new(opener), None)
    }

    /// `logger` opens the log, when the database is open and hence this process's.
    fn start(path: &Path, opener: Opener, logger: Option<Logger<'_>>) -> Result<Self, StoreError> {
        // redb checks little before it trusts a file and panics on some damaged ones.
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let database = opener().map_err(|error| StoreError::opening(path, error))?;
            schema::prepare(&database, path)?;
            let log = logger.map(|logger| logger()).transpose()?.map(Log::new);
            let next_sequence = log
                .as_ref()
                .map_or(Ok(()), |log| writer::replay(&database, log))
                .and_then(|()| schema::next_sequence(&database));
            let next_sequence = next_sequence.map_err(|error| StoreError::Open {
                path: path.to_path_buf(),
                source: Arc::new(error),
            })?;
            Ok((database, next_sequence, log))
        }));
        let (database, next_sequence, log) = opened.unwrap_or_else(|_| {
            let reason = "reading it failed".to_string();
            Err(StoreError::Damaged {
                path: path.to_path_buf(),
                reason,
            })
        })?;
        let database = Arc::new(Handle::new(database, opener, log));
        let (commands, queue) = mpsc::channel(WAITING_WRITES_MAX);
        let writer = Writer::new(Arc::clone(&database), queue, next_sequence);
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run())
            .map_err(|source| StoreError::Thread {
                source: Arc::new(source),
            })?;
        Ok(Self {
            database,
            commands: Some(commands),
            waiting_bytes: Arc::new(Semaphore::new(WAITING_BYTES_MAX)),
            writer: Mutex::new(Some(thread)),
        })
    }

    /// Writes the record of a function. `true` if it replaced one.
    pub async fn put_function(&self, name: &str, record: Vec<u8>) -> Result<bool, StoreError> {
        let operation = Operation::PutFunction {
            name: name.into(),
            record,
        };
        Ok(self.write(operation).await? != 0)
    }

    /// Removes the record of a function. `false` if there was none.
    pub async fn delete_function(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self
            .write(Operation::DeleteFunction { name: name.into() })
            .await?
            != 0)
    }

    /// Writes an asynchronous call that is about to be acknowledged. An id that is pending
    /// already is replaced and starts again with no attempts.
    pub async fn accept_call(&self, id: &str, body: Vec<u8>) -> Result<(), StoreError> {
        self.write(Operation::AcceptCall {
            id: id.into(),
            body,
        })
        .await?;
        Ok(())
    }

    /// Counts an attempt to run a pending call, before it is made. Returns the number of attempts
    /// with this one; 0 if the call isn't pending (any more).
    pub async fn attempt_call(&self, id: &str) -> Result<u32, StoreError> {
        let attempts = self.write(Operation::AttemptCall { id: id.into() }).await?;
        Ok(u32::try_from(attempts).unwrap_or(u32::MAX))
    }

    /// Takes back an attempt that [`Store::attempt_call`] counted.
    pub async fn withdraw_attempt(&self, id: &str) -> Result<(), StoreError> {
        self.write(Operation::WithdrawAttempt { id: id.into() })
            .await?;
        Ok(())
    }

    /// Writes the result of a call and ends its being pending, both or neither. The result may be
    /// removed by a [`Store::sweep`] at `expires_unix` (seconds) or later. `false` if the call
    /// wasn't pending; its result is written all the same.
    pub async fn finish_call(
        &self,
        id: &str,
        result: Vec<u8>,
        expires_unix: u64,
    ) -> Result<bool, StoreError> {
        let operation = Operation::FinishCall {
            id: id.into(),
            result,
            expires_unix,
        };
        Ok(self.write(operation).await? != 0)
    }

    /// Ends a call's being pending without a result. `false` if it wasn't.
    pub async fn forget_call(&self, id: &str) -> Result<bool, StoreError> {
        let operation = Operation::ForgetCall { id: id.into() };
        Ok(self.write(operation).await? != 0)
    }

    /// Removes the results that have expired at `now_unix` (seconds), and returns how many.
    pub async fn sweep(&self, now_unix: u64) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            let step = self
                .write(Operation::Sweep {
                    now_unix,
                    limit: SWEEP_STEP,
                })
                .await?;
            removed += step;
            if step < u64::from(SWEEP_STEP) {
                return Ok(removed);
            }
        }
    }

    /// All functions with their records, sorted by name.
    pub fn functions(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let mut functions = BTreeMap::new();
        self.visit_functions(|name, record| {
            functions.insert(name.to_owned(), record.to_vec());
        })?;
        Ok(functions.into_iter().collect())
    }

    /// Shows all functions with their records, sorted by name, without holding all of them in
    /// memory. After an I/O error it begins anew, so some may be shown twice.
    pub fn visit_functions(&self, mut visit: impl FnMut(&str, &[u8])) -> Result<(), StoreError> {
        self.read(|snapshot| {
            for entry in snapshot.open_table(schema::FUNCTIONS)?.iter()? {
                let (name, record) = entry?;
                visit(name.value(), record.value());
            }
            Ok(())
        })
    }

    /// The result of a finished call, until it is swept.
    pub fn result(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|snapshot| {
            let result = snapshot.open_table(schema::RESULTS)?.get(id)?;
            Ok(result.map(|result| result.value().1.to_vec()))
        })
    }

    /// Whether a call was accepted and has no result yet.
    pub fn is_pending(&self, id: &str) -> Result<bool, StoreError> {
        self.read(|snapshot| Ok(snapshot.open_table(schema::CALLS)?.get(id)?.is_some()))
    }

    /// The ids of all pending calls, in the order in which they were accepted.
    pub fn pending(&self) -> Result<Vec<String>, StoreError> {
        self.read(|snapshot| {
            let mut calls = Vec::new();
            for entry in snapshot.open_table(schema::CALLS)?.iter()? {
                let (id, call) = entry?;
                calls.push((call.value().0, id.value().to_string()));
            }
            calls.sort_unstable();
            Ok(calls.into_iter().map(|(_, id)| id).collect())
        })
    }

    /// What was accepted, and how often it has been tried; `None` if the call isn't pending.
    pub fn pending_call(&self, id: &str) -> Result<Option<(Vec<u8>, u32)>, StoreError> {
        self.read(|snapshot| {
            let Some(call) = snapshot.open_table(schema::CALLS)?.get(id)? else {
                return Ok(None);
            };
            let (sequence, attempts) = call.value();
            let body = snapshot.open_table(schema::BODIES)?.get(sequence)?;
            Ok(body.map(|body| (body.value().to_vec(), attempts)))
        })
    }

    /// Writes what is waiting, closes the file and ends the writer. Whatever is asked later fails
    /// with [`StoreError::Closed`]. Closing twice is fine.
    pub async fn close(&self) {
        let Some(commands) = &self.commands else {
            return;
        };
        let (answer, answered) = oneshot::channel();
        if commands.send(Command::Close { answer }).await.is_ok() {
            // An error means that the writer ended without us: closed all the same.
            let _ = answered.await;
        }
        self.join();
    }

    async fn write(&self, operation: Operation) -> Result<u64, StoreError> {
        let bytes = operation.value_bytes();
        if bytes > VALUE_BYTES_MAX {
            return Err(StoreError::TooLarge {
                bytes,
                bytes_max: VALUE_BYTES_MAX,
            });
        }
        // Every write takes something, so that the queue is bounded in bytes too.
        let share = u32::try_from(bytes.clamp(1, WAITING_BYTES_MAX)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.waiting_bytes)
            .acquire_many_owned(share)
            .await;
        let waiting = permit.map_err(|_| StoreError::Closed)?;
        let commands = self.commands.as_ref().ok_or(StoreError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let command = Command::Write {
            operation,
            answer,
            _waiting: waiting,
        };
        commands
            .send(command)
            .await
            .map_err(|_| StoreError::Closed)?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }

    fn read<T>(
        &self,
        mut read: impl FnMut(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let database = &self.database;
        database.with(
            |database, _| read(&database.begin_read()?),
            StoreError::reading,
        )
    }

    fn join(&self) {
        let thread = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic of the writer has been answered: its waiters found their channel closed.
            let _ = thread.join();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Without senders the writer ends; waiting for it frees the file for the next owner.
        self.commands = None;
        self.join();
    }
}

/// Opens the place of the log.
type Logger<'a> = &'a dyn Fn() -> Result<Box<dyn StorageBackend>, StoreError>;

/// Where the log of the store in `path` is.
fn log_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".log");
    name.into()
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Opens a file, which holds parameters and results of calls: for nobody but the node's user.
fn create_file(path: &Path) -> Result<File, StoreError> {
    let failed = |doing: &'static str, place: &Path, source| StoreError::Place {
        doing,
        path: place.to_path_buf(),
        source: Arc::new(source),
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let directories = DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&parent);
    directories.map_err(|source| failed("creating the directory", &parent, source))?;
    let mut options = OpenOptions::new();
    let opened = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path);
    let file = opened.map_err(|source| failed("opening the store", path, source))?;
    let synced = File::open(&parent).and_then(|directory| directory.sync_all());
    synced.map_err(|source| failed("writing the directory", &parent, source))?;
    Ok(file)
}
