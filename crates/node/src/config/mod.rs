//! The node's configuration: one [`Config`], read once, from a file with the environment on top.
//!
//! What keys there are, what they mean and how they are read stands in one table (`keys`); the
//! structs here are what the rest of the node sees. The original's keys keep working: those of
//! things that this version doesn't have are accepted with a warning. Everything else that isn't
//! understood is an error, and all errors are reported together.

mod balancer;
mod classes;
mod error;
mod file;
mod fleet;
mod keys;
mod objects;
mod placement;
mod sections;
#[cfg(test)]
mod tests;
mod value;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

pub use self::balancer::Balancer;
pub use self::error::{ConfigError, Problem, Warning};
pub use self::fleet::{Etcd, Federation, Hidden, Registry};
use self::keys::{Effect, Found};
pub use self::keys::{KeyDoc, describe};
pub use self::objects::{Location, ObjectStore};
pub use self::placement::Placement;
pub use self::sections::{
    Api, Async, Code, CodeUrl, Config, Container, Function, Image, Isolation, Janitor, LogFormat,
    Network, Qos, RuntimeConfig, Sandbox, SandboxBackend, Scheduler, Shutdown, Storage, Workflow,
};
use self::value::Scalar;

/// Variables that start like ours and belong to the command-line client.
const CLIENT_VARIABLES: [&str; 3] = ["HOST", "PORT", "TOKEN"];

const VARIABLE_PREFIX: &str = "SERVERLEDGE_";

/// Shortest secret: whoever sees a datagram can try all shorter ones.
const SECRET_MIN: usize = 16;

/// Files that somebody has named.
#[derive(Debug, Clone, Copy, Default)]
pub struct Files<'a> {
    /// In place of `serverledge-conf.*`.
    pub config: Option<&'a Path>,
    /// In place of `serverledge-classes.json`.
    pub classes: Option<&'a Path>,
}

impl<'a> From<Option<&'a Path>> for Files<'a> {
    fn from(config: Option<&'a Path>) -> Self {
        Self {
            config,
            classes: None,
        }
    }
}

/// A configuration in the making.
#[derive(Default)]
struct Loader {
    config: Config,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
}

impl Config {
    /// Whether the node has others, by way of etcd or without it.
    pub fn is_in_fleet(&self) -> bool {
        !self.etcd.endpoints.is_empty() || !self.federation.peers.is_empty()
    }

    /// Reads the configuration.
    ///
    /// The `files` given are read. Without, the first `serverledge-conf.*` in `search_dirs` is, and the
    /// first `serverledge-classes.json`, and no file is fine. Variables `SERVERLEDGE_<KEY>` of `environment`, with `_` for `.`, win
    /// over the file; `HOME` and `XDG_DATA_HOME` decide where a user's node keeps its data.
    pub fn load(
        files: Files<'_>,
        environment: impl Iterator<Item = (String, String)>,
        search_dirs: &[PathBuf],
    ) -> Result<(Self, Vec<Warning>), ConfigError> {
        let environment: BTreeMap<String, String> = environment.collect();
        let mut loader = Loader::default();
        loader.default_storage(&environment);
        let given = |path: Option<&Path>| path.map(Path::to_path_buf);
        let classes = given(files.classes).or_else(|| classes::find(search_dirs));
        if let Some(path) = classes {
            loader.read(&path, classes::read(&path));
        }
        let config = given(files.config).or_else(|| file::find(search_dirs));
        if let Some(path) = config {
            loader.read(&path, file::read(&path));
        }
        loader.read_environment(&environment);
        if loader.config.uses_object_store() {
            loader.config.object_store.complete(&environment);
        }
        loader.check();
        match loader.problems.is_empty() {
            true => Ok((loader.config, loader.warnings)),
            false => Err(ConfigError {
                problems: loader.problems,
            }),
        }
    }
}

impl Config {
    /// Whether anything is to be in an object store.
    pub fn uses_object_store(&self) -> bool {
        self.object_store.url.is_some() || !self.workflow.s3_buckets.is_empty()
    }
}

