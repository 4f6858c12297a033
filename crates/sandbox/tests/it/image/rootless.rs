//! Images on a node that isn't root: this test binary again, as nobody in particular.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use serverledge_sandbox::oci::OciBackend;

use super::{NAME, python, spec, store};
use crate::harness::{Machine, config, invoke};

/// A user whom this machine has otherwise not.
const SOMEBODY: u32 = 54_321;

#[test]
fn images_serve_a_node_that_is_not_root() {
    let dir = tempfile::tempdir().unwrap();
    let copy = |from: &Path, name: &str| {
        // It may be where only root may look.
        let to = dir.path().join(name);
        std::fs::copy(from, &to).unwrap();
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).unwrap();
        to
    };
    let own = copy(&std::env::current_exe().unwrap(), "test");
    copy(
        Path::new(env!("CARGO_BIN_EXE_serverledge-sandbox-helper")),
        "helper",
    );
    let archive = python().user("1").docker_archive(NAME);
    std::fs::write(dir.path().join("archive"), archive).unwrap();
    chown(dir.path(), Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    chown(dir.path().join("archive"), Some(SOMEBODY), None).unwrap();
    let done = Command::new(own)
        .args(["--exact", "image::rootless::as_somebody", "--nocapture"])
        .env("ROOTLESS_DIR", dir.path())
        .env("TMPDIR", dir.path())
        .current_dir(dir.path())
        .uid(SOMEBODY)
        .gid(SOMEBODY)
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(dir.path().join("done").exists(), "{said}");
}

#[tokio::test]
async fn as_somebody() {
    let Some(dir) = std::env::var_os("ROOTLESS_DIR").map(PathBuf::from) else {
        return; // not a test of its own
    };
    let images = store(&dir.join("images"));
    let archive = std::fs::read(dir.join("archive")).unwrap();
    images.load(&mut &*archive, None).unwrap();
    let mut config = config(&dir.join("state"));
    config.helper = vec![dir.join("helper").into()];
    config.images = Some(images);
    let backend = OciBackend::start(config).await.unwrap();
    let machine = Machine::new(backend, tempfile::tempdir_in(&dir).unwrap());
    let look = "import os\ndef handler(p, c): return [os.environ['FROM'], os.listdir('/dir'), \
                os.path.exists('/etc/gone'), os.getuid()]";
    let sandbox = machine.create(spec(&machine, look)).await.unwrap();
    let seen = invoke(&sandbox, json!({})).await.unwrap();
    // What hides files of lower layers does. There is one user, whomever an image names.
    assert_eq!(seen, Ok(json!(["the image", ["new"], false, 65534])));
    machine.backend.shutdown().await;
    std::fs::write(dir.join("done"), "").unwrap();
}
