//! Java functions, compiled here by the machine's own JDK.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::http::Response;
use crate::support::{Node, eventually, node};

const EXAMPLE: &str = "../../examples/java/HelloFunction.java";

fn run(program: &str, arguments: &[&str], dir: &Path) {
    let mut command = Command::new(program);
    let output = command.args(arguments).current_dir(dir).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {told}");
}

/// The classes of these sources, each a name and its text.
fn classes(sources: &[(&str, &str)]) -> TempDir {
    let (dir, from) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut arguments = vec!["-proc:none", "-nowarn", "-parameters", "-d"];
    arguments.push(dir.path().to_str().unwrap());
    for (name, source) in sources {
        std::fs::write(from.path().join(name), source).unwrap();
        arguments.push(name);
    }
    run("/usr/bin/javac", &arguments, from.path());
    dir
}

fn tar(dir: &Path) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all("", dir).unwrap();
    archive.into_inner().unwrap()
}

/// The body of `/create`.
fn function(name: &str, handler: &str, code: &[u8]) -> Value {
    json!({
        "Name": name, "Runtime": "java21", "MemoryMB": 128, "CPUDemand": 0.0,
        "MaxConcurrency": 1, "Handler": handler, "TarFunctionCode": BASE64.encode(code),
    })
}

#[track_caller]
fn create(node: &Node, body: &Value) {
    node.post("/create", body).expect(200);
}

fn call(node: &Node, name: &str, params: &Value) -> Response {
    let request = json!({ "Params": params, "ReturnOutput": true });
    node.post(&format!("/invoke/{name}"), &request)
}

/// What a call returns.
#[track_caller]
fn result(node: &Node, name: &str, params: &Value) -> Value {
    call(node, name, params).result()
}

#[test]
fn the_example_runs_as_classes_and_as_a_jar() {
    let node = node().start();
    let source = std::fs::read_to_string(EXAMPLE).unwrap();
    let dir = classes(&[("HelloFunction.java", &source)]);
    create(&node, &function("hello", "HelloFunction", &tar(dir.path())));
    let message = "Hello from Serverledge!";
    let expected = json!({ "message": message, "a": 2, "b": 3.5, "sum": 5.5 });
    let params = json!({ "a": 2, "b": 3.5 });
    let first = call(&node, "hello", &params);
    assert_eq!(first.result(), expected);
    let second = call(&node, "hello", &json!(null));
    assert_eq!(second.result(), json!({ "message": message }));
    assert_eq!(second.json()["IsWarmStart"], json!(true));

    let jar = tempfile::tempdir().unwrap();
    let path = jar.path().join("hello.jar");
    let arguments = ["--create", "--file", path.to_str().unwrap(), "-C", ".", "."];
    run("/usr/bin/jar", &arguments, dir.path());
    // As the archive itself, for it is a zip, and as a file in one.
    let bare = std::fs::read(&path).unwrap();
    create(&node, &function("bare", "HelloFunction::handler", &bare));
    assert_eq!(result(&node, "bare", &params), expected);
    create(
        &node,
        &function("inside", "HelloFunction", &tar(jar.path())),
    );
    assert_eq!(result(&node, "inside", &params), expected);
}

/// With every JDK that is on the machine, whatever its version.
#[test]
fn the_example_runs_on_each_jdk() {
    let source = std::fs::read_to_string(EXAMPLE).unwrap();
    let dir = classes(&[("HelloFunction.java", &source)]);
    let mut homes = BTreeSet::new();
    for entry in std::fs::read_dir("/usr/lib/jvm").unwrap() {
        let java = entry.unwrap().path().join("bin/java");
        homes.extend(serverledge_sandbox::java::find(&java).map(|jdk| jdk.home));
    }
    assert!(!homes.is_empty());
    let mut node = node();
    for (number, home) in homes.iter().enumerate() {
        node = node
            .set(&format!("runtime.mine{number}.language"), "java")
            .set(
                &format!("runtime.mine{number}.path"),
                home.join("bin/java").display(),
            );
    }
    let node = node.start();
    for (number, home) in homes.iter().enumerate() {
        let name = format!("f{number}");
        let mut body = function(&name, "HelloFunction", &tar(dir.path()));
        body["Runtime"] = json!(format!("mine{number}"));
        create(&node, &body);
        let reply = result(&node, &name, &json!({ "a": 1, "b": 2 }));
        assert_eq!(reply["sum"], json!(3.0), "{}", home.display());
    }
}

