//! A host: a process that has nothing but a network namespace, and what is run in there.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context as _, bail};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serverledge_sandbox::netns;

/// The first argument with which a program is to call [`host_main`], before it has threads.
pub const HOST_COMMAND: &str = "testbed-host";

/// The life of a host: makes its namespace, hands the device over and stays until its standard
/// input, a socket, is closed. The argument is its address.
pub fn host_main(address: &str) -> ExitCode {
    let live = || -> anyhow::Result<()> {
        let address: Ipv4Addr = address.parse().context("the address")?;
        let device = netns::enter(address)
            .context("making a network namespace (it needs root and /dev/net/tun)")?;
        let mut socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        send_device(&socket, device)?;
        let _ = socket.read(&mut [0]);
        Ok(())
    };
    match live() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{HOST_COMMAND}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn send_device(socket: &UnixStream, device: OwnedFd) -> anyhow::Result<()> {
    let fds = [device.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        bail!("no space for a descriptor");
    }
    sendmsg(
        socket,
        &[IoSlice::new(b"+")],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

fn receive_device(socket: &UnixStream) -> anyhow::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let device = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    device.context("no device came: the host's own words are above")
}

/// A running host.
#[derive(Debug)]
pub(crate) struct Host {
    process: Child,
    /// Closing it ends the host.
    _life: UnixStream,
}

impl Host {
    /// `program` calls [`host_main`]. The result's device has the host's packets.
    pub(crate) fn start(program: &Path, address: Ipv4Addr) -> anyhow::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        let process = Command::new(program)
            .args([HOST_COMMAND, &address.to_string()])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let mut host = Self {
            process,
            _life: ours,
        };
        match receive_device(&host._life) {
            Ok(device) => Ok((host, device)),
            Err(error) => {
                let _ = host.process.kill();
                let _ = host.process.wait();
                Err(error)
            }
        }
    }

    fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.process.id()).into()
    }

    /// A command that is run on this host, and dies with the thread that starts it.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace().display()));
        command.args(["--", "setpriv", "--pdeathsig", "KILL", "--"]);
        command.arg(program);
        command
    }

    /// Moves the calling thread onto this host, for good: sockets that it makes are the host's.
    pub(crate) fn enter(&self) -> anyhow::Result<()> {
        self.entrance()?()
    }

    /// What does [`Host::enter`] on another thread.
    pub(crate) fn entrance(&self) -> anyhow::Result<impl FnOnce() -> anyhow::Result<()> + use<>> {
        let path = self.namespace();
        let namespace = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(move || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), kind).context("entering a host")
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
