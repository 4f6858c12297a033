//! The table of keys: name, default, meaning, and what reading one does.
//!
//! The documentation is made of it ([`describe`]); a test holds its defaults against those of the
//! structs.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serverledge_core::qos::Class;
use serverledge_core::{Ipv4Network, Language};
use serverledge_sandbox::docker::check_image;

use super::fleet::{Hidden, Registry};
use super::objects::Location;
use super::sections::{Config, Isolation, LogFormat, RuntimeConfig, SandboxBackend};
use super::value::Scalar;
use crate::fetch::Network;

mod class;
mod table;

use self::class::ClassKey;
use self::table::KEYS;

/// Documentation of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDoc {
    /// Dotted name; `<name>` stands for a name of your choice.
    pub key: &'static str,
    /// What it takes.
    pub kind: String,
    /// Its default, as it would be written; in parentheses if it depends on the machine; empty if
    /// there is none.
    pub default: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// Why it has no effect in this version, if it has none.
    pub no_effect: Option<&'static str>,
}

/// Every key, in the order of the table.
pub fn describe() -> Vec<KeyDoc> {
    let describe = |key: &Key| {
        let (kind, no_effect) = match &key.effect {
            Effect::Set(set) => (set.kind(), None),
            Effect::None(reason) => ("any".to_string(), Some(*reason)),
        };
        KeyDoc {
            key: key.name,
            kind,
            default: key.default,
            doc: key.doc,
            no_effect,
        }
    };
    KEYS.iter().map(describe).collect()
}

/// A row of the table.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) default: &'static str,
    pub(super) doc: &'static str,
    pub(super) effect: Effect,
}

pub(super) enum Effect {
    Set(Set),
    /// Accepted, and ignored for this reason.
    None(&'static str),
}

/// How a value is read, within which limits, and where it goes.
pub(super) enum Set {
    Bool(fn(&mut Config, bool)),
    Integer(RangeInclusive<u64>, fn(&mut Config, u64)),
    /// Bytes.
    Size(RangeInclusive<u64>, fn(&mut Config, u64)),
    Number(RangeInclusive<f64>, fn(&mut Config, f64)),
    /// Seconds.
    Duration(RangeInclusive<f64>, fn(&mut Config, Duration)),
    Text(fn(&mut Config, String)),
    Path(fn(&mut Config, PathBuf)),
    /// Separated by commas; none is fine.
    Paths(fn(&mut Config, Vec<PathBuf>)),
    Choice(&'static [&'static str], fn(&mut Config, &str)),
    /// Separated by commas; none is fine.
    Networks(fn(&mut Config, Vec<Network>)),
    /// The same, IPv4 alone.
    Ipv4Networks(fn(&mut Config, Vec<Ipv4Network>)),
    /// `host:port`, separated by commas; none is fine.
    Endpoints(fn(&mut Config, Vec<String>)),
    /// `host`, with the usual port of the status, or `host:port`, separated by commas; none is fine.
    Peers(fn(&mut Config, Vec<String>)),
    /// Like `host:port`, separated by commas; none is fine.
    Hosts(fn(&mut Config, Vec<String>)),
    /// `s3://bucket/prefix`; none is fine.
    Location(fn(&mut Config, Option<Location>)),
    /// `bucket` or `bucket/prefix`, separated by commas; none is fine.
    Locations(fn(&mut Config, Vec<Location>)),
    RuntimePath,
    RuntimeLanguage,
    RuntimeImage,
    Class(ClassKey),
    /// Of the area that stands for `<name>`.
    RegionCost,
}

const LANGUAGES: &[&str] = &["python", "nodejs", "java"];

