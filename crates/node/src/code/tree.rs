//! The tree that an archive describes, built entry by entry: what may be where.
//!
//! Both the check of an archive and its unpacking go through [`Tree::admit`], so what is written
//! is what was checked. The invariant: all ancestors of an entry are directories, hence no write
//! ever passes through a link.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Bound;
use std::path::{Component, Path, PathBuf};

use super::error::shown;
use super::{CodeError, CodeLimits, EntryProblem};

/// Longest name in a path, in bytes: the limit of common file systems.
pub(super) const NAME_BYTES_MAX: usize = 255;

/// Names that following one link may pass. Links to links are rare, circles are useless.
const LINK_STEPS_MAX: usize = 256;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Directory,
    File,
    Link(PathBuf),
}

/// What an archive has described so far.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
}

impl Tree {
    /// Adds an entry, in place of an earlier one of the same path.
    pub(super) fn admit(
        &mut self,
        path: &Path,
        node: Node,
        limits: &CodeLimits,
    ) -> Result<(), CodeError> {
        self.admit_parents(path)?;
        let fits = match (self.nodes.get(path), &node) {
            (Some(Node::Directory), Node::Directory) => true,
            (Some(Node::Directory), _) => !self.has_children(path),
            _ => true,
        };
        if !fits {
            return Err(CodeError::entry(path, EntryProblem::ReplacesDirectory));
        }
        self.nodes.insert(path.to_path_buf(), node);
        if self.nodes.len() > limits.entries_max {
            return Err(CodeError::TooMany {
                entries_max: limits.entries_max,
            });
        }
        Ok(())
    }

    /// Whether there is a regular file at `path`.
    pub(super) fn is_file(&self, path: &Path) -> bool {
        self.nodes.get(path) == Some(&Node::File)
    }

    /// Checks what can only be known at the end: that no link leads outside, not even through
    /// others.
    pub(super) fn check_links(&self) -> Result<(), CodeError> {
        for (path, node) in &self.nodes {
            if let Node::Link(target) = node {
                self.follow(path, target)
                    .map_err(|problem| CodeError::entry(path, problem))?;
            }
        }
        Ok(())
    }

    /// A directory in the tree has all its ancestors there, so the first one found ends the search.
    fn admit_parents(&mut self, path: &Path) -> Result<(), CodeError> {
        let mut missing = Vec::new();
        for parent in path
            .ancestors()
            .skip(1)
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            match self.nodes.get(parent) {
                Some(Node::Directory) => break,
                Some(_) => {
                    let parent = shown(parent.as_os_str().as_encoded_bytes());
                    return Err(CodeError::entry(
                        path,
                        EntryProblem::InsideNonDirectory { parent },
                    ));
                }
                None => missing.push(parent.to_path_buf()),
            }
        }
        self.nodes
            .extend(missing.into_iter().map(|parent| (parent, Node::Directory)));
        Ok(())
    }

    fn has_children(&self, path: &Path) -> bool {
        let behind = (Bound::Excluded(path), Bound::Unbounded);
        let next = self.nodes.range::<Path, _>(behind).next();
        next.is_some_and(|(next, _)| next.starts_with(path))
    }

    /// Walks from the link to its target as the kernel would.
    fn follow(&self, link: &Path, target: &Path) -> Result<(), EntryProblem> {
        let shown = || shown(target.as_os_str().as_encoded_bytes());
        let mut at = link.parent().map(Path::to_path_buf).unwrap_or_default();
        let mut ahead = names_reversed(target);
        let mut steps = 0;
        while let Some(name) = ahead.pop() {
            steps += 1;
            if steps > LINK_STEPS_MAX {
                return Err(EntryProblem::LinkTangled { target: shown() });
            }
            if name == ".." {
                if !at.pop() {
                    return Err(EntryProblem::LinkOutside { target: shown() });
                }
                continue;
            }
            at.push(&name);
            if let Some(Node::Link(onward)) = self.nodes.get(&at) {
                at.pop();
                ahead.extend(names_reversed(onward));
            }
        }
        Ok(())
    }
}

/// Names of a relative path, the first one last; `..` among them, `.` not.
fn names_reversed(path: &Path) -> Vec<OsString> {
    let names = path
        .components()
        .filter(|component| *component != Component::CurDir);
    let mut names: Vec<_> = names.map(|name| name.as_os_str().to_os_string()).collect();
    names.reverse();
    names
}

/// The path of an entry without `.` and trailing slashes; empty for the root itself.
pub(super) fn entry_path(bytes: &[u8], limits: &CodeLimits) -> Result<PathBuf, EntryProblem> {
    let mut path = PathBuf::new();
    let mut depth = 0;
    for component in checked_path(bytes, limits)?.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => continue,
            Component::ParentDir => return Err(EntryProblem::ParentDirectory),
            Component::RootDir | Component::Prefix(_) => return Err(EntryProblem::Absolute),
        }
        depth += 1;
        if depth > limits.depth_max {
            return Err(EntryProblem::TooDeep {
                depth_max: limits.depth_max,
            });
        }
    }
    Ok(path)
}

/// The target of a symbolic link, which may have `..`: [`Tree::check_links`] sees where it leads.
pub(super) fn link_target(bytes: &[u8], limits: &CodeLimits) -> Result<PathBuf, EntryProblem> {
    let target = checked_path(bytes, limits).map_err(|problem| match problem {
        EntryProblem::Nameless => EntryProblem::NoTarget,
        other => other,
    })?;
    if target.has_root() {
        return Err(EntryProblem::LinkAbsolute {
            target: shown(bytes),
        });
    }
    Ok(target.to_path_buf())
}

fn checked_path<'a>(bytes: &'a [u8], limits: &CodeLimits) -> Result<&'a Path, EntryProblem> {
    use std::os::unix::ffi::OsStrExt as _;
    if bytes.is_empty() {
        return Err(EntryProblem::Nameless);
    }
    if bytes.contains(&0) {
        return Err(EntryProblem::ZeroByte);
    }
    if bytes.len() > limits.path_bytes_max {
        return Err(EntryProblem::PathTooLong {
            bytes_max: limits.path_bytes_max,
        });
    }
    if bytes
        .split(|byte| *byte == b'/')
        .any(|name| name.len() > NAME_BYTES_MAX)
    {
        return Err(EntryProblem::NameTooLong {
            bytes_max: NAME_BYTES_MAX,
        });
    }
    Ok(Path::new(std::ffi::OsStr::from_bytes(bytes)))
}
