//! `/create`, `/update`, `/delete`, `/function`.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serverledge_api::{FunctionSpec, Network};
use serverledge_core::{FunctionName, Language, NetworkPolicy};
use serverledge_sandbox::Backend as _;
use serverledge_sandbox::docker::check_image;
use serverledge_sandbox::java;
use serverledge_sandbox::{ImageUse, NetworkSupport, Pull};
use tokio::sync::MutexGuard;
use tracing::info;

use super::error::ApiError;
use super::{Body, Reply, json};
use crate::catalog::{Function, FunctionRecord};
use crate::code::Digest;
use crate::detached::Detached;
use crate::federation::ShareError;
use crate::fetch::CodeUrl;
use crate::node::Node;

#[derive(serde::Serialize)]
struct Created<'a> {
    #[serde(rename = "Created")]
    name: &'a str,
}

#[derive(serde::Serialize)]
struct Deleted<'a> {
    #[serde(rename = "Deleted")]
    name: &'a str,
}

/// Registers a function; with `update`, replaces it if it exists.
///
/// The reply is sent once the function is on disk and every later call runs the new code.
pub(super) async fn register(
    node: &Arc<Node>,
    body: Body,
    update: bool,
) -> Result<Reply, ApiError> {
    // Kept to the end: what was decoded from it is as large.
    let body = body.read().await?;
    let spec: FunctionSpec = serverledge_api::decode(&body)?;
    // Store, catalog and pool agree also if the client leaves half-way.
    let node = Arc::clone(node);
    Detached::new(async move { install(&node, spec, update).await }).await
}

async fn install(node: &Arc<Node>, spec: FunctionSpec, update: bool) -> Result<Reply, ApiError> {
    // In the original's order, so that a request with two faults gets the same answer.
    check_new(node, &spec.name, update)?;
    if !spec.code_digest.is_empty() {
        return Err(ApiError::Invalid {
            what: "field `CodeDigest`: it is for what nodes tell each other".into(),
            hint: "send the code in `TarFunctionCode`",
        });
    }
    let record = check(node, &spec)?;
    // Before the lock: fetching may take long, and others wait for the lock.
    let archive = receive_code(node, spec.code).await?;
    provide_image(node, &record).await?;
    let _guard = lock(node, &spec.name).await;
    check_new(node, &spec.name, update)?;
    let code = store_code(node, archive).await?;
    let mut record = FunctionRecord { code, ..record };
    check_code(node, &record).await?;
    if let Some(federation) = &node.federation {
        let shared = federation.share(node, &record, !update).await;
        record.shared = shared.map_err(|error| not_shared(error, &spec.name))?;
    }
    put_in_place(node, record).await?;
    Ok(json(&Created { name: &spec.name }))
}

fn not_shared(error: ShareError, name: &str) -> ApiError {
    match error {
        ShareError::Exists => ApiError::Exists(name.to_owned()),
        error => ApiError::Share(error),
    }
}

/// Makes the record what its name means from now on. Needs the name's lock.
async fn put_in_place(node: &Node, record: FunctionRecord) -> Result<(), ApiError> {
    let name = record.name.clone();
    let bytes = encode(&record)?;
    let function = node.function(record).ok_or(ApiError::InvalidRuntime)?;
    node.store.put_function(&name, bytes).await?;
    node.pool.expect(&function);
    let function = Arc::new(function);
    node.pool.prepare(&function);
    if let Some(former) = node.catalog.insert(function) {
        node.pool.retire(&former);
    }
    Ok(())
}

fn encode(record: &FunctionRecord) -> Result<Vec<u8>, ApiError> {
    let bytes = serde_json::to_vec(record);
    bytes.map_err(|error| crate::store::StoreError::encoding(&error).into())
}

/// Takes over a function as etcd has it under this revision, unless something newer is known.
pub(crate) async fn adopt(
    node: &Arc<Node>,
    spec: FunctionSpec,
    revision: u64,
) -> Result<(), ApiError> {
    let mut record = check(node, &spec)?;
    record.architectures = spec.supported_archs.unwrap_or_default();
    record.shared = Some(revision);
    if !is_older(node, &spec.name, revision) {
        return Ok(());
    }
    let pulled = match spec.code_digest.as_str() {
        "" => None,
        digest => Some(Digest::parse(digest).map_err(ApiError::Code)?),
    };
    let archive = match &pulled {
        None => receive_code(node, spec.code).await?,
        Some(digest) => pull_code(node, digest, &spec.code_holder).await?,
    };
    let _guard = lock(node, &spec.name).await;
    if !is_older(node, &spec.name, revision) {
        return Ok(());
    }
    record.code = match pulled {
        Some(digest) if archive.is_none() => Some(digest.as_str().to_owned()),
        _ => store_code(node, archive).await?,
    };
    check_code(node, &record).await?;
    put_in_place(node, record).await
}

