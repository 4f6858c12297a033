//! What arrives on the socket: bodies too large, clients too slow, and what isn't HTTP at all.

use std::io::{Read, Write};
use std::time::Duration;

use serde_json::json;

use crate::support::function::echo;
use crate::support::{PATIENCE, http, node};

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
    node.get("/function").expect(200);
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
fn large_bodies_wait_for_memory_and_small_ones_do_not() {
    let node = node()
        .set("api.body_max", "1MiB")
        .set("api.create_body_max", "1MiB")
        .set("api.bodies_max", "1MiB")
        .start();
    node.create(&echo("echo"));
    let body = format!(r#"{{"Params":{{"s":"{}"}}}}"#, "x".repeat(900 << 10));
    let head = format!(
        "POST /invoke/echo HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let begin = |part: &str| {
        let mut stream = http::connect(node.address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(part.as_bytes()).unwrap();
        stream
    };
    let mut unfinished = begin(&body[..body.len() - 1]);
    // Once this one is answered, what came before it has been read.
    node.invoke("echo", json!({ "n": 1 })).expect(200);
    let mut waiting = begin(&body);
    waiting
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let early = waiting.read(&mut [0]).unwrap_err();
    assert!(
        matches!(
            early.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        ),
        "{early}"
    );
    node.invoke("echo", json!({ "n": 2 })).expect(200);
    unfinished
        .write_all(&body.as_bytes()[body.len() - 1..])
        .unwrap();
    http::read_response(&mut unfinished, false)
        .unwrap()
        .expect(200);
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    http::read_response(&mut waiting, false)
        .unwrap()
        .expect(200);
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
        node.get("/function").expect(200);
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
    for _ in 0..20 {
        node.invoke("echo", json!({})).expect(200);
    }
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
