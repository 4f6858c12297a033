//! A real etcd of one's own: on free ports, in a directory of its own, gone at the end of the test.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http;
use super::{Node, eventually};

/// Starts an etcd with nothing in it, and waits until it answers.
#[track_caller]
pub(crate) fn etcd() -> Etcd {
    let directory = tempfile::Builder::new()
        .prefix("serverledge-etcd-")
        .tempdir()
        .expect("a temporary directory");
    let [clients, peers] = free_ports();
    let mut etcd = Etcd {
        child: None,
        directory,
        clients,
        peers,
    };
    etcd.start();
    etcd
}

/// Ports that etcd is given, as it takes none by itself: outside of what the kernel gives to others,
/// so that they stay free while it is down.
const PORTS: std::ops::Range<u16> = 10_000..30_000;

/// Two free ports.
fn free_ports() -> [SocketAddr; 2] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Other processes of tests look for ports as well: each begins elsewhere.
    let offset = std::process::id().wrapping_mul(97) as u16;
    let mut free = std::iter::repeat_with(|| {
        let next = offset.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        SocketAddr::from(([127, 0, 0, 1], PORTS.start + next % PORTS.len() as u16))
    })
    .take(PORTS.len())
    .filter(|address| TcpListener::bind(address).is_ok());
    std::array::from_fn(|_| free.next().expect("a free port"))
}

/// An etcd, running or not.
pub(crate) struct Etcd {
    child: Option<Child>,
    directory: TempDir,
    clients: SocketAddr,
    peers: SocketAddr,
}

impl Etcd {
    /// For `etcd.address`.
    pub(crate) fn address(&self) -> String {
        self.clients.to_string()
    }

    /// Starts it (again), with the data that it has.
    #[track_caller]
    pub(crate) fn start(&mut self) {
        let (clients, peers) = (
            format!("http://{}", self.clients),
            format!("http://{}", self.peers),
        );
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.directory.path().join("data"))
            .args(["--listen-client-urls", &clients])
            .args(["--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers])
            .args(["--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("default={peers}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting etcd (Debian's package is etcd-server)");
        self.child = Some(child);
        eventually("etcd to answer", || {
            self.try_ask("kv/range", &json!({ "key": "YQ==" }))
        });
    }

    /// Ends it without warning.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killing etcd");
            child.wait().expect("waiting for etcd");
        }
    }

    /// Forgets everything.
    pub(crate) fn wipe(&self) {
        assert!(self.child.is_none(), "kill it first");
        let data = self.directory.path().join("data");
        std::fs::remove_dir_all(data).expect("removing etcd's data");
    }

    /// Forgets the history of everything.
    #[track_caller]
    pub(crate) fn compact(&self) {
        let found = self.ask("kv/range", &json!({ "key": "YQ==" }));
        let revision = &found["header"]["revision"];
        self.ask(
            "kv/compaction",
            &json!({ "revision": revision, "physical": true }),
        );
    }

    fn try_ask(&self, what: &str, request: &Value) -> Option<Value> {
        let path = format!("/v3/{what}");
        let body = request.to_string();
        let reply = http::request(self.clients, "POST", &path, &[], body.as_bytes()).ok()?;
        (reply.status == 200).then(|| reply.json())
    }

    #[track_caller]
    fn ask(&self, what: &str, request: &Value) -> Value {
        self.try_ask(what, request)
            .unwrap_or_else(|| panic!("etcd refused {what} {request}"))
    }

    /// Keys and values that begin with `prefix`, and whether they have a lease.
    #[track_caller]
    pub(crate) fn entries(&self, prefix: &str) -> Vec<(String, String, bool)> {
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().expect("a prefix") += 1;
        let range = json!({ "key": BASE64.encode(prefix), "range_end": BASE64.encode(end) });
        let found = self.ask("kv/range", &range);
        let entries = found["kvs"].as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .map(|entry| {
                (
                    text(&entry["key"]),
                    text(&entry["value"]),
                    entry["lease"].is_string(),
                )
            })
            .collect()
    }

    /// The value of a key.
    #[track_caller]
    pub(crate) fn value(&self, key: &str) -> Option<String> {
        let found = self.ask("kv/range", &json!({ "key": BASE64.encode(key) }));
        let value = &found["kvs"].as_array()?.first()?["value"];
        Some(text(value))
    }

    #[track_caller]
    pub(crate) fn put(&self, key: &str, value: &str) {
        let entry = json!({ "key": BASE64.encode(key), "value": BASE64.encode(value) });
        self.ask("kv/put", &entry);
    }

    #[track_caller]
    pub(crate) fn delete(&self, key: &str) {
        self.ask("kv/deleterange", &json!({ "key": BASE64.encode(key) }));
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn text(encoded: &Value) -> String {
    let bytes = BASE64.decode(encoded.as_str().unwrap_or_default());
    String::from_utf8(bytes.expect("base64")).expect("text")
}

/// The keys of the members that the node sees, sorted.
pub(crate) fn seen_by(node: &Node) -> Vec<String> {
    let members = node.get("/v1/nodes").expect(200).json();
    let members = members.as_array().cloned().unwrap_or_default();
    let key = |member: &Value| member["Key"].as_str().unwrap_or_default().to_owned();
    let mut keys: Vec<String> = members.iter().map(key).collect();
    keys.sort_unstable();
    keys
}
