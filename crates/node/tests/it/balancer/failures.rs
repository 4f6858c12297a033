//! Targets that refuse, hang, break off and lie, and what the clients of the balancer see of it.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;

use super::{becomes, in_front_of, metric, targets};
use crate::support::http::{self, read_response};
use crate::support::target::{Then, reply, report, target, target_at, wait_for_end};
use crate::support::{balancer, eventually};

/// The address of a port where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn what_finds_no_connection_is_sent_elsewhere() {
    let well = target(|_, stream| report(stream, "well", 5));
    let gone = nobody();
    let both = format!("{gone},{}", well.address);
    // Probes would take it out before the first call.
    let lb = balancer()
        .set("lb.targets", both)
        .set("lb.policy", "roundrobin")
        .set("lb.health.interval", 3600)
        .start();
    for _ in 0..6 {
        let answer = lb.invoke("f", json!({ "n": 1 })).expect(200);
        assert_eq!(answer.field("ExecutionNode"), "well");
    }
    assert_eq!(well.seen().len(), 6);
    assert_eq!(well.seen()[0].body, br#"{"Params":{"n":1}}"#);
    becomes(&lb, &gone, "ejected");
    let ejections =
        format!("serverledge_lb_ejections_total{{target=\"{gone}\",reason=\"unreachable\"}}");
    assert_eq!(metric(&lb, &ejections), Some(1.0));
}

#[test]
fn a_target_that_comes_back_is_let_in_again() {
    let well = target(|_, stream| report(stream, "well", 5));
    let address = nobody();
    let lb = balancer()
        .set("lb.targets", format!("{address},{}", well.address))
        .set("lb.policy", "roundrobin")
        .set("lb.readmission", 0.1)
        .start();
    becomes(&lb, &address, "ejected");
    let _back = target_at(address.parse().unwrap(), |_, stream| {
        report(stream, "back", 5)
    });
    becomes(&lb, &address, "in");
    eventually("the target to be used again", || {
        let answer = lb.invoke("f", json!({})).expect(200);
        (answer.field("ExecutionNode") == "back").then_some(())
    });
}

#[test]
fn where_nobody_is_left_it_is_said() {
    let lb = balancer().set("lb.targets", nobody()).start();
    let refused = lb.invoke("f", json!({})).expect(503);
    refused.problem(&["target"]);
    assert_eq!(refused.header("Retry-After"), Some("1"));
    eventually("it to be counted", || {
        let page = lb.get("/metrics").expect(200);
        page.text()
            .contains("serverledge_lb_refusals_total")
            .then_some(())
    });
}

#[test]
fn what_may_have_begun_is_not_made_again() {
    // Each answers so that nobody can tell whether the call has run.
    type Bad = fn(&mut std::net::TcpStream) -> std::io::Result<Then>;
    let ways: [(&str, u16, Bad); 5] = [
        ("closes without a word", 502, |_| Ok(Then::Close)),
        ("breaks off in the head", 502, |stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le")?;
            Ok(Then::Close)
        }),
        ("talks nonsense", 502, |stream| {
            stream.write_all(b"I am no web server, and never was one\r\n\r\n")?;
            Ok(Then::Close)
        }),
        ("wants another protocol", 502, |stream| {
            let head =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
            stream.write_all(head.as_bytes())?;
            wait_for_end(stream)?;
            Ok(Then::Close)
        }),
        ("says nothing", 504, |stream| {
            wait_for_end(stream)?;
            Ok(Then::Close)
        }),
    ];
    for (way, status, bad) in ways {
        let both = [(); 2].map(|()| target(move |_, stream| bad(stream)));
        let lb = in_front_of(&[&both[0], &both[1]])
            .set("lb.response_timeout", 0.5)
            .start();
        let failed = lb.invoke("f", json!({}));
        assert_eq!(failed.status, status, "{way}: {}", failed.shown());
        failed.problem(&["node"]);
        assert_eq!(both[0].seen().len() + both[1].seen().len(), 1, "{way}");
    }
}

#[test]
fn an_answer_that_breaks_off_breaks_off_for_the_client() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nthe beginning",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n",
    ] {
        let dying = target(move |_, stream| {
            stream.write_all(head.as_bytes())?;
            Ok(Then::Close)
        });
        let lb = in_front_of(&[&dying]).start();
        let answer = lb.try_invoke("f", &json!({}));
        assert!(answer.is_err(), "{answer:?}");
        let key = dying.address;
        let line = format!("serverledge_lb_requests_total{{target=\"{key}\",outcome=\"broken\"}}");
        eventually("it to be counted", || {
            (metric(&lb, &line) == Some(1.0)).then_some(())
        });
    }
}

