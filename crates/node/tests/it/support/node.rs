//! A node of one's own: started with `node().memory(512).start()`, gone at the end of the test.

use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::{self, Response};
use super::machine;
use super::{Function, PATIENCE, eventually};

/// How long a node may take to stop after a polite signal: its own drain time and then some.
const STOP_TIME_MAX: Duration = Duration::from_secs(60);

/// Tells the node, as it is built for tests, when to die.
const DIES_AT: &str = "WORKFLOW_DIES_AT";

/// A node with the defaults of the tests: a port of its own, storage of its own, 1 GB of memory.
pub(crate) fn node() -> Builder {
    let storage = tempfile::Builder::new()
        .prefix("serverledge-it-")
        .tempdir()
        .expect("a temporary directory");
    Builder {
        settings: Vec::new(),
        config: None,
        storage: Arc::new(storage),
        storage_name: "storage".into(),
        command: None,
    }
    .set("api.port", 0)
    .memory(1024)
    .cpus(2.0)
}

/// A load balancer, which is talked to like a node. It notices soon what becomes of its targets.
pub(crate) fn balancer() -> Builder {
    let mut builder = node()
        .set("lb.health.interval", 0.05)
        .set("lb.ejection.time", 0.1);
    builder.command = Some("lb");
    builder
}

/// A node that isn't running yet, or no longer.
#[derive(Clone)]
pub(crate) struct Builder {
    settings: Vec<(String, String)>,
    config: Option<String>,
    storage: Arc<TempDir>,
    storage_name: PathBuf,
    /// Of the program; none: a node.
    command: Option<&'static str>,
}

impl Builder {
    /// Sets a configuration key, by environment.
    pub(crate) fn set(mut self, key: &str, value: impl ToString) -> Self {
        let variable = format!("SERVERLEDGE_{}", key.replace('.', "_").to_uppercase());
        self.settings.retain(|(name, _)| *name != variable);
        self.settings.push((variable, value.to_string()));
        self
    }

    /// Has the node die at a write to the journal of a workflow: `before:N` or `after:N`.
    pub(crate) fn dies_at(mut self, write: &str) -> Self {
        self = self.dies_not();
        self.settings.push((DIES_AT.into(), write.into()));
        self
    }

    /// Takes that back.
    pub(crate) fn dies_not(mut self) -> Self {
        self.settings.retain(|(name, _)| name != DIES_AT);
        self
    }

    /// Keeps the node's data at this path, in its own temporary directory.
    pub(crate) fn storage_at(mut self, path: impl Into<PathBuf>) -> Self {
        self.storage_name = path.into();
        self
    }

    /// Starts the node with this configuration file, as YAML.
    pub(crate) fn config(mut self, yaml: &str) -> Self {
        self.config = Some(yaml.into());
        self
    }

    pub(crate) fn memory(self, megabytes: u64) -> Self {
        self.set("container.pool.memory", megabytes)
    }

    pub(crate) fn cpus(self, cpus: f64) -> Self {
        self.set("container.pool.cpus", cpus)
    }

    pub(crate) fn queue(self, capacity: usize, seconds: f64) -> Self {
        self.set("scheduler.queue.capacity", capacity)
            .set("scheduler.queue.timeout", seconds)
    }

    /// Starts the node and waits until it answers.
    #[track_caller]
    pub(crate) fn start(self) -> Node {
        // The previous node of this storage may have left its address; wait for the new one's.
        drop(std::fs::remove_file(self.address_file()));
        let mut node = self.spawn();
        node.address = node.wait_for_address(|node| {
            // Read whole only when its line is: the file may be caught half written.
            let text = std::fs::read_to_string(node.builder.address_file()).unwrap_or_default();
            text.strip_suffix('\n').map(str::to_owned)
        });
        node
    }

    /// As [`Builder::start`], where the node has no room to write its address: its log has it, too.
    #[track_caller]
    pub(crate) fn start_without_room(self) -> Node {
        let mut node = self.spawn();
        node.address = node.wait_for_address(|node| {
            let text = node.log.text();
            let (_, address) = text.split_once("ready address=")?;
            address
                .split_once(' ')
                .map(|(address, _)| address.to_owned())
        });
        node
    }

