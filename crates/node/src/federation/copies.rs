//! Functions of other nodes, where there is no registry that has them: a call that is sent on says
//! which function it means (`Serverledge-Function`), and a node that doesn't have it gets it from the
//! one that sent the call.
//!
//! A function is its definition, code included, by its digest: one name may mean different functions
//! at different nodes, and what runs is always the sender's. Copies are in memory, beside the node's
//! own functions and never among them; their code is a file like any other's while they are there.
//!
//! Only a member of the fleet is asked, at the address under which it is known. What comes is
//! believed by its digest alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use serverledge_api::FunctionSpec;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tracing::{debug, info};

use super::question::{self, Id};
use super::{Federation, Member, functions, signature, unix_micros};
use crate::catalog::{Function, FunctionRecord};
use crate::code::Digest;
use crate::http;
use crate::node::Node;

/// Which function a call means, and which node has it: `DIGEST.NODE`, the digest of its definition
/// and that of the node's path, in hexadecimal digits.
pub(crate) const FUNCTION: HeaderName = HeaderName::from_static("serverledge-function");

/// Where nodes have definitions, before their digest.
pub(crate) const PATH: &str = "/v1/function/";

/// Copies that are kept, and that are being got.
const COPIES_MAX: usize = 256;

/// How long a copy is kept that nobody calls.
const IDLE_MAX: Duration = Duration::from_secs(600);

/// How long it is believed that a function can't be had.
const FAILURE_HELD: Duration = Duration::from_secs(3);

/// Largest definition, without code, and how long getting it may take.
const DEFINITION_MAX: usize = 256 << 10;
const DEFINITION_TIME_MAX: Duration = Duration::from_secs(5);

/// How long all of it may take, so that who sent the call still waits for it.
const COPY_TIME_MAX: Duration = Duration::from_secs(50);

/// What a call says of its function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meant {
    digest: Digest,
    origin: Id,
}

impl Meant {
    fn read(headers: &HeaderMap) -> Option<Self> {
        let (digest, origin) = headers.get(FUNCTION)?.to_str().ok()?.split_once('.')?;
        let mut id = Id::default();
        hex::decode_to_slice(origin, &mut id).ok()?;
        Some(Self {
            digest: Digest::parse(digest).ok()?,
            origin: id,
        })
    }

    /// For a call of a function that `origin`, in hexadecimal digits, has.
    pub(super) fn header(node: &Node, function: &Function, origin: &str) -> Option<HeaderValue> {
        let digest = revision(node, function);
        HeaderValue::try_from(format!("{digest}.{origin}")).ok()
    }
}

/// How others are told of a function: without its code, of which it has the digest. The same at every
/// node that has the same function.
fn definition(node: &Node, record: &FunctionRecord) -> Vec<u8> {
    serverledge_api::encode(&FunctionSpec {
        code_digest: record.code.clone().unwrap_or_default(),
        ..functions::spec(node, record)
    })
}

/// Digest of a function's definition.
pub(crate) fn revision<'a>(node: &Node, function: &'a Function) -> &'a Digest {
    let digest = || Digest::of(&definition(node, &function.record));
    function.revision.get_or_init(digest)
}

/// A function of another node.
struct Copy {
    function: Arc<Function>,
    origin: Arc<Member>,
}

type Got = Arc<OnceCell<Result<Arc<Function>, Arc<str>>>>;

/// A function that is wanted.
struct Slot {
    /// Where those wait who want it while it is being got; why it can't be had.
    got: Got,
    copy: Option<Copy>,
    origin: Id,
    used: Instant,
}

impl Slot {
    /// Not if all who wanted it have given up.
    fn is_under_way(&self) -> bool {
        !self.got.initialized() && Arc::strong_count(&self.got) > 1
    }