#[test]
fn an_answer_that_pauses_for_too_long_is_given_up() {
    let slow = target(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nthe beginning")?;
        wait_for_end(stream)?;
        Ok(Then::Close)
    });
    let lb = in_front_of(&[&slow]).set("lb.stall_timeout", 0.3).start();
    assert!(lb.try_invoke("f", &json!({})).is_err());
}

#[test]
fn refusals_of_nodes_are_passed_on_and_nobody_is_ejected_for_them() {
    let full = target(|request, stream| match request.path.as_str() {
        "/invoke/unknown" => reply(stream, "404 Not Found", "", "Function unknown"),
        _ => reply(stream, "429 Too Many Requests", "Retry-After: 7\r\n", ""),
    });
    let other =
        target(|_, stream| reply(stream, "429 Too Many Requests", "Retry-After: 7\r\n", ""));
    let lb = in_front_of(&[&full, &other]).start();
    for _ in 0..50 {
        let refused = lb.invoke("f", json!({})).expect(429);
        assert_eq!(refused.header("Retry-After"), Some("7"));
        assert_eq!(refused.body, b"");
    }
    assert_eq!(full.seen().len() + other.seen().len(), 50);
    assert!(targets(&lb).iter().all(|it| it["Health"] == "in"));

    let alone = in_front_of(&[&full]).start();
    let unknown = alone.invoke("unknown", json!({})).expect(404);
    assert_eq!(unknown.text(), "Function unknown");
}

#[test]
fn who_breaks_off_again_and_again_is_ejected_but_never_everybody() {
    let breaking = [(); 4].map(|()| target(|_, _| Ok(Then::Close)));
    let all: Vec<_> = breaking.iter().collect();
    let lb = in_front_of(&all)
        .set("lb.policy", "roundrobin")
        .set("lb.ejection.failures", 2)
        .set("lb.ejection.time", 3600)
        .start();
    for _ in 0..30 {
        lb.invoke("f", json!({})).expect(502);
    }
    let ejected = targets(&lb)
        .iter()
        .filter(|it| it["Health"] == "ejected")
        .count();
    assert_eq!(ejected, 2);
}

#[test]
fn a_connection_that_was_closed_meanwhile_costs_nothing() {
    // It keeps its word never: each connection serves one request.
    let fickle = target(|_, stream| {
        report(stream, "fickle", 1)?;
        Ok(Then::Close)
    });
    let lb = in_front_of(&[&fickle]).start();
    for number in 0..10 {
        // So that the end of the connection is seen before the next request: it would otherwise
        // be a matter of luck, and a call whose connection ends is not made again.
        eventually("the connection to be over", || {
            (fickle.seen().len() == number).then_some(())
        });
        std::thread::sleep(Duration::from_millis(100));
        lb.invoke("f", json!({})).expect(200);
    }
}

#[test]
fn connections_are_kept() {
    let well = target(|_, stream| report(stream, "well", 1));
    let lb = in_front_of(&[&well]).start();
    for _ in 0..50 {
        lb.invoke("f", json!({})).expect(200);
    }
    // One for calls, one for probes, and some slack for a machine that is slow to give one back.
    assert!(well.connections() < 10, "{}", well.connections());
}

#[test]
fn too_much_at_once_is_refused() {
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let slow = target(move |_, stream| {
        let _ = gone.lock().unwrap().recv();
        report(stream, "slow", 1)
    });
    for (key, words) in [
        ("lb.inflight_max", "lb.inflight_max"),
        ("lb.target_inflight_max", "as many requests as they may"),
    ] {
        let lb = in_front_of(&[&slow]).set(key, 1).start();
        let before = slow.seen().len();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| lb.invoke("f", json!({})));
            eventually("the first to be under way", || {
                (slow.seen().len() > before).then_some(())
            });
            let refused = lb.invoke("f", json!({})).expect(503);
            refused.problem(&[words]);
            assert_eq!(refused.header("Retry-After"), Some("1"));
            go.send(()).unwrap();
            first.join().unwrap().expect(200);
        });
        // Its place is free again.
        go.send(()).unwrap();
        lb.invoke("f", json!({})).expect(200);
    }
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    let (told, ended) = mpsc::channel();
    let told = Mutex::new(told);
    // An answer without end.
    let talking = target(move |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        while stream.write_all(b"5\r\nhello\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = told.lock().unwrap().send(());
        Ok(Then::Close)
    });
    let lb = in_front_of(&[&talking]).start();
    let mut client = http::connect(lb.address).unwrap();
    client
        .write_all(b"POST /invoke/f HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        .unwrap();
    client.read_exact(&mut [0; 300]).unwrap();
    assert_eq!(targets(&lb)[0]["InFlight"], 1);
    drop(client);
    ended.recv_timeout(crate::support::PATIENCE).unwrap();
    eventually("its place to be free", || {
        (targets(&lb)[0]["InFlight"] == 0).then_some(())
    });
    assert_eq!(targets(&lb)[0]["Health"], "in");
}

