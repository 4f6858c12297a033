//! The node's end of a sandbox's network device, and getting rid of it: the kernel takes tens of
//! milliseconds to remove a device, in which the thread that closes it does nothing else.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use crate::oci::sys::keep_tunnel;

/// Dropping it is for when the sandbox is dead or dying. The device isn't removed then, which costs
/// each the waiting for all processors, but left to its network namespace: those the kernel clears
/// away on its own time, many at once.
pub(crate) struct Device(ManuallyDrop<OwnedFd>);

impl Device {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Device(ManuallyDrop::new(fd))
    }

    /// Puts it under the runtime's watch.
    pub(super) fn watch(self) -> io::Result<AsyncFd<Device>> {
        // SAFETY: it keeps its one descriptor open until it is dropped, as is asked for.
        Ok(unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }?)
    }

    /// Removes the device from a sandbox that lives, and waits for it.
    pub(super) async fn remove(mut self) -> io::Result<()> {
        // SAFETY: taken once, as `forget` follows.
        let fd = unsafe { ManuallyDrop::take(&mut self.0) };
        std::mem::forget(self);
        Ok(spawn_blocking(move || drop(fd)).await?)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: taken once, as nothing follows.
        let fd = unsafe { ManuallyDrop::take(&mut self.0) };
        let close = move || {
            // If it can't be left, it is removed; that is slower, and no worse.
            let _ = keep_tunnel(fd.as_fd());
            drop(fd);
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(close)),
            Err(_) => close(),
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
