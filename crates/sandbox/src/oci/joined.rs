//! The helper's part of a sandbox whose interpreter is forked from a zygote.
//!
//! The interpreter has to join the sandbox's namespaces, and a zygote has no privileges. So these
//! sandboxes have a user namespace of their own, whose owner is the zygote's user: its owner may join
//! it, and all namespaces that belong to it. In there is no user but the sandbox's own, so nothing can
//! be gained by being powerful there. The pid namespace is below the zygote's, as none but such can be
//! joined. See decision 23.
//!
//! A process of the zygote's user can't look into directories of the node or open devices. What needs
//! that is done here, before or from outside.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, chdir, pidfd_send_signal};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::helper::NAMESPACES;
use super::message::{Born, Create, Zygote, receive, send};
use super::sys::{self, Fork};
use super::{Step, child, tunnels};

/// Seconds until a process that is about to make a sandbox must have done so. It has only to fork.
const BORN_WITHIN: i64 = 5;

/// Where such a sandbox is made.
pub(super) struct Place<'a> {
    pub(super) root: &'a Path,
    pub(super) zygote: &'a Zygote,
    /// Pid 1 of the zygote's sandbox.
    pub(super) pidfd: BorrowedFd<'a>,
}

/// Makes the sandbox and returns its pid 1, which is then on its way to become the executor. `more`:
/// the node's connection to the zygote, and where the zygote writes to the executor.
pub(super) fn create(
    place: &Place<'_>,
    create: &Create,
    fds: child::Fds,
    more: (OwnedFd, OwnedFd),
) -> Result<(i32, OwnedFd), Step> {
    let trees = trees(create)?;
    let none = None;
    let kind = SocketType::SEQPACKET;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, none)
        .map_err(Step::at("making a socket"))?;
    let joined = child::Joined {
        zygote: more.0,
        config: more.1,
        helper: theirs,
        trees,
    };
    match sys::clone3(0, None) {
        Ok(Fork::Parent { .. }) => {}
        Ok(Fork::Child) => descend(place, create, &fds, &joined),
        Err(error) => return Err(Step::at("forking")(error)),
    }
    drop(joined);
    let pidfd = born(&ours)?;
    let prepared = prepare(create, &fds, pidfd.as_fd()).and_then(|pid| {
        send(&ours, &(), &[], SendFlags::empty()).map_err(Step::at("telling the sandbox"))?;
        Ok(pid)
    });
    if prepared.is_err() {
        // One that has ended already is what we want.
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
    prepared.map(|pid| (pid, pidfd))
}

/// The node's directories for the sandbox, as mounts that are nowhere yet.
fn trees(create: &Create) -> Result<Vec<(OwnedFd, &'static str)>, Step> {
    let open = |(source, target, attributes): (&Path, &'static str, u64)| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, source, flags).map_err(io::Error::from);
        tree.and_then(|tree| {
            sys::mount_setattr_fd(tree.as_fd(), attributes)?;
            Ok((tree, target))
        })
        .map_err(Step::at(format!("opening what is to be /{target}")))
    };
    create.directories().map(open).collect()
}

fn born(socket: &OwnedFd) -> Result<OwnedFd, Step> {
    let waiting = Step::at("waiting for the new sandbox");
    let until = rustix::time::Timespec {
        tv_sec: BORN_WITHIN,
        tv_nsec: 0,
    };
    match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&until)) {
        Ok(0) => return Err(waiting(io::ErrorKind::TimedOut.into())),
        Ok(_) => {}
        Err(error) => return Err(waiting(error.into())),
    }
    match receive::<Born>(socket) {
        Ok(Some((Born { error: Some(step) }, _))) => Err(waiting(io::Error::other(step))),
        Ok(Some((_, fds))) => match fds.into_iter().next() {
            Some(pidfd) => Ok(pidfd),
            None => Err(waiting(io::ErrorKind::NotFound.into())),
        },
        Ok(None) => Err(waiting(io::ErrorKind::UnexpectedEof.into())),
        Err(error) => Err(waiting(error)),
    }
}

/// Does what only this process may: gives the sandbox its user, and its way out.
fn prepare(create: &Create, fds: &child::Fds, pidfd: BorrowedFd<'_>) -> Result<i32, Step> {
    let pid = pid_of(pidfd).map_err(Step::at("finding the new sandbox"))?;
    let process = Path::new("/proc").join(pid.to_string());
    for (file, id) in [("uid_map", create.uid), ("gid_map", create.gid)] {
        fs::write(process.join(file), format!("{id} {id} 1"))
            .map_err(Step::at(format!("writing {file} of the new sandbox")))?;
    }
    // As for all sandboxes. Best effort.
    let _ = fs::write(process.join("oom_score_adj"), "500");
    if create.network {
        let made = File::open(tunnels::OWN)
            .map_err(Step::at("finding the network namespace"))
            .and_then(|home| tunnels::make_in(&home, pidfd));
        child::send_tunnel(fds.tunnel.as_fd(), made)?;
    }
    Ok(pid)
}

/// The number of a process in this process's pid namespace.
fn pid_of(pidfd: BorrowedFd<'_>) -> io::Result<i32> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    let pid = pid.and_then(|pid| pid.trim().parse().ok());
    // -1 once it is dead.
    pid.filter(|pid| *pid > 0)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// In a fork of the helper: makes one in the zygote's pid namespace, which makes the sandbox.
fn descend(place: &Place<'_>, create: &Create, fds: &child::Fds, joined: &child::Joined) -> ! {
    let Err(step) = enter(place, create, fds, joined);
    let error = Some(step.to_string());
    // If this fails, the helper has gone.
    let _ = send(&joined.helper, &Born { error }, &[], SendFlags::empty());
    sys::exit_now(1)
}

fn enter(
    place: &Place<'_>,
    create: &Create,
    fds: &child::Fds,
    joined: &child::Joined,
) -> Result<std::convert::Infallible, Step> {
    move_into_thread_name_spaces(place.pidfd, ThreadNameSpaceType::PROCESS_ID)
        .map_err(Step::at("entering the zygote's pid namespace"))?;
    // All are the helper's children, and so end with it.
    match sys::clone3_sibling(0).map_err(Step::at("forking"))? {
        Fork::Parent { .. } => sys::exit_now(0),
        Fork::Child => {}
    }
    chdir(place.root).map_err(Step::at("entering the root"))?;
    let mut keep = vec![
        fds.config.as_fd(),
        fds.status.as_fd(),
        fds.log.as_fd(),
        joined.zygote.as_fd(),
        joined.config.as_fd(),
        joined.helper.as_fd(),
    ];
    keep.extend(joined.trees.iter().map(|(tree, _)| tree.as_fd()));
    // From here on it has a user that isn't trusted with what the helper holds.
    sys::close_all_but(&keep).map_err(Step::at("closing descriptors"))?;
    let Zygote { uid, gid, .. } = *place.zygote;
    sys::become_user(uid, gid, true).map_err(Step::at(format!("becoming user {uid}:{gid}")))?;
    match sys::clone3_sibling(NAMESPACES | libc::CLONE_NEWUSER as u64) {
        Ok(Fork::Parent { pidfd, .. }) => {
            let born = Born { error: None };
            send(&joined.helper, &born, &[pidfd.as_fd()], SendFlags::empty())
                .map_err(Step::at("telling the helper"))?;
            sys::exit_now(0)
        }
        Ok(Fork::Child) => child::run_joined(create, fds, joined),
        Err(error) => Err(Step::at("making namespaces")(error)),
    }
}
