//! What this machine can isolate: for `serverledge doctor` and for refusing to start without.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::geteuid;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::cgroup::{Groups, Version};
use crate::oci::sys;

/// One thing that sandboxes use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is, such as `pid namespace`.
    pub name: String,
    /// Whether it is there.
    pub available: bool,
    /// Whether the built-in sandbox can't do without it.
    pub required: bool,
    /// What was found, or how it failed and what is lost without it.
    pub detail: String,
    /// How to get it, if it isn't there.
    pub remedy: Option<String>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order in which to read them.
    pub items: Vec<Item>,
    /// Whether sandboxes are made in a user namespace, as this process isn't root.
    pub rootless: bool,
}

impl Report {
    /// Whether the built-in sandbox works on this machine.
    pub fn can_isolate(&self) -> bool {
        self.missing().all(|item| !item.required)
    }

    /// What isn't there.
    pub fn missing(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| !item.available)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for item in &self.items {
            let mark = match (item.available, item.required) {
                (true, _) => "ok     ",
                (false, true) => "MISSING",
                (false, false) => "missing",
            };
            writeln!(f, "{mark}  {}: {}", item.name, item.detail)?;
            if let Some(remedy) = &item.remedy {
                writeln!(f, "         to get it: {remedy}")?;
            }
        }
        Ok(())
    }
}

/// Tries everything that sandboxes use. Takes some milliseconds and starts the interpreters to ask
/// for their versions: call it off the path.
pub fn isolation() -> Report {
    let rootless = !geteuid().is_root();
    let mut items = Vec::new();
    items.push(user(rootless));
    items.extend(namespaces(rootless));
    items.push(mounts(rootless));
    items.push(seccomp());
    items.push(landlock());
    items.extend(cgroups());
    items.push(overlayfs());
    items.push(network());
    items.push(interpreter(
        "Python",
        "/usr/bin/python3",
        "install python3 (Debian: apt install python3)",
    ));
    items.push(interpreter(
        "Node.js",
        "/usr/bin/node",
        "install Node.js (Debian: apt install nodejs)",
    ));
    items.push(java(Path::new("/usr/bin/java")));
    Report { items, rootless }
}

fn item(
    name: impl Into<String>,
    required: bool,
    found: Result<String, String>,
    remedy: &str,
) -> Item {
    let available = found.is_ok();
    Item {
        name: name.into(),
        available,
        required,
        detail: found.unwrap_or_else(|lack| lack),
        remedy: (!available).then(|| remedy.to_owned()),
    }
}

fn user(rootless: bool) -> Item {
    let found = match rootless {
        false => Ok("root".to_owned()),
        true => Err(
            "not root: limits of memory are per process, of processes for all sandboxes \
                     together, and there are none of CPU"
                .to_owned(),
        ),
    };
    item(
        "user",
        false,
        found,
        "run as root, for instance as a system service",
    )
}

fn namespaces(rootless: bool) -> Vec<Item> {
    let mut items = Vec::new();
    if rootless {
        let remedy = "as root: sysctl -w user.max_user_namespaces=15000 \
                      kernel.unprivileged_userns_clone=1 \
                      kernel.apparmor_restrict_unprivileged_userns=0 (those that exist); or run as root";
        items.push(item("user namespaces", true, user_namespaces(), remedy));
    }
    for (name, file, flag) in [
        ("mount", "mnt", UnshareFlags::NEWNS),
        ("pid", "pid", UnshareFlags::NEWPID),
        ("ipc", "ipc", UnshareFlags::NEWIPC),
        ("uts", "uts", UnshareFlags::NEWUTS),
        ("network", "net", UnshareFlags::NEWNET),
        ("cgroup", "cgroup", UnshareFlags::NEWCGROUP),
    ] {
        // Within a user namespace all others are allowed, so it is enough that the kernel has them.
        let exists = Path::new("/proc/self/ns").join(file).exists();
        let found = match (exists, rootless) {
            (false, _) => Err("not in this kernel".to_owned()),
            (true, true) => Ok("in this kernel".to_owned()),
            (true, false) => in_thread(move || unshare(flag)).map(|()| "can be made".to_owned()),
        };
        let remedy = "in a container: start it with --privileged, or with CAP_SYS_ADMIN and \
                      without a seccomp profile; on a machine: use a kernel with namespaces";
        items.push(item(format!("{name} namespace"), true, found, remedy));
    }
    items
}

fn user_namespaces() -> Result<String, String> {
    for (path, closed) in [
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
        ),
    ] {
        if fs::read_to_string(path).is_ok_and(|value| value.trim() == closed) {
            return Err(format!("{path} is {closed}"));
        }
    }
    match Path::new("/proc/self/ns/user").exists() {
        true => Ok("allowed".to_owned()),
        false => Err("not in this kernel".to_owned()),
    }
}

