//! What the policy sees and plans, as JSON for people: `GET /v1/policy`.

use serde::Serialize;
use serverledge_core::qos::{self, Choice, Flow, Plan};

use super::{Planned, Qos};
use crate::federation;
use crate::node::Node;

/// See the module. Times are seconds, memory is MiB.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Shown {
    policy: String,
    /// Where calls of this node may be sent.
    neighbors: Vec<Peer>,
    cloud: Vec<Peer>,
    classes: Vec<Class>,
    /// Of `qosaware` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    spending: Option<Spending>,
    /// Why there is none, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_plan: Option<&'static str>,
    /// Why the last attempt at a plan failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<ShownPlan>,
}

/// A node that nothing speaks against, with what it told of late.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Peer {
    key: String,
    architecture: String,
    is_balancer: bool,
    available_memory: Option<u64>,
    /// Round trip.
    distance: Option<f64>,
    /// Share of a neighbor's memory that is planned with.
    #[serde(skip_serializing_if = "Option::is_none")]
    exposed: Option<f64>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Class {
    name: String,
    number: Option<i64>,
    utility: f64,
    deadline: Option<f64>,
    completion: f64,
    penalty: f64,
    drop_penalty: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Spending {
    last_hour: f64,
    rate_an_hour: f64,
    budget_an_hour: Option<f64>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownPlan {
    /// How long ago it was made.
    age: f64,
    /// How long solving took.
    took: f64,
    /// Net utility a second that it expects.
    objective: f64,
    /// Minimum completions that are out of reach.
    shortfalls: Vec<Shortfall>,
    /// Pairs of function and class that there was no plan for, being too many.
    left_out: usize,
    local_memory: f64,
    usable_share: f64,
    edge_memory: f64,
    cloud_way: f64,
    edge_way: f64,
    cloud_cost: f64,
    flows: Vec<ShownFlow>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shortfall {
    class: String,
    by: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownFlow {
    function: String,
    class: String,
    /// Arrivals a second.
    rate: f64,
    /// Of one call.
    memory: f64,
    local: Option<Place>,
    cloud: Option<Place>,
    edge: Option<Place>,
    drop: f64,
    /// Places that none of these calls go to, and why.
    rejected: Vec<Rejected>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Place {
    service: f64,
    init: f64,
    cold: f64,
    way: f64,
    /// Probability of an answer within the deadline.
    in_time: f64,
    probability: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Rejected {
    place: String,
    why: String,
}

/// As of now.
pub(crate) fn shown(node: &Node) -> Shown {
    let qos = &node.qos;
    let planned = qos.planned().filter(|_| qos.is_active);
    let (spending, failure) = {
        let state = qos.lock();
        let now = qos.now();
        let spending = Spending {
            last_hour: state.spending.spent(now),
            rate_an_hour: state.spending.rate(now),
            budget_an_hour: qos.budget,
        };
        (spending, state.failure.clone())
    };
    let no_plan = match (qos.is_active, &planned) {
        (false, _) => Some("only qosaware plans, in a fleet (etcd.address or federation.peers)"),
        (true, None) => Some("the first plan is not made yet (solver.evalinterval)"),
        (true, Some(_)) => None,
    };
    let places = node.federation.as_ref().map(|fleet| fleet.places(node));
    let (neighbors, cloud) = places.unwrap_or_default();
    let neighbor = |place: federation::Place| {
        let exposed = qos.lock().estimators.exposed(&place.key);
        Peer {
            exposed: qos.is_active.then_some(exposed),
            ..Peer::of(place)
        }
    };
    Shown {
        neighbors: neighbors.into_iter().map(neighbor).collect(),
        cloud: cloud.into_iter().map(Peer::of).collect(),
        policy: node.config.scheduler.policy.clone(),
        classes: qos.classes.all().iter().map(class).collect(),
        spending: qos.is_active.then_some(spending),
        no_plan,
        failure,
        plan: planned.map(|planned| plan(qos, &planned)),
    }
}

impl Peer {
    fn of(place: federation::Place) -> Self {
        Self {
            key: place.key,
            architecture: place.architecture,
            is_balancer: place.is_balancer,
            available_memory: place.memory_available,
            distance: place.distance,
            exposed: None,
        }
    }
}

fn class(class: &qos::Class) -> Class {
    Class {
        name: class.name.clone(),
        number: class.number,
        utility: class.utility,
        deadline: class.deadline.map(|it| it.as_secs_f64()),
        completion: class.completion,
        penalty: class.penalty,
        drop_penalty: class.drop_penalty,
    }
}

fn plan(qos: &Qos, planned: &Planned) -> ShownPlan {
    let Planned { plan, around, .. } = planned;
    let solution = &plan.solution;
    let shortfall = |(class, by): &(usize, f64)| Shortfall {
        class: qos.name(*class).to_owned(),
        by: *by,
    };
    let flows = plan.program.flows.iter().enumerate();
    ShownPlan {
        age: planned.made.elapsed().as_secs_f64(),
        took: planned.took.as_secs_f64(),
        objective: solution.objective,
        shortfalls: solution.shortfalls.iter().map(shortfall).collect(),
        left_out: planned.left_out,
        local_memory: around.local_memory_mb,
        usable_share: plan.program.usable,
        edge_memory: around.edge_memory_mb,
        cloud_way: around.cloud_way,
        edge_way: around.edge_way,
        cloud_cost: around.cloud_cost,
        flows: flows
            .map(|(index, it)| flow(qos, plan, (index, it)))
            .collect(),
    }
}

fn flow(qos: &Qos, plan: &Plan, (index, flow): (usize, &Flow)) -> ShownFlow {
    let view = &plan.program.functions[flow.function];
    let class = &plan.program.classes[flow.class];
    let deadline = class.deadline.map_or(f64::INFINITY, |it| it.as_secs_f64());
    let odds = plan.solution.probabilities[index];
    let place = |place: Option<qos::Place>, probability: f64| {
        place.map(|place| Place {
            service: place.service,
            init: place.init,
            cold: place.cold,
            way: place.offset,
            in_time: place.in_time(deadline),
            probability,
        })
    };
    let name = |choice: Choice| choice.to_string();
    let rejected = plan.rejected(index).into_iter();
    ShownFlow {
        function: view.name.clone(),
        class: qos.name(flow.class).to_owned(),
        rate: flow.rate,
        memory: view.memory_mb,
        local: place(view.local, odds.local),
        cloud: place(view.cloud, odds.cloud),
        edge: place(view.edge, odds.edge),
        drop: odds.drop,
        rejected: rejected
            .map(|it| Rejected {
                place: name(it.choice),
                why: it.why.to_string(),
            })
            .collect(),
    }
}
