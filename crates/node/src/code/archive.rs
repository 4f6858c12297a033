//! Walking a tar, plain or gzip'ed, within limits.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::PathBuf;

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType};

use super::error::shown;
use super::tree::{Node, Tree, entry_path, link_target};
use super::{CodeError, CodeLimits, EntryProblem};

/// What tar adds to an entry at most in honest archives: its header, the padding, a long name and
/// a long link with theirs.
const ENTRY_OVERHEAD_BYTES: u64 = 8192;

/// How an entry that was admitted is to be made.
#[derive(Debug)]
pub(super) enum Make {
    Directory,
    File {
        executable: bool,
        modified_unix: u64,
    },
    Link {
        target: PathBuf,
    },
    /// A second name of a file that was made before.
    HardLink {
        target: PathBuf,
    },
}

/// An entry that may be made. Missing parents are to be made as well.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) path: PathBuf,
    pub(super) make: Make,
}

pub(super) fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// Hands each entry, checked, to `visit`, with its content. An error of `visit` is taken for one
/// of reading the archive: visitors with errors of their own keep them.
pub(super) fn walk(
    mut reader: impl Read,
    limits: &CodeLimits,
    visit: impl FnMut(&Admitted, &mut dyn Read) -> io::Result<()>,
) -> Result<(), CodeError> {
    let mut start = Vec::with_capacity(8);
    let read = reader.by_ref().take(8).read_to_end(&mut start);
    read.map_err(|error| CodeError::NotAnArchive {
        reason: error.to_string(),
    })?;
    let gzip = is_gzip(&start);
    let other_kind = other_kind(&start);
    let reader = io::Cursor::new(start).chain(reader);
    if let Some(kind) = other_kind {
        return Err(CodeError::NotAnArchive {
            reason: format!("it is {kind}"),
        });
    }
    // Outside of the walk's own accounting: what extension headers may expand to.
    let overhead = ENTRY_OVERHEAD_BYTES.saturating_mul(limits.entries_max as u64);
    let stream_bytes = limits.unpacked_bytes_max.saturating_add(overhead);
    let left = Cell::new(stream_bytes);
    if gzip {
        walk_tar(
            Bounded::new(MultiGzDecoder::new(reader), &left),
            limits,
            visit,
        )
    } else {
        walk_tar(Bounded::new(reader, &left), limits, visit)
    }
}

fn other_kind(start: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 6] = [
        (b"PK\x03\x04", "a zip archive"),
        (b"PK\x05\x06", "an empty zip archive"),
        (b"BZh", "compressed with bzip2"),
        (b"\xfd7zXZ", "compressed with xz"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
        (b"7z\xbc\xaf", "a 7z archive"),
    ];
    kinds
        .iter()
        .find(|(magic, _)| start.starts_with(magic))
        .map(|(_, kind)| *kind)
}

fn walk_tar<R: Read>(
    reader: Bounded<'_, R>,
    limits: &CodeLimits,
    mut visit: impl FnMut(&Admitted, &mut dyn Read) -> io::Result<()>,
) -> Result<(), CodeError> {
    let mut archive = Archive::new(reader);
    let mut tree = Tree::default();
    let mut count = 0;
    let unpacked = Cell::new(limits.unpacked_bytes_max);
    let entries = archive
        .entries()
        .map_err(|error| unreadable(&error, 0, limits))?;
    for entry in entries {
        let mut entry = entry.map_err(|error| unreadable(&error, count, limits))?;
        count += 1;
        if count > limits.entries_max {
            return Err(CodeError::TooMany {
                entries_max: limits.entries_max,
            });
        }
        let raw_path = entry.path_bytes().into_owned();
        let admitted =
            admit(&mut tree, &entry, &raw_path, limits).map_err(|error| match error {
                Refused::Problem(problem) => CodeError::Entry {
                    path: shown(&raw_path),
                    problem,
                },
                Refused::Error(error) => error,
            })?;
        let Some(admitted) = admitted else { continue };
        let size = entry.size();
        let mut content = Bounded::new(&mut entry, &unpacked);
        let before = unpacked.get();
        visit(&admitted, &mut content).map_err(|error| unreadable(&error, count, limits))?;
        // A short read would pass for the end of the file.
        if matches!(admitted.make, Make::File { .. }) && before - unpacked.get() != size {
            let error = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(unreadable(&error, count, limits));
        }
    }
    tree.check_links()?;
    // To the end, for the checksum of gzip behind it.
    let rest = io::copy(&mut archive.into_inner(), &mut io::sink());
    rest.map_err(|error| unreadable(&error, count, limits))?;
    Ok(())
}

