//! Workflows: what is registered, and the executions of it.
//!
//! An execution is its events: what the interpreter is stepped with is in a journal before anything
//! follows from it (`run`, `journal`), and going through the journal again gives the execution as it
//! was. An express execution is the same without a journal. What the language means is in
//! `serverledge-asl`; what the wire looks like in `http`.

pub mod definition;
pub mod error;
pub mod executions;
mod fault;
mod files;
pub mod handover;
pub mod history;
mod inputs;
pub mod invoke;
mod journal;
mod live;
mod nested;
mod objects;
pub mod original;
pub mod plain;
mod results;
mod run;
pub mod signature;
mod summary;
pub(crate) mod takeover;
mod task;
mod wake;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde_json::Value;
use serverledge_asl::{About, Dialect, Effect, Event, Execution, Limits, Start};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::TaskTracker;

use self::definition::{Catalog, Kind, OnCrash, Workflow};
use self::error::StartError;
use self::handover::Remote;
use self::handover::functions::Placing;
use self::handover::places::Places;
use self::history::Histories;
use self::inputs::Inputs;
use self::journal::{Entry, Journal};
use self::live::Live;
pub use self::run::Finished;
use self::run::{End, Input, Run};
pub use self::summary::Status;
use self::summary::Summary;
use self::takeover::{Published, Takeover};
use crate::config::Config;
use crate::detached::Detached;
use crate::federation::offload::Along;
use crate::node::Node;
use crate::store::Store;
use crate::store::executions::{Begin, Id};

pub use self::wake::run;

/// Executions that start each other, above one.
const NESTING_MAX: u32 = 16;
/// Longest name of an execution, characters.
const NAME_MAX: usize = 128;
/// Locks for names of executions that are being started.
const NAME_LOCKS: usize = 64;
/// Journals being read to take an execution up, or to show its history.
const READS_MAX: usize = 8;

/// The node's part for workflows.
#[derive(Debug)]
pub struct Workflows {
    /// What is registered.
    pub catalog: Catalog,
    pub(crate) live: Live,
    /// Held while a definition is changed, so that store and catalog agree.
    pub(crate) registering: tokio::sync::Mutex<()>,
    /// Held while an execution is started by name, by a hash of it.
    naming: Vec<tokio::sync::Mutex<()>>,
    /// Tasks being run.
    pub(crate) permits: Semaphore,
    /// Journals being read.
    pub(crate) reads: Semaphore,
    /// Histories that are being read.
    pub(crate) histories: Histories,
    /// Executions in memory.
    pub(crate) running: TaskTracker,
    /// Where tasks run.
    pub(crate) places: Places,
    /// Inputs of tasks that are written down.
    pub(crate) inputs: Option<Inputs>,
    /// To other nodes, to hand executions over.
    pub(crate) remote: Remote,
    /// So that executions go on when this node is gone, if that is wanted.
    pub(crate) takeover: Option<Arc<Takeover>>,
    /// In the ids of executions that begin here.
    mark: Id,
    /// Where chance comes from.
    random: std::fs::File,
}

impl Workflows {
    /// With what the store holds, on the node called `key`: all that has not ended is asleep until
    /// [`run`] begins.
    pub(crate) fn open(
        store: &Store,
        config: &Config,
        key: &str,
        takeover: Option<Arc<Takeover>>,
    ) -> anyhow::Result<Self> {
        let live = Live::default();
        store.visit_unfinished(|id, wake| live.put_to_sleep(id, wake))?;
        Ok(Self {
            catalog: Catalog::load(store, &config.workflow)?,
            live,
            registering: tokio::sync::Mutex::new(()),
            naming: std::iter::repeat_with(Default::default)
                .take(NAME_LOCKS)
                .collect(),
            permits: Semaphore::new(config.workflow.concurrency),
            reads: Semaphore::new(READS_MAX),
            histories: Histories::default(),
            running: TaskTracker::new(),
            places: Places::new(&config.placement)?,
            inputs: Inputs::new(config.workflow.inputs.as_deref())?,
            remote: Remote::new(),
            takeover,
            mark: takeover::mark(key),
            random: std::fs::File::open("/dev/urandom").context("opening /dev/urandom")?,
        })
    }

    /// Completes when no execution is in memory any more. The node must be stopping.
    pub(crate) async fn close(&self) {
        self.running.close();
        self.running.wait().await;
    }

