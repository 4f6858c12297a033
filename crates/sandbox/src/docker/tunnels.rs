//! Ways out for containers, which have no network of the engine's.
//!
//! Only the container's own network namespace is entered, by its helper process, and only while
//! nothing of a function has run in it.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::Mutex;

use crate::CreateError;
use crate::network::{Device, Way};
use crate::oci::link::Link;
use crate::oci::message::{Enter, Request, Setup};

/// Makes them, by a helper with the rights for it.
pub(super) struct Tunnels {
    command: Vec<OsString>,
    link: Mutex<Arc<Link>>,
}

impl Tunnels {
    /// Fails where there can be none; says why.
    pub(super) async fn start(command: Vec<OsString>) -> Result<Self, CreateError> {
        let link = Link::start(&command, &Setup::Tunnels).await?;
        Ok(Tunnels {
            command,
            link: Mutex::new(Arc::new(link)),
        })
    }

    /// Makes one for the container in which this process is: the one at the other end of its first
    /// connection, so that no other container's process can be taken for it.
    pub(super) async fn open(&self, id: u64, process: Option<i32>) -> Way {
        let Some(process) = process.and_then(Pid::from_raw) else {
            // The engine's processes are, or this node is, in a namespace of their own.
            return Err("the processes of containers can't be seen from here".to_owned());
        };
        let process = pidfd_open(process, PidfdFlags::empty())
            .map_err(|error| format!("finding the container's process: {error}"))?;
        let link = self.link().await.map_err(|error| error.to_string())?;
        let request = Request::Tunnel(Enter { id });
        let done = link.request(&request, &[process.as_fd()]).await;
        let device = done.map_err(|error| error.to_string())?.device();
        device.map(Device::new)
    }

    /// The helper; a new one if it has died. What it has made lives on.
    async fn link(&self) -> Result<Arc<Link>, CreateError> {
        let mut link = self.link.lock().await;
        if !link.is_alive() {
            tracing::warn!("the network helper has ended and is started again");
            *link = Arc::new(Link::start(&self.command, &Setup::Tunnels).await?);
        }
        Ok(link.clone())
    }

    pub(super) async fn close(&self) {
        self.link.lock().await.close().await;
    }
}
