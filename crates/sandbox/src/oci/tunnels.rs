//! Ways out of network namespaces: a device in each, whose other end the node has.
//!
//! A built-in sandbox makes its own. In those of containers, which others have made, the helper does,
//! and is nothing else then (`Setup::Tunnels`).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::fstat;
use rustix::net::SendFlags;
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags, move_into_link_name_space,
    move_into_thread_name_spaces, unshare_unsafe,
};

use super::Step;
use super::message::{Answer, Request, receive, send};
use super::sys::make_tunnel;
use crate::network::{GUEST, MTU};

pub(super) const OWN: &str = "/proc/thread-self/ns/net";

/// Makes the device in the network namespace of this thread.
pub(super) fn make() -> io::Result<OwnedFd> {
    let device = make_tunnel(GUEST, MTU)?;
    // There is no way out for it; best effort, as nothing would be let through.
    let _ = fs::write("/proc/sys/net/ipv6/conf/egress/disable_ipv6", "1");
    Ok(device)
}

/// Whether all that is needed can be done here, tried in a namespace that nobody else has.
pub(super) fn try_out() -> Result<(), Step> {
    let home = File::open(OWN).map_err(Step::at("finding the network namespace"))?;
    // SAFETY: the flag isn't about file descriptors, which is what could go wrong.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
        .map_err(Step::at("making a network namespace"))?;
    let made = make().map_err(Step::at("making a network device"));
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(Step::at("leaving a network namespace"))?;
    made.map(drop)
}

/// Until the node is gone.
pub(super) fn serve(node: BorrowedFd<'_>) -> io::Result<()> {
    let home = File::open(OWN)?;
    while let Some((request, fds)) = receive::<Request>(node)? {
        let made = match (&request, fds.first()) {
            (Request::Tunnel(_), Some(process)) => make_in(&home, process.as_fd()),
            _ => Err(Step::at("reading a request")(io::ErrorKind::Unsupported)),
        };
        let answer = Answer {
            id: request.id(),
            pid: 0,
            error: made.as_ref().err().map(ToString::to_string),
        };
        let fds: Vec<BorrowedFd<'_>> = made.iter().map(AsFd::as_fd).collect();
        send(node, &answer, &fds, SendFlags::empty())?;
    }
    Ok(())
}

/// Makes the device in the network namespace of a process, which is never this one.
pub(super) fn make_in(home: &File, process: BorrowedFd<'_>) -> Result<OwnedFd, Step> {
    move_into_thread_name_spaces(process, ThreadNameSpaceType::NETWORK)
        .map_err(Step::at("entering the container's network namespace"))?;
    let made = match is_same(home) {
        Ok(false) => make().map_err(Step::at("making a network device")),
        // The machine's own: a route there would be everybody's.
        Ok(true) => Err(Step::at("entering the container's network namespace")(
            io::Error::other("it has none of its own"),
        )),
        Err(error) => Err(Step::at("looking at a network namespace")(error)),
    };
    if move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network)).is_err() {
        // What it would do next it would do in the wrong place.
        std::process::exit(1);
    }
    made
}

fn is_same(home: &File) -> io::Result<bool> {
    let (here, home) = (fstat(File::open(OWN)?)?, fstat(home)?);
    Ok((here.st_dev, here.st_ino) == (home.st_dev, home.st_ino))
}
