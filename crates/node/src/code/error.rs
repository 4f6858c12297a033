//! What can be wrong with code, in words for whoever sent it.

use std::io;
use std::path::{Path, PathBuf};

use super::Digest;

/// An error of the code store.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// The bytes are no archive, or of another kind.
    #[error(
        "the code is not an archive that this node reads ({reason}): send a tar, tar.gz or zip"
    )]
    NotAnArchive {
        /// What it seems to be.
        reason: String,
    },
    /// An archive that can't be read to its end.
    #[error("the code archive is damaged after {} entries ({reason})", entries)]
    Malformed {
        /// Entries that could be read.
        entries: usize,
        /// What the reader said.
        reason: String,
    },
    /// An entry that must not be there.
    #[error("entry \"{path}\" of the code archive {problem}")]
    Entry {
        /// Its path as sent, escaped where it isn't printable.
        path: String,
        /// What is wrong with it.
        problem: EntryProblem,
    },
    /// Too large when unpacked.
    #[error("the code is larger than {bytes_max} bytes when unpacked (code.size_max)")]
    TooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// Too many entries.
    #[error("the code has more than {entries_max} files, directories and links (code.entries_max)")]
    TooMany {
        /// The limit.
        entries_max: usize,
    },
    /// No such code here.
    #[error("the code {0} is not in the code store")]
    Missing(Digest),
    /// Not a digest.
    #[error("\"{}\" is not a code digest", .0.escape_debug())]
    Digest(String),
    /// The node's file system failed.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// What is wrong with an entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryProblem {
    /// `/etc/passwd`.
    #[error("has an absolute path")]
    Absolute,
    /// `../x`.
    #[error("has \"..\" in its path")]
    ParentDirectory,
    /// No name at all.
    #[error("has no name")]
    Nameless,
    /// A zero byte in a path.
    #[error("has a zero byte in its path")]
    ZeroByte,
    /// A path longer than the limit.
    #[error("has a path longer than {bytes_max} bytes (code.path_max)")]
    PathTooLong {
        /// The limit.
        bytes_max: usize,
    },
    /// In too many directories, one in the other.
    #[error("has a path of more than {depth_max} names (code.depth_max)")]
    TooDeep {
        /// The limit.
        depth_max: usize,
    },
    /// A file larger than the limit.
    #[error("is larger than {bytes_max} bytes (code.file_size_max)")]
    FileTooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// A name longer than file systems take.
    #[error("has a name longer than {bytes_max} bytes in its path")]
    NameTooLong {
        /// The limit.
        bytes_max: usize,
    },
    /// A device, a FIFO or something unheard of.
    #[error("is a {0}: only files, directories and links are allowed")]
    Kind(&'static str),
    /// Of a zip: encrypted, or compressed in an unusual way.
    #[error("is encrypted or compressed by another method than deflate")]
    Encoding,
    /// A link without a target.
    #[error("is a link without a target")]
    NoTarget,
    /// A symbolic link to an absolute path.
    #[error("is a link to the absolute path \"{target}\": make it relative")]
    LinkAbsolute {
        /// Where to.
        target: String,
    },
    /// A link that leaves the tree.
    #[error("is a link to \"{target}\", outside of the archive")]
    LinkOutside {
        /// Where to.
        target: String,
    },
    /// A link through too many links, most likely in a circle.
    #[error("is a link to \"{target}\", through too many other links")]
    LinkTangled {
        /// Where to.
        target: String,
    },
    /// A hard link to something that isn't a file before it in the archive.
    #[error("is a hard link to \"{target}\", which is not a file before it in the archive")]
    HardLinkTarget {
        /// Where to.
        target: String,
    },
    /// Something inside a file or link.
    #[error("is inside of \"{parent}\", which is not a directory")]
    InsideNonDirectory {
        /// What it is inside of.
        parent: String,
    },
    /// A file or link that takes the place of a directory with something in it.
    #[error("replaces a directory that is not empty")]
    ReplacesDirectory,
}

impl CodeError {
    /// Whether whoever sent the code can put it right; otherwise the node is to blame.
    pub fn is_caller(&self) -> bool {
        match self {
            Self::NotAnArchive { .. }
            | Self::Malformed { .. }
            | Self::Entry { .. }
            | Self::TooLarge { .. }
            | Self::TooMany { .. } => true,
            Self::Missing(_) | Self::Digest(_) | Self::Io { .. } => false,
        }
    }

    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }

    pub(super) fn entry(path: &Path, problem: EntryProblem) -> Self {
        Self::Entry {
            path: shown(path.as_os_str().as_encoded_bytes()),
            problem,
        }
    }
}

/// A path for a message: printable, and not longer than a line or two.
pub(super) fn shown(path: &[u8]) -> String {
    const CHARACTERS_MAX: usize = 200;
    let text = String::from_utf8_lossy(path);
    let mut shown: String = text
        .chars()
        .take(CHARACTERS_MAX)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(CHARACTERS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
