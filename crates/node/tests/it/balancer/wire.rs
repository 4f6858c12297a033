//! Messages that are odd, old-fashioned or meant to confuse, on their way through the balancer.

use std::io::Write as _;

use serde_json::json;

use super::{in_front_of, metric};
use crate::support::balancer;
use crate::support::http::{self, raw, read_response};
use crate::support::target::{Request, Target, report, target};

fn well() -> Target {
    target(|_, stream| report(stream, "well", 1))
}

/// What the target gets of a request that the client sends like this.
#[track_caller]
fn passed(lines: &str, body: &str) -> (Request, String) {
    let well = well();
    let lb = in_front_of(&[&well])
        .set("registry.node.id", "lb-1")
        .start();
    let length = body.len();
    let request = format!("{lines}Content-Length: {length}\r\n\r\n{body}");
    let answer = raw(lb.address, request.as_bytes());
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let mut seen = well.seen();
    assert_eq!(seen.len(), 1, "{answer}");
    (seen.remove(0), answer)
}

#[test]
fn what_is_meant_for_one_connection_stays_there() {
    let (got, _) = passed(
        "POST /invoke/f?x=%20y HTTP/1.1\r\nHost: front\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
         Keep-Alive: timeout=9\r\nTE: trailers\r\nUpgrade: websocket\r\nProxy-Authorization: secret\r\n\
         Expect: 100-continue\r\nX-Mine: kept\r\nServerledge-Hops: 1\r\nTraceparent: 00-1-2-01\r\n\
         Via: 1.0 other\r\n",
        r#"{"Params":{}}"#,
    );
    assert_eq!(
        (got.method.as_str(), got.path.as_str()),
        ("POST", "/invoke/f?x=%20y")
    );
    assert_eq!(got.body, br#"{"Params":{}}"#);
    for gone in [
        "connection",
        "x-hop",
        "keep-alive",
        "te",
        "upgrade",
        "proxy-authorization",
        "expect",
        "transfer-encoding",
    ] {
        assert!(got.headers(gone).is_empty(), "{gone}: {}", got.head);
    }
    assert_eq!(got.headers("x-mine"), ["kept"]);
    assert_eq!(got.headers("serverledge-hops"), ["1"]);
    assert_eq!(got.headers("traceparent"), ["00-1-2-01"]);
    assert_eq!(got.headers("via"), ["1.0 other", "1.1 lb-1"]);
    assert_eq!(got.headers("content-length"), ["13"]);
    assert!(
        got.headers("host")[0].starts_with("127.0.0.1:"),
        "{}",
        got.head
    );
}

#[test]
fn old_clients_are_served() {
    let (got, answer) = passed("POST /invoke/f HTTP/1.0\r\n", "{}");
    assert!(
        got.head.starts_with("POST /invoke/f HTTP/1.1\r\n"),
        "{}",
        got.head
    );
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\"ExecutionNode\":\"well\""), "{answer}");
}

#[test]
fn a_request_as_to_a_proxy_goes_to_a_target() {
    let (got, _) = passed(
        "POST http://example.org/invoke/f?q HTTP/1.1\r\nHost: example.org\r\n",
        "{}",
    );
    assert_eq!(got.path, "/invoke/f?q");
}

#[test]
fn requests_in_a_row_are_answered_in_a_row() {
    let well = target(|request, stream| report(stream, &request.path, 1));
    let lb = in_front_of(&[&well]).start();
    let one = |name: &str| {
        format!("POST /invoke/{name} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}")
    };
    let answers = raw(lb.address, (one("a") + &one("b") + &one("c")).as_bytes());
    let answers = String::from_utf8_lossy(&answers).into_owned();
    let at = |name: &str| {
        answers
            .find(&format!("\"ExecutionNode\":\"/invoke/{name}\""))
            .unwrap()
    };
    assert!(at("a") < at("b") && at("b") < at("c"), "{answers}");
}

#[test]
fn nobody_smuggles_a_request_past() {
    let well = well();
    let lb = in_front_of(&[&well]).start();
    let hidden = "POST /invoke/hidden HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    for lines in [
        // Two ways to say where the body ends, in both orders.
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\n0\r\n\r\n",
        "Content-Length: 5, 6\r\n\r\n0\r\n\r\n",
        "Content-Length: +5\r\n\r\n0\r\n\r\n",
        "Content-Length: -1\r\n\r\n",
        // An encoding that is not the last, or not one at all.
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        // Chunks that are none.
        "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
        // Lines that end early, or go on.
        "X: a\rContent-Length: 5\r\n\r\n",
        "X: a\r\n Content-Length: 5\r\n\r\n",
        "X: a\0b\r\n\r\n",
    ] {
        let before = well.seen().len();
        let request = format!("POST /invoke/f HTTP/1.1\r\nHost: x\r\n{lines}{hidden}");
        let answer = raw(lb.address, request.as_bytes());
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let seen = well.seen();
        // What follows is never taken for a request of its own: who is in front of the balancer may
        // have taken it for a part of the first one.
        let new: Vec<&str> = seen[before..].iter().map(|it| it.path.as_str()).collect();
        assert!(!new.contains(&"/invoke/hidden"), "{lines:?}: {answer}");
    }
    // After all of that it works.
    lb.invoke("f", json!({})).expect(200);
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let well = well();
    let lb = in_front_of(&[&well]).start();
    let long = "x".repeat(100_000);
    let many = "X: y\r\n".repeat(500);
    for lines in [format!("X: {long}\r\n"), many] {
        let request = format!("POST /invoke/f HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
        let answer = raw(lb.address, request.as_bytes());
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let request = format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = raw(lb.address, request.as_bytes());
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert!(well.seen().is_empty());
}

#[test]
fn connect_and_rubbish_are_refused() {
    let well = well();
    let lb = in_front_of(&[&well]).start();
    let request = b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n";
    let answer = raw(lb.address, request);
    assert!(answer.starts_with(b"HTTP/1.1 405"), "{answer:?}");
    for rubbish in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"GET",
    ] {
        drop(raw(lb.address, rubbish));
    }
    assert!(well.seen().is_empty());
    lb.invoke("f", json!({})).expect(200);
}

