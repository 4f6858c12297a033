//! Sandboxes made from images, without an engine.

mod artifact;
mod build;
mod registry;
mod rootless;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use serverledge_sandbox::image::{ImageConfig, ImageError, ImageStore};
use serverledge_sandbox::oci::OciBackend;
use serverledge_sandbox::{Backend as _, CreateError, Pull, SandboxSpec, Shim};

use crate::docker;
use crate::harness::{Machine, config, invoke};
use build::{Built, file, tar};

const NAME: &str = "serverledge-test/python:1";

fn store(dir: &Path) -> Arc<ImageStore> {
    Arc::new(ImageStore::open(ImageConfig::new(dir)).unwrap())
}

async fn machine(images: &Arc<ImageStore>) -> (Machine, Arc<OciBackend>) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir.path().join("state"));
    config.images = Some(Arc::clone(images));
    let backend = OciBackend::start(config).await.unwrap();
    (Machine::new(backend.clone(), dir), backend)
}

/// This machine's Python in one layer, and another that hides one of its files.
fn python() -> Built {
    let gone = tar(&[
        file("etc/gone", "x"),
        file("dir/old", "x"),
        file("tmp", "no directory"),
    ]);
    let top = tar(&[
        file("etc/.wh.gone", ""),
        file("dir/.wh..wh..opq", ""),
        file("dir/new", ""),
    ]);
    Built::new(vec![build::python_root(), gone, top]).environment(&[
        "PATH=/none:/usr/bin",
        "FROM=the image",
        "HOME=/root",
    ])
}

fn spec(machine: &Machine, source: &str) -> SandboxSpec {
    let mut spec = machine.spec(Shim::Python, source);
    spec.interpreter = "python3".into();
    spec.image = Some(NAME.to_owned());
    spec
}

const LOOK: &str = r"
import os
def handler(p, c):
    try:
        open('/usr/x', 'w')
        written = True
    except OSError:
        written = False
    return {
        'from': os.environ['FROM'], 'home': os.environ['HOME'], 'gone': os.path.exists('/etc/gone'),
        'dir': os.listdir('/dir'), 'host': os.path.exists('/etc/debian_version'),
        'written': written, 'tmp': open('/tmp/x', 'w').write('x'), 'app': os.listdir('/app'),
        'uid': os.getuid() >= 0x70000000, 'dev': len(open('/dev/urandom', 'rb').read(3)),
        'socket': os.listdir('/run/serverledge'),
    }
";

#[tokio::test]
async fn python_runs_from_a_loaded_image() {
    let dir = tempfile::tempdir().unwrap();
    let images = store(dir.path());
    let loaded = images
        .load(&mut &*python().docker_archive(NAME), None)
        .unwrap();
    assert_eq!(loaded[0].name, "docker.io/serverledge-test/python:1");
    assert_eq!(loaded[0].layers.len(), 3);

    let (machine, backend) = machine(&images).await;
    let expected = json!({
        "from": "the image", "home": "/tmp", "gone": false, "dir": ["new"], "host": false,
        "written": false, "tmp": 1, "app": ["f.py"], "uid": true, "dev": 3,
        "socket": [],
    });
    let sandbox = machine.create(spec(&machine, LOOK)).await.unwrap();
    assert_eq!(
        invoke(&sandbox, json!({})).await.unwrap(),
        Ok(expected.clone())
    );

    let spec_ahead = spec(&machine, LOOK);
    let (kind, id) = (spec_ahead.kind().unwrap(), spec_ahead.id);
    let ahead = backend
        .prestart(kind, id, spec_ahead.timeout_start)
        .await
        .unwrap();
    let ahead = ahead.expect("this machine has the cgroups for it");
    let second = ahead.load(spec_ahead).await.unwrap();
    assert_eq!(
        invoke(&second, json!({})).await.unwrap(),
        Ok(expected.clone())
    );

    // The host's interpreters are there as ever.
    let plain = machine
        .python("import os\ndef handler(p, c): return 'FROM' in os.environ")
        .await;
    assert_eq!(invoke(&plain, json!({})).await.unwrap(), Ok(json!(false)));

    // One that is in use stays, whoever says what.
    let name = NAME.parse().unwrap();
    assert_eq!(images.remove(&name).unwrap().layers, 0);
    assert_eq!(invoke(&sandbox, json!({})).await.unwrap(), Ok(expected));
    sandbox.destroy().await;
    second.destroy().await;
    backend.collect_images(HashSet::new()).await;
    assert_eq!(std::fs::read_dir(images.layers_dir()).unwrap().count(), 0);
    machine.backend.shutdown().await;
}

#[test]
fn archives_of_all_forms_are_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let images = store(dir.path());
    let image = || Built::new(vec![tar(&[file("a", "1")]), tar(&[file("b", "2")])]);
    let (image, zstd) = (image(), image().zstd());
    let name = "test/layout:2".parse().unwrap();
    let unnamed = images.load(&mut &*image.layout(), None).unwrap_err();
    assert!(unnamed.to_string().contains("--name"), "{unnamed}");
    let layout = images
        .load(&mut &*build::gzip(&image.layout()), Some(&name))
        .unwrap();
    let saved = images
        .load(&mut &*image.docker_archive("test/saved"), None)
        .unwrap();
    assert_eq!(layout[0].id, saved[0].id);
    assert_eq!(layout[0].layers, saved[0].layers);
    let elsewhere = tempfile::tempdir().unwrap();
    let zstd = store(elsewhere.path())
        .load(&mut &*zstd.layout(), Some(&name))
        .unwrap();
    assert_eq!(zstd[0].layers, saved[0].layers);
    let names: Vec<String> = images
        .list()
        .unwrap()
        .into_iter()
        .map(|it| it.name)
        .collect();
    assert_eq!(
        names,
        ["docker.io/test/layout:2", "docker.io/test/saved:latest"]
    );
    let foreign = Built::new(vec![tar(&[file("a", "1")])]).architecture("riscv64");
    let refused = images
        .load(&mut &*foreign.layout(), Some(&name))
        .unwrap_err();
    assert!(
        refused.to_string().contains("it is for linux/riscv64"),
        "{refused}"
    );
}

