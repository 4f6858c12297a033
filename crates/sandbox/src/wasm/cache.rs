//! Compiled code on disk, under a digest of the module and of whatever else decides what becomes of
//! it. Only the node's user may enter the directory: what is read here is run.
//!
//! A file is a digest of the rest and the rest, so that one that was damaged, or written half when
//! the machine stopped, is not run but compiled anew. Nothing here is needed: when the disk is full
//! or not to be written to, functions are compiled at each start.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use tracing::warn;

/// Bytes of all files together. Those that were written first go first.
const CACHE_BYTES_MAX: u64 = 1 << 30;

const SUFFIX: &str = "cwasm";
const TEMPORARY_PREFIX: &str = "tmp-";
const DIGEST_BYTES: usize = 32;

/// What a module is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(String);

impl Key {
    /// Of a module, compiled as `compatibility` says.
    pub(super) fn of(module: &[u8], compatibility: &[u8]) -> Self {
        let mut digest = Sha256::new();
        digest.update((compatibility.len() as u64).to_le_bytes());
        digest.update(compatibility);
        digest.update(module);
        let digest = digest.finalize();
        Key(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// The directory.
#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    temporaries: AtomicU64,
}

impl Cache {
    /// Opens it, makes it if need be, and takes it from others.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with(TEMPORARY_PREFIX)
            {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Cache {
            dir: dir.to_owned(),
            temporaries: AtomicU64::new(0),
        })
    }

    /// What was kept under `key`, if it is whole.
    pub(super) fn get(&self, key: &Key) -> Option<Vec<u8>> {
        let path = self.path(key);
        let mut file = File::open(&path).ok()?;
        let mut digest = [0; DIGEST_BYTES];
        let mut rest = Vec::new();
        let whole = file.read_exact(&mut digest).is_ok()
            && file.read_to_end(&mut rest).is_ok()
            && Sha256::digest(&rest)[..] == digest;
        if !whole {
            warn!(file = %path.display(), "compiled code was damaged and is made anew");
            return None;
        }
        Some(rest)
    }

    /// Keeps `compiled` under `key`, if the disk lets us.
    pub(super) fn put(&self, key: &Key, compiled: &[u8]) {
        let path = self.path(key);
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let temporary = self.dir.join(format!("{TEMPORARY_PREFIX}{number}"));
        let written = write(&temporary, compiled).and_then(|()| fs::rename(&temporary, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            warn!(file = %path.display(), %error, "compiled code could not be kept");
        }
        if let Err(error) = self.prune(CACHE_BYTES_MAX) {
            warn!(dir = %self.dir.display(), %error, "old compiled code could not be removed");
        }
    }

    /// Removes the oldest until the rest is not more than `bytes_max`.
    fn prune(&self, bytes_max: u64) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            // Another thread may prune, too.
            if let Ok(metadata) = fs::metadata(&path)
                && path.extension().is_some_and(|end| end == SUFFIX)
            {
                files.push((metadata.modified()?, metadata.len(), path));
            }
        }
        files.sort_unstable();
        let mut total: u64 = files.iter().map(|(_, length, _)| length).sum();
        for (_, length, path) in files {
            if total <= bytes_max {
                break;
            }
            total -= length;
            let _ = fs::remove_file(path);
        }
        Ok(())
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.dir.join(&key.0).with_extension(SUFFIX)
    }
}

fn write(path: &Path, compiled: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&Sha256::digest(compiled))?;
    file.write_all(compiled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_whole_comes_back_and_what_is_damaged_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wasm");
        let (cache, key) = (Cache::open(&path).unwrap(), Key::of(b"module", b"engine"));
        assert_ne!(key, Key::of(b"module", b"other"));
        assert_eq!(cache.get(&key), None);
        cache.put(&key, b"compiled");
        assert_eq!(cache.get(&key).unwrap(), b"compiled");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&cache.path(&key))), (0o700, 0o600));
        for damaged in [&b"comp"[..], &[0; 50], b""] {
            fs::write(cache.path(&key), damaged).unwrap();
            assert_eq!(cache.get(&key), None);
        }
        cache.put(&key, b"again");
        assert_eq!(cache.get(&key).unwrap(), b"again");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    }

    #[test]
    fn the_oldest_go_when_there_is_too_much() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let keys = [b"a", b"b", b"c"].map(|module| Key::of(module, b""));
        for (age, key) in keys.iter().enumerate() {
            cache.put(key, &[0; 100]);
            let then = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age as u64);
            let file = File::options().write(true).open(cache.path(key)).unwrap();
            file.set_modified(then).unwrap();
        }
        cache.prune(2 * 132).unwrap();
        let kept = keys.map(|key| cache.get(&key).is_some());
        assert_eq!(kept, [false, true, true]);
    }
}
