//! The thread that carries packets between the hosts' devices.

use std::io::ErrorKind;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serverledge_sandbox::netns::MTU;

use crate::emulator::Emulator;

/// How long the thread sleeps at most, so that it notices that it is to end.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// Packets read from one host before the others have their turn.
const TURN: usize = 32;

/// A running router. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Router {
    emulator: Arc<Mutex<Emulator>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Router {
    /// Carries packets between `devices`, which are in the order of the emulator's hosts.
    pub(crate) fn start(emulator: Emulator, devices: Vec<OwnedFd>) -> std::io::Result<Self> {
        let emulator = Arc::new(Mutex::new(emulator));
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = {
            let (emulator, is_over) = (Arc::clone(&emulator), Arc::clone(&is_over));
            let carry = move || carry(&emulator, &devices, &is_over);
            std::thread::Builder::new()
                .name("router".into())
                .spawn(carry)?
        };
        Ok(Self {
            emulator,
            is_over,
            thread: Some(thread),
        })
    }

    /// The links, to look at and to change.
    pub(crate) fn links(&self) -> MutexGuard<'_, Emulator> {
        lock(&self.emulator)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(emulator: &Mutex<Emulator>) -> MutexGuard<'_, Emulator> {
    emulator.lock().unwrap_or_else(PoisonError::into_inner)
}

fn carry(emulator: &Mutex<Emulator>, devices: &[OwnedFd], is_over: &AtomicBool) {
    let began = Instant::now();
    let mut buffer = [0; MTU];
    while !is_over.load(Ordering::Relaxed) {
        let next = {
            let mut emulator = lock(emulator);
            while let Some(arrival) = emulator.arrived(began.elapsed()) {
                // A device whose host is going takes no more: as a cable that was pulled.
                let _ = rustix::io::write(&devices[arrival.to], &arrival.packet);
            }
            emulator.next()
        };
        let wait = next.map_or(SLEEP_MAX, |next| {
            next.saturating_sub(began.elapsed()).min(SLEEP_MAX)
        });
        let flags = PollFlags::IN;
        let mut watched: Vec<PollFd<'_>> = devices
            .iter()
            .map(|device| PollFd::from_borrowed_fd(device.as_fd(), flags))
            .collect();
        let timeout = Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        if poll(&mut watched, Some(&timeout)).is_err() {
            continue;
        }
        for (host, ready) in watched.iter().enumerate() {
            if ready.revents().contains(flags) {
                take(&devices[host], &mut buffer, |packet| {
                    lock(emulator).send(host, packet, began.elapsed());
                });
            }
        }
    }
}

fn take(device: &OwnedFd, buffer: &mut [u8], mut send: impl FnMut(&[u8])) {
    for _ in 0..TURN {
        match rustix::io::read(device, &mut *buffer) {
            Ok(size) => send(&buffer[..size]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
