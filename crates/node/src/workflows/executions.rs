//! Executions as others see them: found, listed, shown, waited for, stopped, gone on with.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use serverledge_asl::{Event, Outcome, Start};
use tokio::sync::oneshot;

use super::definition::Kind;
use super::error::{RunError, StartError};
use super::journal::{self, Entry};
use super::live::Sent;
pub(crate) use super::run::Callback;
use super::run::{Finished, Input, Message};
use super::summary::{Status, Summary};
use super::wake::{self, take_up};
use super::{StartOptions, Started, Wait, id_of, start, text_of};
use crate::node::Node;
use crate::store::executions::{Id, Stored, Wanted};

/// How long an execution may take to answer, which includes reading its journal.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Largest page of executions or events.
pub const PAGE_MAX: usize = 1_000;

/// An execution, as it stands.
#[derive(Debug)]
pub struct Description {
    /// Its id.
    pub id: String,
    /// Of which workflow.
    pub workflow: String,
    /// Its name.
    pub name: String,
    /// How it stands.
    pub status: Status,
    /// When it began, in milliseconds since 1970.
    pub started: i64,
    /// When it ended.
    pub stopped: Option<i64>,
    /// How often it was redriven.
    pub redrives: u32,
    /// The execution that it repeats.
    pub retry_of: Option<String>,
    /// What it began with; not in lists.
    pub input: Option<Value>,
    /// How it ended; not in lists.
    pub outcome: Option<Outcome>,
    /// The node that runs it, or has ended it.
    pub node: String,
    /// How often it was taken up by a node after another, or the same, had died.
    pub epoch: u64,
    /// Why it stands still, or doesn't go on elsewhere when its node dies.
    pub note: Option<String>,
}

impl Description {
    fn of(stored: Stored) -> Self {
        let summary = Summary::decode(&stored.summary);
        Self {
            id: text_of(stored.id),
            workflow: stored.workflow,
            name: stored.name,
            status: Status::of_number(stored.status),
            started: summary.started,
            stopped: summary.stopped,
            redrives: summary.redrives,
            retry_of: summary.retry_of,
            input: None,
            outcome: None,
            node: summary.node,
            epoch: summary.epoch,
            note: None,
        }
    }
}

/// Which executions are wanted.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Those of this workflow.
    pub workflow: Option<String>,
    /// Those that stand so.
    pub status: Option<Status>,
    /// Those that are older than this one.
    pub after: Option<String>,
    /// So many at most.
    pub limit: usize,
}

/// A page of executions, the newest first, and what to go on after.
pub fn list(node: &Node, filter: Filter) -> Result<(Vec<Description>, Option<String>), RunError> {
    let before = match &filter.after {
        Some(after) => Some(id_of(after).ok_or(RunError::Unknown)?),
        None => None,
    };
    let wanted = Wanted {
        workflow: filter.workflow,
        status: filter.status.map(Status::number),
        before,
        limit: filter.limit.clamp(1, PAGE_MAX),
    };
    let (found, next) = node.store.executions(&wanted)?;
    let found = found.into_iter().map(Description::of).collect();
    Ok((found, next.map(text_of)))
}

/// An execution as it stands.
pub fn describe(node: &Node, id: &str) -> Result<Description, RunError> {
    let id = id_of(id).ok_or(RunError::Unknown)?;
    let stored = node.store.execution(id)?.ok_or(RunError::Unknown)?;
    let takeover = node.workflows.takeover.as_ref();
    let note = takeover.and_then(|it| it.note(id, &Summary::decode(&stored.summary)));
    let mut description = Description::of(stored);
    description.note = note;
    description.input = Some(beginning(node, id)?.input);
    if description.status != Status::Running {
        description.outcome = outcome(node, id)?;
    }
    Ok(description)
}

