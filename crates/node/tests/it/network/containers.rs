//! The same in containers, whatever is in their images.

use super::*;
use crate::docker::image::{image, lambda_image};
use crate::docker::{containers, label};

#[test]
fn containers_reach_the_world_without_the_node() {
    let world = world();
    let own = own_server();
    for prestart in [0, 1] {
        let node = world
            .docker_node()
            .set("sandbox.prestart", prestart)
            .start();
        if prestart > 0 {
            // Another function of the kind, so that one is made ahead.
            node.create(&python("first", "def handler(p, c): pass\n"));
            let label = label(&node.storage());
            eventually("a container waits", || {
                (containers(&label) > 0).then_some(())
            });
        }
        reaches_the_world(&node, &own);
    }
}

#[test]
fn each_function_in_a_container_has_its_policy() {
    let world = world();
    keeps_to_policies(
        &world
            .docker_node()
            .set("network.deny", "10.9.0.0/16")
            .start(),
    );
}

/// Registers the program of an image.
fn register(node: &Node, name: &str, image: &str, network: Value) {
    let body = json!({
        "Name": name, "Runtime": "custom", "MemoryMB": 128, "CPUDemand": 0.0,
        "MaxConcurrency": 1, "Handler": "", "TarFunctionCode": "", "CustomImage": image,
        "Network": network,
    });
    node.post("/create", &body).expect(200);
}

#[test]
fn programs_of_images_have_their_policy() {
    let world = world();
    let own = own_server();
    let node = world.docker_node().start();
    let targets = [
        (json!([WORLD, 443]), true),
        (json!(["10.77.0.1", 9000]), false),
        (json!(["169.254.169.254", 80]), false),
    ];
    for (network, reaches) in [(json!("egress"), true), (json!("none"), false)] {
        let [server, lambda] = ["server", "lambda"].map(|kind| format!("{kind}-{reaches}"));
        register(&node, &server, image(), network.clone());
        for (target, allowed) in &targets {
            let came = node.invoke(&server, json!({"connect": target})).result();
            assert_eq!(came[0], json!(reaches && *allowed), "{target} {network}");
        }
        register(&node, &lambda, lambda_image(), network);
        let all: Vec<&Value> = targets.iter().map(|(target, _)| target).collect();
        let came = node.invoke(&lambda, json!({"connect": all})).result();
        let expected: Vec<bool> = targets.iter().map(|(_, it)| reaches && *it).collect();
        assert_eq!(came["connected"], json!(expected));
    }
    let nobody = own.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn nothing_of_a_killed_nodes_network_is_left() {
    let world = world();
    let before = state();
    let node = world.docker_node().start();
    node.create(&reach("f"));
    let reached = |node: &Node| attempt(node, "f", json!([["tcp", WORLD, 443]]));
    assert_eq!(reached(&node), json!(["hello"]));
    assert_eq!(state(), before, "while it runs, too");
    // The helper goes by itself, and the next one is another.
    let helper = eventually("the helper", || child_of(node.pid()));
    let stopped = node.kill9();
    eventually("the helper ends with its node", || {
        (!Path::new("/proc").join(helper.to_string()).exists()).then_some(())
    });
    assert_eq!(state(), before);
    let node = stopped.start();
    assert_eq!(reached(&node), json!(["hello"]));
}

#[test]
fn a_helper_that_dies_is_replaced() {
    let world = world();
    let node = world.docker_node().start();
    for name in ["before", "after"] {
        node.create(&reach(name));
        let came = attempt(&node, name, json!([["tcp", WORLD, 443]]));
        assert_eq!(came, json!(["hello"]), "{name}");
        let helper = eventually("the helper", || child_of(node.pid()));
        crate::support::machine::signal(helper, "KILL");
    }
    // What was made lives on.
    let came = attempt(&node, "before", json!([["tcp", WORLD, 443]]));
    assert_eq!(came, json!(["hello"]));
}

/// A node's only child that isn't a zombie: its helper.
fn child_of(node: u32) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let mut words = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        words.next() != Some("Z") && words.next() == Some(&node.to_string())
    })
}