#[tokio::test]
async fn programs_run_as_the_user_that_their_image_names() {
    let dir = tempfile::tempdir().unwrap();
    let images = store(dir.path());
    let users = tar(&[
        file("etc/passwd", "root:x:0:0::/:\napp:x:1234:1235::/:\n"),
        file("etc/group", "staff:x:50:\n"),
    ]);
    let who = "import os\ndef handler(p, c):\n caps = [l.split()[1] for l in \
               open('/proc/self/status') if l.startswith('Cap')]\n return [os.getuid(), os.getgid(), \
               os.getgroups(), set(caps) == {'0' * 16}, os.access('/app/f.py', os.R_OK)]";
    let (machine, _) = machine(&images).await;
    let run = async |user: &str, layers| {
        let built = Built::new(layers).user(user);
        let name = format!("test/{}", user.replace(':', "-"));
        images
            .load(&mut &*built.docker_archive(&name), None)
            .unwrap();
        let mut spec = spec(&machine, who);
        spec.image = Some(name);
        let sandbox = machine.create(spec).await?;
        Ok::<_, CreateError>(invoke(&sandbox, json!({})).await.unwrap().unwrap())
    };
    let python = || vec![build::python_root(), users.clone()];
    for (user, uid, gid) in [("app:staff", 1234, 50), ("77", 77, 77)] {
        let is = run(user, python()).await.unwrap();
        assert_eq!(is, json!([uid, gid, [], true, true]), "{user}");
    }
    let is = run("root", python()).await.unwrap();
    let uid = is[0].as_u64().unwrap();
    assert!(uid >= 0x7000_0000, "no image is root: {is}");
    assert_eq!(is, json!([uid, uid, [], true, true]));
    let error = run("nobody", vec![users.clone()]).await.unwrap_err();
    assert!(matches!(error, CreateError::Image { .. }), "{error}");
    assert!(
        error.to_string().contains("whom its /etc/passwd"),
        "{error}"
    );
    machine.backend.shutdown().await;
}

/// From the engine that the tests of Docker use.
#[tokio::test]
async fn what_docker_saves_is_loaded_and_run() {
    let saved = tempfile::tempdir().unwrap();
    let archive = saved.path().join("image.tar");
    docker::image::docker(&[
        "save",
        "-o",
        archive.to_str().unwrap(),
        docker::image::image(),
    ]);
    let images = store(&saved.path().join("images"));
    let loaded = images
        .load(&mut std::fs::File::open(&archive).unwrap(), None)
        .unwrap();
    let (machine, _) = machine(&images).await;
    let mut spec = spec(
        &machine,
        "import os\ndef handler(p, c): return os.path.exists('/server.py')",
    );
    spec.image = Some(docker::image::image().to_owned());
    assert_eq!(loaded[0].command, ["python3", "/server.py"]);
    let sandbox = machine.create(spec).await.unwrap();
    assert_eq!(invoke(&sandbox, json!({})).await.unwrap(), Ok(json!(true)));
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn an_image_is_prepared_again_for_a_new_helper() {
    let dir = tempfile::tempdir().unwrap();
    let images = store(dir.path());
    images
        .load(&mut &*python().docker_archive(NAME), None)
        .unwrap();
    let (machine, backend) = machine(&images).await;
    let source = "def handler(p, c): return 1";
    let first = machine.create(spec(&machine, source)).await.unwrap();
    let pid = rustix::process::Pid::from_raw(backend.helper_pid().await as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    first.ended().await;
    // Its end is told a moment before that of the helper.
    let mut created = machine.create(spec(&machine, source)).await;
    for _ in 0..100 {
        if created.is_ok() {
            break;
        }
        created = machine.create(spec(&machine, source)).await;
    }
    assert_eq!(
        invoke(&created.unwrap(), json!({})).await.unwrap(),
        Ok(json!(1))
    );
    machine.backend.shutdown().await;
}

#[tokio::test]
async fn what_is_wrong_with_an_image_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = ImageConfig::new(dir.path());
    // Nobody listens there.
    config.insecure_registries = vec!["127.0.0.1:1".to_owned()];
    let images = Arc::new(ImageStore::open(config).unwrap());
    let empty = Built::new(vec![tar(&[file("x", "")])]);
    images
        .load(&mut &*empty.docker_archive("test/empty"), None)
        .unwrap();
    let (machine, backend) = machine(&images).await;
    for (name, said) in [
        (
            "127.0.0.1:1/a",
            "is not here, and the registry 127.0.0.1:1 can't be reached",
        ),
        ("test/empty", "has no program python3"),
        ("Test", "no name of an image"),
    ] {
        let mut spec = spec(&machine, "def handler(p, c): return 1");
        spec.image = Some(name.to_owned());
        match machine.create(spec).await {
            Err(error @ CreateError::Image { .. }) => {
                assert!(error.to_string().contains(said), "{error}");
            }
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("{name} was started"),
        }
    }
    let missing = backend
        .provide_image("127.0.0.1:1/a".to_owned(), Pull::IfMissing)
        .await;
    assert!(matches!(
        missing,
        Err(ImageError::Registry {
            transient: true,
            ..
        })
    ));
    machine.backend.shutdown().await;
}