    #[track_caller]
    fn spawn(self) -> Node {
        assert!(
            machine::is_root(),
            "these tests make real sandboxes: run them as root"
        );
        let mut command = Command::new(env!("CARGO_BIN_EXE_serverledge"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SERVERLEDGE_")) {
            command.env_remove(name);
        }
        command.args(self.command);
        if let Some(yaml) = &self.config {
            let path = self.storage.path().join("node.yaml");
            std::fs::write(&path, yaml).expect("writing the configuration");
            command.arg(path);
        }
        let mut child = command
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .env("SERVERLEDGE_STORAGE_PATH", self.storage_path())
            .current_dir(self.storage.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting the node");
        let log = Log::of(&mut child);
        Node {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            log,
            builder: self,
        }
    }

    pub(crate) fn storage_path(&self) -> PathBuf {
        self.storage.path().join(&self.storage_name)
    }

    /// The directory's own name, which no other node's paths contain.
    pub(crate) fn mark(&self) -> String {
        self.storage
            .path()
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned()
    }

    fn address_file(&self) -> PathBuf {
        let name = self.command.map_or("api.address", |_| "lb.address");
        self.storage_path().join(name)
    }
}

/// A running node.
pub(crate) struct Node {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Log,
    builder: Builder,
}

impl Node {
    #[track_caller]
    fn wait_for_address(&mut self, look: impl Fn(&Self) -> Option<String>) -> SocketAddr {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(address) = look(self) {
                return address.parse().expect("the address of the node");
            }
            if let Some(status) = self.child.try_wait().expect("waiting for the node") {
                panic!("the node ended at its start: {status}");
            }
            assert!(Instant::now() < deadline, "no address in time");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn mark(&self) -> String {
        self.builder.mark()
    }

    pub(crate) fn storage(&self) -> PathBuf {
        self.builder.storage_path()
    }

    /// What to start it with again, once it has ended.
    pub(crate) fn builder(&self) -> Builder {
        self.builder.clone()
    }

    /// Sends a request and reads the reply.
    #[track_caller]
    pub(crate) fn send(&self, method: &str, path: &str, body: impl AsRef<[u8]>) -> Response {
        http::request(self.address, method, path, &[], body.as_ref())
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &Value) -> Response {
        self.send("POST", path, body.to_string())
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        self.send("GET", path, "")
    }

    #[track_caller]
    pub(crate) fn create(&self, function: &Function) {
        self.post("/create", &function.body()).expect(200);
    }

    #[track_caller]
    pub(crate) fn update(&self, function: &Function) {
        self.post("/update", &function.body()).expect(200);
    }

    /// Calls the function `name`, whose characters need no escapes.
    #[track_caller]
    pub(crate) fn invoke(&self, name: &str, params: Value) -> Response {
        self.post(&format!("/invoke/{name}"), &json!({ "Params": params }))
    }

    /// As [`Node::invoke`], where the node may be gone before it answers.
    pub(crate) fn try_invoke(&self, name: &str, request: &Value) -> std::io::Result<Response> {
        try_invoke(self.address, name, request)
    }

    /// Calls `name` without waiting for the result, and gives the request's id.
    #[track_caller]
    pub(crate) fn invoke_async(&self, name: &str, params: Value) -> String {
        let reply = self
            .post(
                &format!("/invoke/{name}"),
                &json!({ "Params": params, "Async": true }),
            )
            .expect(200);
        reply
            .field("ReqId")
            .as_str()
            .expect("ReqId is a string")
            .into()
    }

    /// Polls until the call `id` has ended, and gives its stored result.
    #[track_caller]
    pub(crate) fn poll(&self, id: &str) -> Response {
        eventually(&format!("the result of {id}"), || {
            let reply = self.get(&format!("/poll/{id}"));
            assert!(matches!(reply.status, 200 | 404), "{}", reply.shown());
            (reply.status == 200).then_some(reply)
        })
    }

    /// The body of `/status`.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.get("/status").expect(200).json()
    }

    /// Idle sandboxes of the function.
    #[track_caller]
    pub(crate) fn warm(&self, name: &str) -> i64 {
        self.status()["AvailableWarmContainers"][name]
            .as_i64()
            .unwrap_or(0)
    }

    /// Megabytes of sandboxes with calls in them.
    #[track_caller]
    pub(crate) fn busy_memory(&self) -> i64 {
        let status = self.status();
        status["TotalMemory"].as_i64().unwrap() - status["AvailableMemory"].as_i64().unwrap()
    }

    /// Names of the registered functions.
    #[track_caller]
    pub(crate) fn functions(&self) -> Vec<String> {
        serde_json::from_value(self.get("/function").expect(200).json()).expect("an array of names")
    }

    /// What the node has written to its log.
    pub(crate) fn log_text(&self) -> String {
        self.log.text()
    }

    /// Waits until the node has written a line with this to its log.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str) {
        eventually(text, || self.log.text().contains(text).then_some(()));
    }

    /// What the node has written to its log.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    pub(crate) fn signal(&self, signal: &str) {
        machine::signal(self.pid(), signal);
    }

