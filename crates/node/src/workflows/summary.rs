//! What is known of an execution without looking into its journal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serverledge_api::QosClass;
use serverledge_asl::Outcome;

use super::definition::OnCrash;
use super::id_of;
use crate::federation::offload::Along;
use crate::node::Node;
use crate::store::executions::Id;

/// How an execution stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Status {
    /// It has not ended.
    #[default]
    Running,
    /// It has ended, with an output.
    Succeeded,
    /// It has ended by an error.
    Failed,
    /// It has ended by its timeout.
    TimedOut,
    /// It was stopped.
    Aborted,
}

impl Status {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Running, "RUNNING"),
        (Self::Succeeded, "SUCCEEDED"),
        (Self::Failed, "FAILED"),
        (Self::TimedOut, "TIMED_OUT"),
        (Self::Aborted, "ABORTED"),
    ];

    /// As the store has it.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }

    /// From the store.
    pub(crate) fn of_number(number: u8) -> Self {
        let found = Self::ALL.into_iter().find(|(it, _)| it.number() == number);
        found.map_or(Self::Failed, |(it, _)| it)
    }

    /// Of an execution that has ended.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Succeeded(_) => Self::Succeeded,
            Outcome::Failed { .. } => Self::Failed,
            Outcome::TimedOut => Self::TimedOut,
            Outcome::Aborted { .. } => Self::Aborted,
        }
    }

    /// As the wire has it.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// From the wire, in any case; `None` if it isn't one.
    pub fn parse(text: &str) -> Option<Self> {
        let found = Self::ALL.into_iter();
        let mut found = found.filter(|(_, name)| text.eq_ignore_ascii_case(name));
        found.next().map(|(status, _)| status)
    }
}

/// The summary of a standard execution, as it is stored.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Summary {
    pub(crate) status: Status,
    /// When it began, in milliseconds since 1970.
    pub(crate) started: i64,
    /// When it ended.
    pub(crate) stopped: Option<i64>,
    /// How often it was redriven.
    pub(crate) redrives: u32,
    /// How often it was taken up by a node: what an earlier one writes after that doesn't count.
    pub(crate) epoch: u64,
    /// The node that runs it.
    pub(crate) node: String,
    pub(crate) on_crash: OnCrash,
    /// How many executions are above it.
    pub(crate) depth: u32,
    /// The execution that it repeats.
    pub(crate) retry_of: Option<String>,
    /// Whether its tasks may run on other nodes.
    pub(crate) can_offload: bool,
    /// The class of service of its calls.
    pub(crate) qos_class: QosClass,
    /// Wanted response time of all of it, seconds; 0 or less: none.
    pub(crate) response_time_max: f64,
    /// Headers of the trace that it belongs to.
    pub(crate) trace: BTreeMap<String, String>,
    /// Whether etcd has it, so that it is another node's some day.
    pub(crate) is_shared: bool,
    /// Whether another node had it before.
    pub(crate) has_moved: bool,
    /// The asynchronous call that it answers.
    pub(crate) call: Option<String>,
    /// The execution that it descends from, if it was started by one.
    pub(crate) group: Option<String>,
}

impl Summary {
    pub(crate) fn ended(&mut self, outcome: &Outcome, at: i64) {
        self.status = Status::of(outcome);
        self.stopped = Some(at);
    }

    /// It goes on after its end.
    pub(crate) fn reopen(&mut self) {
        self.status = Status::Running;
        self.stopped = None;
        self.redrives += 1;
    }

    /// What goes along with its calls, as it was when it began.
    pub(crate) fn along(&self, node: &Node) -> Along {
        let along = node
            .qos
            .along(&self.qos_class, self.response_time_max, true);
        Along {
            trace: Along::trace_from(&self.trace),
            // A class that is configured no more is the default one.
            ..along.unwrap_or_default()
        }
    }

    /// The execution that `id`, whose summary this is, descends from.
    pub(crate) fn group(&self, id: Id) -> Id {
        self.group.as_deref().and_then(id_of).unwrap_or(id)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serverledge_api::encode(self)
    }

    /// What can't be read is as if nothing were known.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }
}
