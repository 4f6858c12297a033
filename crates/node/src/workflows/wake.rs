//! Executions that are taken up: at the node's start, when their time has come, when somebody has
//! something for them.

use std::sync::Arc;
use std::time::Duration;

use serverledge_asl::Outcome;
use tracing::{error, info, warn};

use super::error::RunError;
use super::journal::{self, Entry, Journal};
use super::live::Inbox;
use super::run::{End, Finished, Input, Run};
use super::summary::{Status, Summary};
use super::takeover::{self, Copy, Whose};
use super::{Context, clock, text_of};
use crate::node::Node;
use crate::store::StoreError;
use crate::store::executions::{Append, Id};

/// Until an execution that could not be taken up is tried again, milliseconds.
const AGAIN_AFTER: i64 = 5_000;
/// The longest sleep between two looks at the clock.
const NAP_MAX: Duration = Duration::from_secs(60);
/// Number of a journal's record after one that can't be read.
const AFTER_ALL: u64 = 1 << 62;

/// Wakes executions when their time has come, until the node stops. At its start that is all of
/// those that had something to do when it ended.
pub async fn run(node: Arc<Node>) {
    let live = &node.workflows.live;
    let waiting = live.count();
    if waiting > 0 {
        info!(executions = waiting, "workflows go on");
    }
    let wakes = async {
        loop {
            // One at a time and only as fast as they are read, so that many don't crowd memory.
            if let Ok(permit) = node.workflows.reads.acquire().await {
                drop(permit);
            }
            if let Some((id, inbox)) = live.due(clock()) {
                take_up(&node, id, inbox);
                tokio::task::yield_now().await;
                continue;
            }
            let span = live.next_due().map_or(NAP_MAX, |when| {
                let span = u64::try_from(when.saturating_sub(clock())).unwrap_or(0);
                Duration::from_millis(span).min(NAP_MAX)
            });
            tokio::select! {
                () = live.changed() => {}
                () = tokio::time::sleep(span) => {}
            }
        }
    };
    node.stopping().run_until_cancelled(wakes).await;
}

/// Has an execution read from disk and run on.
pub(crate) fn take_up(node: &Arc<Node>, id: Id, inbox: Inbox) {
    let this = Arc::clone(node);
    node.workflows.running.spawn(async move {
        let mut guard = Guard::new(&this, id);
        match load(&this, id).await {
            Ok(Loaded::Run(run, inputs)) => drive(*run, inbox, inputs, &mut guard).await,
            Ok(Loaded::Ended) => guard.forget(),
            Ok(Loaded::Lost) => guard.lose().await,
            Err(error) => guard.fail(&error).await,
        }
    });
}

/// Runs an execution that is in memory already.
pub(crate) fn spawn(run: Run, inbox: Inbox, first: Vec<Input>) {
    let node = Arc::clone(&run.node);
    let id = run.id;
    let running = node.workflows.running.clone();
    running.spawn(async move {
        let mut guard = Guard::new(&node, id);
        drive(run, inbox, first, &mut guard).await;
    });
}

async fn drive(run: Run, inbox: Inbox, first: Vec<Input>, guard: &mut Guard<'_>) {
    let (id, node) = (run.id, Arc::clone(&run.node));
    let journal = run.journal.clone();
    let summary = run.summary.clone();
    match run.drive(inbox, first).await {
        End::Lost => guard.lose().await,
        end => {
            if matches!(end, End::Finished(_)) {
                answer_call(&node, id, &summary).await;
                release(journal.as_deref());
            }
            guard.settle(end);
        }
    }
}

/// An execution has ended, or has not begun: others needn't know of it any more.
pub(crate) fn release(journal: Option<&Journal>) {
    if let Some(copy) = journal.and_then(Journal::copy) {
        copy.clone().release();
    }
}

/// Answers the asynchronous call that an execution was begun for at a node that is gone.
pub(crate) async fn answer_call(node: &Arc<Node>, id: Id, summary: &Summary) {
    let Some(call) = summary.call.as_deref().filter(|_| summary.has_moved) else {
        return;
    };
    let answered = async {
        let Some(finished) = super::executions::ended(node, id)? else {
            return Ok(());
        };
        let took = clock().saturating_sub(summary.started);
        let took = Duration::from_millis(u64::try_from(took).unwrap_or(0));
        let reply = super::invoke::answer(super::invoke::reply(&finished, took));
        node.async_calls.answer(node, call, reply).await?;
        Ok::<(), RunError>(())
    };
    if let Err(error) = answered.await {
        let error = crate::chain(&error);
        warn!(call, error, "the result of a call could not be stored");
    }
}

/// Sees to it that an execution whose task ends, however it does, is either over or asleep.
struct Guard<'a> {
    node: &'a Arc<Node>,
    id: Id,
    is_settled: bool,
}

impl<'a> Guard<'a> {
    fn new(node: &'a Arc<Node>, id: Id) -> Self {
        Self {
            node,
            id,
            is_settled: false,
        }
    }

    fn settle(&mut self, end: End) {
        self.is_settled = true;
        let live = &self.node.workflows.live;
        match end {
            End::Finished(finished) => live.finish(self.id, &Arc::new(finished)),
            End::Asleep => {}
            End::Left | End::Lost => live.put_to_sleep(self.id, super::live::NEVER),
        }
    }

    /// Another node has it.
    async fn lose(&mut self) {
        match takeover::forget(self.node, self.id).await {
            Ok(()) => self.is_settled = true,
            // It is tried again, as it is asleep then.
            Err(error) => {
                let error = crate::chain(&error);
                warn!(
                    execution = text_of(self.id),
                    error, "it could not be removed"
                );
            }
        }
    }

