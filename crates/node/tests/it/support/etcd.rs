//! A real etcd of one's own: on free ports, in a directory of its own, gone at the end of the test.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http;
use super::node::Builder;
use super::{Node, eventually, node};

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
        secure: None,
        token: None,
    };
    etcd.start();
    etcd
}

/// Starts an etcd that is asked by TLS, lets in only who shows a certificate of its authority, and
/// wants the user `node` with the password [`Secure::PASSWORD`].
#[track_caller]
pub(crate) fn secure_etcd() -> Etcd {
    let directory = tempfile::Builder::new()
        .prefix("serverledge-etcd-")
        .tempdir()
        .expect("a temporary directory");
    let [clients, peers] = free_ports();
    let [address, _] = free_ports();
    let mut etcd = Etcd {
        child: None,
        secure: Some(Secure::new(directory.path(), address)),
        directory,
        clients,
        peers,
        token: None,
    };
    etcd.start();
    etcd.ask_for_passwords();
    etcd
}

/// Certificates, and where they are asked for.
pub(crate) struct Secure {
    address: SocketAddr,
    /// `ca.pem`, and `etcd`, `node` and `stranger` with `.pem` and `.key`.
    directory: PathBuf,
}

impl Secure {
    pub(crate) const PASSWORD: &str = "a password";

    fn new(directory: &Path, address: SocketAddr) -> Self {
        let [ours, others] = ["ours", "others"].map(authority);
        let write = |name: &str, text: String| {
            std::fs::write(directory.join(name), text).expect("writing a certificate");
        };
        write("ca.pem", ours.0.clone());
        write("others.pem", others.0.clone());
        for (name, authority) in [("etcd", &ours), ("node", &ours), ("stranger", &others)] {
            let key = rcgen::KeyPair::generate().expect("a key");
            let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
            let mut params = rcgen::CertificateParams::new(names).expect("names");
            // With passwords, etcd's gateway takes no certificate with a common name.
            params.distinguished_name = rcgen::DistinguishedName::new();
            // etcd asks itself, and shows its own certificate when it does.
            params.extended_key_usages = vec![
                rcgen::ExtendedKeyUsagePurpose::ServerAuth,
                rcgen::ExtendedKeyUsagePurpose::ClientAuth,
            ];
            let certificate = params.signed_by(&key, &authority.1).expect("a certificate");
            write(&format!("{name}.pem"), certificate.pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Self {
            address,
            directory: directory.to_owned(),
        }
    }

    /// The path of a file.
    pub(crate) fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// For `etcd.address`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }
}

/// An authority's certificate, and what it signs with.
fn authority(name: &str) -> (String, rcgen::Issuer<'static, rcgen::KeyPair>) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let certificate = params.self_signed(&key).expect("a certificate");
    (certificate.pem(), rcgen::Issuer::new(params, key))
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
    secure: Option<Secure>,
    /// What shows that the test is its root.
    token: Option<String>,
}

impl Etcd {
    /// For `etcd.address`.
    pub(crate) fn address(&self) -> String {
        self.clients.to_string()
    }

    /// The same, to be connected to.
    pub(crate) fn clients(&self) -> SocketAddr {
        self.clients
    }

    /// Starts it (again), with the data that it has.
    #[track_caller]
    pub(crate) fn start(&mut self) {
        let (clients, peers) = (
            format!("http://{}", self.clients),
            format!("http://{}", self.peers),
        );
        let mut command = Command::new("etcd");
        let mut listens = clients.clone();
        if let Some(secure) = &self.secure {
            listens = format!("{clients},https://{}", secure.address);
            command
                .args(["--cert-file", &secure.file("etcd.pem")])
                .args(["--key-file", &secure.file("etcd.key")])
                .args(["--trusted-ca-file", &secure.file("ca.pem")])
                .args(["--client-cert-auth", "--bcrypt-cost", "4"]);
        }
        let child = command
            .arg("--data-dir")
            .arg(self.directory.path().join("data"))
            .args(["--listen-client-urls", &listens])
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
            // Whatever it says.
            let request = br#"{"key":"YQ=="}"#;
            http::request(self.clients, "POST", "/v3/kv/range", &[], request)
                .ok()
                .filter(|reply| reply.status != 503)
        });
    }

    /// Where it wants certificates.
    pub(crate) fn secure(&self) -> &Secure {
        self.secure.as_ref().expect("an etcd made with secure_etcd")
    }

    #[track_caller]
    fn ask_for_passwords(&mut self) {
        let everything = json!({ "permType": "READWRITE", "key": "AA==", "range_end": "AA==" });
        let password = Secure::PASSWORD;
        for (what, request) in [
            ("user/add", json!({ "name": "root", "password": password })),
            ("role/add", json!({ "name": "root" })),
            ("user/grant", json!({ "user": "root", "role": "root" })),
            ("user/add", json!({ "name": "node", "password": password })),
            ("role/add", json!({ "name": "node" })),
            ("role/grant", json!({ "name": "node", "perm": everything })),
            ("user/grant", json!({ "user": "node", "role": "node" })),
            ("enable", json!({})),
        ] {
            self.ask(&format!("auth/{what}"), &request);
        }
        self.log_in();
    }

    /// Gets a new token for the test's own questions.
    #[track_caller]
    pub(crate) fn log_in(&mut self) {
        self.token = None;
        let login = json!({ "name": "root", "password": Secure::PASSWORD });
        let granted = self.ask("auth/authenticate", &login);
        self.token = granted["token"].as_str().map(str::to_owned);
    }

    /// Makes all tokens that were given out invalid.
    #[track_caller]
    pub(crate) fn forget_logins(&mut self) {
        self.ask("auth/disable", &json!({}));
        self.token = None;
        self.ask("auth/enable", &json!({}));
        self.log_in();
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
        let token = self.token.as_deref().map(|token| ("Authorization", token));
        let headers = token.as_slice();
        let reply = http::request(self.clients, "POST", &path, headers, body.as_bytes()).ok()?;
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

/// A node of the fleet in this etcd, with its own key, in this area.
pub(crate) fn member(etcd: &Etcd, key: &str, area: &str) -> Builder {
    node()
        .set("etcd.address", etcd.address())
        .set("registry.node.id", key)
        .set("registry.area", area)
        .set("registry.udp.port", 0)
}

/// Waits until `node` sees this many members.
#[track_caller]
pub(crate) fn sees(node: &Node, count: usize) {
    eventually("all members to be seen", || {
        (seen_by(node).len() == count).then_some(())
    });
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