    fn has_failed(&self) -> bool {
        self.got.get().is_some_and(Result::is_err)
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Copies {
    slots: Mutex<BTreeMap<Digest, Slot>>,
}

/// What is shown of a copy.
pub(crate) struct Shown {
    pub(crate) name: String,
    pub(crate) revision: Digest,
    /// Key of the node it is from.
    pub(crate) origin: String,
    /// Since its last call.
    pub(crate) idle: Duration,
}

impl Copies {
    /// All that there are.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        let slots = self.lock();
        let shown = slots.iter().filter_map(|(digest, slot)| {
            let copy = slot.copy.as_ref()?;
            Some(Shown {
                name: copy.function.record.name.clone(),
                revision: digest.clone(),
                origin: copy.origin.key.clone(),
                idle: slot.used.elapsed(),
            })
        });
        shown.collect()
    }

    /// Whether a function is one of them.
    pub(crate) fn has(&self, function: &Function) -> bool {
        let slots = self.lock();
        let mut copies = slots.values().filter_map(|slot| slot.copy.as_ref());
        copies.any(|copy| copy.function.id == function.id)
    }

    /// Whether one of them has this code.
    pub(crate) fn uses_code(&self, digest: &str) -> bool {
        let slots = self.lock();
        let mut copies = slots.values().filter_map(|slot| slot.copy.as_ref());
        copies.any(|copy| copy.function.record.code.as_deref() == Some(digest))
    }

    /// The images of all.
    pub(crate) fn images(&self) -> Vec<String> {
        let slots = self.lock();
        let copies = slots.values().filter_map(|slot| slot.copy.as_ref());
        copies
            .filter_map(|copy| copy.function.image.clone())
            .collect()
    }

    /// Lets go of what nobody has called for long.
    pub(crate) fn sweep(&self, node: &Node) {
        self.retire(node, |_, slot| {
            slot.used.elapsed() > IDLE_MAX && !slot.is_under_way()
        });
    }

    /// Where to wait for a function; who comes first gets it. `None` if there are too many under way.
    fn slot(&self, node: &Node, meant: &Meant) -> Option<Got> {
        let mut slots = self.lock();
        if let Some(slot) = slots.get_mut(&meant.digest)
            // Another node may have what one hadn't.
            && !(slot.has_failed()
                && (slot.used.elapsed() > FAILURE_HELD || slot.origin != meant.origin))
        {
            // What failed is tried again after a while, however often it is asked for.
            if !slot.has_failed() {
                slot.used = Instant::now();
            }
            return Some(Arc::clone(&slot.got));
        }
        slots.remove(&meant.digest);
        let mut evicted = None;
        if slots.len() >= COPIES_MAX {
            let done = slots.iter().filter(|(_, slot)| !slot.is_under_way());
            // What can't be had before what can.
            let oldest = done.min_by_key(|(_, slot)| (slot.copy.is_some(), slot.used));
            let oldest = oldest.map(|(digest, _)| digest.clone())?;
            evicted = slots.remove(&oldest);
        }
        let got = Got::default();
        slots.insert(
            meant.digest.clone(),
            Slot {
                got: Arc::clone(&got),
                copy: None,
                origin: meant.origin,
                used: Instant::now(),
            },
        );
        drop(slots);
        if let Some(copy) = evicted.and_then(|slot| slot.copy) {
            node.pool.retire(&copy.function);
        }
        Some(got)
    }

    /// Has a copy in its slot. What the same node had under its name before is old.
    fn keep(&self, node: &Node, meant: &Meant, copy: Copy) {
        let name = copy.function.record.name.clone();
        self.retire(node, |digest, slot| {
            let former = slot.copy.as_ref().map(|it| &it.function.record.name);
            *digest != meant.digest && slot.origin == meant.origin && former == Some(&name)
        });
        if let Some(slot) = self.lock().get_mut(&meant.digest) {
            slot.copy = Some(copy);
        }
    }

    /// A node says that it has no such function (any more).
    fn gone(&self, node: &Node, origin: Id, names: &[String]) {
        self.retire(node, |_, slot| {
            let name = slot.copy.as_ref().map(|it| &it.function.record.name);
            slot.origin == origin && name.is_some_and(|name| names.contains(name))
        });
    }

    fn retire(&self, node: &Node, is_over: impl Fn(&Digest, &Slot) -> bool) {
        let mut over = Vec::new();
        self.lock().retain(|digest, slot| {
            let is_over = is_over(digest, slot);
            if is_over {
                over.extend(slot.copy.take());
            }
            !is_over
        });
        for copy in over {
            let function = &copy.function.record.name;
            debug!(function, origin = copy.origin.key, "a copy is let go");
            node.pool.retire(&copy.function);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Federation {
    /// Which function a call means, if it says so and there is no registry that would.
    pub(crate) fn meant(&self, headers: &HeaderMap) -> Option<Meant> {
        let headers = Some(headers).filter(|_| self.etcd.is_none())?;
        Meant::read(headers)
    }

    /// The function that a call means, whose name is one of these; an error says why it can't be
    /// had.
    pub(crate) async fn function_meant(
        &self,
        node: &Arc<Node>,
        meant: &Meant,
        names: Vec<String>,
    ) -> Result<Arc<Function>, Arc<str>> {
        let own = names.iter().filter_map(|name| node.catalog.function(name));
        let mut own = own.filter(|function| *revision(node, function) == meant.digest);
        if let Some(function) = own.next() {
            return Ok(function);
        }
        let Some(got) = self.copies.slot(node, meant) else {
            return Err("this node is getting too many functions already".into());
        };
        let get = || async {
            let copied = timeout(COPY_TIME_MAX, self.copy(node, meant, &names)).await;
            let copied = copied.unwrap_or_else(|_| Err(format!("took over {COPY_TIME_MAX:?}")));
            copied.map_err(|why| {
                debug!(?names, why, "a function can't be had");
                why.into()
            })
        };
        let function = got.get_or_init(get).await.clone()?;
        match names.contains(&function.record.name) {
            true => Ok(function),
            false => Err(format!("it is called '{}'", function.record.name).into()),
        }
    }

    async fn copy(
        &self,
        node: &Arc<Node>,
        meant: &Meant,
        names: &[String],
    ) -> Result<Arc<Function>, String> {
        let origin = self.origin(node, meant)?;
        let asked = timeout(DEFINITION_TIME_MAX, self.definition_at(&origin, meant)).await;
        let Some(definition) = asked.map_err(|_| format!("{} is silent", origin.key))?? else {
            self.copies.gone(node, meant.origin, names);
            return Err(format!("{} has no such function any more", origin.key));
        };
        if Digest::of(&definition) != meant.digest {
            return Err(format!("{} gave something else", origin.key));
        }
        let spec: FunctionSpec =
            serverledge_api::decode(&definition).map_err(|error| crate::chain(&error))?;
        if !names.contains(&spec.name) {
            return Err(format!("it is called '{}' at {}", spec.name, origin.key));
        }
        let keep = |function: &Arc<Function>| {
            let (function, origin) = (Arc::clone(function), Arc::clone(&origin));
            self.copies.keep(node, meant, Copy { function, origin });
        };
        let copied = http::functions::copy(node, spec, &origin.key, keep).await;
        let function = copied.map_err(|error| crate::chain(&error))?;
        let name = &function.record.name;
        info!(function = name, origin = origin.key, revision = %meant.digest, "a function was copied");
        Ok(function)
    }

    /// The member that a call is from.
    fn origin(&self, node: &Node, meant: &Meant) -> Result<Arc<Member>, String> {
        let members = self.members.all();
        let found = members
            .iter()
            .find(|(path, _)| question::id(path) == meant.origin);
        let member = found.map(|(_, member)| Arc::clone(member));
        member
            .filter(|member| member.key != node.identity.key && !member.is_balancer)
            .ok_or_else(|| "it is from a node that isn't known here".to_owned())
    }

    /// What a member says of a function; `None` if it hasn't got it.
    async fn definition_at(&self, origin: &Member, meant: &Meant) -> Result<Option<Bytes>, String> {
        let url = format!("http://{}{PATH}{}", origin.authority(), meant.digest);
        let request = Request::get(url);
        let request = request.body(Empty::<Bytes>::new());
        let mut request = request.map_err(|error| crate::chain(&error))?;
        if let Some(secret) = &self.secret {
            signature::sign(secret, &mut request, b"", unix_micros());
        }
        let response = self.offloader.request(request.map(|_| Full::default()));
        let response = response.await.map_err(|error| crate::chain(&error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => return Err(format!("{} answered {status}", origin.key)),
        }
        let body = Limited::new(response.into_body(), DEFINITION_MAX).collect();
        let body = body.await.map_err(|error| error.to_string())?;
        Ok(Some(body.to_bytes()))
    }

    /// The definition with this digest, if this node has the function, and if there is no registry
    /// that has it.
    pub(crate) fn definition(&self, node: &Node, digest: &Digest) -> Option<Vec<u8>> {
        if self.etcd.is_some() {
            return None;
        }
        let names = node.catalog.names().into_iter();
        let mut functions = names.filter_map(|name| node.catalog.function(&name));
        let found = functions.find(|function| revision(node, function) == digest)?;
        Some(definition(node, &found.record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_call_means_is_read_or_nothing() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(FUNCTION, HeaderValue::from_str(text).unwrap());
            Meant::read(&headers)
        };
        let digest = Digest::of(b"a definition");
        let origin = question::id("registry/EDGE/amd64/a");
        let written = format!("{digest}.{}", hex::encode(origin));
        assert_eq!(read(&written), Some(Meant { digest, origin }));
        assert_eq!(Meant::read(&HeaderMap::new()), None);
        for wrong in ["", ".", "x", &written[1..], &written[..written.len() - 1]] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(read(&format!("{written}0")), None);
        assert_eq!(read(&format!("{written}.10.0.0.1:80")), None);
    }
}
