//! Images in the built-in sandbox: the commands, and functions that run in one.

use std::process::Command;

use serde_json::json;

use crate::docker::image::python_root;
use crate::docker::register_custom;
use crate::support::{node, python};

#[test]
fn a_runtime_runs_in_an_image_that_a_command_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let layer = python_root(dir.path());
    let layer_digest = digest(&layer);
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let config = json!({
        "os": "linux", "architecture": architecture, "config": {
            "Env": ["FROM=image"], "Entrypoint": ["python3"], "Cmd": ["/server.py"], "WorkingDir": "/usr",
        },
        "rootfs": {"diff_ids": [format!("sha256:{layer_digest}")]},
    });
    std::fs::write(dir.path().join("config"), config.to_string()).unwrap();
    let manifest =
        json!([{"Config": "config", "RepoTags": ["test/python"], "Layers": ["root.tar"]}]);
    std::fs::write(dir.path().join("manifest.json"), manifest.to_string()).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-C")
        .arg(dir.path())
        .args(["-cf", "image.tar", "manifest.json", "config", "root.tar"]);
    assert!(tar.current_dir(dir.path()).status().unwrap().success());

    let node = node()
        .set("runtime.python314.image", "test/python")
        .set("image.insecure_registries", "127.0.0.1:1")
        .set("runtime.python310.image", "127.0.0.1:1/none")
        .start();
    let image = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_serverledge"))
            .arg("image")
            .args(arguments)
            .env("SERVERLEDGE_STORAGE_PATH", node.storage())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), said)
    };
    let archive = dir.path().join("image.tar");
    let (done, said) = image(&["load", archive.to_str().unwrap()]);
    assert!(
        done && said.starts_with("docker.io/test/python:latest"),
        "{said}"
    );
    assert_eq!(image(&["list"]), (true, said));

    let source = "import os\ndef handler(p, c): return [os.environ.get('FROM'), os.path.exists('/server.py')]\n";
    node.create(&python("f", source));
    assert_eq!(node.invoke("f", json!({})).result(), json!(["image", true]));
    let missing = node.post("/create", &python("g", source).runtime("python310").body());
    missing
        .expect(502)
        .problem(&["127.0.0.1:1/none", "can't be reached"]);

    // Its own program is a server of the original's protocol.
    register_custom(&node, "own", "test/python").expect(200);
    let body = json!({"Params": {"a": "ü"}, "ReturnOutput": true});
    for _ in 0..2 {
        let reply = node.post("/invoke/own", &body).expect(200);
        let asked = reply.result();
        assert_eq!(asked[0]["params"], json!({"a": "ü"}), "{asked}");
        assert_eq!(asked[1]["Handler"], "", "{asked}");
    }
    let failed = node.post("/invoke/own", &json!({"Params": {"fail": "why"}}));
    assert_eq!(failed.status, 500, "{}", failed.shown());
    register_custom(&node, "elsewhere", "127.0.0.1:1/none")
        .expect(400)
        .problem(&["127.0.0.1:1/none"]);

    let (done, said) = image(&["remove", "test/python"]);
    assert!(
        done && said.contains("0 layers"),
        "a sandbox runs from it: {said}"
    );
    assert_eq!(node.invoke("f", json!({})).result(), json!(["image", true]));
    assert!(!image(&["remove", "test/python"]).0);
    node.stop();
}

fn digest(file: &std::path::Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}
