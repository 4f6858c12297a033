//! Functions that are programs: a command a call, servers on port 8080, AWS Lambda's runtimes.

use serde_json::{Value, json};

use crate::support::http::Response;
use crate::support::{Function, Node, eventually, node, python};

/// A function of the runtime `custom` with these files. Archives made here carry no mode bits, as
/// those made on other systems.
fn program(name: &str, handler: &str, files: &[(&str, &str)]) -> Function {
    let function = python(name, "").runtime("custom").handler(handler);
    let files = files.iter();
    files.fold(function, |function, (path, source)| {
        function.file(path, source)
    })
}

/// The text of an error reply.
fn failure(node: &Node, name: &str, status: u16) -> String {
    let reply = node.invoke(name, json!({"a": 1}));
    assert_eq!(reply.status, status, "{}", reply.shown());
    reply.text().to_owned()
}

#[test]
fn a_command_runs_for_each_call() {
    let node = node().start();
    let script = "#!/bin/sh\n\
        echo \"to $1: $(cat \"${PARAMS_FILE:-/dev/null}\")\"\n\
        echo complaint >&2\n\
        printf '{\"got\": %s, \"handler\": \"%s\", \"in\": \"%s\"}' \
        \"$(cat \"${PARAMS_FILE:-/dev/null}\" | wc -c)\" \"$HANDLER\" \"$HANDLER_DIR\" > \"$RESULT_FILE\"\n";
    node.create(&program("f", "run.sh you", &[("run.sh", script)]));
    for _ in 0..2 {
        let body = json!({"Params": {"a": "é"}, "ReturnOutput": true});
        let reply = node.post("/invoke/f", &body).expect(200);
        let expected = json!({"got": 10, "handler": "run.sh you", "in": "/app"});
        assert_eq!(reply.result(), expected);
        assert_eq!(reply.field("Output"), "to you: {\"a\":\"é\"}\ncomplaint\n");
    }
    let reply = node.post("/invoke/f", &json!({})).expect(200);
    assert_eq!(reply.result()["got"], 0, "no parameters, no file");
    assert_eq!(reply.field("Output"), "");
}

#[test]
fn a_program_of_the_machine_can_be_the_command() {
    let node = node().start();
    let source = "import os\nopen(os.environ['RESULT_FILE'], 'w').write('not JSON')\n";
    node.create(&program("f", "python3 main.py", &[("main.py", source)]));
    let reply = node.invoke("f", json!({})).expect(200);
    assert_eq!(reply.field("Result"), "not JSON");
}

#[test]
fn a_command_that_fails_says_how() {
    let node = node().start();
    let files = [
        ("fail.sh", "#!/bin/sh\necho sorry; exit 3\n"),
        ("text", "no program"),
    ];
    node.create(&program("fails", "fail.sh", &files));
    let text = failure(&node, "fails", 500);
    assert!(
        text.contains("exit status 3") && text.contains("sorry"),
        "{text}"
    );
    // The sandbox is as good as before.
    let text = failure(&node, "fails", 500);
    assert!(text.contains("exit status 3"), "{text}");
    for (name, handler, said) in [
        ("missing", "nothing.sh", "there is no program 'nothing.sh'"),
        ("text", "text", "neither a program nor a script"),
        ("empty", "", "the handler names no command"),
    ] {
        node.create(&program(name, handler, &files));
        let text = failure(&node, name, 500);
        assert!(
            text.contains(said) && text.contains("LoadError"),
            "{name}: {text}"
        );
    }
    let killed = [("die.sh", "#!/bin/sh\nkill -9 $$\n")];
    node.create(&program("killed", "die.sh", &killed));
    let text = failure(&node, "killed", 500);
    assert!(text.contains("signal 9"), "{text}");
    let endless = [("wait.sh", "#!/bin/sh\nsleep 1000\n")];
    node.create(&program("endless", "wait.sh", &endless).timeout(0.5));
    failure(&node, "endless", 504);
}

