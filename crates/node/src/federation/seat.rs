//! A seat in the fleet for who runs no functions: a load balancer. It is in the registry, sees who
//! else is, and knows what functions need; it keeps none of their code. Without a registry it gossips,
//! and knows the nodes alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serverledge_api::FunctionSpec;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::etcd::{Entry, Etcd, Event, Values};
use super::follow::{Change, follow};
use super::mirror::Kind as _;
use super::seal::Secret;
use super::tls::TlsError;
use super::{CHANGES_MAX, Member, Members, gossip, member, outbound_address, registration};
use crate::catalog::Function;
use crate::config::Config;

/// How long a stop waits for the entry to be gone.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(2);

/// What has become known of a function.
pub(crate) enum News {
    /// It is there, like this, without its code.
    Known(Box<FunctionSpec>),
    /// It is gone.
    Gone(String),
}

/// Members by key in the registry; `None` until the registry has been read.
pub(crate) type Seen = Option<Arc<BTreeMap<String, Arc<Member>>>>;

/// What follows the registry, or gossips.
pub(crate) struct Seat {
    source: Source,
    refresh: Duration,
    tasks: JoinSet<()>,
}

/// Where it is known from who is there.
enum Source {
    Etcd(Arc<Etcd>),
    Gossip(Arc<Members>),
}

