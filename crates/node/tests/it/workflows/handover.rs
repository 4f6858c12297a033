//! Workflows that go from node to node: real nodes, a real etcd, and in the place of a node of the
//! original what such a node was recorded to send, to store and to answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::peer::{Answer, Peer};
use crate::support::etcd::{member, sees};
use crate::support::function::Function;
use crate::support::http::Response;
use crate::support::node::Builder;
use crate::support::{Etcd, Node, etcd, eventually, python};

/// What another implementation recorded.
const RECORDED: &str = include_str!("../data/node-to-node.jsonl");

/// Two functions in a row, as the original stored them when it handed them over. Its ids differ from
/// registration to registration; these are the ones of the recorded progress.
const SERIALIZED: &str = r#"{"Name":"wf","Start":{"Id":"mamQMB4zKLKT8fo3iduzUf","Type":"StartTask","NextTask":"A"},"Tasks":{"A":{"Id":"A","Type":"FunctionTask","Func":"inc","NextTask":"B"},"B":{"Id":"B","Type":"FunctionTask","Func":"inc","NextTask":"wQuJ2NgF2a8JskpcmMsmya"},"mamQMB4zKLKT8fo3iduzUf":{"Id":"mamQMB4zKLKT8fo3iduzUf","Type":"StartTask","NextTask":"A"},"wQuJ2NgF2a8JskpcmMsmya":{"Id":"wQuJ2NgF2a8JskpcmMsmya","Type":"EndTask"}},"End":{"Id":"wQuJ2NgF2a8JskpcmMsmya","Type":"EndTask"}}"#;

fn recorded(note: &str) -> Value {
    let lines = RECORDED.lines();
    let mut entries = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    entries
        .find(|entry| entry["note"].as_str().unwrap().starts_with(note))
        .unwrap()
}

/// A node whose cloud is the area `CLOUD`, and which hands over what it can.
fn edge(etcd: &Etcd) -> Builder {
    member(etcd, "edge", "EDGE")
        .set("registry.remote.area", "CLOUD")
        .set("workflow.offloading.policy", "threshold")
        .set("workflow.offloading.policy.threshold", 0)
}

/// The place of the edge's cloud, taken by `peer`.
fn register(etcd: &Etcd, peer: &Peer) {
    let port = peer.port();
    etcd.put(
        "registry/CLOUD/amd64/peer",
        &format!("127.0.0.1;{port};9996;amd64"),
    );
}

#[track_caller]
fn create(node: &Node, function: &Function) {
    let mut body = function.body();
    body["Signature"] = json!({
        "Inputs": [{ "Name": "n", "Type": "Int" }],
        "Outputs": [{ "Name": "n", "Type": "Int" }],
    });
    node.post("/create", &body).expect(200);
}

fn inc() -> Function {
    python(
        "inc",
        "def handler(params, context):\n    return {'n': params['n'] + 1}\n",
    )
}

/// The function and the workflow, known to `nodes`.
#[track_caller]
fn register_workflow(nodes: &[&Node]) {
    create(nodes[0], &inc());
    nodes[0]
        .send("POST", "/workflow/import", SERIALIZED)
        .expect(200);
    for node in nodes {
        knows(node, "inc", "wf");
    }
}

#[track_caller]
fn knows(node: &Node, function: &str, workflow: &str) {
    eventually("the function and the workflow to be known", || {
        let functions = node.functions();
        let workflows = node.get("/workflow/list").expect(200).json();
        let knows =
            |names: &Value, name: &str| names.as_array().unwrap().iter().any(|known| known == name);
        (functions.iter().any(|it| it == function) && knows(&workflows, workflow)).then_some(())
    });
}

#[track_caller]
fn invoke(node: &Node, workflow: &str, can_offload: bool) -> Response {
    let request = json!({ "Params": { "n": 1 }, "CanDoOffloading": can_offload });
    node.post(&format!("/workflow/invoke/{workflow}"), &request)
}

/// Where a task ran.
#[track_caller]
fn ran_at(reply: &Value, task: &str) -> String {
    let report = &reply["Reports"][format!("Function_{task}")];
    report["ExecutionNode"]
        .as_str()
        .unwrap_or_else(|| panic!("{reply}"))
        .to_owned()
}

