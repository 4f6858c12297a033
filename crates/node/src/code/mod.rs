//! The code of functions: archives in files named by their digest, and their contents unpacked.
//!
//! Archives come from strangers: tar, tar.gz or zip (so also jar), told apart by their first bytes.
//! They are walked entry by entry and checked whole before anything is kept (`archive`, `entry`,
//! `tree`); nothing here runs or interprets what is in them. An archive is
//! on disk, synced, before [`CodeStore::put`] returns. The unpacked directory is a cache: made at
//! the first use, moved into place by one rename, thrown away when the machine (not just the node)
//! was restarted, because it is never synced. All of this is file work: call it off the async
//! threads.

mod archive;
mod entry;
mod error;
mod inner;
mod tarball;
#[cfg(test)]
mod tests;
mod tree;
mod unpack;
mod zipfile;

use std::collections::HashMap;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use self::archive::Format;
pub use self::error::{CodeError, EntryProblem};

/// What the code of one function may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeLimits {
    /// Bytes of all files together, unpacked: `code.size_max`.
    pub unpacked_bytes_max: u64,
    /// Bytes of one file, unpacked: `code.file_size_max`.
    pub file_bytes_max: u64,
    /// Files, directories and links together: `code.entries_max`.
    pub entries_max: usize,
    /// Bytes of a path in the archive, also of a link's target: `code.path_max`.
    pub path_bytes_max: usize,
    /// Names in a path: `code.depth_max`.
    pub depth_max: usize,
}

/// SHA-256 of an archive as it was sent; in text, 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(Box<str>);

impl Digest {
    /// Of these bytes.
    pub fn of(archive: &[u8]) -> Self {
        Self(hex::encode(Sha256::digest(archive)).into())
    }

    /// Reads what [`Digest::as_str`] wrote.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        let valid =
            text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(CodeError::Digest(text.into()))
        }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Digest({})", self.0)
    }
}

/// How the files of archives end. Tars are kept compressed, zips as they came.
const TAR_SUFFIX: &str = ".tar.gz";
/// How a compressed tar begins.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZIP_SUFFIX: &str = ".zip";
const SUFFIXES: [&str; 2] = [TAR_SUFFIX, ZIP_SUFFIX];
/// Whatever has this prefix was being made when the process ended.
const TEMPORARY_PREFIX: &str = "tmp-";
const EMPTY: &str = "empty";
const BOOT_ID: &str = "boot-id";

/// Code by digest, in one directory. Safe to use from many threads.
#[derive(Debug)]
pub struct CodeStore {
    directory: PathBuf,
    limits: CodeLimits,
    temporaries: AtomicU64,
    /// One lock per digest that is being unpacked, so that a burst of cold starts unpacks once.
    unpacking: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
}

impl CodeStore {
    /// Opens the store in `directory`, which is made if it is missing, and removes what a crash
    /// left. A directory belongs to one process: the caller sees to that (the `store`'s lock).
    pub fn open(directory: &Path, limits: CodeLimits) -> Result<Self, CodeError> {
        // Sandboxed users pass through it to code they were given; they can't list the rest.
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(directory);
        made.map_err(CodeError::io("creating the directory", directory))?;
        let store = Self {
            directory: directory.to_path_buf(),
            limits,
            temporaries: AtomicU64::new(0),
            unpacking: Mutex::default(),
        };
        store.clean()?;
        Ok(store)
    }

    /// Checks an archive (tar, tar.gz or zip; no bytes at all are no files) and keeps it.
    pub fn put(&self, archive: &[u8]) -> Result<Digest, CodeError> {
        let digest = Digest::of(archive);
        let format = Format::of(archive);
        let suffix = match format {
            Ok(Format::Zip) => ZIP_SUFFIX,
            _ => TAR_SUFFIX,
        };
        let path = self.path(&digest, suffix);
        if path.exists() {
            return Ok(digest);
        }
        archive::walk(io::Cursor::new(archive), &self.limits, |_, content| {
            io::copy(content, &mut io::sink()).map(drop)
        })?;
        let temporary = self.temporary();
        // Always compressed: an archive is written once and read rarely.
        let written = write_archive(&temporary, archive, format == Ok(Format::Tar))
            .and_then(|()| std::fs::rename(&temporary, &path))
            .and_then(|()| File::open(&self.directory)?.sync_all());
        written.map_err(|error| {
            let _ = std::fs::remove_file(&temporary);
            CodeError::io("writing the archive", &path)(error)
        })?;
        Ok(digest)
    }

