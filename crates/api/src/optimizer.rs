//! The question to an optimiser outside, and its answer: the original's JSON, byte for byte.
//!
//! Keys of two parts are JSON texts in themselves (`["task","node"]`), and so are the arcs
//! (`["next","probability"]`). What the original doesn't send (CPUs, bandwidths of links) is left out
//! unless it is known. The question is read too, so that an optimiser of ours can be asked.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serverledge_core::placement::{
    Arc, Kind, Link, NoPlan, Node, Placement, Problem, Resources, Task, Weights,
};

use crate::decode::encode;

/// The deadline that heftless is sent if there is none, s.
const NO_DEADLINE: f64 = 99_999.0;

/// Which of an optimiser's two paths is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Optimizer {
    /// `/ilp`.
    Ilp,
    /// `/heftless`.
    Heftless,
}

impl Optimizer {
    /// The path of the URL.
    pub fn path(self) -> &'static str {
        match self {
            Self::Ilp => "/ilp",
            Self::Heftless => "/heftless",
        }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Question {
    cloud_nodes: Vec<String>,
    edge_nodes: Vec<String>,
    node_available_memory: BTreeMap<String, f64>,
    node_free_memory: BTreeMap<String, f64>,
    ds_latency: BTreeMap<String, f64>,
    ds_bandwidth: BTreeMap<String, f64>,
    node_latency: BTreeMap<String, f64>,
    handling_node: String,
    #[serde(rename = "T")]
    tasks: Vec<String>,
    adj: BTreeMap<String, Vec<String>>,
    task_memory: BTreeMap<String, f64>,
    deadline: f64,
    output_size: BTreeMap<String, f64>,
    input_size: f64,
    obj_weights: [f64; 4],
    cost: BTreeMap<String, f64>,
    node_labels: BTreeMap<String, BTreeSet<String>>,
    task_labels: BTreeMap<String, BTreeSet<String>>,
    exectime: BTreeMap<String, f64>,
    init_time: BTreeMap<String, f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_available_cpus: Option<BTreeMap<String, f64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_cpus: Option<BTreeMap<String, f64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_bandwidth: Option<BTreeMap<String, f64>>,
}

/// The question about `problem`, as a body.
pub fn encode_problem(problem: &Problem, optimizer: Optimizer) -> Vec<u8> {
    let nodes = &problem.nodes;
    let keys = |edge: bool| {
        let of_kind = nodes.iter().filter(|node| node.resources.is_some() == edge);
        of_kind.map(|node| node.key.clone()).collect()
    };
    let by_node = |figure: &dyn Fn(&Node) -> Option<f64>| {
        let known = nodes
            .iter()
            .filter_map(|node| Some((node.key.clone(), figure(node)?)));
        known.collect::<BTreeMap<_, _>>()
    };
    let by_task = |figure: &dyn Fn(&Task) -> f64| {
        let tasks = problem.tasks.iter();
        tasks
            .map(|task| (task.id.clone(), figure(task)))
            .collect::<BTreeMap<_, _>>()
    };
    let weights = problem.weights;
    let question = Question {
        cloud_nodes: keys(false),
        edge_nodes: keys(true),
        node_available_memory: by_node(&|node| Some(node.resources?.available_mb)),
        node_free_memory: by_node(&|node| Some(node.resources?.free_mb)),
        ds_latency: by_node(&|node| Some(node.store_latency)),
        ds_bandwidth: by_node(&|node| Some(node.store_bandwidth)),
        node_latency: latencies(problem),
        handling_node: nodes[problem.handling].key.clone(),
        tasks: problem.tasks.iter().map(|task| task.id.clone()).collect(),
        adj: adjacency(problem),
        task_memory: by_task(&|task| task.memory_mb),
        deadline: match optimizer {
            Optimizer::Heftless if problem.deadline <= 0.0 => NO_DEADLINE,
            _ => problem.deadline,
        },
        output_size: by_task(&|task| task.output_bytes),
        input_size: problem.input_bytes,
        obj_weights: [
            weights.violations,
            weights.data,
            weights.cost,
            weights.reclaimed,
        ],
        cost: by_node(&|node| Some(node.cost)),
        node_labels: labelled(nodes.iter().map(|node| (&node.key, &node.labels))),
        task_labels: labelled(problem.tasks.iter().map(|task| (&task.id, &task.labels))),
        exectime: by_pair(problem, &problem.execution),
        init_time: by_pair(problem, &problem.init),
        node_available_cpus: problem.link.as_ref().map(|link| {
            let known = nodes.iter().zip(&link.node_cpus);
            known
                .filter_map(|(node, cpus)| Some((node.key.clone(), (*cpus)?)))
                .collect()
        }),
        task_cpus: problem.link.as_ref().map(|link| {
            let tasks = problem.tasks.iter().map(|task| task.id.clone());
            tasks.zip(link.task_cpus.iter().copied()).collect()
        }),
        node_bandwidth: problem.link.as_ref().map(|link| {
            let keys = nodes.iter().map(|node| node.key.clone());
            keys.zip(link.bandwidth.iter().copied()).collect()
        }),
    };
    encode(&question)
}

/// Those that have labels at all.
fn labelled<'a>(
    named: impl Iterator<Item = (&'a String, &'a BTreeSet<String>)>,
) -> BTreeMap<String, BTreeSet<String>> {
    let labelled = named.filter(|(_, labels)| !labels.is_empty());
    labelled
        .map(|(name, labels)| (name.clone(), labels.clone()))
        .collect()
}

