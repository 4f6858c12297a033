//! Where a call may be sent: the members in question, as the policy sees them.

use std::sync::Arc;

use serverledge_core::Timestamp;
use serverledge_core::fleet::{Group, Health, Known};
use serverledge_core::policy::{Candidate, Reason, Trail, Wanted, choose, choose_neighbor};
use serverledge_core::qos::Choice;

use super::offload::Offloader;
use super::peers::Near;
use super::{Federation, Member};
use crate::node::Node;

/// Members that a call looks at, at most, besides the nearest: enough to find one that lives.
const MEMBERS_MAX: usize = 32;

/// A node that calls may be sent to, as plans see it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) key: String,
    pub(crate) host: String,
    pub(crate) api_port: u16,
    pub(crate) is_balancer: bool,
    pub(crate) architecture: String,
    /// What it told of late, MiB.
    pub(crate) memory_total: Option<u64>,
    pub(crate) memory_available: Option<u64>,
    /// Estimated round trip, seconds.
    pub(crate) distance: Option<f64>,
}

/// Members, and what speaks for and against each.
pub(super) struct Targets {
    group: Group,
    members: Vec<Arc<Member>>,
    candidates: Vec<Candidate>,
    rejected: Vec<Option<Reason>>,
}

impl Targets {
    /// The neighbours that tell their status.
    pub(super) fn neighbors(federation: &Federation) -> Self {
        let mut targets = Self::empty(Group::Neighbor);
        targets.add_near(federation);
        targets.reject_broken(&federation.offloader);
        targets
    }

    /// Members of the cloud's area: the nearest, which tell their status, and others.
    pub(super) fn cloud(federation: &Federation, node: &Node) -> Self {
        let mut targets = Self::empty(Group::Cloud);
        let Some(area) = &node.config.registry.remote_area else {
            return targets;
        };
        targets.add_near(federation);
        let nearest = targets.members.len();
        let all = federation.members.all();
        let others = Member::of_area(&all, area)
            .filter(|member| member.key != node.identity.key)
            .take(MEMBERS_MAX + nearest);
        for member in others {
            if !targets.members.iter().any(|it| Arc::ptr_eq(it, member)) {
                targets.add(Arc::clone(member), None);
            }
        }
        targets.reject_broken(&federation.offloader);
        targets
    }

    fn empty(group: Group) -> Self {
        Self {
            group,
            members: Vec::new(),
            candidates: Vec::new(),
            rejected: Vec::new(),
        }
    }

    fn add_near(&mut self, federation: &Federation) {
        for Near { member, known } in federation.peers.near().iter() {
            if known.group == self.group {
                self.add(Arc::clone(member), Some(known.clone()));
            }
        }
    }

    fn add(&mut self, member: Arc<Member>, known: Option<Known>) {
        self.candidates.push(Candidate {
            key: member.key.clone(),
            is_balancer: member.is_balancer,
            architecture: member.architecture.clone(),
            known,
        });
        self.members.push(member);
    }

    fn reject_broken(&mut self, offloader: &Offloader) {
        let broken = offloader.broken(self.members.iter().map(|it| it.key.as_str()));
        let reason = |is_broken: bool| is_broken.then_some(Reason::Unreachable);
        self.rejected = broken.into_iter().map(reason).collect();
    }

    /// The next to try, and its number here.
    pub(super) fn choose(
        &self,
        wanted: &Wanted<'_>,
        trail: &mut Trail,
    ) -> Option<(usize, &Arc<Member>)> {
        let choose = match self.group {
            Group::Neighbor => choose_neighbor,
            Group::Cloud => choose,
        };
        let chosen = choose(&self.candidates, &self.rejected, wanted, trail)?;
        Some((chosen, &self.members[chosen]))
    }

    /// Notes why the call did not begin there.
    pub(super) fn reject(&mut self, chosen: usize, reason: Reason) {
        self.rejected[chosen] = Some(reason);
    }

    /// What sending a call there is called by plans.
    pub(super) fn choice(&self) -> Choice {
        match self.group {
            Group::Neighbor => Choice::Edge,
            Group::Cloud => Choice::Cloud,
        }
    }

    /// Those that nothing speaks against, as of `now`.
    fn places(self, now: Timestamp) -> Vec<Place> {
        let all = self.members.iter().zip(&self.candidates);
        let open = all.zip(&self.rejected).filter(|(_, it)| it.is_none());
        let place = |((member, candidate), _): ((&Arc<Member>, &Candidate), _)| {
            let known = candidate.known.as_ref();
            let health = known.map(|known| known.health(now));
            if health == Some(Health::Dead) {
                return None;
            }
            let told = known.filter(|_| health == Some(Health::Alive));
            let status = told.and_then(|known| known.status.as_ref());
            Some(Place {
                key: member.key.clone(),
                host: member.host.clone(),
                api_port: member.api_port,
                is_balancer: member.is_balancer,
                architecture: member.architecture.clone(),
                memory_total: status.map(|it| it.memory_total),
                memory_available: status.map(|it| it.memory_available),
                distance: told.and_then(|known| known.distance),
            })
        };
        open.filter_map(place).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

impl Federation {
    /// Where calls of this node may be sent: neighbours that tell their status, and members of the
    /// cloud.
    pub(crate) fn places(&self, node: &Node) -> (Vec<Place>, Vec<Place>) {
        let now = self.peers.now();
        let neighbors = Targets::neighbors(self).places(now).into_iter();
        let told = neighbors.filter(|place| place.memory_available.is_some());
        (told.collect(), Targets::cloud(self, node).places(now))
    }
}
