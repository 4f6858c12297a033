//! What the rest of the program sees of `lb.*` and `mab.*`: the load balancer's settings.

use std::time::Duration;

use serverledge_core::balancer::{
    ArchitecturePolicy, BalancerConfig, BanditConfig, BanditKind, HealthConfig, TargetPolicy,
};

/// The load balancer.
#[derive(Debug, Clone, PartialEq)]
pub struct Balancer {
    /// `host:port` of targets, besides those that etcd knows; none.
    pub targets: Vec<String>,
    /// How the target is chosen; bounded.
    pub policy: TargetPolicy,
    /// Whether architectures are told apart; false.
    pub arch_awareness: bool,
    /// How the architecture is chosen then; by turns.
    pub mode: ArchitecturePolicy,
    /// Points of a target on the ring; 128.
    pub replicas: u32,
    /// How many times the mean a target's requests may be; 1.25.
    pub load_factor: f64,
    /// How often etcd is read as a whole, besides being watched; 30 s.
    pub refresh_interval: Duration,
    /// Requests at once; 10,000.
    pub inflight_max: usize,
    /// Requests of one target at once; 512.
    pub target_inflight_max: usize,
    /// How long connecting to a target may take; 1 s.
    pub connect_timeout: Duration,
    /// How long a target may take to begin its answer; 960 s.
    pub response_timeout: Duration,
    /// How long client or target may pause within a message; 30 s.
    pub stall_timeout: Duration,
    /// How often targets are asked for their status; 1 s.
    pub health_interval: Duration,
    /// How long they may take to answer; 1 s.
    pub health_timeout: Duration,
    /// Broken requests in a row for which a target is ejected; 5.
    pub ejection_failures: u32,
    /// How long the first ejection lasts; 1 s.
    pub ejection_time: Duration,
    /// The longest ejection; 30 s.
    pub ejection_time_max: Duration,
    /// How long it takes until a target that comes back has its full share; 10 s.
    pub readmission: Duration,
    /// Which bandit; UCB1.
    pub bandit: BanditKind,
    /// Exploration of UCB1; 0.8.
    pub ucb1_c: f64,
    /// Exploration of LinUCB; 0.1.
    pub linucb_alpha: f64,
    /// What full memory takes off LinUCB's rewards; 0.
    pub linucb_lambda: f64,
}

impl Default for Balancer {
    fn default() -> Self {
        Self {
            targets: Vec::new(),
            policy: TargetPolicy::Bounded,
            arch_awareness: false,
            mode: ArchitecturePolicy::RoundRobin,
            replicas: 128,
            load_factor: 1.25,
            refresh_interval: Duration::from_secs(30),
            inflight_max: 10_000,
            target_inflight_max: 512,
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(960),
            stall_timeout: Duration::from_secs(30),
            health_interval: Duration::from_secs(1),
            health_timeout: Duration::from_secs(1),
            ejection_failures: 5,
            ejection_time: Duration::from_secs(1),
            ejection_time_max: Duration::from_secs(30),
            readmission: Duration::from_secs(10),
            bandit: BanditKind::Ucb1,
            ucb1_c: 0.8,
            linucb_alpha: 0.1,
            linucb_lambda: 0.0,
        }
    }
}

impl Balancer {
    /// For the choice of targets; a failed call counts as one of `failure_as`.
    pub fn rules(&self, failure_as: Duration) -> BalancerConfig {
        BalancerConfig {
            policy: self.policy,
            architecture: match self.arch_awareness {
                true => self.mode,
                false => ArchitecturePolicy::Unaware,
            },
            replicas: self.replicas,
            load_factor: self.load_factor,
            inflight_max: self.target_inflight_max,
            bandit: BanditConfig {
                kind: self.bandit,
                ucb1_c: self.ucb1_c,
                linucb_alpha: self.linucb_alpha,
                linucb_lambda: self.linucb_lambda,
                failure_as,
            },
            health: HealthConfig {
                failures_max: self.ejection_failures,
                ejection: self.ejection_time,
                ejection_max: self.ejection_time_max,
                readmission: self.readmission,
            },
        }
    }
}
