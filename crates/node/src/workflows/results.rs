//! Results of distributed Maps as files: what became of the iterations, and a list of the files.
//! Layout and names are AWS's. Where they go is the business of `files` and `objects`.

use serde_json::{Value, json};

/// What can become of an iteration. Those that never began are not told of.
const ENDS: [&str; 2] = ["SUCCEEDED", "FAILED"];

/// Name of the list.
pub(super) const MANIFEST: &str = "manifest.json";

/// One file of results.
pub(super) struct File {
    /// What became of those in it.
    end: &'static str,
    pub(super) name: String,
    pub(super) content: String,
}

/// The files of what a writer is given; none for what has become of no iteration.
pub(super) fn files(results: &Value) -> Vec<File> {
    let is_lines = results["OutputType"] == "JSONL";
    let file = |end: &'static str| {
        let values = results[end]
            .as_array()
            .filter(|values| !values.is_empty())?;
        let content = match is_lines {
            true => values.iter().map(|value| format!("{value}\n")).collect(),
            false => results[end].to_string(),
        };
        let name = format!("{end}_0.json");
        Some(File { end, name, content })
    };
    ENDS.into_iter().filter_map(file).collect()
}

/// The list of files that are in `directory`.
pub(super) fn manifest(bucket: Option<&str>, directory: &str, run: &str, files: &[File]) -> Value {
    let of = |end: &str| -> Value {
        let files = files.iter().filter(|file| file.end == end);
        let entry = |file: &File| json!({"Key": format!("{directory}/{}", file.name), "Size": file.content.len()});
        files.map(entry).collect()
    };
    json!({
        "DestinationBucket": bucket,
        "MapRunArn": run,
        "ResultFiles": {
            "FAILED": of("FAILED"),
            "PENDING": [],
            "SUCCEEDED": of("SUCCEEDED"),
        },
    })
}

/// What the state gets instead of the results.
pub(super) fn answer(bucket: Option<&str>, directory: &str, run: &str) -> Value {
    let mut details = json!({"Key": format!("{directory}/{MANIFEST}")});
    if let Some(bucket) = bucket {
        details["Bucket"] = bucket.into();
    }
    json!({"MapRunArn": run, "ResultWriterDetails": details})
}
