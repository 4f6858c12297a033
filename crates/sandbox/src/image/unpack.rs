//! Unpacking a layer into a directory, from which nothing in it may lead out.
//!
//! Each parent is opened by the kernel with the layer's directory as its root (`RESOLVE_IN_ROOT`):
//! links are followed, as honest layers need it, and end inside. The last name is never followed.
//! Everything belongs to root and is readable for the sandboxes' users; set-user bits, extended
//! attributes and devices are left behind. What hides files of lower layers becomes what overlayfs
//! takes for it.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags, fchmod,
    fsetxattr, futimens, linkat, mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use tar::{Archive, Entry, EntryType};

use super::ImageError;

/// Bytes between the contents of two entries: headers, padding and long names.
const HEADERS_MAX: u64 = 1 << 20;
/// What every entry counts for at least: a block of the disk.
const BLOCK: u64 = 4096;
/// Names in a path.
const DEPTH_MAX: usize = 256;
/// Tries of a look-up that the kernel gave up because something was renamed at the same time.
const RESOLVE_TRIES: usize = 16;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..opq";

/// What may still be unpacked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) bytes: u64,
    pub(super) entries: u64,
}

impl Budget {
    pub(super) fn take(&mut self, size: u64) -> Result<(), ImageError> {
        let size = size.div_ceil(BLOCK).max(1).saturating_mul(BLOCK);
        let (Some(bytes), Some(entries)) =
            (self.bytes.checked_sub(size), self.entries.checked_sub(1))
        else {
            let what = match self.entries {
                0 => "it has more files than image.entries_max allows",
                _ => {
                    "it is larger, unpacked, than image.unpacked_max or what image.store_max \
                      leaves"
                }
            };
            return Err(ImageError::invalid(what));
        };
        *self = Budget { bytes, entries };
        Ok(())
    }
}

/// A reader that ends with an error when it gives more than it was allowed to.
pub(super) struct Metered<'a> {
    reader: &'a mut dyn Read,
    left: &'a Cell<u64>,
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        let left = self.left.get().checked_sub(read as u64);
        self.left
            .set(left.ok_or_else(|| io::Error::other("a header or name is too long"))?);
        Ok(read)
    }
}

/// Visits the entries of a tar and reads it to its end. A visitor that reads an entry's content
/// must have judged its size before.
pub(super) fn walk(
    reader: &mut dyn Read,
    visit: &mut dyn FnMut(&mut Entry<'_, Metered<'_>>) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let unreadable =
        |error: io::Error| ImageError::invalid(format!("the archive can't be read: {error}"));
    let left = Cell::new(HEADERS_MAX);
    let metered = Metered {
        reader,
        left: &left,
    };
    let mut archive = Archive::new(metered);
    let mut entries = archive.entries().map_err(unreadable)?;
    loop {
        left.set(HEADERS_MAX);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(unreadable)?;
        left.set(entry.size().saturating_add(HEADERS_MAX));
        visit(&mut entry)?;
        io::copy(&mut entry, &mut io::sink()).map_err(unreadable)?;
    }
    left.set(HEADERS_MAX);
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(unreadable)?;
    Ok(())
}

/// Unpacks a layer into this directory, which must be empty and nobody else's.
pub(super) fn unpack(
    reader: &mut dyn Read,
    root: BorrowedFd<'_>,
    budget: &mut Budget,
) -> Result<(), ImageError> {
    let layer = Layer { root };
    walk(reader, &mut |entry| {
        if entry.header().entry_type().is_pax_global_extensions() {
            return budget.take(entry.size());
        }
        budget.take(entry.size())?;
        layer.add(entry)
    })
}

struct Layer<'a> {
    root: BorrowedFd<'a>,
}

/// Where an entry goes.
struct Place<'a> {
    parent: OwnedFd,
    name: &'a [u8],
    path: &'a [u8],
}