impl Set {
    /// Reads `value` and sets it; `name` is what stands for `<name>` in the key. An error says
    /// what was expected.
    pub(super) fn apply(
        &self,
        config: &mut Config,
        name: &str,
        value: &Scalar,
    ) -> Result<(), String> {
        let set = match self {
            Self::Bool(set) => value.as_bool().map(|value| set(config, value)),
            Self::Integer(range, set) => value
                .as_integer()
                .filter(|v| range.contains(v))
                .map(|value| set(config, value)),
            Self::Size(range, set) => value
                .as_bytes()
                .filter(|v| range.contains(v))
                .map(|value| set(config, value)),
            Self::Number(range, set) => value
                .as_number()
                .filter(|v| range.contains(v))
                .map(|value| set(config, value)),
            Self::Duration(range, set) => {
                let value = value
                    .as_duration()
                    .filter(|v| range.contains(&v.as_secs_f64()));
                value.map(|value| set(config, value))
            }
            Self::Text(set) => value.as_text().map(|value| set(config, value)),
            Self::Path(set) => absolute(value).map(|path| set(config, path)),
            Self::Paths(set) => list(value, paths).map(|paths| set(config, paths)),
            Self::Choice(choices, set) => {
                let chosen = value.as_text().map(|text| text.to_lowercase());
                chosen
                    .filter(|text| choices.contains(&text.as_str()))
                    .map(|text| set(config, &text))
            }
            Self::Networks(set) => list(value, parsed).map(|networks| set(config, networks)),
            Self::Ipv4Networks(set) => list(value, parsed).map(|networks| set(config, networks)),
            Self::Endpoints(set) => list(value, endpoints).map(|endpoints| set(config, endpoints)),
            Self::Peers(set) => list(value, peers).map(|peers| set(config, peers)),
            Self::Hosts(set) => list(value, hosts).map(|hosts| set(config, hosts)),
            Self::Location(set) => {
                list(value, location).map(|it| set(config, it.into_iter().next()))
            }
            Self::Locations(set) => list(value, parsed).map(|all| set(config, all)),
            Self::RuntimePath => {
                let path = value.as_text().map(PathBuf::from);
                let path = path.filter(|path| path.is_absolute());
                path.map(|path| runtime(config, name).path = Some(path))
            }
            Self::RuntimeLanguage => {
                let language = value.as_text().and_then(|text| language(&text));
                language.map(|language| runtime(config, name).language = Some(language))
            }
            Self::RegionCost => {
                let cost = value.as_number().filter(|cost| *cost >= 0.0);
                cost.map(|cost| config.placement.costs.set(name, cost))
            }
            Self::RuntimeImage => {
                let image = value.as_text().filter(|it| check_image(it).is_none());
                image.map(|image| runtime(config, name).image = Some(image))
            }
            Self::Class(key) => key.apply(class(config, name), value),
        };
        set.ok_or_else(|| self.kind())
    }

    /// What it takes, for documentation and errors.
    fn kind(&self) -> String {
        match self {
            Self::Bool(_) => "true or false".into(),
            Self::Integer(range, _) => format!("an integer {}", bounds(range, &u64::MAX)),
            Self::Size(range, _) => {
                format!(
                    "bytes, as a number or like 16MiB, {}",
                    bounds(range, &u64::MAX)
                )
            }
            Self::Number(range, _) => format!("a number {}", bounds(range, &f64::MAX)),
            Self::Duration(range, _) => {
                format!(
                    "seconds, as a number or like 500ms, {}",
                    bounds(range, &f64::MAX)
                )
            }
            Self::Text(_) => "a text".into(),
            Self::Path(_) => "a path".into(),
            Self::Paths(_) => "absolute paths, several with commas".into(),
            Self::Networks(_) => "addresses or networks like 10.0.0.0/8, with commas".into(),
            Self::Ipv4Networks(_) => {
                "IPv4 addresses or networks like 10.0.0.0/8, with commas".into()
            }
            Self::Endpoints(_) => "host:port, several with commas".into(),
            Self::Peers(_) => format!("hosts, or host:port, with commas, up to {PEERS_MAX}"),
            Self::Hosts(_) => "hosts like registry.example:5000, with commas".into(),
            Self::Location(_) => "a bucket like s3://bucket/prefix".into(),
            Self::Locations(_) => "buckets like bucket or bucket/prefix, with commas".into(),
            Self::RuntimePath => "an absolute path".into(),
            Self::Choice(choices, _) => format!("one of {}", choices.join(", ")),
            Self::RuntimeImage => "the name of an image".into(),
            Self::Class(key) => key.kind(),
            Self::RegionCost => "a number from 0".into(),
            Self::RuntimeLanguage => format!("one of {}", LANGUAGES.join(", ")),
        }
    }
}