#[test]
fn what_a_command_leaves_behind_holds_nothing_up() {
    let node = node().start();
    let files = [(
        "leave.sh",
        "#!/bin/sh\nsleep 1000 &\necho 1 > $RESULT_FILE\n",
    )];
    node.create(&program("f", "leave.sh", &files));
    for _ in 0..3 {
        assert_eq!(node.invoke("f", json!({})).expect(200).result(), 1);
    }
}

/// A server of the original's protocol that does what the parameters say.
const SERVER: &str = "\
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        what = (asked['Params'] or {}).get('do')
        if what == 'die': os._exit(7)
        if what == 'close': return
        status = 500 if what == 'fail' else 200
        answer = {'Success': status == 200, 'Result': json.dumps(asked), 'Output': 'said' if asked['ReturnOutput'] else ''}
        if what == 'fail': answer['Error'] = 'as you wished'
        answer = b'what?' if what == 'babble' else json.dumps(answer).encode()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *arguments): pass
print('about to listen', flush=True)
http.server.ThreadingHTTPServer(('127.0.0.1', 8080), Handler).serve_forever()
";

#[test]
fn a_server_gets_the_calls() {
    let node = node().start();
    node.create(&program(
        "f",
        "server:python3 main.py",
        &[("main.py", SERVER)],
    ));
    let body = json!({"Params": {"a": "ü"}, "ReturnOutput": true});
    let reply = node.post("/invoke/f", &body).expect(200);
    let asked = reply.result();
    assert_eq!(asked["Params"], json!({"a": "ü"}));
    assert_eq!(asked["HandlerDir"], "/app");
    assert_eq!(asked["Command"], Value::Null);
    assert_eq!(reply.field("Output"), "said");
    for (what, said) in [
        ("fail", "as you wished"),
        ("babble", "its server answered with status 200: what?"),
        ("close", "its server did not answer"),
    ] {
        let reply = node.invoke("f", json!({"do": what}));
        assert_eq!(reply.status, 500, "{what}: {}", reply.shown());
        assert!(reply.text().contains(said), "{what}: {}", reply.shown());
    }
    let reply = node.invoke("f", json!({"do": "die"}));
    assert_eq!(reply.status, 500, "{}", reply.shown());
    assert!(
        node.invoke("f", json!({})).expect(200).result().is_object(),
        "a new one"
    );
}

#[test]
fn a_server_that_does_not_come_up_is_an_error() {
    let node = node().set("sandbox.start_timeout", 2).start();
    let files = [
        ("gone.sh", "#!/bin/sh\necho no port >&2; exit 4\n"),
        ("idle.sh", "#!/bin/sh\nsleep 99\n"),
    ];
    node.create(&program("gone", "server:gone.sh", &files));
    let text = failure(&node, "gone", 500);
    assert!(text.contains("no port"), "{text}");
    node.create(&program("idle", "server:idle.sh", &files));
    let text = failure(&node, "idle", 500);
    assert!(text.contains("start"), "{text}");
}

