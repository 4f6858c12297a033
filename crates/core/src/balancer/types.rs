//! What goes into a choice of a target, and what comes out of it.

use std::time::Duration;

/// A target, as the caller numbers them. A number is never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(pub u64);

/// Of a target's processors, as functions name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Architecture {
    /// `amd64`.
    Amd64,
    /// `arm64`.
    Arm64,
    /// One that no function can name.
    Other,
}

impl Architecture {
    /// Those that functions are made for, in the order in which the original takes turns.
    pub const KNOWN: [Self; 2] = [Self::Arm64, Self::Amd64];

    /// By the name that the registry and functions use.
    pub fn parse(name: &str) -> Self {
        match name {
            "amd64" => Self::Amd64,
            "arm64" => Self::Arm64,
            _ => Self::Other,
        }
    }
}

/// Who can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its number.
    pub id: TargetId,
    /// Its name, which is where it is on the ring.
    pub key: String,
    /// `None`: not known, and taken to run anything.
    pub architecture: Option<Architecture>,
}

/// What a function needs of a target.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Needs {
    /// Of a sandbox, MiB.
    pub memory_mb: f64,
    /// Cores.
    pub cpu: f64,
    /// Architectures that it runs on; none: any.
    pub architectures: Vec<Architecture>,
}

/// A request that wants a target.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The function or workflow that is called: its calls stay together. `None`: any target will do.
    pub name: Option<&'a str>,
    /// What is known of the function.
    pub needs: Option<&'a Needs>,
    /// Who has what the request is about, if that is known.
    pub home: Option<TargetId>,
    /// Targets that were tried in vain.
    pub tried: &'a [TargetId],
    /// Decides what is left to chance.
    pub draw: u64,
}

/// A target for a request, which counts as under way there until [`super::Balancer::end`].
#[derive(Debug, Clone, PartialEq)]
pub struct Picked {
    /// Who.
    pub target: TargetId,
    /// Why.
    pub how: How,
    /// What the bandit wants to hear of the request, if one was asked.
    pub choice: Option<super::Choice>,
    /// What was taken off the target's free memory (MiB) and cores.
    pub debit: (f64, f64),
}

/// Why a target was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// The policy's first choice.
    First,
    /// Another one, as the first had its share of calls or seemed to be full.
    Spilled,
    /// None seemed to have room: the one with the fewest calls.
    Crowded,
    /// The next in turn.
    Turn,
}

impl How {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::First, Self::Spilled, Self::Crowded, Self::Turn];

    /// For metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Spilled => "spilled",
            Self::Crowded => "crowded",
            Self::Turn => "turn",
        }
    }
}

/// Why there is no target for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum NoTarget {
    /// There are none at all.
    #[error("no targets are known")]
    Nobody,
    /// All that could run it are ejected.
    #[error("all targets that could take it are out of order")]
    Ejected,
    /// All that could run it have as many requests as they may.
    #[error("all targets that could take it have as many requests as they may")]
    Full,
    /// None has the architecture.
    #[error("no target has the function's architecture")]
    Unfit,
    /// All that could run it were tried in vain.
    #[error("none of the targets that could take it can be reached")]
    Tried,
}

impl NoTarget {
    /// For metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Ejected => "ejected",
            Self::Full => "full",
            Self::Unfit => "unfit",
            Self::Tried => "unreachable",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    /// It was answered.
    Answered {
        /// Of HTTP.
        status: u16,
        /// What the answer says of the call, if it was looked at.
        run: Option<Run>,
    },
    /// The target could not be connected to: nothing has begun.
    Unreachable,
    /// It broke off, answered nonsense or not in time.
    Broken,
    /// Nobody waited for the end, which says nothing of the target.
    Abandoned,
}

/// What a report says of a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Run {
    /// How long the function ran.
    pub duration: Duration,
    /// Whether its sandbox had served before.
    pub is_warm: bool,
}

/// What a target says of itself; what it leaves out stays as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stock {
    /// Memory for calls, MiB.
    pub memory_free: Option<f64>,
    /// Memory in all, MiB.
    pub memory_total: Option<f64>,
    /// Cores for calls.
    pub cpu_free: Option<f64>,
    /// Cores in all.
    pub cpu_total: Option<f64>,
}

/// How the target is chosen among those of an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetPolicy {
    /// Consistent hashing with bounded loads.
    #[default]
    Bounded,
    /// The original's ring: the first that seems to have room.
    Ring,
    /// The one with the most free memory.
    Memory,
    /// One after the other.
    RoundRobin,
}

impl TargetPolicy {
    /// As configured, and for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bounded => "bounded",
            Self::Ring => "ring",
            Self::Memory => "memory",
            Self::RoundRobin => "roundrobin",
        }
    }
}

/// How the architecture is chosen of functions that run on both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ArchitecturePolicy {
    /// It makes no difference.
    #[default]
    Unaware,
    /// One after the other.
    RoundRobin,
    /// By chance.
    Random,
    /// As a bandit has learned, for each function.
    Bandit,
}

/// Which bandit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BanditKind {
    /// Upper confidence bounds.
    #[default]
    Ucb1,
    /// The same with the use of memory as context.
    LinUcb,
}

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq)]
pub struct BalancerConfig {
    /// How the target is chosen.
    pub policy: TargetPolicy,
    /// How the architecture is chosen.
    pub architecture: ArchitecturePolicy,
    /// Points of a target on the ring.
    pub replicas: u32,
    /// How many times the mean a target's requests may be.
    pub load_factor: f64,
    /// Requests of one target at once.
    pub inflight_max: usize,
    /// What bandits are made with.
    pub bandit: BanditConfig,
    /// When targets are ejected and come back.
    pub health: HealthConfig,
}

/// What bandits are made with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BanditConfig {
    /// Which.
    pub kind: BanditKind,
    /// Exploration of UCB1.
    pub ucb1_c: f64,
    /// Exploration of LinUCB.
    pub linucb_alpha: f64,
    /// What use of memory above three quarters takes off LinUCB's rewards.
    pub linucb_lambda: f64,
    /// A failed call is worth as much as one that took this long.
    pub failure_as: Duration,
}

/// When targets are ejected and come back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HealthConfig {
    /// Failures in a row.
    pub failures_max: u32,
    /// How long the first ejection lasts; each further one twice as long.
    pub ejection: Duration,
    /// The longest ejection.
    pub ejection_max: Duration,
    /// How long a target that comes back takes to get its full share again.
    pub readmission: Duration,
}
