//! Settings of a fleet: who is in it, what its nodes share, and classes of calls.

use std::time::Duration;

use super::*;

#[test]
fn endpoints_of_etcd_are_hosts_with_ports() {
    let environment = |text: &str| load("a.yaml", &format!("etcd.address: '{text}'"), &[]);
    let (config, _) = environment("http://localhost:1, b.example:2379").unwrap();
    assert_eq!(config.etcd.endpoints, ["localhost:1", "b.example:2379"]);
    assert!(!config.etcd.uses_tls());
    let (config, _) = environment("https://localhost:1").unwrap();
    assert!(config.etcd.uses_tls());
    assert_eq!(config.etcd.addresses().collect::<Vec<_>>(), ["localhost:1"]);
    let (config, _) = environment("").unwrap();
    assert!(config.etcd.endpoints.is_empty());
    for wrong in [
        "a",
        "a:0",
        ":1",
        "ftp://localhost:1",
        "https://localhost",
        "user@a:1",
        "a:1/path",
        "a:x",
    ] {
        assert!(environment(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn peers_are_hosts_with_the_usual_port_or_another() {
    let read = |text: &str| load("a.yaml", &format!("federation.peers: {text}"), &[]);
    let (config, _) =
        read("[10.0.0.1, '10.0.0.2:1', edge.example, 'edge:2', '::1', '[::1]:3']").unwrap();
    let expected = [
        "10.0.0.1:9876",
        "10.0.0.2:1",
        "edge.example:9876",
        "edge:2",
        "[::1]:9876",
        "[::1]:3",
    ];
    assert_eq!(config.federation.peers, expected);
    assert!(config.is_in_fleet());
    let (config, _) = read("''").unwrap();
    assert!(!config.is_in_fleet());
    let (config, _) = read("a, b:1").unwrap();
    assert_eq!(config.federation.peers, ["a:9876", "b:1"]);
    let many = vec!["a"; 65].join(",");
    for wrong in [
        "a:0",
        ":1",
        "http://localhost",
        "a/b",
        "'a:x'",
        "'a b'",
        "[[a]]",
        "['a,b']",
        "[{a: 1}]",
        &many,
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_fleet_has_an_etcd_or_gossips_under_names_that_fit() {
    let problem = |text: &str| load("a.yaml", text, &[]).unwrap_err().to_string();
    let both = problem("federation.peers: a\netcd.address: b:1");
    assert!(both.contains("leave out one of them"), "{both}");
    let slash = problem("federation.peers: a\nregistry.area: A/B");
    assert!(slash.contains("registry.area"), "{slash}");
    let long = problem(&format!(
        "federation.peers: a\nregistry.node.id: {}",
        "x".repeat(200)
    ));
    assert!(long.contains("too long"), "{long}");
    let alone = "scheduler.policy: edgeonly";
    let (_, warnings) = load("a.yaml", alone, &[]).unwrap();
    assert_eq!(warnings.len(), 1);
    let text = format!("federation.peers: a\n{alone}");
    let (_, warnings) = load("a.yaml", &text, &[]).unwrap();
    assert_eq!(warnings, []);
}

#[test]
fn classes_are_read_by_name_in_any_notation() {
    let text = "qos.class.critical: {number: 1, utility: 2.5, deadline: 500ms, completion: 0.9}\n\
        qos:\n  class:\n    Batch.deadline: -1\n    batch:\n      penalty: 0.5\n\
        solver.evalinterval: 2s\nscheduler: {cloud.cost: 0.001, local.budget: 0.25}\n\
        metrics.bandwidth.cloud: 10\n";
    let environment = [("SERVERLEDGE_QOS_CLASS_BATCH_DROP_PENALTY", "3")];
    let (config, warnings) = load("c.yaml", text, &environment).unwrap();
    assert_eq!(warnings, []);
    let classes = config.qos.classes().unwrap();
    assert_eq!(classes.known(), "default (0), batch, critical (1)");
    let [default, batch, critical] = classes.all() else {
        panic!("{classes:?}");
    };
    assert_eq!(critical.deadline, Some(Duration::from_millis(500)));
    assert_eq!((critical.utility, critical.completion), (2.5, 0.9));
    assert_eq!((batch.deadline, batch.utility), (None, 1.0));
    assert_eq!((batch.penalty, batch.drop_penalty), (0.5, 3.0));
    assert_eq!((default.utility, default.deadline), (1.0, None));
    let qos = &config.qos;
    assert_eq!(qos.interval, Duration::from_secs(2));
    assert_eq!((qos.cloud_cost, qos.budget), (0.001, 0.25));
    assert_eq!(
        (qos.cloud_bandwidth_mbit, qos.edge_bandwidth_mbit),
        (10.0, 0.0)
    );
}

#[test]
fn classes_are_read_from_a_file_of_their_own_too() {
    let directory = tempfile::tempdir().unwrap();
    let classes = directory.path().join("serverledge-classes.json");
    let text = r#"[
        {"name": "Critical", "utility": 2.5, "maximumResponseTime": 0.5, "completedPercentage": 0.75},
        {"name": "batch", "utility": 0.1, "maximumResponseTime": -1},
        {"name": "plain"}
    ]"#;
    let read = |text: &str, config: &str| {
        std::fs::write(&classes, text).unwrap();
        std::fs::write(directory.path().join("serverledge-conf.yaml"), config).unwrap();
        let places = [directory.path().to_path_buf()];
        let loaded = Config::load(Files::default(), variables(&[]), &places);
        loaded.map(|(config, _)| config.qos.classes().unwrap().all().to_vec())
    };
    // What the configuration says of a class wins.
    let all = read(text, "qos.class.critical.utility: 3").unwrap();
    let [_, batch, critical, plain] = all.as_slice() else {
        panic!("{all:?}");
    };
    assert_eq!((batch.utility, batch.deadline), (0.1, None));
    assert_eq!((critical.utility, critical.completion), (3.0, 0.75));
    assert_eq!(critical.deadline, Some(Duration::from_millis(500)));
    assert_eq!(plain, &serverledge_core::qos::Class::new("plain"));
    for (text, why) in [
        ("{}", "expected a list"),
        (r#"[{"name": "a.b"}]"#, "no dots"),
        (r#"[{"utility": 1}]"#, "missing field `name`"),
        (r#"[{"name": "a", "utilty": 1}]"#, "unknown field `utilty`"),
        (
            r#"[{"name": "a", "completedPercentage": 75}]"#,
            "from 0 to 1",
        ),
        (r#"[{"name": "a"}, {"name": "A"}]"#, "set twice"),
    ] {
        let error = read(text, "").unwrap_err().to_string();
        assert!(
            error.contains(why) && error.contains("serverledge-classes.json"),
            "{error}"
        );
    }
}

#[test]
fn classes_that_make_no_sense_are_refused() {
    for (text, expected) in [
        ("qos.class.a.completion: 1.5", "from 0 to 1"),
        ("qos.class.a.utility: -1", "from 0 to"),
        ("qos.class.a.deadline: soon", "-1: none"),
        ("qos.class.a.number: -1", "an integer"),
        (
            "qos.class.a.utilty: 1",
            "did you mean qos.class.<name>.utility?",
        ),
        (
            "qos.class: {a.number: 3, b.number: 3}",
            "both have the number 3",
        ),
    ] {
        let found = problems(text, &[]);
        assert!(found[0].contains(expected), "{text}: {found:?}");
    }
    let many: String = (0..70)
        .map(|n| format!("qos.class.c{n}.number: {n}\n"))
        .collect();
    assert!(problems(&many, &[])[0].contains("70 classes"));
}

#[test]
fn secrets_are_long_enough_not_alone_and_not_shown() {
    let problem = |text: &str| load("a.yaml", text, &[]).unwrap_err().to_string();
    let short = problem("federation.secret: short");
    assert!(short.contains("federation.secret"), "{short}");
    let alone = problem("etcd.username: node");
    assert!(alone.contains("belong together"), "{alone}");
    let keyless = problem("etcd.tls.certificate: /a.pem");
    assert!(keyless.contains("belong together"), "{keyless}");
    let secret = "nobody else knows this";
    let text = format!("federation.secret: {secret}\netcd.username: a\netcd.password: {secret}");
    let (config, _) = load("a.yaml", &text, &[]).unwrap();
    assert_eq!(config.federation.secret.as_ref().unwrap().0, secret);
    assert!(!format!("{config:?}").contains(secret));
}
