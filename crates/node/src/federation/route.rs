//! Carrying out a policy: trying one place after the other until the call has run or is dropped.

use std::sync::Arc;

use hyper::header::HeaderValue;
use serverledge_api::InvokeReply;
use serverledge_core::Snapshot;
use serverledge_core::policy::{
    self, Local, Placement, Policy, Reason, Remote, Situation, Trail, Wanted,
};
use serverledge_core::qos::Choice;

use super::Federation;
use super::offload::{Along, Sent};
use super::targets::Targets;
use crate::catalog::Function;
use crate::config::Config;
use crate::invoke::{Invocation, InvokeError, invoke};
use crate::node::Node;

/// A call that has run.
pub(crate) struct Routed {
    pub(crate) reply: InvokeReply,
    /// Of this node, after it.
    pub(crate) snapshot: Snapshot,
    /// Why it ran where it ran.
    pub(crate) trail: Trail,
}

/// Why a call has not run, and why it was tried where it was tried.
pub(crate) struct Unrouted {
    pub(crate) error: InvokeError,
    pub(crate) trail: Trail,
}

/// A call under way.
struct Route<'a> {
    node: &'a Node,
    federation: &'a Federation,
    policy: &'static dyn Policy,
    function: &'a Arc<Function>,
    invocation: &'a Invocation,
    trail: Trail,
    /// How the last try ended that may have begun.
    failure: Option<InvokeError>,
    /// Where it may be sent, once that has been asked for.
    neighbors: Option<Targets>,
    cloud: Option<Targets>,
}

/// Runs a call where `policy` wants it. `can_offload`: whether it may leave this node.
pub(crate) async fn route(
    node: &Node,
    federation: &Federation,
    policy: &'static dyn Policy,
    function: &Arc<Function>,
    invocation: Invocation,
    (can_offload, along): (bool, Along),
) -> Result<Routed, Unrouted> {
    let mut situation = Situation {
        can_offload,
        fallback_local: node.config.scheduler.fallback_local,
        local: untried(node, function),
        edge: Remote::Open,
        cloud: Remote::Open,
        odds: node.qos.arrived(function, &invocation, &along),
    };
    let mut route = Route {
        node,
        federation,
        policy,
        function,
        invocation: &invocation,
        trail: Trail::new(policy.name()),
        failure: None,
        neighbors: None,
        cloud: None,
    };
    if let Some(odds) = &situation.odds {
        route.trail.by_lot(node.qos.name(along.class), odds);
    }
    loop {
        let placement = policy.place(&situation);
        route.trail.draw(choice(placement));
        let step = match placement {
            Placement::Local => route.local(&mut situation, false).await,
            Placement::Neighbor => {
                let targets = route.neighbors.take();
                let targets = targets.unwrap_or_else(|| Targets::neighbors(federation));
                let (targets, step) = route.offload(targets, &mut situation.edge, &along).await;
                route.neighbors = Some(targets);
                step
            }
            Placement::Offload => {
                let targets = route.cloud.take();
                let targets = targets.unwrap_or_else(|| Targets::cloud(federation, node));
                let (targets, step) = route.offload(targets, &mut situation.cloud, &along).await;
                route.cloud = Some(targets);
                step
            }
            Placement::Drop => Some(route.end(&mut situation).await),
        };
        match step {
            None => {}
            Some(Ok((reply, snapshot))) => {
                let trail = route.trail;
                return Ok(Routed {
                    reply,
                    snapshot,
                    trail,
                });
            }
            Some(Err(error)) => {
                let trail = route.trail;
                return Err(Unrouted { error, trail });
            }
        }
    }
}

fn untried(node: &Node, function: &Function) -> Local {
    let own = node.identity.architecture;
    let architectures = &function.record.architectures;
    match architectures.is_empty() || architectures.iter().any(|it| it == own) {
        true => Local::Untried,
        false => Local::Unfit,
    }
}

fn choice(placement: Placement) -> Choice {
    match placement {
        Placement::Local => Choice::Local,
        Placement::Offload => Choice::Cloud,
        Placement::Neighbor => Choice::Edge,
        Placement::Drop => Choice::Drop,
    }
}