/// As [`describe`], after the execution's end or after a time, whatever is sooner.
pub async fn wait(node: &Node, id: &str, time: Duration) -> Result<Description, RunError> {
    let number = id_of(id).ok_or(RunError::Unknown)?;
    if !time.is_zero()
        && let Some(ended) = node.workflows.live.wait(number)
    {
        let ended = tokio::time::timeout(time, ended);
        let _ = node.stopping().run_until_cancelled(ended).await;
    }
    describe(node, id)
}

/// What an execution began with.
fn beginning(node: &Node, id: Id) -> Result<Start, RunError> {
    let record = node.store.journal_first(id)?.ok_or(RunError::Unknown)?;
    let begun = journal::decode(&record)?.into_iter().next();
    match begun {
        Some(Entry::Begun(start)) => Ok(*start),
        _ => Err(RunError::Journal("it has no beginning".to_owned())),
    }
}

/// How an execution ended.
fn outcome(node: &Node, id: Id) -> Result<Option<Outcome>, RunError> {
    let ended = |record: &[u8]| {
        let entries = journal::decode(record).ok()?;
        entries.into_iter().rev().find_map(|entry| match entry {
            Entry::Ended { outcome, .. } => Some(outcome),
            _ => None,
        })
    };
    Ok(node.store.journal_last(id, ended)?)
}

/// The end of an execution that has ended.
pub(crate) fn ended(node: &Node, id: Id) -> Result<Option<Arc<Finished>>, RunError> {
    let stored = node.store.execution(id)?;
    if stored.is_none_or(|stored| stored.status == Status::Running.number()) {
        return Ok(None);
    }
    let finished = outcome(node, id)?.map(|outcome| Finished {
        outcome,
        reports: Vec::new(),
    });
    Ok(finished.map(Arc::new))
}

/// The execution of that name, if there is one; an error if it has another input.
pub(super) fn existing(
    node: &Node,
    workflow: &str,
    name: &str,
    input: &Value,
) -> Result<Option<Started>, StartError> {
    let Some(id) = node.store.execution_named(workflow, name)? else {
        return Ok(None);
    };
    let begun = beginning(node, id).map_err(StartError::Existing)?;
    if begun.input != *input {
        return Err(StartError::Conflict {
            workflow: workflow.to_owned(),
            name: name.to_owned(),
        });
    }
    let description = describe(node, &text_of(id)).map_err(StartError::Existing)?;
    let waiting = match node.workflows.live.wait(id) {
        Some(ended) => Wait::Coming(ended),
        // It has ended, maybe a moment ago.
        None => {
            let ended = ended(node, id).map_err(StartError::Existing)?;
            Wait::Ended(ended.ok_or(StartError::Existing(RunError::Unknown))?)
        }
    };
    Ok(Some(Started {
        id: text_of(id),
        name: name.to_owned(),
        started: description.started,
        kind: Kind::Standard,
        waiting,
    }))
}

/// Stops an execution; one that has ended stays as it is.
pub async fn stop(
    node: &Arc<Node>,
    id: &str,
    error: Option<String>,
    cause: Option<String>,
) -> Result<Description, RunError> {
    let number = id_of(id).ok_or(RunError::Unknown)?;
    let (answer, answered) = oneshot::channel();
    let message = Message::Stop {
        error,
        cause,
        answer,
    };
    let mut is_heard = true;
    if send(node, number, message) {
        // An execution that ends meanwhile doesn't answer any more.
        let answered = tokio::time::timeout(ANSWER_MAX, answered).await;
        is_heard = answered.map_err(|_| RunError::Silent(ANSWER_MAX))?.is_ok();
    }
    let description = describe(node, id)?;
    match is_heard || description.status != Status::Running {
        true => Ok(description),
        false => Err(unheard(node)),
    }
}