#[test]
fn a_circle_is_broken() {
    let well = well();
    let lb = in_front_of(&[&well])
        .set("registry.node.id", "lb-1")
        .start();
    let circle = http::request(
        lb.address,
        "POST",
        "/invoke/f",
        &[("Via", "1.1 a, 1.1 lb-1")],
        b"{}",
    );
    circle.unwrap().expect(508).problem(&["circle"]);
    assert!(well.seen().is_empty());
    // Two balancers that send to each other. The second starts while the test holds the first's port:
    // its probe fails, but it doesn't find nobody there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let second = balancer()
        .set("lb.targets", format!("127.0.0.1:{port}"))
        .set("registry.node.id", "lb-2")
        .set("lb.health.interval", 3600)
        .start();
    drop(listener.accept().unwrap());
    drop(listener);
    let first = balancer()
        .set("lb.targets", second.address)
        .set("registry.node.id", "lb-1")
        .set("api.port", port)
        .start();
    first.invoke("f", json!({})).expect(508);
}

#[test]
fn answers_keep_what_is_for_clients() {
    let odd = target(|_, stream| {
        let head = "HTTP/1.1 418 I'm a teapot\r\nX-Theirs: 1\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\
                    Connection: X-Gone\r\nX-Gone: 1\r\nServerledge-Node-Name: n\r\n\
                    Serverledge-Free-Mem: 77\r\nServerledge-Free-CPU: 0.500000\r\n\
                    Serverledge-MAB-Request-ID: id\r\nServerledge-Node-Arch: arm64\r\n\
                    Serverledge-Timestamp: 5\r\nTransfer-Encoding: chunked\r\n\r\n\
                    3\r\nabc\r\n0\r\n\r\n";
        stream.write_all(head.as_bytes())?;
        Ok(crate::support::target::Then::Keep)
    });
    let lb = in_front_of(&[&odd]).set("lb.health.interval", 3600).start();
    // The first probe comes before all calls, or after: then it says what a status says.
    super::becomes(&lb, &odd.address.to_string(), "in");
    let answer = lb.invoke("f", json!({})).expect(418);
    assert_eq!(answer.text(), "abc");
    let cookies = answer
        .headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
    assert_eq!(cookies.count(), 2);
    for (name, value) in [
        ("x-theirs", Some("1")),
        ("serverledge-node-arch", Some("arm64")),
        ("serverledge-timestamp", Some("5")),
        ("x-gone", None),
        ("serverledge-node-name", None),
        ("serverledge-free-mem", None),
        ("serverledge-free-cpu", None),
        ("serverledge-mab-request-id", None),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    let seen = &super::targets(&lb)[0];
    assert_eq!(seen["Architecture"], "arm64");
}

#[test]
fn a_stream_of_events_is_passed_on() {
    // The original's balancer answers such a request itself, with nothing.
    let events = target(|_, stream| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n";
        stream.write_all(head.as_bytes())?;
        Ok(crate::support::target::Then::Close)
    });
    let lb = in_front_of(&[&events]).start();
    let accept = [("Accept", "text/event-stream")];
    let answer = http::request(lb.address, "GET", "/v1/events", &accept, b"").unwrap();
    assert_eq!(answer.expect(200).text(), "data: 1\n\n");
}

#[test]
fn an_interim_answer_is_none() {
    let polite = target(|_, stream| {
        stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n")?;
        report(stream, "polite", 1)
    });
    let lb = in_front_of(&[&polite]).start();
    let answer = lb.invoke("f", json!({})).expect(200);
    assert_eq!(answer.field("ExecutionNode"), "polite");
}

#[test]
fn one_connection_serves_many_requests() {
    let well = well();
    let lb = in_front_of(&[&well]).start();
    let mut client = http::connect(lb.address).unwrap();
    for number in 0..20 {
        let body = json!({ "Params": { "n": number } }).to_string();
        let length = body.len();
        let head =
            format!("POST /invoke/f HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        client.write_all((head + &body).as_bytes()).unwrap();
        let answer = read_response(&mut client, false).unwrap();
        answer.expect(200);
    }
    assert_eq!(well.seen().len(), 20);
    let line = format!(
        "serverledge_lb_requests_total{{target=\"{}\",outcome=\"ok\"}}",
        well.address
    );
    crate::support::eventually("all to be counted", || {
        (metric(&lb, &line) == Some(20.0)).then_some(())
    });
}
