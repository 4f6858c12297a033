//! Death at a chosen write of a journal, for tests of recovery; not in release builds.
//!
//! `WORKFLOW_DIES_AT=before:3` kills the process before its third write to a journal,
//! `after:3` when that is on disk.

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WRITES: AtomicU64 = AtomicU64::new(0);
    static PLAN: OnceLock<Option<(bool, u64)>> = OnceLock::new();

    fn plan() -> Option<(bool, u64)> {
        *PLAN.get_or_init(|| {
            let text = std::env::var("WORKFLOW_DIES_AT").ok()?;
            let (when, number) = text.split_once(':')?;
            Some((when == "before", number.parse().ok()?))
        })
    }

    fn die() {
        use rustix::process::{Signal, getpid, kill_process};
        let _ = kill_process(getpid(), Signal::KILL);
        // Until the kernel has done it.
        loop {
            std::thread::park();
        }
    }

    pub(crate) fn before_write() {
        let number = WRITES.fetch_add(1, Ordering::Relaxed) + 1;
        if plan() == Some((true, number)) {
            die();
        }
    }

    pub(crate) fn after_write() {
        if plan() == Some((false, WRITES.load(Ordering::Relaxed))) {
            die();
        }
    }
}

#[cfg(debug_assertions)]
pub(crate) use armed::{after_write, before_write};

#[cfg(not(debug_assertions))]
pub(crate) fn before_write() {}

#[cfg(not(debug_assertions))]
pub(crate) fn after_write() {}
