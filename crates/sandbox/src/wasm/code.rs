//! Finding a function's module among its files.

use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use crate::types::FunctionError;

/// Largest module, bytes. Compiling takes many times that.
pub(super) const MODULE_BYTES_MAX: u64 = 64 << 20;

/// What every module and component begins with.
const MAGIC: &[u8; 4] = b"\0asm";

const SUFFIX: &str = "wasm";

/// The file that `handler` names. Without a handler, or if there is no such file, it is the only
/// `.wasm` file at the top.
pub(super) fn find(code_dir: &Path, handler: &str) -> Result<PathBuf, FunctionError> {
    let inside = Path::new(handler)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !handler.is_empty() && inside && code_dir.join(handler).is_file() {
        return Ok(code_dir.join(handler));
    }
    let entries = std::fs::read_dir(code_dir).map_err(unreadable)?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == SUFFIX) && path.is_file())
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(path), true) => Ok(path),
        (None, _) => Err(load(
            "the code has no `.wasm` file at its top: compile the function for wasm32-wasip1 or \
             wasm32-wasip2",
        )),
        (Some(_), false) => Err(load(&format!(
            "the code has several `.wasm` files, and no file `{handler}`: name one as the handler"
        ))),
    }
}

/// Whether it begins as WebAssembly does, and isn't too large.
pub(super) fn check_magic(path: &Path) -> Result<(), FunctionError> {
    let mut file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    if length > MODULE_BYTES_MAX {
        return Err(load(&format!(
            "`{}` has {length} bytes, at most {MODULE_BYTES_MAX} are compiled",
            name(path)
        )));
    }
    let mut magic = [0; MAGIC.len()];
    let whole = file.read_exact(&mut magic).is_ok();
    if whole && magic == *MAGIC {
        return Ok(());
    }
    Err(load(&format!("`{}` is not WebAssembly", name(path))))
}

/// Its bytes, checked as [`check_magic`] does.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, FunctionError> {
    check_magic(path)?;
    std::fs::read(path).map_err(unreadable)
}

pub(super) fn load(message: &str) -> FunctionError {
    FunctionError {
        kind: "LoadError".to_owned(),
        message: message.to_owned(),
        stack: String::new(),
    }
}

fn unreadable(error: std::io::Error) -> FunctionError {
    load(&format!("the code could not be read: {error}"))
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handlers_file_or_the_only_one_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let found = |handler: &str| find(dir.path(), handler).map(|path| name(&path));
        let why = |handler: &str| found(handler).unwrap_err().message;
        assert!(why("").contains("no `.wasm` file"));
        std::fs::write(dir.path().join("a.wasm"), b"\0asm\x01\0\0\0").unwrap();
        for handler in [
            "",
            "a.wasm",
            "./a.wasm",
            "anything",
            "../a.wasm",
            "/etc/passwd",
        ] {
            assert_eq!(found(handler).unwrap(), "a.wasm", "{handler}");
        }
        std::fs::write(dir.path().join("b.wasm"), b"\x7fELF").unwrap();
        assert_eq!(found("b.wasm").unwrap(), "b.wasm");
        assert!(why("c.wasm").contains("several"));
        assert_eq!(check_magic(&dir.path().join("a.wasm")), Ok(()));
        let wrong = check_magic(&dir.path().join("b.wasm")).unwrap_err();
        assert!(wrong.message.contains("`b.wasm` is not WebAssembly"));
    }
}