/// Hands what was said with a token to the task that waits for it.
pub(crate) async fn callback(
    node: &Arc<Node>,
    token: &str,
    what: Callback,
) -> Result<(), RunError> {
    // Tokens begin with the execution.
    let id = token.get(..32).and_then(id_of);
    let id = id.ok_or(RunError::UnknownToken)?;
    let (answer, answered) = oneshot::channel();
    let token = token.to_owned();
    let message = Message::Callback {
        token,
        what,
        answer,
    };
    if !send(node, id, message) {
        return Err(RunError::UnknownToken);
    }
    match tokio::time::timeout(ANSWER_MAX, answered).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(RunError::UnknownToken),
        // It has ended meanwhile, or can't go on.
        Ok(Err(_)) => match describe(node, &text_of(id)) {
            Ok(description) if description.status == Status::Running => Err(unheard(node)),
            _ => Err(RunError::UnknownToken),
        },
        Err(_) => Err(RunError::Silent(ANSWER_MAX)),
    }
}

/// Why an execution that has not ended takes no message.
fn unheard(node: &Node) -> RunError {
    match node.stopping().is_cancelled() {
        true => RunError::ShuttingDown,
        false => RunError::Away,
    }
}

/// Sends an execution a message, in memory or not. `false` if it isn't under way.
pub(crate) fn send(node: &Arc<Node>, id: Id, message: Message) -> bool {
    match node.workflows.live.send(id, message) {
        Sent::Unknown => false,
        Sent::Delivered => true,
        Sent::Wakes(inbox) => {
            take_up(node, id, inbox);
            true
        }
    }
}

/// Lets an execution that failed, timed out or was stopped go on from there: what has ended well is
/// not run again.
pub async fn redrive(node: &Arc<Node>, id: &str) -> Result<Description, RunError> {
    let number = id_of(id).ok_or(RunError::Unknown)?;
    if node.stopping().is_cancelled() {
        return Err(RunError::ShuttingDown);
    }
    let _guard = node.workflows.name_lock("", id).await;
    let _permit = node.workflows.reads.acquire().await;
    let this = Arc::clone(node);
    let read = tokio::task::spawn_blocking(move || wake::read(&this, number, None)).await;
    let read = read.map_err(|_| RunError::Journal("reading it failed".to_owned()))?;
    let mut run = read?.ok_or(RunError::Unknown)?;
    match run.summary.status {
        Status::Running => return Err(RunError::NotRedrivable("the execution has not ended")),
        Status::Succeeded => return Err(RunError::NotRedrivable("the execution has succeeded")),
        Status::Failed | Status::TimedOut | Status::Aborted => {}
    }
    if !run.execution.is_redrivable() {
        let why = "the execution reached a limit that it would reach again";
        return Err(RunError::NotRedrivable(why));
    }
    let inbox = node.workflows.live.revive(number);
    let inbox = inbox.ok_or(RunError::NotRedrivable("the execution has not ended"))?;
    run.summary.reopen();
    // Others had no need of it any more: until it is next read from disk, it is this node's alone.
    run.summary.is_shared = false;
    let (answer, answered) = oneshot::channel();
    run.answers.push(Box::new(move || {
        let _ = answer.send(());
    }));
    wake::spawn(run, inbox, vec![Input::Event(Event::Redriven)]);
    match tokio::time::timeout(ANSWER_MAX, answered).await {
        Ok(_) => describe(node, id),
        Err(_) => Err(RunError::Silent(ANSWER_MAX)),
    }
}

/// Starts an execution anew: another one, of the workflow as it is now, with the same input.
pub async fn retry(
    node: &Arc<Node>,
    id: &str,
    name: Option<String>,
) -> Result<Started, RetryError> {
    let number = id_of(id).ok_or(RunError::Unknown)?;
    let stored = node.store.execution(number).map_err(RunError::from)?;
    let stored = stored.ok_or(RunError::Unknown)?;
    let summary = Summary::decode(&stored.summary);
    let input = beginning(node, number)?.input;
    let options = StartOptions {
        name,
        kind: Some(Kind::Standard),
        can_offload: summary.can_offload,
        depth: summary.depth,
        retry_of: Some(id.to_owned()),
        along: summary.along(node),
        ..StartOptions::default()
    };
    Ok(start(node, &stored.workflow, input, options).await?)
}

/// Why an execution was not repeated.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// It can't be found or read.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Another could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
}
