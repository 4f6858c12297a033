//! Configurations right and wrong. `load` writes one file and reads it back with an environment.

use std::time::Duration;

use serverledge_core::Language;

use serverledge_core::placement::Policy;

use super::*;

mod fleet;

type Loaded = Result<(Config, Vec<Warning>), ConfigError>;

fn load(name: &str, text: &str, environment: &[(&str, &str)]) -> Loaded {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    Config::load(Some(&*path).into(), variables(environment), &[])
}

fn variables(environment: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    let home = [("HOME", "/home/somebody")];
    let all: Vec<_> = home.iter().chain(environment).copied().collect();
    all.into_iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
}

fn good(name: &str, text: &str) -> Config {
    let (config, warnings) = load(name, text, &[]).unwrap();
    assert_eq!(warnings, [], "{text}");
    config
}

/// The problems of a YAML file, without where they are.
fn problems(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let error = load("c.yaml", text, environment).unwrap_err();
    let one = |problem: &Problem| match &problem.key {
        Some(key) => format!("{key} {}", problem.text),
        None => problem.text.clone(),
    };
    error.problems.iter().map(one).collect()
}

#[test]
fn the_table_agrees_with_the_structs() {
    let mut names = std::collections::HashSet::new();
    for key in describe() {
        assert!(
            names.insert(key.key.replace(['.', '_'], "_")),
            "{} is there twice",
            key.key
        );
        assert_eq!(key.key, key.key.to_lowercase());
        assert!(
            key.doc.ends_with('.') && !key.kind.is_empty(),
            "{}",
            key.key
        );
        if key.default.is_empty() || key.default.starts_with('(') || key.no_effect.is_some() {
            continue;
        }
        let mut config = Config::default();
        let found = keys::find(key.key).unwrap();
        let Effect::Set(set) = &found.key.effect else {
            continue;
        };
        set.apply(&mut config, "", &Scalar::Text(key.default.to_string()))
            .unwrap();
        assert_eq!(config, Config::default(), "default of {}", key.key);
    }
}

#[test]
fn without_a_file_there_are_defaults() {
    let (config, warnings) = Config::load(Files::default(), variables(&[]), &[]).unwrap();
    let config = Config {
        storage: Storage::default(),
        ..config
    };
    assert_eq!(config, Config::default());
    assert_eq!(warnings, []);
    assert_eq!(good("empty.yaml", "\n").api, Api::default());
    assert_eq!(good("comments.yaml", "# nothing\n").api, Api::default());
    assert_eq!(good("nothing.json", "{}").api, Api::default());
    assert_eq!(
        good("null.yaml", "api:\n  port:\nscheduler:\n").api,
        Api::default()
    );
}

#[test]
fn all_formats_say_the_same() {
    let files = [
        (
            "a.yaml",
            "api:\n  port: 8080\ncontainer.pool.memory: 4096\ncontainer:\n  pool.cpus: 2.5\n",
        ),
        (
            "a.yml",
            "API.Port: 8080\nContainer: {Pool: {MEMORY: 4096, cpus: 2.5}}\n",
        ),
        (
            "a.json",
            r#"{"api": {"port": "8080"}, "container.pool": {"memory": 4096.0, "cpus": 2.5}}"#,
        ),
        (
            "a.toml",
            "api.port = 8080\n\"container.pool.memory\" = 4096\n[container.pool]\ncpus = 2.5\n",
        ),
        (
            "a.properties",
            "# c\n! c\napi.port=8080\ncontainer.pool.memory : 40\\\n  96\n container.pool.cpus 2.5",
        ),
        (
            "a.prop",
            "\u{feff}api.port = 8080\r\ncontainer.pool.memory=4096\r\ncontainer.pool.cpus=2\\u002e5\r\n",
        ),
    ];
    for (name, text) in files {
        let config = good(name, text);
        assert_eq!(config.api.port, 8080, "{name}");
        assert_eq!(config.container.pool_memory_mb, 4096, "{name}");
        assert_eq!(config.container.pool_cpus, 2.5, "{name}");
    }
}