/// A key of two parts.
fn pair(first: &str, second: &str) -> String {
    String::from_utf8(encode(&[first, second])).unwrap_or_default()
}

fn by_pair(problem: &Problem, table: &[Vec<f64>]) -> BTreeMap<String, f64> {
    let rows = problem.tasks.iter().zip(table);
    let cells = rows.flat_map(|(task, row)| {
        let row = problem.nodes.iter().zip(row);
        row.map(|(node, value)| (pair(&task.id, &node.key), *value))
    });
    cells.collect()
}

fn latencies(problem: &Problem) -> BTreeMap<String, f64> {
    let mut latencies = BTreeMap::new();
    for (from, row) in problem.latency.iter().enumerate() {
        for (to, latency) in row.iter().enumerate() {
            // The original leaves this one out, and no other.
            if from != problem.handling || to != problem.handling {
                let key = pair(&problem.nodes[from].key, &problem.nodes[to].key);
                latencies.insert(key, *latency);
            }
        }
    }
    latencies
}

fn adjacency(problem: &Problem) -> BTreeMap<String, Vec<String>> {
    let ids = problem
        .tasks
        .iter()
        .map(|task| (task.id.clone(), Vec::new()));
    let mut adjacency: BTreeMap<String, Vec<String>> = ids.collect();
    for arc in &problem.arcs {
        let (from, to) = (&problem.tasks[arc.from], &problem.tasks[arc.to]);
        let probability = match from.kind {
            Kind::Choice => format!("{:.2}", arc.probability),
            _ => "1.0".to_owned(),
        };
        if let Some(follow) = adjacency.get_mut(&from.id) {
            follow.push(pair(&to.id, &probability));
        }
    }
    adjacency
}

/// What a table says; nothing is 0.
fn at(table: &BTreeMap<String, f64>, key: &str) -> f64 {
    table.get(key).copied().unwrap_or(0.0)
}

/// The problem that a question's body is about.
pub fn decode_problem(body: &[u8]) -> Result<Problem, DecodeProblem> {
    let question: Question = serde_json::from_slice(body)?;
    let edges = question.edge_nodes.iter().map(|key| (key, true));
    let clouds = question.cloud_nodes.iter().map(|key| (key, false));
    let node = |(key, edge): (&String, bool)| question.node(key, edge);
    let nodes: Vec<Node> = edges.chain(clouds).map(node).collect();
    let handling = nodes
        .iter()
        .position(|node| node.key == question.handling_node);
    let arcs = question.arcs()?;
    let task = |(number, id): (usize, &String)| Task {
        id: id.clone(),
        // The question doesn't say; only what follows by chance must be a choice.
        kind: match arcs
            .iter()
            .any(|arc| arc.from == number && arc.probability < 1.0)
        {
            true => Kind::Choice,
            false => Kind::Function,
        },
        memory_mb: at(&question.task_memory, id),
        output_bytes: at(&question.output_size, id),
        labels: question.task_labels.get(id).cloned().unwrap_or_default(),
    };
    let tasks: Vec<Task> = question.tasks.iter().enumerate().map(task).collect();
    let table = |values: &BTreeMap<String, f64>, rows: &[&str]| {
        let row = |name: &&str| {
            nodes
                .iter()
                .map(|node| at(values, &pair(name, &node.key)))
                .collect()
        };
        rows.iter().map(row).collect::<Vec<Vec<f64>>>()
    };
    let ids: Vec<&str> = tasks.iter().map(|task| task.id.as_str()).collect();
    let keys: Vec<&str> = nodes.iter().map(|node| node.key.as_str()).collect();
    let [violations, data, cost, reclaimed] = question.obj_weights;
    let problem = Problem {
        handling: handling.ok_or(NoPlan::Malformed(
            "the handling node is not among the nodes",
        ))?,
        latency: table(&question.node_latency, &keys),
        execution: table(&question.exectime, &ids),
        init: table(&question.init_time, &ids),
        link: question.link(&ids, &nodes),
        input_bytes: question.input_size,
        deadline: question.deadline,
        weights: Weights {
            violations,
            data,
            cost,
            reclaimed,
        },
        arcs,
        tasks,
        nodes,
    };
    problem.check()?;
    Ok(problem)
}