impl Place<'_> {
    fn refused(&self, problem: &str) -> ImageError {
        refused(self.path, problem)
    }

    fn failed(&self) -> impl FnOnce(Errno) -> ImageError {
        failed(self.path)
    }

    fn kind(&self) -> Result<Option<FileType>, ImageError> {
        match statat(&self.parent, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed()(error)),
        }
    }

    /// Makes way for something that is no directory.
    fn clear(&self) -> Result<(), ImageError> {
        match self.kind()? {
            None => Ok(()),
            Some(FileType::Directory) => {
                Err(self.refused("is a directory and something else at once"))
            }
            Some(_) => unlinkat(&self.parent, self.name, AtFlags::empty()).map_err(self.failed()),
        }
    }
}

fn refused(path: &[u8], problem: &str) -> ImageError {
    let path: String = String::from_utf8_lossy(path).chars().take(200).collect();
    ImageError::invalid(format!("{path:?} in a layer {problem}"))
}

/// A name that the file system doesn't take is the layer's fault; a full disk isn't.
fn failed(path: &[u8]) -> impl FnOnce(Errno) -> ImageError {
    move |error| match error {
        Errno::NAMETOOLONG
        | Errno::LOOP
        | Errno::NOTDIR
        | Errno::NOENT
        | Errno::INVAL
        | Errno::EXIST
        | Errno::PERM
        | Errno::MLINK
        | Errno::XDEV => refused(path, &format!("can't be unpacked: {error}")),
        error => {
            let path = String::from_utf8_lossy(path).into_owned();
            ImageError::io(format!("unpacking {path} of a layer"))(error)
        }
    }
}

/// The names of a path below the root.
fn parts(path: &[u8]) -> Result<Vec<&[u8]>, ImageError> {
    let parts: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    if parts.contains(&&b".."[..]) {
        return Err(refused(path, "has a .. in its path"));
    }
    if path.contains(&0) || parts.len() > DEPTH_MAX {
        return Err(refused(path, "is no path"));
    }
    Ok(parts)
}