/// A path from the working directory: later, that may be another.
fn absolute(value: &Scalar) -> Option<PathBuf> {
    let path = value.as_text().filter(|path| !path.is_empty())?;
    let path = PathBuf::from(path);
    Some(std::path::absolute(&path).unwrap_or(path))
}

fn list<T>(value: &Scalar, read: fn(&str) -> Option<Vec<T>>) -> Option<Vec<T>> {
    read(&value.as_texts()?)
}

/// Paths from the root.
fn paths(text: &str) -> Option<Vec<PathBuf>> {
    let parts = text.split(',').map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(|part| Some(PathBuf::from(part)).filter(|path| path.is_absolute()))
        .collect()
}

fn runtime<'a>(config: &'a mut Config, name: &str) -> &'a mut RuntimeConfig {
    config.runtimes.entry(name.to_string()).or_default()
}

fn class<'a>(config: &'a mut Config, name: &str) -> &'a mut Class {
    let classes = &mut config.qos.classes;
    classes
        .entry(name.to_string())
        .or_insert_with(|| Class::new(name))
}

fn bounds<T: PartialEq + std::fmt::Display>(range: &RangeInclusive<T>, unlimited: &T) -> String {
    match range.end() {
        end if end == unlimited => format!("from {}", range.start()),
        end => format!("from {} to {end}", range.start()),
    }
}

fn parsed<T: FromStr>(text: &str) -> Option<Vec<T>> {
    let parts = text.split(',').map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().ok())
        .collect()
}

/// One at most, with its scheme: a path could be meant otherwise.
fn location(text: &str) -> Option<Vec<Location>> {
    match text {
        "" => Some(Vec::new()),
        text if text.starts_with("s3://") => Some(vec![text.parse().ok()?]),
        _ => None,
    }
}

/// The original's scheme is none; others write one. That of TLS is kept.
fn endpoints(text: &str) -> Option<Vec<String>> {
    let parts = text.split(',').map(str::trim);
    let endpoint = |part: &str| {
        let part = part.strip_prefix("http://").unwrap_or(part);
        let bare = part.strip_prefix("https://").unwrap_or(part);
        let (host, port) = bare.rsplit_once(':')?;
        let is_host = !host.is_empty() && !host.contains(['/', '@', ' ', '?', '#']);
        (is_host && port.parse::<u16>().is_ok_and(|port| port > 0)).then(|| part.to_owned())
    };
    parts
        .filter(|part| !part.is_empty())
        .map(endpoint)
        .collect()
}

/// Peers that a node is told of: some that live are enough.
const PEERS_MAX: usize = 64;

/// Each with a port, of which the usual one is the original's.
fn peers(text: &str) -> Option<Vec<String>> {
    let usual = Registry::default().udp_port;
    let peer = |part: &str| {
        if let Ok(address) = part.parse::<SocketAddr>() {
            return (address.port() > 0).then(|| part.to_owned());
        }
        if let Ok(ip) = part.parse::<IpAddr>() {
            return Some(SocketAddr::new(ip, usual).to_string());
        }
        let (host, port) = match part.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)?),
            None => (part, usual),
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let is_name = !host.is_empty() && host.len() <= 253 && host.chars().all(is_host);
        is_name.then(|| format!("{host}:{port}"))
    };
    let parts = text.split(',').map(str::trim);
    let peers: Option<Vec<_>> = parts.filter(|part| !part.is_empty()).map(peer).collect();
    peers.filter(|peers| peers.len() <= PEERS_MAX)
}

