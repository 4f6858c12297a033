//! Sandboxes: the isolated places in which functions run.
//!
//! A [`Backend`] makes sandboxes, a [`Sandbox`] runs calls of one function. Five backends exist:
//! [`oci`] (built in: namespaces, cgroups, seccomp on the host's own interpreters), [`docker`]
//! (containers of a Docker engine, from images), [`process`] (the same shims and wire, no isolation
//! at all), [`wasm`] (WebAssembly, beside any of the others) and [`fake`] (in-process, for tests of
//! the node).
//!
//! Left out on purpose: which sandbox runs a call and when one is started or destroyed. That is
//! `serverledge-core`'s business.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod body;
mod cgroup;
pub mod docker;
mod error;
mod executor;
pub mod fake;
pub mod image;
mod instance;
pub mod java;
mod log;
pub mod netns;
mod network;
pub mod oci;
pub mod probe;
pub mod process;
mod seccomp;
mod tls;
mod types;
pub mod wasm;
mod wire;

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use error::{CallError, CreateError, Exit, ExitCause};
pub use network::NetworkConfig;
pub use oci::helper_main;
pub use types::{Call, FunctionError, Kind, NetworkSupport, Reply, SandboxSpec, Shim};

/// A future whose type is erased, so that the traits here can be used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whether a backend makes sandboxes from images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageUse {
    /// There are none.
    Never,
    /// From an image or without one.
    Possible,
    /// Without an image there is no sandbox.
    Always,
}

/// Whether an image may be got from its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pull {
    /// It must be here.
    Never,
    /// If it isn't here.
    IfMissing,
}

/// A technology that makes sandboxes.
pub trait Backend: Send + Sync + 'static {
    /// The name used in configuration and logs, such as `oci`.
    fn name(&self) -> &'static str;

    /// Whether sandboxes are made from [`SandboxSpec::image`].
    fn image_use(&self) -> ImageUse {
        ImageUse::Never
    }

    /// Makes sure that an image is at hand, where this backend gets images itself.
    fn provide_image(
        &self,
        _image: String,
        _pull: Pull,
    ) -> BoxFuture<'_, Result<(), image::ImageError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Tells which images are in use, so that others can be removed.
    fn collect_images(&self, _keep: HashSet<String>) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// What [`SandboxSpec::network`] means to it.
    fn network(&self) -> NetworkSupport {
        NetworkSupport::Absent
    }

    /// Makes a sandbox and loads the function into it. The sandbox is ready for calls when this
    /// returns. On an error, and when the future is dropped early, whatever was started is removed.
    fn create(&self, spec: SandboxSpec) -> BoxFuture<'_, Result<Arc<dyn Sandbox>, CreateError>>;

    /// Whether sandboxes of this kind can be made ahead of their function at all.
    fn makes_ahead(&self, _kind: &Kind) -> bool {
        true
    }

    /// Starts a sandbox of this kind without a function, as far as it goes. `id` is unique like
    /// [`SandboxSpec::id`], and the same for both. `None` where there is no such thing.
    fn prestart(
        &self,
        _kind: Kind,
        _id: u64,
        _timeout: Duration,
    ) -> BoxFuture<'_, Result<Option<Box<dyn Prestarted>>, CreateError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Whether sandboxes of this kind are made from zygotes.
    fn has_zygotes(&self, _kind: &Kind) -> bool {
        false
    }

    /// Starts a zygote of this kind: sandboxes of it are made from that, as long as it is kept. `id` as
    /// for [`Backend::prestart`]. `None` where there is no such thing ([`Backend::has_zygotes`]); an error if what it imports
    /// rules it out, where sandboxes are made as without.
    fn zygote(
        &self,
        _kind: Kind,
        _id: u64,
        _timeout: Duration,
    ) -> BoxFuture<'_, Result<Option<oci::Zygote>, CreateError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Destroys every sandbox of this backend and waits until they are gone. Idempotent.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

/// A sandbox that waits for its function. Dropping it destroys it, in the background.
pub trait Prestarted: Send + 'static {
    /// Whether it is still good for something.
    fn is_alive(&self) -> bool;

    /// Puts a function into it, which must be of its kind; the limits are the function's from here
    /// on, the identity stays its own.
    fn load(
        self: Box<Self>,
        spec: SandboxSpec,
    ) -> BoxFuture<'static, Result<Arc<dyn Sandbox>, CreateError>>;
}

/// A place where one function is loaded and can be called.
///
/// Dropping the last `Arc` destroys the sandbox too, in the background.
pub trait Sandbox: Send + Sync + 'static {
    /// Runs one call. At most [`SandboxSpec::slots`] calls may run at once; one more is a
    /// [`CallError::Protocol`]. When the future is dropped before it is done, the slot is lost:
    /// nobody knows what state the function is in, so destroy the sandbox. What the function left
    /// running gets no time until the next call, where the backend can see to that.
    fn invoke(&self, call: Call) -> BoxFuture<'_, Result<Reply, CallError>>;

    /// Resolves when the sandbox has ended, by itself or because it was destroyed. May be awaited
    /// many times, also after the end.
    fn ended(&self) -> BoxFuture<'_, ExitCause>;

    /// Kills everything in the sandbox and removes what belonged to it. Idempotent. Returns when
    /// the processes are dead; files and cgroups may be removed a moment later.
    fn destroy(&self) -> BoxFuture<'_, ()>;
}

/// Locks plain data that is valid between any two statements, so that a panic elsewhere doesn't
/// spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
