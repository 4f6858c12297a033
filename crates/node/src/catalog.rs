//! What functions exist: a copy in memory of what the store holds, read on every invocation.
//!
//! Metadata only. Code stays in files, by digest (`code.rs`); nothing here is read from disk after
//! start-up. Each registered revision of a function has its own [`FunctionId`], so that calls and
//! sandboxes of an old revision are never mistaken for those of a new one.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serverledge_api::{Network, Signature};
use serverledge_core::{FunctionId, Language, Limits, NetworkPolicy};

use crate::code::Digest;

/// A function as it is stored: the wire's fields, checked and normalised, with the digest of its
/// code instead of the code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionRecord {
    /// Name, unique on the node.
    pub name: String,
    /// Runtime name as registered, e.g. `python314`.
    pub runtime: String,
    /// Memory limit of a sandbox, MiB.
    pub memory_mb: u64,
    /// CPU demand in cores; 0 = no limit.
    pub cpu: f64,
    /// Calls a sandbox may serve at once.
    pub max_concurrency: u32,
    /// Handler, in the runtime's notation.
    pub handler: String,
    /// Digest of the code archive; `None` when the function came without code.
    pub code: Option<String>,
    /// Image of a `custom` function.
    #[serde(default)]
    pub custom_image: String,
    /// Declared inputs and outputs, used by workflows.
    #[serde(default)]
    pub signature: Option<Signature>,
    /// Time limit of one call, seconds; `None` = the node's default.
    #[serde(default)]
    pub timeout_seconds: Option<f64>,
    /// Modules that are imported ahead of the function.
    #[serde(default)]
    pub preload: Vec<String>,
    /// Whom it may talk to; `None` = the node's default.
    #[serde(default)]
    pub network: Option<Network>,
    /// Architectures it runs on, if another node has said; empty = as its runtime.
    #[serde(default)]
    pub architectures: Vec<String>,
    /// Revision of etcd under which it is there; `None` if it isn't.
    #[serde(default)]
    pub shared: Option<u64>,
}

/// One registered revision of a function, ready to be invoked.
#[derive(Debug)]
pub struct Function {
    /// Identity of this revision, unique while the process lives.
    pub id: FunctionId,
    /// What was registered.
    pub record: FunctionRecord,
    /// What the scheduler accounts.
    pub limits: Limits,
    /// Language of the runtime.
    pub language: Language,
    /// Interpreter that runs the shim.
    pub interpreter: PathBuf,
    /// Image of its sandboxes, where they are made from images.
    pub image: Option<String>,
    /// Whom it may talk to.
    pub network: NetworkPolicy,
    /// Time limit of one call.
    pub timeout: Duration,
    /// Digest of its definition, once somebody has asked for it.
    pub revision: OnceLock<Digest>,
}

/// All functions, by name.
#[derive(Debug, Default)]
pub struct Catalog {
    functions: RwLock<HashMap<Arc<str>, Arc<Function>>>,
    next_id: AtomicU64,
}

impl Catalog {
    /// An identity for a new revision.
    pub fn next_id(&self) -> FunctionId {
        FunctionId(self.next_id.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// The current revision of `name`.
    pub fn function(&self, name: &str) -> Option<Arc<Function>> {
        self.read().get(name).cloned()
    }

    /// Makes `function` the current revision of its name; the former one is returned.
    pub fn insert(&self, function: Arc<Function>) -> Option<Arc<Function>> {
        let name: Arc<str> = function.record.name.as_str().into();
        self.write().insert(name, function)
    }

    /// Forgets `name`.
    pub fn remove(&self, name: &str) -> Option<Arc<Function>> {
        self.write().remove(name)
    }

    /// All names, sorted: the order of keys in the original's registry.
    pub fn names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.read().keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// The images of all functions.
    pub fn images(&self) -> HashSet<String> {
        let functions = self.read();
        let images = functions.values().filter_map(|it| it.image.clone());
        images.collect()
    }

    /// Whether some function has the code `digest`. Linear in the number of functions: for the
    /// janitor, not for invocations.
    pub fn uses_code(&self, digest: &str) -> bool {
        let functions = self.read();
        functions
            .values()
            .any(|function| function.record.code.as_deref() == Some(digest))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<Arc<str>, Arc<Function>>> {
        self.functions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<Arc<str>, Arc<Function>>> {
        self.functions
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
