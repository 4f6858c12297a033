//! Code by URL: fetched once, within limits, and from nowhere it must not come from.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::{Mutex, mpsc};
use std::thread;

use serde_json::{Value, json};

use crate::support::function::echo;
use crate::support::http::Response;
use crate::support::node::Builder;
use crate::support::server::{Answer, Server, head, ok, serve};
use crate::support::{Node, eventually, node, python};

/// A node that may fetch from 127.0.0.1, and from nowhere else on loopback.
fn fetching() -> Builder {
    node().set("code.url.networks", "127.0.0.1")
}

fn create(node: &Node, name: &str, url: &str) -> Response {
    node.post("/create", &echo(name).body_with(url))
}

#[test]
fn code_is_fetched_once() {
    let node = fetching().start();
    let (zip, tar) = (echo("f").zip(), echo("f").tar());
    let server: Server = serve(move |path| match path {
        "/code.zip?key=1" => ok(&zip),
        "/moved" => head(&["HTTP/1.1 307 Temporary Redirect", "Location: /code.tar"]),
        "/code.tar" => ok(&tar),
        _ => head(&["HTTP/1.1 404 Not Found"]),
    });
    create(&node, "f", &format!(" {}\n", server.url("/code.zip?key=1"))).expect(200);
    for a in [1, 2] {
        assert_eq!(
            node.invoke("f", json!({ "a": a })).result(),
            json!({ "a": a })
        );
    }
    create(&node, "moved", &server.url("/moved")).expect(200);
    assert_eq!(server.requests(), 3);
    // Neither sandboxes nor restarts need the server again.
    drop(server);
    node.post("/prewarm", &json!({ "Function": "f", "Instances": 2 }))
        .expect(200);
    let node = node.kill9().start();
    for name in ["f", "moved"] {
        assert_eq!(
            node.invoke(name, json!({ "a": 2 })).result(),
            json!({ "a": 2 })
        );
    }
}

#[test]
fn local_addresses_are_refused_unless_they_are_configured() {
    let node = node().start();
    let server = serve(|_| panic!("was connected to"));
    let url = server.url("/code.tar");
    let port = url.rsplit(':').next().unwrap();
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
    ] {
        let reply = create(&node, "f", &format!("http://{host}:{port}"));
        let problem = reply.expect(400).problem(&["fetches nothing"]);
        let hint = problem["hint"].as_str().unwrap();
        assert!(hint.contains("code.url.networks"), "{hint}");
    }
    for (host, kind) in [
        ("169.254.169.254", "link-local"),
        ("[::ffff:169.254.169.254]", "link-local"),
        ("[fe80::1]", "link-local"),
        ("10.0.0.1", "private"),
    ] {
        create(&node, "f", &format!("http://{host}/"))
            .expect(400)
            .problem(&[kind]);
    }
    assert_eq!(server.requests(), 0);
    assert!(node.functions().is_empty());
}

#[test]
fn a_redirect_to_a_local_address_is_refused() {
    let node = fetching().start();
    let inside = TcpListener::bind("127.0.0.2:0").unwrap();
    inside.set_nonblocking(true).unwrap();
    let location = format!("Location: http://{}/", inside.local_addr().unwrap());
    let server = serve(move |_| head(&["HTTP/1.1 302 Found", &location]));
    create(&node, "f", &server.url("/")).expect(400).problem(&[
        "redirects",
        "loopback",
        "127.0.0.2",
    ]);
    assert_eq!(inside.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn servers_that_misbehave_are_reported() {
    let node = fetching()
        .set("code.url.size_max", 1_000_000)
        .set("code.url.timeout", 5)
        .set("code.url.concurrency", 20)
        .start();
    let server = serve(|path| match path {
        "/missing" => head(&["HTTP/1.1 404 Not Found"]),
        "/round" => head(&["HTTP/1.1 301 Moved", "Location: /round"]),
        "/truncated" => Answer::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsh".into()),
        "/silent" => Answer::Stuck(Vec::new()),
        "/slow" => Answer::Stuck(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsh".into()),
        "/endless-head" => Answer::Endless(b"HTTP/1.1 200 OK\r\n".into()),
        "/endless" => Answer::Endless([&b"HTTP/1.1 200 OK\r\n\r\n"[..], &[0; 1 << 16]].concat()),
        "/large" => Answer::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n".into()),
        "/text" => ok(b"def handler(): pass"),
        _ => ok(&echo("f").tar()),
    });
    let zeros = format!("/code#sha256={}", "0".repeat(64));
    let cases = [
        ("/missing", 502, "status 404"),
        ("/round", 502, "code.url.redirects_max"),
        ("/truncated", 502, "broke off"),
        ("/silent", 504, "code.url.timeout"),
        ("/slow", 504, "code.url.timeout"),
        ("/endless-head", 502, "not HTTP"),
        ("/endless", 400, "code.url.size_max"),
        ("/large", 400, "code.url.size_max"),
        ("/text", 400, "not an archive"),
        (zeros.as_str(), 400, "SHA-256"),
    ];
    thread::scope(|scope| {
        for (path, status, words) in cases {
            let (node, server) = (&node, &server);
            scope.spawn(move || {
                let reply = create(node, "f", &server.url(path)).expect(status);
                let problem: Value = reply.problem(&[words]);
                assert!(problem["hint"].is_string(), "{problem}");
            });
        }
    });
    create(&node, "f", "ftp://127.0.0.1/x")
        .expect(400)
        .problem(&["\"ftp\""]);
    assert!(node.functions().is_empty());
    create(&node, "f", &server.url("/code")).expect(200);
}

/// A fetch takes no lock: meanwhile the same name can be registered, and wins.
#[test]
fn a_slow_server_holds_up_nobody() {
    let node = fetching().start();
    let (release, released) = mpsc::channel();
    let released = Mutex::new(released);
    let server = serve(move |_| {
        // An error means that the test has failed and let go of the other end.
        let _ = released.lock().unwrap().recv();
        ok(&echo("f").tar())
    });
    thread::scope(|scope| {
        // Dropped if this thread fails, which releases the server too.
        let release = release;
        let slow = scope.spawn(|| create(&node, "f", &server.url("/")));
        eventually("the request", || (server.requests() == 1).then_some(()));
        let quick = "def handler(params, context):\n    return 'quick'\n";
        node.create(&python("f", quick));
        release.send(()).unwrap();
        slow.join().unwrap().expect(409);
        assert_eq!(node.invoke("f", json!({})).result(), "quick");
    });
}