const MANY: &str = r#"
package some.place;
import java.math.BigInteger;
import java.util.*;

public class Many {
    static int calls = 0;
    int own = 0;
    record Point(int x, List<String> names) {}
    enum Side { LEFT }

    public Object count(Map<String, Object> params) { own++; return List.of(++calls, own); }
    public Object echo(Object params) { return params; }
    public static Object fixed(Map<String, ?> params, Map<String, ?> context) {
        return context.keySet().toString();
    }
    public Object loaded(String name) { return "of a string"; }
    public Object loaded(Object params) { return "of one"; }
    public Object loaded(Object params, Object context) { return "of objects"; }
    public Object loaded(Map<String, Object> params, Map<String, Object> context) { return "of maps"; }
    public Object types(Map<String, Object> params) {
        Map<String, String> types = new TreeMap<>();
        params.forEach((name, value) -> types.put(name, value == null ? "null" : value.getClass().getSimpleName()));
        return types;
    }
    public Object values(Object params) {
        Map<Object, Object> all = new LinkedHashMap<>();
        all.put("array", new int[] {1, 2});
        all.put("strings", new String[] {"a", null});
        all.put("record", new Point(1, List.of("n")));
        all.put("enum", Side.LEFT);
        all.put("optional", Optional.of(1.5f));
        all.put("big", BigInteger.TWO.pow(80));
        all.put(7, 'c');
        all.put("surrogate", "\ud800 \ud83d\ude00 \u0001");
        return all;
    }
    public Object not(Map<String, Object> params) { return Double.NaN; }
    public Object object(Map<String, Object> params) { return new Object(); }
    public Object circle(Map<String, Object> params) {
        List<Object> list = new ArrayList<>();
        list.add(list);
        return list;
    }
    public Object print(Map<String, Object> params) throws Exception {
        System.out.println("out \u00fc");
        System.err.print("err");
        Thread thread = new Thread(() -> System.out.print("thread"));
        thread.start();
        thread.join();
        return null;
    }
    public Object fail(Map<String, Object> params) {
        try {
            throw new java.io.IOException("the cause");
        } catch (java.io.IOException error) {
            throw new IllegalStateException("the message", error);
        }
    }
    public Object odd(Map<String, Object> params) {
        throw new RuntimeException() { @Override public String getMessage() { throw this; } };
    }
    public Object leave(Map<String, Object> params) { System.exit(7); return null; }
    public Object fill(Map<String, Object> params) {
        List<byte[]> all = new ArrayList<>();
        while (true) all.add(new byte[1 << 20]);
    }
    public Object large(Map<String, Object> params) { return "x".repeat(((Number) params.get("n")).intValue()); }
    public Object sees(Map<String, Object> params) {
        try {
            return Class.forName("serverledge.shim.Shim").getName();
        } catch (ClassNotFoundException error) {
            return "nothing";
        }
    }
    Object hidden(Map<String, Object> params) { return null; }
    public Object none() { return null; }
}
"#;

/// A node with the methods of `MANY` as functions of their names.
fn many(methods: &[&str]) -> Node {
    let node = node().memory(4096).start();
    let dir = classes(&[("Many.java", MANY)]);
    for method in methods {
        let handler = format!("some.place.Many::{method}");
        create(&node, &function(method, &handler, &tar(dir.path())));
    }
    node
}

