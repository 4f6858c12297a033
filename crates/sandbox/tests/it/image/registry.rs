//! Pulling from a real registry, Debian's `docker-registry`, on this machine's loopback.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use serde_json::json;
use serverledge_sandbox::image::{ImageConfig, ImageError, ImageStore};

use super::build::{Built, digest, file, tar};

pub(super) struct Registry {
    pub(super) address: String,
    process: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    pub(super) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..5 {
            // Free a moment ago; if somebody else takes it, the registry ends and the next is tried.
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let address = format!("127.0.0.1:{port}");
            let config = json!({
                "version": "0.1", "http": {"addr": address}, "log": {"level": "error"},
                "storage": {"filesystem": {"rootdirectory": dir.path().join("data")}},
            });
            let path = dir.path().join("config.yml");
            fs::write(&path, config.to_string()).unwrap();
            let mut process = Command::new("docker-registry")
                .arg("serve")
                .arg(&path)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("Debian's package docker-registry is needed");
            while process.try_wait().unwrap().is_none() {
                if TcpStream::connect(&address).is_ok() {
                    return Registry {
                        address,
                        process,
                        _dir: dir,
                    };
                }
                std::thread::yield_now();
            }
        }
        panic!("docker-registry doesn't start");
    }

    /// Status and headers of a request's answer.
    fn request(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        (answer[9..12].parse().unwrap(), answer)
    }

    pub(super) fn push_blob(&self, repository: &str, blob: &[u8]) {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let (status, answer) = self.request("POST", &path, "", b"");
        assert_eq!(status, 202, "{answer}");
        let location = answer
            .lines()
            .find_map(|line| line.strip_prefix("Location: "))
            .unwrap();
        let path = location
            .split_once(&self.address)
            .map_or(location, |(_, path)| path);
        let path = format!("{}&digest={}", path.trim(), digest(blob));
        let (status, answer) = self.request("PUT", &path, "application/octet-stream", blob);
        assert_eq!(status, 201, "{answer}");
    }

    pub(super) fn push_manifest(&self, repository: &str, tag: &str, kind: &str, manifest: &[u8]) {
        let path = format!("/v2/{repository}/manifests/{tag}");
        let kind = format!("application/vnd.oci.image.{kind}.v1+json");
        let (status, answer) = self.request("PUT", &path, &kind, manifest);
        assert_eq!(status, 201, "{answer}");
    }

    fn push(&self, repository: &str, tag: &str, image: &Built) {
        for blob in image.blobs() {
            self.push_blob(repository, &blob);
        }
        self.push_blob(repository, &image.configuration());
        self.push_manifest(repository, tag, "manifest", &image.manifest());
    }

    pub(super) fn store(
        &self,
        change: impl FnOnce(&mut ImageConfig),
    ) -> (Arc<ImageStore>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let mut config = ImageConfig::new(dir.path());
        config.insecure_registries = vec![self.address.clone()];
        change(&mut config);
        (Arc::new(ImageStore::open(config).unwrap()), dir)
    }
}

fn small(text: &str) -> Built {
    let common = tar(&[file("common", "shared")]);
    Built::new(vec![common, tar(&[file("own", text)])])
}

#[tokio::test]
async fn images_are_pulled_by_tag_and_digest_and_share_layers() {
    let registry = Registry::start();
    let (first, second) = (small("first"), small("second"));
    registry.push("a/first", "1", &first);
    registry.push("second", "latest", &second);
    let (store, _dir) = registry.store(|_| {});
    let name = |rest: &str| format!("{}/{rest}", registry.address).parse().unwrap();

    let pulled = store.pull(&name("a/first:1")).await.unwrap();
    assert_eq!(
        digest(&first.configuration()),
        format!("sha256:{}", pulled.id)
    );
    assert_eq!(
        store.find(&name("a/first:1")).unwrap(),
        Some(pulled.clone())
    );
    let by_digest = format!("second@{}", digest(&second.manifest()));
    let other = store.pull(&name(&by_digest)).await.unwrap();
    assert_eq!(pulled.layers[0], other.layers[0]);
    let layers = |store: &ImageStore| {
        let names = fs::read_dir(store.layers_dir()).unwrap();
        names
            .filter(|it| it.as_ref().unwrap().path().is_dir())
            .count()
    };
    assert_eq!(layers(&store), 3);
    let own = store.layers_dir().join(&other.layers[1]).join("own");
    assert_eq!(fs::read_to_string(own).unwrap(), "second");
    assert_eq!(store.remove(&name("a/first:1")).unwrap().layers, 1);
    assert_eq!(layers(&store), 2);
}

#[tokio::test]
async fn of_an_index_this_machines_image_is_taken_and_no_other() {
    let registry = Registry::start();
    let ours = small("ours");
    let foreign = small("foreign").architecture("riscv64");
    for image in [&ours, &foreign] {
        registry.push("many", &digest(&image.manifest()), image);
    }
    let platform = |image: &Built, architecture: &str| {
        let manifest = image.manifest();
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json",
               "digest": digest(&manifest), "size": manifest.len(),
               "platform": {"os": "linux", "architecture": architecture}})
    };
    let here = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let index = |manifests: &[serde_json::Value]| {
        let index = json!({"schemaVersion": 2, "manifests": manifests,
                           "mediaType": "application/vnd.oci.image.index.v1+json"});
        index.to_string().into_bytes()
    };
    let both = index(&[platform(&foreign, "riscv64"), platform(&ours, here)]);
    registry.push_manifest("many", "both", "index", &both);
    let one = index(&[platform(&foreign, "riscv64")]);
    registry.push_manifest("many", "foreign", "index", &one);
    let (store, _dir) = registry.store(|_| {});
    let name = |tag: &str| format!("{}/many:{tag}", registry.address).parse().unwrap();

    let pulled = store.pull(&name("both")).await.unwrap();
    assert_eq!(
        digest(&ours.configuration()),
        format!("sha256:{}", pulled.id)
    );
    let refused = store.pull(&name("foreign")).await.unwrap_err().to_string();
    assert!(
        refused.contains("linux/riscv64") && refused.contains(here),
        "{refused}"
    );
    // The configuration is believed, not a name.
    let plain = format!("{}/many@{}", registry.address, digest(&foreign.manifest()));
    let refused = store
        .pull(&plain.parse().unwrap())
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("linux/riscv64"), "{refused}");
}

#[tokio::test]
async fn what_a_registry_does_not_give_is_told() {
    let registry = Registry::start();
    registry.push("a", "1", &small("x"));
    let name = |rest: &str| format!("{}/{rest}", registry.address).parse().unwrap();
    let (store, _dir) = registry.store(|_| {});
    let missing = store.pull(&name("a:2")).await.unwrap_err();
    assert!(
        matches!(
            missing,
            ImageError::Registry {
                transient: false,
                ..
            }
        ),
        "{missing}"
    );
    assert!(missing.to_string().contains("a:2"), "{missing}");

    let (store, _dir) = registry.store(|config| config.limits.layer_max = 10);
    let large = store.pull(&name("a:1")).await.unwrap_err().to_string();
    assert!(large.contains("image.layer_max"), "{large}");
    let (store, _dir) = registry.store(|config| config.limits.store_max = 8191);
    let large = store.pull(&name("a:1")).await.unwrap_err().to_string();
    assert!(large.contains("image.store_max"), "{large}");
    assert_eq!(store.list().unwrap(), []);

    let (store, _dir) = registry.store(|config| config.insecure_registries.clear());
    let secure = store.pull(&name("a:1")).await.unwrap_err();
    assert!(secure.to_string().contains("can't be reached"), "{secure}");
}
