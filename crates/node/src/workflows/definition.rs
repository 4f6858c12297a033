//! Definitions: what workflows there are, compiled once.
//!
//! The catalog is a copy in memory of what the store holds. An execution keeps the definition that
//! it began with, which is found by its digest when the execution is taken up again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serverledge_asl::{Diagnostic, Machine, check_text, resource};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::error::{RegisterError, RunError};
use super::{plain, signature};
use crate::config::Workflow as WorkflowConfig;
use crate::node::Node;
use crate::store::Store;

/// Longest name of a workflow, bytes.
const NAME_MAX: usize = 512;

/// How executions of a workflow are run, unless their start says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Kind {
    /// In the journal: they survive the node.
    #[default]
    Standard,
    /// In memory: faster, and gone with the node.
    Express,
}

impl Kind {
    /// As the wire has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "STANDARD",
            Self::Express => "EXPRESS",
        }
    }

    /// From the wire, in any case; `None` if it isn't one.
    pub fn parse(text: &str) -> Option<Self> {
        let kinds = [Self::Standard, Self::Express];
        kinds
            .into_iter()
            .find(|it| text.eq_ignore_ascii_case(it.name()))
    }
}

/// What becomes of a task that was running when its node died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnCrash {
    /// It is run again: it runs at least once.
    #[default]
    Retry,
    /// It fails: it runs at most once.
    Fail,
}

impl OnCrash {
    /// As the wire has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Retry => "Retry",
            Self::Fail => "Fail",
        }
    }

    /// From the wire, in any case; `None` if it isn't one.
    pub fn parse(text: &str) -> Option<Self> {
        let choices = [Self::Retry, Self::Fail];
        choices
            .into_iter()
            .find(|it| text.eq_ignore_ascii_case(it.name()))
    }
}

/// What was declared at registration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// How it is run.
    pub kind: Kind,
    /// What becomes of tasks at a crash.
    pub on_crash: OnCrash,
}

/// A workflow as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Name, unique on the node.
    pub name: String,
    /// The definition as it was given.
    pub text: String,
    /// What was declared with it.
    #[serde(default)]
    pub options: Options,
    /// How often the name has been registered.
    #[serde(default)]
    pub revision: u64,
    /// When, in milliseconds since 1970.
    #[serde(default)]
    pub registered: i64,
    /// The original's form, if it was registered in that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Value>,
    /// Whether all its data flow by the signatures of functions.
    #[serde(default)]
    pub is_plain: bool,
    /// The revision under which etcd has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<u64>,
}

