//! The node's end of the socket to the helper.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::{Interest, unix::AsyncFd};
use tokio::sync::oneshot;

use super::message::{Answer, Ready, Request, Setup, receive, send};
use crate::body::watch_fd;
use crate::{CreateError, lock};

/// A running helper. Dropping it closes the socket, on which the helper kills all and exits.
pub(crate) struct Link {
    shared: Arc<Shared>,
    pub(crate) rootless: bool,
    /// Where the helper has the roots of images.
    images: PathBuf,
    child: Mutex<Child>,
}

struct Shared {
    socket: AsyncFd<OwnedFd>,
    /// Requests without an answer, by sandbox; `None` once the helper is gone.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Done>>>>,
}

/// What came of a request. A new sandbox's pid 1 is killed on drop unless [`Done::started`] is
/// called, so that one whose requester has gone doesn't stay. A device is closed, and so removed.
pub(crate) struct Done(Result<(i32, Option<OwnedFd>), String>);

impl Done {
    /// The new sandbox's pid 1.
    pub(crate) fn started(mut self) -> Result<(i32, OwnedFd), CreateError> {
        match &mut self.0 {
            Ok((pid, pidfd)) => match pidfd.take() {
                Some(pidfd) => Ok((*pid, pidfd)),
                None => Err(CreateError::Isolation("no descriptor came back".to_owned())),
            },
            Err(step) => Err(CreateError::Isolation(std::mem::take(step))),
        }
    }

    /// The end of a network device from which its packets are read.
    pub(crate) fn device(mut self) -> Result<OwnedFd, String> {
        match &mut self.0 {
            Ok((_, device)) => device
                .take()
                .ok_or_else(|| "no descriptor came back".to_owned()),
            Err(step) => Err(std::mem::take(step)),
        }
    }

    /// Nothing but success.
    pub(crate) fn done(mut self) -> Result<(), CreateError> {
        match &mut self.0 {
            Ok(_) => Ok(()),
            Err(step) => Err(CreateError::Isolation(std::mem::take(step))),
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        // To a device, it means nothing.
        if let Ok((_, Some(pidfd))) = &self.0 {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
}

impl Link {
    /// Starts the helper and waits until it has built the root file system.
    pub(crate) async fn start(command: &[OsString], setup: &Setup) -> Result<Link, CreateError> {
        let io = |doing: &'static str| move |source| CreateError::io(doing, source);
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(|error| {
                CreateError::io("making a socket for the sandbox helper", error.into())
            })?;
        let Some((program, args)) = command.split_first() else {
            return Err(CreateError::Isolation(
                "no command for the sandbox helper".to_owned(),
            ));
        };
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            // A group of its own: Ctrl-C is for the node, which lets calls finish first.
            .process_group(0)
            .spawn()
            .map_err(io("starting the sandbox helper"))?;
        rustix::io::ioctl_fionbio(&ours, true)
            .map_err(|error| CreateError::io("starting the sandbox helper", error.into()))?;
        let socket = watch_fd(ours, Interest::READABLE | Interest::WRITABLE)
            .map_err(io("starting the sandbox helper"))?;
        let shared = Arc::new(Shared {
            socket,
            waiting: Mutex::new(Some(HashMap::new())),
        });
        let mut link = Link {
            shared,
            rootless: false,
            images: match setup {
                Setup::Sandboxes(places) => places.images.clone(),
                Setup::Tunnels => PathBuf::new(),
            },
            child: Mutex::new(child),
        };
        let ready = link.set_up(setup).await;
        match ready.map_err(io("setting up the sandbox helper"))? {
            Ok(rootless) => link.rootless = rootless,
            Err(step) => {
                link.close().await;
                return Err(CreateError::Isolation(step));
            }
        }
        tokio::spawn(answers(link.shared.clone()));
        Ok(link)
    }

    /// Whether it works without root, or the step that failed.
    async fn set_up(&self, setup: &Setup) -> io::Result<Result<bool, String>> {
        self.shared.send(setup, &[]).await?;
        Ok(match self.shared.receive::<Ready>().await? {
            Some((
                Ready {
                    error: Some(step), ..
                },
                _,
            )) => Err(step),
            Some((ready, _)) => Ok(ready.rootless),
            None => Err("the sandbox helper ended while it was set up".to_owned()),
        })
    }

    /// Where this process sees the root of an image that the helper has prepared.
    pub(crate) fn image_root(&self, id: u64) -> PathBuf {
        let inside = self.images.join(id.to_string());
        PathBuf::from(format!("/proc/{}/root{}", self.pid(), inside.display()))
    }

    pub(crate) fn pid(&self) -> u32 {
        lock(&self.child).id()
    }

    pub(crate) fn is_alive(&self) -> bool {
        lock(&self.shared.waiting).is_some()
    }

    /// Asks the helper for something.
    pub(crate) async fn request(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Done, CreateError> {
        let gone = || CreateError::Isolation("the sandbox helper has ended".to_owned());
        let (sender, receiver) = oneshot::channel();
        match &mut *lock(&self.shared.waiting) {
            Some(waiting) => drop(waiting.insert(request.id(), sender)),
            None => return Err(gone()),
        }
        let sent = self.shared.send(request, fds).await;
        sent.map_err(|source| CreateError::io("asking the sandbox helper", source))?;
        receiver.await.map_err(|_| gone())
    }

    /// Ends the helper, and with it all sandboxes, and waits for it.
    pub(crate) async fn close(&self) {
        let socket = self.shared.socket.get_ref();
        // It may be closed already.
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        for _ in 0..500 {
            if !matches!(lock(&self.child).try_wait(), Ok(None)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let _ = lock(&self.child).kill();
        let _ = lock(&self.child).wait();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let socket = self.shared.socket.get_ref();
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        if matches!(child.try_wait(), Ok(None)) {
            // It ends by itself now, within a millisecond or two, and must not stay a zombie.
            let pid = child.id();
            std::thread::spawn(move || {
                let pid = rustix::process::Pid::from_raw(pid as i32);
                rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())
            });
        }
    }
}

impl Shared {
    async fn send<T: serde::Serialize>(
        &self,
        message: &T,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let send = |socket: &OwnedFd| send(socket, message, fds, SendFlags::empty());
        self.socket.async_io(Interest::WRITABLE, send).await
    }

    async fn receive<T: serde::de::DeserializeOwned>(
        &self,
    ) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let receive = |socket: &OwnedFd| receive(socket);
        self.socket.async_io(Interest::READABLE, receive).await
    }
}

/// Hands out answers until the helper is gone.
async fn answers(shared: Arc<Shared>) {
    while let Ok(Some((answer, fds))) = shared.receive::<Answer>().await {
        let waiter = lock(&shared.waiting)
            .as_mut()
            .and_then(|all| all.remove(&answer.id));
        let done = Done(match answer.error {
            None => Ok((answer.pid, fds.into_iter().next())),
            Some(step) => Err(step),
        });
        if let Some(waiter) = waiter {
            // If it has gone, a new sandbox is dropped here, and so killed.
            let _ = waiter.send(done);
        }
    }
    // Dropping the senders tells those who wait.
    lock(&shared.waiting).take();
}
