//! The helper: a small process with one thread that makes sandboxes for the node.
//!
//! One thread, because forking a process with several is unsound; a process of its own, so that
//! the privileged part stays small. It lives as long as the node holds the other end of its socket,
//! and takes all sandboxes with it when it ends: it kills those it knows, and each sandbox asks the
//! kernel to be killed with its parent, should the helper be killed itself.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::net::SendFlags;
use rustix::process::{Signal, geteuid, pidfd_send_signal};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags, move_into_link_name_space,
    move_into_thread_name_spaces, unshare_unsafe,
};

use super::message::{Answer, Create, Deliver, Places, Ready, Request, Setup, receive, send};
use super::overlay::Roots;
use super::sys::{self, Fork};
use super::sys::{NODEV, NOSUID, RDONLY};
use super::{Step, child, joined, root, tunnels};
use crate::cgroup;

/// The user inside where only one can be mapped.
pub(crate) const ROOTLESS_UID: u32 = 65534;

pub(super) const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP) as u64;

/// The body of `serverledge sandbox-helper`, a hidden subcommand that [`super::OciBackend`] starts.
/// Must be called while the process has one thread, so before tokio.
pub fn helper_main() -> ! {
    let stdin = io::stdin();
    let status = match serve(stdin.as_fd()) {
        Ok(()) => 0,
        Err(error) => {
            // Before any logging is set up; the node passes its own standard error on.
            eprintln!("serverledge sandbox-helper: {error}");
            1
        }
    };
    std::process::exit(status)
}

fn serve(node: BorrowedFd<'_>) -> io::Result<()> {
    // Ctrl-C and a service manager's signal reach the node as well, which ends this one when its
    // sandboxes have finished. SIGCHLD: children reap themselves; pidfds tell of their ends.
    for signal in [
        libc::SIGINT,
        libc::SIGTERM,
        libc::SIGHUP,
        libc::SIGCHLD,
        libc::SIGPIPE,
    ] {
        sys::set_signal(signal, true);
    }
    let Some((setup, _)) = receive::<Setup>(node)? else {
        return Ok(());
    };
    let rootless = !geteuid().is_root();
    let done = match &setup {
        Setup::Sandboxes(places) => set_up(&places.root, &places.java, rootless),
        Setup::Tunnels => tunnels::try_out(),
    };
    let error = done.err().map(|step| step.to_string());
    let failed = error.is_some();
    send(node, &Ready { error, rootless }, &[], SendFlags::empty())?;
    let Places { root, images, .. } = match setup {
        _ if failed => return Ok(()),
        Setup::Tunnels => return tunnels::serve(node),
        Setup::Sandboxes(places) => places,
    };
    let mut helper = Helper {
        root,
        rootless,
        images: Roots::new(images, rootless),
        home: fs::File::open("/proc/thread-self/ns/mnt")?.into(),
        sandboxes: BTreeMap::new(),
    };
    let served = helper.serve(node);
    for sandbox in helper.sandboxes.values() {
        // One that has ended already is what we want.
        let _ = pidfd_send_signal(sandbox, Signal::KILL);
        let _ = cgroup::let_die(sandbox.as_fd());
    }
    served
}

fn set_up(root: &Path, java: &Path, rootless: bool) -> Result<(), Step> {
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    let mut namespaces = UnshareFlags::NEWNS;
    if rootless {
        namespaces |= UnshareFlags::NEWUSER;
    }
    // SAFETY: no flag here is about file descriptors, which is what could go wrong.
    unsafe { unshare_unsafe(namespaces) }.map_err(Step::at("unsharing namespaces"))?;
    if rootless {
        let (inside, uid, gid) = (ROOTLESS_UID, uid.as_raw(), gid.as_raw());
        for (file, text) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("{inside} {uid} 1")),
            ("gid_map", format!("{inside} {gid} 1")),
        ] {
            fs::write(Path::new("/proc/self").join(file), text)
                .map_err(Step::at(format!("writing /proc/self/{file}")))?;
        }
    }
    root::build(root, java)
}

struct Helper {
    root: PathBuf,
    rootless: bool,
    images: Roots,
    /// Its own mount namespace.
    home: OwnedFd,
    /// Pid 1 of those that may be alive, by id.
    sandboxes: BTreeMap<u64, OwnedFd>,
}

