//! What happens in a new sandbox between its birth and its executor: everything that needs the
//! privileges which are given up on the way.

use std::convert::Infallible;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind, move_mount,
    open_tree, unmount,
};
use rustix::net::SendFlags;
use rustix::process::{Resource, Rlimit, chdir, fchdir, pivot_root, setrlimit, setsid};

use super::message::{Create, Tunnel, receive, send, send_bytes};
use super::root::EXECUTOR_PATH;
use super::sys;
use super::{STATUS_SETUP_FAILED, Step, tunnels};

/// Files of `/proc` that tell of, or act on, the machine as a whole.
const MASKED: [&str; 6] = [
    "kcore",
    "keys",
    "key-users",
    "timer_list",
    "sysrq-trigger",
    "latency_stats",
];
/// More than any kernel has; the first that doesn't exist ends the loop.
const CAPABILITIES_MAX: u64 = 64;

/// The namespaces that an interpreter joins. The first gives it the right to join the others, and
/// into the last it only puts its children.
const JOINED: [&str; 7] = ["user", "mnt", "net", "ipc", "uts", "cgroup", "pid"];

/// The descriptors that come with a [`Create`].
pub(crate) struct Fds {
    pub(crate) config: OwnedFd,
    pub(crate) status: OwnedFd,
    pub(crate) log: OwnedFd,
    /// Where to send the way out.
    pub(crate) tunnel: OwnedFd,
}