/// Makes a function of another node, whose key is `holder`, fit to be called here. It is handed to
/// `keep` before anybody can take its code for unused, and is none of this node's own.
pub(crate) async fn copy(
    node: &Arc<Node>,
    spec: FunctionSpec,
    holder: &str,
    keep: impl FnOnce(&Arc<Function>),
) -> Result<Arc<Function>, ApiError> {
    let mut record = check(node, &spec)?;
    record.architectures = spec.supported_archs.unwrap_or_default();
    let digest = match spec.code_digest.as_str() {
        "" => None,
        digest => Some(Digest::parse(digest).map_err(ApiError::Code)?),
    };
    let archive = match &digest {
        None => None,
        Some(digest) => pull_code(node, digest, holder).await?,
    };
    // What can't start here has not begun, and may run elsewhere.
    provide_image(node, &record).await?;
    let _guard = lock(node, &record.name).await;
    if archive.is_some() {
        store_code(node, archive).await?;
    }
    if let Some(gone) = digest.as_ref().filter(|digest| !node.code.has(digest)) {
        return Err(ApiError::NoCode(gone.to_string()));
    }
    record.code = digest.map(|digest| digest.as_str().to_owned());
    check_code(node, &record).await?;
    let function = Arc::new(node.function(record).ok_or(ApiError::InvalidRuntime)?);
    keep(&function);
    node.pool.expect(&function);
    node.pool.prepare(&function);
    Ok(function)
}

/// Removes a function that etcd hasn't under this revision, unless something newer is known.
pub(crate) async fn forget(node: &Arc<Node>, name: &str, revision: u64) -> Result<(), ApiError> {
    let _guard = lock(node, name).await;
    if is_older(node, name, revision) {
        take_away(node, name).await?;
    }
    Ok(())
}

/// Notes that etcd has this revision of a function now. Its sandboxes stay.
pub(crate) async fn mark_shared(
    node: &Arc<Node>,
    function: &Arc<Function>,
    revision: u64,
) -> Result<(), ApiError> {
    let mut record = function.record.clone();
    let name = record.name.clone();
    record.shared = Some(revision);
    let bytes = encode(&record)?;
    let _guard = lock(node, &name).await;
    let current = node.catalog.function(&name);
    if let Some(mut marked) = node.function(record)
        && current.is_some_and(|current| current.id == function.id)
    {
        marked.id = function.id;
        node.store.put_function(&name, bytes).await?;
        node.catalog.insert(Arc::new(marked));
    }
    Ok(())
}

/// Whether what this node knows of a name is older than a revision of etcd.
fn is_older(node: &Node, name: &str, revision: u64) -> bool {
    let known = node.catalog.function(name);
    known.is_none_or(|known| known.record.shared.is_none_or(|shared| shared < revision))
}

/// Has the image got that the function needs, so that what is wrong with it is told now.
async fn provide_image(node: &Node, record: &FunctionRecord) -> Result<(), ApiError> {
    let Some(runtime) = node.runtime(&record.runtime) else {
        return Ok(());
    };
    let Some(image) = node.image(record, runtime.language) else {
        return Ok(());
    };
    // The operator named the images of runtimes; which registry the node turns to is not for callers
    // to say.
    let pull = match runtime.language {
        Language::Custom | Language::Wasm => Pull::Never,
        _ => Pull::IfMissing,
    };
    let provided = match runtime.language {
        Language::Wasm => node.wasm.provide_image(image.clone(), pull).await,
        _ => node.backend.provide_image(image.clone(), pull).await,
    };
    provided.map_err(|error| ApiError::Image { image, error })
}

fn check_new(node: &Node, name: &str, update: bool) -> Result<(), ApiError> {
    if !update && node.catalog.function(name).is_some() {
        return Err(ApiError::Exists(name.to_owned()));
    }
    Ok(())
}

