//! `--src`: what is sent as a function's code.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Failure;

/// The value of `TarFunctionCode`.
pub(crate) fn encode(source: &str) -> Result<String, Failure> {
    if is_url(source) {
        return Ok(STANDARD.encode(source));
    }
    let path = Path::new(source);
    let unreadable =
        |error: std::io::Error| Failure::source(format!("Could not read '{source}': {error}"));
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::source(format!("Missing source file: '{source}' does not exist"))
        }
        _ => unreadable(error),
    })?;
    let archive = path.extension().is_some_and(|extension| extension == "tar");
    if !metadata.is_file() && !metadata.is_dir() {
        return Err(Failure::source(format!(
            "Could not read '{source}': it is neither a file nor a directory"
        )));
    }
    let tar = if metadata.is_file() && archive {
        std::fs::read(path).map_err(unreadable)?
    } else {
        pack(path, source.ends_with('/'), metadata.is_dir()).map_err(unreadable)?
    };
    Ok(STANDARD.encode(tar))
}

/// Whether the node is to fetch it.
pub(crate) fn is_url(source: &str) -> bool {
    source.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty()
            && scheme
                .chars()
                .all(|char| char.is_ascii_alphanumeric() || "+-.".contains(char))
            && !rest.is_empty()
            && !rest.starts_with('/')
    })
}

/// A file under its own name; a directory under its name, or its contents if the path ends with a
/// slash. Links and special files in it are left out.
fn pack(path: &Path, contents: bool, directory: bool) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    // A link's own name, since the handler goes by it; `.` and `..` have only the real one.
    let name = match path.file_name() {
        Some(name) => PathBuf::from(name),
        None => PathBuf::from(std::fs::canonicalize(path)?.file_name().unwrap_or_default()),
    };
    if !directory {
        append_file(&mut archive, path, &name)?;
    } else if contents {
        append(&mut archive, path, Path::new(""))?;
    } else {
        append(&mut archive, path, &name)?;
    }
    archive.into_inner()
}

fn append(archive: &mut tar::Builder<Vec<u8>>, from: &Path, to: &Path) -> std::io::Result<()> {
    let mut entries = std::fs::read_dir(from)?.collect::<Result<Vec<_>, _>>()?;
    // The same directory gives the same archive, and so the same digest.
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            append(archive, &path, &name)?;
        } else if kind.is_file() {
            append_file(archive, &path, &name)?;
        }
    }
    Ok(())
}

/// A plain entry with permissions, owner and time, also for a sparse file.
fn append_file(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &Path,
    name: &Path,
) -> std::io::Result<()> {
    let content = std::fs::read(path)?;
    let mut header = tar::Header::new_gnu();
    header.set_metadata(&std::fs::metadata(path)?);
    // Without the bits of the file's type, which the entry's type tells; the file may have grown.
    header.set_mode(header.mode()? & 0o7777);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, name, content.as_slice())
}

/// Runtime and handler that a source's name suggests.
pub(crate) fn suggestion(source: &str) -> Option<(&'static str, String)> {
    let path = Path::new(source);
    let stem = path.file_stem()?.to_str()?;
    match path.extension()?.to_str()? {
        "py" => Some(("python314", format!("{stem}.handler"))),
        "js" | "mjs" | "cjs" => Some(("nodejs17ng", path.file_name()?.to_str()?.to_owned())),
        "wasm" => Some(("wasm", path.file_name()?.to_str()?.to_owned())),
        _ => None,
    }
}
