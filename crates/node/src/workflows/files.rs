//! Items of distributed Maps: read from files and URLs, results written to files.
//!
//! Files are those below the directories of `workflow.files`, and no others: every path is resolved
//! by the kernel beneath such a directory. A bucket of S3 that `workflow.s3.buckets` doesn't name
//! (`objects`) is a directory of that name there, so that definitions for AWS run unchanged. What the
//! bytes mean is the interpreter's business.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2};
use rustix::fs::{fsync, renameat, unlinkat};
use serde_json::Value;
use serverledge_asl::resource::ObjectAction;
use serverledge_asl::{Invocation as Task, Purpose};

use super::results::{self, MANIFEST};
use super::task::{Done, TaskError};
use super::{Context, objects};
use crate::fetch::CodeUrl;
use crate::node::Node;

/// Longest path that a definition may name, bytes.
const PATH_MAX: usize = 4096;

/// What reader and writer are told of places.
struct Place {
    /// Below one of the directories.
    path: PathBuf,
    /// What the answer calls it.
    bucket: Option<String>,
}

/// Reads the items of a Map, or writes its results.
pub(crate) async fn run(node: &Arc<Node>, context: &Context, task: &Task) -> Done {
    let kind = Kind::of(&task.resource);
    let bucket = task.arguments.get("Bucket").and_then(Value::as_str);
    let is_object = bucket.is_some_and(|bucket| objects::has(node, bucket));
    let is_nowhere = !is_object && node.config.workflow.files.is_empty();
    let result = match (task.purpose, kind) {
        (_, Some(Kind::Object(_))) if is_nowhere => Err(format!(
            "the bucket {} is neither in workflow.s3.buckets nor below a directory of workflow.files",
            bucket.unwrap_or_default()
        )),
        (Purpose::ItemReader, Some(Kind::Url)) => from_url(node, task).await,
        (Purpose::ItemReader, Some(Kind::Object(ObjectAction::Get))) if is_object => {
            objects::read(node, task).await
        }
        (Purpose::ItemReader, Some(Kind::Object(ObjectAction::List))) if is_object => {
            objects::list(node, task).await
        }
        (Purpose::ItemReader, Some(Kind::Object(ObjectAction::List))) => Err(format!(
            "the bucket {} is not in workflow.s3.buckets, and only those can be listed",
            bucket.unwrap_or_default()
        )),
        (Purpose::ItemReader, Some(kind @ (Kind::File | Kind::Object(ObjectAction::Get)))) => {
            from_file(node, task, kind).await
        }
        (Purpose::ResultWriter, Some(Kind::Object(ObjectAction::Put))) if is_object => {
            objects::write(node, context, task).await
        }
        (Purpose::ResultWriter, Some(Kind::File | Kind::Object(ObjectAction::Put))) => {
            to_file(node, context, task).await
        }
        _ => Err(format!(
            "'{}' is neither file, nor url, nor S3's getObject, listObjectsV2 or putObject",
            task.resource
        )),
    };
    match result {
        Ok(output) => Done::Ended(Ok((output, None))),
        Err(cause) => Done::failed(TaskError::new("States.TaskFailed", cause)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Url,
    Object(ObjectAction),
}

impl Kind {
    fn of(resource: &str) -> Option<Self> {
        match resource {
            "file" => Some(Self::File),
            "url" => Some(Self::Url),
            _ => ObjectAction::parse(resource).map(Self::Object),
        }
    }
}

async fn from_url(node: &Node, task: &Task) -> Result<Value, String> {
    let url = text(task, "Url")?;
    let url = CodeUrl::parse(url).map_err(|error| crate::chain(&error))?;
    let content = node.fetcher.fetch(&url).await;
    let content = content.map_err(|error| crate::chain(&error))?;
    check_size(content.len(), node)?;
    as_text(content.to_vec())
}

async fn from_file(node: &Arc<Node>, task: &Task, kind: Kind) -> Result<Value, String> {
    let path = match kind {
        Kind::Object(_) => Path::new(text(task, "Bucket")?).join(relative(text(task, "Key")?)),
        _ => PathBuf::from(text(task, "Path")?),
    };
    let node = Arc::clone(node);
    let read = tokio::task::spawn_blocking(move || read(&node, &path)).await;
    read.map_err(|error| error.to_string())?
}

fn read(node: &Node, path: &Path) -> Result<Value, String> {
    let file = open(node, path)?;
    let shown = path.display();
    let failed = |error: std::io::Error| format!("reading {shown}: {error}");
    let stat = fstat(&file).map_err(|error| failed(error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(format!("{shown} is not a file"));
    }
    check_size(usize::try_from(stat.st_size).unwrap_or(usize::MAX), node)?;
    let mut content = Vec::new();
    // It may grow meanwhile.
    let limit = node.config.workflow.items_bytes_max as u64 + 1;
    let mut file = File::from(file).take(limit);
    file.read_to_end(&mut content).map_err(failed)?;
    check_size(content.len(), node)?;
    as_text(content)
}

/// The file of that path, in the first directory that has it.
fn open(node: &Node, path: &Path) -> Result<OwnedFd, String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut error = None;
    for (root, inside) in candidates(node, path)? {
        let opened = directory(&root).and_then(|root| beneath(&root, &inside, flags));
        match opened {
            Ok(file) => return Ok(file),
            Err(found) => error = Some(found),
        }
    }
    let error = error.unwrap_or(rustix::io::Errno::NOENT);
    Err(format!("opening {}: {error}", path.display()))
}

/// Where a path may be: directories, with the way from there. A path from the root names its
/// directory.
fn candidates(node: &Node, path: &Path) -> Result<Vec<(PathBuf, PathBuf)>, String> {
    let roots = &node.config.workflow.files;
    if roots.is_empty() {
        return Err("no directory is set in workflow.files".to_owned());
    }
    if path.as_os_str().len() > PATH_MAX {
        return Err("the path is too long".to_owned());
    }
    let found: Vec<_> = roots
        .iter()
        .filter_map(|root| match path.is_absolute() {
            true => Some((root.clone(), path.strip_prefix(root).ok()?.to_owned())),
            false => Some((root.clone(), path.to_owned())),
        })
        .collect();
    match found.is_empty() {
        true => Err(format!(
            "{} is below none of workflow.files",
            path.display()
        )),
        false => Ok(found),
    }
}

fn directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// The kernel lets no part of the path, and no link, lead out.
fn beneath(root: &OwnedFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags, Mode::empty(), resolve)
}

async fn to_file(node: &Arc<Node>, context: &Context, task: &Task) -> Result<Value, String> {
    let bucket = task.arguments.get("Bucket").and_then(Value::as_str);
    let prefix = match bucket {
        Some(_) => task.arguments.get("Prefix").and_then(Value::as_str),
        None => Some(text(task, "Path")?),
    };
    let run = format!("{}-{}", context.id, task.task);
    let key = relative(prefix.unwrap_or_default()).join(&run);
    let place = Place {
        path: match (bucket, prefix.map(Path::new)) {
            (Some(bucket), _) => Path::new(bucket).join(&key),
            (None, Some(prefix)) => prefix.join(&run),
            (None, None) => key.clone(),
        },
        bucket: bucket.map(str::to_owned),
    };
    let results = task.arguments.get("Results").cloned().unwrap_or_default();
    let id = context.id.clone();
    let node = Arc::clone(node);
    let written =
        tokio::task::spawn_blocking(move || write(&node, &place, &key, &id, &results)).await;
    written.map_err(|error| error.to_string())?
}

/// Writes results and a list of what was written, which comes last.
fn write(
    node: &Node,
    place: &Place,
    key: &Path,
    id: &str,
    results: &Value,
) -> Result<Value, String> {
    let (root, inside) = candidates(node, &place.path)?.swap_remove(0);
    let shown = place.path.display();
    let failed = |error: std::io::Error| format!("writing to {shown}: {error}");
    let at = directory(&root).and_then(|root| make(root, &inside));
    let at = at.map_err(|error| failed(error.into()))?;
    let files = results::files(results);
    for file in &files {
        put(&at, &file.name, &file.content).map_err(failed)?;
    }
    let (bucket, directory) = (place.bucket.as_deref(), key.display().to_string());
    let manifest = results::manifest(bucket, &directory, id, &files);
    put(&at, MANIFEST, &manifest.to_string()).map_err(failed)?;
    Ok(results::answer(bucket, &directory, id))
}

/// The directory of that path, made with those above it as far as they are missing.
fn make(root: OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let mut at = root;
    for component in path.components() {
        let name = match component {
            Component::Normal(name) => Path::new(name),
            Component::CurDir => continue,
            // Not upwards.
            _ => return Err(rustix::io::Errno::XDEV),
        };
        match mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at = beneath(&at, name, flags)?;
    }
    Ok(at)
}

/// Puts a file in place, whole or not at all.
fn put(directory: &OwnedFd, name: &str, content: &str) -> std::io::Result<()> {
    let temporary = format!(".{name}.new");
    let _ = unlinkat(directory, &temporary, AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    let mut file = File::from(rustix::fs::openat(directory, &temporary, flags, mode)?);
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    renameat(directory, &temporary, directory, name)?;
    fsync(directory)?;
    Ok(())
}

/// A key of S3 may begin like a path from the root.
fn relative(key: &str) -> PathBuf {
    PathBuf::from(key.trim_start_matches('/'))
}

pub(super) fn text<'a>(task: &'a Task, name: &str) -> Result<&'a str, String> {
    let text = task.arguments.get(name).and_then(Value::as_str);
    text.filter(|text| !text.is_empty())
        .ok_or_else(|| format!("'{}' needs the parameter {name}", task.resource))
}

pub(super) fn check_size(bytes: usize, node: &Node) -> Result<(), String> {
    let bytes_max = node.config.workflow.items_bytes_max;
    match bytes > bytes_max {
        true => Err(format!(
            "the items take more than {bytes_max} bytes (workflow.items_bytes_max)"
        )),
        false => Ok(()),
    }
}

pub(super) fn as_text(content: Vec<u8>) -> Result<Value, String> {
    let text = String::from_utf8(content);
    text.map(Value::String)
        .map_err(|_| "the items are not UTF-8".to_owned())
}