/// Why a body is no question.
#[derive(Debug, thiserror::Error)]
pub enum DecodeProblem {
    /// No JSON, or not of this shape.
    #[error("the body is not the JSON expected: {0}")]
    Json(#[from] serde_json::Error),
    /// It has the shape, and makes no sense.
    #[error("{0}")]
    Problem(#[from] NoPlan),
}

impl Question {
    fn node(&self, key: &str, edge: bool) -> Node {
        Node {
            key: key.to_owned(),
            resources: edge.then(|| Resources {
                available_mb: at(&self.node_available_memory, key),
                free_mb: at(&self.node_free_memory, key),
            }),
            store_bandwidth: at(&self.ds_bandwidth, key),
            store_latency: at(&self.ds_latency, key),
            cost: at(&self.cost, key),
            labels: self.node_labels.get(key).cloned().unwrap_or_default(),
        }
    }

    fn arcs(&self) -> Result<Vec<Arc>, DecodeProblem> {
        let place: BTreeMap<&str, usize> = self
            .tasks
            .iter()
            .enumerate()
            .map(|(at, id)| (id.as_str(), at))
            .collect();
        let mut arcs = Vec::new();
        for (number, id) in self.tasks.iter().enumerate() {
            for text in self.adj.get(id).into_iter().flatten() {
                let (to, probability): (String, String) = serde_json::from_str(text)?;
                let to = place.get(to.as_str()).copied();
                let probability = probability.parse().ok();
                let (Some(to), Some(probability)) = (to, probability) else {
                    return Err(
                        NoPlan::Malformed("an arc leads nowhere or has no probability").into(),
                    );
                };
                arcs.push(Arc {
                    from: number,
                    to,
                    probability,
                });
            }
        }
        Ok(arcs)
    }

    fn link(&self, tasks: &[&str], nodes: &[Node]) -> Option<Link> {
        let (cpus, task_cpus) = (self.node_available_cpus.as_ref()?, self.task_cpus.as_ref()?);
        let bandwidth = self.node_bandwidth.as_ref()?;
        Some(Link {
            bandwidth: nodes.iter().map(|node| at(bandwidth, &node.key)).collect(),
            node_cpus: nodes
                .iter()
                .map(|node| cpus.get(&node.key).copied())
                .collect(),
            task_cpus: tasks.iter().map(|task| at(task_cpus, task)).collect(),
        })
    }
}

/// An optimiser's answer.
pub fn decode_placement(body: &[u8]) -> Result<Placement, serde_json::Error> {
    serde_json::from_slice(body)
}

/// An answer, as an optimiser gives it.
pub fn encode_placement(placement: &Placement) -> Vec<u8> {
    encode(placement)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use serverledge_core::placement::{Effort, Solution, ilp};

    use super::*;

    /// What the original asked, and what it was answered.
    const RECORDED: &str = include_str!("../../node/tests/it/data/node-to-node.jsonl");

    fn recorded() -> (String, String) {
        let mut lines = RECORDED
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let is_ilp = |line: &Value| line["note"].as_str().unwrap().starts_with("workflow, ilp");
        let line = lines.find(is_ilp).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (
            text(&line["peer_received"][0]["body"]),
            text(&line["peer_answered"]),
        )
    }

    #[test]
    fn the_recorded_question_is_read_and_written_byte_for_byte() {
        let (question, answer) = recorded();
        let problem = decode_problem(question.as_bytes()).unwrap();
        let written = encode_problem(&problem, Optimizer::Ilp);
        assert_eq!(String::from_utf8(written).unwrap(), question);
        let answer = decode_placement(answer.as_bytes()).unwrap();
        assert_eq!(problem.accept(answer.clone()), Ok(answer));
    }

    #[test]
    fn the_recorded_question_has_an_answer() {
        let (question, _) = recorded();
        let problem = decode_problem(question.as_bytes()).unwrap();
        let Solution { nodes, value, .. } = ilp(&problem, Effort::default()).unwrap();
        // Nothing is known and nothing costs: all stays where it is.
        let here = problem
            .named(&nodes)
            .into_values()
            .all(|node| node == "node-a");
        assert!(here, "{nodes:?}");
        assert_eq!((value.objective, value.crossings), (0.0, 0.0));
    }

    fn sample() -> Problem {
        let (question, _) = recorded();
        decode_problem(question.as_bytes()).unwrap()
    }

    #[test]
    fn only_what_a_choice_decides_has_a_probability_of_two_decimals() {
        let mut problem = sample();
        let a = problem
            .tasks
            .iter()
            .position(|task| task.id == "A")
            .unwrap();
        problem.tasks[a].kind = Kind::Choice;
        for arc in problem.arcs.iter_mut().filter(|arc| arc.from == a) {
            arc.probability = 1.0 / 3.0;
        }
        let written = encode_problem(&problem, Optimizer::Ilp);
        let written: Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(written["adj"]["A"][0], r#"["B","0.33"]"#);
        assert_eq!(
            written["adj"]["mamQMB4zKLKT8fo3iduzUf"][0],
            r#"["A","1.0"]"#
        );
    }

    #[test]
    fn heftless_is_told_a_deadline_even_if_there_is_none() {
        let mut problem = sample();
        problem.deadline = -0.5;
        let deadline = |optimizer| {
            let written = encode_problem(&problem, optimizer);
            serde_json::from_slice::<Value>(&written).unwrap()["deadline"].as_f64()
        };
        assert_eq!(deadline(Optimizer::Ilp), Some(-0.5));
        assert_eq!(deadline(Optimizer::Heftless), Some(99_999.0));
    }

    #[test]
    fn what_the_original_does_not_send_goes_both_ways_too() {
        let mut problem = sample();
        problem.tasks[0].labels.insert("gpu".into());
        problem.nodes[1].labels.insert("gpu".into());
        problem.link = Some(Link {
            bandwidth: vec![10.0, 20.0, 30.0],
            node_cpus: vec![Some(2.0), Some(4.0), None],
            task_cpus: vec![0.5; problem.tasks.len()],
        });
        let written = encode_problem(&problem, Optimizer::Heftless);
        assert_eq!(decode_problem(&written).unwrap(), problem);
    }

    #[test]
    fn odd_names_make_keys_that_can_be_read() {
        let mut problem = sample();
        problem.tasks[0].id = "a \"b\", <c>".into();
        problem.nodes[1].key = "[]\\é".into();
        let written = encode_problem(&problem, Optimizer::Ilp);
        assert_eq!(decode_problem(&written).unwrap(), problem);
    }

    #[test]
    fn nonsense_is_refused() {
        let refuse = |body: &str| decode_problem(body.as_bytes()).unwrap_err().to_string();
        refuse("");
        refuse("[]");
        assert!(refuse("{}").contains("handling node"));
        let (question, _) = recorded();
        for (from, to) in [
            (r#"\"1.0\""#, r#"\"x\""#),
            (r#""deadline":4"#, r#""deadline":"4"#),
            (r#""T":["B""#, r#""T":["A""#),
            (r#"[\"B\",\"1.0\"]"#, r#"[\"Z\",\"1.0\"]"#),
            (r#"[\"B\",\"1.0\"]"#, r#"[\"A\",\"1.0\"]"#),
        ] {
            assert!(question.contains(from), "{from}");
            let broken = question.replacen(from, to, 1);
            let decoded = decode_problem(broken.as_bytes());
            // A loop makes sense as a question; no solver answers it.
            let loops = decoded
                .as_ref()
                .is_ok_and(|it| ilp(it, Effort::default()).is_err());
            assert!(decoded.is_err() || loops, "{to}");
        }
        for answer in ["", "[]", r#"{"A":1}"#, "null"] {
            assert!(decode_placement(answer.as_bytes()).is_err(), "{answer}");
        }
    }
}
