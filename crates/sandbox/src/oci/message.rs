//! What the node and the helper say to each other: one JSON text a packet, descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::sys::{NODEV, NOEXEC, NOSUID, RDONLY};

/// Most bytes and descriptors of a packet.
const PACKET_MAX: usize = 16 << 10;
const FDS_MAX: usize = 10;

/// The first packet to the helper; answered by [`Ready`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Setup {
    /// It makes sandboxes.
    Sandboxes(Places),
    /// It gives what others have made a way out, and does nothing else.
    Tunnels,
}

/// Where a helper that makes sandboxes has its things.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Places {
    /// Existing directory to mount the root file system on.
    pub(crate) root: PathBuf,
    /// Existing directory with what is made for Java, seen in all sandboxes.
    pub(crate) java: PathBuf,
    /// Existing directory to keep the roots of images in.
    pub(crate) images: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// The step that failed, and how.
    pub(crate) error: Option<String>,
    /// Whether sandboxes are made in a user namespace.
    pub(crate) rootless: bool,
}

/// What the node asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Create(Create),
    Deliver(Deliver),
    Prepare(Prepare),
    Forget(Forget),
    Tunnel(Enter),
}

impl Request {
    /// The sandbox or root it is about; they share the numbers. One request at a time for each.
    pub(crate) fn id(&self) -> u64 {
        match self {
            Request::Create(create) => create.id,
            Request::Deliver(deliver) => deliver.id,
            Request::Prepare(prepare) => prepare.id,
            Request::Forget(forget) => forget.id,
            Request::Tunnel(enter) => enter.id,
        }
    }
}

/// Asks for a sandbox. Comes with descriptors: executor's configuration, status pipe, log pipe,
/// the socket for [`Tunnel`] and, for cgroup version 2, the cgroup to start in; below a zygote, instead
/// of that, the node's connection to the zygote and the end of the configuration that it writes to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Create {
    pub(crate) id: u64,
    /// The function's code; none yet for a sandbox that is made ahead of its function.
    pub(crate) code_dir: Option<PathBuf>,
    pub(crate) socket_dir: PathBuf,
    /// The [`Prepare`] whose root it gets; else the host's.
    pub(crate) image: Option<u64>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) tmp_mb: u64,
    /// Where there is no cgroup for them: limits of each process's memory and of the user's
    /// processes; 0 means none.
    pub(crate) data_mb: u64,
    pub(crate) processes: u32,
    /// Whether it has a way out.
    pub(crate) network: bool,
    /// The zygote from which its interpreter is to come; else its executor starts one.
    pub(crate) zygote: Option<Zygote>,
}

impl Create {
    /// The node's directories to be mounted, where, and with which attributes.
    pub(super) fn directories(&self) -> impl Iterator<Item = (&Path, &'static str, u64)> {
        let plain = RDONLY | NOSUID | NODEV;
        let code = self.code_dir.iter();
        let code = code.map(move |dir| (dir.as_path(), "app", plain));
        let socket = (self.socket_dir.as_path(), "run/serverledge", plain | NOEXEC);
        code.chain([socket])
    }
}

/// A sandbox that was made before, with a zygote in it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Zygote {
    pub(crate) id: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What the helper hears from within of a sandbox below a zygote: its pid 1 comes along, or there is
/// an error.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Born {
    /// The step that failed, and how.
    pub(crate) error: Option<String>,
}

/// What a new sandbox says of its way out, before it becomes the executor; with a descriptor if
/// there is one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Tunnel {
    /// The step that failed, and how.
    pub(crate) error: Option<String>,
}

/// Asks to put code into a sandbox that was made without.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Deliver {
    pub(crate) id: u64,
    pub(crate) code_dir: PathBuf,
}

/// Asks for a root file system of an image's layers, for sandboxes to be made on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Prepare {
    pub(crate) id: u64,
    pub(crate) layers_dir: PathBuf,
    /// Names in there; the lowest first.
    pub(crate) layers: Vec<String>,
}

/// Asks to take down a root that no sandbox will be made on any more. Those that were keep it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Forget {
    pub(crate) id: u64,
}

/// Asks for a way out of the network namespace of a process, of which a descriptor comes along.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Enter {
    pub(crate) id: u64,
}

/// The answer to a [`Request`], with a descriptor of what was made: the sandbox's pid 1, or the
/// device.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) id: u64,
    /// Of a sandbox that was started.
    pub(crate) pid: i32,
    /// The step that failed, and how.
    pub(crate) error: Option<String>,
}

pub(crate) fn send<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    if text.len() > PACKET_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    send_bytes(socket, &text, fds, flags)
}

/// Sends something that isn't JSON.
pub(crate) fn send_bytes(
    socket: impl AsFd,
    text: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = flags | SendFlags::NOSIGNAL;
    let sent = sendmsg(socket, &[IoSlice::new(text)], &mut control, flags)?;
    match sent == text.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// `None` when the other side is gone.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut text = vec![0; PACKET_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut text)];
    let received = recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let message = serde_json::from_slice(&text[..received.bytes])?;
    Ok(Some((message, fds)))
}
