//! Writing the contents of an archive into a directory of their own.

use std::fs::{DirBuilder, FileTimes, OpenOptions, Permissions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::archive::walk;
use super::entry::{Admitted, Make};
use super::{CodeError, CodeLimits};

/// Unpacks into `root`, which must not exist. On an error, what is there is for the caller to
/// remove.
pub(super) fn unpack(
    archive: impl Read + Seek,
    limits: &CodeLimits,
    root: &Path,
) -> Result<(), CodeError> {
    make_directory(root).map_err(CodeError::io("creating the directory", root))?;
    let mut failure = None;
    let walked = walk(archive, limits, |entry, content| {
        make(root, entry, content).map_err(|error| {
            // The walk sees a copy; this one knows the file.
            let kind = error.kind();
            failure = Some((root.join(&entry.path), error));
            kind.into()
        })
    });
    match (walked, failure) {
        // Limits and damage show while content is read: the walk has the better words for them.
        (Err(CodeError::Malformed { .. }), Some((path, error))) => {
            Err(CodeError::io("unpacking", &path)(error))
        }
        (walked, _) => walked,
    }
}

/// Readable by everybody, whatever the umask: the function's user isn't the node's.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o755))
}

fn make(root: &Path, entry: &Admitted, content: &mut dyn Read) -> io::Result<()> {
    let path = root.join(&entry.path);
    make_parents(&path)?;
    match &entry.make {
        Make::Directory => match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => Ok(()),
            _ => {
                clear(&path)?;
                make_directory(&path)
            }
        },
        Make::File {
            executable,
            modified_unix,
        } => {
            clear(&path)?;
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&path)?;
            io::copy(content, &mut file)?;
            let mode = if *executable { 0o755 } else { 0o644 };
            file.set_permissions(Permissions::from_mode(mode))?;
            // Python takes compiled files only with the times of their sources. A time that the
            // file system can't hold is not worth failing for.
            if let Some(time) =
                SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(*modified_unix))
            {
                let _ = file.set_times(FileTimes::new().set_modified(time));
            }
            Ok(())
        }
        Make::Link { target } => {
            clear(&path)?;
            symlink(target, &path)
        }
        Make::HardLink { target } => {
            clear(&path)?;
            std::fs::hard_link(root.join(target), &path)
        }
    }
}

/// Parents in the archive that have no entry of their own.
fn make_parents(path: &Path) -> io::Result<()> {
    let missing = path
        .ancestors()
        .skip(1)
        .take_while(|parent| !parent.is_dir());
    let missing: Vec<_> = missing.collect();
    missing.into_iter().rev().try_for_each(make_directory)
}

/// Removes what an earlier entry of the same path made; a directory is empty then.
fn clear(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
