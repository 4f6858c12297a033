//! Who is a target, which one gets a request, and how it went: the core's balancer under a lock that
//! is held for a microsecond, with what of each target the core knows nothing of.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hyper::header::HeaderValue;
use serverledge_api::FunctionSpec;
use serverledge_core::Timestamp;
use serverledge_core::balancer::{
    Architecture, Ask, Balancer, BalancerConfig, Ejection, Needs, NoTarget, Outcome, Picked, Plan,
    Seen, Stock, Target as CoreTarget, TargetId,
};
use tracing::{info, warn};

use super::link::{Host, Pool};
use super::metrics::{Meters, Metrics};

/// Calls of which it is remembered who accepted them.
const HOMES_MAX: usize = 100_000;

/// Who is to be a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) key: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) architecture: Option<Architecture>,
}

/// A target.
pub(super) struct Target {
    pub(super) id: TargetId,
    pub(super) key: String,
    pub(super) host: Host,
    /// As a header.
    pub(super) authority: HeaderValue,
    pub(super) pool: Pool,
    pub(super) meters: Meters,
    wanted: Wanted,
}

/// Chooses targets and keeps count.
pub(super) struct Router {
    rules: BalancerConfig,
    pub(super) metrics: Metrics,
    began: Instant,
    draws: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    balancer: Balancer,
    targets: BTreeMap<TargetId, Arc<Target>>,
    functions: HashMap<String, Needs>,
    homes: Homes,
    last_id: u64,
}

/// What a request is about.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct About<'a> {
    /// The function or workflow that it calls.
    pub(super) name: Option<&'a str>,
    /// The call whose result it asks for.
    pub(super) call: Option<&'a str>,
}

/// What an answer says of its target.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told {
    pub(super) stock: Stock,
    pub(super) architecture: Option<Architecture>,
}

impl Router {
    pub(super) fn new(rules: BalancerConfig, seed: u64) -> Self {
        Self {
            metrics: Metrics::new(rules.policy),
            began: Instant::now(),
            draws: AtomicU64::new(seed),
            inner: Mutex::new(Inner {
                balancer: Balancer::new(rules.clone()),
                targets: BTreeMap::new(),
                functions: HashMap::new(),
                homes: Homes::default(),
                last_id: 0,
            }),
            rules,
        }
    }

    /// Goes over to these targets; the new ones are given back. To be called by one task.
    pub(super) fn install(&self, wanted: Vec<Wanted>) -> Vec<Arc<Target>> {
        let (mut former, mut last_id) = {
            let inner = self.lock();
            let by_key = inner.targets.values().map(|it| (it.key.clone(), it));
            let by_key = by_key.map(|(key, it)| (key, Arc::clone(it)));
            (by_key.collect::<BTreeMap<_, _>>(), inner.last_id)
        };
        let wanted: BTreeMap<String, Wanted> =
            wanted.into_iter().map(|it| (it.key.clone(), it)).collect();
        let (mut targets, mut new) = (BTreeMap::new(), Vec::new());
        for (key, wanted) in wanted {
            let same = former.remove(&key).filter(|it| it.wanted == wanted);
            let target = same.or_else(|| {
                last_id += 1;
                let target = Arc::new(self.target(TargetId(last_id), wanted)?);
                new.push(Arc::clone(&target));
                Some(target)
            });
            if let Some(target) = target {
                targets.insert(target.id, target);
            }
        }
        // Sorting the ring takes a while: without the lock.
        let core = |target: &Arc<Target>| CoreTarget {
            id: target.id,
            key: target.key.clone(),
            architecture: target.wanted.architecture,
        };
        let plan = Plan::new(&self.rules, targets.values().map(core));
        let mut inner = self.lock();
        inner.balancer.install(plan);
        inner.targets = targets;
        inner.last_id = last_id;
        drop(inner);
        for key in former.keys() {
            info!(target = key, "target gone");
            self.metrics.forget(key);
        }
        for target in &new {
            info!(target = target.key, "new target");
        }
        new
    }

