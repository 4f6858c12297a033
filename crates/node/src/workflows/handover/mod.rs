//! Executions that go from node to node, by the original's protocol: progress and data in etcd, a
//! plan of tasks in the request.
//!
//! One task is run at a time, as a slice of the definition; before each the policy says whether it
//! runs here or is handed over with others. The node that took the request stays in charge: it waits
//! for who carries out a plan, and goes on from there. What can't be handed over runs here. What
//! may have begun elsewhere is not begun again: that ends in an error, with the progress kept for
//! whoever wants to resume the execution.
//!
//! Not here: executions in which nothing is handed over, which the interpreter runs as a whole
//! (`run`), and where the single tasks of those go (`places`).

mod error;
pub(crate) mod functions;
mod graph;
mod means;
mod optimizer;
pub(crate) mod places;
mod progress;
mod remote;
mod slice;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use serverledge_api::{
    InvokeReply, Plan as PlanRequest, QosClass, ResumeWorkflow, SerializedWorkflow, TaskReport,
    WorkflowReply,
};
use serverledge_asl::{Outcome, check_value};
use serverledge_core::placement::{Kind as TaskKind, Plan};
use tracing::{debug, warn};

pub use self::error::HandoverError;
use self::graph::Graph;
use self::places::{Chosen, Question};
use self::progress::{Kept, Progress, Status, is_id};
use self::remote::Sent;
use super::definition::Workflow;
use super::original::serialized as form;
use super::{StartOptions, express};
use crate::federation::etcd::Etcd;
use crate::federation::offload::Along;
use crate::federation::{Federation, Member};
use crate::node::Node;

pub(crate) use self::means::run as dump;
pub(crate) use self::remote::Remote;

/// What an answer may take beside the remote's own time.
const ALLOWANCE: Duration = Duration::from_secs(60);

/// An execution to be run here, from its beginning or from where it is.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Its id.
    pub(crate) req_id: String,
    /// What it was started with.
    pub(crate) params: Value,
    /// Its class, and what was left of the wanted response time when it arrived.
    pub(crate) along: Along,
    /// Whether other nodes may run parts of it.
    pub(crate) can_offload: bool,
    /// When it arrived.
    pub(crate) arrival: Instant,
    /// To go on with what is in etcd, with these tasks only, if it says which.
    pub(crate) resume: Option<PlanRequest>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Executed {
    /// The workflow's output; `None` where the plan ended before the workflow did.
    pub(crate) result: Option<Value>,
    /// Of functions, by task.
    pub(crate) reports: BTreeMap<String, TaskReport>,
    /// Time spent on deciding where tasks run.
    pub(crate) scheduling: Duration,
}

/// Whether executions of a workflow go this way: it is wanted, there is an etcd, and the workflow has
/// the original's form, so that every node of the fleet can go on with it.
pub(crate) fn applies(node: &Node, workflow: &Workflow, can_offload: bool) -> bool {
    let is_wanted = can_offload && node.workflows.places.is_on();
    (is_wanted || node.config.workflow.always_save_progress)
        && node
            .federation
            .as_ref()
            .is_some_and(|it| it.etcd().is_some())
        && form(node, &workflow.record).is_some()
}

/// Runs an execution to its end, or as far as the plan goes.
pub(crate) async fn execute(
    node: &Arc<Node>,
    workflow: &Arc<Workflow>,
    request: Request,
) -> Result<Executed, HandoverError> {
    let federation = node.federation.as_ref();
    let etcd = federation.and_then(Federation::etcd);
    let etcd = etcd.ok_or(HandoverError::NoFleet)?;
    let form = form(node, &workflow.record).ok_or(HandoverError::NoForm)?;
    if !is_id(&request.req_id) {
        return Err(HandoverError::Id);
    }
    let mut handover = Handover::new(node, workflow, etcd, &form, request)?;
    if handover.request.resume.is_some() {
        handover.take_over().await?;
    }
    let result = match handover.run().await {
        Err(error) if error.is_full() => {
            handover.give_back().await;
            return Err(error);
        }
        result => result?,
    };
    Ok(Executed {
        result,
        reports: handover.reports,
        scheduling: handover.scheduling,
    })
}

/// An execution in this node's hands.
struct Handover<'a> {
    node: &'a Arc<Node>,
    workflow: &'a Arc<Workflow>,
    definition: Value,
    graph: Graph,
    start: String,
    end: String,
    request: Request,
    progress: Progress,
    kept: Kept<'a>,
    /// Outputs that are known here.
    outputs: BTreeMap<String, Value>,
    plan: Plan,
    /// Nodes that could not take it.
    shunned: BTreeSet<String>,
    reports: BTreeMap<String, TaskReport>,
    scheduling: Duration,
}

