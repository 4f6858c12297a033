//! Removes what a killed node left behind.

use std::fs;
use std::io;
use std::path::Path;

use crate::cgroup::Groups;

/// What [`reap`] found and removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Sandboxes of which something was left.
    pub sandboxes: usize,
    /// Processes that were killed.
    pub processes: usize,
    /// What could not be removed, and why.
    pub problems: Vec<String>,
}

/// Removes what an earlier node with this state directory left behind when it was killed:
/// processes, cgroups, directories. Mounts are gone with the processes, as they are in namespaces.
/// Blocking; call it once at start, before [`super::OciBackend::start`], and only when no other
/// node uses the directory.
pub fn reap(state_dir: &Path) -> io::Result<Reaped> {
    let mut reaped = Reaped::default();
    let sandboxes = state_dir.join("sandboxes");
    let groups = Groups::open(state_dir);
    let mut names = Vec::new();
    for (name, group) in groups.leftovers() {
        reaped.processes += group.kill_all();
        if !group.remove() {
            reaped.problems.push(format!("cgroup {name}: still in use"));
        }
        names.push(name);
    }
    match fs::read_dir(&sandboxes) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry?;
                if let Err(error) = fs::remove_dir_all(entry.path()) {
                    let path = entry.path();
                    reaped.problems.push(format!("{}: {error}", path.display()));
                }
                names.extend(entry.file_name().into_string());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    names.sort();
    names.dedup();
    reaped.sandboxes = names.len();
    groups.close();
    Ok(reaped)
}
