//! Control groups, version 1 and 2: limits of memory, CPU and processes, freezing, and the reasons
//! for which a sandbox was ended.
//!
//! The groups of a node are `serverledge/<hash of its state directory>/<sandbox>`, below the mount
//! point of each hierarchy, so that [`Groups::leftovers`] finds what a killed node left.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// As in the original: short enough that a throttled function doesn't stall for long.
pub(crate) const CPU_PERIOD_US: f64 = 50_000.0;
/// How long removing a group is tried. The kernel keeps one busy until its last process is reaped.
const REMOVE_FOR: Duration = Duration::from_secs(5);

/// What all groups of nodes are below.
const GROUP: &str = "serverledge";

/// Digits of a container's id.
const CONTAINER_ID: usize = 64;

const CONTROLLERS: [&str; 4] = ["memory", "cpu", "pids", "freezer"];

/// What a sandbox may use; 0 means no limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) memory_mb: u64,
    pub(crate) cpu: f64,
    pub(crate) processes: u32,
}

/// The groups of one node.
#[derive(Clone, Debug)]
pub(crate) struct Groups {
    version: Version,
    /// Path of the node's own directories below the mount points.
    name: PathBuf,
    /// The node's own directory in each hierarchy, by controller. For version 2 they are the same.
    dirs: BTreeMap<&'static str, PathBuf>,
    /// Controllers that aren't there, and why.
    pub(crate) missing: Vec<(&'static str, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

impl Groups {
    /// Finds the hierarchies and makes the node's own groups in them.
    pub(crate) fn open(state_dir: &Path) -> Groups {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let (version, roots) = hierarchies(&mounts);
        let group = Path::new(GROUP).join(format!("{:016x}", hash(state_dir)));
        let mut groups = Groups {
            version,
            name: group.clone(),
            dirs: BTreeMap::new(),
            missing: Vec::new(),
        };
        for controller in CONTROLLERS {
            let opened = match roots.get(controller) {
                None => Err("not mounted".to_owned()),
                Some(root) => groups.prepare(root, &group, controller),
            };
            match opened {
                Ok(dir) => drop(groups.dirs.insert(controller, dir)),
                Err(reason) => groups.missing.push((controller, reason)),
            }
        }
        groups
    }

    fn prepare(&self, root: &Path, group: &Path, controller: &str) -> Result<PathBuf, String> {
        let dir = root.join(group);
        let made = fs::create_dir_all(&dir).or_else(|error| match error.kind() {
            // Another node has just removed the level above, as it was empty.
            io::ErrorKind::NotFound => fs::create_dir_all(&dir),
            _ => Err(error),
        });
        made.map_err(|error| format!("making {}: {error}", dir.display()))?;
        if self.version == Version::V2 && controller != "freezer" {
            let parent = dir.parent().unwrap_or(root);
            for dir in [root, parent, &dir] {
                // It may be on already, or this level may not be ours to change: what counts is
                // whether it arrives below.
                let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
            }
            let on = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
            if !on.split_whitespace().any(|name| name == controller) {
                return Err(format!("not delegated to {}", dir.display()));
            }
        }
        Ok(dir)
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.dirs.is_empty()
    }

    pub(crate) fn has(&self, controller: &str) -> bool {
        self.dirs.contains_key(controller)
    }

    /// Makes the group of one sandbox, without processes.
    pub(crate) fn create(&self, name: &str, limits: &Limits) -> io::Result<Cgroup> {
        let cgroup = self.group(name);
        let made = cgroup.make(limits);
        if made.is_err() {
            cgroup.remove();
        }
        made.map(|()| cgroup)
    }

    fn group(&self, name: &str) -> Cgroup {
        let dirs = self.dirs.iter();
        Cgroup {
            version: self.version,
            name: format!("/{}/{name}", self.name.display()),
            dirs: dirs
                .map(|(controller, dir)| (*controller, dir.join(name)))
                .collect(),
        }
    }

    /// The groups of sandboxes that are there now.
    pub(crate) fn leftovers(&self) -> Vec<(String, Cgroup)> {
        let mut names: Vec<String> = Vec::new();
        for dir in self.dirs.values() {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            names.extend(
                entries
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .filter_map(|entry| entry.file_name().into_string().ok()),
            );
        }
        names.sort();
        names.dedup();
        let groups = names.into_iter().map(|name| {
            let group = self.group(&name);
            (name, group)
        });
        groups.collect()
    }

    /// Removes the node's own groups, if no sandbox is left in them.
    pub(crate) fn close(&self) {
        for dir in self.dirs.values() {
            let _ = fs::remove_dir(dir);
            // And the level above, unless it has groups of another node.
            let _ = dir.parent().map(fs::remove_dir);
        }
    }
}

/// The group of one sandbox. Blocking: a first move of a process takes 7 to 19 ms on version 1.
#[derive(Debug)]
pub(crate) struct Cgroup {
    version: Version,
    /// Its path below the mount points.
    name: String,
    dirs: BTreeMap<&'static str, PathBuf>,
}

impl Cgroup {
    /// The group in which an engine keeps the container of this process, for its limits. `None` where
    /// that can't be told for certain.
    pub(crate) fn of_container(pid: i32) -> Option<Cgroup> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let (version, roots) = hierarchies(&mounts);
        let found = container_in(version, &roots, &groups)?;
        let pid = pid.to_string();
        let has_it = |dir: &PathBuf| {
            let list = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            list.lines().any(|line| line == pid)
        };
        let is_there = found.distinct().all(has_it);
        is_there.then_some(found)
    }

    fn make(&self, limits: &Limits) -> io::Result<()> {
        for dir in self.distinct() {
            match fs::create_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        self.limit(limits)
    }

    /// Sets the limits; those that had one keep it where there is none now.
    pub(crate) fn limit(&self, limits: &Limits) -> io::Result<()> {
        let v1 = self.version == Version::V1;
        if limits.memory_mb > 0 {
            let bytes = (limits.memory_mb << 20).to_string();
            if v1 {
                self.write("memory", "memory.limit_in_bytes", &bytes)?;
                self.write_if_there("memory", "memory.memsw.limit_in_bytes", &bytes)?;
            } else {
                self.write("memory", "memory.max", &bytes)?;
                self.write_if_there("memory", "memory.swap.max", "0")?;
                self.write_if_there("memory", "memory.oom.group", "1")?;
            }
        }
        if limits.processes > 0 {
            self.write("pids", "pids.max", &limits.processes.to_string())?;
        }
        if limits.cpu > 0.0 {
            let quota = (limits.cpu * CPU_PERIOD_US).max(1000.0) as u64;
            if v1 {
                self.write("cpu", "cpu.cfs_period_us", &format!("{CPU_PERIOD_US}"))?;
                self.write("cpu", "cpu.cfs_quota_us", &quota.to_string())?;
            } else {
                self.write("cpu", "cpu.max", &format!("{quota} {CPU_PERIOD_US}"))?;
            }
        }
        Ok(())
    }

    /// The directory for `CLONE_INTO_CGROUP`; version 2 only.
    pub(crate) fn open_dir(&self) -> Option<OwnedFd> {
        let dir = self
            .distinct()
            .next()
            .filter(|_| self.version == Version::V2)?;
        fs::File::open(dir).ok().map(OwnedFd::from)
    }

    /// Moves a process here, with all its threads. One that is gone already is no error.
    pub(crate) fn attach(&self, pid: i32) -> io::Result<()> {
        for dir in self.distinct() {
            match fs::write(dir.join("cgroup.procs"), pid.to_string()) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Moves a process and its descendants here. What they fork from then on is born here.
    pub(crate) fn attach_tree(&self, pid: i32) -> io::Result<()> {
        self.attach(pid)?;
        // Without CONFIG_PROC_CHILDREN there is no such file; the caller checks with `holds`.
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        for child in children.unwrap_or_default().split_whitespace() {
            if let Ok(child) = child.parse() {
                self.attach_tree(child)?;
            }
        }
        Ok(())
    }

    /// Whether a process is here already. Far cheaper than moving it once more.
    pub(crate) fn holds(&self, pid: i32) -> bool {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let here = groups
            .lines()
            .filter(|line| line.ends_with(&self.name))
            .count();
        here >= self.distinct().count()
    }

    pub(crate) fn freeze(&self, frozen: bool) -> io::Result<()> {
        match (self.version, frozen) {
            (Version::V1, true) => self.write("freezer", "freezer.state", "FROZEN"),
            (Version::V1, false) => self.write("freezer", "freezer.state", "THAWED"),
            (Version::V2, frozen) => {
                self.write("freezer", "cgroup.freeze", if frozen { "1" } else { "0" })
            }
        }
    }

    /// Processes and threads that are here now; `None` where they aren't counted.
    pub(crate) fn tasks(&self) -> Option<u64> {
        let dir = self.dirs.get("pids")?;
        let text = fs::read_to_string(dir.join("pids.current")).ok()?;
        text.trim().parse().ok()
    }

    /// Whether the kernel killed something here for want of memory.
    pub(crate) fn out_of_memory(&self) -> bool {
        let file = match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        self.counter("memory", file, "oom_kill") > 0
    }

    /// Whether a process or thread was refused here for want of room.
    pub(crate) fn process_limit_hit(&self) -> bool {
        self.counter("pids", "pids.events", "max") > 0
    }

    /// Kills everything here; returns how many processes there were. For leftovers whose pid 1
    /// isn't known.
    pub(crate) fn kill_all(&self) -> usize {
        let mut killed = 0;
        let until = Instant::now() + REMOVE_FOR;
        loop {
            // Frozen, nothing forks between the reading of the list and the kill.
            let _ = self.freeze(true);
            let pids = self.processes();
            for pid in &pids {
                // One that is gone already is what we want.
                let _ = kill_process(*pid, Signal::KILL);
            }
            let _ = self.freeze(false);
            killed = killed.max(pids.len());
            if pids.is_empty() || Instant::now() > until {
                return killed;
            }
            sleep(Duration::from_millis(2));
        }
    }

    fn processes(&self) -> Vec<Pid> {
        let mut pids: Vec<i32> = Vec::new();
        for dir in self.distinct() {
            let list = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(list.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
        pids.sort_unstable();
        pids.dedup();
        // 0 stands for a process of another namespace: not ours.
        pids.into_iter()
            .filter(|pid| *pid > 0)
            .filter_map(Pid::from_raw)
            .collect()
    }

    /// Removes the group once its processes are dead. Blocks up to [`REMOVE_FOR`]; false if it is
    /// still there then.
    pub(crate) fn remove(&self) -> bool {
        let until = Instant::now() + REMOVE_FOR;
        let mut pause = Duration::from_micros(500);
        loop {
            let failed = |dir: &&PathBuf| match fs::remove_dir(dir) {
                Ok(()) => false,
                Err(error) => error.kind() != io::ErrorKind::NotFound,
            };
            // All of them, not only up to the first that fails.
            if self.distinct().filter(failed).count() == 0 {
                return true;
            }
            if Instant::now() > until {
                return false;
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    fn distinct(&self) -> impl Iterator<Item = &PathBuf> {
        // Controllers may share a hierarchy: all do in version 2.
        let mut seen: Vec<&PathBuf> = Vec::new();
        self.dirs.values().filter(move |dir| {
            let new = !seen.contains(dir);
            seen.push(dir);
            new
        })
    }

    /// Writes a file of a controller; without that controller there is nothing to write.
    fn write(&self, controller: &str, file: &str, value: &str) -> io::Result<()> {
        match self.dirs.get(controller) {
            None => Ok(()),
            Some(dir) => fs::write(dir.join(file), value)
                .map_err(|error| io::Error::new(error.kind(), format!("{file}: {error}"))),
        }
    }

    fn write_if_there(&self, controller: &str, file: &str, value: &str) -> io::Result<()> {
        match self.dirs.get(controller) {
            Some(dir) if dir.join(file).exists() => self.write(controller, file, value),
            _ => Ok(()),
        }
    }

    fn counter(&self, controller: &str, file: &str, key: &str) -> u64 {
        let Some(dir) = self.dirs.get(controller) else {
            return 0;
        };
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(name, _)| *name == key)
            .and_then(|(_, count)| count.trim().parse().ok())
            .unwrap_or(0)
    }
}

/// Where a process is in the hierarchy of a controller, by the lines of its `/proc/<pid>/cgroup`:
/// below the mount point.
fn path_in<'a>(version: Version, groups: &'a str, controller: &str) -> Option<&'a Path> {
    let path = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let is_it = match version {
            Version::V1 => controllers.split(',').any(|name| name == controller),
            Version::V2 => controllers.is_empty(),
        };
        is_it.then_some(path)
    });
    Path::new(path?).strip_prefix("/").ok()
}

/// Thaws the sandbox that a killed process is in: version 1 keeps what is frozen from dying.
pub(crate) fn let_die(pidfd: BorrowedFd<'_>) -> Option<()> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid = about.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", pid.trim())).ok()?;
    let (version, roots) = hierarchies(&fs::read_to_string("/proc/self/mountinfo").ok()?);
    let path = path_in(version, &groups, "freezer").filter(|path| path.starts_with(GROUP))?;
    let state = roots.get("freezer")?.join(path).join("freezer.state");
    fs::write(state, "THAWED").ok()
}

/// The directories of a container's group, out of `/proc/PID/cgroup`. An engine names it by the
/// container's id; any other may be one that isn't the container's alone.
fn container_in(
    version: Version,
    roots: &BTreeMap<&'static str, PathBuf>,
    groups: &str,
) -> Option<Cgroup> {
    let mut dirs = BTreeMap::new();
    for controller in ["memory", "cpu", "pids"] {
        let path = path_in(version, groups, controller)?;
        let name = path.file_name()?.to_str()?;
        let mut words = name.split(|c: char| !c.is_ascii_hexdigit());
        let is_plain = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !is_plain || !words.any(|word| word.len() == CONTAINER_ID) {
            return None;
        }
        dirs.insert(controller, roots.get(controller)?.join(path));
    }
    let name = String::new();
    Some(Cgroup {
        version,
        name,
        dirs,
    })
}

/// The mount point of each controller's hierarchy, out of `/proc/self/mountinfo`. Version 1 is
/// taken where it has the memory controller, as on hybrid systems.
fn hierarchies(mountinfo: &str) -> (Version, BTreeMap<&'static str, PathBuf>) {
    let mut v1 = BTreeMap::new();
    let mut v2 = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let (Some(point), mut right) = (left.split(' ').nth(4), right.split(' ')) else {
            continue;
        };
        match (right.next(), right.nth(1)) {
            (Some("cgroup"), Some(options)) => {
                for controller in CONTROLLERS {
                    if options.split(',').any(|option| option == controller) {
                        v1.entry(controller).or_insert_with(|| PathBuf::from(point));
                    }
                }
            }
            (Some("cgroup2"), _) => drop(v2.get_or_insert_with(|| PathBuf::from(point))),
            _ => {}
        }
    }
    match v2 {
        Some(point) if !v1.contains_key("memory") => {
            let all = CONTROLLERS.into_iter().map(|name| (name, point.clone()));
            (Version::V2, all.collect())
        }
        _ => (Version::V1, v1),
    }
}

/// FNV-1a: short, and the same in every version of this program.
pub(crate) fn hash(path: &Path) -> u64 {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let bytes = path.as_os_str().as_bytes().iter();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_containers_are_found_and_no_others() {
        let id = "0123456789abcdef".repeat(4);
        let roots = |point: &str| {
            let of = |name| (name, Path::new(point).join(name));
            CONTROLLERS.map(of).into()
        };
        let check = |version, groups: &str, expected: Option<&str>| {
            let found = container_in(version, &roots("/c"), groups);
            let memory = found.map(|found| found.dirs["memory"].clone());
            assert_eq!(memory, expected.map(PathBuf::from), "{groups}");
        };
        let v1 =
            |path: &str| format!("4:memory:{path}\n3:cpu,cpuacct:{path}\n2:pids:{path}\n0::/x\n");
        check(
            Version::V1,
            &v1(&format!("/docker/{id}")),
            Some(&format!("/c/memory/docker/{id}")),
        );
        check(
            Version::V2,
            &format!("0::/system.slice/docker-{id}.scope\n"),
            Some(&format!("/c/memory/system.slice/docker-{id}.scope")),
        );
        for path in ["/", "/user.slice", "/docker/0123", "/../docker/0123"] {
            check(Version::V1, &v1(path), None);
            check(Version::V2, &format!("0::{path}\n"), None);
        }
        check(Version::V1, &v1(&format!("/../{id}")), None);
        check(Version::V1, &format!("4:memory:/docker/{id}\n"), None);
        check(Version::V2, "", None);
    }

    #[test]
    fn hierarchies_are_found_in_all_layouts() {
        let check = |mounts: &str, version, memory: Option<&str>, cpu: Option<&str>| {
            let (found, roots) = hierarchies(mounts);
            assert_eq!(found, version);
            assert_eq!(
                roots.get("memory").map(PathBuf::as_path),
                memory.map(Path::new)
            );
            assert_eq!(roots.get("cpu").map(PathBuf::as_path), cpu.map(Path::new));
        };
        let unified = "31 23 0:28 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n";
        let point = Some("/sys/fs/cgroup");
        check(unified, Version::V2, point, point);
        let hybrid = "1 2 0:1 / /c/unified rw - cgroup2 cgroup2 rw\n\
                      3 2 0:2 / /c/memory rw - cgroup cgroup rw,memory\n\
                      4 2 0:3 / /c/both rw - cgroup cgroup rw,cpu,cpuacct\n";
        check(hybrid, Version::V1, Some("/c/memory"), Some("/c/both"));
        check("", Version::V1, None, None);
    }
}
