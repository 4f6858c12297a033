//! Items that a Map reads from files and URLs, and results that it writes.

use serde_json::{Value, json};

use super::reading::{items, over, refused};
use super::{ended, register, start};
use crate::support::node;
use crate::support::server::{ok, serve};

#[test]
fn items_are_read_from_files_in_each_form() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    std::fs::create_dir_all(root.join("bucket/in")).unwrap();
    std::fs::write(root.join("a.json"), r#"{"rows": [1, "two", null]}"#).unwrap();
    std::fs::write(root.join("a.jsonl"), "{\"n\": 1}\n{\"n\": 2}\n").unwrap();
    let csv = "id;name\n1;\"a; b\"\n2;c\n3;d\n";
    std::fs::write(root.join("bucket/in/a.csv"), csv).unwrap();
    let node = node().set("workflow.files", root.display()).start();
    let file = |path: &str, config: Value| json!({"Resource": "file", "Parameters": {"Path": path}, "ReaderConfig": config});
    let json_rows = json!({"InputType": "JSON", "ItemsPointer": "/rows"});
    assert_eq!(
        items(&node, file("a.json", json_rows)),
        json!([1, "two", null])
    );
    let whole = root.join("a.jsonl").display().to_string();
    let lines = items(&node, file(&whole, json!({"InputType": "JSONL"})));
    assert_eq!(lines, json!([{"n": 1}, {"n": 2}]));
    let config = json!({
        "InputType": "CSV", "CSVHeaderLocation": "FIRST_ROW", "CSVDelimiter": "SEMICOLON",
        "MaxItems": 2,
    });
    let bucket = json!({
        "Resource": "arn:aws:states:::s3:getObject",
        "Parameters": {"Bucket": "bucket", "Key": "in/a.csv"},
        "ReaderConfig": config,
    });
    let expected = json!([{"id": "1", "name": "a; b"}, {"id": "2", "name": "c"}]);
    assert_eq!(items(&node, bucket), expected);
}

#[test]
fn no_path_leads_out_of_the_directories() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    std::fs::create_dir_all(root.join("inside")).unwrap();
    std::fs::write(dir.path().join("secret.json"), "[1]").unwrap();
    std::fs::write(
        root.join("large.json"),
        format!("[\"{}\"]", "x".repeat(4096)),
    )
    .unwrap();
    std::fs::write(root.join("bad.json"), [0xff, 0xfe]).unwrap();
    std::os::unix::fs::symlink(dir.path().join("secret.json"), root.join("link.json")).unwrap();
    let node = node()
        .set("workflow.files", root.display())
        .set("workflow.items_bytes_max", 4096)
        .start();
    let file = |path: &str| {
        let config = json!({"InputType": "JSON"});
        json!({"Resource": "file", "Parameters": {"Path": path}, "ReaderConfig": config})
    };
    refused(&node, file("../secret.json"), "opening ../secret.json");
    refused(&node, file("inside/../../secret.json"), "opening");
    refused(&node, file("link.json"), "opening link.json");
    let outside = dir.path().join("secret.json").display().to_string();
    refused(&node, file(&outside), "below none of workflow.files");
    refused(&node, file("inside"), "is not a file");
    refused(&node, file("absent.json"), "opening absent.json");
    refused(&node, file("large.json"), "workflow.items_bytes_max");
    refused(&node, file("bad.json"), "UTF-8");
    // A URL of this machine isn't allowed either, unless that is set.
    let url = json!({
        "Resource": "url",
        "Parameters": {"Url": "http://127.0.0.1:9/x.json"},
        "ReaderConfig": {"InputType": "JSON"},
    });
    refused(&node, url, "127.0.0.1");
}

#[test]
fn items_come_from_urls_and_results_go_to_files() {
    let server = serve(|_| ok(br#"[{"n": 1}, {"n": 2}]"#));
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    let node = node()
        .set("workflow.files", root.display())
        .set("code.url.networks", "127.0.0.1")
        .start();
    let mut definition = over(json!({
        "Resource": "url",
        "Parameters": {"Url": server.url("/items.json")},
        "ReaderConfig": {"InputType": "JSON"},
    }));
    definition["States"]["Map"]["ResultWriter"] = json!({
        "Resource": "arn:aws:states:::s3:putObject",
        "Parameters": {"Bucket": "out", "Prefix": "runs/today"},
        "WriterConfig": {"Transformation": "COMPACT"},
    });
    register(&node, "w", &definition);
    let reply = ended(&node, &start(&node, "w", json!({})));
    assert_eq!(reply["Status"], "SUCCEEDED", "{reply}");
    let details = &reply["Output"]["ResultWriterDetails"];
    assert_eq!(details["Bucket"], "out");
    let read = |key: &Value| -> Value {
        let path = root.join("out").join(key.as_str().unwrap());
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let manifest = read(&details["Key"]);
    let written = &manifest["ResultFiles"]["SUCCEEDED"][0]["Key"];
    assert_eq!(read(written), json!([{"n": 1}, {"n": 2}]));
    // Not upwards.
    definition["States"]["Map"]["ResultWriter"]["Parameters"]["Prefix"] = json!("../../x");
    register(&node, "w", &definition);
    let reply = ended(&node, &start(&node, "w", json!({})));
    assert_eq!(reply["Error"], "States.ResultWriterFailed", "{reply}");
}
