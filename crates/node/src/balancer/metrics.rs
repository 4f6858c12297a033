//! What the balancer counts, as Prometheus reads it at `/metrics`.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use serverledge_core::balancer::{Ejection, How, Outcome, Seen, TargetPolicy};

type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;

/// Upper ends of the latency's buckets: 0.1 ms, and each further one twice as much.
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(1e-4, 2.0, 20))
}

/// Everything that is counted.
pub(super) struct Metrics {
    registry: Registry,
    requests: Counters,
    latency: Family<Labels, Histogram, fn() -> Histogram>,
    ejections: Counters,
    readmissions: Counters,
    refusals: Counters,
    targets: Family<Labels, Gauge>,
    picks: [Counter; How::ALL.len()],
    pub(super) retries: Counter,
    pub(super) inflight: Gauge,
}

impl Metrics {
    pub(super) fn new(policy: TargetPolicy) -> Self {
        let picks = Counters::default();
        let pick = |how: How| {
            let labels = vec![
                ("policy", policy.name().to_owned()),
                ("how", how.name().into()),
            ];
            picks.get_or_create_owned(&labels)
        };
        let mut metrics = Self {
            picks: How::ALL.map(pick),
            registry: Registry::with_prefix("serverledge_lb"),
            requests: Counters::default(),
            latency: Family::new_with_constructor(latency),
            ejections: Counters::default(),
            readmissions: Counters::default(),
            refusals: Counters::default(),
            targets: Family::default(),
            retries: Counter::default(),
            inflight: Gauge::default(),
        };
        metrics.register(picks);
        metrics
    }

    fn register(&mut self, picks: Counters) {
        let registry = &mut self.registry;
        let requests = "Requests that ended, by node and how";
        registry.register("requests", requests, self.requests.clone());
        let latency = "Time until a node's answer began, seconds";
        registry.register("latency_seconds", latency, self.latency.clone());
        let ejections = "Times that a node was taken out, by node and why";
        registry.register("ejections", ejections, self.ejections.clone());
        let readmissions = "Times that a node was let in again";
        registry.register("readmissions", readmissions, self.readmissions.clone());
        let refusals = "Requests without an answer of a node, by why";
        registry.register("refusals", refusals, self.refusals.clone());
        let retries = "Requests that were sent to another node, none having begun";
        registry.register("retries", retries, self.retries.clone());
        registry.register("picks", "Choices of a node, by policy and how", picks);
        let inflight = "Requests under way";
        registry.register("inflight", inflight, self.inflight.clone());
        let targets = "Nodes, by health";
        registry.register("targets", targets, self.targets.clone());
    }

    /// The counters of a target, which lives as long as they do.
    pub(super) fn meters(&self, target: &str) -> Meters {
        let of = |outcome: &str| {
            let labels = vec![
                ("target", target.to_owned()),
                ("outcome", outcome.to_owned()),
            ];
            self.requests.get_or_create_owned(&labels)
        };
        let latency = vec![("target", target.to_owned())];
        Meters {
            ended: Ended::ALL.map(|ended| of(ended.name())),
            latency: self.latency.get_or_create(&latency).clone(),
        }
    }

    /// Forgets a target.
    pub(super) fn forget(&self, target: &str) {
        for ended in Ended::ALL {
            let outcome = ended.name().to_owned();
            let labels = vec![("target", target.to_owned()), ("outcome", outcome)];
            self.requests.remove(&labels);
        }
        for why in [Ejection::Unreachable, Ejection::Broken, Ejection::Silent] {
            self.ejections.remove(&ejection(target, why));
        }
        let labels = vec![("target", target.to_owned())];
        self.latency.remove(&labels);
        self.readmissions.remove(&labels);
    }

    pub(super) fn picked(&self, how: How) {
        self.picks[how as usize].inc();
    }

    pub(super) fn ejected(&self, target: &str, why: Ejection) {
        let labels = ejection(target, why);
        self.ejections.get_or_create_owned(&labels).inc();
    }

    pub(super) fn readmitted(&self, target: &str) {
        let labels = vec![("target", target.to_owned())];
        self.readmissions.get_or_create_owned(&labels).inc();
    }

    pub(super) fn refused(&self, why: &str) {
        let labels = vec![("reason", why.to_owned())];
        self.refusals.get_or_create_owned(&labels).inc();
    }

    /// As text.
    pub(super) fn text(&self, targets: &[Seen]) -> Result<String, fmt::Error> {
        for health in ["in", "ejected", "returning"] {
            let count = targets.iter().filter(|it| it.health == health).count();
            let labels = vec![("health", health.to_owned())];
            let gauge = self.targets.get_or_create_owned(&labels);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn ejection(target: &str, why: Ejection) -> Labels {
    vec![("target", target.to_owned()), ("reason", why.name().into())]
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
enum Ended {
    Ok,
    ClientError,
    NoRoom,
    ServerError,
    Unreachable,
    Broken,
    Abandoned,
}

impl Ended {
    const ALL: [Self; 7] = [
        Self::Ok,
        Self::ClientError,
        Self::NoRoom,
        Self::ServerError,
        Self::Unreachable,
        Self::Broken,
        Self::Abandoned,
    ];

    fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Answered { status, .. } => match status {
                429 => Self::NoRoom,
                500.. => Self::ServerError,
                400.. => Self::ClientError,
                _ => Self::Ok,
            },
            Outcome::Unreachable => Self::Unreachable,
            Outcome::Broken => Self::Broken,
            Outcome::Abandoned => Self::Abandoned,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ClientError => "client_error",
            Self::NoRoom => "no_room",
            Self::ServerError => "server_error",
            Self::Unreachable => "unreachable",
            Self::Broken => "broken",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Counters of one target, ready to count.
pub(super) struct Meters {
    ended: [Counter; Ended::ALL.len()],
    latency: Histogram,
}

impl Meters {
    pub(super) fn ended(&self, outcome: Outcome) {
        self.ended[Ended::of(outcome) as usize].inc();
    }

    pub(super) fn answered_after(&self, time: Duration) {
        self.latency.observe(time.as_secs_f64());
    }
}
