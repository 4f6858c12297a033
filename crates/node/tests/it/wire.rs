//! Odd things on the wire: names, bodies, types, methods, and what no client should ever send.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::support::{Function, Node, http, javascript, node, python};

/// Returns its parameters.
fn echo(name: &str) -> Function {
    python(name, "def handler(params, context):\n    return params\n")
}

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

#[track_caller]
fn assert_alive(node: &Node) {
    node.get("/function").expect(200);
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
    assert_alive(&node);
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

#[test]
fn code_that_cannot_be_unpacked_is_refused() {
    let node = node().start();
    let mut body = echo("bad").body();
    for code in ["###", "a", "aGVsbG8=", "AAAA"] {
        body["TarFunctionCode"] = json!(code);
        for path in ["/create", "/update"] {
            let reply = node.post(path, &body).expect(400);
            reply.problem(&[]);
        }
    }
    assert_eq!(
        node.get("/function").text(),
        "[]\n",
        "nothing was registered"
    );
    // An update with bad code leaves the function as it was.
    node.create(&echo("good"));
    body["Name"] = json!("good");
    node.post("/update", &body).expect(400);
    assert_eq!(
        node.invoke("good", json!({ "a": 1 })).result(),
        json!({ "a": 1 })
    );
}

#[test]
fn code_that_climbs_out_of_its_directory_is_refused() {
    use base64::Engine as _;
    let node = node().start();
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let outside = node.storage().join("climbed.py");
    for path in [
        "../climbed.py",
        "a/../../climbed.py",
        &outside.to_string_lossy(),
    ] {
        let mut body = echo("climber").body();
        body["TarFunctionCode"] = json!(encode(&tar_with(path, tar::EntryType::Regular, b"")));
        node.post("/create", &body).expect(400).problem(&[]);
        assert!(!outside.exists(), "{path} was written");
    }
    for (kind, target) in [
        (tar::EntryType::Symlink, "/etc/passwd"),
        (tar::EntryType::Symlink, "../../secret"),
        (tar::EntryType::Link, "/etc/passwd"),
        (tar::EntryType::Char, ""),
        (tar::EntryType::Fifo, ""),
    ] {
        let mut body = echo("linker").body();
        body["TarFunctionCode"] = json!(encode(&tar_with("f.py", kind, target.as_bytes())));
        let reply = node.post("/create", &body);
        assert!(
            matches!(reply.status, 200 | 400),
            "{kind:?}: {}",
            reply.shown()
        );
        if reply.status == 200 {
            // Left out, then: there is no handler.
            node.invoke("linker", json!({})).expect(500).problem(&[]);
            node.post("/delete", &json!({ "Name": "linker" }))
                .expect(200);
        }
    }
    assert_alive(&node);
}

/// A tar with one entry, whose path is written as it stands.
fn tar_with(path: &str, kind: tar::EntryType, target: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_old();
    let old = header.as_old_mut();
    old.name[..path.len()].copy_from_slice(path.as_bytes());
    old.linkname[..target.len()].copy_from_slice(target);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(0);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append(&header, std::io::empty())
        .expect("writing to memory");
    archive.into_inner().expect("writing to memory")
}

#[test]
fn a_body_over_the_limit_is_refused() {
    let node = node().start();
    node.create(&echo("echo"));
    // By its announced length, before it is sent.
    for path in ["/invoke/echo", "/create"] {
        let mut stream = http::connect(node.address).unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{{");
        stream.write_all(head.as_bytes()).unwrap();
        let reply = http::read_response(&mut stream, false).expect("an answer");
        reply.expect(413).problem(&["limit"]);
    }
    // By what has come, where no length is announced.
    let mut stream = http::connect(node.address).unwrap();
    stream
        .write_all(b"POST /invoke/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let mut chunk = b"100000\r\n".to_vec();
    chunk.resize(chunk.len() + (1 << 20), b' ');
    chunk.extend_from_slice(b"\r\n");
    let mut sent = 0;
    while sent < 1024 && stream.write_all(&chunk).is_ok() {
        sent += 1;
    }
    assert!(sent < 1024, "a body of a gigabyte was taken");
    // The answer may be lost with the connection that the node closed on us.
    if let Ok(reply) = http::read_response(&mut stream, false) {
        reply.expect(413);
    }
    assert_alive(&node);
}

#[test]
fn a_body_at_a_configured_limit_is_taken() {
    let node = node().set("api.body_max", 4096).start();
    node.create(&echo("echo"));
    let body = |length: usize| {
        let empty = r#"{"Params":{"s":""}}"#;
        format!(
            r#"{{"Params":{{"s":"{}"}}}}"#,
            "x".repeat(length - empty.len())
        )
    };
    node.send("POST", "/invoke/echo", body(4096)).expect(200);
    node.send("POST", "/invoke/echo", body(4097))
        .expect(413)
        .problem(&["4096"]);
}

#[test]
fn rubbish_on_the_socket_harms_nobody() {
    let node = node().start();
    node.create(&echo("echo"));
    let rubbish: Vec<Vec<u8>> = vec![
        b"\r\n\r\n\r\n".to_vec(),
        b"\0\0\0\0\0\0\0\0".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"GET /status HTTP/9.9\r\n\r\n".to_vec(),
        b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"POST /invoke/echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".to_vec(),
        b"POST /invoke/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551616\r\n\r\n".to_vec(),
        b"POST /invoke/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}".to_vec(),
        b"POST /invoke/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n".to_vec(),
        b"POST /invoke/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        b"POST /invoke/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"Params\"".to_vec(),
        b"POST /invoke/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"POST /invoke/echo HTTP/1.1\r\nServerledge-MAB-Request-ID: \xff\x80\r\nContent-Length: 0\r\n\r\n".to_vec(),
        [b"GET /".as_slice(), &[b'a'; 200_000], b" HTTP/1.1\r\n\r\n"].concat(),
        [b"GET /status HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 2_000_000], b"\r\n\r\n"].concat(),
        [b"GET /status HTTP/1.1\r\n".to_vec(), b"A: b\r\n".repeat(20_000), b"\r\n".to_vec()].concat(),
    ];
    for bytes in rubbish {
        let answer = http::raw(node.address, &bytes);
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let first = String::from_utf8_lossy(&answer[..answer.len().min(16)]).into_owned();
        let server_error = first.starts_with("HTTP/1.1 5") || first.starts_with("HTTP/1.0 5");
        assert!(
            !server_error || first.contains("505"),
            "{start:?} is answered {first:?}"
        );
        assert_alive(&node);
    }
    assert_eq!(
        node.invoke("echo", json!({ "a": 1 })).result(),
        json!({ "a": 1 })
    );
}

#[test]
fn slow_clients_hold_up_nobody_else() {
    let node = node().start();
    node.create(&echo("echo"));
    node.invoke("echo", json!({})).expect(200);
    let mut slow: Vec<_> = (0..200)
        .map(|index| {
            let mut stream = http::connect(node.address).unwrap();
            let part: &[u8] = match index % 3 {
                0 => b"",
                1 => b"POST /invoke/echo HTTP/1.1\r\nHost:",
                _ => b"POST /invoke/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n{\"Par",
            };
            stream.write_all(part).unwrap();
            stream
        })
        .collect();
    let started = Instant::now();
    for _ in 0..20 {
        node.invoke("echo", json!({})).expect(200);
    }
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "took {:?}",
        started.elapsed()
    );
    // One that was slow but does finish is served.
    let last = &mut slow[2];
    let rest = format!("{:<35}", "ams\":{\"a\":1}}");
    last.write_all(rest.as_bytes()).unwrap();
    let reply = http::read_response(last, false).expect("an answer");
    assert_eq!(reply.result(), json!({ "a": 1 }));
}

#[test]
fn a_connection_serves_one_request_after_another() {
    let node = node().start();
    node.create(&echo("echo"));
    let mut stream = http::connect(node.address).unwrap();
    for n in 0..5 {
        let body = json!({ "Params": { "n": n } }).to_string();
        let head = format!(
            "POST /invoke/echo HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let reply = http::read_response(&mut stream, false).expect("an answer");
        assert_eq!(reply.result(), json!({ "n": n }));
    }
    // HTTP/1.0, as old tools send it.
    let mut old = http::connect(node.address).unwrap();
    old.write_all(b"GET /function HTTP/1.0\r\n\r\n").unwrap();
    http::read_response(&mut old, false).unwrap().expect(200);
    let mut expecting = http::connect(node.address).unwrap();
    let head = b"POST /invoke/echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    expecting.write_all(head).unwrap();
    let mut interim = [0; 25];
    expecting.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    expecting.write_all(b"{}").unwrap();
    http::read_response(&mut expecting, false)
        .unwrap()
        .expect(200);
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
