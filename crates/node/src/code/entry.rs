//! What an entry of an archive may be: one check, whatever the format.
//!
//! No I/O here. The readers of the formats (`tarball`, `zipfile`) describe what they found as an
//! [`Entry`] and leave the judgement to [`check_entry`]; nothing is made of an archive but what it
//! returned.

use std::path::PathBuf;

use super::error::shown;
use super::tree::{Node, Tree, entry_path, link_target};
use super::{CodeError, CodeLimits, EntryProblem};

/// An entry as it stands in an archive. Nothing in it is trusted.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) path: &'a [u8],
    pub(super) kind: Kind<'a>,
}

#[derive(Debug)]
pub(super) enum Kind<'a> {
    Directory,
    File {
        /// As declared; who reads the content holds it against this.
        size: u64,
        executable: bool,
        modified_unix: u64,
    },
    Link {
        target: &'a [u8],
    },
    /// A second name of a file that comes before it.
    HardLink {
        target: &'a [u8],
    },
    /// What the format can say and no code needs: devices, encryption.
    Unsupported(EntryProblem),
}

/// How an entry that was admitted is to be made.
#[derive(Debug)]
pub(super) enum Make {
    Directory,
    File {
        executable: bool,
        modified_unix: u64,
    },
    Link {
        target: PathBuf,
    },
    /// A second name of a file that was made before.
    HardLink {
        target: PathBuf,
    },
}

/// An entry that may be made. Missing parents are to be made as well.
#[derive(Debug)]
pub(super) struct Admitted {
    /// Relative, of normal names only.
    pub(super) path: PathBuf,
    pub(super) make: Make,
}

/// Checks an entry by itself and against those before it, which `tree` has. `None` for the root,
/// which is there anyway.
pub(super) fn check_entry(
    tree: &mut Tree,
    entry: &Entry<'_>,
    limits: &CodeLimits,
) -> Result<Option<Admitted>, CodeError> {
    let refused = |problem| CodeError::Entry {
        path: shown(entry.path),
        problem,
    };
    let path = entry_path(entry.path, limits).map_err(refused)?;
    if path.as_os_str().is_empty() {
        return match entry.kind {
            Kind::Directory => Ok(None),
            _ => Err(refused(EntryProblem::Nameless)),
        };
    }
    let (make, node) = match &entry.kind {
        Kind::Directory => (Make::Directory, Node::Directory),
        Kind::File { size, .. } if *size > limits.file_bytes_max => {
            return Err(refused(EntryProblem::FileTooLarge {
                bytes_max: limits.file_bytes_max,
            }));
        }
        &Kind::File {
            executable,
            modified_unix,
            ..
        } => {
            let make = Make::File {
                executable,
                modified_unix,
            };
            (make, Node::File)
        }
        Kind::Link { target } => {
            let target = link_target(target, limits).map_err(refused)?;
            let node = Node::Link(target.clone());
            (Make::Link { target }, node)
        }
        Kind::HardLink { target } => {
            let wanted = || EntryProblem::HardLinkTarget {
                target: shown(target),
            };
            let target = entry_path(target, limits).map_err(|_| refused(wanted()))?;
            if !tree.is_file(&target) || target == path {
                return Err(refused(wanted()));
            }
            (Make::HardLink { target }, Node::File)
        }
        Kind::Unsupported(problem) => return Err(refused(problem.clone())),
    };
    tree.admit(&path, node, limits)?;
    Ok(Some(Admitted { path, make }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    const LIMITS: CodeLimits = CodeLimits {
        unpacked_bytes_max: 1000,
        file_bytes_max: 100,
        entries_max: 20,
        path_bytes_max: 24,
        depth_max: 4,
    };

    /// Made of the few things that paths are attacked with, so that entries meet each other.
    fn path() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            4 => Just(&b"a"[..]),
            4 => Just(&b"b"[..]),
            2 => Just(&b".."[..]),
            1 => Just(&b"."[..]),
            1 => Just(&b""[..]),
            1 => Just(&b"\xff"[..]),
            1 => Just(&b"\0"[..]),
            1 => Just(&b"c:\\d"[..]),
        ];
        prop_oneof![
            9 => proptest::collection::vec(part, 0..6).prop_map(|parts| parts.join(&b'/')),
            1 => proptest::collection::vec(any::<u8>(), 0..40),
        ]
    }

    type Owned = (u8, Vec<u8>, Vec<u8>, u64);

    fn any_entry() -> impl Strategy<Value = Owned> {
        (0_u8..5, path(), path(), 0_u64..200)
    }

    fn kind((kind, _, target, size): &Owned) -> Kind<'_> {
        match kind {
            0 => Kind::Directory,
            1 => Kind::File {
                size: *size,
                executable: false,
                modified_unix: 0,
            },
            2 => Kind::Link { target },
            3 => Kind::HardLink { target },
            _ => Kind::Unsupported(EntryProblem::Kind("device")),
        }
    }

    fn is_plain(path: &Path) -> bool {
        !path.as_os_str().is_empty()
            && path
                .components()
                .all(|component| matches!(component, Component::Normal(_)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever an archive says, what may be made stays below the root and within the limits,
        /// and none of it is reached through a link.
        #[test]
        fn what_is_admitted_stays_inside(entries in proptest::collection::vec(any_entry(), 1..12)) {
            let mut tree = Tree::default();
            // Files and links; whether it is a link.
            let mut made: BTreeMap<PathBuf, bool> = BTreeMap::new();
            for owned in &entries {
                let entry = Entry { path: &owned.1, kind: kind(owned) };
                let Ok(Some(admitted)) = check_entry(&mut tree, &entry, &LIMITS) else { continue };
                prop_assert!(is_plain(&admitted.path), "{admitted:?}");
                prop_assert!(admitted.path.as_os_str().len() <= LIMITS.path_bytes_max);
                prop_assert!(admitted.path.components().count() <= LIMITS.depth_max);
                prop_assert!(!matches!(entry.kind, Kind::Unsupported(_)));
                for parent in admitted.path.ancestors().skip(1) {
                    prop_assert!(made.get(parent) != Some(&true), "{admitted:?} goes through a link");
                }
                match &admitted.make {
                    Make::HardLink { target } => {
                        prop_assert!(is_plain(target));
                        prop_assert_eq!(made.get(target), Some(&false), "{:?}", admitted);
                    }
                    Make::Link { target } => prop_assert!(!target.has_root()),
                    Make::File { .. } => prop_assert!(owned.3 <= LIMITS.file_bytes_max),
                    Make::Directory => {
                        made.remove(&admitted.path);
                        continue;
                    }
                }
                made.insert(admitted.path, matches!(admitted.make, Make::Link { .. }));
                prop_assert!(made.len() <= LIMITS.entries_max);
            }
        }
    }
}