/// What an error says, which is a text.
#[track_caller]
fn says(reply: &Response, parts: &[&str]) {
    let text = reply.json();
    let text = text.as_str().unwrap_or_else(|| panic!("{}", reply.shown()));
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

#[track_caller]
fn nothing_stored(etcd: &Etcd) {
    assert_eq!(etcd.entries("/progress/"), []);
    assert_eq!(etcd.entries("/data/"), []);
}

#[test]
fn what_memory_is_short_for_goes_to_the_cloud_with_what_follows() {
    let etcd = etcd();
    let cloud = member(&etcd, "cloud", "CLOUD").start();
    let edge = edge(&etcd).start();
    sees(&edge, 2);
    register_workflow(&[&edge, &cloud]);

    let reply = invoke(&edge, "wf", true).expect(200).json();
    assert_eq!(reply["Result"], json!({ "n": 3 }));
    assert_eq!(reply["Success"], true);
    assert_eq!(
        [ran_at(&reply, "A"), ran_at(&reply, "B")],
        ["cloud", "cloud"]
    );
    nothing_stored(&etcd);

    // Only with its caller's leave.
    let reply = invoke(&edge, "wf", false).expect(200).json();
    assert_eq!(reply["Result"], json!({ "n": 3 }));
    assert_eq!(ran_at(&reply, "A"), "edge");
}

#[test]
fn an_original_node_gets_what_it_knows_and_its_answer_is_the_end() {
    let recorded = recorded("workflow, threshold placement, offloaded");
    let etcd = etcd();
    let answer = recorded["peer_answered"].as_str().unwrap().to_owned();
    let peer = Peer::start(move |_| Answer::ok(&answer));
    register(&etcd, &peer);
    let edge = edge(&etcd).start();
    sees(&edge, 2);
    register_workflow(&[&edge]);

    let reply = invoke(&edge, "wf", true).expect(200).json();
    assert_eq!(reply["Result"], json!({ "n": 3 }));
    nothing_stored(&etcd);
    let request = peer.received();
    assert_eq!(request.path, "/workflow/resume/wf");
    let expected: Value =
        serde_json::from_str(recorded["peer_received"][0]["body"].as_str().unwrap()).unwrap();
    let mut body = request.body.clone();
    assert!(body["ReqId"].as_str().unwrap().starts_with("wf-"), "{body}");
    assert_eq!(body["Plan"]["ToExecute"], expected["Plan"]["ToExecute"]);
    for (field, value) in expected.as_object().unwrap() {
        if !["ReqId", "Plan", "QoS"].contains(&field.as_str()) {
            assert_eq!(body[field].take(), *value, "{field}");
        }
    }
    assert_eq!(body["QoS"]["MaxRespT"], 0);
}

#[test]
fn an_original_node_finds_progress_and_data_where_it_looks_for_them() {
    let recorded = recorded("workflow, threshold placement, offloaded");
    let etcd = std::sync::Arc::new(etcd());
    let answer = recorded["peer_answered"].as_str().unwrap().to_owned();
    let store = std::sync::Arc::clone(&etcd);
    // Looks before it answers.
    let (found, looked) = std::sync::mpsc::channel();
    let peer = Peer::start(move |_| {
        let entries = (store.entries("/progress/"), store.entries("/data/"));
        found.send(entries).unwrap();
        Answer::ok(&answer)
    });
    register(&etcd, &peer);
    let edge = edge(&etcd).start();
    sees(&edge, 2);
    register_workflow(&[&edge]);
    invoke(&edge, "wf", true).expect(200);

    let (progress, data) = looked.recv().unwrap();
    let [(key, progress, leased)] = progress.as_slice() else {
        panic!("{progress:?}");
    };
    assert!(*leased, "it goes with its lease");
    let id = key.strip_prefix("/progress/").unwrap();
    let stored = recorded["etcd_after"]["progress"].as_str().unwrap();
    let expected: Value = serde_json::from_str(stored.lines().nth(1).unwrap()).unwrap();
    let progress: Value = serde_json::from_str(progress).unwrap();
    assert_eq!(progress["ReqId"], id);
    for field in ["Status", "ReadyToExecute"] {
        assert_eq!(progress[field], expected[field], "{field}");
    }
    let start = format!("/data/{id}/mamQMB4zKLKT8fo3iduzUf");
    assert_eq!(data, [(start, r#"{"Data":{"n":1}}"#.to_owned(), true)]);
}

/// What an original node stored when it handed a workflow over, and what it asked then.
fn begun_by_the_original(etcd: &Etcd) -> Value {
    let recorded = recorded("workflow, threshold placement, offloaded");
    for part in ["progress", "data"] {
        let stored = recorded["etcd_after"][part].as_str().unwrap();
        let (key, value) = stored.split_once('\n').unwrap();
        etcd.put(key, value.trim_end());
    }
    serde_json::from_str(recorded["peer_received"][0]["body"].as_str().unwrap()).unwrap()
}

#[test]
fn what_an_original_node_began_is_finished_and_forgotten() {
    let etcd = etcd();
    let node = member(&etcd, "ours", "ROME").start();
    register_workflow(&[&node]);
    let mut request = begun_by_the_original(&etcd);
    // Its plan has both functions and not the end, which is its own.
    let reply = node.post("/workflow/resume/wf", &request);
    let reply = reply.expect(200).json();
    assert_eq!(reply["Result"], Value::Null);
    assert_eq!([ran_at(&reply, "A"), ran_at(&reply, "B")], ["ours", "ours"]);
    request["Plan"]["ToExecute"] = Value::Null;
    let reply = node.post("/workflow/resume/wf", &request);
    assert_eq!(reply.expect(200).json()["Result"], json!({ "n": 3 }));
    nothing_stored(&etcd);
    // It is over: there is nothing to be resumed.
    node.post("/workflow/resume/wf", &request).expect(404);
}

#[test]
fn a_plan_is_carried_out_and_no_more() {
    let etcd = etcd();
    let node = member(&etcd, "ours", "ROME").start();
    register_workflow(&[&node]);
    let mut request = begun_by_the_original(&etcd);
    request["Plan"]["ToExecute"] = json!(["A"]);
    let reply = node
        .post("/workflow/resume/wf", &request)
        .expect(200)
        .json();
    assert_eq!(reply["Success"], true);
    assert_eq!(reply["Result"], Value::Null);
    assert_eq!(ran_at(&reply, "A"), "ours");

    let id = request["ReqId"].as_str().unwrap();
    let progress = etcd.value(&format!("/progress/{id}")).unwrap();
    let progress: Value = serde_json::from_str(&progress).unwrap();
    assert_eq!(progress["ReadyToExecute"], json!(["B"]));
    assert_eq!(progress["Status"]["A"], "Executed");
    let data = etcd.value(&format!("/data/{id}/A"));
    assert_eq!(data.as_deref(), Some(r#"{"Data":{"n":2}}"#));

    request["Plan"]["ToExecute"] = Value::Null;
    let reply = node
        .post("/workflow/resume/wf", &request)
        .expect(200)
        .json();
    assert_eq!(reply["Result"], json!({ "n": 3 }));
    nothing_stored(&etcd);
}

#[test]
fn who_comes_too_late_does_not_go_on() {
    let etcd = etcd();
    let node = member(&etcd, "ours", "ROME").start();
    register_workflow(&[&node]);
    let mut request = begun_by_the_original(&etcd);
    request["Plan"]["ToExecute"] = json!(["A"]);
    node.post("/workflow/resume/wf", &request).expect(200);
    // Taken up once: a plan that was made before then is void.
    request["Plan"] = json!({ "ToExecute": ["B"], "Epoch": 7 });
    let late = node.post("/workflow/resume/wf", &request).expect(409);
    says(&late, &["another node's by now"]);
    request["Plan"] = json!({ "ToExecute": null, "Epoch": 1 });
    let reply = node.post("/workflow/resume/wf", &request);
    assert_eq!(reply.expect(200).json()["Result"], json!({ "n": 3 }));
}

#[test]
fn of_two_that_resume_an_execution_one_goes_on() {
    let etcd = etcd();
    let nodes = ["one", "two"].map(|key| member(&etcd, key, "ROME").start());
    register_workflow(&[&nodes[0], &nodes[1]]);
    let mut request = begun_by_the_original(&etcd);
    request["Plan"] = json!({ "ToExecute": null });
    let replies: Vec<Response> = std::thread::scope(|scope| {
        let resume = |node| {
            scope.spawn({
                let request = &request;
                move || node_resume(node, request)
            })
        };
        let resumed: Vec<_> = nodes.iter().map(resume).collect();
        resumed.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let ended: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    let done = ended.iter().filter(|status| **status == 200).count();
    assert_eq!(done, 1, "{ended:?}");
    assert!(
        ended.iter().all(|status| [200, 404, 409].contains(status)),
        "{ended:?}"
    );
    nothing_stored(&etcd);
}

fn node_resume(node: &Node, request: &Value) -> Response {
    node.post("/workflow/resume/wf", request)
}

#[test]
fn who_cannot_be_reached_has_begun_nothing() {
    let etcd = etcd();
    let cloud = member(&etcd, "cloud", "CLOUD").start();
    let edge = edge(&etcd).start();
    sees(&edge, 2);
    register_workflow(&[&edge, &cloud]);
    // Killed, so that the registry has it still.
    let _cloud = cloud.kill9();
    let reply = invoke(&edge, "wf", true).expect(200).json();
    assert_eq!(reply["Result"], json!({ "n": 3 }));
    assert_eq!([ran_at(&reply, "A"), ran_at(&reply, "B")], ["edge", "edge"]);
    nothing_stored(&etcd);
}

#[test]
fn who_has_no_room_gives_it_back() {
    let etcd = etcd();
    let cloud = member(&etcd, "cloud", "CLOUD").memory(160).start();
    let edge = edge(&etcd).start();
    sees(&edge, 2);
    create(&edge, &inc().memory(512));
    edge.send("POST", "/workflow/import", SERIALIZED)
        .expect(200);
    knows(&cloud, "inc", "wf");
    let reply = invoke(&edge, "wf", true).expect(200).json();
    assert_eq!(reply["Result"], json!({ "n": 3 }));
    assert_eq!([ran_at(&reply, "A"), ran_at(&reply, "B")], ["edge", "edge"]);
    nothing_stored(&etcd);
}

#[test]
fn what_may_have_begun_elsewhere_is_not_begun_again() {
    let etcd = etcd();
    let peer = Peer::start(|number| match number {
        0 => Answer::status(500, "\"boom\""),
        1 => Answer::status(429, ""),
        _ => Answer::hang_up(),
    });
    register(&etcd, &peer);
    let edge = edge(&etcd).start();
    sees(&edge, 2);
    register_workflow(&[&edge]);

    let failed = invoke(&edge, "wf", true);
    assert!(failed.status >= 500, "{}", failed.shown());
    says(&failed, &["node peer", "boom"]);
    assert_eq!(invoke(&edge, "wf", true).status, 429);
    let failed = invoke(&edge, "wf", true);
    assert!(failed.status >= 500, "{}", failed.shown());
    says(&failed, &["node peer", "broke off"]);
    // What was done is there for whoever resumes it, until its lease ends.
    let stored = etcd.entries("/progress/");
    assert_eq!(stored.len(), 3);
    assert!(stored.iter().all(|(_, _, leased)| *leased));
    let id = peer.received().body["ReqId"].clone();
    let request = json!({ "ReqId": id, "Params": { "n": 1 }, "Plan": { "ToExecute": null } });
    let reply = edge
        .post("/workflow/resume/wf", &request)
        .expect(200)
        .json();
    assert_eq!(reply["Result"], json!({ "n": 3 }));
    assert_eq!(etcd.entries("/progress/").len(), 2);
}

/// An edge node that asks `optimizer` for placements.
fn asking(etcd: &Etcd, optimizer: &Peer) -> Builder {
    edge(etcd)
        .set("workflow.offloading.policy", "ilp")
        .set("workflow.offloading.policy.optimizer.host", "127.0.0.1")
        .set(
            "workflow.offloading.policy.optimizer.port",
            optimizer.port(),
        )
}

#[test]
fn an_optimiser_outside_says_where_tasks_run() {
    let etcd = etcd();
    let optimizer = Peer::start(|_| Answer::ok(r#"{"B":"CLOUD","unknown":"nowhere"}"#));
    let cloud = member(&etcd, "cloud", "CLOUD").start();
    let edge = asking(&etcd, &optimizer).start();
    sees(&edge, 2);
    register_workflow(&[&edge, &cloud]);
    let reply = invoke(&edge, "wf", true).expect(200).json();
    assert_eq!(reply["Result"], json!({ "n": 3 }));
    assert_eq!(
        [ran_at(&reply, "A"), ran_at(&reply, "B")],
        ["edge", "cloud"]
    );
    assert!(reply["SchedulingTime"].as_f64().unwrap() > 0.0, "{reply}");
    nothing_stored(&etcd);

    let question = optimizer.received();
    assert_eq!(question.path, "/ilp");
    let recorded = recorded("workflow, ilp");
    let expected = recorded["peer_received"][0]["body"].as_str().unwrap();
    let expected: Value = serde_json::from_str(expected).unwrap();
    let keys = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&question.body), keys(&expected));
    assert_eq!(question.body["handling_node"], "edge");
    assert_eq!(question.body["cloud_nodes"], json!(["CLOUD"]));
    assert_eq!(question.body["task_memory"], expected["task_memory"]);
    assert_eq!(question.body["adj"], expected["adj"]);
}

#[test]
fn without_a_plan_tasks_run_locally() {
    let etcd = etcd();
    let optimizer = Peer::start(|number| match number {
        0 => Answer::status(500, "no idea"),
        1 => Answer::ok("{"),
        2 => Answer::ok(r#"{"A":"nowhere"}"#),
        _ => Answer::hang_up(),
    });
    let cloud = member(&etcd, "cloud", "CLOUD").start();
    let edge = asking(&etcd, &optimizer)
        .set("workflow.offloading.policy.ilp.placement.ttl", 100)
        .start();
    sees(&edge, 2);
    register_workflow(&[&edge, &cloud]);
    for _ in 0..4 {
        let reply = invoke(&edge, "wf", true).expect(200).json();
        assert_eq!(reply["Result"], json!({ "n": 3 }));
        assert_eq!([ran_at(&reply, "A"), ran_at(&reply, "B")], ["edge", "edge"]);
        optimizer.received();
    }
}

#[test]
fn the_optimiser_built_in_goes_where_it_is_cheap() {
    let etcd = etcd();
    let cloud = member(&etcd, "cloud", "CLOUD").start();
    for policy in ["ilp", "heftless"] {
        let edge = edge(&etcd)
            .set("registry.node.id", policy)
            .set("workflow.offloading.policy", policy)
            .set("workflow.offloading.policy.ilp.obj.cost", 1000)
            .set("workflow.offloading.policy.region.cost.edge", 1)
            .start();
        sees(&edge, 2);
        register_workflow(&[&edge, &cloud]);
        let reply = invoke(&edge, "wf", true).expect(200).json();
        assert_eq!(reply["Result"], json!({ "n": 3 }));
        assert_eq!(
            [ran_at(&reply, "A"), ran_at(&reply, "B")],
            ["cloud", "cloud"],
            "{policy}"
        );
        edge.post("/workflow/delete", &json!({ "Name": "wf" }))
            .expect(200);
        edge.post("/delete", &json!({ "Name": "inc" })).expect(200);
    }
}

#[test]
fn branches_of_a_parallel_can_run_on_different_nodes() {
    let etcd = etcd();
    let optimizer = Peer::start(|_| Answer::ok(r#"{"Left":"edge","Right":"CLOUD"}"#));
    let cloud = member(&etcd, "cloud", "CLOUD").start();
    let edge = asking(&etcd, &optimizer).start();
    sees(&edge, 2);
    create(&edge, &inc());
    let branch = |name: &str| json!({ "StartAt": name, "States": { name: { "Type": "Task", "Resource": "inc", "End": true } } });
    let definition = json!({
        "StartAt": "Both",
        "States": { "Both": {
            "Type": "Parallel", "Branches": [branch("Left"), branch("Right")], "End": true,
            "ResultSelector": { "both.$": "$" },
        } },
    });
    let source = BASE64.encode(definition.to_string());
    edge.post(
        "/workflow/create",
        &json!({ "Name": "par", "ASLSrc": source }),
    )
    .expect(200);
    eventually("the cloud to know the function", || {
        cloud.functions().contains(&"inc".to_owned()).then_some(())
    });
    let reply = invoke(&edge, "par", true).expect(200).json();
    assert_eq!(reply["Result"], json!({ "both": [{ "n": 2 }, { "n": 2 }] }));
    assert_eq!(
        [ran_at(&reply, "Left"), ran_at(&reply, "Right")],
        ["edge", "cloud"]
    );
}