    /// Ends the node with SIGTERM, and gives how it ended.
    pub(crate) fn stop(mut self) -> (ExitStatus, Builder) {
        self.signal("TERM");
        (self.wait(), self.builder.clone())
    }

    /// Waits for the node to end after a signal.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + STOP_TIME_MAX;
        loop {
            if let Some(status) = self.child.try_wait().expect("waiting for the node") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the node didn't stop in {STOP_TIME_MAX:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the node, as a crash would, and gives what to start it again with.
    pub(crate) fn kill9(mut self) -> Builder {
        self.signal("KILL");
        assert_eq!(self.wait().signal(), Some(9));
        self.builder.clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Gone already unless the test left it running or failed.
        if let Ok(None) = self.child.try_wait() {
            self.signal("TERM");
            let deadline = Instant::now() + STOP_TIME_MAX;
            while matches!(self.child.try_wait(), Ok(None)) {
                if Instant::now() > deadline {
                    drop(self.child.kill());
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            drop(self.child.wait());
        }
        if std::thread::panicking() {
            self.log.show();
        }
    }
}

/// As [`Node::try_invoke`], for a thread that has no node but its address.
pub(crate) fn try_invoke(
    address: SocketAddr,
    name: &str,
    request: &Value,
) -> std::io::Result<Response> {
    let body = request.to_string();
    http::request(
        address,
        "POST",
        &format!("/invoke/{name}"),
        &[],
        body.as_bytes(),
    )
}

/// Makes sure nothing of a node that has ended is left on the machine.
#[track_caller]
pub(crate) fn assert_nothing_left(mark: &str, before: &machine::Footprint, storage: &Path) {
    let left = eventually_none(|| machine::left_of(mark, before));
    assert!(
        left.is_empty(),
        "left behind by the node of {}: {left:#?}",
        storage.display()
    );
}

/// Polls for a while until `left` is empty; gives what stayed.
fn eventually_none(mut left: impl FnMut() -> Vec<String>) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = left();
        if found.is_empty() || Instant::now() > deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What the node wrote to its standard error.
struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Log {
    fn of(child: &mut Child) -> Self {
        let mut stderr = child.stderr.take().expect("stderr is a pipe");
        let text = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut chunk) {
                written
                    .lock()
                    .expect("no panic under the lock")
                    .extend_from_slice(&chunk[..count]);
            }
        });
        Self {
            text,
            reader: Some(reader),
        }
    }

    fn text(&self) -> String {
        let text = self.text.lock().expect("no panic under the lock");
        String::from_utf8_lossy(&text).into_owned()
    }

    fn show(&mut self) {
        // The reader ends with the last holder of the pipe; a sandbox left behind may hold it, so
        // it isn't joined.
        self.reader.take();
        eprintln!("--- the node's log ---\n{}---", self.text());
    }
}