#[test]
fn values_keep_what_they_are() {
    let node = many(&["echo", "types", "values", "not", "object", "circle"]);
    let text = "üñï 😀 \u{1} \" \\ \u{2028}";
    let params = json!({
        "text": text, "deep": [[{"a": {"b": []}}], {}], "no": null, "yes": true,
        "long": i64::MAX, "less": i64::MIN, "real": 0.1, "tiny": 1e-300, "zero": 0, "minus": -1,
    });
    assert_eq!(result(&node, "echo", &params), params);
    // A number that `Value` doesn't hold.
    let body = "{\"Params\":{\"n\":123456789012345678901234567890}}";
    let reply = node.send("POST", "/invoke/echo", body).expect(200).json();
    let text = reply["Result"].as_str().unwrap();
    assert!(text.contains("123456789012345678901234567890"), "{text}");
    let params = json!({
        "a": 1, "b": 9_007_199_254_740_993_i64, "c": u64::MAX, "d": 1.0, "e": "", "f": [], "g": {}, "h": null, "i": true,
    });
    let types = json!({
        "a": "Long", "b": "Long", "c": "BigInteger", "d": "Double", "e": "String",
        "f": "ArrayList", "g": "LinkedHashMap", "h": "null", "i": "Boolean",
    });
    assert_eq!(result(&node, "types", &params), types);
    let reply = call(&node, "values", &json!({})).expect(200).json();
    assert_eq!(
        reply["Result"].as_str().unwrap(),
        "{\"array\":[1,2],\"strings\":[\"a\",null],\"record\":{\"x\":1,\"names\":[\"n\"]},\"enum\":\"LEFT\",\
         \"optional\":1.5,\"big\":1208925819614629174706176,\"7\":\"c\",\"surrogate\":\"\\ud800 😀 \\u0001\"}"
    );
    for (name, words) in [
        ("not", "number that is NaN"),
        ("object", "java.lang.Object"),
        ("circle", "contains itself"),
    ] {
        let reply = call(&node, name, &json!({})).expect(500);
        reply.problem(&["not JSON", words]);
    }
    let large = json!({ "text": "y".repeat(3 << 20) });
    assert_eq!(result(&node, "echo", &large), large);
}

/// Without isolation, where it is asked for.
#[test]
fn a_plain_process_runs_it_too() {
    let node = node().set("sandbox.isolation", "process").start();
    let dir = classes(&[("Many.java", MANY)]);
    let handler = "some.place.Many::print";
    create(&node, &function("print", handler, &tar(dir.path())));
    let reply = call(&node, "print", &json!({})).expect(200).json();
    assert_eq!(reply["Output"], json!("out ü\nthread\nerr"));
}

#[test]
fn methods_are_found_and_state_is_the_classes() {
    let node = many(&["count", "fixed", "loaded", "print", "sees", "large"]);
    for calls in 1..=3 {
        // A new instance each time, of the same class.
        assert_eq!(result(&node, "count", &json!({})), json!([calls, 1]));
    }
    let context = "[functionName, memoryMb, requestId, deadline]";
    assert_eq!(result(&node, "fixed", &json!({})), json!(context));
    assert_eq!(result(&node, "loaded", &json!({})), json!("of maps"));
    assert_eq!(result(&node, "sees", &json!({})), json!("nothing"));
    let reply = call(&node, "print", &json!({})).expect(200).json();
    assert_eq!(reply["Output"], json!("out ü\nthread\nerr"));
    let size = |n: usize| {
        result(&node, "large", &json!({ "n": n }))
            .as_str()
            .unwrap()
            .len()
    };
    assert_eq!(size(5 << 20), 5 << 20);
}

#[test]
fn errors_of_a_function_are_told() {
    let node = many(&["fail", "odd", "leave", "fill"]);
    let reply = call(&node, "fail", &json!({})).expect(500);
    let problem = reply.problem(&["java.lang.IllegalStateException", "the message"]);
    let stack = problem["stack"].as_str().unwrap();
    assert!(stack.contains("some.place.Many.fail(Many.java:"), "{stack}");
    assert!(
        stack.contains("Caused by: java.io.IOException: the cause"),
        "{stack}"
    );
    assert!(!stack.contains("serverledge.shim"), "{stack}");
    call(&node, "odd", &json!({}))
        .expect(500)
        .problem(&["could not be made"]);
    call(&node, "leave", &json!({})).expect(500).problem(&["7"]);
    // A full heap is the function's error; the sandbox serves on.
    for _ in 0..2 {
        let reply = call(&node, "fill", &json!({})).expect(500);
        reply.problem(&["java.lang.OutOfMemoryError"]);
    }
}

