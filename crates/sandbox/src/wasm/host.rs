//! What an instance finds around it: its standard streams, a limit of memory, clocks, fresh
//! randomness, the network that it may have, and nothing else. There are no files and no environment
//! but what we put there.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};
use wasmtime_wasi::{WasiCtxBuilder, WasiCtxView, WasiView, async_trait};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::engine::{
    MEMORIES_PER_COMPONENT_MAX, MODULES_PER_COMPONENT_MAX, TABLE_ELEMENTS_MAX,
    TABLES_PER_COMPONENT_MAX, Ticking,
};
use super::network::Network;
use crate::lock;

/// Handles of streams, requests, timers and the like that one instance may have. Each may hold some
/// of the node's own memory: as much as the next two say.
const HANDLES_MAX: usize = 1 << 10;
/// The fields of one request or response, bytes as they are kept.
const FIELDS_BYTES_MAX: usize = 64 << 10;
/// Random bytes that one instance gets at a time.
const RANDOM_BYTES_MAX: u64 = 1 << 20;
/// What an instance writes at a time.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// What belongs to one instance.
pub(super) struct Host {
    wasi: WasiP1Ctx,
    http: WasiHttpCtx,
    network: Network,
    pub(super) memory: Memory,
    pub(super) ticking: Option<Ticking>,
}

impl Host {
    pub(super) fn new(mut wasi: WasiCtxBuilder, network: Network, budget: &Arc<Budget>) -> Self {
        network.apply(&mut wasi);
        wasi.max_random_size(RANDOM_BYTES_MAX);
        let mut wasi = wasi.build_p1();
        wasi.ctx().table.set_max_capacity(HANDLES_MAX);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS_BYTES_MAX);
        Host {
            wasi,
            http,
            network,
            memory: Memory {
                budget: Arc::clone(budget),
                mine: 0,
                last: 0,
                refused: false,
            },
            ticking: None,
        }
    }

    pub(super) fn preview1(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }

    pub(super) fn network_and_table(&mut self) -> (&mut Network, &mut ResourceTable) {
        (&mut self.network, self.wasi.ctx().table)
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.network,
            table: self.wasi.ctx().table,
            ctx: &mut self.http,
        }
    }
}

/// Memory of all instances that one sandbox has at once.
#[derive(Debug)]
pub(super) struct Budget {
    bytes_max: usize,
    used: AtomicUsize,
}

impl Budget {
    /// So many MiB; 0 means no limit.
    pub(super) fn of_mb(megabytes: u64) -> Arc<Self> {
        let bytes_max = match usize::try_from(megabytes) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(megabytes) => megabytes.saturating_mul(1 << 20),
        };
        Arc::new(Budget {
            bytes_max,
            used: AtomicUsize::new(0),
        })
    }

    fn take(&self, bytes: usize) -> bool {
        let more = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// One instance's part of it.
pub(super) struct Memory {
    budget: Arc<Budget>,
    mine: usize,
    /// Part of `mine` that was taken last.
    last: usize,
    /// Whether it wanted more than it could have.
    pub(super) refused: bool,
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let more = desired.saturating_sub(current);
        let granted = self.budget.take(more);
        if granted {
            self.mine += more;
            self.last = more;
        }
        self.refused |= !granted;
        Ok(granted)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        let last = std::mem::take(&mut self.last);
        self.mine -= last;
        self.budget.give_back(last);
        Ok(())
    }

    // As many as the pool has for an instance: where there is no pool, these hold.

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }

    fn instances(&self) -> usize {
        MODULES_PER_COMPONENT_MAX as usize
    }

    fn tables(&self) -> usize {
        TABLES_PER_COMPONENT_MAX as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_PER_COMPONENT_MAX as usize
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.budget.give_back(self.mine);
    }
}

/// What to do with what there is no more room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surplus {
    /// End the call.
    Refuse,
    /// Leave it out.
    Drop,
}

/// An output stream of an instance, kept in memory up to a limit.
#[derive(Clone, Debug)]
pub(super) struct Capture {
    written: Arc<Mutex<Written>>,
    bytes_max: usize,
    surplus: Surplus,
}

#[derive(Debug, Default)]
struct Written {
    bytes: Vec<u8>,
    too_much: bool,
}

impl Capture {
    pub(super) fn new(bytes_max: usize, surplus: Surplus) -> Self {
        Capture {
            written: Arc::default(),
            bytes_max,
            surplus,
        }
    }

    /// Takes what was written.
    pub(super) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.written).bytes)
    }

    /// The last bytes of it, not more than these.
    pub(super) fn peek_end(&self, bytes_max: usize) -> Vec<u8> {
        let written = lock(&self.written);
        let from = written.bytes.len().saturating_sub(bytes_max);
        written.bytes[from..].to_vec()
    }

    /// Whether something had no room.
    pub(super) fn is_too_much(&self) -> bool {
        lock(&self.written).too_much
    }

    fn push(&self, bytes: &[u8]) -> Result<(), StreamError> {
        let mut written = lock(&self.written);
        let room = self.bytes_max - written.bytes.len();
        if bytes.len() <= room {
            written.bytes.extend_from_slice(bytes);
            return Ok(());
        }
        written.too_much = true;
        match self.surplus {
            Surplus::Refuse => Err(StreamError::trap("it wrote more than it may")),
            Surplus::Drop => {
                written.bytes.extend_from_slice(&bytes[..room]);
                Ok(())
            }
        }
    }
}

#[async_trait]
impl Pollable for Capture {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for Capture {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.push(&bytes)
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl AsyncWrite for Capture {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let pushed = self.push(bytes).map(|()| bytes.len());
        Poll::Ready(pushed.map_err(|error| std::io::Error::other(error.to_string())))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl IsTerminal for Capture {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Capture {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_shared_and_given_back() {
        let budget = Budget::of_mb(2);
        let memory = |budget: &Arc<Budget>| Memory {
            budget: Arc::clone(budget),
            mine: 0,
            last: 0,
            refused: false,
        };
        let (mut one, mut other) = (memory(&budget), memory(&budget));
        assert!(one.memory_growing(0, 1 << 20, None).unwrap());
        assert!(other.memory_growing(0, 1 << 20, None).unwrap());
        assert!(!other.memory_growing(1 << 20, (1 << 20) + 1, None).unwrap());
        assert!(other.refused && !one.refused);
        // Its own maximum is no fault of the limit.
        assert!(!one.memory_growing(1 << 20, 3 << 20, Some(2 << 20)).unwrap());
        assert!(!one.refused);
        drop(other);
        assert!(one.memory_growing(1 << 20, 2 << 20, None).unwrap());
        one.memory_grow_failed(wasmtime::Error::msg("no")).unwrap();
        assert!(one.memory_growing(1 << 20, 2 << 20, None).unwrap());
        drop(one);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
        assert!(Budget::of_mb(0).take(usize::MAX));
    }

    #[test]
    fn a_capture_keeps_what_it_has_room_for() {
        let refuses = Capture::new(3, Surplus::Refuse);
        assert!(refuses.push(b"ab").is_ok() && refuses.push(b"cd").is_err());
        assert!(refuses.is_too_much());
        let drops = Capture::new(3, Surplus::Drop);
        assert!(drops.push(b"ab").is_ok() && drops.push(b"cd").is_ok());
        assert_eq!(drops.take(), b"abc");
        assert!(drops.is_too_much());
    }
}