    fn forget(&mut self) {
        self.is_settled = true;
        let live = &self.node.workflows.live;
        match super::executions::ended(self.node, self.id) {
            Ok(Some(finished)) => live.finish(self.id, &finished),
            _ => live.drop_unknown(self.id),
        }
    }

    /// It could not be read: later, or never.
    async fn fail(&mut self, error: &RunError) {
        let id = text_of(self.id);
        let reason = crate::chain(error);
        if matches!(error, RunError::Away) {
            self.settle(End::Left);
            if let Some(takeover) = &self.node.workflows.takeover {
                takeover.set_paused(self.id);
            }
            return;
        }
        let is_final = matches!(error, RunError::Definition | RunError::Journal(_));
        if !is_final {
            warn!(
                execution = id,
                error = reason,
                "an execution could not be taken up"
            );
            return;
        }
        error!(execution = id, error = reason, "an execution is lost");
        let outcome = Outcome::Failed {
            error: Some("States.Runtime".to_owned()),
            cause: Some(reason),
        };
        match give_up(self.node, self.id, &outcome).await {
            Ok(()) => {
                if let Some(takeover) = &self.node.workflows.takeover {
                    takeover.release(self.id);
                }
                let reports = Vec::new();
                self.settle(End::Finished(Finished { outcome, reports }));
            }
            Err(error) => warn!(execution = id, error = %crate::chain(&error), "it stays"),
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            let live = &self.node.workflows.live;
            live.put_to_sleep(self.id, clock().saturating_add(AGAIN_AFTER));
        }
    }
}

/// Writes that an execution whose journal can't be read has failed.
async fn give_up(node: &Arc<Node>, id: Id, outcome: &Outcome) -> Result<(), StoreError> {
    let Some(stored) = node.store.execution(id)? else {
        return Ok(());
    };
    let at = clock();
    let mut summary = Summary::decode(&stored.summary);
    summary.ended(outcome, at);
    let retention = node.config.workflow.retention.as_secs();
    let standing = crate::store::executions::Standing {
        status: summary.status.number(),
        summary: summary.encode(),
        wake: None,
        expires_unix: (at / 1_000).unsigned_abs() + retention,
    };
    let ended = Entry::Ended {
        at,
        outcome: outcome.clone(),
    };
    let append = Append {
        id,
        sequence: AFTER_ALL,
        record: journal::encode(&[ended])?,
        standing: Some(standing),
    };
    node.store.append_journal(append).await
}

/// What taking an execution up from disk comes to.
enum Loaded {
    /// It goes on, and is to be given this first.
    Run(Box<Run>, Vec<Input>),
    Ended,
    /// Another node has it.
    Lost,
}

/// An execution as its journal has it.
async fn load(node: &Arc<Node>, id: Id) -> Result<Loaded, RunError> {
    let _permit = node.workflows.reads.acquire().await;
    let copy = match whose(node, id).await? {
        Whose::Mine(copy) => copy,
        Whose::Lost => return Ok(Loaded::Lost),
    };
    let epoch = copy.as_ref().and_then(Copy::epoch);
    let this = Arc::clone(node);
    let read = tokio::task::spawn_blocking(move || read(&this, id, copy)).await;
    let read = read.map_err(|_| RunError::Journal("reading it failed".to_owned()))?;
    let Some(mut run) = read?.filter(|run| run.summary.status == Status::Running) else {
        return Ok(Loaded::Ended);
    };
    let mut inputs = run.recover();
    let is_under_way = run.pending.values().any(|task| !task.submitted);
    if is_under_way {
        run.summary.node.clone_from(&node.identity.key);
        inputs.insert(0, Input::Recovered);
    }
    match epoch {
        Some(epoch) => {
            run.summary.is_shared = true;
            run.summary.epoch = epoch;
        }
        None if is_under_way => run.summary.epoch += 1,
        None => {}
    }
    Ok(Loaded::Run(Box::new(run), inputs))
}

/// Whose an execution on this node's disk is.
pub(crate) async fn whose(node: &Arc<Node>, id: Id) -> Result<Whose, RunError> {
    let Some(takeover) = &node.workflows.takeover else {
        return Ok(Whose::Mine(None));
    };
    match node.store.execution(id)? {
        Some(stored) => takeover::hold(node, takeover, &stored).await,
        None => Ok(Whose::Mine(None)),
    }
}

/// An execution as its journal has it, ended or not. Takes as long as it has computed.
pub(crate) fn read(node: &Arc<Node>, id: Id, copy: Option<Copy>) -> Result<Option<Run>, RunError> {
    let Some(stored) = node.store.execution(id)? else {
        return Ok(None);
    };
    let machine = node
        .workflows
        .catalog
        .machine(&node.store, &stored.digest)?;
    let replayed = journal::replay(&node.store, &machine, id)?;
    let summary = Summary::decode(&stored.summary);
    let context = Context {
        id: text_of(id),
        on_crash: summary.on_crash,
        reports: false,
        can_offload: summary.can_offload,
        depth: summary.depth,
        along: summary.along(node),
        started: summary.started,
        name: stored.name.clone(),
        group: summary.group(id),
        placing: node.workflows.places.placing(summary.can_offload),
        workflow: stored.workflow.clone(),
    };
    let journal = Journal::new(id, Arc::clone(&node.store), replayed.next, copy);
    let journal = Some(Arc::new(journal));
    let mut run = Run::new(
        Arc::clone(node),
        id,
        machine,
        replayed.execution,
        (context, summary, journal),
    );
    run.pending = replayed.pending;
    run.last = replayed.last;
    Ok(Some(run))
}