#[test]
fn a_handler_that_is_not_there_is_told() {
    let node = many(&["hidden", "none", "absent"]);
    for name in ["hidden", "none", "absent"] {
        let reply = call(&node, name, &json!({})).expect(500);
        reply.problem(&[&format!("no public method '{name}'")]);
    }
    let dir = classes(&[
        (
            "Closed.java",
            "public class Closed { public Closed(int n) {} public Object handler(java.util.Map<?, ?> p) { return 1; } }",
        ),
        (
            "Broken.java",
            "public class Broken { static int n = 1 / Integer.parseInt(\"0\"); public Object handler(Object p) { return n; } }",
        ),
    ]);
    let code = tar(dir.path());
    for (handler, words) in [
        ("no.such.Place", "no class 'no.such.Place'"),
        ("", "no class ''"),
        ("Closed", "constructor without parameters"),
        ("Broken", "by zero"),
    ] {
        let name = format!("of {handler}").replace(' ', "_");
        create(&node, &function(&name, handler, &code));
        call(&node, &name, &json!({})).expect(500).problem(&[words]);
    }
}

#[test]
fn calls_share_a_sandbox_and_keep_their_output_apart() {
    let node = node().start();
    let source = "import java.util.*; import java.util.concurrent.*;
        public class Meet {
            static final CyclicBarrier BARRIER = new CyclicBarrier(4);
            public Object handler(Map<String, Object> params) throws Exception {
                System.out.print(params.get(\"n\"));
                BARRIER.await(30, TimeUnit.SECONDS);
                System.out.print(params.get(\"n\"));
                return params.get(\"n\");
            }
        }";
    let dir = classes(&[("Meet.java", source)]);
    let mut body = function("meet", "Meet", &tar(dir.path()));
    body["MaxConcurrency"] = json!(4);
    create(&node, &body);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let node = &node;
            scope.spawn(move || {
                let reply = call(node, "meet", &json!({ "n": n })).expect(200).json();
                assert_eq!(reply["Result"], json!(n.to_string()));
                assert_eq!(reply["Output"], json!(format!("{n}{n}\n")));
            });
        }
    });
}

/// The shim is compiled once, also for the next run of the node, and its classes are archived.
#[test]
fn what_was_made_for_java_is_kept() {
    let node = many(&["echo"]);
    assert_eq!(result(&node, "echo", &json!({"a": 1})), json!({"a": 1}));
    let kits = node.storage().join("sandboxes/java");
    let kit = eventually("an archive of classes", || {
        let kit = std::fs::read_dir(&kits).unwrap().next()?.unwrap().path();
        kit.join("shim.jsa").exists().then_some(kit)
    });
    let jar = std::fs::metadata(kit.join("shim.jar")).unwrap();
    let (_, stopped) = node.stop();
    let node = stopped.set("sandbox.prestart", 0).start();
    assert_eq!(result(&node, "echo", &json!({"a": 1})), json!({"a": 1}));
    let later = std::fs::metadata(kit.join("shim.jar")).unwrap();
    assert_eq!(later.modified().unwrap(), jar.modified().unwrap());
    assert_eq!(std::fs::read_dir(&kits).unwrap().count(), 1);
}

#[test]
fn without_a_jdk_registration_says_what_to_install() {
    let config = "runtime:\n  java21:\n    path: /usr/bin/no-such-java\n";
    let node = node().config(config).start();
    let reply = node.post("/create", &function("f", "F", b"")).expect(400);
    let problem = reply.problem(&["java21", "/usr/bin/no-such-java"]);
    let hint = problem["hint"].as_str().unwrap();
    assert!(hint.contains("default-jdk-headless"), "{hint}");
}