#[test]
fn values_are_read_leniently_where_nothing_is_lost() {
    let config = good(
        "a.yaml",
        "registry: {area: 12, node.id: true}\n\
         api: {body_max: 1MiB, create_body_max: '2 kB', insecure: 1}\n\
         janitor.interval: 500ms\n\
         container.expiration: 2m\n\
         function.timeout: 1.5\n\
         log.format: JSON\n\
         sandbox.isolation: process\n\
         runtime.MyPython.language: python\n\
         runtime.mypython.path: /usr/bin/python3\n\
         runtime: {\"node.js\": {language: nodejs}}\n",
    );
    assert_eq!(config.registry.area, "12");
    assert_eq!(config.registry.node_id.as_deref(), Some("true"));
    assert_eq!(
        (config.api.body_max, config.api.create_body_max),
        (1 << 20, 2000)
    );
    assert!(config.api.insecure);
    assert_eq!(config.janitor.interval, Duration::from_millis(500));
    assert_eq!(config.container.expiration, Duration::from_secs(120));
    assert_eq!(config.function.timeout, Duration::from_millis(1500));
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.sandbox.isolation, Isolation::Process);
    let python = &config.runtimes["mypython"];
    assert_eq!(python.language, Some(Language::Python));
    assert_eq!(python.path.as_deref(), Some(Path::new("/usr/bin/python3")));
    assert_eq!(config.runtimes["node.js"].language, Some(Language::Node));
}

#[test]
fn the_environment_wins() {
    let environment = [
        ("SERVERLEDGE_API_PORT", "99"),
        ("SERVERLEDGE_SCHEDULER_STARTS_MAX", "3"),
        ("SERVERLEDGE_ASYNC_PENDING_MAX", "7"),
        ("SERVERLEDGE_RUNTIME_MY_PY_PATH", "/opt/py"),
        ("SERVERLEDGE_JANITOR_INTERVAL", ""),
        // The client's, and what Kubernetes says about a service of our name.
        ("SERVERLEDGE_HOST", "example.org"),
        ("SERVERLEDGE_PORT", "tcp://10.0.0.1:1323"),
        ("SERVERLEDGE_TOKEN", "secret"),
        ("SERVERLEDGE_SERVICE_HOST", "10.0.0.1"),
        ("SERVERLEDGE_SERVICE_PORT_HTTP", "1323"),
        ("SERVERLEDGE_PORT_1323_TCP_ADDR", "10.0.0.1"),
        ("OTHER_API_PORT", "1"),
    ];
    let (config, warnings) = load("a.yaml", "api.port: 5\n", &environment).unwrap();
    assert_eq!(warnings, []);
    assert_eq!((config.api.port, config.scheduler.starts_max), (99, 3));
    assert_eq!(config.async_calls.pending_max, 7);
    assert_eq!(
        config.runtimes["my_py"].path.as_deref(),
        Some(Path::new("/opt/py"))
    );
    assert_eq!(config.janitor, Janitor::default());
}

#[test]
fn every_key_has_its_variable() {
    for key in describe() {
        let variable = key
            .key
            .replace('.', "_")
            .replace("<name>", "some")
            .to_uppercase();
        let found = keys::find_variable(&variable).map(|found| found.key.name);
        assert_eq!(found, Some(key.key), "{variable}");
    }
}

#[test]
fn unknown_keys_get_a_suggestion() {
    let check = |text: &str, expected: &str| {
        let problems = problems(text, &[]);
        assert!(problems[0].contains(expected), "{problems:?}");
    };
    check(
        "api.prot: 1",
        "api.prot is not a setting; did you mean api.port?",
    );
    check(
        "scheduler: {queue: {capcity: 1}}",
        "did you mean scheduler.queue.capacity?",
    );
    check(
        "Container.Pool.Memmory: 1",
        "did you mean container.pool.memory?",
    );
    check("api.timeout_max: 1", "did you mean function.timeout_max?");
    check("something.else.entirely: 1", "`serverledge config` lists");
    check(
        "api: 5",
        "api is a section, not a setting: it has api.host, api.port",
    );
    check("api.port.x: 5", "did you mean api.port?");
    check("runtime.x.lang: python", "is not a setting");
    check("runtime..path: /x", "is not a setting");
    let problems = problems("", &[("SERVERLEDGE_API_PROT", "1")]);
    assert_eq!(
        problems,
        ["SERVERLEDGE_API_PROT is not a setting; did you mean SERVERLEDGE_API_PORT?"]
    );
}