/// Removes a function and its sandboxes.
pub(super) async fn delete(node: &Arc<Node>, body: Body) -> Result<Reply, ApiError> {
    let spec: FunctionSpec = serverledge_api::decode(&body.read().await?)?;
    let node = Arc::clone(node);
    Detached::new(async move { remove(&node, &spec).await }).await
}

async fn remove(node: &Arc<Node>, spec: &FunctionSpec) -> Result<Reply, ApiError> {
    let _guard = lock(node, &spec.name).await;
    if node.catalog.function(&spec.name).is_none() {
        return Err(ApiError::UnknownDeletion);
    }
    if let Some(federation) = &node.federation {
        let withdrawn = federation.withdraw(&spec.name).await;
        withdrawn.map_err(|error| ApiError::Share(error.into()))?;
    }
    take_away(node, &spec.name).await?;
    Ok(json(&Deleted { name: &spec.name }))
}

/// Forgets a function and its sandboxes. Needs the name's lock.
async fn take_away(node: &Node, name: &str) -> Result<(), ApiError> {
    node.store.delete_function(name).await?;
    if let Some(former) = node.catalog.remove(name) {
        node.pool.retire(&former);
    }
    Ok(())
}

/// All names.
pub(super) fn list(node: &Node) -> Reply {
    let names = node.catalog.names();
    json(&names.iter().map(|name| &**name).collect::<Vec<&str>>())
}

/// Checks and normalises what was sent; the code is stored separately.
fn check(node: &Node, spec: &FunctionSpec) -> Result<FunctionRecord, ApiError> {
    let runtime = node
        .runtime(&spec.runtime)
        .ok_or(ApiError::InvalidRuntime)?;
    check_runs(node, spec, runtime.language)?;
    let memory_mb = u64::try_from(spec.memory_mb).unwrap_or(0);
    if memory_mb < 1 {
        return Err(ApiError::InvalidMemory);
    }
    let invalid = |what: String, hint| ApiError::Invalid { what, hint };
    FunctionName::new(&spec.name).map_err(|error| invalid(format!("field `Name`: {error}"), ""))?;
    if !(0.0..=CPU_MAX).contains(&spec.cpu_demand) {
        let what = format!(
            "field `CPUDemand`: {} is not a number of cores",
            spec.cpu_demand
        );
        return Err(invalid(what, "0 means no limit"));
    }
    if spec.handler.len() > HANDLER_MAX || spec.handler.contains('\0') {
        return Err(invalid(
            "field `Handler`: too long, or with a NUL character".into(),
            "",
        ));
    }
    let timeout_max = node.config.function.timeout_max;
    let timeout_seconds = spec.timeout_seconds.filter(|seconds| *seconds != 0.0);
    let fits = |seconds| Duration::try_from_secs_f64(seconds).is_ok_and(|t| t <= timeout_max);
    if let Some(seconds) = timeout_seconds.filter(|seconds| *seconds < 0.001 || !fits(*seconds)) {
        let max = timeout_max.as_secs();
        let what = format!("field `TimeoutSeconds`: {seconds} is not between 0.001 and {max}");
        return Err(invalid(what, "function.timeout_max is the node's limit"));
    }
    check_preload(&spec.preload, runtime.language)?;
    check_network(
        spec.network.as_ref(),
        node.network_support(runtime.language),
    )?;
    let concurrent = u32::try_from(spec.max_concurrency).unwrap_or(1).max(1);
    Ok(FunctionRecord {
        name: spec.name.clone(),
        runtime: spec.runtime.clone(),
        memory_mb,
        cpu: spec.cpu_demand,
        max_concurrency: if runtime.supports_concurrency {
            concurrent.min(CONCURRENCY_MAX)
        } else {
            1
        },
        handler: spec.handler.clone(),
        code: None,
        custom_image: spec.custom_image.clone(),
        signature: spec.signature.clone(),
        timeout_seconds,
        preload: spec.preload.clone(),
        network: spec.network.clone(),
        architectures: Vec::new(),
        shared: None,
    })
}

