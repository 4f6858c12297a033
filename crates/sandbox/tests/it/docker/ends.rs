//! What ends containers, what keeps them from starting, and that nothing is left.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use serverledge_sandbox::docker::{DockerBackend, Engine, EngineError, reap};
use serverledge_sandbox::{CallError, CreateError, Exit};

use super::engine::{Containers, config, containers, engine, machine};
use super::image::{docker, image};
use crate::harness::{Machine, invoke};

const ONE: &str = "def handler(p, c): return 1";

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1_200 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not in time: {what}");
}

fn is_clear(machine: &Containers) -> bool {
    machine.containers().is_empty() && machine.directories() == 0
}

#[tokio::test]
async fn dropping_destroying_and_giving_up_remove_everything() {
    let machine = machine().await;
    let sandbox = machine.0.create(machine.spec(ONE)).await.unwrap();
    assert_eq!(machine.containers().len(), 1);
    drop(sandbox);
    until("a dropped sandbox is gone", || is_clear(&machine)).await;

    let sandbox = machine.0.create(machine.spec(ONE)).await.unwrap();
    sandbox.destroy().await;
    sandbox.destroy().await;
    assert_eq!(sandbox.ended().await.exit, Exit::Destroyed);
    assert!(matches!(
        invoke(&sandbox, json!({})).await,
        Err(CallError::Stale(_) | CallError::Died(_))
    ));
    until("a destroyed sandbox is gone", || is_clear(&machine)).await;

    // Starts that are given up halfway.
    for wait_ms in [0, 5, 20, 60, 150] {
        let create = machine.0.create(machine.spec(ONE));
        let _ = tokio::time::timeout(Duration::from_millis(wait_ms), create).await;
    }
    until("starts given up are gone", || is_clear(&machine)).await;

    // Starts that fail.
    let mut slow = machine.spec("import time\ntime.sleep(60)");
    slow.timeout_start = Duration::from_secs(2);
    let error = machine.0.create(slow).await.map(drop).unwrap_err();
    assert!(matches!(error, CreateError::TimedOut(_)), "{error}");
    let error = machine.0.create(machine.spec("1 / 0")).await.map(drop);
    let error = error.unwrap_err();
    assert!(matches!(&error, CreateError::Load(failure) if failure.kind == "ZeroDivisionError"));
    until("starts that failed are gone", || is_clear(&machine)).await;

    // What somebody else removes has ended.
    let sandbox = machine.0.create(machine.spec(ONE)).await.unwrap();
    docker(&["rm", "-f", &machine.containers()[0]]);
    let end = tokio::time::timeout(Duration::from_secs(60), sandbox.ended());
    end.await.expect("its end is not seen");
    machine.0.backend.shutdown().await;
    assert!(is_clear(&machine));
}

#[tokio::test]
async fn images_that_are_of_no_use_are_told() {
    let machine = machine().await;
    let refused = async |image: &str, interpreter: &str| {
        let mut spec = machine.spec(ONE);
        spec.image = Some(image.to_owned());
        spec.interpreter = interpreter.into();
        let error = machine.0.create(spec).await.map(drop).unwrap_err();
        assert!(matches!(error, CreateError::Image { .. }), "{error}");
        error.to_string()
    };
    let error = refused("serverledge-test/none", "python3").await;
    assert!(
        error.contains("`docker pull serverledge-test/none`"),
        "{error}"
    );
    let error = refused("../containers", "python3").await;
    assert!(error.contains("its name has"), "{error}");
    let error = refused(image(), "no-such-program").await;
    assert!(error.contains("lacks the program"), "{error}");
    assert!(error.contains("no-such-program"), "{error}");
    machine.0.backend.shutdown().await;
    assert!(is_clear(&machine));
}

#[tokio::test]
async fn an_engine_that_is_absent_or_hangs_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let error = Engine::connect(&socket).await.map(drop).unwrap_err();
    assert!(matches!(error, EngineError::Absent { .. }), "{error}");
    let hanging = tokio::net::UnixListener::bind(&socket).unwrap();
    let error = Engine::connect(&socket).await.map(drop).unwrap_err();
    assert!(matches!(error, EngineError::Hangs { .. }), "{error}");
    drop(hanging);
    let error = Engine::connect(&socket).await.map(drop).unwrap_err();
    assert!(matches!(error, EngineError::Absent { .. }), "{error}");
}

/// The stand-in for a node that is killed: another process, this test binary again.
#[tokio::test]
async fn what_a_killed_node_leaves_is_reaped() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let exe = std::env::current_exe().unwrap();
    let mut node = std::process::Command::new(exe)
        .args(["--exact", "docker::ends::victim", "--nocapture"])
        .env("VICTIM_DOCKER_STATE", &state)
        .spawn()
        .unwrap();
    until("the victim is up", || state.join("up").exists()).await;
    node.kill().unwrap();
    node.wait().unwrap();
    assert_eq!(containers(&state).len(), 3);
    let other = machine().await;
    let sandbox = other.0.create(other.spec(ONE)).await.unwrap();

    let engine = engine().await;
    let reaped = reap(&engine, &state).await.unwrap();
    assert_eq!((reaped.sandboxes, reaped.problems), (3, Vec::new()));
    assert_eq!(containers(&state), Vec::<String>::new());
    assert_eq!(
        std::fs::read_dir(state.join("sandboxes")).unwrap().count(),
        0
    );
    assert_eq!(reap(&engine, &state).await.unwrap(), Default::default());
    // Another node's are not touched.
    assert_eq!(invoke(&sandbox, json!({})).await.unwrap(), Ok(json!(1)));
    other.0.backend.shutdown().await;
}

#[tokio::test]
async fn victim() {
    let Some(state) = std::env::var_os("VICTIM_DOCKER_STATE") else {
        return; // not a test of its own
    };
    let state = Path::new(&state);
    let backend = DockerBackend::start(engine().await, config(state))
        .await
        .unwrap();
    let dir = tempfile::tempdir_in(state).unwrap();
    let machine = Containers(Machine::new(backend, dir));
    let mut sandboxes = Vec::new();
    for spec in [machine.spec(ONE), machine.spec(ONE), machine.own()] {
        sandboxes.push(machine.0.create(spec).await.unwrap());
    }
    let temporary = state.join("up.new");
    std::fs::write(&temporary, "").unwrap();
    std::fs::rename(temporary, state.join("up")).unwrap();
    std::future::pending().await
}
