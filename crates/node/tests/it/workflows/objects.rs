//! Items that a Map reads from an S3-compatible store, and results that it writes there.

use std::io::Write as _;

use serde_json::{Value, json};

use super::reading::{items_of, over, refused};
use super::{ended, express, register, start};
use crate::support::s3::{Mood, S3, s3};
use crate::support::server::{Answer, Server, head, ok, serve};
use crate::support::{Node, node};

const GET: &str = "arn:aws:states:::s3:getObject";
const LIST: &str = "arn:aws:states:::s3:listObjectsV2";
const PUT: &str = "arn:aws:states:::s3:putObject";

/// A node whose workflows may use this bucket of the store.
fn user(s3: &S3, buckets: &str) -> Node {
    s3.known_to(node().set("workflow.s3.buckets", buckets))
        .start()
}

fn get(key: &str, config: Value) -> Value {
    json!({"Resource": GET, "Parameters": {"Bucket": "data", "Key": key}, "ReaderConfig": config})
}

#[test]
fn items_are_read_from_an_object_in_each_form() {
    let s3 = s3("data");
    s3.put("data", "in/a.json", r#"{"rows": [1, "two", null]}"#);
    s3.put("data", "in/a b.jsonl", "{\"n\": 1}\n{\"n\": 2}\n");
    s3.put("data", "in/a.csv", "id;name\n1;\"a; b\"\n2;c\n3;d\n");
    let node = user(&s3, "other, data");
    let rows = json!({"InputType": "JSON", "ItemsPointer": "/rows"});
    let read = items_of(&node, get("in/a.json", rows), json!({}));
    assert_eq!(read, json!([1, "two", null]));
    let by_path = json!({
        "Resource": GET,
        "Parameters": {"Bucket.$": "$.bucket", "Key.$": "States.Format('in/{}.jsonl', $.name)"},
        "ReaderConfig": {"InputType": "JSONL"},
    });
    let input = json!({"bucket": "data", "name": "a b"});
    let read = items_of(&node, by_path, input.clone());
    assert_eq!(read, json!([{"n": 1}, {"n": 2}]));
    let mut by_expression = over(json!({
        "Resource": GET,
        "Arguments": {"Bucket": "{% $states.input.bucket %}", "Key": "in/a.csv"},
        "ReaderConfig": {
            "InputType": "CSV", "CSVHeaderLocation": "GIVEN", "CSVHeaders": ["x", "y"],
            "CSVDelimiter": "SEMICOLON", "MaxItems": "{% 1 + 1 %}",
        },
    }));
    by_expression["QueryLanguage"] = json!("JSONata");
    register(&node, "w", &by_expression);
    let reply = express(&node, "w", input);
    let expected = json!([{"x": "id", "y": "name"}, {"x": "1", "y": "a; b"}]);
    assert_eq!(reply["Output"], expected, "{reply}");
}

#[test]
fn objects_themselves_are_items_or_what_is_in_them() {
    let s3 = s3("data");
    s3.put("data", "in/1.json", "[1, 2]");
    s3.put("data", "in/2.json", "[3]");
    s3.put("data", "in/deeper/3.json", "{\"four\": 4}");
    s3.put("data", "out.json", "[0]");
    let node = user(&s3, "data");
    let list = |prefix: &str, config: Value| json!({"Resource": LIST, "Parameters": {"Bucket": "data", "Prefix": prefix}, "ReaderConfig": config});
    let read = items_of(&node, list("in/", json!({})), json!({}));
    let listed: Vec<_> = read
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (&item["Key"], &item["Size"]))
        .collect();
    let expected = [("in/1.json", 6), ("in/2.json", 3), ("in/deeper/3.json", 11)];
    let expected = expected.map(|(key, size)| (json!(key), json!(size)));
    assert_eq!(
        listed,
        expected
            .iter()
            .map(|(key, size)| (key, size))
            .collect::<Vec<_>>()
    );
    assert!(read[0]["LastModified"].is_u64(), "{read}");
    let whole = json!({"Resource": LIST, "Parameters": {"Bucket": "data"}});
    assert_eq!(
        items_of(&node, whole, json!({})).as_array().unwrap().len(),
        4
    );
    let read = items_of(&node, list("in/", json!({"MaxItems": 2})), json!({}));
    assert_eq!(read.as_array().unwrap().len(), 2);
    assert_eq!(
        items_of(&node, list("nothing/", json!({})), json!({})),
        json!([])
    );
    let loaded = json!({"InputType": "JSON", "Transformation": "LOAD_AND_FLATTEN"});
    let read = items_of(&node, list("in/", loaded), json!({}));
    assert_eq!(read, json!([1, 2, 3, {"Key": "four", "Value": 4}]));
}