    /// Bits that nobody can foresee: tokens are made of them. An error is the kernel's, and its kind
    /// has never been seen.
    fn random(&self) -> std::io::Result<u64> {
        let mut bytes = [0; 8];
        std::io::Read::read_exact(&mut &self.random, &mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// An identity for an execution that begins at a time, and a seed for it.
    fn identity(&self, at: i64) -> std::io::Result<(Id, u64)> {
        let chance = (u128::from(self.random()?) << 64) | u128::from(self.random()?);
        let time = Id::from(at.unsigned_abs()) << 80;
        let chance = chance >> (128 - takeover::CHANCE_BITS);
        let id = time | (self.mark << takeover::CHANCE_BITS) | chance;
        Ok((id, self.random()?))
    }

    pub(crate) async fn name_lock(
        &self,
        workflow: &str,
        name: &str,
    ) -> tokio::sync::MutexGuard<'_, ()> {
        use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((workflow, name));
        let at = usize::try_from(hash).unwrap_or(0) % self.naming.len();
        self.naming[at].lock().await
    }
}

/// How an execution is started.
#[derive(Debug, Clone, Default)]
pub struct StartOptions {
    /// Its name: starting one again by the same name gives the same execution.
    pub name: Option<String>,
    /// Standard or express, if not as the workflow declares.
    pub kind: Option<Kind>,
    /// Whether the replies of functions are wanted.
    pub reports: bool,
    /// Whether its tasks may run on other nodes.
    pub can_offload: bool,
    /// Executions above it.
    pub depth: u32,
    /// The execution that it repeats.
    pub retry_of: Option<String>,
    /// Whether it was decided already that its tasks run here.
    pub is_placed: bool,
    /// What goes along with its calls: its class, the response time wanted of all of it, its trace.
    pub(crate) along: Along,
    /// The asynchronous call that it answers.
    pub(crate) call: Option<String>,
    /// The execution that it descends from, if it was started by one.
    pub(crate) group: Option<Id>,
}

/// What the tasks of an execution know of it.
#[derive(Debug)]
pub(crate) struct Context {
    /// Its id, as the wire has it.
    pub(crate) id: String,
    pub(crate) on_crash: OnCrash,
    pub(crate) reports: bool,
    pub(crate) can_offload: bool,
    pub(crate) depth: u32,
    /// What goes along with its calls, as it was when it began.
    pub(crate) along: Along,
    /// When that was, in milliseconds since 1970.
    pub(crate) started: i64,
    /// What it is called.
    pub(crate) name: String,
    /// The execution that it descends from.
    pub(crate) group: Id,
    /// Its workflow's name.
    pub(crate) workflow: String,
    /// Where its functions go; `None`: nobody is asked.
    pub(crate) placing: Option<Placing>,
}

impl Context {
    /// What goes along with a call that is made now.
    pub(crate) fn along(&self) -> Along {
        let spent = clock().saturating_sub(self.started);
        self.along.after(spent as f64 / 1e3)
    }
}

/// An execution that was started, now or before.
#[derive(Debug)]
pub struct Started {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it began, in milliseconds since 1970.
    pub started: i64,
    /// How it is run.
    pub kind: Kind,
    waiting: Wait,
}

#[derive(Debug)]
enum Wait {
    Ended(Arc<Finished>),
    Coming(oneshot::Receiver<Arc<Finished>>),
}

impl Started {
    /// Waits for its end; `None` if the node stops first.
    pub async fn wait(self) -> Option<Arc<Finished>> {
        match self.waiting {
            Wait::Ended(finished) => Some(finished),
            Wait::Coming(receiver) => receiver.await.ok(),
        }
    }
}

/// Starts an execution. A standard one is on disk when this returns; an express one has ended.
///
/// Cancel safe: what has begun goes on.
pub async fn start(
    node: &Arc<Node>,
    workflow: &str,
    input: Value,
    options: StartOptions,
) -> Result<Started, StartError> {
    if options.depth > NESTING_MAX {
        return Err(StartError::Nesting(NESTING_MAX as usize));
    }
    let found = node.workflows.catalog.workflow(workflow);
    let workflow = found.ok_or_else(|| StartError::UnknownWorkflow(workflow.to_owned()))?;
    if options.name.as_deref().is_some_and(|name| !is_name(name)) {
        return Err(StartError::Name(NAME_MAX));
    }
    let kind = options.kind.unwrap_or(workflow.record.options.kind);
    let node = Arc::clone(node);
    Detached::new(async move {
        match kind {
            Kind::Express => express(&node, &workflow, input, options).await,
            Kind::Standard => standard(&node, &workflow, input, options).await,
        }
    })
    .await
}

/// Runs an execution in memory, to its end.
async fn express(
    node: &Arc<Node>,
    workflow: &Arc<Workflow>,
    input: Value,
    options: StartOptions,
) -> Result<Started, StartError> {
    let at = clock();
    let identity = node.workflows.identity(at).map_err(StartError::Chance)?;
    let id = identity.0;
    let (mut run, start) = prepare(node, workflow, identity, input, &options, None);
    let name = start.about.name.clone();
    let inputs = vec![Input::Event(Event::Started)];
    let (_sender, inbox) = tokio::sync::mpsc::unbounded_channel();
    let limit = node.config.workflow.express_timeout;
    run.execution = Execution::new(start);
    let ended = tokio::time::timeout(limit, run.drive(inbox, inputs)).await;
    let finished = match ended {
        Ok(End::Finished(finished)) => finished,
        // An express execution neither sleeps nor stays for the next start, and is nobody else's.
        Ok(End::Asleep | End::Left | End::Lost) | Err(_) => Finished {
            outcome: serverledge_asl::Outcome::TimedOut,
            reports: Vec::new(),
        },
    };
    Ok(Started {
        id: text_of(id),
        name,
        started: at,
        kind: Kind::Express,
        waiting: Wait::Ended(Arc::new(finished)),
    })
}

/// Writes an execution to disk and begins it.
async fn standard(
    node: &Arc<Node>,
    workflow: &Arc<Workflow>,
    input: Value,
    options: StartOptions,
) -> Result<Started, StartError> {
    let of = &workflow.record.name;
    // Only names can meet: others share commits of the store.
    let mut _guard = None;
    if let Some(name) = &options.name {
        _guard = Some(node.workflows.name_lock(of, name).await);
        if let Some(started) = executions::existing(node, of, name, &input)? {
            return Ok(started);
        }
        if let Some(call) = &options.call
            && !node.store.is_pending(call)?
        {
            // Another node has its execution, and answers it.
            return Err(StartError::ShuttingDown);
        }
    }
    if node.stopping().is_cancelled() {
        return Err(StartError::ShuttingDown);
    }
    let executions_max = node.config.workflow.executions_max;
    if node.workflows.live.count() >= executions_max {
        return Err(StartError::TooMany(executions_max));
    }
    let at = clock();
    let identity = node.workflows.identity(at).map_err(StartError::Chance)?;
    let id = identity.0;
    let journal = Arc::new(Journal::new(id, Arc::clone(&node.store), 1, None));
    let (mut run, start) = prepare(node, workflow, identity, input, &options, Some(journal));
    run.execution = Execution::new(start.clone());
    let name = start.about.name.clone();
    let mut entries = vec![Entry::Begun(Box::new(start))];
    let (stepped, effects) = run.step(vec![Input::Event(Event::Started)]).await;
    entries.extend(stepped);
    let wake = run.wake_now();
    run.wake = run::Known::As(wake);
    let sharing = node.workflows.takeover.as_ref();
    // What has ended already needs nobody to go on with it.
    let sharing = sharing.filter(|it| wake.is_some() && it.is_sharing());
    run.summary.is_shared = sharing.is_some();
    let begin = Begin {
        id,
        workflow: workflow.record.name.clone(),
        name: name.clone(),
        is_named: options.name.is_some(),
        digest: workflow.digest.clone(),
        standing: run.stands(wake),
        record: journal::encode(&entries)?,
    };
    fault::before_write();
    match sharing {
        None => node.store.begin_execution(begin).await?,
        Some(takeover) => begin_shared(node, takeover, begin, &mut run).await?,
    }
    fault::after_write();
    Ok(Started {
        id: text_of(id),
        name,
        started: at,
        kind: Kind::Standard,
        waiting: go_on(node, run, effects)?,
    })
}

/// Lets an execution that has been written go on.
fn go_on(node: &Arc<Node>, mut run: Run, effects: Vec<Effect>) -> Result<Wait, StartError> {
    if let Some(End::Finished(finished)) = run.carry_out(effects) {
        return Ok(Wait::Ended(Arc::new(finished)));
    }
    let inbox = node.workflows.live.insert(run.id);
    let ended = node.workflows.live.wait(run.id);
    wake::spawn(run, inbox, Vec::new());
    Ok(Wait::Coming(ended.ok_or(StartError::ShuttingDown)?))
}

/// Writes a new execution to disk, and to where other nodes find it.
async fn begin_shared(
    node: &Arc<Node>,
    takeover: &Arc<Takeover>,
    begin: Begin,
    run: &mut Run,
) -> Result<(), StartError> {
    let definition = node.store.definition(&begin.digest)?;
    let (workflow, name, digest) = (
        begin.workflow.clone(),
        begin.name.clone(),
        begin.digest.clone(),
    );
    let record = begin.record.clone();
    let published = Published {
        workflow: &workflow,
        name: &name,
        is_named: begin.is_named,
        digest: &digest,
        definition: definition.as_deref().unwrap_or_default(),
        summary: &run.summary,
    };
    let (id, local) = (begin.id, node.store.begin_execution(begin));
    let (local, copy) = tokio::join!(local, takeover.publish(id, published, &record));
    if let Err(error) = local {
        copy.release();
        return Err(error.into());
    }
    if copy.epoch().is_none() {
        run.summary.is_shared = false;
        let marked = node.store.mark_execution(id, run.summary.encode()).await;
        if let Err(error) = marked {
            // The next start looks for it in etcd in vain, and goes on.
            let error = crate::chain(&error);
            tracing::warn!(execution = text_of(id), error, "it could not be marked");
        }
    }
    run.journal = Some(Arc::new(Journal::new(
        id,
        Arc::clone(&node.store),
        1,
        Some(copy),
    )));
    Ok(())
}

/// A run that has not begun, and what its interpreter is to be started with.
fn prepare(
    node: &Arc<Node>,
    workflow: &Workflow,
    (id, seed): (Id, u64),
    input: Value,
    options: &StartOptions,
    journal: Option<Arc<Journal>>,
) -> (Run, Start) {
    let text = text_of(id);
    let on_crash = workflow.record.options.on_crash;
    let start = Start {
        about: About {
            id: text.clone(),
            name: options.name.clone().unwrap_or_else(|| text.clone()),
            role: String::new(),
            machine_id: workflow.record.name.clone(),
            machine_name: workflow.record.name.clone(),
            redrives: 0,
        },
        input,
        dialect: Dialect::Aws,
        limits: Limits::default(),
        seed,
        tokens: format!("{text}-"),
    };
    let summary = Summary {
        started: clock(),
        node: node.identity.key.clone(),
        on_crash,
        depth: options.depth,
        retry_of: options.retry_of.clone(),
        can_offload: options.can_offload,
        qos_class: options.along.qos_class.clone(),
        response_time_max: options.along.response_time_max,
        trace: options.along.kept_trace(),
        call: options.call.clone(),
        group: options.group.map(text_of),
        ..Summary::default()
    };
    let may_place = options.can_offload && !options.is_placed;
    let context = Context {
        id: text,
        on_crash,
        reports: options.reports,
        can_offload: options.can_offload,
        depth: options.depth,
        along: options.along.clone(),
        started: summary.started,
        name: start.about.name.clone(),
        group: summary.group(id),
        workflow: workflow.record.name.clone(),
        placing: node.workflows.places.placing(may_place),
    };
    let run = Run::new(
        Arc::clone(node),
        id,
        Arc::clone(&workflow.machine),
        Execution::new(Start::default()),
        (context, summary, journal),
    );
    (run, start)
}

/// Whether an execution may be called so.
fn is_name(name: &str) -> bool {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && name.len() <= NAME_MAX && name.chars().all(is_good)
}

/// An id as the wire has it.
pub(crate) fn text_of(id: Id) -> String {
    format!("{id:032x}")
}

/// An id from the wire.
pub(crate) fn id_of(text: &str) -> Option<Id> {
    let is_id = text.len() == 32
        && text
            .bytes()
            .all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
    Id::from_str_radix(text, 16).ok().filter(|_| is_id)
}

/// Milliseconds since 1970.
pub(crate) fn clock() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}
