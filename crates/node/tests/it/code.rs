//! Code that is sent with a function: what is no archive, or an archive that means harm.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use crate::support::function::echo;
use crate::support::node;

#[test]
fn code_that_cannot_be_unpacked_is_refused() {
    let node = node().start();
    let mut body = echo("bad").body();
    for code in ["###", "a", "aGVsbG8=", "AAAA"] {
        body["TarFunctionCode"] = json!(code);
        for path in ["/create", "/update"] {
            let reply = node.post(path, &body).expect(400);
            reply.problem(&[]);
        }
    }
    assert_eq!(
        node.get("/function").text(),
        "[]\n",
        "nothing was registered"
    );
    // An update with bad code leaves the function as it was.
    node.create(&echo("good"));
    body["Name"] = json!("good");
    node.post("/update", &body).expect(400);
    assert_eq!(
        node.invoke("good", json!({ "a": 1 })).result(),
        json!({ "a": 1 })
    );
}

#[test]
fn code_that_climbs_out_of_its_directory_is_refused() {
    let node = node().start();
    let outside = node.storage().join("climbed.py");
    for path in [
        "../climbed.py",
        "a/../../climbed.py",
        &outside.to_string_lossy(),
    ] {
        let mut body = echo("climber").body();
        body["TarFunctionCode"] =
            json!(BASE64.encode(tar_with(path, tar::EntryType::Regular, b"")));
        node.post("/create", &body).expect(400).problem(&[]);
        assert!(!outside.exists(), "{path} was written");
    }
    for (kind, target) in [
        (tar::EntryType::Symlink, "/etc/passwd"),
        (tar::EntryType::Symlink, "../../secret"),
        (tar::EntryType::Link, "/etc/passwd"),
        (tar::EntryType::Char, ""),
        (tar::EntryType::Fifo, ""),
    ] {
        let mut body = echo("linker").body();
        body["TarFunctionCode"] = json!(BASE64.encode(tar_with("f.py", kind, target.as_bytes())));
        let reply = node.post("/create", &body);
        assert!(
            matches!(reply.status, 200 | 400),
            "{kind:?}: {}",
            reply.shown()
        );
        if reply.status == 200 {
            // Left out, then: there is no handler.
            node.invoke("linker", json!({})).expect(500).problem(&[]);
            node.post("/delete", &json!({ "Name": "linker" }))
                .expect(200);
        }
    }
    node.get("/function").expect(200);
}

/// A tar with one entry, whose path is written as it stands.
fn tar_with(path: &str, kind: tar::EntryType, target: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_old();
    let old = header.as_old_mut();
    old.name[..path.len()].copy_from_slice(path.as_bytes());
    old.linkname[..target.len()].copy_from_slice(target);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(0);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append(&header, std::io::empty())
        .expect("writing to memory");
    archive.into_inner().expect("writing to memory")
}