impl Loader {
    /// A user's data goes where the XDG specification says. Empty if there is no home either:
    /// [`Loader::check`] sees whether a path was given.
    fn default_storage(&mut self, environment: &BTreeMap<String, String>) {
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        if is_root {
            return;
        }
        let absolute = |name: &str| {
            environment
                .get(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let data = absolute("XDG_DATA_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
        self.config.storage.path = data
            .map(|data| data.join("serverledge"))
            .unwrap_or_default();
    }

    fn read(&mut self, path: &Path, settings: Result<Vec<(String, Scalar)>, String>) {
        let place = path.display().to_string();
        let entries = match settings {
            Ok(entries) => entries,
            Err(text) => return self.problem(None, &place, text),
        };
        let mut seen = HashMap::new();
        for (key, value) in entries {
            if let Some(former) = seen.insert(key.clone(), value.to_string()) {
                let text = format!("is set twice, to {former} and to {value}");
                self.problem(Some(key), &place, text);
                continue;
            }
            match keys::find(&key) {
                Some(found) => self.apply(&found, key, &place, &value),
                // A heading with everything below it commented out.
                None if value == Scalar::Null && keys::is_section(&key) => {}
                None => {
                    let text = keys::unknown(&key);
                    self.problem(Some(key), &place, text);
                }
            }
        }
    }

    fn read_environment(&mut self, environment: &BTreeMap<String, String>) {
        for (variable, value) in environment {
            let Some(name) = variable.strip_prefix(VARIABLE_PREFIX) else {
                continue;
            };
            if CLIENT_VARIABLES.contains(&name) || value.is_empty() || is_service(name, value) {
                continue;
            }
            match keys::find_variable(name) {
                Some(found) => {
                    let value = Scalar::Text(value.clone());
                    self.apply(&found, variable.clone(), "the environment", &value);
                }
                None => {
                    let text = keys::unknown_variable(name, VARIABLE_PREFIX);
                    self.problem(Some(variable.clone()), "the environment", text);
                }
            }
        }
    }

    fn apply(&mut self, found: &Found, key: String, place: &str, value: &Scalar) {
        if *value == Scalar::Null {
            return;
        }
        match &found.key.effect {
            Effect::None(reason) => {
                let place = place.to_string();
                self.warnings.push(Warning {
                    key,
                    place,
                    text: (*reason).to_string(),
                });
            }
            Effect::Set(set) => {
                if let Err(expected) = set.apply(&mut self.config, &found.name, value) {
                    let text = format!("expected {expected}, found {value}");
                    self.problem(Some(key), place, text);
                }
            }
        }
    }

    /// What keys must be together.
    fn check(&mut self) {
        let config = &self.config;
        let mut problems = Vec::new();
        if !config.api.insecure && !is_loopback(&config.api.host) {
            problems.push((
                "api.host",
                format!(
                    "is {}, where others can reach the API, which asks nobody for a password: \
                     set api.insecure to true if that is meant, or api.host to 127.0.0.1",
                    config.api.host
                ),
            ));
        }
        if config.storage.path.as_os_str().is_empty() {
            let text = "has no default without a home directory: set it".to_string();
            problems.push(("storage.path", text));
        }
        if config.function.timeout > config.function.timeout_max {
            let text = format!(
                "is {:?}, more than function.timeout_max, which is {:?}",
                config.function.timeout, config.function.timeout_max
            );
            problems.push(("function.timeout", text));
        }
        if config.sandbox.backend == SandboxBackend::Docker
            && config.sandbox.isolation != Isolation::Auto
        {
            let text = "is docker, which isolates in its own way: leave sandbox.isolation at auto";
            problems.push(("sandbox.backend", text.to_string()));
        }
        if let Err(error) = config.qos.classes() {
            problems.push(("qos.class", error.to_string()));
        }
        if config.etcd.username.is_some() != config.etcd.password.is_some() {
            let text = "is of no use alone: etcd.username and etcd.password belong together";
            problems.push(("etcd.password", text.to_string()));
        }
        if config.etcd.certificate.is_some() != config.etcd.key.is_some() {
            let text = "is of no use alone: etcd.tls.certificate and etcd.tls.key belong together";
            problems.push(("etcd.tls.key", text.to_string()));
        }
        if let Some(secret) = &config.federation.secret
            && secret.0.len() < SECRET_MIN
        {
            let text = format!("is shorter than {SECRET_MIN} characters: it could be guessed");
            problems.push(("federation.secret", text));
        }
        problems.extend(config.object_store.problem());
        if !config.federation.peers.is_empty() && !config.etcd.endpoints.is_empty() {
            let text = "is for fleets without etcd, and etcd.address is set: leave out one of them";
            problems.push(("federation.peers", text.to_string()));
        }
        if !config.federation.peers.is_empty() {
            problems.extend(Federation::wrong_names(config));
        }
        for (key, text) in problems {
            self.problem(Some(key.to_string()), "all settings together", text);
        }
        self.check_policy();
    }

    /// The original takes any name, and all but some mean "run here".
    fn check_policy(&mut self) {
        let policy = self.config.scheduler.policy.clone();
        let text = match policy.as_str() {
            "default" | "localonly" => return,
            "edgecloud" | "cloudonly" | "edgeonly" | "qosaware" if !self.config.is_in_fleet() => {
                format!(
                    "{policy} needs a fleet: without etcd.address or federation.peers, everything \
                     runs here"
                )
            }
            "edgecloud" | "cloudonly" if self.config.registry.remote_area.is_none() => {
                format!("{policy} has nowhere to send calls: registry.remote.area is not set")
            }
            "edgecloud" | "cloudonly" | "edgeonly" | "qosaware" => return,
            other => format!("{other} is no policy; everything runs on this node, as with default"),
        };
        let key = "scheduler.policy".to_string();
        self.warnings.push(Warning {
            key,
            place: "all settings together".to_string(),
            text,
        });
    }

    fn problem(&mut self, key: Option<String>, place: &str, text: String) {
        self.problems.push(Problem {
            key,
            place: place.to_string(),
            text,
        });
    }
}

/// Kubernetes describes a service called `serverledge` to every container in variables that look
/// like ours.
fn is_service(name: &str, value: &str) -> bool {
    name.ends_with("SERVICE_HOST")
        || name.contains("SERVICE_PORT")
        || name.contains("PORT_") && (name.contains("_TCP") || name.contains("_UDP"))
        || value.starts_with("tcp://")
        || value.starts_with("udp://")
}

/// Whether only this machine can reach what listens at `host`.
fn is_loopback(host: &str) -> bool {
    if let Ok(address) = host.parse::<IpAddr>() {
        return address.is_loopback();
    }
    // A name: `localhost`, or what the machine's hosts file says. Unresolved names fail at bind.
    let addresses = (host, 0).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    addresses.is_ok_and(|all| !all.is_empty() && all.iter().all(|one| one.ip().is_loopback()))
}