/// `None`: something else is to be tried.
type Step = Option<Result<(InvokeReply, Snapshot), InvokeError>>;

impl Route<'_> {
    async fn local(&mut self, situation: &mut Situation, patient: bool) -> Step {
        let invocation = Invocation {
            patient,
            ..self.invocation.clone()
        };
        match invoke(self.node, self.function, invocation, async {}).await {
            Ok(report) => {
                self.node.qos.ran_here(self.function, &report);
                let snapshot = report.snapshot;
                Some(Ok((self.node.reply(report), snapshot)))
            }
            Err(InvokeError::Dropped(reason)) if !patient => {
                self.node.qos.refused_here(&reason);
                situation.local = Local::Refused(reason);
                self.trail.reject("here", Reason::Refused(reason));
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Sends the call to the best of `targets` that are left.
    async fn offload(
        &mut self,
        mut targets: Targets,
        remote: &mut Remote,
        along: &Along,
    ) -> (Targets, Step) {
        let function = self.function;
        let wanted = Wanted {
            architectures: &function.record.architectures,
            memory_mb: function.record.memory_mb,
            cpu: function.record.cpu,
            now: self.federation.peers.now(),
            seed: self.federation.seed(),
        };
        let Some((chosen, member)) = targets.choose(&wanted, &mut self.trail) else {
            *remote = match targets.is_empty() {
                true => Remote::Nobody,
                false => Remote::Closed,
            };
            return (targets, None);
        };
        let offloader = &self.federation.offloader;
        let (qos, place) = (&self.node.qos, targets.choice());
        let held = qos.hold(function, place);
        let sent = offloader
            .send(self.node, member, function, self.invocation, along)
            .await;
        drop(held);
        match &sent {
            Sent::Ran(reply) => qos.ran_elsewhere(function, place, &member.key, reply),
            Sent::NotBegun(Reason::Full) => qos.refused_elsewhere(place, &member.key),
            Sent::NotBegun(_) | Sent::Failed(_) => {}
        }
        let step = match sent {
            Sent::Ran(reply) => Some(Ok((reply, self.node.pool.snapshot()))),
            // It may have begun there, and may begin again.
            Sent::Failed(error) if along.idempotency_key.is_some() && is_nodes_fault(&error) => {
                self.trail.reject(&member.key, Reason::Silent);
                targets.reject(chosen, Reason::Silent);
                self.failure = Some(error);
                None
            }
            Sent::Failed(error) => Some(Err(error)),
            Sent::NotBegun(reason) => {
                self.trail.reject(&member.key, reason);
                targets.reject(chosen, reason);
                None
            }
        };
        (targets, step)
    }

    /// The end, unless the call has the time to wait for room here.
    async fn end(
        &mut self,
        situation: &mut Situation,
    ) -> Result<(InvokeReply, Snapshot), InvokeError> {
        if !situation.can_offload {
            self.trail.reject("elsewhere", Reason::NotAllowed);
        }
        if self.invocation.patient
            && matches!(situation.local, Local::Refused(_))
            && let Some(ended) = self.local(situation, true).await
        {
            return ended;
        }
        // It has been tried: what became of that says more.
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        Err(InvokeError::Unplaced {
            policy: self.policy.name(),
            why: self.trail.to_string(),
        })
    }
}

/// Whether the node, and not the function, has failed.
fn is_nodes_fault(error: &InvokeError) -> bool {
    matches!(error, InvokeError::Lost { .. })
        || matches!(error, InvokeError::Elsewhere { problem, .. } if problem.status == 503)
}

impl Federation {
    /// The configured policy, if it looks beyond its node and there is a fleet.
    pub(crate) fn policy_of(config: &Config) -> Option<&'static dyn Policy> {
        policy::by_name(&config.scheduler.policy).filter(|_| config.is_in_fleet())
    }

    /// The policy, if it looks beyond this node.
    pub(crate) fn policy(&self) -> Option<&'static dyn Policy> {
        self.policy
    }
}

/// As a header.
pub(crate) fn header(trail: &Trail) -> Option<HeaderValue> {
    HeaderValue::try_from(trail.to_string()).ok()
}
