//! The open database, which is opened again after an I/O error.
//!
//! After one (the disk is full, say) redb refuses everything, reads too, until it is closed and
//! opened again. Whoever meets it like that does so.

use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use redb::{Database, DatabaseError};
use tracing::{info, warn};

use super::log::Log;
use super::{StoreError, writer};

/// Opens the database.
pub(super) type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// The database, for the readers and the writer.
pub(super) struct Handle {
    opener: Opener,
    /// `None` if each commit goes to the database itself.
    log: Option<Log>,
    state: RwLock<State>,
}

struct State {
    database: Option<Database>,
    /// How often it has been opened again.
    reopened: u64,
    closed: bool,
}

impl Handle {
    /// With a database that has what is in the log.
    pub(super) fn new(database: Database, opener: Opener, log: Option<Log>) -> Self {
        let state = State {
            database: Some(database),
            reopened: 0,
            closed: false,
        };
        Self {
            opener,
            log,
            state: RwLock::new(state),
        }
    }

    /// Does something with the database; twice, if it has to be opened again.
    pub(super) fn with<T>(
        &self,
        mut act: impl FnMut(&Database, Option<&Log>) -> Result<T, redb::Error>,
        failed: fn(redb::Error) -> StoreError,
    ) -> Result<T, StoreError> {
        let mut last_try = false;
        loop {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            let database = state.database.as_ref();
            let result = database.map(|database| act(database, self.log.as_ref()));
            let (reopened, closed) = (state.reopened, state.closed);
            drop(state);
            match result {
                None if closed => return Err(StoreError::Closed),
                None | Some(Err(redb::Error::PreviousIo)) if !last_try => {
                    self.reopen(reopened).map_err(failed)?;
                    last_try = true;
                }
                None => return Err(StoreError::Closed),
                Some(result) => return result.map_err(failed),
            }
        }
    }

    /// Opens the database again unless somebody else has since it was `reopened` for that many
    /// times. All others are kept out for that long.
    fn reopen(&self, reopened: u64) -> Result<(), redb::Error> {
        let mut state = self.lock();
        if state.closed || state.reopened != reopened {
            return Ok(());
        }
        // The file's lock is the old one's until it is gone.
        drop(state.database.take());
        let database = (self.opener)()?;
        if let Some(log) = &self.log {
            writer::replay(&database, log)?;
        }
        state.database = Some(database);
        state.reopened += 1;
        info!("the store is open again after an I/O error");
        Ok(())
    }

    /// Closing saves the next start a check.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        if let Some(Err(error)) = state.database.take().map(Database::close) {
            warn!(%error, "the store was not closed cleanly");
        }
    }

    fn lock(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}
