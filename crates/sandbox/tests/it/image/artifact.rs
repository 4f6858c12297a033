//! WebAssembly as an artifact of a registry.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use serverledge_sandbox::image::{ImageError, ImageStore};
use serverledge_sandbox::wasm::{WasmBackend, WasmConfig};
use serverledge_sandbox::{Backend as _, CreateError, Pull, SandboxSpec};

use super::build::{digest, tar};
use super::registry::Registry;
use super::{machine, store};
use crate::harness::call;
use crate::wasm;

const COMMON: &str = "application/wasm";
const FORMER: &str = "application/vnd.wasm.content.layer.v1+wasm";
const COMPONENT: &str = "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm";
const CONFIGURATION: &str = "application/vnd.wasm.config.v0+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A command that writes this, in quotes.
fn module(text: &str) -> Vec<u8> {
    let length = text.len();
    wat::parse_str(format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "{text}")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const {length}))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
    ))
    .unwrap()
}

struct Artifact {
    layers: Vec<(&'static str, Vec<u8>)>,
    kind: &'static str,
    configuration: Value,
}

impl Artifact {
    fn new(kind: &'static str, module: Vec<u8>) -> Self {
        let layer = digest(&module);
        Artifact {
            layers: vec![(kind, module)],
            kind: CONFIGURATION,
            configuration: json!({
                "created": "2026-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip1",
                "layerDigests": [layer],
            }),
        }
    }

    fn configuration(&self) -> Vec<u8> {
        self.configuration.to_string().into_bytes()
    }

    fn manifest(&self) -> Vec<u8> {
        let configuration = self.configuration();
        let layer = |(kind, bytes): &(&str, Vec<u8>)| json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()});
        let layers: Vec<Value> = self.layers.iter().map(layer).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": self.kind, "digest": digest(&configuration),
                       "size": configuration.len()},
            "layers": layers,
        });
        manifest.to_string().into_bytes()
    }

    fn push(&self, registry: &Registry, repository: &str) {
        for (_, layer) in &self.layers {
            registry.push_blob(repository, layer);
        }
        registry.push_blob(repository, &self.configuration());
        registry.push_manifest(repository, "latest", "manifest", &self.manifest());
    }

    /// An OCI layout, without a name.
    fn layout(&self) -> Vec<u8> {
        let (configuration, manifest) = (self.configuration(), self.manifest());
        let index = json!({"schemaVersion": 2, "manifests": [
            {"digest": digest(&manifest), "size": manifest.len()}]});
        let index = index.to_string();
        let mut blobs: Vec<&[u8]> = self.layers.iter().map(|(_, layer)| &**layer).collect();
        blobs.extend([&*configuration, &*manifest]);
        let path = |blob: &&[u8]| format!("blobs/sha256/{}", &digest(blob)[7..]);
        let paths: Vec<String> = blobs.iter().map(path).collect();
        let mut files = vec![("index.json", index.as_bytes())];
        files.extend(paths.iter().map(|path| &**path).zip(blobs));
        tar(&files)
    }
}

fn backend(images: &Arc<ImageStore>) -> (WasmBackend, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let config = WasmConfig {
        images: Some(Arc::clone(images)),
        ..wasm::config(dir.path())
    };
    (WasmBackend::new(config), dir)
}

fn spec(image: &str) -> SandboxSpec {
    SandboxSpec {
        id: 1,
        function: "test".to_owned(),
        interpreter: PathBuf::new(),
        shim: None,
        image: Some(image.to_owned()),
        code_dir: PathBuf::new(),
        handler: String::new(),
        preload: Vec::new(),
        network: serverledge_core::NetworkPolicy::None,
        memory_mb: 32,
        cpu: 0.0,
        slots: 1,
        timeout_start: Duration::from_secs(120),
    }
}

async fn run(backend: &WasmBackend, image: &str) -> String {
    let sandbox = backend.create(spec(image)).await.unwrap();
    let reply = sandbox.invoke(call(json!({}))).await.unwrap();
    String::from_utf8(reply.outcome.unwrap().into()).unwrap()
}

