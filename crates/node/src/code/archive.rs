//! Walking an archive of any format we know, told by its first bytes, within limits.

use std::cell::Cell;
use std::io::{self, Read, Seek};

use flate2::read::MultiGzDecoder;

use super::entry::{Admitted, Entry, Kind, check_entry};
use super::tree::Tree;
use super::{CodeError, CodeLimits, tarball, zipfile};

/// What an archive is, by its magic numbers. A plain tar has none at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Tar,
    Gzip,
    /// Also what builds on it: `.jar`, `.whl`.
    Zip,
}

impl Format {
    /// The name of another format, which is refused, in the error.
    pub(super) fn of(start: &[u8]) -> Result<Self, &'static str> {
        use Format::{Gzip, Zip};
        let kinds: [(&[u8], Result<Self, &'static str>); 8] = [
            (b"\x1f\x8b", Ok(Gzip)),
            (b"PK\x03\x04", Ok(Zip)),
            (b"PK\x05\x06", Ok(Zip)), // with no entries
            (b"PK\x07\x08", Err("a zip archive in several parts")),
            (b"BZh", Err("compressed with bzip2")),
            (b"\xfd7zXZ", Err("compressed with xz")),
            (b"\x28\xb5\x2f\xfd", Err("compressed with zstd")),
            (b"7z\xbc\xaf", Err("a 7z archive")),
        ];
        kinds
            .into_iter()
            .find(|(magic, _)| start.starts_with(magic))
            .map_or(Ok(Self::Tar), |(_, format)| format)
    }
}

/// Hands each entry, checked, to `visit`, with its content. An error of `visit` is taken for one
/// of reading the archive: visitors with errors of their own keep them.
pub(super) fn walk(
    mut reader: impl Read + Seek,
    limits: &CodeLimits,
    visit: impl FnMut(&Admitted, &mut dyn Read) -> io::Result<()>,
) -> Result<(), CodeError> {
    let mut walk = Walk {
        limits,
        tree: Tree::default(),
        entries: 0,
        unpacked_left: Cell::new(limits.unpacked_bytes_max),
        visit,
    };
    let mut start = Vec::with_capacity(8);
    let read = reader.by_ref().take(8).read_to_end(&mut start);
    read.and_then(|_| reader.rewind())
        .map_err(|error| walk.unreadable(&error))?;
    match Format::of(&start) {
        Ok(Format::Tar) => tarball::walk(io::BufReader::new(reader), &mut walk)?,
        Ok(Format::Gzip) => tarball::walk(MultiGzDecoder::new(reader), &mut walk)?,
        Ok(Format::Zip) => zipfile::walk(reader, &mut walk)?,
        Err(other) => {
            return Err(CodeError::NotAnArchive {
                reason: format!("it is {other}"),
            });
        }
    }
    walk.tree.check_links()
}

/// What has been seen of an archive so far.
pub(super) struct Walk<'a, V> {
    pub(super) limits: &'a CodeLimits,
    tree: Tree,
    entries: usize,
    unpacked_left: Cell<u64>,
    visit: V,
}

impl<V: FnMut(&Admitted, &mut dyn Read) -> io::Result<()>> Walk<'_, V> {
    /// Every entry of every format goes through here.
    pub(super) fn entry(
        &mut self,
        entry: &Entry<'_>,
        content: &mut dyn Read,
    ) -> Result<(), CodeError> {
        self.count()?;
        let Some(admitted) = check_entry(&mut self.tree, entry, self.limits)? else {
            return Ok(());
        };
        let before = self.unpacked_left.get();
        let mut content = Bounded::new(content, &self.unpacked_left);
        let visited = (self.visit)(&admitted, &mut content);
        visited.map_err(|error| self.unreadable(&error))?;
        // A short read would pass for the end of the file.
        let read = before - self.unpacked_left.get();
        if matches!(entry.kind, Kind::File { size, .. } if size != read) {
            return Err(self.unreadable(&io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    /// Counts an entry, also one that makes nothing.
    pub(super) fn count(&mut self) -> Result<(), CodeError> {
        self.entries += 1;
        if self.entries > self.limits.entries_max {
            return Err(self.too_many());
        }
        Ok(())
    }

    pub(super) fn too_many(&self) -> CodeError {
        CodeError::TooMany {
            entries_max: self.limits.entries_max,
        }
    }

    /// What an error of reading the archive means at this point of it.
    pub(super) fn unreadable(&self, error: &io::Error) -> CodeError {
        if error.kind() == io::ErrorKind::FileTooLarge {
            return CodeError::TooLarge {
                bytes_max: self.limits.unpacked_bytes_max,
            };
        }
        let reason = error.to_string();
        match self.entries {
            0 => CodeError::NotAnArchive { reason },
            entries => CodeError::Malformed { entries, reason },
        }
    }
}

/// A reader that fails when more is read than is left. Not `Take`, whose end looks like the end of
/// the file.
pub(super) struct Bounded<'a, R> {
    inner: R,
    left: &'a Cell<u64>,
}

impl<'a, R> Bounded<'a, R> {
    pub(super) fn new(inner: R, left: &'a Cell<u64>) -> Self {
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