/// A client of AWS Lambda's runtime interface, as one would write it from the documentation.
const BOOTSTRAP: &str = "\
#!/usr/bin/python3
import http.client, json, os, sys
def post(connection, path, body, headers={}):
    connection.request('POST', '/2018-06-01/runtime/' + path, body, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status
connection = http.client.HTTPConnection(os.environ['AWS_LAMBDA_RUNTIME_API'])
if os.environ['_HANDLER'] == 'broken':
    error = {'errorMessage': 'cannot begin', 'errorType': 'Init.Broken'}
    post(connection, 'init/error', json.dumps(error))
    sys.exit(1)
print('at the start', flush=True)
while True:
    connection.request('GET', '/2018-06-01/runtime/invocation/next')
    answer = connection.getresponse()
    event = json.loads(answer.read()) or {}
    request = answer.headers['Lambda-Runtime-Aws-Request-Id']
    deadline = int(answer.headers['Lambda-Runtime-Deadline-Ms'])
    what = event.get('do')
    print('doing', what, flush=True)
    if what == 'die': os._exit(7)
    if what == 'fail':
        error = {'errorMessage': 'as you wished', 'errorType': 'Wish', 'stackTrace': ['here', 'there']}
        post(connection, f'invocation/{request}/error', json.dumps(error))
        continue
    result = {'event': event, 'deadline': deadline, 'wrong': post(connection, 'invocation/other/response', '1')}
    result['env'] = {name: os.environ[name] for name in ('LAMBDA_TASK_ROOT', 'AWS_LAMBDA_FUNCTION_MEMORY_SIZE')}
    body = json.dumps(result).encode()
    if what == 'chunked':
        # Without a length, which is how responses are streamed.
        body = iter([body[:5], body[5:]])
    if what == 'large':
        body = b'[' + b'1,' * (1 << 20) + b'1]'
    post(connection, f'invocation/{request}/response', body)
    if what == 'last': os._exit(0)
";

#[test]
fn a_lambda_bootstrap_runs_unchanged() {
    let node = node().start();
    let files = [("bootstrap", BOOTSTRAP)];
    node.create(&program("f/with a slash", "main.handler", &files).runtime("provided.al2023"));
    let path = "/invoke/f/with%20a%20slash";
    let invoke = |params: Value| node.post(path, &json!({"Params": params, "ReturnOutput": true}));
    for what in ["plain", "chunked"] {
        let reply = invoke(json!({"do": what, "x": "ü"})).expect(200);
        let result = reply.result();
        assert_eq!(result["event"], json!({"do": what, "x": "ü"}));
        assert_eq!(result["wrong"], 400);
        let environment =
            json!({"LAMBDA_TASK_ROOT": "/app", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128"});
        assert_eq!(result["env"], environment);
        assert!(result["deadline"].as_u64().unwrap() > 1_700_000_000_000);
        assert_eq!(reply.field("Output"), format!("doing {what}\n"));
    }
    let large = invoke(json!({"do": "large"})).expect(200);
    assert_eq!(large.result_text().len(), (2 << 20) + 3);
    let failed = invoke(json!({"do": "fail"}));
    assert_eq!(failed.status, 500);
    let problem = failed.problem(&["Wish", "as you wished"]);
    assert_eq!(problem["stack"], "here\nthere");
    for what in ["die", "last"] {
        let reply = invoke(json!({"do": what}));
        assert_eq!(
            reply.status,
            if what == "die" { 500 } else { 200 },
            "{}",
            reply.shown()
        );
        // A call that comes before the end is known may go down with the program.
        eventually("the sandbox is gone", || {
            let warm = node.status()["AvailableWarmContainers"]["f/with a slash"].as_u64();
            (warm.unwrap_or(0) == 0).then_some(())
        });
        invoke(json!({})).expect(200);
    }
}

#[test]
fn a_lambda_runtime_that_cannot_begin_says_why() {
    let node = node().start();
    node.create(&program("f", "broken", &[("bootstrap", BOOTSTRAP)]));
    let text = failure(&node, "f", 500);
    assert!(
        text.contains("Init.Broken") && text.contains("cannot begin"),
        "{text}"
    );
    node.create(&program(
        "g",
        "",
        &[("bootstrap", "#!/no/such/interpreter\n")],
    ));
    let text = failure(&node, "g", 500);
    assert!(
        text.contains("is the interpreter in its first line"),
        "{text}"
    );
}

#[test]
fn programs_need_code() {
    let node = node().start();
    for runtime in ["custom", "go125", "provided.al2"] {
        let mut body = program("f", "main", &[]).runtime(runtime).body();
        body["TarFunctionCode"] = json!("");
        node.post("/create", &body)
            .expect(400)
            .problem(&[runtime, "program"]);
    }
}

/// A server that answers as the bytes in the parameters say, on connections that it keeps, and
/// counts them.
const RAW: &str = "\
import json, socket, threading
listener = socket.create_server(('127.0.0.1', 8080))
connections = 0
def serve(connection, number):
    stream = connection.makefile('rwb')
    while True:
        length = 0
        while (line := stream.readline()).strip():
            if line.lower().startswith(b'content-length:'): length = int(line.split(b':')[1])
        if not line: return
        params = json.loads(stream.read(length))['Params']
        body = json.dumps({'Success': True, 'Result': str(number)})
        answer = params.get('raw', f'HTTP/1.1 200 OK\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n{body}')
        stream.write(answer.encode() * params.get('times', 1))
        stream.flush()
        if params.get('close'): connection.shutdown(socket.SHUT_RDWR)
while True:
    connection, _ = listener.accept()
    connections += 1
    threading.Thread(target=serve, args=(connection, connections)).start()
";

/// A call after one whose connection the server closes, which it may not have done yet: what is sent
/// into a connection that is just being closed is lost, and not sent again.
#[track_caller]
fn answered(node: &Node, function: &str) -> Response {
    eventually("a call to be answered", || {
        let reply = node.invoke(function, json!({}));
        (reply.status == 200).then_some(reply)
    })
}

#[test]
fn connections_to_a_server_are_kept_while_that_is_safe() {
    let node = node().start();
    let files = [("main.py", RAW)];
    node.create(&program("f", "server:python3 main.py", &files));
    let connection = |params: Value| {
        let reply = node.invoke("f", params).expect(200);
        reply.result().as_u64().expect("a number")
    };
    let first = connection(json!({}));
    assert_eq!(connection(json!({})), first, "kept");
    assert_eq!(connection(json!({"close": true})), first);
    let next = answered(&node, "f").result();
    assert_eq!(next, json!(first + 1), "the server closed it");
    // Twice the answer: the second one must not be taken for that of the next call.
    assert_eq!(connection(json!({"times": 2})), first + 1);
    assert_eq!(connection(json!({})), first + 2);
}

#[test]
fn whatever_a_server_answers_is_an_error_at_worst() {
    let node = node().start();
    let files = [("main.py", RAW)];
    node.create(&program("f", "server:python3 main.py", &files));
    let long = format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(50_000));
    for raw in [
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 4000000000\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]",
        "HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        "\u{0}\r\n\r\n",
        &long,
    ] {
        let reply = node.invoke("f", json!({"raw": raw, "close": true}));
        assert_eq!(reply.status, 500, "{raw:.60}: {}", reply.shown());
        answered(&node, "f");
    }
}

#[test]
fn a_command_without_threads_to_spare_is_an_error() {
    let node = node().start();
    // Takes all processes that its sandbox may have, and leaves them.
    let source = "\
        import os, time\n\
        try:\n    while True:\n        if os.fork() == 0: time.sleep(1000)\n\
        except OSError: os._exit(3)\n";
    node.create(&program("f", "python3 main.py", &[("main.py", source)]));
    let text = failure(&node, "f", 500);
    assert!(text.contains("exit status 3"), "{text}");
    // They are still there.
    let text = failure(&node, "f", 500);
    assert!(text.contains("Resource temporarily unavailable"), "{text}");
}

#[test]
fn output_and_results_of_commands_are_bounded() {
    let node = node().start();
    let flood = "#!/bin/sh\nhead -c 3000000 /dev/zero | tr '\\0' x\necho 1 > $RESULT_FILE\n";
    let large = "#!/bin/sh\ntruncate -s 60M $RESULT_FILE\n";
    let link = "#!/bin/sh\nln -s /dev/zero $RESULT_FILE\n";
    let directory = "#!/bin/sh\nmkdir $RESULT_FILE\n";
    let files = [
        ("flood.sh", flood),
        ("large.sh", large),
        ("link.sh", link),
        ("directory.sh", directory),
    ];
    node.create(&program("flood", "flood.sh", &files));
    let reply = node
        .post("/invoke/flood", &json!({"ReturnOutput": true}))
        .expect(200);
    let output = reply.field("Output").as_str().unwrap().to_owned();
    assert!(
        output.len() < 1_100_000 && output.contains("output cut"),
        "{}",
        output.len()
    );
    for (name, said) in [
        ("large", "is larger than"),
        ("link", "is larger than"),
        ("directory", "its result can't be read"),
    ] {
        node.create(&program(name, &format!("{name}.sh"), &files).memory(512));
        let text = failure(&node, name, 500);
        assert!(text.contains(said), "{name}: {text}");
    }
}