#[tokio::test]
async fn artifacts_are_pulled_and_run_in_each_of_their_forms() {
    let registry = Registry::start();
    let (images, _dir) = registry.store(|_| {});
    let (backend, _compiled) = backend(&images);
    for (repository, kind) in [
        ("common", COMMON),
        ("former", FORMER),
        ("component", COMPONENT),
    ] {
        let mut artifact = Artifact::new(kind, module(repository));
        if kind != COMMON {
            artifact.kind = EMPTY;
            artifact.configuration = json!({});
        }
        artifact.push(&registry, repository);
        let name = format!("{}/{repository}", registry.address);
        backend
            .provide_image(name.clone(), Pull::IfMissing)
            .await
            .unwrap();
        assert_eq!(run(&backend, &name).await, format!("\"{repository}\""));
    }
    // A tag that means another module now, once it was pulled again.
    Artifact::new(COMMON, module("later")).push(&registry, "common");
    let name = format!("{}/common", registry.address);
    assert_eq!(run(&backend, &name).await, "\"common\"");
    images.pull(&name.parse().unwrap()).await.unwrap();
    assert_eq!(run(&backend, &name).await, "\"later\"");
    // Of an index, as tools make it for several machines.
    let later = Artifact::new(COMMON, module("later")).manifest();
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&later), "size": later.len(),
            "platform": {"architecture": "wasm", "os": "wasip1"}}]});
    registry.push_manifest("common", "index", "index", index.to_string().as_bytes());
    let name = format!("{}/common:index", registry.address);
    images.pull(&name.parse().unwrap()).await.unwrap();
    assert_eq!(run(&backend, &name).await, "\"later\"");
}

#[tokio::test]
async fn artifacts_are_loaded_from_archives_and_collected_when_nobody_uses_them() {
    let dir = tempfile::tempdir().unwrap();
    let images = store(dir.path());
    let (backend, _compiled) = backend(&images);
    let name = "docker.io/test/function:latest";
    let missing = backend.provide_image(name.to_owned(), Pull::Never).await;
    assert!(matches!(missing, Err(ImageError::Missing(_))));
    let layout = Artifact::new(COMMON, module("loaded")).layout();
    let loaded = images
        .load(&mut &*layout, Some(&name.parse().unwrap()))
        .unwrap();
    assert!(loaded[0].module && loaded[0].name == name);
    assert_eq!(run(&backend, "test/function").await, "\"loaded\"");
    backend.collect_images(HashSet::new()).await;
    assert_eq!(images.list().unwrap(), loaded, "there is room");
    assert_eq!(images.remove(&name.parse().unwrap()).unwrap().layers, 1);
    match backend.create(spec(name)).await.map(drop) {
        Err(CreateError::Image { image, .. }) => assert_eq!(image, name),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_artifact_is_no_image_and_an_image_no_artifact() {
    let dir = tempfile::tempdir().unwrap();
    let images = store(dir.path());
    let layout = Artifact::new(COMMON, module("x")).layout();
    images
        .load(&mut &*layout, Some(&"wasm".parse().unwrap()))
        .unwrap();
    let (machine, oci) = machine(&images).await;
    let refused = oci.provide_image("wasm".to_owned(), Pull::Never).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("runtime `wasm`"), "{refused}");
    drop(machine);
    let image = super::Built::new(vec![tar(&[super::file("a", "b")])]).docker_archive("image");
    images.load(&mut &*image, None).unwrap();
    let (backend, _compiled) = backend(&images);
    let refused = backend.provide_image("image".to_owned(), Pull::Never).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("not a WebAssembly"), "{refused}");
}

#[test]
fn hostile_artifacts_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let images = store(dir.path());
    let good = || Artifact::new(COMMON, module("good"));
    let changed = |change: &dyn Fn(&mut Artifact)| {
        let mut artifact = good();
        change(&mut artifact);
        artifact.layout()
    };
    let refused = |layout: Vec<u8>| {
        let loaded = images.load(&mut &*layout, Some(&"f".parse().unwrap()));
        loaded.unwrap_err().to_string()
    };
    for (layout, said) in [
        (
            changed(&|it| it.layers.push((COMMON, module("two")))),
            "2 layers",
        ),
        (changed(&|it| it.layers.clear()), "0 layers"),
        (
            changed(&|it| it.layers.push(("application/x-tar", vec![]))),
            "2 layers",
        ),
        (
            changed(&|it| it.configuration["os"] = json!("linux")),
            "linux/wasm",
        ),
        (
            changed(&|it| it.configuration["os"] = json!("wasip9")),
            "wasip9",
        ),
        (
            changed(&|it| it.configuration["architecture"] = json!("amd64")),
            "amd64",
        ),
        (
            changed(&|it| it.configuration["layerDigests"] = json!(["sha256:00"])),
            "another layer",
        ),
        (changed(&|it| it.configuration = json!([1])), "malformed"),
        (
            changed(&|it| it.layers[0].1 = b"\x7fELF".to_vec()),
            "another layer",
        ),
        (
            changed(&|it| {
                it.layers[0].1 = b"\x7fELF".to_vec();
                it.configuration["layerDigests"] = json!([]);
            }),
            "is not WebAssembly",
        ),
    ] {
        let told = refused(layout);
        assert!(told.contains(said), "{told}");
    }
    // One byte of the module is another.
    let mut layout = good().layout();
    let at = layout.windows(4).position(|it| it == b"good").unwrap();
    layout[at] = b'f';
    assert!(refused(layout).contains("was announced"));
    assert_eq!(images.list().unwrap(), []);
    let left = std::fs::read_dir(dir.path().join("layers"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}