/// What became of handing over.
enum Handed {
    /// It has ended there.
    Ended(Value),
    /// It goes on here.
    Back,
}

impl<'a> Handover<'a> {
    fn new(
        node: &'a Arc<Node>,
        workflow: &'a Arc<Workflow>,
        etcd: &'a Etcd,
        form: &SerializedWorkflow,
        request: Request,
    ) -> Result<Self, HandoverError> {
        let graph = Graph::of_original(form);
        let id = |task: &Option<serverledge_api::WorkflowTask>| {
            let id = task.as_ref().map(|task| task.id.clone());
            id.filter(|id| graph.index(id).is_some())
                .ok_or(HandoverError::NoForm)
        };
        let (start, end) = (id(&form.start)?, id(&form.end)?);
        let pending = graph
            .tasks
            .iter()
            .map(|task| (task.id.clone(), Status::Pending));
        Ok(Self {
            node,
            workflow,
            definition: workflow.definition(&node.config.workflow),
            progress: Progress {
                req_id: request.req_id.clone(),
                status: pending.collect(),
                ready: vec![start.clone()],
                epoch: None,
            },
            kept: Kept::new(etcd, &request.req_id),
            outputs: BTreeMap::new(),
            plan: Plan::default(),
            shunned: BTreeSet::new(),
            reports: BTreeMap::new(),
            scheduling: Duration::ZERO,
            graph,
            start,
            end,
            request,
        })
    }

    /// Makes what is in etcd this node's.
    async fn take_over(&mut self) -> Result<(), HandoverError> {
        let mut progress = self.kept.load().await?;
        let wanted = self.request.resume.as_ref().and_then(|plan| plan.epoch);
        if wanted.is_some() && wanted != progress.epoch {
            return Err(HandoverError::Superseded(self.request.req_id.clone()));
        }
        self.check(&progress)?;
        self.kept.claim(&mut progress).await?;
        self.progress = progress;
        Ok(())
    }

    /// Whether it can go on from there: something is ready, and is a task of this workflow.
    fn check(&self, progress: &Progress) -> Result<(), HandoverError> {
        let unknown = progress
            .ready
            .iter()
            .find(|id| self.graph.index(id).is_none());
        match unknown {
            Some(id) => Err(HandoverError::OtherForm(id.clone())),
            None if progress.ready.is_empty() => {
                Err(HandoverError::NothingReady(self.request.req_id.clone()))
            }
            None => Ok(()),
        }
    }

    /// There was no room here, and nothing has begun: who has handed it over can go on with it.
    async fn give_back(&mut self) {
        let wanted = self.request.resume.as_ref().and_then(|plan| plan.epoch);
        if wanted.is_some() && self.outputs.is_empty() {
            self.progress.epoch = wanted;
            // Otherwise it can't, and says so.
            let _ = self.kept.save(&self.progress, &[]).await;
        }
    }

    async fn run(&mut self) -> Result<Option<Value>, HandoverError> {
        let is_remote = self.request.resume.is_some();
        loop {
            let chosen = self.choose().await;
            if let Chosen::There { key, member, tasks } = chosen {
                match self.hand_over(&key, &member, tasks).await? {
                    Handed::Ended(result) => {
                        self.clean().await;
                        return Ok(Some(result));
                    }
                    Handed::Back => continue,
                }
            }
            let Some(task) = self.next_task() else {
                self.save().await?;
                return Ok(None);
            };
            if self.node.config.workflow.always_save_progress {
                self.save().await?;
            } else if is_remote {
                // Who has lost it must not run another task.
                self.kept.check().await?;
            }
            let output = self.step(&task).await?;
            if self.progress.ready.is_empty() {
                self.kept.end().await?;
                self.clean().await;
                return Ok(Some(output));
            }
        }
    }

    /// Asks the policy about what is ready.
    async fn choose(&mut self) -> Chosen {
        let places = &self.node.workflows.places;
        if !self.request.can_offload {
            return Chosen::Here;
        }
        let began = Instant::now();
        let elapsed = self.request.arrival.elapsed().as_secs_f64();
        let is_left = |id: &str| self.progress.status.get(id) == Some(&Status::Pending);
        let tasks = self.graph.tasks.iter().enumerate();
        let question = Question {
            workflow: &self.workflow.record.name,
            graph: &self.graph,
            left: tasks
                .filter(|(_, task)| is_left(&task.id))
                .map(|(at, _)| at)
                .collect(),
            ready: &self.progress.ready,
            input_bytes: self.request.params.to_string().len() as f64,
            // Without one this is negative, as the original has it.
            deadline: self.request.along.response_time_max.max(0.0) - elapsed,
            shunned: &self.shunned,
        };
        let chosen = places.choose(self.node, &question, &mut self.plan).await;
        self.scheduling += began.elapsed();
        chosen
    }