#[test]
fn docker_is_asked_for_and_its_images_named() {
    let config = good(
        "x.yaml",
        "sandbox.backend: docker\nruntime.python314.image: me/python:3",
    );
    assert_eq!(config.sandbox.backend, SandboxBackend::Docker);
    assert_eq!(
        config.runtimes["python314"].image.as_deref(),
        Some("me/python:3")
    );
    let wrong = problems("runtime.x.image: ../y", &[]);
    assert!(wrong[0].contains("the name of an image"), "{wrong:?}");
    let both = problems("sandbox: {backend: docker, isolation: process}", &[]);
    assert!(
        both[0].contains("leave sandbox.isolation at auto"),
        "{both:?}"
    );
}

#[test]
fn networks_are_separated_by_commas() {
    let networks = |text: &str| {
        let config = good("x.yaml", &format!("code.url.networks: {text}"));
        let shown = config.code.url.networks.iter().map(ToString::to_string);
        shown.collect::<Vec<_>>()
    };
    assert_eq!(networks("127.0.0.1"), ["127.0.0.1/32"]);
    assert_eq!(
        networks("10.0.0.0/8,fd00::/8 ,"),
        ["10.0.0.0/8", "fd00::/8"]
    );
    assert!(networks("''").is_empty());
}

#[test]
fn the_object_store_is_told_by_settings_or_by_the_variables_of_others() {
    let config = good(
        "x.yaml",
        "object_store.url: s3://codes/a/b/\nobject_store.endpoint: https://s3.example:9000\n\
         object_store: {access_key: me, secret_key: hush}\n\
         workflow.s3.buckets: data, s3://other/in/\n",
    );
    let url = config.object_store.url.as_ref().unwrap();
    assert_eq!(url.to_string(), "s3://codes/a/b");
    let [data, other] = config.workflow.s3_buckets.as_slice() else {
        panic!("{:?}", config.workflow.s3_buckets);
    };
    assert!(data.covers("data", "x") && data.covers("data", ""));
    assert!(other.covers("other", "in/x") && !other.covers("other", "in"));
    assert!(!other.covers("other", "inner/x") && !other.covers("data", "in/x"));
    assert!(!format!("{config:?}").contains("hush"));
    let environment = [
        ("AWS_ACCESS_KEY_ID", "me"),
        ("AWS_SECRET_ACCESS_KEY", "hush"),
        ("AWS_SESSION_TOKEN", "for a while"),
        ("AWS_DEFAULT_REGION", "eu-south-1"),
        ("AWS_ENDPOINT_URL", "https://s3.example"),
    ];
    // For somebody else, unless there is a store.
    let (config, _) = load("x.yaml", "", &environment).unwrap();
    assert_eq!(config.object_store, ObjectStore::default());
    let used = "object_store.url: s3://codes";
    let (config, _) = load("x.yaml", used, &environment).unwrap();
    let store = &config.object_store;
    assert_eq!(store.access_key.as_deref(), Some("me"));
    assert_eq!(store.session_token, Some(Hidden("for a while".into())));
    assert_eq!(store.region, "eu-south-1");
    assert_eq!(store.endpoint.as_deref(), Some("https://s3.example"));
    // Keys of one are not completed with those of another.
    let mixed = problems(
        &format!("{used}\nobject_store.access_key: you"),
        &environment,
    );
    assert!(mixed[0].contains("belong together"), "{mixed:?}");
    for (text, expected) in [
        (
            "object_store.endpoint: http://s3.example",
            "object_store.allow_http",
        ),
        (
            "object_store.endpoint: s3.example",
            "give http:// or https://",
        ),
        (
            "object_store.endpoint: https://s3.example@s3.example",
            "give http:// or https://",
        ),
        (
            "object_store.url: codes",
            "a bucket like s3://bucket/prefix",
        ),
        (
            "object_store.url: s3://codes/../x",
            "a bucket like s3://bucket/prefix",
        ),
        (
            "workflow.s3.buckets: 'a b'",
            "buckets like bucket or bucket/prefix",
        ),
    ] {
        let problems = problems(text, &[]);
        assert!(problems[0].contains(expected), "{text}: {problems:?}");
    }
}

