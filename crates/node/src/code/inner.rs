//! Zips of programs within an archive. The original's packages of Go functions are such: an archive
//! that holds a zip with the programs `handler_amd64` and `handler_arm64`, which its sandboxes
//! unpacked at their start. Clients pack a zip made for AWS Lambda the same way. Here it is unpacked
//! once, with the archive itself. Any other zip in an archive is left as it is: it may be what
//! the function works on.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{CodeError, CodeLimits, unpack, zipfile};

/// Programs of Go functions, by architecture, and that of a function for Lambda.
const PROGRAMS: [&[u8]; 3] = [b"handler_amd64", b"handler_arm64", b"bootstrap"];
/// Such zips in one archive: one a program. Each is within the limits of an archive.
const ZIPS_MAX: usize = PROGRAMS.len();
/// Where an inner archive is unpacked first, beside the code, whose name is a temporary one.
const SUFFIX: &str = "inner";

/// Adds the contents of such zips to the unpacked code in `root`, which has precedence.
///
/// They are unpacked apart and then moved, so that nothing is ever written through a link of the
/// outer archive: each archive is checked for itself alone.
pub(super) fn unpack_inner(root: &Path, limits: &CodeLimits) -> Result<(), CodeError> {
    if PROGRAMS.iter().any(|name| path(root, name).exists()) {
        return Ok(());
    }
    let reading = CodeError::io("reading the directory", root);
    let mut zips = zips(root).map_err(reading)?;
    zips.truncate(ZIPS_MAX);
    for zip in zips {
        let file = File::open(&zip).map_err(CodeError::io("reading", &zip))?;
        let temporary = root.with_extension(SUFFIX);
        let moved = unpack::unpack(file, limits, &temporary)
            .and_then(|()| adopt(&temporary, root).map_err(CodeError::io("moving", &temporary)));
        // What is left of it was there already.
        let _ = std::fs::remove_dir_all(&temporary);
        moved?;
    }
    Ok(())
}

fn path(root: &Path, name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    root.join(std::ffi::OsStr::from_bytes(name))
}

/// The packages in the code's first level, in order of their names.
fn zips(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut zips = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let path = entry.path();
        let is_zip = path.extension().is_some_and(|end| end == "zip");
        if is_zip && entry.file_type()?.is_file() && has_program(&File::open(&path)?) {
            zips.push(path);
        }
    }
    zips.sort();
    Ok(zips)
}

/// One that can't be read is no package.
fn has_program(file: &File) -> bool {
    zipfile::any(file, |name| PROGRAMS.contains(&name)).unwrap_or(false)
}

/// Moves what isn't there yet.
fn adopt(from: &Path, to: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if target.symlink_metadata().is_err() {
            std::fs::rename(entry.path(), target)?;
        }
    }
    Ok(())
}
