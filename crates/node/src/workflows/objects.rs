//! Items and results of distributed Maps in an S3-compatible store, by the node's own keys: who may
//! register a workflow reads and writes what `workflow.s3.buckets` names, and nothing else there.
//! Other buckets are directories (`files`).

use std::io::Read as _;
use std::time::Duration;

use serde_json::{Value, json};
use serverledge_asl::Invocation as Task;

use super::Context;
use super::files::{as_text, check_size, text};
use super::results::{self, MANIFEST};
use crate::node::Node;
use crate::objects::{More, ObjectError, Objects};

/// Objects that are listed; without `MaxItems`, more are an error.
const OBJECTS_MAX: usize = 100_000;

/// How long reading the items may take, if they are in several objects.
const READ_TIME_MAX: Duration = Duration::from_secs(600);

/// Largest manifest of an inventory, bytes.
const MANIFEST_MAX: usize = 1 << 20;

/// Whether this bucket is one of the store, in whole or in part.
pub(super) fn has(node: &Node, bucket: &str) -> bool {
    let buckets = &node.config.workflow.s3_buckets;
    buckets.iter().any(|location| location.bucket == bucket)
}

/// The store, if workflows may reach this key there, or all that begins with it.
fn store<'a>(node: &'a Node, bucket: &str, key: &str) -> Result<&'a Objects, String> {
    let buckets = &node.config.workflow.s3_buckets;
    let may = buckets.iter().any(|location| location.covers(bucket, key));
    let objects = node.objects.as_ref().filter(|_| may);
    objects.ok_or_else(|| format!("s3://{bucket}/{key} is in none of workflow.s3.buckets"))
}

/// Reads items from an object, or from what an inventory lists.
pub(super) async fn read(node: &Node, task: &Task) -> Result<Value, String> {
    match task.arguments["ReaderConfig"]["ManifestType"] == "S3_INVENTORY" {
        true => in_time(inventory(node, task)).await,
        false => as_text(object(node, task).await?),
    }
}

/// Lists objects, or reads what is in them.
pub(super) async fn list(node: &Node, task: &Task) -> Result<Value, String> {
    match task.arguments["ReaderConfig"]["Transformation"] == "LOAD_AND_FLATTEN" {
        true => in_time(load(node, task)).await,
        false => described(node, task).await,
    }
}

async fn in_time(read: impl Future<Output = Result<Value, String>>) -> Result<Value, String> {
    let read = tokio::time::timeout(READ_TIME_MAX, read).await;
    read.unwrap_or_else(|_| {
        Err(format!(
            "reading the items took more than {READ_TIME_MAX:?}"
        ))
    })
}

async fn object(node: &Node, task: &Task) -> Result<Vec<u8>, String> {
    let (bucket, key) = (text(task, "Bucket")?, text(task, "Key")?);
    let version = task.arguments.get("VersionId").and_then(Value::as_str);
    get(
        node,
        (bucket, key),
        version,
        node.config.workflow.items_bytes_max,
    )
    .await
}

async fn get(
    node: &Node,
    (bucket, key): (&str, &str),
    version: Option<&str>,
    bytes_max: usize,
) -> Result<Vec<u8>, String> {
    let store = store(node, bucket, key)?;
    let content = store.get((bucket, key), version, bytes_max).await;
    let content = content.map_err(|error| match error {
        ObjectError::TooLarge { .. } => format!("{error} (workflow.items_bytes_max)"),
        error => crate::chain(&error),
    });
    Ok(content?.to_vec())
}

/// What AWS tells of each object.
async fn described(node: &Node, task: &Task) -> Result<Value, String> {
    let asked = task.arguments["ReaderConfig"]["MaxItems"].as_u64();
    let asked = asked.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
    let (objects_max, more) = match asked {
        Some(most) if most <= OBJECTS_MAX => (most, More::LeftOut),
        _ => (OBJECTS_MAX, More::Fails),
    };
    let objects = listed(node, task, objects_max, more).await?;
    let items = objects.iter().map(|object| {
        json!({
            "Etag": object.e_tag,
            "Key": object.location.as_ref(),
            "LastModified": object.last_modified.timestamp(),
            "Size": object.size,
        })
    });
    let items: Vec<Value> = items.collect();
    check_size(
        items.iter().map(|item| item.to_string().len() + 1).sum(),
        node,
    )?;
    Ok(items.into())
}