#[test]
fn wrong_values_say_what_was_expected() {
    let check = |text: &str, expected: &str| assert_eq!(problems(text, &[]), [expected]);
    let port = "api.port expected an integer from 0 to 65535, found";
    check("api.port: abc", &format!("{port} \"abc\""));
    check("api.port: 70000", &format!("{port} 70000"));
    check("api.port: -1", &format!("{port} -1"));
    check("api.port: 1.5", &format!("{port} 1.5"));
    check("api.port: true", &format!("{port} true"));
    check("api.port: [1]", &format!("{port} a list"));
    check("api.port: ''", &format!("{port} \"\""));
    check(
        "api.insecure: yes please",
        "api.insecure expected true or false, found \"yes please\"",
    );
    check(
        "log.format: xml",
        "log.format expected one of text, json, found \"xml\"",
    );
    check(
        "janitor.interval: 0",
        "janitor.interval expected seconds, as a number or like 500ms, from 0.01 to 315360000, found 0",
    );
    check(
        "container.pool.cpus: .nan",
        "container.pool.cpus expected a number from 0.001 to 65536, found NaN",
    );
    check(
        "code.url.networks: 10.0.0.0/8, example",
        "code.url.networks expected addresses or networks like 10.0.0.0/8, with commas, \
         found \"10.0.0.0/8, example\"",
    );
    check(
        "runtime.x.path: bin/x",
        "runtime.x.path expected an absolute path, found \"bin/x\"",
    );
    check(
        "runtime.x.language: cobol",
        "runtime.x.language expected one of python, nodejs, java, found \"cobol\"",
    );
    check(
        "api.port: 1\nAPI: {Port: 2}",
        "api.port is set twice, to 1 and to 2",
    );
}

#[test]
fn all_problems_are_reported_at_once() {
    let error = load(
        "a.toml",
        "api.port = 'x'\napi.prot = 1\nfunction.timeout = 100\nfunction.timeout_max = 50\n",
        &[("SERVERLEDGE_LOG_FORMAT", "xml")],
    )
    .unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("the configuration has 4 problems:\n"),
        "{text}"
    );
    for part in [
        "a.toml",
        "api.port",
        "api.prot",
        "the environment",
        "function.timeout_max",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn listening_elsewhere_must_be_meant() {
    for host in ["0.0.0.0", "192.0.2.1", "'::'", "'2001:db8::1'"] {
        let problems = problems(&format!("api.host: {host}"), &[]);
        assert!(problems[0].contains("api.insecure"), "{problems:?}");
        good("a.yaml", &format!("api.host: {host}\napi.insecure: true"));
    }
    for host in ["127.0.0.1", "127.1.2.3", "'::1'", "localhost"] {
        good("a.yaml", &format!("api.host: {host}"));
    }
}

#[test]
fn the_originals_keys_are_accepted() {
    let text = "etcd.address: localhost:2379\n\
        cache: {size: 10, cleanup: 0}\n\
        loadbalancer.policy: x\n\
        scheduler.policy: edgecloud\n\
        workflow.offloading.policy: ilp\n\
        workflow.offloading.policy.region.cost: {ROME: 0.5}\n\
        workflow: {offloading.policy.threshold: 0.5}\n";
    let (config, warnings) = load("a.yaml", text, &[]).unwrap();
    let text: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 4, "{text:#?}");
    assert!(text[0].starts_with("cache.size (in ") && text[0].contains("no effect"));
    assert_eq!(config.etcd.endpoints, ["localhost:2379"]);
    assert!(
        text.iter()
            .any(|line| line.contains("edgecloud has nowhere to send calls")),
        "{text:#?}"
    );
    assert_eq!(config.scheduler.policy, "edgecloud");
    for (policy, count) in [
        ("default", 0),
        ("LocalOnly", 0),
        ("cloudonly", 1),
        ("qosaware", 1),
        ("fastest", 1),
    ] {
        let (_, warnings) = load("a.yaml", &format!("scheduler.policy: {policy}"), &[]).unwrap();
        assert_eq!(warnings.len(), count, "{policy}: {warnings:?}");
    }
}

