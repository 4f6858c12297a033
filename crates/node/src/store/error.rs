//! What can go wrong with the store, in the words of whoever has to put it right.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{DatabaseError, StorageError};

/// An error of the store. Cheap to clone: a failed commit answers everyone who waited for it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Another process has the file open.
    #[error(
        "the store {} is in use: is another node running on the same storage.path? stop it, or \
         give this node a storage.path of its own",
        path.display()
    )]
    InUse {
        /// The store's file.
        path: PathBuf,
    },
    /// The file isn't a store, or not an intact one.
    #[error(
        "the store {} is damaged or is not a store ({reason}): put a backup in its place, or move \
         it away and the node starts with an empty one",
        path.display()
    )]
    Damaged {
        /// The store's file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The file was written by a newer version of the node, or by an older one that we can't read.
    #[error(
        "the store {} has format {found} and this version reads format {known}: run the version \
         of serverledge that wrote it, or use another storage.path",
        path.display()
    )]
    Format {
        /// The store's file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// The file or its directory can't be made or opened.
    #[error(
        "{doing} {}; storage.path must be in a place that this user may write to",
        path.display()
    )]
    Place {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// Opening failed for a reason of the machine's.
    #[error("opening the store {}", path.display())]
    Open {
        /// The store's file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: Arc<redb::Error>,
    },
    /// The writer's thread can't be started.
    #[error("starting the store's writer thread")]
    Thread {
        /// Why it failed.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// Nothing of the write was kept.
    #[error("writing to the store")]
    Write {
        /// Why it failed.
        #[source]
        source: Arc<redb::Error>,
    },
    /// A read failed.
    #[error("reading from the store")]
    Read {
        /// Why it failed.
        #[source]
        source: Arc<redb::Error>,
    },
    /// What is stored, or should be, isn't what it is taken for.
    #[error("a stored record can't be encoded or decoded: {reason}")]
    Encoding {
        /// What the (de)serialiser said.
        reason: String,
    },
    /// A value is larger than the store takes.
    #[error("a value of {bytes} bytes is more than the {bytes_max} that the store takes")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest size.
        bytes_max: usize,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// For owners of records that fail to (de)serialise them.
    pub(crate) fn encoding(error: &serde_json::Error) -> Self {
        Self::Encoding {
            reason: error.to_string(),
        }
    }

    pub(super) fn opening(path: &Path, error: DatabaseError) -> Self {
        let path = path.to_path_buf();
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                Self::InUse { path }
            }
            DatabaseError::UpgradeRequired(version) => Self::Damaged {
                path,
                reason: format!("redb file format {version}"),
            },
            DatabaseError::Storage(StorageError::Corrupted(reason)) => {
                Self::Damaged { path, reason }
            }
            // redb's word for a file without its magic number, or one that is cut short.
            DatabaseError::Storage(StorageError::Io(error))
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
                ) =>
            {
                Self::Damaged {
                    path,
                    reason: error.to_string(),
                }
            }
            error => Self::Open {
                path,
                source: Arc::new(error.into()),
            },
        }
    }

    pub(super) fn writing(error: redb::Error) -> Self {
        Self::Write {
            source: Arc::new(error),
        }
    }

    pub(super) fn reading(error: redb::Error) -> Self {
        Self::Read {
            source: Arc::new(error),
        }
    }
}