/// An entry in the registry.
pub(crate) struct Entered {
    leaving: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Seat {
    /// `None` without `etcd.address` and `federation.peers`.
    pub(crate) fn new(config: &Config) -> Result<Option<Self>, TlsError> {
        if !config.is_in_fleet() {
            return Ok(None);
        }
        let source = match config.etcd.endpoints.is_empty() {
            true => Source::Gossip(Arc::default()),
            false => Source::Etcd(Arc::new(Etcd::new(&config.etcd)?)),
        };
        Ok(Some(Self {
            source,
            refresh: config.balancer.refresh_interval,
            tasks: JoinSet::new(),
        }))
    }

    /// Whether there is no registry, so that nodes don't know each other's functions and results.
    pub(crate) fn is_without_registry(&self) -> bool {
        matches!(self.source, Source::Gossip(_))
    }

    /// Who is there, from now on.
    pub(crate) fn members(&mut self) -> watch::Receiver<Seen> {
        let (sender, receiver) = watch::channel(None);
        let etcd = match &self.source {
            Source::Etcd(etcd) => Arc::clone(etcd),
            Source::Gossip(members) => {
                let mut news = members.subscribe();
                self.tasks.spawn(async move {
                    loop {
                        let all = Arc::clone(&news.borrow_and_update());
                        sender.send_replace(Some(all));
                        if news.changed().await.is_err() {
                            return;
                        }
                    }
                });
                return receiver;
            }
        };
        let mut changes = self.follow(&etcd, member::PREFIX, Values::Included);
        self.tasks.spawn(async move {
            let members = Members::default();
            while let Some(change) = changes.recv().await {
                if matches!(change, Change::Away) {
                    continue;
                }
                members.change(change);
                sender.send_replace(Some(members.all()));
            }
        });
        receiver
    }

    /// What functions there are, from now on, if there is a registry.
    pub(crate) fn functions(&mut self, tell: impl Fn(News) + Send + Sync + 'static) {
        let Source::Etcd(etcd) = &self.source else {
            return;
        };
        let etcd = Arc::clone(etcd);
        let mut changes = self.follow(&etcd, Function::PREFIX, Values::Left);
        self.tasks.spawn(async move {
            let mut known: BTreeMap<String, u64> = BTreeMap::new();
            while let Some(change) = changes.recv().await {
                match change {
                    Change::Listed(entries, _) => {
                        reconcile(&etcd, entries, &mut known, &tell).await;
                    }
                    Change::Event(Event::Put(entry)) => take(entry, &mut known, &tell),
                    Change::Event(Event::Deleted(key, _)) => forget(&key, &mut known, &tell),
                    Change::Away => {}
                }
            }
        });
    }

    fn follow(
        &mut self,
        etcd: &Arc<Etcd>,
        prefix: &'static str,
        values: Values,
    ) -> mpsc::Receiver<Change> {
        let (sender, receiver) = mpsc::channel(CHANGES_MAX);
        let etcd = Arc::clone(etcd);
        self.tasks
            .spawn(follow(etcd, prefix, values, self.refresh, sender));
        receiver
    }

    /// Tells the fleet of a load balancer with this name, whose API is at `address`.
    pub(crate) fn enter(&self, config: &Config, key: &str, address: SocketAddr) -> Entered {
        let host = match &config.api.ip {
            Some(ip) => ip.clone(),
            None if address.ip().is_unspecified() => outbound_address(),
            None => address.ip().to_string(),
        };
        let architecture = match cfg!(target_arch = "aarch64") {
            true => "arm64",
            false => "amd64",
        };
        let entry = Member {
            key: key.to_owned(),
            area: config.registry.area.clone(),
            is_balancer: true,
            host,
            api_port: address.port(),
            // The original writes one too. Listened on where there is no registry.
            udp_port: config.registry.udp_port,
            architecture: architecture.to_owned(),
        };
        let leaving = CancellationToken::new();
        let task = match &self.source {
            Source::Etcd(etcd) => {
                let kept = registration::keep(Arc::clone(etcd), entry, leaving.clone());
                tokio::spawn(kept)
            }
            Source::Gossip(members) => {
                let (members, secret) = (Arc::clone(members), config.federation.secret.clone());
                let (peers, leaving) = (config.federation.peers.clone(), leaving.clone());
                tokio::spawn(async move {
                    let secret = secret.map(|secret| Secret::new(&secret.0));
                    let wanted = SocketAddr::new(address.ip(), entry.udp_port);
                    gossip::take_part(entry, &members, &peers, secret, wanted, leaving).await;
                })
            }
        };
        Entered {
            leaving,
            task: AbortOnDropHandle::new(task),
        }
    }
}

impl Entered {
    /// Removes the entry.
    pub(crate) async fn leave(self) {
        self.leaving.cancel();
        let _ = tokio::time::timeout(LEAVE_TIME_MAX, self.task).await;
    }
}

/// Reads what has changed since.
async fn reconcile(
    etcd: &Etcd,
    entries: Vec<Entry>,
    known: &mut BTreeMap<String, u64>,
    tell: &(impl Fn(News) + Sync),
) {
    let listed: BTreeMap<String, u64> = entries
        .into_iter()
        .map(|entry| (entry.key, entry.revision))
        .collect();
    let gone = known.keys().filter(|key| !listed.contains_key(*key));
    for key in gone.cloned().collect::<Vec<_>>() {
        forget(&key, known, tell);
    }
    for (key, revision) in listed {
        if known.get(&key) == Some(&revision) {
            continue;
        }
        match etcd.get(&key).await {
            Ok(Some(entry)) => take(entry, known, tell),
            // Deleted since: the watch will say so.
            Ok(None) => {}
            // Away: everything is listed again when it is back.
            Err(_) => return,
        }
    }
}

fn take(entry: Entry, known: &mut BTreeMap<String, u64>, tell: &impl Fn(News)) {
    known.insert(entry.key.clone(), entry.revision);
    match serverledge_api::decode::<FunctionSpec>(&entry.value) {
        Ok(spec) if entry.key.strip_prefix(Function::PREFIX) == Some(spec.name.as_str()) => {
            let code = String::new();
            tell(News::Known(Box::new(FunctionSpec { code, ..spec })));
        }
        // The nodes say so, loudly.
        _ => debug!(key = entry.key, "what etcd has is no function"),
    }
}

fn forget(key: &str, known: &mut BTreeMap<String, u64>, tell: &impl Fn(News)) {
    known.remove(key);
    if let Some(name) = key.strip_prefix(Function::PREFIX) {
        tell(News::Gone(name.to_owned()));
    }
}
