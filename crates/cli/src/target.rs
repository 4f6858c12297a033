//! Which node to talk to: flags, environment, configuration, default, in this order.

use std::path::{Path, PathBuf};

use serverledge_api::Client;

use crate::Failure;
use crate::arguments::Arguments;

/// A client for the node that the arguments mean.
pub(crate) fn client(arguments: &Arguments) -> Result<Client, Failure> {
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let host = arguments
        .host
        .clone()
        .or_else(|| environment("SERVERLEDGE_HOST"));
    let port = match (arguments.port, environment("SERVERLEDGE_PORT")) {
        (Some(port), _) => port,
        (None, Some(text)) => text.parse().map_err(|_| {
            Failure::arguments(format!("SERVERLEDGE_PORT: '{text}' is not a port number"))
        })?,
        (None, None) => configured_port().unwrap_or(1323),
    };
    Ok(Client::new(host.as_deref().unwrap_or("127.0.0.1"), port))
}

/// `api.port` of the first configuration file in the usual places.
fn configured_port() -> Option<u16> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let places = [
        Some(PathBuf::from("/etc/serverledge")),
        home,
        Some(PathBuf::from(".")),
    ];
    let endings = ["json", "toml", "yaml", "yml"];
    let files = places.iter().flatten().flat_map(|directory| {
        endings
            .iter()
            .map(|ending| directory.join(format!("serverledge-conf.{ending}")))
    });
    let file = files.into_iter().find(|file| file.is_file())?;
    port_in(&file)
}

fn port_in(file: &Path) -> Option<u16> {
    let text = std::fs::read_to_string(file).ok()?;
    let value: serde_json::Value = match file.extension()?.to_str()? {
        "toml" => toml::from_str(&text).ok()?,
        // JSON is YAML.
        _ => serde_norway::from_str(&text).ok()?,
    };
    let lower = |key: &str| key.to_lowercase();
    let entries = value.as_object()?;
    let get = |object: &serde_json::Map<String, serde_json::Value>, wanted: &str| {
        object
            .iter()
            .find(|(key, _)| lower(key) == wanted)
            .map(|(_, value)| value.clone())
    };
    let nested = get(entries, "api").and_then(|api| get(api.as_object()?, "port"));
    let port = get(entries, "api.port").or(nested)?;
    match port.as_str() {
        Some(text) => text.trim().parse().ok(),
        None => u16::try_from(port.as_u64()?).ok(),
    }
}