#[test]
fn an_inventory_gives_what_it_lists() {
    let s3 = s3("data");
    let packed = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    s3.put(
        "data",
        "inventory/1.csv.gz",
        packed("\"data\",\"a.txt\",\"1\"\n"),
    );
    s3.put(
        "data",
        "inventory/2.csv.gz",
        packed("\"data\",\"b.txt\",\"2\"\n"),
    );
    let manifest = json!({
        "sourceBucket": "data", "destinationBucket": "arn:aws:s3:::data", "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, Size",
        "files": [{"key": "inventory/1.csv.gz", "size": 1}, {"key": "inventory/2.csv.gz", "size": 1}],
    });
    s3.put("data", "inventory/manifest.json", manifest.to_string());
    let node = user(&s3, "data");
    let reader = get(
        "inventory/manifest.json",
        json!({"InputType": "MANIFEST", "ManifestType": "S3_INVENTORY"}),
    );
    let expected = json!([
        {"Bucket": "data", "Key": "a.txt", "Size": "1"},
        {"Bucket": "data", "Key": "b.txt", "Size": "2"},
    ]);
    assert_eq!(items_of(&node, reader.clone(), json!({})), expected);
    s3.put("data", "inventory/2.csv.gz", "not packed");
    refused(&node, reader, "unpacking s3://data/inventory/2.csv.gz");
}