impl Record {
    /// The definition as it was given.
    pub(crate) fn definition(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

/// A registered workflow, ready to be run.
#[derive(Debug, Clone)]
pub struct Workflow {
    /// What was registered.
    pub record: Record,
    /// What is run.
    pub machine: Arc<Machine>,
    /// Digest of what is run.
    pub digest: String,
}

impl Workflow {
    /// Compiles a record; an error says what is wrong with its definition.
    pub fn compile(
        record: Record,
        config: &WorkflowConfig,
    ) -> Result<(Self, String), Vec<Diagnostic>> {
        // What was given is judged, so that people find what is wrong where they wrote it.
        let mut checked = check_text(&record.text);
        let text = match checked.machine {
            Some(_) => effective(&record, config),
            None => return Err(checked.diagnostics),
        };
        if text != record.text {
            checked = check_text(&text);
        }
        let Some(machine) = checked.machine else {
            return Err(checked.diagnostics);
        };
        let workflow = Self {
            machine: Arc::new(machine),
            digest: digest(&text),
            record,
        };
        Ok((workflow, text))
    }
}

impl Workflow {
    /// The definition that is run.
    pub(crate) fn definition(&self, config: &WorkflowConfig) -> Value {
        serde_json::from_str(&effective(&self.record, config)).unwrap_or_default()
    }
}

/// The definition that is run: what was given, but for what the original's users expect.
fn effective(record: &Record, config: &WorkflowConfig) -> String {
    if !record.is_plain && !config.fail_succeeds {
        return record.text.clone();
    }
    let mut definition = record.definition();
    if record.is_plain {
        definition = plain::overlaid(&definition);
    }
    if config.fail_succeeds {
        definition = plain::failing_well(&definition);
    }
    definition.to_string()
}

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// All workflows, by name, and the machines of executions under way.
#[derive(Debug, Default)]
pub struct Catalog {
    workflows: RwLock<BTreeMap<Arc<str>, Arc<Workflow>>>,
    /// By digest. A machine that nobody has any more is compiled again when it is wanted.
    machines: Mutex<HashMap<String, Weak<Machine>>>,
}

impl Catalog {
    /// With what the store holds.
    pub(crate) fn load(store: &Store, config: &WorkflowConfig) -> anyhow::Result<Self> {
        let catalog = Self::default();
        store.visit_workflows(|name, _, bytes| {
            let record: Record = match serde_json::from_slice(bytes) {
                Ok(record) => record,
                Err(error) => {
                    warn!(workflow = name, %error, "stored workflow is unreadable; left out");
                    return;
                }
            };
            match Workflow::compile(record, config) {
                Ok((workflow, _)) => drop(catalog.insert(Arc::new(workflow))),
                Err(_) => warn!(workflow = name, "stored workflow is not valid; left out"),
            }
        })?;
        Ok(catalog)
    }

    /// The workflow called `name`.
    pub fn workflow(&self, name: &str) -> Option<Arc<Workflow>> {
        let workflows = self.workflows.read();
        let workflows = workflows.unwrap_or_else(PoisonError::into_inner);
        workflows.get(name).cloned()
    }

    /// All names, in order.
    pub fn names(&self) -> Vec<Arc<str>> {
        let workflows = self.workflows.read();
        let workflows = workflows.unwrap_or_else(PoisonError::into_inner);
        workflows.keys().cloned().collect()
    }

    /// Makes `workflow` what its name means; what it meant before is returned.
    pub(crate) fn insert(&self, workflow: Arc<Workflow>) -> Option<Arc<Workflow>> {
        self.keep(&workflow.digest, &workflow.machine);
        let workflows = self.workflows.write();
        let mut workflows = workflows.unwrap_or_else(PoisonError::into_inner);
        workflows.insert(workflow.record.name.as_str().into(), workflow)
    }

    pub(crate) fn remove(&self, name: &str) -> Option<Arc<Workflow>> {
        let workflows = self.workflows.write();
        let mut workflows = workflows.unwrap_or_else(PoisonError::into_inner);
        workflows.remove(name)
    }

    fn keep(&self, digest: &str, machine: &Arc<Machine>) {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        // What nobody has any more is let go when there is much of it.
        if machines.len() > 2 * MACHINES_UNUSED {
            machines.retain(|_, machine| machine.strong_count() > 0);
        }
        machines.insert(digest.to_owned(), Arc::downgrade(machine));
    }

    /// The machine of the definition with this digest.
    pub(crate) fn machine(&self, store: &Store, digest: &str) -> Result<Arc<Machine>, RunError> {
        if let Some(machine) = self.known(digest) {
            return Ok(machine);
        }
        let text = store.definition(digest)?;
        self.compile(digest, &text.ok_or(RunError::Definition)?)
    }

    /// The same for a definition that came from another node.
    pub(crate) fn machine_of(&self, digest: &str, text: &[u8]) -> Result<Arc<Machine>, RunError> {
        match self.known(digest) {
            Some(machine) => Ok(machine),
            None => self.compile(digest, text),
        }
    }

    fn known(&self, digest: &str) -> Option<Arc<Machine>> {
        let machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        machines.get(digest).and_then(Weak::upgrade)
    }

    fn compile(&self, digest: &str, text: &[u8]) -> Result<Arc<Machine>, RunError> {
        let text = std::str::from_utf8(text).ok();
        let machine = text.and_then(|text| check_text(text).machine);
        let machine = Arc::new(machine.ok_or(RunError::Definition)?);
        self.keep(digest, &machine);
        Ok(machine)
    }
}

/// Entries of the table of machines that may be stale before they are looked for.
const MACHINES_UNUSED: usize = 1_000;

/// Registers a workflow; with `overwrite`, replaces it if it exists. Executions under way go on with
/// the definition that they began with.
pub async fn register(
    node: &Node,
    record: Record,
    overwrite: bool,
) -> Result<Arc<Workflow>, RegisterError> {
    check_name(&record.name)?;
    let config = &node.config.workflow;
    if record.text.len() > config.definition_max {
        return Err(RegisterError::TooLarge(config.definition_max));
    }
    // Null if it is no JSON, which compiling it says better.
    let definition = record.definition();
    let record = Record {
        is_plain: flows_by_signatures(node, &record, &definition),
        ..record
    };
    let compiled = Workflow::compile(record, config).map_err(RegisterError::Invalid)?;
    check_resources(node, &compiled.0.record.text, &definition)?;
    let catalog = &node.workflows.catalog;
    let _guard = node.workflows.registering.lock().await;
    let name = &compiled.0.record.name;
    let former = catalog.workflow(name);
    if former.is_some() && !overwrite {
        return Err(RegisterError::Exists(name.clone()));
    }
    if former.is_none() && catalog.names().len() >= config.definitions_max {
        return Err(RegisterError::TooMany(config.definitions_max));
    }
    let mut compiled = compiled;
    if let Some(federation) = &node.federation {
        let shared = federation.share_workflow(node, &compiled.0.record, !overwrite);
        compiled.0.record.shared = shared.await?;
    }
    keep(node, compiled, former.as_deref()).await
}

/// Writes a compiled workflow to the store, and makes it what its name means.
async fn keep(
    node: &Node,
    (workflow, text): (Workflow, String),
    former: Option<&Workflow>,
) -> Result<Arc<Workflow>, RegisterError> {
    let mut workflow = workflow;
    workflow.record.revision = former.map_or(1, |former| former.record.revision + 1);
    let bytes = serde_json::to_vec(&workflow.record);
    let bytes = bytes.map_err(|error| crate::store::StoreError::encoding(&error))?;
    node.store
        .put_workflow(
            &workflow.record.name,
            &workflow.digest,
            bytes,
            text.into_bytes(),
        )
        .await?;
    let workflow = Arc::new(workflow);
    node.workflows.catalog.insert(Arc::clone(&workflow));
    Ok(workflow)
}

/// Takes over a workflow that another node has registered; functions are not looked for, as they may
/// become known later. What is known here of a later revision stays.
pub(crate) async fn adopt(node: &Node, record: Record) -> Result<(), RegisterError> {
    check_name(&record.name)?;
    let compiled = Workflow::compile(record, &node.config.workflow);
    let compiled = compiled.map_err(RegisterError::Invalid)?;
    let _guard = node.workflows.registering.lock().await;
    let record = &compiled.0.record;
    let former = node.workflows.catalog.workflow(&record.name);
    let is_newer = |former: &Arc<Workflow>| former.record.shared >= record.shared;
    if former.as_ref().is_some_and(is_newer) {
        return Ok(());
    }
    keep(node, compiled, former.as_deref()).await.map(drop)
}

/// Writes down again what a changed configuration makes another definition of, so that executions
/// find it by its digest.
pub(crate) async fn settle(node: &Node) -> Result<(), RegisterError> {
    let catalog = &node.workflows.catalog;
    let mut changed = Vec::new();
    node.store.visit_workflows(|name, digest, _| {
        let known = catalog.workflow(name);
        changed.extend(known.filter(|known| known.digest != digest));
    })?;
    let _guard = node.workflows.registering.lock().await;
    for workflow in changed {
        let record = workflow.record.clone();
        let compiled = Workflow::compile(record, &node.config.workflow);
        let compiled = compiled.map_err(RegisterError::Invalid)?;
        keep(node, compiled, Some(&workflow)).await?;
    }
    Ok(())
}

/// Removes a workflow that the fleet doesn't have at this revision of etcd.
pub(crate) async fn forget(node: &Node, name: &str, revision: u64) -> Result<(), RegisterError> {
    let _guard = node.workflows.registering.lock().await;
    let known = node.workflows.catalog.workflow(name);
    let is_older = known.is_some_and(|it| it.record.shared.is_some_and(|it| it <= revision));
    if is_older {
        node.store.delete_workflow(name).await?;
        node.workflows.catalog.remove(name);
    }
    Ok(())
}

/// Remembers that etcd has a workflow, unless that is another one by now.
pub(crate) async fn mark_shared(
    node: &Node,
    workflow: &Arc<Workflow>,
    revision: u64,
) -> Result<(), RegisterError> {
    let _guard = node.workflows.registering.lock().await;
    let name = &workflow.record.name;
    let known = node.workflows.catalog.workflow(name);
    if known.is_none_or(|known| !Arc::ptr_eq(&known, workflow)) {
        return Ok(());
    }
    let record = Record {
        shared: Some(revision),
        ..workflow.record.clone()
    };
    let compiled = Workflow::compile(record, &node.config.workflow);
    let compiled = compiled.map_err(RegisterError::Invalid)?;
    keep(node, compiled, Some(workflow)).await.map(drop)
}

/// Removes a workflow. Its executions stay, and go on. `false` if there was none.
pub async fn delete(node: &Node, name: &str) -> Result<bool, RegisterError> {
    let _guard = node.workflows.registering.lock().await;
    if let Some(federation) = &node.federation
        && node.workflows.catalog.workflow(name).is_some()
    {
        federation.withdraw_workflow(name).await?;
    }
    let existed = node.store.delete_workflow(name).await?;
    node.workflows.catalog.remove(name);
    Ok(existed)
}

/// Whether all functions of a definition have signatures, and nothing else says how data flow.
fn flows_by_signatures(node: &Node, record: &Record, definition: &Value) -> bool {
    let has_signature = |name: &str| signature::is_of(node, name);
    record.original.is_none() && plain::is_plain(definition, has_signature)
}

fn check_name(name: &str) -> Result<(), RegisterError> {
    let is_good = !name.is_empty() && name.len() <= NAME_MAX && !name.contains(char::is_control);
    match is_good {
        true => Ok(()),
        false => Err(RegisterError::Name(NAME_MAX)),
    }
}

/// Refuses tasks that nothing here can run.
fn check_resources(node: &Node, text: &str, definition: &Value) -> Result<(), RegisterError> {
    let mut problems = resource::unknown(definition);
    let names = node.catalog.names();
    let exists = |name: &str| node.catalog.function(name).is_some();
    problems.extend(resource::missing(definition, exists, &names));
    if problems.is_empty() {
        return Ok(());
    }
    resource::locate(&mut problems, text);
    problems.sort_by_key(|one| (one.line, one.column));
    Err(RegisterError::Invalid(problems))
}
