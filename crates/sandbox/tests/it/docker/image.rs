//! The engine that the tests use, and an image for it. The node's tests use this file too.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serverledge_sandbox::docker::SOCKET;

/// Where the engine listens. `cargo xtask ci` starts one if there is none, and sets this.
pub(crate) fn socket() -> PathBuf {
    std::env::var_os("TEST_DOCKER_SOCKET").map_or_else(|| SOCKET.into(), PathBuf::from)
}

/// What the Docker client prints.
pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker")
        .arg("-H")
        .arg(format!("unix://{}", socket().display()))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// An image of this machine's Python, whose command is [`SERVER`].
pub(crate) fn image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| imported("python", &["CMD [\"python3\", \"/server.py\"]"]))
}

/// The same, with [`LAMBDA`] for AWS Lambda.
pub(crate) fn lambda_image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    let changes = [
        "ENTRYPOINT [\"python3\"]",
        "CMD [\"/lambda.py\"]",
        "ENV LAMBDA_TASK_ROOT=/var/task",
    ];
    IMAGE.get_or_init(|| imported("lambda", &changes))
}

/// Made once an engine.
fn imported(name: &str, changes: &[&str]) -> String {
    let print = "import sys; print(sys.version)";
    let version = run("/usr/bin/python3", &["-I", "-c", print]);
    let tag = hash(&format!("{version}{SERVER}{LAMBDA}{changes:?}"));
    let name = format!("serverledge-test-{name}:{tag}");
    if !docker(&["images", "-q", &name]).is_empty() {
        return name;
    }
    let built = tempfile::tempdir().unwrap();
    import(&python_root(built.path()), &name, changes);
    name
}

/// Makes an image of a tar.
pub(crate) fn import(archive: &Path, name: &str, changes: &[&str]) {
    let mut arguments = vec!["import"];
    for change in changes {
        arguments.extend(["--change", change]);
    }
    arguments.extend([archive.to_str().unwrap(), name]);
    docker(&arguments);
}

/// A tar in `dir` of this machine's Python, of `server.py` and of `lambda.py`.
pub(crate) fn python_root(dir: &Path) -> PathBuf {
    std::fs::write(dir.join("server.py"), SERVER).unwrap();
    std::fs::write(dir.join("lambda.py"), LAMBDA).unwrap();
    let archive = dir.join("root.tar");
    let mut tar = Command::new("tar");
    tar.arg("--dereference").arg("-cf").arg(&archive);
    for left_out in LEFT_OUT {
        tar.arg(format!("--exclude={left_out}"));
    }
    tar.args(["-C", "/"]).args(python_files());
    tar.arg("-C").arg(dir).args(["server.py", "lambda.py"]);
    assert!(tar.status().unwrap().success());
    archive
}

/// Large parts of Python's library that nobody here needs.
const LEFT_OUT: [&str; 7] = [
    "__pycache__",
    "test",
    "idlelib",
    "ensurepip",
    "dist-packages",
    "config-*",
    "lib2to3",
];

/// Paths, without the slash, of the interpreter, its modules and its libraries.
fn python_files() -> Vec<String> {
    let print = "import sys, sysconfig; print(sys.base_prefix, sysconfig.get_path('stdlib'))";
    let printed = run("/usr/bin/python3", &["-I", "-c", print]);
    let library = printed.split_whitespace().last().unwrap().to_owned();
    let mut binaries = vec!["/usr/bin/python3".to_owned()];
    let extensions = std::fs::read_dir(Path::new(&library).join("lib-dynload")).unwrap();
    binaries.extend(extensions.map(|file| file.unwrap().path().to_str().unwrap().to_owned()));
    let binaries: Vec<&str> = binaries.iter().map(String::as_str).collect();
    let mut files = libraries(&binaries);
    files.extend(["/usr/bin/python3".to_owned(), library]);
    files.iter().map(|file| file[1..].to_owned()).collect()
}

/// Paths of the libraries that these programs and libraries need.
pub(crate) fn libraries(binaries: &[&str]) -> Vec<String> {
    let mut files: Vec<String> = run("ldd", binaries)
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(str::to_owned)
        .collect();
    files.sort();
    files.dedup();
    files
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn hash(text: &str) -> String {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

/// A server of the original's protocol, which does as its parameters say.
const SERVER: &str = r#"
import json, os, socket, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

def connects(host, port):
    try:
        socket.create_connection((host, port), 2).close()
        return True
    except OSError:
        return False

def run(p):
    if p.get('print'): print(p['print'], flush=True)
    if 'sleep' in p: time.sleep(p['sleep'])
    if 'exit' in p: os._exit(p['exit'])
    if 'fail' in p: raise ValueError(p['fail'])
    if 'connect' in p: return connects(*p['connect'])
    if p.get('address'): return socket.gethostbyname(socket.gethostname())
    return {'uid': os.getuid(), 'params': p}

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        if 'raw' in (asked['Params'] or {}):
            body = asked['Params']['raw'].encode()
        else:
            try:
                result = run(asked['Params'] or {})
                asked.pop('Params')
                result = {'Success': True, 'Result': json.dumps([result, asked]), 'Output': 'said'}
            except Exception as error:
                result = {'Success': False, 'Output': repr(error)}
            body = json.dumps(result).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

time.sleep(0.2)
ThreadingHTTPServer(('', 8080), Handler).serve_forever()
"#;

/// A client of AWS Lambda's runtime interface, which tells what it got, what it is and whether it
/// reaches what it is to `connect` to.
const LAMBDA: &str = r#"
import json, os, socket, urllib.request

def connects(host, port):
    try:
        socket.create_connection((host, port), 2).close()
        return True
    except OSError:
        return False

api = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation"
while True:
    with urllib.request.urlopen(api + '/next') as event:
        request = event.headers['Lambda-Runtime-Aws-Request-Id']
        asked = json.load(event)
    result = {'event': asked, 'handler': os.environ['_HANDLER'], 'uid': os.getuid()}
    if 'connect' in asked: result['connected'] = [connects(*it) for it in asked['connect']]
    urllib.request.urlopen(f'{api}/{request}/response', json.dumps(result).encode()).close()
"#;