impl Helper {
    /// Until the node is gone.
    fn serve(&mut self, node: BorrowedFd<'_>) -> io::Result<()> {
        while let Some((request, fds)) = receive::<Request>(node)? {
            let id = request.id();
            let done = match &request {
                Request::Create(create) => self
                    .create(create, fds)
                    .map(|(pid, pidfd)| (pid, Some(pidfd))),
                Request::Deliver(deliver) => self.deliver(deliver).map(|()| (0, None)),
                Request::Prepare(prepare) => self.images.add(prepare).map(|()| (0, None)),
                Request::Forget(forget) => self.images.remove(forget.id).map(|()| (0, None)),
                // Its sandboxes make theirs themselves.
                Request::Tunnel(_) => Err(Step::at("making a network device")(
                    io::ErrorKind::Unsupported,
                )),
            };
            let (pid, pidfd, error) = match done {
                Ok((pid, pidfd)) => (pid, pidfd, None),
                Err(step) => (0, None, Some(step.to_string())),
            };
            let fds: Vec<BorrowedFd<'_>> = pidfd.iter().map(AsFd::as_fd).collect();
            let sent = send(node, &Answer { id, pid, error }, &fds, SendFlags::empty());
            if let Some(pidfd) = pidfd {
                self.sandboxes.insert(id, pidfd);
            }
            sent?;
            self.forget_ended();
        }
        Ok(())
    }

    /// Mounts code in a sandbox that was made without. Nothing of a function has run there yet, so
    /// nothing there is hostile.
    fn deliver(&self, deliver: &Deliver) -> Result<(), Step> {
        let Some(sandbox) = self.sandboxes.get(&deliver.id) else {
            return Err(Step::at("finding the sandbox")(io::ErrorKind::NotFound));
        };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let code =
            open_tree(CWD, &deliver.code_dir, flags).map_err(Step::at("opening the code"))?;
        sys::mount_setattr_fd(code.as_fd(), RDONLY | NOSUID | NODEV)
            .map_err(Step::at("making the code read-only"))?;
        move_into_thread_name_spaces(sandbox.as_fd(), ThreadNameSpaceType::MOUNT)
            .map_err(Step::at("entering the sandbox"))?;
        let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        let moved = move_mount(code, "", CWD, "/app", empty);
        let mount = Some(LinkNameSpaceType::Mount);
        if move_into_link_name_space(self.home.as_fd(), mount).is_err() {
            // What it would do next it would do in the wrong place.
            std::process::exit(1);
        }
        moved.map_err(Step::at("mounting the code"))
    }

    fn create(&self, create: &Create, fds: Vec<OwnedFd>) -> Result<(i32, OwnedFd), Step> {
        let mut fds = fds.into_iter();
        let (Some(config), Some(status), Some(log), Some(tunnel)) =
            (fds.next(), fds.next(), fds.next(), fds.next())
        else {
            return Err(Step::at("receiving descriptors")(
                io::ErrorKind::InvalidInput,
            ));
        };
        let cgroup = fds.next();
        let root = match create.image {
            Some(image) => &self.images.path(image)?,
            None => &self.root,
        };
        let next = fds.next();
        let own = child::Fds {
            config,
            status,
            log,
            tunnel,
        };
        if let Some(zygote) = &create.zygote {
            let (Some(order), Some(config)) = (cgroup, next) else {
                return Err(Step::at("receiving descriptors")(
                    io::ErrorKind::InvalidInput,
                ));
            };
            let Some(pidfd) = self.sandboxes.get(&zygote.id) else {
                return Err(Step::at("finding the zygote")(io::ErrorKind::NotFound));
            };
            let place = joined::Place {
                root,
                zygote,
                pidfd: pidfd.as_fd(),
            };
            return joined::create(&place, create, own, (order, config));
        }
        let fds = own;
        match sys::clone3(NAMESPACES, cgroup.as_ref().map(AsFd::as_fd)) {
            Ok(Fork::Parent { pid, pidfd }) => Ok((pid, pidfd)),
            Ok(Fork::Child) => child::run(root, create, &fds, self.rootless),
            Err(error) => Err(Step::at("making namespaces")(error)),
        }
    }

    fn forget_ended(&mut self) {
        let mut polled: Vec<PollFd<'_>> = self
            .sandboxes
            .values()
            .map(|sandbox| PollFd::new(sandbox, PollFlags::IN))
            .collect();
        let now = rustix::time::Timespec::default();
        if poll(&mut polled, Some(&now)).is_err() {
            return;
        }
        let mut alive = polled
            .iter()
            .map(|fd| fd.revents().is_empty())
            .collect::<Vec<_>>()
            .into_iter();
        self.sandboxes.retain(|_, _| alive.next().unwrap_or(true));
    }
}