async fn listed(
    node: &Node,
    task: &Task,
    objects_max: usize,
    more: More,
) -> Result<Vec<object_store::ObjectMeta>, String> {
    let bucket = text(task, "Bucket")?;
    let prefix = task.arguments.get("Prefix").and_then(Value::as_str);
    let prefix = prefix.unwrap_or_default();
    let store = store(node, bucket, prefix)?;
    let objects = store.list((bucket, prefix), objects_max, more).await;
    objects.map_err(|error| crate::chain(&error))
}

/// What is in each object, in the order of their keys.
async fn load(node: &Node, task: &Task) -> Result<Value, String> {
    let bucket = text(task, "Bucket")?;
    let mut objects = listed(node, task, OBJECTS_MAX, More::Fails).await?;
    objects.sort_by(|a, b| a.location.cmp(&b.location));
    let bytes_max = node.config.workflow.items_bytes_max;
    let sizes = objects.iter().map(|object| object.size);
    let bytes = sizes.fold(0, u64::saturating_add);
    check_size(usize::try_from(bytes).unwrap_or(usize::MAX), node)?;
    let mut left = bytes_max;
    let mut contents = Vec::new();
    for object in objects.iter().filter(|object| object.size > 0) {
        let content = get(node, (bucket, object.location.as_ref()), None, left).await?;
        left -= content.len();
        contents.push(as_text(content)?);
    }
    Ok(contents.into())
}

/// What an inventory of S3 lists, as CSV with a header.
async fn inventory(node: &Node, task: &Task) -> Result<Value, String> {
    let bytes_max = node.config.workflow.items_bytes_max;
    let (bucket, key) = (text(task, "Bucket")?, text(task, "Key")?);
    let manifest = get(node, (bucket, key), None, bytes_max.min(MANIFEST_MAX)).await?;
    let manifest: Value = serde_json::from_slice(&manifest)
        .map_err(|error| format!("s3://{bucket}/{key} is no manifest: {error}"))?;
    if manifest["fileFormat"] != "CSV" {
        return Err("only inventories in CSV can be read".to_owned());
    }
    // `arn:aws:s3:::bucket`; files without it are where the manifest is.
    let destination = manifest["destinationBucket"].as_str();
    let destination = destination
        .and_then(|arn| arn.rsplit(':').next())
        .unwrap_or(bucket);
    let schema = manifest["fileSchema"].as_str().unwrap_or_default();
    let header: Vec<&str> = schema.split(',').map(str::trim).collect();
    let mut rows = format!("{}\n", header.join(",")).into_bytes();
    for file in manifest["files"].as_array().into_iter().flatten() {
        let key = file["key"].as_str().unwrap_or_default();
        let packed = get(node, (destination, key), None, bytes_max).await?;
        let failed = |error| format!("unpacking s3://{destination}/{key}: {error}");
        let left = bytes_max.saturating_sub(rows.len());
        rows.extend(unpack(&packed, left).map_err(failed)?);
        check_size(rows.len(), node)?;
        if !rows.ends_with(b"\n") {
            rows.push(b'\n');
        }
    }
    as_text(rows)
}

/// Unpacks a byte more than may be, at most.
fn unpack(packed: &[u8], bytes_max: usize) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let unpacked = flate2::read::MultiGzDecoder::new(packed);
    unpacked
        .take(bytes_max as u64 + 1)
        .read_to_end(&mut content)?;
    Ok(content)
}

/// Writes results and a list of what was written, which comes last.
pub(super) async fn write(node: &Node, context: &Context, task: &Task) -> Result<Value, String> {
    let bucket = text(task, "Bucket")?;
    let prefix = task.arguments.get("Prefix").and_then(Value::as_str);
    let prefix = prefix.unwrap_or_default().trim_matches('/');
    let run = format!("{}-{}", context.id, task.task);
    let directory = match prefix {
        "" => run,
        prefix => format!("{prefix}/{run}"),
    };
    let store = store(node, bucket, &format!("{directory}/{MANIFEST}"))?;
    let files = results::files(&task.arguments["Results"]);
    let manifest = results::manifest(Some(bucket), &directory, &context.id, &files);
    let files = files.into_iter().map(|file| (file.name, file.content));
    for (name, content) in files.chain([(MANIFEST.to_owned(), manifest.to_string())]) {
        let put = store
            .put(bucket, &format!("{directory}/{name}"), content.into())
            .await;
        put.map_err(|error| crate::chain(&error))?;
    }
    Ok(results::answer(Some(bucket), &directory, &context.id))
}