    /// The last task that is ready and in the plan.
    fn next_task(&self) -> Option<String> {
        let plan = self.request.resume.as_ref();
        let allowed = plan.and_then(|plan| plan.to_execute.as_ref());
        let mut ready = self.progress.ready.iter().rev();
        ready
            .find(|task| allowed.is_none_or(|allowed| allowed.contains(task)))
            .cloned()
    }

    /// Runs a task; its output.
    async fn step(&mut self, task: &str) -> Result<Value, HandoverError> {
        let input = self.input(task).await?;
        let (next, output) = if task == self.start {
            (
                self.graph.follow(task).first().map(|&next| next.to_owned()),
                input,
            )
        } else if task == self.end {
            (None, input)
        } else {
            self.interpret(task, &input).await?
        };
        self.finish(task, next, &output);
        Ok(output)
    }

    /// What a task begins with: the output of the one task that led to it.
    async fn input(&self, task: &str) -> Result<Value, HandoverError> {
        if task == self.start {
            return Ok(self.request.params.clone());
        }
        let ran = |id: &&str| self.progress.status.get(*id) == Some(&Status::Executed);
        let before: Vec<&str> = self.graph.precede(task).into_iter().filter(ran).collect();
        let [before] = before.as_slice() else {
            return Err(HandoverError::Unreadable(format!(
                "task '{task}' follows {} tasks that have run, not one",
                before.len()
            )));
        };
        match self.outputs.get(*before) {
            Some(output) => Ok(output.clone()),
            None => self.kept.output(before).await,
        }
    }

    /// Has the interpreter run one state; where it goes on, and with what.
    async fn interpret(
        &mut self,
        task: &str,
        input: &Value,
    ) -> Result<(Option<String>, Value), HandoverError> {
        let slice = slice::cut(&self.definition, task, input).ok_or(HandoverError::NoForm)?;
        let machine = check_value(&slice).machine.ok_or(HandoverError::NoForm)?;
        let slice = Arc::new(Workflow {
            machine: Arc::new(machine),
            ..Workflow::clone(self.workflow)
        });
        let options = StartOptions {
            name: Some(self.request.req_id.clone()),
            reports: true,
            can_offload: true,
            is_placed: true,
            along: self.along(),
            ..StartOptions::default()
        };
        let started = express(self.node, &slice, self.request.params.clone(), options).await?;
        let finished = started.wait().await.ok_or(HandoverError::ShuttingDown)?;
        for (state, reply) in &finished.reports {
            self.report(state, reply.clone());
        }
        let failed = |error: &Option<String>, cause: &Option<String>| HandoverError::Task {
            task: task.to_owned(),
            error: error.clone().unwrap_or_default(),
            cause: cause.clone().unwrap_or_default(),
        };
        let reached = match &finished.outcome {
            Outcome::Succeeded(output) => slice::reached(output),
            Outcome::Failed { error, cause } | Outcome::Aborted { error, cause } => {
                return Err(failed(error, cause));
            }
            Outcome::TimedOut => return Err(failed(&Some("States.Timeout".to_owned()), &None)),
        };
        let reached = reached.ok_or(HandoverError::NoForm)?;
        let next = reached.next.unwrap_or_else(|| self.end.clone());
        Ok((Some(next), reached.data))
    }

    fn report(&mut self, task: &str, reply: InvokeReply) {
        self.reports
            .insert(format!("Function_{task}"), reply.into());
    }

    /// Notes that a task has run, what comes next, and what never will.
    fn finish(&mut self, task: &str, next: Option<String>, output: &Value) {
        self.progress
            .status
            .insert(task.to_owned(), Status::Executed);
        self.progress.ready.retain(|ready| ready != task);
        self.outputs.insert(task.to_owned(), output.clone());
        let Some(next) = next else {
            return;
        };
        let index = self.graph.index(task);
        if index.is_some_and(|at| self.graph.tasks[at].kind == TaskKind::Choice) {
            let taken = self.graph.reachable(&next);
            let others = self.graph.follow(task).into_iter();
            let skipped: BTreeSet<String> = others
                .flat_map(|other| self.graph.reachable(other))
                .filter(|id| !taken.contains(id))
                .map(str::to_owned)
                .collect();
            for id in skipped {
                self.progress.status.insert(id, Status::Skipped);
            }
            let places = &self.node.workflows.places;
            places.chose(&self.workflow.record.name, task, &next);
        }
        self.progress.ready.push(next);
    }

