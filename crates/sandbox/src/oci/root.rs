//! The root file system that all sandboxes share: built once by the helper, on a tmpfs in its own
//! mount namespace, and read-only from then on. A sandbox mounts its few private directories on
//! top of its own copy of these mounts.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};

use super::Step;
use super::sys::{self, NODEV, NOEXEC, NOSUID, RDONLY};
use crate::Shim;
use crate::network::RESOLVERS;

/// Where the executor is inside.
pub(crate) const EXECUTOR_PATH: &std::ffi::CStr = c"/.serverledge/executor";
/// Where the shims are inside.
pub(crate) const SHIM_DIR: &str = "/.serverledge";

const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Files that are copied if they are there: without them the dynamic linker is slow and the time
/// zone is unknown.
const COPIED: [&str; 4] = [
    "etc/ld.so.cache",
    "etc/localtime",
    "etc/timezone",
    "etc/ssl/openssl.cnf",
];
/// Directories that are bound if they are there.
const BOUND: [&str; 3] = ["etc/ssl/certs", "etc/pki", "etc/alternatives"];

const GENERATED: [(&str, &str); 7] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/tmp:/usr/sbin/nologin\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    (
        "etc/hosts",
        "127.0.0.1 localhost sandbox\n::1 localhost sandbox\n",
    ),
    ("etc/hostname", "sandbox\n"),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\n",
    ),
    ("etc/os-release", "ID=serverledge\nNAME=Serverledge\n"),
    ("etc/shells", ""),
];

/// What the root of an image has of these: the rest is the image's business.
const GENERATED_IN_IMAGES: [&str; 3] = ["etc/hosts", "etc/hostname", "etc/resolv.conf"];

/// A JDK's own settings, without which it doesn't start, are in directories of such names in `/etc`.
const BOUND_PREFIX: &str = "java";

/// Builds it on this directory. The caller has a mount namespace of its own. `java` holds what is
/// made for Java.
pub(crate) fn build(root: &Path, java: &Path) -> Result<(), Step> {
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    mount_change("/", private).map_err(Step::at("making mounts private"))?;
    mount(
        "tmpfs",
        root,
        "tmpfs",
        MountFlags::NOSUID,
        c"size=64m,mode=755",
    )
    .map_err(Step::at("mounting a tmpfs for the root"))?;
    let made = fill(root).map_err(Step::at("filling the root"));
    made.and_then(|()| bind_usr(root))?;
    bind_devices(root)?;
    bind_tree(java, &root.join(".serverledge/java"))?;
    for path in BOUND.into_iter().map(PathBuf::from).chain(java_settings()) {
        let (source, target) = (Path::new("/").join(&path), root.join(&path));
        if source.is_dir() {
            fs::create_dir_all(&target).map_err(Step::at("filling the root"))?;
            bind_tree(&source, &target)?;
        }
    }
    sys::mount_setattr(root, RDONLY, false).map_err(Step::at("making the root read-only"))
}

fn java_settings() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/etc").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name());
    names
        .filter(|name| name.as_encoded_bytes().starts_with(BOUND_PREFIX.as_bytes()))
        .map(|name| Path::new("etc").join(name))
}

/// What every root has: where a sandbox mounts its own, the shims, and devices to be bound.
pub(super) fn fill_base(root: &Path) -> io::Result<()> {
    for dir in [
        "dev/shm",
        "proc",
        "tmp",
        "app",
        "run/serverledge",
        ".serverledge/java",
        "etc",
    ] {
        fs::create_dir_all(root.join(dir))?;
    }
    let own = root.join(".serverledge");
    // The executor is one of them.
    for shim in Shim::ALL {
        shim.install(&own)?;
    }
    for name in DEVICES {
        fs::write(root.join("dev").join(name), "")?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, root.join("dev").join(name))?;
    }
    Ok(())
}

/// What is put on top of every image.
pub(super) fn fill_image(root: &Path) -> io::Result<()> {
    fill_base(root)?;
    for (path, text) in GENERATED {
        if GENERATED_IN_IMAGES.contains(&path) {
            fs::write(root.join(path), text)?;
        }
    }
    Ok(())
}

fn fill(root: &Path) -> io::Result<()> {
    fill_base(root)?;
    for dir in ["usr", "etc/ssl", "var"] {
        fs::create_dir_all(root.join(dir))?;
    }
    symlink("/tmp", root.join("var/tmp"))?;
    for (path, text) in GENERATED {
        fs::write(root.join(path), text)?;
    }
    let resolvers = RESOLVERS.map(|address| format!("nameserver {address}\n"));
    fs::write(root.join("etc/resolv.conf"), resolvers.concat())?;
    for path in COPIED {
        match fs::copy(Path::new("/").join(path), root.join(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// `/usr`, and the directories that are links into it, or not, as on the host.
fn bind_usr(root: &Path) -> Result<(), Step> {
    bind_tree(Path::new("/usr"), &root.join("usr"))?;
    for name in ["bin", "sbin", "lib", "lib64", "lib32", "libx32"] {
        let (source, target) = (Path::new("/").join(name), root.join(name));
        match fs::symlink_metadata(&source) {
            Ok(found) if found.is_symlink() => {
                let link = fs::read_link(&source).and_then(|link| symlink(link, &target));
                link.map_err(Step::at("linking to /usr"))?;
            }
            Ok(_) => {
                fs::create_dir(&target).map_err(Step::at("filling the root"))?;
                bind_tree(&source, &target)?;
            }
            Err(_) => {}
        }
    }
    Ok(())
}

fn bind_tree(source: &Path, target: &Path) -> Result<(), Step> {
    let doing = || format!("binding {}", source.display());
    rustix::mount::mount_bind_recursive(source, target).map_err(Step::at(doing()))?;
    sys::mount_setattr(target, RDONLY | NOSUID | NODEV, true).map_err(Step::at(doing()))
}

pub(super) fn bind_devices(root: &Path) -> Result<(), Step> {
    for name in DEVICES {
        let target = root.join("dev").join(name);
        let doing = || format!("binding /dev/{name}");
        // Bound, not made: where the node runs in a container, it may not make devices.
        mount_bind(Path::new("/dev").join(name), &target).map_err(Step::at(doing()))?;
        sys::mount_setattr(&target, NOSUID | NOEXEC, false).map_err(Step::at(doing()))?;
    }
    Ok(())
}