#[test]
fn results_are_written_as_aws_lays_them_out() {
    let s3 = s3("data");
    s3.put("data", "in.json", r#"[{"n": 1}, {"n": 2}, {"n": 0}]"#);
    let node = user(&s3, "data");
    let mut definition = over(get("in.json", json!({"InputType": "JSON"})));
    let map = &mut definition["States"]["Map"];
    map["ToleratedFailureCount"] = json!(1);
    map["ItemProcessor"]["StartAt"] = json!("Which");
    map["ItemProcessor"]["States"]["Which"] = json!({
        "Type": "Choice", "Default": "Each",
        "Choices": [{"Variable": "$.n", "NumericEquals": 0, "Next": "No"}],
    });
    map["ItemProcessor"]["States"]["No"] =
        json!({"Type": "Fail", "Error": "Zero", "Cause": "none"});
    map["ResultWriter"] =
        json!({"Resource": PUT, "Parameters": {"Bucket": "data", "Prefix": "runs/today/"}});
    register(&node, "w", &definition);
    let reply = ended(&node, &start(&node, "w", json!({})));
    assert_eq!(reply["Status"], "SUCCEEDED", "{reply}");
    let details = reply["Output"]["ResultWriterDetails"].clone();
    assert_eq!(details["Bucket"], "data");
    let read = |key: &Value| -> Value {
        serde_json::from_slice(&s3.get("data", key.as_str().unwrap())).unwrap()
    };
    let manifest = read(&details["Key"]);
    assert!(details["Key"].as_str().unwrap().starts_with("runs/today/"));
    assert_eq!(manifest["DestinationBucket"], "data");
    assert_eq!(manifest["MapRunArn"], reply["Output"]["MapRunArn"]);
    assert_eq!(manifest["ResultFiles"]["PENDING"], json!([]));
    let file = &manifest["ResultFiles"]["SUCCEEDED"][0];
    assert!(file["Key"].as_str().unwrap().ends_with("/SUCCEEDED_0.json"));
    let size = s3.get("data", file["Key"].as_str().unwrap()).len();
    assert_eq!(file["Size"], size);
    let succeeded = read(&file["Key"]);
    let told = &succeeded[1];
    assert_eq!(
        (&told["Input"], &told["Output"]),
        (&json!(r#"{"n":2}"#), &json!(r#"{"n":2}"#))
    );
    assert_eq!(
        (&told["Status"], &told["InputDetails"]["Included"]),
        (&json!("SUCCEEDED"), &json!(true))
    );
    assert!(
        told["StartDate"].is_string() && told["StopDate"].is_string(),
        "{told}"
    );
    let failed = read(&manifest["ResultFiles"]["FAILED"][0]["Key"]);
    assert_eq!(
        (&failed[0]["Error"], &failed[0]["Cause"]),
        (&json!("Zero"), &json!("none"))
    );
    assert_eq!(
        (&failed[0]["Status"], failed.as_array().unwrap().len()),
        (&json!("FAILED"), 1)
    );
    // Just their outputs, a line each.
    let config = json!({"Transformation": "COMPACT", "OutputType": "JSONL"});
    definition["States"]["Map"]["ResultWriter"]["WriterConfig"] = config;
    register(&node, "w", &definition);
    let reply = ended(&node, &start(&node, "w", json!({})));
    let manifest = read(&reply["Output"]["ResultWriterDetails"]["Key"]);
    let key = manifest["ResultFiles"]["SUCCEEDED"][0]["Key"]
        .as_str()
        .unwrap();
    assert_eq!(s3.get("data", key), b"{\"n\":1}\n{\"n\":2}\n");
}

#[test]
fn workflows_reach_what_they_may_and_no_more() {
    let s3 = s3("data");
    s3.put("data", "mine/a.json", "[1]");
    s3.put(
        "data",
        "mine/large.json",
        format!("[\"{}\"]", "x".repeat(4096)),
    );
    s3.put("data", "mine/bad.json", [0xff, 0xfe]);
    s3.put("data", "mineral/a.json", "[2]");
    std::fs::create_dir_all(s3.file("secrets", "")).unwrap();
    s3.put("secrets", "a.json", "[3]");
    let node = s3
        .known_to(node())
        .set("workflow.s3.buckets", "data/mine")
        .set("workflow.items_bytes_max", 4096)
        .start();
    let json = json!({"InputType": "JSON"});
    assert_eq!(
        items_of(&node, get("mine/a.json", json.clone()), json!({})),
        json!([1])
    );
    let get = |key: &str| get(key, json.clone());
    refused(
        &node,
        get("mineral/a.json"),
        "in none of workflow.s3.buckets",
    );
    refused(&node, get("mine/../mineral/a.json"), "is no key");
    refused(&node, get("mine//a.json"), "is no key");
    refused(
        &node,
        get("mine/absent.json"),
        "there is no s3://data/mine/absent.json",
    );
    refused(&node, get("mine/large.json"), "workflow.items_bytes_max");
    refused(&node, get("mine/bad.json"), "UTF-8");
    let list = |bucket: &str, prefix: &str| json!({"Resource": LIST, "Parameters": {"Bucket": bucket, "Prefix": prefix}});
    refused(&node, list("data", ""), "in none of workflow.s3.buckets");
    refused(
        &node,
        list("data", "mine"),
        "in none of workflow.s3.buckets",
    );
    refused(&node, list("secrets", ""), "neither in workflow.s3.buckets");
    // Another bucket is a directory, and there is none.
    let mut secret = get("a.json");
    secret["Parameters"]["Bucket"] = json!("secrets");
    refused(&node, secret, "workflow.files");
    let mut writes = over(get("mine/a.json"));
    writes["States"]["Map"]["ResultWriter"] =
        json!({"Resource": PUT, "Parameters": {"Bucket": "data", "Prefix": "x"}});
    register(&node, "w", &writes);
    let reply = ended(&node, &start(&node, "w", json!({})));
    assert_eq!(reply["Error"], "States.ResultWriterFailed", "{reply}");
    assert_eq!(s3.asked("PUT "), 0);
    // Keys that the store doesn't know.
    let stranger = node
        .builder()
        .set("object_store.secret_key", "another")
        .storage_at("other");
    refused(&stranger.start(), get("mine/a.json"), "refuses this node");
}

/// A node whose store is this server, with so many seconds to read.
fn with(server: &Server, seconds: f64) -> Node {
    node()
        .set("workflow.s3.buckets", "data")
        .set("object_store.endpoint", server.url(""))
        .set("object_store.allow_http", true)
        .set("object_store.timeout", seconds)
        .set("workflow.items_bytes_max", 65536)
        .start()
}

#[test]
fn a_store_that_misbehaves_fails_the_map_in_time() {
    let s3 = s3("data");
    s3.put("data", "a.json", "[1]");
    let hung = s3.known_to(node().set("workflow.s3.buckets", "data"));
    let hung = hung.set("object_store.timeout", 0.5).start();
    let reader = |key: &str| get(key, json!({"InputType": "JSON"}));
    s3.turn(Mood::Hangs);
    refused(&hung, reader("a.json"), "object_store.timeout");
    s3.turn(Mood::Fails);
    refused(&hung, reader("a.json"), "s3://data/a.json");

    let head_of = |rest: &str| {
        let date = "Last-Modified: Tue, 01 Dec 2026 00:00:00 GMT";
        format!("HTTP/1.1 200 OK\r\n{date}\r\nETag: \"x\"\r\n{rest}\r\n\r\n").into_bytes()
    };
    let server = serve(move |path| match path {
        "/data/half" => Answer::Raw([head_of("Content-Length: 100"), b"[1, 2".to_vec()].concat()),
        "/data/stuck" => {
            Answer::Stuck([head_of("Content-Length: 100"), b"[1, 2".to_vec()].concat())
        }
        "/data/huge" => Answer::Raw(head_of("Content-Length: 10000000000")),
        "/data/gone" => head(&["HTTP/1.1 404 Not Found"]),
        "/data/moved" => head(&["HTTP/1.1 301 Moved", "Location: http://127.0.0.1:1/"]),
        "/data/error" => Answer::Endless(b"HTTP/1.1 400 Bad Request\r\n\r\n".repeat(1000)),
        _ => Answer::Raw(b"nonsense\r\n\r\n".to_vec()),
    });
    let node = with(&server, 60.0);
    refused(&node, reader("half"), "s3://data/half");
    refused(&node, reader("stuck"), "nothing came from s3://data/stuck");
    refused(&node, reader("huge"), "workflow.items_bytes_max");
    refused(&node, reader("gone"), "there is no s3://data/gone");
    refused(&node, reader("moved"), "s3://data/moved");
    refused(&node, reader("error"), "s3://data/error");
    refused(&node, reader("nonsense"), "s3://data/nonsense");
}

#[test]
fn lists_are_read_page_by_page_and_not_without_end() {
    let page = |key: &str, next: &str| {
        ok(format!(
            "<ListBucketResult><Contents><Key>{key}</Key><Size>1</Size><ETag>\"e\"</ETag>\
             <LastModified>2026-12-01T00:00:00.000Z</LastModified></Contents>{next}</ListBucketResult>"
        )
        .as_bytes())
    };
    let more = |token: &str| format!("<NextContinuationToken>{token}</NextContinuationToken>");
    let server = serve(move |path| match path {
        path if path.contains("prefix=endless") => page("endless/x", &more("again")),
        path if path.contains("continuation-token=second") => page("b", ""),
        _ => page("a", &more("second")),
    });
    let node = with(&server, 60.0);
    let list = |prefix: &str, config: Value| json!({"Resource": LIST, "Parameters": {"Bucket": "data", "Prefix": prefix}, "ReaderConfig": config});
    let read = items_of(&node, list("", json!({})), json!({}));
    let item =
        |key: &str| json!({"Key": key, "Size": 1, "Etag": "\"e\"", "LastModified": 1_796_083_200});
    assert_eq!(read, json!([item("a"), item("b")]));
    let asked = server.requests();
    let read = items_of(&node, list("", json!({"MaxItems": 1})), json!({}));
    assert_eq!((read, server.requests()), (json!([item("a")]), asked + 1));
    let hasty = with(&server, 0.5);
    refused(&hasty, list("endless", json!({})), "object_store.timeout");
}