/// What else one needs that is made below a zygote.
pub(crate) struct Joined {
    /// The node's connection to the zygote.
    pub(crate) zygote: OwnedFd,
    /// Where the zygote tells the executor of the interpreter.
    pub(crate) config: OwnedFd,
    /// Where the helper tells that all is ready outside.
    pub(crate) helper: OwnedFd,
    /// The node's directories for it, and where they go.
    pub(crate) trees: Vec<(OwnedFd, &'static str)>,
}

/// Becomes the executor, or reports on the status pipe which step failed, and ends.
pub(crate) fn run(root: &Path, create: &Create, fds: &Fds, rootless: bool) -> ! {
    let Err(step) = enter(root, create, fds, rootless);
    fail(&step, fds)
}

/// The same for a sandbox below a zygote: the executor waits for an interpreter from there. Has the
/// root as its working directory, and in its user namespace all rights; outside, those of the zygote.
pub(crate) fn run_joined(create: &Create, fds: &Fds, joined: &Joined) -> ! {
    let Err(step) = enter_joined(create, fds, joined);
    fail(&step, fds)
}

fn fail(step: &Step, fds: &Fds) -> ! {
    let mut report = vec![STATUS_SETUP_FAILED];
    report.extend_from_slice(step.to_string().as_bytes());
    // If this fails, the node has gone.
    let _ = fs::File::from(fds.status.try_clone().unwrap_or_else(|_| sys::exit_now(1)))
        .write_all(&report);
    sys::exit_now(1)
}

fn enter(root: &Path, create: &Create, fds: &Fds, rootless: bool) -> Result<Infallible, Step> {
    die_with_parent()?;
    start_afresh()?;
    // When the machine runs out of memory, functions go before anything else. Best effort.
    let _ = fs::write("/proc/self/oom_score_adj", "500");
    mounts(root, create.tmp_mb)?;
    own_mounts(root, create)?;
    sys::loopback_up().map_err(Step::at("switching the loopback interface on"))?;
    if create.network {
        send_tunnel(fds.tunnel.as_fd(), tunnels::make())?;
    }
    rustix::system::sethostname(b"sandbox").map_err(Step::at("setting the host name"))?;
    change_root(root)?;
    limits(create)?;
    let null = open_null()?;
    drop_privileges(create, rootless)?;
    // The change of user has cleared it.
    die_with_parent()?;
    let (log, config) = (fds.log.as_fd(), fds.config.as_fd());
    sys::arrange_fds([null.as_fd(), log, log, config, fds.status.as_fd()])
        .map_err(Step::at("arranging descriptors"))?;
    Err(Step::at("starting the executor")(sys::exec(EXECUTOR_PATH)))
}

fn enter_joined(create: &Create, fds: &Fds, joined: &Joined) -> Result<Infallible, Step> {
    die_with_parent()?;
    // Until then, its user is nobody in its user namespace.
    let told = receive::<()>(&joined.helper).map_err(Step::at("waiting for the helper"))?;
    if told.is_none() {
        return Err(Step::at("waiting for the helper")(
            io::ErrorKind::UnexpectedEof,
        ));
    }
    start_afresh()?;
    let here = Path::new(".");
    own_root(here)?;
    mounts(here, create.tmp_mb)?;
    for (tree, target) in &joined.trees {
        let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(tree, "", CWD, *target, empty)
            .map_err(Step::at(format!("mounting /{target}")))?;
    }
    sys::loopback_up().map_err(Step::at("switching the loopback interface on"))?;
    rustix::system::sethostname(b"sandbox").map_err(Step::at("setting the host name"))?;
    change_root(here)?;
    limits(create)?;
    let null = open_null()?;
    let (waits, opens) = io::pipe().map_err(Step::at("making a pipe"))?;
    let places = namespaces()?;
    drop_privileges(create, false)?;
    die_with_parent()?;
    // As the last thing: whatever joins finds nothing but a sandbox that is complete.
    let mut order: Vec<BorrowedFd<'_>> = places.iter().map(AsFd::as_fd).collect();
    order.extend([fds.log.as_fd(), joined.config.as_fd(), waits.as_fd()]);
    send_order(joined.zygote.as_fd(), create, &order)
        .map_err(Step::at("asking the zygote for an interpreter"))?;
    let (log, config) = (fds.log.as_fd(), fds.config.as_fd());
    let arranged = [
        null.as_fd(),
        log,
        log,
        config,
        fds.status.as_fd(),
        opens.as_fd(),
    ];
    sys::arrange_fds(arranged).map_err(Step::at("arranging descriptors"))?;
    Err(Step::at("starting the executor")(sys::exec(EXECUTOR_PATH)))
}

fn start_afresh() -> Result<(), Step> {
    for signal in [
        libc::SIGCHLD,
        libc::SIGINT,
        libc::SIGTERM,
        libc::SIGHUP,
        libc::SIGPIPE,
    ] {
        sys::set_signal(signal, false);
    }
    setsid().map_err(Step::at("starting a session"))?;
    Ok(())
}

fn open_null() -> Result<fs::File, Step> {
    fs::File::open("/dev/null").map_err(Step::at("opening /dev/null"))
}

/// Makes a root of its own of the working directory: mounts that came with another user namespace
/// can't be moved.
fn own_root(here: &Path) -> Result<(), Step> {
    let whole = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, here, whole).map_err(Step::at("copying the root"))?;
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&tree, "", CWD, here, empty).map_err(Step::at("mounting the root"))?;
    fchdir(&tree).map_err(Step::at("entering the root"))
}

/// This process's namespaces, in the order in which they are to be joined.
fn namespaces() -> Result<Vec<fs::File>, Step> {
    let open = |name: &str| {
        fs::File::open(Path::new("/proc/self/ns").join(name))
            .map_err(Step::at(format!("finding the namespace {name}")))
    };
    JOINED.into_iter().map(open).collect()
}

/// Says to the zygote whose interpreter is wanted, and where. See `PROTOCOL.md`.
fn send_order(zygote: BorrowedFd<'_>, create: &Create, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut text = [0; 8];
    text[..4].copy_from_slice(&create.uid.to_be_bytes());
    text[4..].copy_from_slice(&create.gid.to_be_bytes());
    send_bytes(zygote, &text, fds, SendFlags::empty())
}

fn die_with_parent() -> Result<(), Step> {
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)
        .map_err(Step::at("binding the life to the helper's"))
}