#[test]
fn a_client_that_takes_nothing_is_given_up() {
    let (told, ended) = mpsc::channel();
    let told = Mutex::new(told);
    let talking = target(move |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let piece = "x".repeat(0x8000);
        let chunk = format!("8000\r\n{piece}\r\n");
        while stream.write_all(chunk.as_bytes()).is_ok() {}
        let _ = told.lock().unwrap().send(());
        Ok(Then::Close)
    });
    let lb = in_front_of(&[&talking])
        .set("lb.stall_timeout", 0.5)
        .start();
    let mut client = http::connect(lb.address).unwrap();
    client
        .write_all(b"POST /invoke/f HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        .unwrap();
    // And reads not a byte.
    ended.recv_timeout(crate::support::PATIENCE).unwrap();
    eventually("its place to be free", || {
        (targets(&lb)[0]["InFlight"] == 0).then_some(())
    });
    drop(client);
}

#[test]
fn bodies_pass_through_piece_by_piece() {
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    // Says what it has got so far, before the rest is sent.
    let echo = target(move |request, stream| {
        let mut got = request.body.clone();
        let mut chunk = [0; 1024];
        while got.len() < 5 {
            if let Ok(count) = stream.read(&mut chunk) {
                got.extend_from_slice(&chunk[..count]);
            }
        }
        assert_eq!(got, b"first");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")?;
        let _ = gone.lock().unwrap().recv();
        while got.len() < 11 {
            if let Ok(count) = stream.read(&mut chunk) {
                got.extend_from_slice(&chunk[..count]);
            }
        }
        assert_eq!(got, b"firstsecond");
        stream.write_all(b"world")?;
        Ok(Then::Close)
    });
    let lb = in_front_of(&[&echo]).start();
    let mut client = http::connect(lb.address).unwrap();
    let head = "POST /invoke/streamed HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nfirst";
    client.write_all(head.as_bytes()).unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"hello") {
        let mut chunk = [0; 1024];
        let count = client.read(&mut chunk).unwrap();
        assert!(
            count > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&got)
        );
        got.extend_from_slice(&chunk[..count]);
    }
    client.write_all(b"second").unwrap();
    go.send(()).unwrap();
    let mut whole = got.chain(&mut client);
    let answer = read_response(&mut whole, false).unwrap();
    assert_eq!(answer.body, b"helloworld");
}

#[test]
fn a_client_that_pauses_or_sends_too_much_is_given_up() {
    let well = target(|_, stream| report(stream, "well", 1));
    let lb = in_front_of(&[&well])
        .set("lb.stall_timeout", 0.3)
        .set("api.body_max", 1000)
        .start();
    // Not a word of the body.
    let head = b"POST /invoke/f HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n";
    let mut client = http::connect(lb.address).unwrap();
    client.write_all(head).unwrap();
    let answer = read_response(&mut client, false).unwrap();
    answer.expect(408).problem(&["nothing of the request body"]);

    lb.send("POST", "/invoke/f", vec![b'x'; 1001]).expect(413);
    // The same, its length not said.
    let mut client = http::connect(lb.address).unwrap();
    let head = b"POST /invoke/f HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(head).unwrap();
    let chunk = format!("400\r\n{}\r\n0\r\n\r\n", "x".repeat(0x400));
    client.write_all(chunk.as_bytes()).unwrap();
    let answer = read_response(&mut client, false).unwrap();
    answer.expect(413);
    // None of that is the target's fault.
    assert_eq!(targets(&lb)[0]["Health"], "in");
    assert_eq!(targets(&lb)[0]["InFlight"], 0);
}

#[test]
fn what_is_under_way_ends_before_the_balancer_does() {
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let slow = target(move |_, stream| {
        let _ = gone.lock().unwrap().recv();
        report(stream, "slow", 1)
    });
    let mut lb = in_front_of(&[&slow]).set("shutdown.drain", 60).start();
    let address = lb.address;
    let call =
        std::thread::spawn(move || crate::support::node::try_invoke(address, "f", &json!({})));
    eventually("the call to be under way", || {
        (slow.seen().len() == 1).then_some(())
    });
    lb.signal("TERM");
    eventually("no more connections", || {
        http::connect(address).is_err().then_some(())
    });
    go.send(()).unwrap();
    call.join().unwrap().unwrap().expect(200);
    assert!(lb.wait().success());
}