#[test]
fn the_originals_keys_of_placement_are_values_and_sections_at_once() {
    let text = "workflow.offloading.policy: ilp\n\
        workflow.offloading.policy.optimizer.host: solver.example\n\
        workflow.offloading.policy.threshold: 0.5\n\
        workflow.offloading.policy.threshold.offloaded.max: 3\n\
        workflow.offloading.policy.region.cost: {ROME: 1, milan: '0.25'}\n\
        workflow.offloading.policy.ilp: {placement.ttl: 4, obj: {data: 0}}\n";
    let (config, warnings) = load("a.yaml", text, &[]).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let placement = config.placement;
    assert_eq!(placement.policy, Policy::Ilp);
    assert_eq!(placement.optimizer_host.as_deref(), Some("solver.example"));
    assert_eq!(
        (placement.threshold.load_max, placement.threshold.tasks_max),
        (0.5, 3)
    );
    // An integer counts too.
    assert_eq!(
        (placement.costs.of("Rome"), placement.costs.of("MILAN")),
        (1.0, 0.25)
    );
    assert_eq!((placement.placement_uses, placement.weights.data), (4, 0.0));
    let wrong = problems("workflow.offloading.policy: best", &[]);
    assert!(wrong[0].contains("heftless"), "{wrong:?}");
}

#[test]
fn broken_files_are_named() {
    let check = |name: &str, text: &str, expected: &str| {
        let error = load(name, text, &[]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(expected), "{error}");
    };
    check("a.yaml", "a: [", "it is not YAML");
    check(
        "b.yaml",
        "just text",
        "expected settings, found \"just text\"",
    );
    check("c.json", "{", "it is not JSON");
    check("d.toml", "a = ", "it is not TOML");
    check("e.hcl", "a = 1", "HCL is not supported");
    check("f.ini", "a = 1", "must end in .json, .toml, .yaml");
    check("g", "a = 1", "must end in");
    let missing = Path::new("nowhere/at/all.yaml");
    let error = Config::load(Some(missing).into(), variables(&[]), &[])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("nowhere/at/all.yaml") && error.contains("can't be read"),
        "{error}"
    );
}

#[test]
fn files_are_searched_in_order_and_explicit_ones_win() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("1"), directory.path().join("2"));
    std::fs::create_dir_all(first.join("serverledge-conf.json")).unwrap();
    std::fs::create_dir_all(&second).unwrap();
    let places = [
        directory.path().join("missing"),
        first.clone(),
        second.clone(),
    ];
    let port = |explicit: Option<&Path>| {
        Config::load(explicit.into(), variables(&[]), &places)
            .unwrap()
            .0
            .api
            .port
    };
    assert_eq!(port(None), 1323);
    std::fs::write(second.join("serverledge-conf.yml"), "api.port: 4").unwrap();
    assert_eq!(port(None), 4);
    std::fs::write(second.join("serverledge-conf.toml"), "api.port = 3").unwrap();
    assert_eq!(port(None), 3);
    std::fs::write(first.join("serverledge-conf.props"), "api.port=2").unwrap();
    assert_eq!(port(None), 2);
    let explicit = second.join("other.yaml");
    std::fs::write(&explicit, "api.port: 1").unwrap();
    assert_eq!(port(Some(&explicit)), 1);
}

#[test]
fn a_user_without_a_home_must_say_where_data_goes() {
    let load = |environment: &[(&str, &str)]| {
        let all = environment
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        Config::load(Files::default(), all, &[]).map(|(config, _)| config.storage.path)
    };
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if is_root {
        assert_eq!(load(&[]).unwrap(), Path::new("/var/lib/serverledge"));
    } else {
        assert!(load(&[]).unwrap_err().to_string().contains("storage.path"));
        let xdg = load(&[("HOME", "/h"), ("XDG_DATA_HOME", "/x")]).unwrap();
        assert_eq!(xdg, Path::new("/x/serverledge"));
        let home = load(&[("HOME", "/h"), ("XDG_DATA_HOME", "relative")]).unwrap();
        assert_eq!(home, Path::new("/h/.local/share/serverledge"));
    }
    assert_eq!(
        load(&[("SERVERLEDGE_STORAGE_PATH", "/data")]).unwrap(),
        Path::new("/data")
    );
    assert!(
        load(&[("SERVERLEDGE_STORAGE_PATH", "data")])
            .unwrap()
            .is_absolute()
    );
}