fn unshare(flags: UnshareFlags) -> Result<(), String> {
    // SAFETY: no flag here is about file descriptors; namespaces are of this thread alone.
    unsafe { unshare_unsafe(flags) }.map_err(|error| io::Error::from(error).to_string())
}

/// Does it in a thread that ends afterwards, and with it what it has unshared.
fn in_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let ended = || "a thread could not be run".to_owned();
    let thread = std::thread::Builder::new().spawn(work);
    thread.map_err(|_| ended())?.join().map_err(|_| ended())?
}

fn mounts(rootless: bool) -> Item {
    let found = match rootless {
        true => Ok("allowed in a user namespace".to_owned()),
        false => in_thread(|| {
            unshare(UnshareFlags::NEWNS)?;
            let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
            mount_change("/", private)
                .and_then(|()| mount("tmpfs", "/proc", "tmpfs", MountFlags::empty(), None))
                .map_err(|error| io::Error::from(error).to_string())?;
            sys::mount_setattr(Path::new("/proc"), sys::RDONLY, false)
                .map_err(|error| format!("mount_setattr, needs Linux 5.12: {error}"))?;
            Ok("allowed".to_owned())
        }),
    };
    let remedy = "in a container: start it with --privileged; on a machine: Linux 5.12 or newer";
    item("mounting", true, found, remedy)
}

fn seccomp() -> Item {
    let path = "/proc/sys/kernel/seccomp/actions_avail";
    let found = match fs::read_to_string(path) {
        Ok(actions) if actions.split_whitespace().any(|action| action == "errno") => {
            crate::seccomp::program().map(|_| "filters are available".to_owned())
        }
        _ => Err("filters are not in this kernel".to_owned()),
    };
    item(
        "seccomp",
        true,
        found,
        "use a kernel with CONFIG_SECCOMP_FILTER",
    )
}

fn landlock() -> Item {
    let found = match sys::landlock_version() {
        Ok(version) => Ok(format!("version {version}")),
        Err(error) => Err(format!("{error}; a second fence, sandboxes work without")),
    };
    let remedy = "use a kernel with CONFIG_SECURITY_LANDLOCK, and landlock in its lsm= list";
    item("landlock", false, found, remedy)
}

fn cgroups() -> Vec<Item> {
    let name = format!("/probe/{}", std::process::id());
    let groups = Groups::open(Path::new(&name));
    groups.close();
    let version = match groups.version() {
        Version::V1 => "version 1",
        Version::V2 => "version 2",
    };
    let lost = |controller| match controller {
        "memory" => "memory is limited for each process, not for each sandbox",
        "cpu" => "CPU is not limited",
        "pids" => "processes are limited by user",
        _ => "idle sandboxes are not frozen",
    };
    let items = ["memory", "cpu", "pids", "freezer"].map(|controller| {
        let missing = groups.missing.iter().find(|(name, _)| *name == controller);
        let found = match missing {
            None => Ok(version.to_owned()),
            Some((_, reason)) => Err(format!("{reason}; without it, {}", lost(controller))),
        };
        let remedy = "run as root with a writable /sys/fs/cgroup; on a machine with systemd, \
                      Delegate=yes in the service";
        item(format!("cgroup {controller}"), false, found, remedy)
    });
    items.into()
}

fn overlayfs() -> Item {
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let found = match filesystems.lines().any(|line| line.ends_with("\toverlay")) {
        true => Ok("in this kernel".to_owned()),
        false => Err("not in this kernel, or not loaded yet; only images need it".to_owned()),
    };
    item("overlayfs", false, found, "modprobe overlay")
}

fn network() -> Item {
    let found = match sys::open_tunnels() {
        Ok(_) => Ok("sandboxes can have one, as each function's policy says".to_owned()),
        Err(error) => Err(format!(
            "/dev/net/tun: {error}; functions have no network, and can't ask for one"
        )),
    };
    let remedy = "modprobe tun; in a container, give it the device /dev/net/tun";
    item("network", false, found, remedy)
}

fn interpreter(language: &str, path: &str, remedy: &str) -> Item {
    let found = match Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
    {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout);
            Ok(format!("{} at {path}", version.trim()))
        }
        Ok(output) => Err(format!("{path} --version: {}", output.status)),
        Err(error) => Err(format!("{path}: {error}")),
    };
    item(language, false, found, remedy)
}

/// Not asked for its version, which would take a while: it is in a file.
fn java(path: &Path) -> Item {
    let found = crate::java::find(path).map(|jdk| match jdk.version.as_str() {
        "" => jdk.home.display().to_string(),
        version => format!("JDK {version} at {}", jdk.home.display()),
    });
    let remedy = "install a JDK, 17 or later (Debian: apt install default-jdk-headless)";
    item("Java", false, found, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_answered() {
        let report = isolation();
        assert!(report.items.iter().all(|item| !item.detail.is_empty()));
        assert!(report.missing().all(|item| item.remedy.is_some()));
    }
}
