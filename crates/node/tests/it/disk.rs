//! A node whose disk is full, and one that can't use the place it is given.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::support::function::echo;
use crate::support::{node, python};

/// A small disk at a path; unmounted at the end of the test.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: PathBuf, megabytes: usize) -> Self {
        std::fs::create_dir(&path).expect("the mount point");
        let disk = Self(path);
        disk.run(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"],
        );
        disk
    }

    /// Makes room.
    fn enlarge(&self, megabytes: usize) {
        self.run("mount", &["-o", &format!("remount,size={megabytes}m")]);
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let mut filler = std::fs::File::create(self.0.join("filler")).expect("a file");
        let error = loop {
            if let Err(error) = filler.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let status = Command::new(program).args(arguments).arg(&self.0).status();
        assert!(
            status.expect("running it").success(),
            "{program} {arguments:?}"
        );
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.run("umount", &["--lazy"]);
    }
}

#[test]
fn a_full_disk_stops_nothing_that_needs_no_room() {
    let stopped = node();
    let disk = Disk::mount(stopped.storage_path(), 8);
    let running = stopped.start();
    running.create(&echo("echo"));
    running.create(&python(
        "large",
        "def handler(p, c):\n    return 'x' * (9 << 20)\n",
    ));
    let small = running.invoke_async("echo", json!({ "n": 1 }));
    let result = running.poll(&small).body;
    let large = running.invoke_async("large", json!({}));
    running.wait_for_log("result could not be stored");
    for _ in 0..20 {
        assert_eq!(
            running.get(&format!("/poll/{small}")).expect(200).body,
            result
        );
        running.get(&format!("/poll/{large}")).expect(404);
    }

    // Not even the address can be written.
    let stopped = running.kill9();
    disk.fill();
    let running = stopped.start_without_room();
    assert_eq!(
        running.invoke("echo", json!({ "n": 2 })).result(),
        json!({ "n": 2 })
    );
    assert_eq!(
        running.get(&format!("/poll/{small}")).expect(200).body,
        result
    );

    disk.enlarge(64);
    assert_eq!(
        running.poll(&large).result().as_str().map(str::len),
        Some(9 << 20)
    );
}

#[test]
fn a_place_that_cannot_be_used_is_named_with_its_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let taken = |name: &str| {
        let storage = directory.path().join(format!("with-{name}"));
        std::fs::create_dir(&storage).expect("a directory");
        std::fs::write(storage.join(name), "").expect("a file");
        storage
    };
    for path in [
        directory.path().join("n".repeat(300)),
        file.join("below"),
        file,
        PathBuf::from("/proc/x"),
        taken("sandboxes"),
        taken("code"),
    ] {
        let text = refusal(&path);
        assert!(text.contains(path.to_str().expect("text")), "{text}");
        assert!(text.contains("storage.path"), "{text}");
    }
}

/// What a node says that doesn't start.
fn refusal(storage: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_serverledge"))
        .env("SERVERLEDGE_API_PORT", "0")
        .env("SERVERLEDGE_STORAGE_PATH", storage)
        .output()
        .expect("running the node");
    assert!(!output.status.success());
    String::from_utf8(output.stderr).expect("text")
}