enum Refused {
    Problem(EntryProblem),
    Error(CodeError),
}

impl From<EntryProblem> for Refused {
    fn from(problem: EntryProblem) -> Self {
        Self::Problem(problem)
    }
}

impl From<CodeError> for Refused {
    fn from(error: CodeError) -> Self {
        Self::Error(error)
    }
}

/// `None` for entries that make nothing: the root, and global headers as `git archive` writes.
fn admit(
    tree: &mut Tree,
    entry: &tar::Entry<'_, impl Read>,
    raw_path: &[u8],
    limits: &CodeLimits,
) -> Result<Option<Admitted>, Refused> {
    let kind = entry.header().entry_type();
    if kind.is_pax_global_extensions() {
        return Ok(None);
    }
    let path = entry_path(raw_path)?;
    if path.as_os_str().is_empty() {
        return match kind {
            EntryType::Directory => Ok(None),
            _ => Err(EntryProblem::Nameless.into()),
        };
    }
    let target = entry.link_name_bytes().unwrap_or_default();
    // Before there were directories in tar, a trailing slash made one.
    let old_directory = kind == EntryType::Regular && raw_path.ends_with(b"/");
    let (make, node) = match kind {
        EntryType::Directory => (Make::Directory, Node::Directory),
        _ if old_directory => (Make::Directory, Node::Directory),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            // Odd modes and times are no reason to refuse code.
            let executable = entry.header().mode().unwrap_or(0o644) & 0o111 != 0;
            let modified_unix = entry.header().mtime().unwrap_or(0);
            (
                Make::File {
                    executable,
                    modified_unix,
                },
                Node::File,
            )
        }
        EntryType::Symlink => {
            let target = link_target(&target)?;
            (
                Make::Link {
                    target: target.clone(),
                },
                Node::Link(target),
            )
        }
        EntryType::Link => {
            let wanted = || EntryProblem::HardLinkTarget {
                target: shown(&target),
            };
            let target = entry_path(&target).map_err(|_| wanted())?;
            if !tree.is_file(&target) || target == path {
                return Err(wanted().into());
            }
            (Make::HardLink { target }, Node::File)
        }
        EntryType::Char | EntryType::Block => return Err(EntryProblem::Kind("device").into()),
        EntryType::Fifo => return Err(EntryProblem::Kind("fifo").into()),
        _ => return Err(EntryProblem::Kind("thing of an unknown kind").into()),
    };
    tree.admit(&path, node, limits)?;
    Ok(Some(Admitted { path, make }))
}

fn unreadable(error: &io::Error, entries: usize, limits: &CodeLimits) -> CodeError {
    if error.kind() == io::ErrorKind::FileTooLarge {
        return CodeError::TooLarge {
            bytes_max: limits.unpacked_bytes_max,
        };
    }
    let reason = error.to_string();
    match entries {
        0 => CodeError::NotAnArchive { reason },
        entries => CodeError::Malformed { entries, reason },
    }
}

/// A reader that fails when more is read than is left. Not `Take`, whose end looks like the end of
/// the file.
struct Bounded<'a, R> {
    inner: R,
    left: &'a Cell<u64>,
}

impl<'a, R> Bounded<'a, R> {
    fn new(inner: R, left: &'a Cell<u64>) -> Self {
        Self { inner, left }
    }
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.left.get().checked_sub(read as u64) {
            Some(left) => self.left.set(left),
            None => return Err(io::ErrorKind::FileTooLarge.into()),
        }
        Ok(read)
    }
}
