//! The open database, which is opened again after an I/O error.
//!
//! After one (the disk is full, say) redb refuses everything, reads too, until it is closed and
//! opened again. Whoever meets it like that does so.

use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use redb::{Database, DatabaseError};
use tracing::{info, warn};

use super::StoreError;

/// Opens the database.
pub(super) type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// The database, for the readers and the writer.
pub(super) struct Handle {
    opener: Opener,
    state: RwLock<State>,
}

struct State {
    database: Option<Database>,
    /// How often it has been opened again.
    reopened: u64,
    closed: bool,
}

impl Handle {
    pub(super) fn new(database: Database, opener: Opener) -> Self {
        let state = State {
            database: Some(database),
            reopened: 0,
            closed: false,
        };
        Self {
            opener,
            state: RwLock::new(state),
        }
    }

    /// Does something with the database; twice, if it has to be opened again.
    pub(super) fn with<T>(
        &self,
        mut act: impl FnMut(&Database) -> Result<T, redb::Error>,
        failed: fn(redb::Error) -> StoreError,
    ) -> Result<T, StoreError> {
        let mut last_try = false;
        loop {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            let result = state.database.as_ref().map(&mut act);
            let (reopened, closed) = (state.reopened, state.closed);
            drop(state);
            match result {
                None if closed => return Err(StoreError::Closed),
                None | Some(Err(redb::Error::PreviousIo)) if !last_try => {
                    self.reopen(reopened)
                        .map_err(|error| failed(error.into()))?;
                    last_try = true;
                }
                None => return Err(StoreError::Closed),
                Some(result) => return result.map_err(failed),
            }
        }
    }

    /// Opens the database again unless somebody else has since it was `reopened` for that many
    /// times. All others are kept out for that long.
    fn reopen(&self, reopened: u64) -> Result<(), DatabaseError> {
        let mut state = self.lock();
        if state.closed || state.reopened != reopened {
            return Ok(());
        }
        // The file's lock is the old one's until it is gone.
        drop(state.database.take());
        state.database = Some((self.opener)()?);
        state.reopened += 1;
        info!("the store is open again after an I/O error");
        Ok(())
    }

    /// Every answered write is on disk already; closing only saves the next start a check.
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
