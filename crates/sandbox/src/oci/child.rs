//! What happens in a new sandbox between its birth and its executor: everything that needs the
//! privileges which are given up on the way.

use std::convert::Infallible;
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use rustix::net::SendFlags;
use rustix::process::{Resource, Rlimit, chdir, pivot_root, setrlimit, setsid};

use super::message::{Create, Tunnel, send};
use super::root::EXECUTOR_PATH;
use super::sys::{self, NODEV, NOEXEC, NOSUID, RDONLY};
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

/// The descriptors that come with a [`Create`].
pub(crate) struct Fds {
    pub(crate) config: OwnedFd,
    pub(crate) status: OwnedFd,
    pub(crate) log: OwnedFd,
    /// Where to send the way out.
    pub(crate) tunnel: OwnedFd,
}

/// Becomes the executor, or reports on the status pipe which step failed, and ends.
pub(crate) fn run(root: &Path, create: &Create, fds: &Fds, rootless: bool) -> ! {
    let Err(step) = enter(root, create, fds, rootless);
    let mut report = vec![STATUS_SETUP_FAILED];
    report.extend_from_slice(step.to_string().as_bytes());
    // If this fails, the node has gone.
    let _ = fs::File::from(fds.status.try_clone().unwrap_or_else(|_| sys::exit_now(1)))
        .write_all(&report);
    sys::exit_now(1)
}

fn enter(root: &Path, create: &Create, fds: &Fds, rootless: bool) -> Result<Infallible, Step> {
    die_with_parent()?;
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
    // When the machine runs out of memory, functions go before anything else. Best effort.
    let _ = fs::write("/proc/self/oom_score_adj", "500");
    mounts(root, create)?;
    sys::loopback_up().map_err(Step::at("switching the loopback interface on"))?;
    if create.network {
        send_tunnel(fds.tunnel.as_fd())?;
    }
    rustix::system::sethostname(b"sandbox").map_err(Step::at("setting the host name"))?;
    change_root(root)?;
    limits(create)?;
    let null = fs::File::open("/dev/null").map_err(Step::at("opening /dev/null"))?;
    drop_privileges(create, rootless)?;
    // The change of user has cleared it.
    die_with_parent()?;
    let (log, config) = (fds.log.as_fd(), fds.config.as_fd());
    sys::arrange_fds([null.as_fd(), log, log, config, fds.status.as_fd()])
        .map_err(Step::at("arranging descriptors"))?;
    Err(Step::at("starting the executor")(sys::exec(EXECUTOR_PATH)))
}

fn die_with_parent() -> Result<(), Step> {
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)
        .map_err(Step::at("binding the life to the helper's"))
}

/// Makes the way out and hands it to the node. That there is none is for the node to judge.
fn send_tunnel(node: BorrowedFd<'_>) -> Result<(), Step> {
    let made = tunnels::make();
    let error = made.as_ref().err().map(ToString::to_string);
    let fds: Vec<BorrowedFd<'_>> = made.iter().map(AsFd::as_fd).collect();
    send(node, &Tunnel { error }, &fds, SendFlags::empty())
        .map_err(Step::at("handing the network device over"))
}

fn mounts(root: &Path, create: &Create) -> Result<(), Step> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV;
    // Number of files: each takes kernel memory, which not every kernel counts.
    let size = format!("size={}m,nr_inodes=65536,mode=1777", create.tmp_mb.max(1));
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
    if let Some(code_dir) = &create.code_dir {
        bind(code_dir, &root.join("app"), RDONLY | NOSUID | NODEV)
            .map_err(Step::at("mounting the code"))?;
    }
    bind(
        &create.socket_dir,
        &root.join("run/serverledge"),
        RDONLY | NOSUID | NODEV | NOEXEC,
    )
    .map_err(Step::at("mounting the socket's directory"))?;

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
    sys::become_user(uid, gid, !rootless).map_err(Step::at(format!("becoming user {uid}:{gid}")))
}
