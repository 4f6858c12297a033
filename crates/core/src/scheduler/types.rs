//! What goes into the scheduler and what comes out.

use std::time::Duration;

use crate::time::Timestamp;

/// One registered revision of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionId(pub u64);

/// A sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SandboxId(pub u64);

/// A call; later ones have greater ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Bounds of a node.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// Memory for all sandboxes, MiB.
    pub memory_mb: u64,
    /// CPU for all sandboxes, cores.
    pub cpus: f64,
    /// How long a sandbox may be idle.
    pub keep_alive: Duration,
    /// Calls that may wait for lack of room; 0 = none.
    pub queue_capacity: usize,
    /// Calls of one function that may wait although there would be room.
    pub wait_capacity: usize,
    /// How long a call may wait.
    pub queue_timeout: Duration,
    /// Sandboxes that may start at once.
    pub starts_max: usize,
    /// Cores of the machine.
    pub cores: usize,
    /// What a sandbox without a function counts for, MiB.
    pub spare_mb: u64,
}

/// What a sandbox of a function needs and serves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Memory, MiB.
    pub memory_mb: u64,
    /// Cores; 0 = no demand.
    pub cpu: f64,
    /// Calls at once, at least 1.
    pub max_concurrency: u32,
}

/// The answer to an arrival.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decision {
    /// Run in this warm sandbox, now.
    Start(SandboxId),
    /// Wait for a `Dispatch` or `Refuse`.
    Enqueue {
        /// When to call `rejudge`.
        rejudge_at: Timestamp,
        /// When to call `give_up`.
        give_up_at: Timestamp,
    },
    /// Refuse.
    Drop(DropReason),
}

/// The answer to a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// The call waited still, and is forgotten now.
    Dropped,
    /// It doesn't wait any more.
    Answered,
    /// It waits on; ask again then.
    Postponed(Timestamp),
}

/// Why a call is not run.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum DropReason {
    /// The node as a whole is smaller.
    #[error(
        "the function needs {memory_mb} MB and {cpu} cores; all of this node's pool has \
         {pool_memory_mb} MB and {pool_cpus} cores"
    )]
    TooLarge {
        /// What it needs, MiB.
        memory_mb: u64,
        /// What it needs, cores.
        cpu: f64,
        /// What there is, MiB.
        pool_memory_mb: u64,
        /// What there is, cores.
        pool_cpus: f64,
    },
    /// All memory or CPU is in use, and nothing may wait.
    #[error("the node has no room for another sandbox, and no queue is configured")]
    NoRoom,
    /// Too many wait: for room, or by choice for a sandbox that is there or on its way.
    #[error("too many calls are waiting already")]
    QueueFull,
    /// It waited for too long.
    #[error("no sandbox became free in time (scheduler.queue.timeout)")]
    QueueTimeout,
    /// The sandbox it waited for could not be started.
    #[error("the function could not be started")]
    StartFailed,
}

/// How a call left its sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As good as new, whether the function succeeded or not.
    Done,
    /// As it was: the call was withdrawn before it began.
    Unused,
    /// Nobody knows: to be destroyed.
    Broken,
    /// Still running the call: takes no other, and is destroyed when those it has are over.
    TimedOut,
}

/// Something for the shell to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Start a sandbox, then report `ready` or `start_failed`.
    Create {
        /// Its id.
        sandbox: SandboxId,
        /// Its function.
        function: FunctionId,
    },
    /// Destroy a sandbox, also one that still starts.
    Destroy {
        /// Which.
        sandbox: SandboxId,
    },
    /// Destroy one sandbox without a function, or the next that is ready: its memory is needed. It
    /// is in no books any more.
    Yield,
    /// Run a waiting call.
    Dispatch {
        /// The call.
        call: CallId,
        /// Where.
        sandbox: SandboxId,
        /// Whether it is the first call there.
        cold: bool,
    },
    /// Tell a waiting call that it won't run.
    Refuse {
        /// The call.
        call: CallId,
        /// Why.
        reason: DropReason,
    },
}
