//! Quality of service, as far as the node has to do with it: measuring what calls meet, planning
//! anew every now and then, and looking up what is planned for a call.
//!
//! Calls look at a finished plan and add to counts, under locks that are held for microseconds.
//! What there is to plan with is asked and solved by a task of its own. With another policy than
//! `qosaware`, only the classes are of use, and nothing is measured.

mod around;
mod shown;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serverledge_api::{InvokeReply, QosClass};
use serverledge_core::policy::Policy;
use serverledge_core::qos::{
    Choice, Classes, Estimators, Odds, Plan, Probabilities, Ran, Spending, Surroundings,
};
use serverledge_core::{DropReason, Timestamp};
use tracing::warn;

pub(crate) use self::shown::shown;
use crate::catalog::Function;
use crate::config::Config;
use crate::federation::offload::Along;
use crate::invoke::{Invocation, Report};
use crate::node::Node;

/// See the module.
pub(crate) struct Qos {
    classes: Classes,
    /// Whether a class that isn't known is an error: there are some, or they are gone by.
    is_strict: bool,
    /// Whether calls go by a plan.
    is_active: bool,
    cloud_cost: f64,
    budget: Option<f64>,
    state: Mutex<State>,
    planned: RwLock<Option<Arc<Planned>>>,
    /// Memory that calls of this node hold on neighbors, MB.
    held_mb: AtomicU64,
    turn: AtomicU64,
    salt: u64,
    began: Instant,
}

struct State {
    estimators: Estimators,
    spending: Spending,
    closed: Instant,
    /// Why the last attempt at a plan failed, if it did.
    failure: Option<String>,
}

/// A plan and where it comes from.
struct Planned {
    plan: Plan,
    around: Surroundings,
    made: Instant,
    took: Duration,
    /// Flows beyond what is planned for.
    left_out: usize,
}

/// A class that nobody has configured.
#[derive(Debug, thiserror::Error)]
#[error("there is no class of service '{wanted}'; there are: {known}")]
pub(crate) struct UnknownClass {
    wanted: String,
    known: String,
}

/// Memory that a call holds on a neighbor, as long as this is there.
pub(crate) struct Held<'a> {
    held: &'a AtomicU64,
    memory_mb: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.held.fetch_sub(self.memory_mb, Ordering::Relaxed);
    }
}

/// Characters of an unknown class's name that are repeated to its caller.
const NAME_SHOWN: usize = 80;

impl Qos {
    /// For a node with this policy, if it looks beyond the node.
    pub(crate) fn new(config: &Config, policy: Option<&dyn Policy>) -> Self {
        // The configuration was refused if this fails.
        let classes = config.qos.classes().unwrap_or_default();
        let is_active = policy.is_some_and(|policy| policy.name() == "qosaware");
        let budget = config.qos.budget;
        Self {
            is_strict: is_active || !config.qos.classes.is_empty(),
            is_active,
            cloud_cost: config.qos.cloud_cost,
            budget: (budget > 0.0).then_some(budget),
            state: Mutex::new(State {
                estimators: Estimators::new(classes.all().len()),
                spending: Spending::default(),
                closed: Instant::now(),
                failure: None,
            }),
            planned: RwLock::new(None),
            held_mb: AtomicU64::new(0),
            turn: AtomicU64::new(0),
            // Each node draws differently from others with the same plan.
            salt: RandomState::new().hash_one("qos"),
            began: Instant::now(),
            classes,
        }
    }

    /// What goes along with a call wherever it runs, by the class that it asks for and the response
    /// time that it wants, seconds (0 or less: none).
    ///
    /// The class goes by its number, which is what the original's nodes know, or else as it was
    /// given. The response time is the call's own wish or its class's deadline, whichever is less.
    /// A call that comes from another node, where classes may be others, is of the default class
    /// if this node doesn't know its own.
    pub(crate) fn along(
        &self,
        wanted: &QosClass,
        response_time_max: f64,
        is_sent_on: bool,
    ) -> Result<Along, UnknownClass> {
        let found = match wanted {
            QosClass::Number(number) => self.classes.by_number(*number),
            QosClass::Name(name) => self.classes.by_name(name),
        };
        let Some(class) = found else {
            if !is_sent_on && self.is_strict {
                return Err(UnknownClass {
                    wanted: wanted.to_string().chars().take(NAME_SHOWN).collect(),
                    known: self.classes.known(),
                });
            }
            return Ok(Along {
                qos_class: wanted.clone(),
                response_time_max,
                ..Along::default()
            });
        };
        let known = self.classes.all().get(class);
        let number = known.and_then(|it| it.number).map(QosClass::Number);
        let deadline = known.and_then(|it| it.deadline);
        let response_time_max = match deadline.map(|it| it.as_secs_f64()) {
            Some(deadline) if response_time_max > 0.0 => response_time_max.min(deadline),
            Some(deadline) => deadline,
            None => response_time_max,
        };
        Ok(Along {
            class,
            qos_class: number.unwrap_or_else(|| wanted.clone()),
            response_time_max,
            ..Along::default()
        })
    }

    /// A class's name.
    pub(crate) fn name(&self, class: usize) -> &str {
        let class = self.classes.all().get(class);
        class.map_or("", |class| class.name.as_str())
    }