    fn target(&self, id: TargetId, wanted: Wanted) -> Option<Target> {
        let Wanted {
            key, host, port, ..
        } = &wanted;
        let Ok(authority) = HeaderValue::try_from(format!("{host}:{port}")) else {
            warn!(target = key, host, "this is no name of a host; left out");
            return None;
        };
        Some(Target {
            id,
            key: key.clone(),
            host: Host::new(host, *port),
            authority,
            pool: Pool::default(),
            meters: self.metrics.meters(key),
            wanted,
        })
    }

    /// What is known of a function.
    pub(super) fn know(&self, spec: &FunctionSpec) {
        let architectures = spec.supported_archs.as_deref().unwrap_or_default();
        let needs = Needs {
            memory_mb: spec.memory_mb.max(0) as f64,
            cpu: spec.cpu_demand.max(0.0),
            architectures: architectures
                .iter()
                .map(|it| Architecture::parse(it))
                .collect(),
        };
        self.lock().functions.insert(spec.name.clone(), needs);
    }

    /// Forgets a function.
    pub(super) fn forget(&self, name: &str) {
        let mut inner = self.lock();
        inner.functions.remove(name);
        inner.balancer.forget(name);
    }

    /// Remembers who has accepted the call `id`.
    pub(super) fn remember(&self, id: String, target: TargetId) {
        self.lock().homes.insert(id, target);
    }

    /// A target for a request.
    pub(super) fn pick(
        self: &Arc<Self>,
        about: About<'_>,
        tried: &[TargetId],
    ) -> Result<Pick, NoTarget> {
        let began = Instant::now();
        let draw = self.draws.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.lock();
        let Inner {
            balancer,
            targets,
            functions,
            homes,
            ..
        } = &mut *inner;
        let ask = Ask {
            name: about.name,
            needs: about.name.and_then(|name| functions.get(name)),
            home: about.call.and_then(|id| homes.get(id)),
            tried,
            draw,
        };
        let picked = balancer.pick(&ask, self.at(began))?;
        let Some(target) = targets.get(&picked.target).map(Arc::clone) else {
            // Both change together, under this lock.
            return Err(NoTarget::Nobody);
        };
        drop(inner);
        self.metrics.picked(picked.how);
        Ok(Pick {
            // Only a bandit wants to hear it.
            name: picked.choice.and(about.name).map(str::to_owned),
            router: Arc::clone(self),
            target,
            picked,
            began,
            told: None,
            ended: false,
        })
    }

    /// A probe was answered.
    pub(super) fn probed(&self, target: &Target, stock: Stock) {
        let now = self.at(Instant::now());
        let mut inner = self.lock();
        inner.balancer.report(target.id, stock);
        let is_back = inner.balancer.probed(target.id, now);
        drop(inner);
        if is_back {
            info!(target = target.key, "target is let in again");
            self.metrics.readmitted(&target.key);
        }
    }

    /// A probe failed.
    pub(super) fn probe_failed(&self, target: &Target, why: Ejection) {
        let now = self.at(Instant::now());
        let ejected = self.lock().balancer.probe_failed(target.id, why, now);
        self.tell(target, ejected);
    }

    fn tell(&self, target: &Target, ejected: Option<Ejection>) {
        if let Some(why) = ejected {
            warn!(target = target.key, why = why.name(), "target is ejected");
            self.metrics.ejected(&target.key, why);
        }
    }

    /// All targets.
    pub(super) fn targets(&self) -> Vec<Arc<Target>> {
        self.lock().targets.values().map(Arc::clone).collect()
    }

    /// All targets as they are now.
    pub(super) fn seen(&self) -> Vec<Seen> {
        let now = self.at(Instant::now());
        self.lock().balancer.seen(now)
    }