    /// The directory with the contents of an archive, unpacked now if need be. Read-only by
    /// convention: files are 0644 or 0755 and belong to the node's user.
    pub fn dir(&self, digest: &Digest) -> Result<PathBuf, CodeError> {
        let target = self.directory.join(digest.as_str());
        if target.is_dir() {
            return Ok(target);
        }
        let lock = Arc::clone(self.unpacking().entry(digest.clone()).or_default());
        let guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let unpacked = if target.is_dir() {
            Ok(())
        } else {
            self.unpack(digest, &target)
        };
        drop(guard);
        self.unpacking().remove(digest);
        unpacked.map(|()| target)
    }

    /// A directory with nothing in it, for functions without code.
    pub fn empty_dir(&self) -> Result<PathBuf, CodeError> {
        let path = self.directory.join(EMPTY);
        match unpack::make_directory(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(CodeError::io("creating the directory", &path)(error))
            }
            _ => Ok(path),
        }
    }

    /// The archive, to be handed on: a tar as such where that is not larger than `bytes_max`, since
    /// not everybody reads compressed ones, else as it is kept. `None` if that is larger, too.
    pub fn archive(&self, digest: &Digest, bytes_max: usize) -> Result<Option<Vec<u8>>, CodeError> {
        let limit = bytes_max as u64 + 1;
        let within = |bytes: Vec<u8>| (bytes.len() <= bytes_max).then_some(bytes);
        let read = |source: &mut dyn io::Read| {
            let mut bytes = Vec::new();
            let path = self.directory.join(digest.as_str());
            let read = source.take(limit).read_to_end(&mut bytes);
            read.map_err(CodeError::io("reading the archive", &path))?;
            Ok::<_, CodeError>(within(bytes))
        };
        let kept = read(&mut self.open_archive(digest)?)?;
        match &kept {
            Some(bytes) if bytes.starts_with(&GZIP_MAGIC) => {
                let plain = read(&mut flate2::read::MultiGzDecoder::new(&bytes[..]))?;
                Ok(plain.or(kept))
            }
            _ => Ok(kept),
        }
    }

    /// Whether the archive is here.
    pub fn has(&self, digest: &Digest) -> bool {
        let mut paths = SUFFIXES.iter().map(|suffix| self.path(digest, suffix));
        paths.any(|path| path.exists())
    }

    /// Bytes of the archive as it is kept; `None` if it isn't here.
    pub fn kept_bytes(&self, digest: &Digest) -> Option<u64> {
        let mut paths = SUFFIXES.iter().map(|suffix| self.path(digest, suffix));
        paths.find_map(|path| Some(path.metadata().ok()?.len()))
    }

    /// The archive byte for byte as it was sent, if it isn't larger than `bytes_max`.
    pub fn as_sent(&self, digest: &Digest, bytes_max: usize) -> Result<Option<Vec<u8>>, CodeError> {
        let read = |source: &mut dyn io::Read| {
            let mut bytes = Vec::new();
            let path = self.directory.join(digest.as_str());
            let read = source.take(bytes_max as u64 + 1).read_to_end(&mut bytes);
            read.map_err(CodeError::io("reading the archive", &path))?;
            Ok::<_, CodeError>((bytes.len() <= bytes_max).then_some(bytes))
        };
        let kept = read(&mut self.open_archive(digest)?)?;
        let is_it = |bytes: &Vec<u8>| Digest::of(bytes) == *digest;
        match kept {
            // A tar was compressed here.
            Some(kept) if !is_it(&kept) => {
                let plain = read(&mut flate2::read::MultiGzDecoder::new(&kept[..]))?;
                Ok(plain.filter(is_it))
            }
            kept => Ok(kept),
        }
    }

    /// Removes an archive and its directory. Not being there is fine. Sandboxes that still use the
    /// directory lose their files: remove what nobody runs.
    pub fn remove(&self, digest: &Digest) -> Result<(), CodeError> {
        for archive in SUFFIXES.map(|suffix| self.path(digest, suffix)) {
            match std::fs::remove_file(&archive) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(CodeError::io("removing", &archive)(error));
                }
                _ => {}
            }
        }
        self.remove_directory(&self.directory.join(digest.as_str()))
    }

    /// Everything that is kept, sorted.
    pub fn digests(&self) -> Result<Vec<Digest>, CodeError> {
        let mut digests = Vec::new();
        for name in self.names()? {
            let stem = SUFFIXES
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .unwrap_or(&name);
            digests.extend(Digest::parse(stem));
        }
        digests.sort_unstable();
        digests.dedup();
        Ok(digests)
    }

    fn unpack(&self, digest: &Digest, target: &Path) -> Result<(), CodeError> {
        let file = self.open_archive(digest)?;
        let temporary = self.temporary();
        let unpacked = unpack::unpack(file, &self.limits, &temporary)
            .and_then(|()| inner::unpack_inner(&temporary, &self.limits));
        let moved = unpacked.and_then(|()| match std::fs::rename(&temporary, target) {
            // Somebody else was faster, with the same contents.
            Err(_) if target.is_dir() => self.remove_directory(&temporary),
            renamed => renamed.map_err(CodeError::io("moving into place", target)),
        });
        if moved.is_err() {
            let _ = std::fs::remove_dir_all(&temporary);
        }
        moved
    }

    fn open_archive(&self, digest: &Digest) -> Result<File, CodeError> {
        for path in SUFFIXES.map(|suffix| self.path(digest, suffix)) {
            match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened.map_err(CodeError::io("opening", &path)),
            }
        }
        Err(CodeError::Missing(digest.clone()))
    }

    /// By a new name first, so that no half-removed directory is ever taken for a whole one.
    fn remove_directory(&self, path: &Path) -> Result<(), CodeError> {
        let temporary = self.temporary();
        match std::fs::rename(path, &temporary) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(CodeError::io("removing", path))?,
        }
        std::fs::remove_dir_all(&temporary).map_err(CodeError::io("removing", &temporary))
    }

    /// Removes half-made things; after a restart of the machine also everything unpacked, since it
    /// may have reached the disk in part.
    fn clean(&self) -> Result<(), CodeError> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let marker = self.directory.join(BOOT_ID);
        let same_boot =
            !boot.is_empty() && std::fs::read_to_string(&marker).is_ok_and(|former| former == boot);
        for name in self.names()? {
            let path = self.directory.join(&name);
            let unpacked = Digest::parse(&name).is_ok();
            if name.starts_with(TEMPORARY_PREFIX) || (unpacked && !same_boot) {
                let is_directory = path
                    .symlink_metadata()
                    .is_ok_and(|metadata| metadata.is_dir());
                let removed = match is_directory {
                    true => std::fs::remove_dir_all(&path),
                    false => std::fs::remove_file(&path),
                };
                removed.map_err(CodeError::io("removing", &path))?;
            }
        }
        std::fs::write(&marker, boot).map_err(CodeError::io("writing", &marker))
    }

    fn names(&self) -> Result<Vec<String>, CodeError> {
        let failed = CodeError::io("reading the directory", &self.directory);
        let entries = std::fs::read_dir(&self.directory)
            .and_then(|entries| entries.collect::<io::Result<Vec<_>>>())
            .map_err(failed)?;
        // Names that aren't UTF-8 aren't ours.
        Ok(entries
            .into_iter()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect())
    }

    fn path(&self, digest: &Digest, suffix: &str) -> PathBuf {
        self.directory.join(format!("{digest}{suffix}"))
    }

    fn temporary(&self) -> PathBuf {
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        self.directory.join(format!("{TEMPORARY_PREFIX}{number}"))
    }

    fn unpacking(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<Mutex<()>>>> {
        self.unpacking
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_archive(path: &Path, archive: &[u8], compress: bool) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    if compress {
        let mut encoder = flate2::write::GzEncoder::new(&mut file, flate2::Compression::fast());
        encoder.write_all(archive)?;
        encoder.finish()?;
    } else {
        file.write_all(archive)?;
    }
    file.sync_all()
}