/// Whether this node can keep the function to what it has asked for.
fn check_network(network: Option<&Network>, support: NetworkSupport) -> Result<(), ApiError> {
    let Some(network) = network else {
        return Ok(());
    };
    let invalid = |what: String, hint| Err(ApiError::Invalid { what, hint });
    let policy = match NetworkPolicy::parse(network.words()) {
        Ok(policy) => policy,
        Err(error) => {
            let hint = r#"give "none", "egress", or rules such as ["10.0.0.0/8", "10.1.2.3:443"]"#;
            return invalid(format!("field `Network`: {error}"), hint);
        }
    };
    match support {
        NetworkSupport::Enforced => Ok(()),
        NetworkSupport::Absent if policy == NetworkPolicy::None => Ok(()),
        NetworkSupport::Absent => invalid(
            "field `Network`: this function's sandboxes have no network on this node".into(),
            "`serverledge doctor` tells what the built-in sandbox needs for one, the node's log what \
             containers lack",
        ),
        NetworkSupport::Open => invalid(
            "field `Network`: this node runs functions without isolation".into(),
            "leave it out, or use a node with another sandbox.isolation than process",
        ),
    }
}

/// Whether these can be names of modules; whether they exist is found out by importing them.
fn check_preload(modules: &[String], language: Language) -> Result<(), ApiError> {
    let invalid = |what: String, hint| Err(ApiError::Invalid { what, hint });
    if !modules.is_empty() && language != Language::Python {
        let what = "field `Preload`: only Python functions can have modules preloaded".into();
        return invalid(what, "leave it out");
    }
    if modules.len() > PRELOAD_MAX {
        let what = format!("field `Preload`: more than {PRELOAD_MAX} modules");
        return invalid(what, "one that imports the others will do");
    }
    let is_name = |part: &str| {
        let mut chars = part.chars();
        let first = chars
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        first && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let is_module = |module: &String| module.len() <= MODULE_MAX && module.split('.').all(is_name);
    match modules.iter().find(|module| !is_module(module)) {
        None => Ok(()),
        Some(wrong) => {
            let what = format!("field `Preload`: {wrong:?} is not the name of a module");
            invalid(what, "give names as in an import, such as numpy or os.path")
        }
    }
}

/// Modules a function can have preloaded.
const PRELOAD_MAX: usize = 32;

/// Longest name of one, bytes.
const MODULE_MAX: usize = 128;

/// Whether this node has a sandbox for the function.
fn check_runs(node: &Node, spec: &FunctionSpec, language: Language) -> Result<(), ApiError> {
    let invalid = |what: String, hint| Err(ApiError::Invalid { what, hint });
    let runtime = &spec.runtime;
    if node.backend.image_use() == ImageUse::Always {
        return match check_image(&spec.custom_image).filter(|_| language == Language::Custom) {
            None => Ok(()),
            Some(wrong) => invalid(
                format!("field `CustomImage`: {wrong}"),
                "with Docker, this runtime needs the name of an image",
            ),
        };
    }
    if language == Language::Java
        && let Err(why) = java::find(&node.interpreter(runtime, language))
    {
        return invalid(
            format!("the runtime '{runtime}' has no Java here: {why}"),
            "install a JDK, 17 or later (Debian: apt install default-jdk-headless), and restart \
             the node, or set runtime.<name>.path",
        );
    }
    if language == Language::Custom && !spec.custom_image.is_empty() {
        if node.backend.image_use() == ImageUse::Possible {
            return Ok(());
        }
        return invalid(
            format!("no backend of this node runs images for the runtime '{runtime}'"),
            "send the program as code, or use a node with sandbox.backend: docker",
        );
    }
    let has_code = !spec.code.is_empty() || !spec.code_digest.is_empty();
    if matches!(language, Language::Go | Language::Custom) && !has_code {
        return invalid(
            format!("the runtime '{runtime}' runs a program, and there is none"),
            "send it in `TarFunctionCode`, in a tar, tar.gz or zip",
        );
    }
    Ok(())
}

/// Sanity bound of `CPUDemand`, cores.
const CPU_MAX: f64 = 4096.0;

/// Longest `Handler`, bytes.
const HANDLER_MAX: usize = 4096;

/// Calls one sandbox serves at once, at most: each has a connection and a thread.
const CONCURRENCY_MAX: u32 = 128;

/// The archive that was sent, or that is at the URL that was sent; `None` without code.
async fn receive_code(node: &Node, encoded: String) -> Result<Option<Received>, ApiError> {
    if encoded.is_empty() {
        return Ok(None);
    }
    let decode = move || {
        // Line breaks, as `base64 FILE` prints them, are harmless.
        let encoded: String = encoded.split_ascii_whitespace().collect();
        STANDARD.decode(encoded)
    };
    let decoded = tokio::task::spawn_blocking(decode).await;
    let sent = decoded
        .map_err(|_| unreadable())?
        .map_err(|error| ApiError::Invalid {
            what: format!("field `TarFunctionCode`: not base64: {error}"),
            hint: "send the standard base64 of a tar, tar.gz or zip, or of its URL",
        })?;
    let Some(url) = CodeUrl::sent(&sent) else {
        return Ok(Some(Received {
            archive: sent.into(),
            url: None,
        }));
    };
    let url = CodeUrl::parse(url).map_err(ApiError::Fetch)?;
    let archive = node.fetcher.fetch(&url).await.map_err(ApiError::Fetch)?;
    Ok(Some(Received {
        archive,
        url: Some(url),
    }))
}

/// Code that another node has; `None` if this one has it, too.
async fn pull_code(
    node: &Node,
    digest: &Digest,
    holder: &str,
) -> Result<Option<Received>, ApiError> {
    let Some(federation) = node.federation.as_ref().filter(|_| !node.code.has(digest)) else {
        return Ok(None);
    };
    let archive = federation.pull(node, digest, holder).await;
    let received = |archive| Received { archive, url: None };
    Ok(archive.map_err(ApiError::Pull)?.map(received))
}

/// An archive, not looked at yet, and where it was fetched from if it was.
struct Received {
    archive: Bytes,
    url: Option<CodeUrl>,
}

/// Checks the archive and writes it to disk; its digest.
async fn store_code(
    node: &Arc<Node>,
    received: Option<Received>,
) -> Result<Option<String>, ApiError> {
    let Some(Received { archive, url }) = received else {
        return Ok(None);
    };
    let node = Arc::clone(node);
    let store = move || {
        if let Some(url) = &url {
            url.verify(&archive).map_err(ApiError::Fetch)?;
        }
        let digest = node.code.put(&archive).map_err(ApiError::Code)?;
        if let Some(url) = &url {
            info!(%url, %digest, bytes = archive.len(), "code was fetched");
        }
        Ok::<_, ApiError>(digest)
    };
    let stored = tokio::task::spawn_blocking(store).await;
    let digest = stored.map_err(|_| unreadable())??;
    Ok(Some(digest.as_str().to_owned()))
}

/// Whether code that can be judged before it runs is what its runtime takes.
async fn check_code(node: &Arc<Node>, record: &FunctionRecord) -> Result<(), ApiError> {
    let runtime = node.runtime(&record.runtime);
    if runtime.is_none_or(|runtime| runtime.language != Language::Wasm) {
        return Ok(());
    }
    let digest = match (record.code.clone(), record.custom_image.is_empty()) {
        (Some(digest), true) => digest,
        (None, false) => return Ok(()),
        (None, true) => {
            return Err(ApiError::Invalid {
                what: "field `TarFunctionCode`: a wasm function needs a module".into(),
                hint: "send the base64 of a tar with a .wasm file, or name an artifact in `CustomImage`",
            });
        }
        (Some(_), false) => {
            return Err(ApiError::Invalid {
                what: "field `CustomImage`: a wasm function is an artifact or code, not both"
                    .into(),
                hint: "leave out one of `CustomImage` and `TarFunctionCode`",
            });
        }
    };
    let (node, handler) = (Arc::clone(node), record.handler.clone());
    let check = move || {
        let digest = Digest::parse(&digest).map_err(ApiError::Code)?;
        let dir = node.code.dir(&digest).map_err(ApiError::Code)?;
        serverledge_sandbox::wasm::check(&dir, &handler).map_err(|error| ApiError::Invalid {
            what: format!("field `TarFunctionCode`: {}", error.message),
            hint: "the handler names the file; it may be left out if there is only one",
        })
    };
    let checked = tokio::task::spawn_blocking(check).await;
    checked.map_err(|_| unreadable())?
}

fn unreadable() -> ApiError {
    ApiError::Invalid {
        what: "field `TarFunctionCode`: the archive could not be read".into(),
        hint: "",
    }
}

async fn lock<'a>(node: &'a Node, name: &str) -> MutexGuard<'a, ()> {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
    let index = hash as usize % node.name_locks.len();
    node.name_locks[index].lock().await
}
