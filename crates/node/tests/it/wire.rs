//! Odd things on the wire: names, bodies, types, methods, and what no client should ever send.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::support::function::echo;
use crate::support::{Function, javascript, node, python};

fn echo_js(name: &str) -> Function {
    javascript(name, "module.exports = (params, context) => params;\n")
}

/// Characters that a path may hold as they are, by the encoding of the Go original's clients.
fn path_of(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[test]
fn a_function_may_have_any_name() {
    let node = node().memory(4096).start();
    let names = [
        "a/b/c",
        "/lead",
        "tail/",
        "with space",
        "ünï-日本",
        "100%",
        "a?b#c",
        "a/../b",
        ".",
        "q\"uote",
        "<&>",
        "\u{1F980}",
    ];
    for name in names {
        node.create(&echo(name));
        let path = format!("/invoke/{}", path_of(name));
        let reply = node.post(&path, &json!({ "Params": { "name": name } }));
        assert_eq!(
            reply.result(),
            json!({ "name": name }),
            "invoking {name:?} by {path}"
        );
    }
    // But for one that would break the lines of logs and lists.
    node.post("/create", &echo("new\nline").body())
        .expect(400)
        .problem(&["Name"]);
    let mut expected = names.map(String::from);
    expected.sort();
    let mut listed = node.functions();
    assert!(listed.is_sorted(), "in the order of the keys: {listed:?}");
    listed.sort();
    assert_eq!(listed, expected);
    for name in names {
        let deleted = node.post("/delete", &json!({ "Name": name })).expect(200);
        assert_eq!(deleted.json(), json!({ "Deleted": name }));
    }
    assert_eq!(node.get("/function").expect(200).text(), "[]\n");
}

#[test]
fn an_ambiguous_escape_in_a_path_is_taken_as_it_stands() {
    let node = node().start();
    node.create(&echo("a%2Fb"));
    node.send("POST", "/invoke/a%2Fb", "").expect(200);
    node.send("POST", "/invoke/a/b", "").expect(404);
    // Not escapes at all.
    for path in [
        "/invoke/%",
        "/invoke/%zz",
        "/invoke/%F",
        "/poll/%",
        "/invoke/%FF%FE",
    ] {
        let reply = node.send("POST", path, "");
        assert!(
            (400..500).contains(&reply.status),
            "{path}: {}",
            reply.shown()
        );
    }
    node.get("/function").expect(200);
}

#[test]
fn empty_bodies_are_requests_with_nothing_in_them() {
    let node = node().start();
    node.create(&echo("echo"));
    assert_eq!(node.send("POST", "/invoke/echo", "").result(), Value::Null);
    assert_eq!(
        node.send("POST", "/create", "").expect(404).text(),
        "Invalid runtime."
    );
    assert_eq!(
        node.send("POST", "/update", "").expect(404).text(),
        "Invalid runtime."
    );
    assert_eq!(
        node.send("POST", "/delete", "").expect(404).text(),
        "Unknown function"
    );
    assert_eq!(
        node.send("POST", "/prewarm", "").expect(404).text(),
        "Function unknown"
    );
    for blank in ["  ", "\n", "null", "{}"] {
        assert_eq!(
            node.send("POST", "/invoke/echo", blank).result(),
            Value::Null,
            "{blank:?}"
        );
    }
}

#[test]
fn fields_are_read_as_go_reads_them() {
    let node = node().start();
    node.create(&echo("echo"));
    let cases = [
        (r#"{"params":{"a":1}}"#, json!({ "a": 1 })),
        (
            r#"{"PARAMS":{"a":1},"Unknown":[1,{}],"async":false}"#,
            json!({ "a": 1 }),
        ),
        (r#"{"Params":{"a":1},"Params":{"b":2}}"#, json!({ "b": 2 })),
        (r#"{"Params":{"a":1}} trailing rubbish"#, json!({ "a": 1 })),
        (r#"{"Params":{"a":1}}{"Params":{"a":2}}"#, json!({ "a": 1 })),
        (
            r#"{"Params":{},"QoSClass":null,"Async":null,"ReturnOutput":null}"#,
            json!({}),
        ),
        (r#" {"Params" : { } } "#, json!({})),
    ];
    for (body, expected) in cases {
        assert_eq!(
            node.send("POST", "/invoke/echo", body).result(),
            expected,
            "{body}"
        );
    }
}

#[test]
fn a_megabyte_of_parameters_comes_back_unharmed() {
    let node = node().start();
    node.create(&echo("py"));
    node.create(&echo_js("js"));
    let ascii = "x".repeat(1 << 20);
    let unicode = "日本 \u{1F980}é".repeat((1 << 20) / 15);
    for name in ["py", "js"] {
        for text in [&ascii, &unicode] {
            let params = json!({ "s": text });
            assert!(
                node.invoke(name, params.clone()).result() == params,
                "{name} changed the text"
            );
        }
        let many: Vec<u32> = (0..150_000).collect();
        assert!(node.invoke(name, json!({ "l": many })).result() == json!({ "l": many }));
    }
}

#[test]
fn unicode_survives_both_ways() {
    let node = node().start();
    node.create(&echo("py"));
    node.create(&echo_js("js"));
    let texts = [
        "grüße",
        "日本語",
        "\u{1F980}\u{1F468}\u{200D}\u{1F469}",
        "\u{0}\u{1}\u{7f}",
        "\u{2028}\u{2029}",
        "<script>&amp;</script>",
        "\\\"\n\r\t/",
        "\u{feff}bom",
        "\u{202e}rtl",
        "e\u{301}",
    ];
    for name in ["py", "js"] {
        for text in texts {
            let params = json!({ text: text });
            assert_eq!(node.invoke(name, params.clone()).result(), params, "{name}");
        }
    }
    // Half a surrogate pair is valid JSON but no text: refused or passed on, never a crash.
    for name in ["py", "js"] {
        let reply = node.send(
            "POST",
            &format!("/invoke/{name}"),
            r#"{"Params":{"s":"\ud800"}}"#,
        );
        assert!(matches!(reply.status, 200 | 400), "{}", reply.shown());
    }
    // Bytes that aren't UTF-8: the same.
    let reply = node.send("POST", "/invoke/py", b"{\"Params\":{\"s\":\"\xff\xfe\"}}");
    assert!(matches!(reply.status, 200 | 400), "{}", reply.shown());
}

#[test]
fn a_result_may_be_any_json_value() {
    let node = node().start();
    node.create(&python(
        "py",
        "import json\ndef handler(params, context):\n    return json.loads(params['text'])\n",
    ));
    node.create(&javascript(
        "js",
        "module.exports = (params) => JSON.parse(params.text);\n",
    ));
    let texts = [
        "null",
        "true",
        "false",
        "0",
        "-1",
        "3",
        "2.5",
        "1e-7",
        "9007199254740991",
        "\"\"",
        "\"hi\"",
        "\"ü\\u2028<>&\"",
        "[]",
        "[1,\"a\",null,[]]",
        "{}",
        "{\"a\":{\"b\":[1,2.5,{\"c\":null}]}}",
    ];
    for name in ["py", "js"] {
        for text in texts {
            let reply = node.invoke(name, json!({ "text": text }));
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(reply.result(), expected, "{name} returned {text}");
        }
    }
    // Python's own spelling of JSON, which the original's users have seen.
    assert_eq!(
        node.invoke("py", json!({ "text": "[1,\"ü\"]" }))
            .result_text(),
        r#"[1, "\u00fc"]"#
    );
    // Python's integers have no limit.
    let big = "123456789012345678901234567890";
    assert_eq!(node.invoke("py", json!({ "text": big })).result_text(), big);
}

#[test]
fn what_json_cannot_hold_is_the_functions_error() {
    let node = node().start();
    node.create(&python(
        "set",
        "def handler(params, context):\n    return {1, 2}\n",
    ));
    node.invoke("set", json!({})).expect(500).problem(&["set"]);
    node.create(&javascript("bigint", "module.exports = () => 10n;\n"));
    node.invoke("bigint", json!({}))
        .expect(500)
        .problem(&["BigInt"]);
    node.create(&javascript(
        "cycle",
        "module.exports = () => { const a = {}; a.a = a; return a };\n",
    ));
    node.invoke("cycle", json!({}))
        .expect(500)
        .problem(&["circular"]);
}

#[test]
fn node_js_handlers_may_be_async_and_es_modules() {
    let node = node().start();
    node.create(&javascript(
        "promise",
        "module.exports = async (params) => { await null; return params.a + 1 };\n",
    ));
    assert_eq!(node.invoke("promise", json!({ "a": 1 })).result(), json!(2));
    let module =
        "import { helper } from './lib.mjs';\nexport default async (params) => helper(params.a);\n";
    node.create(
        &javascript("module", "")
            .file("m.mjs", module)
            .file("lib.mjs", "export const helper = (n) => n * 2;\n")
            .handler("m.mjs"),
    );
    assert_eq!(
        node.invoke("module", json!({ "a": 21 })).result(),
        json!(42)
    );
    node.create(&javascript("bare", "module.exports = () => 'found';\n").handler("f"));
    assert_eq!(node.invoke("bare", json!({})).result(), json!("found"));
    node.create(&javascript(
        "throws",
        "module.exports = () => { throw new TypeError('boom') };\n",
    ));
    let problem = node
        .invoke("throws", json!({}))
        .expect(500)
        .problem(&["boom"]);
    assert!(
        problem["stack"]
            .as_str()
            .unwrap_or_default()
            .contains("f.js"),
        "{problem}"
    );
    node.create(&javascript(
        "rejects",
        "module.exports = async () => { throw 'a string' };\n",
    ));
    node.invoke("rejects", json!({}))
        .expect(500)
        .problem(&["a string"]);
}

#[test]
fn python_code_may_be_a_package_of_several_files() {
    let node = node().start();
    node.create(
        &Function::clone(&python("package", ""))
            .file("pkg/__init__.py", "")
            .file("pkg/inner/__init__.py", "")
            .file(
                "pkg/inner/mod.py",
                "from pkg.lib import twice\ndef go(p, c):\n    return twice(p['n'])\n",
            )
            .file("pkg/lib.py", "def twice(n):\n    return n * 2\n")
            .handler("pkg.inner.mod.go"),
    );
    assert_eq!(node.invoke("package", json!({ "n": 4 })).result(), json!(8));
}

#[test]
fn the_context_tells_a_function_about_its_call() {
    let node = node().start();
    let source = "def handler(params, context):\n    return {k: v for k, v in context.items() if isinstance(v, (str, int, float))}\n";
    node.create(&python("who/am i", source).memory(96).timeout(20.0));
    let before = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let reply = node.post("/invoke/who/am%20i", &json!({}));
    let context = reply.result();
    let values: Vec<&Value> = context.as_object().unwrap().values().collect();
    assert!(
        values.contains(&&json!("who/am i")),
        "the function's name: {context}"
    );
    assert!(values.contains(&&json!(96)), "its memory: {context}");
    let id = context["request_id"].as_str().expect("an id");
    assert!(id.contains("who/am i"), "{context}");
    let left = context["deadline"].as_f64().expect("a deadline") - before.as_secs_f64();
    assert!(
        (15.0..60.0).contains(&left),
        "the deadline is {left} s from the call"
    );
}

#[test]
fn output_is_returned_to_those_who_ask() {
    let node = node().start();
    node.create(&python(
        "py",
        "import sys\ndef handler(p, c):\n    print('to-out é')\n    print('to-err', file=sys.stderr)\n",
    ));
    node.create(&javascript(
        "js",
        "module.exports = () => { console.log('to-out é') };\n",
    ));
    let ask = json!({ "Params": {}, "ReturnOutput": true });
    assert_eq!(
        node.post("/invoke/py", &ask).expect(200).field("Output"),
        "to-out é\n\nto-err\n"
    );
    let output = node.post("/invoke/js", &ask).expect(200).field("Output");
    assert!(
        output.as_str().unwrap_or_default().contains("to-out é\n"),
        "{output}"
    );
    for name in ["py", "js"] {
        assert_eq!(node.invoke(name, json!({})).expect(200).field("Output"), "");
    }
}

#[test]
fn deep_nesting_is_refused_before_it_harms() {
    let node = node().start();
    node.create(&echo("echo"));
    let nested = |depth: usize| {
        format!(
            "{{\"Params\":{{\"n\":{}{}}}}}",
            "[".repeat(depth),
            "]".repeat(depth)
        )
    };
    node.send("POST", "/invoke/echo", nested(100)).expect(200);
    for depth in [5_000, 200_000] {
        node.send("POST", "/invoke/echo", nested(depth))
            .expect(400)
            .problem(&["nest"]);
    }
    node.send("POST", "/invoke/echo", "[".repeat(200_000))
        .expect(400)
        .problem(&[]);
    node.send("POST", "/create", "{\"x\":".repeat(100_000))
        .expect(400)
        .problem(&[]);
    node.send("POST", "/invoke/echo", "").expect(200);
}

#[test]
fn a_value_of_the_wrong_type_is_named() {
    let node = node().start();
    node.create(&echo("echo"));
    let cases = [
        ("/create", r#"{"Name":1}"#, "Name"),
        ("/create", r#"{"Name":"x","Runtime":[]}"#, "Runtime"),
        ("/create", r#"{"MemoryMB":"128"}"#, "MemoryMB"),
        ("/create", r#"{"MemoryMB":1.5}"#, "MemoryMB"),
        ("/create", r#"{"MemoryMB":9223372036854775808}"#, "MemoryMB"),
        ("/create", r#"{"MaxConcurrency":40000}"#, "MaxConcurrency"),
        ("/create", r#"{"CPUDemand":"1"}"#, "CPUDemand"),
        ("/create", r#"{"SupportedArchs":"amd64"}"#, "SupportedArchs"),
        ("/create", r#"{"Signature":[]}"#, "Signature"),
        ("/update", r#"{"TarFunctionCode":{}}"#, "TarFunctionCode"),
        ("/delete", r#"{"Name":false}"#, "Name"),
        ("/prewarm", r#"{"Instances":"2"}"#, "Instances"),
        ("/prewarm", r#"{"Function":2}"#, "Function"),
        ("/invoke/echo", r#"{"Params":"text"}"#, "Params"),
        ("/invoke/echo", r#"{"Params":3}"#, "Params"),
        ("/invoke/echo", r#"{"Async":"true"}"#, "Async"),
        ("/invoke/echo", r#"{"ReturnOutput":1}"#, "ReturnOutput"),
        ("/invoke/echo", r#"{"QoSClass":1.5}"#, "QoSClass"),
        ("/invoke/echo", r#"{"QoSMaxRespT":"fast"}"#, "QoSMaxRespT"),
    ];
    for (path, body, field) in cases {
        node.send("POST", path, body).expect(400).problem(&[field]);
    }
    for body in [
        "[]",
        "3",
        "\"text\"",
        "true",
        "{",
        "{\"Params\":",
        "nul",
        "'a'",
        "{\"a\":1,}",
        "\u{0}",
    ] {
        for path in ["/create", "/delete", "/prewarm", "/invoke/echo"] {
            node.send("POST", path, body).expect(400).problem(&[]);
        }
    }
}

#[test]
fn routes_that_do_not_exist_say_so() {
    let node = node().start();
    for (method, path) in [
        ("GET", "/create"),
        ("PUT", "/update"),
        ("DELETE", "/delete"),
        ("POST", "/function"),
        ("GET", "/invoke/x"),
        ("POST", "/poll/x"),
        ("GET", "/prewarm"),
        ("POST", "/status"),
        ("PATCH", "/status"),
    ] {
        let reply = node.send(method, path, "").expect(405);
        assert_eq!(
            reply.text(),
            "{\"message\":\"Method Not Allowed\"}\n",
            "{method} {path}"
        );
    }
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/nothing"),
        ("POST", "/invoke/"),
        ("POST", "/invoke"),
        ("GET", "/poll/"),
        ("GET", "/functions"),
        ("GET", "/function/"),
        ("GET", "/metrics"),
        ("POST", "/Create"),
    ] {
        let reply = node.send(method, path, "").expect(404);
        assert_eq!(
            reply.text(),
            "{\"message\":\"Not Found\"}\n",
            "{method} {path}"
        );
    }
    assert_eq!(node.send("HEAD", "/function", "").expect(405).body, b"");
    // A query is no part of the name.
    node.create(&echo("echo"));
    node.send("POST", "/invoke/echo?debug=1", "").expect(200);
}

/// Any JSON value; no fractions, whose text may change on the way.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

#[test]
fn any_parameters_reach_the_function() {
    let node = node().start();
    node.create(&echo("echo"));
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(200)
    });
    runner
        .run(&any_json(), |value| {
            let params = json!({ "v": value });
            prop_assert_eq!(node.invoke("echo", params.clone()).result(), params);
            Ok(())
        })
        .unwrap();
}

#[test]
fn no_body_whatever_makes_the_node_fail() {
    let node = node().start();
    node.create(&echo("echo"));
    let almost_json = r#"[{}\[\]":,0-9a-z .eE+\\-]{0,60}"#;
    let bodies = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        almost_json.prop_map(String::into_bytes),
        almost_json.prop_map(|text| format!("{{\"Params\":{{{text}}}}}").into_bytes()),
    ];
    let paths = prop::sample::select(vec![
        "/create",
        "/update",
        "/delete",
        "/prewarm",
        "/invoke/echo",
    ]);
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(300)
    });
    runner
        .run(&(paths, bodies), |(path, body)| {
            let reply = node.send("POST", path, &body);
            prop_assert!(reply.status < 500, "{}", reply.shown());
            Ok(())
        })
        .unwrap();
}