    fn at(&self, now: Instant) -> Timestamp {
        Timestamp(now.saturating_duration_since(self.began))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way at a target. Dropped without an end, nobody waited for it.
pub(super) struct Pick {
    router: Arc<Router>,
    pub(super) target: Arc<Target>,
    picked: Picked,
    name: Option<String>,
    began: Instant,
    told: Option<Told>,
    ended: bool,
}

impl Pick {
    /// Whether a bandit wants to hear how the call went.
    pub(super) fn is_lesson(&self) -> bool {
        self.picked.choice.is_some()
    }

    /// The answer's head has come.
    pub(super) fn answered(&mut self, told: Told) {
        self.target.meters.answered_after(self.began.elapsed());
        self.told = Some(told);
    }

    /// Remembers that this target has accepted the call `id`.
    pub(super) fn remember(&self, id: String) {
        self.router.remember(id, self.target.id);
    }

    /// Ends it, as if it had not been.
    pub(super) fn withdraw(&mut self) {
        self.finish(Outcome::Abandoned);
    }

    /// Ends it, and counts it.
    pub(super) fn end(&mut self, outcome: Outcome) {
        if self.finish(outcome) {
            self.target.meters.ended(outcome);
        }
    }

    /// Once.
    fn finish(&mut self, outcome: Outcome) -> bool {
        if std::mem::replace(&mut self.ended, true) {
            return false;
        }
        let now = self.router.at(Instant::now());
        let name = self.name.as_deref();
        let id = self.target.id;
        let mut inner = self.router.lock();
        let ejected = inner.balancer.end(name, &self.picked, outcome, now);
        if let Some(told) = self.told {
            inner.balancer.report(id, told.stock);
            if let Some(architecture) = told.architecture
                && self.target.wanted.architecture.is_none()
            {
                inner.balancer.learn_architecture(id, architecture);
            }
        }
        drop(inner);
        self.router.tell(&self.target, ejected);
        true
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.end(Outcome::Abandoned);
    }
}

/// Who has accepted which call, the last ones.
#[derive(Default)]
struct Homes {
    by_id: HashMap<String, TargetId>,
    order: VecDeque<String>,
}

impl Homes {
    fn insert(&mut self, id: String, target: TargetId) {
        if self.by_id.insert(id.clone(), target).is_some() {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > HOMES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
    }

    fn get(&self, id: &str) -> Option<TargetId> {
        self.by_id.get(id).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_the_last_calls_are_remembered() {
        let mut homes = Homes::default();
        for number in 0..=HOMES_MAX {
            homes.insert(number.to_string(), TargetId(number as u64));
        }
        assert_eq!(homes.get("0"), None);
        assert_eq!(homes.get("1"), Some(TargetId(1)));
        homes.insert("1".into(), TargetId(7));
        assert_eq!(homes.get("1"), Some(TargetId(7)));
        assert_eq!(homes.order.len(), HOMES_MAX);
        assert_eq!(homes.by_id.len(), HOMES_MAX);
    }

    fn wanted(key: &str, port: u16) -> Wanted {
        Wanted {
            key: key.into(),
            host: "127.0.0.1".into(),
            port,
            architecture: None,
        }
    }

    #[test]
    fn who_stays_is_the_same_and_who_moves_is_new() {
        let rules = crate::config::Balancer::default().rules(Duration::from_secs(60));
        let router = Arc::new(Router::new(rules, 1));
        let new = router.install(vec![wanted("a", 1), wanted("b", 2)]);
        assert_eq!(new.len(), 2);
        let pick = router.pick(About::default(), &[]).unwrap();
        let new = router.install(vec![wanted("a", 1), wanted("b", 3)]);
        assert_eq!(new.len(), 1);
        assert_eq!(new[0].key, "b");
        // One that is under way at a target that is gone ends as any other.
        drop(pick);
        router.install(vec![]);
        assert_eq!(
            router.pick(About::default(), &[]).err(),
            Some(NoTarget::Nobody)
        );
        assert!(router.install(vec![wanted("with space\n", 1)]).len() == 1);
        let nonsense = Wanted {
            host: "a\nb".into(),
            ..wanted("c", 1)
        };
        assert!(router.install(vec![nonsense]).is_empty());
    }
}
