//! The entries of a tar, in the words of `entry`.

use std::cell::Cell;
use std::io::{self, Read};

use tar::{Archive, EntryType};

use super::archive::{Bounded, Walk};
use super::entry::{Admitted, Entry, Kind};
use super::{CodeError, EntryProblem};

/// What tar adds to an entry at most in honest archives: its header, the padding, a long name and
/// a long link with theirs.
const ENTRY_OVERHEAD_BYTES: u64 = 8192;

/// Reads the archive to its end.
pub(super) fn walk<V: FnMut(&Admitted, &mut dyn Read) -> io::Result<()>>(
    reader: impl Read,
    walk: &mut Walk<'_, V>,
) -> Result<(), CodeError> {
    // Outside of the walk's own accounting: what extension headers may expand to.
    let overhead = ENTRY_OVERHEAD_BYTES.saturating_mul(walk.limits.entries_max as u64);
    let left = Cell::new(walk.limits.unpacked_bytes_max.saturating_add(overhead));
    let mut archive = Archive::new(Bounded::new(reader, &left));
    let entries = archive.entries().map_err(|error| walk.unreadable(&error))?;
    for entry in entries {
        let mut entry = entry.map_err(|error| walk.unreadable(&error))?;
        // As `git archive` writes.
        if entry.header().entry_type().is_pax_global_extensions() {
            walk.count()?;
            continue;
        }
        let path = entry.path_bytes().into_owned();
        let target = entry.link_name_bytes().unwrap_or_default().into_owned();
        let described = Entry {
            path: &path,
            kind: kind(&entry, &path, &target),
        };
        walk.entry(&described, &mut entry)?;
    }
    // To the end, for the checksum of gzip behind it.
    let rest = io::copy(&mut archive.into_inner(), &mut io::sink());
    rest.map_err(|error| walk.unreadable(&error))?;
    Ok(())
}

fn kind<'a>(entry: &tar::Entry<'_, impl Read>, path: &[u8], target: &'a [u8]) -> Kind<'a> {
    let header = entry.header();
    match header.entry_type() {
        EntryType::Directory => Kind::Directory,
        // Before there were directories in tar, a trailing slash made one.
        EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File {
            size: entry.size(),
            // Odd modes and times are no reason to refuse code.
            executable: header.mode().unwrap_or(0o644) & 0o111 != 0,
            modified_unix: header.mtime().unwrap_or(0),
        },
        EntryType::Symlink => Kind::Link { target },
        EntryType::Link => Kind::HardLink { target },
        EntryType::Char | EntryType::Block => Kind::Unsupported(EntryProblem::Kind("device")),
        EntryType::Fifo => Kind::Unsupported(EntryProblem::Kind("fifo")),
        _ => Kind::Unsupported(EntryProblem::Kind("thing of an unknown kind")),
    }
}
