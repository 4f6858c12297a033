//! The machine under the node: processes, cgroups and mounts, to see what a node leaves behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    // Root's own directory in /proc belongs to the effective user.
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Sends a signal, such as `TERM`, to a process that the caller started.
pub(crate) fn signal(pid: u32, signal: &str) {
    // The program rather than the system call, which would need `unsafe`.
    let status = Command::new("kill")
        .args(["-s", signal, &pid.to_string()])
        .stderr(Stdio::null())
        .status()
        .expect("running kill");
    assert!(status.success(), "no process {pid} to send {signal} to");
}

/// Whether a process is there that isn't a zombie.
pub(crate) fn is_running(pid: u32) -> bool {
    processes().contains_key(&pid)
}

/// What a running node has on the machine beside itself.
#[derive(Debug, Default)]
pub(crate) struct Footprint {
    /// Its sandboxes' processes: pid and start time, which together name a process for good.
    processes: BTreeSet<(u32, u64)>,
    /// Directory and inode: the next node may give a cgroup of its own the same name.
    cgroups: BTreeSet<(PathBuf, u64)>,
}

impl Footprint {
    /// The processes that belong to the node, and the cgroups they are in.
    pub(crate) fn of(node: u32, mark: &str) -> Self {
        let own = cgroups_of(std::process::id());
        let mut footprint = Footprint::default();
        let running = processes();
        for (&pid, &(_, started)) in &running {
            if pid == node || !belongs(pid, node, mark, &running) {
                continue;
            }
            footprint.processes.insert((pid, started));
            footprint
                .cgroups
                .extend(cgroups_of(pid).difference(&own).cloned());
        }
        footprint
    }

    /// How many different files its processes see at `path`: one for each sandbox that has it.
    pub(crate) fn files(&self, path: &str) -> usize {
        let file = |pid| fs::metadata(format!("/proc/{pid}/root{path}"));
        let found = self.processes.iter().filter_map(|(pid, _)| file(*pid).ok());
        let files: BTreeSet<_> = found.map(|file| (file.dev(), file.ino())).collect();
        files.len()
    }

    /// Whether one of its cgroups is frozen.
    pub(crate) fn is_frozen(&self) -> bool {
        let holds = |path: PathBuf, words: &str| {
            fs::read_to_string(path).is_ok_and(|text| text.contains(words))
        };
        self.cgroups.iter().any(|(path, _)| {
            holds(path.join("freezer.state"), "FROZEN")
                || holds(path.join("cgroup.events"), "frozen 1")
        })
    }

    /// How many processes were seen.
    pub(crate) fn processes(&self) -> usize {
        self.processes.len()
    }
}

/// Everything of a node that has ended which is still there, in words. `before` is what was seen
/// of it while it ran.
pub(crate) fn left_of(mark: &str, before: &Footprint) -> Vec<String> {
    let mut left = remains_of(before);
    for &pid in processes().keys() {
        if mentions(pid, mark) {
            left.push(format!("process {pid}: {}", command_line(pid)));
        }
    }
    left.extend(mounts(mark));
    left.extend(cgroups_named(mark));
    left
}

/// What is still there of a footprint.
pub(crate) fn remains_of(before: &Footprint) -> Vec<String> {
    let running = processes();
    let processes = before
        .processes
        .iter()
        .filter(|(pid, started)| running.get(pid).is_some_and(|(_, now)| now == started))
        .map(|(pid, _)| format!("process {pid}: {}", command_line(*pid)));
    let cgroups = before
        .cgroups
        .iter()
        .filter(|(path, inode)| fs::metadata(path).is_ok_and(|now| now.ino() == *inode))
        .map(|(path, _)| format!("cgroup {}", path.display()));
    processes.chain(cgroups).collect()
}

/// Processes that mention `mark` but don't descend from `node`: those of a node before it.
pub(crate) fn strays(node: u32, mark: &str) -> Vec<String> {
    let running = processes();
    running
        .keys()
        .filter(|&&pid| mentions(pid, mark) && !descends(pid, node, &running))
        .map(|&pid| format!("process {pid}: {}", command_line(pid)))
        .collect()
}

/// Mounts of this machine that mention `mark`.
pub(crate) fn mounts(mark: &str) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter(|line| line.contains(mark))
        .map(|line| format!("mount {line}"))
        .collect()
}

/// cgroup directories whose path mentions `word`.
fn cgroups_named(word: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::from(CGROUPS)];
    while let Some(directory) = pending.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                if path.to_string_lossy().contains(word) {
                    found.push(format!("cgroup {}", path.display()));
                }
                pending.push(path);
            }
        }
    }
    found
}

/// All processes: parent and start time by pid.
fn processes() -> BTreeMap<u32, (u32, u64)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name, in parentheses, may hold anything: count from its end.
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            // A zombie is gone for all but its parent, who may be slow to look.
            if fields.first() == Some(&"Z") {
                return None;
            }
            Some((
                pid,
                (fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?),
            ))
        })
        .collect()
}

fn belongs(pid: u32, node: u32, mark: &str, running: &BTreeMap<u32, (u32, u64)>) -> bool {
    descends(pid, node, running) || (mentions(pid, mark) && pid != std::process::id())
}

fn descends(mut pid: u32, ancestor: u32, processes: &BTreeMap<u32, (u32, u64)>) -> bool {
    while let Some(&(parent, _)) = processes.get(&pid) {
        if pid == ancestor {
            return true;
        }
        pid = parent;
    }
    false
}

/// Whether the process's environment, arguments or mounts mention `mark`. A sandbox's mounts do:
/// its code comes from the node's storage.
fn mentions(pid: u32, mark: &str) -> bool {
    if pid == std::process::id() {
        return false;
    }
    ["environ", "cmdline", "mountinfo"].iter().any(|file| {
        fs::read(format!("/proc/{pid}/{file}"))
            .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(mark))
    })
}

fn cgroups_of(pid: u32) -> BTreeSet<(PathBuf, u64)> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .filter(|path| *path != "/")
        .flat_map(|path| hierarchies().map(move |root| root.join(path.trim_start_matches('/'))))
        .filter_map(|path| {
            let inode = fs::metadata(&path).ok()?.ino();
            Some((path, inode))
        })
        .collect()
}

/// Mount points of the cgroup hierarchies: one of version 2, or one a controller.
fn hierarchies() -> impl Iterator<Item = PathBuf> {
    let roots = fs::read_dir(CGROUPS)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    std::iter::once(Path::new(CGROUPS).to_owned()).chain(roots.filter(|path| path.is_dir()))
}

fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}