impl Layer<'_> {
    fn add(&self, entry: &mut Entry<'_, Metered<'_>>) -> Result<(), ImageError> {
        let path = entry.path_bytes().into_owned();
        let parts = parts(&path)?;
        let Some((name, parents)) = parts.split_last() else {
            return Ok(()); // The root itself.
        };
        let place = Place {
            parent: self.parent(parents).map_err(failed(&path))?,
            name,
            path: &path,
        };
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.hide(&place, hidden, parents.is_empty());
        }
        match entry.header().entry_type() {
            EntryType::Directory => self.directory(&place),
            EntryType::Regular if path.ends_with(b"/") => self.directory(&place),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                file(&place, entry)
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                place.clear()?;
                symlinkat(&*target, &place.parent, *name).map_err(place.failed())
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.hard_link(&place, &target)
            }
            // A sandbox has the few devices that it may have.
            EntryType::Char | EntryType::Block | EntryType::Fifo => Ok(()),
            _ => Err(place.refused("is of an unknown kind")),
        }
    }

    /// A directory that is there.
    fn open(&self, parts: &[&[u8]]) -> Result<OwnedFd, Errno> {
        let path = match parts {
            [] => b".".to_vec(),
            parts => parts.join(&b'/'),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 1..RESOLVE_TRIES {
            match openat2(self.root, &path[..], flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                opened => return opened,
            }
        }
        Err(Errno::AGAIN)
    }

    /// A directory, made if it isn't there.
    fn parent(&self, parts: &[&[u8]]) -> Result<OwnedFd, Errno> {
        match self.open(parts) {
            Err(Errno::NOENT) => {}
            opened => return opened,
        }
        let mut last = self.open(&[])?;
        for depth in 1..=parts.len() {
            last = match self.open(&parts[..depth]) {
                Err(Errno::NOENT) => {
                    mkdirat(&last, parts[depth - 1], Mode::from_raw_mode(0o755))?;
                    self.open(&parts[..depth])?
                }
                opened => opened?,
            };
        }
        Ok(last)
    }

    fn directory(&self, place: &Place<'_>) -> Result<(), ImageError> {
        let mode = Mode::from_raw_mode(0o755);
        let hides = match place.kind()? {
            Some(FileType::Directory) => return Ok(()),
            Some(kind) => {
                place.clear()?;
                // Hidden below, and made anew here.
                kind == FileType::CharacterDevice
            }
            None => false,
        };
        mkdirat(&place.parent, place.name, mode).map_err(place.failed())?;
        match hides {
            true => opaque(place),
            false => Ok(()),
        }
    }

    fn hard_link(&self, place: &Place<'_>, target: &[u8]) -> Result<(), ImageError> {
        let parts = parts(target)?;
        let Some((name, parents)) = parts.split_last() else {
            return Err(place.refused("is a link to the root"));
        };
        let from = self.open(parents).map_err(place.failed())?;
        match linkat(&from, *name, &place.parent, place.name, AtFlags::empty()) {
            Err(Errno::EXIST) => {
                place.clear()?;
                linkat(&from, *name, &place.parent, place.name, AtFlags::empty())
            }
            linked => linked,
        }
        .map_err(place.failed())
    }

    /// Hides what lower layers have: all of the directory, or one name in it.
    fn hide(&self, place: &Place<'_>, hidden: &[u8], at_root: bool) -> Result<(), ImageError> {
        if hidden == OPAQUE {
            if at_root {
                return Err(place.refused("hides all layers below, which overlayfs can't"));
            }
            return set_opaque(place.parent.as_fd()).map_err(place.failed());
        }
        if hidden.starts_with(WHITEOUT) {
            return Ok(()); // Notes of an old file system to itself.
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(place.refused("hides what has no name"));
        }
        let parent = place.parent.try_clone();
        let hidden = Place {
            parent: parent.map_err(ImageError::io("unpacking a layer"))?,
            name: hidden,
            path: place.path,
        };
        match hidden.kind()? {
            Some(FileType::Directory) => opaque(&hidden),
            // Hides what is below anyway.
            Some(_) => Ok(()),
            None => {
                let kind = FileType::CharacterDevice;
                mknodat(&hidden.parent, hidden.name, kind, Mode::empty(), 0)
                    .map_err(hidden.failed())
            }
        }
    }
}

fn opaque(place: &Place<'_>) -> Result<(), ImageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(&place.parent, place.name, flags, Mode::empty())
        .and_then(|dir| set_opaque(dir.as_fd()))
        .map_err(place.failed())
}

/// Only root can set the usual attribute; without it, overlayfs looks at one that anybody may set.
fn set_opaque(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    let name = match geteuid().is_root() {
        true => "trusted.overlay.opaque",
        false => "user.overlay.opaque",
    };
    fsetxattr(dir, name, b"y", XattrFlags::empty())
}

fn file(place: &Place<'_>, entry: &mut Entry<'_, Metered<'_>>) -> Result<(), ImageError> {
    place.clear()?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&place.parent, place.name, flags, Mode::RUSR).map_err(place.failed())?;
    let mut file = File::from(file);
    let size = entry.size();
    let copied = io::copy(entry, &mut file).map_err(ImageError::io("unpacking a layer"))?;
    if copied != size {
        return Err(place.refused("is cut short"));
    }
    // Whom the owner's rights were meant for, the function's user stands in for.
    let owner = 0o400 | entry.header().mode().unwrap_or(0o644) & 0o100;
    let mode = owner | owner >> 3 | owner >> 6;
    fchmod(&file, Mode::from_raw_mode(mode)).map_err(place.failed())?;
    // Compiled Python is of use only while its source has the time that it was compiled for.
    let seconds = entry.header().mtime().unwrap_or(0).min(i64::MAX as u64) as i64;
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    // A time that the disk can't keep is no reason to refuse the file.
    let _ = futimens(&file, &times);
    Ok(())
}