/// Hands the way out to the node. That there is none is for the node to judge.
pub(super) fn send_tunnel(
    node: BorrowedFd<'_>,
    made: Result<OwnedFd, impl std::fmt::Display>,
) -> Result<(), Step> {
    let error = made.as_ref().err().map(|error| error.to_string());
    let fds: Vec<BorrowedFd<'_>> = made.iter().map(AsFd::as_fd).collect();
    send(node, &Tunnel { error }, &fds, SendFlags::empty())
        .map_err(Step::at("handing the network device over"))
}

/// What every sandbox has of its own.
fn mounts(root: &Path, tmp_mb: u64) -> Result<(), Step> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV;
    // Number of files: each takes kernel memory, which not every kernel counts.
    let size = format!("size={}m,nr_inodes=65536,mode=1777", tmp_mb.max(1));
    for dir in ["tmp", "dev/shm"] {
        mount(
            "tmpfs",
            root.join(dir),
            "tmpfs",
            plain,
            as_option(&size)?.as_c_str(),
        )
        .map_err(Step::at(format!("mounting /{dir}")))?;
    }
    let proc = root.join("proc");
    // Read-only as a whole: there is nothing in it that a function must write.
    let flags = plain | MountFlags::NOEXEC | MountFlags::RDONLY;
    mount("proc", &proc, "proc", flags, None).map_err(Step::at("mounting /proc"))?;
    for name in MASKED {
        let path = proc.join(name);
        if path.exists() {
            mount_bind(root.join("dev/null"), &path)
                .map_err(Step::at(format!("hiding /proc/{name}")))?;
        }
    }
    Ok(())
}

/// The node's directories for this sandbox.
fn own_mounts(root: &Path, create: &Create) -> Result<(), Step> {
    for (source, target, attributes) in create.directories() {
        bind(source, &root.join(target), attributes)
            .map_err(Step::at(format!("mounting /{target}")))?;
    }
    Ok(())
}

fn bind(source: &Path, target: &Path, attributes: u64) -> std::io::Result<()> {
    mount_bind(source, target)?;
    sys::mount_setattr(target, attributes, false)
}

fn as_option(text: &str) -> Result<std::ffi::CString, Step> {
    std::ffi::CString::new(text).map_err(Step::at("composing mount options"))
}

fn change_root(root: &Path) -> Result<(), Step> {
    chdir(root).map_err(Step::at("entering the root"))?;
    // The old root is put on top of the new one, at the same place, and then taken off.
    pivot_root(".", ".").map_err(Step::at("changing the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(Step::at("leaving the old root"))?;
    chdir("/").map_err(Step::at("entering the root"))
}

fn limits(create: &Create) -> Result<(), Step> {
    let file_max = create.tmp_mb.max(1) << 20;
    let mut limits = vec![
        (Resource::Core, 0, 0),
        (Resource::Nofile, 1024, 4096),
        (Resource::Fsize, file_max, file_max),
    ];
    if create.data_mb > 0 {
        let data = create.data_mb << 20;
        limits.push((Resource::Data, data, data));
    }
    if create.processes > 0 {
        let processes = u64::from(create.processes);
        limits.push((Resource::Nproc, processes, processes));
    }
    for (resource, current, maximum) in limits {
        let limit = Rlimit {
            current: Some(current),
            maximum: Some(maximum),
        };
        setrlimit(resource, limit).map_err(Step::at(format!("limiting {resource:?}")))?;
    }
    Ok(())
}

fn drop_privileges(create: &Create, rootless: bool) -> Result<(), Step> {
    for capability in 0..CAPABILITIES_MAX {
        if sys::prctl(libc::PR_CAPBSET_DROP, capability).is_err() {
            break;
        }
    }
    // In a user namespace of one user there are no groups to drop, and it isn't allowed.
    let (uid, gid) = (create.uid, create.gid);
    sys::become_user(uid, gid, !rootless)
        .map_err(Step::at(format!("becoming user {uid}:{gid}")))?;
    sys::drop_capabilities().map_err(Step::at("dropping capabilities"))
}