    /// Stores the progress, and what the tasks that are ready begin with.
    async fn save(&mut self) -> Result<(), HandoverError> {
        let before: BTreeSet<&str> = self
            .progress
            .ready
            .iter()
            .flat_map(|task| self.graph.precede(task))
            .collect();
        let outputs: Vec<(&str, &Value)> = before
            .into_iter()
            .filter_map(|task| Some((task, self.outputs.get(task)?)))
            .collect();
        self.kept.save(&self.progress, &outputs).await
    }

    /// Has another node go on, with `tasks` of its own.
    async fn hand_over(
        &mut self,
        key: &str,
        member: &Arc<Member>,
        tasks: Vec<String>,
    ) -> Result<Handed, HandoverError> {
        self.progress.epoch = Some(self.progress.epoch.unwrap_or(0) + 1);
        if let Err(error) = self.save().await {
            return match error {
                HandoverError::Superseded(_) => Err(error),
                // Nothing is lost: it is all here.
                error => {
                    self.shun(key, &crate::chain(&error));
                    Ok(Handed::Back)
                }
            };
        }
        let request = self.resume_request(tasks);
        let limit = self
            .node
            .config
            .workflow
            .express_timeout
            .saturating_add(ALLOWANCE);
        let name = &self.workflow.record.name;
        let remote = &self.node.workflows.remote;
        let trace = &self.request.along.trace;
        match remote.resume(member, name, (&request, trace), limit).await {
            Sent::Done(reply) => self.returned(key, *reply).await,
            Sent::NotBegun(why) => {
                self.shun(key, &why);
                Ok(Handed::Back)
            }
            // A node of ours begins with taking it over, and gives it back if that was all.
            Sent::Told(error) => {
                let mut stored = self.kept.load().await?;
                if stored.epoch != self.progress.epoch {
                    return Err(error);
                }
                self.kept.claim(&mut stored).await?;
                self.progress.epoch = stored.epoch;
                self.shun(key, &crate::chain(&error));
                Ok(Handed::Back)
            }
            Sent::Failed(error) => Err(error),
        }
    }

    /// What goes along with what is begun now.
    fn along(&self) -> Along {
        let elapsed = self.request.arrival.elapsed().as_secs_f64();
        self.request.along.after(elapsed)
    }

    fn resume_request(&self, tasks: Vec<String>) -> ResumeWorkflow {
        let along = self.along();
        let qos = serverledge_api::WorkflowQos {
            // The original knows classes by their numbers only.
            class: match along.qos_class {
                QosClass::Number(number) => number,
                QosClass::Name(_) => 0,
            },
            max_response_time: along.response_time_max,
        };
        ResumeWorkflow {
            req_id: self.request.req_id.clone(),
            params: serverledge_api::Params::from_value(&self.request.params),
            qos,
            can_do_offloading: false,
            is_async: false,
            plan: Some(PlanRequest {
                to_execute: Some(tasks),
                epoch: self.progress.epoch,
            }),
        }
    }

    fn shun(&mut self, node: &str, why: &str) {
        let execution = &self.request.req_id;
        debug!(execution, node, why, "not handed over: it goes on here");
        self.shunned.insert(node.to_owned());
        // Made with that node.
        self.plan = Plan::default();
    }

    /// The plan was carried out elsewhere.
    async fn returned(&mut self, key: &str, reply: WorkflowReply) -> Result<Handed, HandoverError> {
        self.scheduling += Duration::try_from_secs_f64(reply.scheduling_time).unwrap_or_default();
        for (name, report) in reply.reports.unwrap_or_default() {
            self.reports.insert(name, report);
        }
        if let Some(result) = reply.result {
            return Ok(Handed::Ended(result));
        }
        let mut progress = self.kept.load().await?;
        self.check(&progress)?;
        self.kept.claim(&mut progress).await?;
        let did_nothing = progress.ready == self.progress.ready;
        self.progress = progress;
        if did_nothing {
            // Or it would be asked for ever.
            self.shun(key, "it ran nothing");
        }
        Ok(Handed::Back)
    }

    /// Removes what is stored besides the progress; the execution has ended.
    async fn clean(&mut self) {
        if let Err(error) = self.kept.clean().await {
            let execution = &self.request.req_id;
            let error = crate::chain(&error);
            warn!(
                execution,
                error, "outputs of an ended execution stay until their lease ends"
            );
        }
    }
}