    /// Counts a call that has arrived, and looks up what is planned for it. `None` if calls don't
    /// go by a plan.
    pub(crate) fn arrived(
        &self,
        function: &Function,
        invocation: &Invocation,
        along: &Along,
    ) -> Option<Odds> {
        if !self.is_active {
            return None;
        }
        let (name, class) = (&function.record.name, along.class);
        let now = self.now();
        let (rate, spent) = {
            let mut state = self.lock();
            let input_bytes = invocation.params.len();
            state.estimators.arrived(name, class, input_bytes);
            match self.budget {
                Some(_) => (state.spending.rate(now), state.spending.spent(now)),
                None => (0.0, 0.0),
            }
        };
        let remaining = (along.response_time_max > 0.0).then_some(along.response_time_max);
        let planned = self.planned();
        let found = planned.and_then(|it| it.plan.find(name, class, remaining));
        let utility = self.classes.all().get(class).map_or(0.0, |it| it.utility);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        Some(Odds {
            planned: found.unwrap_or(Probabilities::UNPLANNED),
            is_planned: found.is_some(),
            seed: self.salt.wrapping_add(turn),
            is_worth: utility > 0.0,
            over_budget: self.budget.is_some_and(|budget| rate > budget),
            spent_up: self.budget.is_some_and(|budget| spent >= budget),
        })
    }

    /// Counts a call that has run here.
    pub(crate) fn ran_here(&self, function: &Function, report: &Report) {
        if !self.is_active {
            return;
        }
        let ran = Ran {
            service: report.duration.as_secs_f64(),
            init: report.init.as_secs_f64(),
            is_cold: !report.warm,
            way: 0.0,
        };
        let mut state = self.lock();
        state.estimators.tried(false);
        let name = &function.record.name;
        state.estimators.ran(name, Choice::Local, &ran);
    }

    /// Counts a call that this node had no room for. That it never will have room is no news.
    pub(crate) fn refused_here(&self, reason: &DropReason) {
        if self.is_active && !matches!(reason, DropReason::TooLarge { .. }) {
            self.lock().estimators.tried(true);
        }
    }

    /// Counts a call that has run elsewhere, and what it cost.
    pub(crate) fn ran_elsewhere(
        &self,
        function: &Function,
        place: Choice,
        peer: &str,
        reply: &InvokeReply,
    ) {
        if !self.is_active {
            return;
        }
        // What others report may be anything, and must not cost a fortune.
        let service = reply.duration.clamp(0.0, function.timeout.as_secs_f64());
        let ran = Ran {
            service,
            init: reply.init_time,
            is_cold: !reply.is_warm_start,
            way: reply.offload_latency,
        };
        let now = self.now();
        let mut state = self.lock();
        let name = &function.record.name;
        state.estimators.ran(name, place, &ran);
        match place {
            Choice::Cloud => {
                let gigabytes = function.record.memory_mb as f64 / 1024.0;
                let cost = self.cloud_cost * service * gigabytes;
                state.spending.spend(cost, now);
            }
            Choice::Edge => state.estimators.sent(peer, false),
            Choice::Local | Choice::Drop => {}
        }
    }

    /// Counts a call that a neighbor had no room for.
    pub(crate) fn refused_elsewhere(&self, place: Choice, peer: &str) {
        if self.is_active && place == Choice::Edge {
            self.lock().estimators.sent(peer, true);
        }
    }

    /// A call is sent to a place: on a neighbor it takes memory until what is returned is dropped.
    pub(crate) fn hold(&self, function: &Function, place: Choice) -> Option<Held<'_>> {
        if !self.is_active || place != Choice::Edge {
            return None;
        }
        let memory_mb = function.record.memory_mb;
        self.held_mb.fetch_add(memory_mb, Ordering::Relaxed);
        Some(Held {
            held: &self.held_mb,
            memory_mb,
        })
    }

    fn planned(&self) -> Option<Arc<Planned>> {
        let planned = self.planned.read().unwrap_or_else(PoisonError::into_inner);
        planned.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.began.elapsed())
    }
}

/// Plans anew every `solver.evalinterval`, for as long as the node runs.
pub(crate) async fn keep_planning(node: Arc<Node>) {
    if !node.qos.is_active {
        return;
    }
    loop {
        tokio::time::sleep(node.config.qos.interval).await;
        plan(&node).await;
    }
}

/// Makes a plan of what was measured since the last one. A failure leaves the plan that there is.
async fn plan(node: &Arc<Node>) {
    let qos = &node.qos;
    let seen = around::look(node).await;
    let (program, left_out) = {
        let mut state = qos.lock();
        let passed = state.closed.elapsed();
        state.closed = Instant::now();
        state.estimators.close(passed);
        let around = seen.surroundings(node, &state.estimators);
        let known = |name: &str| seen.known(node, name);
        let (program, left_out) = state.estimators.program(&qos.classes, known, &around);
        ((program, around), left_out)
    };
    let began = Instant::now();
    let solving = tokio::task::spawn_blocking(move || {
        let (program, around) = program;
        let solution = program.solve().map_err(|error| error.to_string())?;
        Ok((Plan::new(program, solution), around))
    });
    // A panic of the solver is a failure like others.
    let solved = solving.await.unwrap_or_else(|error| Err(error.to_string()));
    let failure = match solved {
        Ok((plan, around)) => {
            let planned = Planned {
                plan,
                around,
                made: Instant::now(),
                took: began.elapsed(),
                left_out,
            };
            let mut current = qos.planned.write().unwrap_or_else(PoisonError::into_inner);
            *current = Some(Arc::new(planned));
            None
        }
        Err(failure) => Some(failure),
    };
    let mut state = qos.lock();
    if let Some(failure) = &failure
        && state.failure.is_none()
    {
        warn!(failure, "no new plan for qosaware: the last one holds");
    }
    state.failure = failure;
}