fn hosts(text: &str) -> Option<Vec<String>> {
    let is_host = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    let parts = text.split(',').map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(|part| part.chars().all(is_host).then(|| part.to_owned()))
        .collect()
}

fn language(text: &str) -> Option<Language> {
    match text.to_lowercase().as_str() {
        "python" => Some(Language::Python),
        "nodejs" | "node" => Some(Language::Node),
        "java" => Some(Language::Java),
        _ => None,
    }
}

/// A key that was looked up.
pub(super) struct Found {
    pub(super) key: &'static Key,
    /// What stood for `<name>`.
    pub(super) name: String,
}

/// The key with this dotted name, in lower case.
pub(super) fn find(name: &str) -> Option<Found> {
    find_by(name, '.')
}

/// The key of a variable, without our prefix: any case, `_` for `.`.
pub(super) fn find_variable(name: &str) -> Option<Found> {
    find_by(&name.to_lowercase(), '_')
}

fn find_by(name: &str, separator: char) -> Option<Found> {
    let found = |key, name: &str| Found {
        key,
        name: name.to_string(),
    };
    KEYS.iter()
        .find_map(|key| match key.name.split_once("<name>") {
            None => (spelled(key.name, separator) == name).then(|| found(key, "")),
            Some((before, after)) => {
                let inside = name
                    .strip_prefix(spelled(before, separator).as_str())?
                    .strip_suffix(spelled(after, separator).as_str())?;
                (!inside.is_empty()).then(|| found(key, inside))
            }
        })
}

fn spelled(name: &str, separator: char) -> String {
    match separator {
        '.' => name.to_string(),
        separator => name.replace('.', separator.encode_utf8(&mut [0; 4])),
    }
}

/// Whether there are keys below this dotted name.
pub(super) fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| {
        key.name
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('.'))
    })
}

/// What to say about a key that isn't in the table.
pub(super) fn unknown(name: &str) -> String {
    if is_section(name) {
        let section = format!("{name}.");
        let inside = KEYS
            .iter()
            .map(|key| key.name)
            .filter(|key| key.starts_with(&section));
        let inside = inside.collect::<Vec<_>>().join(", ");
        return format!("is a section, not a setting: it has {inside}");
    }
    match nearest(name, '.') {
        Some(key) => format!("is not a setting; did you mean {key}?"),
        None => "is not a setting; `serverledge config` lists all of them".into(),
    }
}

/// What to say about a variable that isn't in the table.
pub(super) fn unknown_variable(name: &str, prefix: &str) -> String {
    match nearest(&name.to_lowercase(), '_') {
        Some(key) => format!(
            "is not a setting; did you mean {prefix}{}?",
            key.to_uppercase()
        ),
        None => "is not a setting; `serverledge config` lists all of them".into(),
    }
}

/// The key that looks most like `name`, if one does.
fn nearest(name: &str, separator: char) -> Option<String> {
    let last = |text: &str| {
        text.rsplit(separator)
            .next()
            .unwrap_or_default()
            .to_string()
    };
    let distance = |key: &String| {
        // The right name in the wrong section is a near miss too.
        let moved = last(key) == last(name);
        let distance = strsim::damerau_levenshtein(&filled(key, name, separator), name);
        if moved { distance.min(3) } else { distance }
    };
    let keys = KEYS.iter().map(|key| spelled(key.name, separator));
    let (distance, key) = keys.map(|key| (distance(&key), key)).min()?;
    (distance <= 3.max(name.len() / 4)).then_some(key)
}

/// `key` with what `name` has where the key has `<name>`.
fn filled(key: &str, name: &str, separator: char) -> String {
    let given = name.split(separator).map(Some);
    let given = given.chain(std::iter::repeat(None));
    let parts = key.split(separator).zip(given);
    let parts = parts.map(|(part, given)| match part {
        "<name>" => given.unwrap_or(part),
        part => part,
    });
    parts.collect::<Vec<_>>().join(&separator.to_string())
}
