//! The S3-compatible store: `object_store.*`, and what workflows may reach in it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::Hidden;

/// Names of buckets have no more characters.
const BUCKET_MAX: usize = 63;

/// Keys of objects have no more bytes.
const KEY_MAX: usize = 1024;

/// Where the store is and who this node is there.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectStore {
    /// Where nodes put code for each other: `s3://bucket/prefix`; none.
    pub url: Option<Location>,
    /// `http://` or `https://` and host of the store; AWS's of the region.
    pub endpoint: Option<String>,
    /// Its region; us-east-1.
    pub region: String,
    /// Who the node is; none: requests are not signed.
    pub access_key: Option<String>,
    /// What it signs with.
    pub secret_key: Option<Hidden>,
    /// What goes with keys that are valid for a while; none.
    pub session_token: Option<Hidden>,
    /// Whether the bucket is in the path rather than in the host's name; yes.
    pub path_style: bool,
    /// Whether the endpoint may be without TLS; no.
    pub allow_http: bool,
    /// File with the certificates of authorities to trust; those of the machine.
    pub ca: Option<PathBuf>,
    /// How long reading, writing or listing may take in all; 60 s.
    pub timeout: Duration,
    /// How long a registration waits for its code to be put there; 10 s.
    pub upload_wait: Duration,
}

impl Default for ObjectStore {
    fn default() -> Self {
        Self {
            url: None,
            endpoint: None,
            region: "us-east-1".into(),
            access_key: None,
            secret_key: None,
            session_token: None,
            path_style: true,
            allow_http: false,
            ca: None,
            timeout: Duration::from_secs(60),
            upload_wait: Duration::from_secs(10),
        }
    }
}

impl ObjectStore {
    /// What is not said, from the variables that other programs for S3 read.
    pub(super) fn complete(&mut self, environment: &BTreeMap<String, String>) {
        let of = |names: &[&str]| {
            let mut values = names.iter().filter_map(|name| environment.get(*name));
            values.find(|value| !value.is_empty()).cloned()
        };
        if self.endpoint.is_none() {
            self.endpoint = of(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]);
        }
        if self.region == Self::default().region
            && let Some(region) = of(&["AWS_REGION", "AWS_DEFAULT_REGION"])
        {
            self.region = region;
        }
        // Half of somebody's keys and half of another's are nobody's.
        if self.access_key.is_none() && self.secret_key.is_none() {
            self.access_key = of(&["AWS_ACCESS_KEY_ID"]);
            self.secret_key = of(&["AWS_SECRET_ACCESS_KEY"]).map(Hidden);
            self.session_token = of(&["AWS_SESSION_TOKEN"]).map(Hidden);
        }
    }

    /// What is wrong with it, with the key to blame.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        let endpoint = self.endpoint.as_deref().unwrap_or("https://aws.example");
        let host = endpoint
            .strip_prefix("https://")
            .or_else(|| endpoint.strip_prefix("http://"));
        let is_host = |host: &str| {
            let host = host.strip_suffix('/').unwrap_or(host);
            !host.is_empty() && !host.contains(['/', '@', '?', '#', ' '])
        };
        if !host.is_some_and(is_host) {
            let text = format!("is {endpoint}: give http:// or https://, a host and maybe a port");
            return Some(("object_store.endpoint", text));
        }
        if endpoint.starts_with("http://") && !self.allow_http {
            let text = format!(
                "is {endpoint}, where anybody on the way can read and change what is sent: set \
                 object_store.allow_http to true if that is meant"
            );
            return Some(("object_store.endpoint", text));
        }
        if self.access_key.is_some() != self.secret_key.is_some() {
            let text = "is of no use alone: object_store.access_key and object_store.secret_key \
                        belong together";
            return Some(("object_store.secret_key", text.to_owned()));
        }
        None
    }
}

/// A bucket, or what begins with a prefix there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Name of the bucket.
    pub bucket: String,
    /// What keys begin with, without slashes at its ends; maybe empty.
    pub prefix: String,
}

impl Location {
    /// Whether this key, and all that begins with it, is inside.
    pub fn covers(&self, bucket: &str, key: &str) -> bool {
        let rest = key.strip_prefix(self.prefix.as_str());
        let is_inside = |rest: &str| self.prefix.is_empty() || rest.starts_with('/');
        self.bucket == bucket && rest.is_some_and(is_inside)
    }
}

/// `bucket` or `bucket/prefix`, with or without `s3://`.
impl FromStr for Location {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.strip_prefix("s3://").unwrap_or(text);
        let (bucket, prefix) = text.split_once('/').unwrap_or((text, ""));
        let prefix = prefix.trim_matches('/');
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let is_bucket = !bucket.is_empty() && bucket.len() <= BUCKET_MAX;
        let is_part =
            |part: &str| !matches!(part, "" | "." | "..") && !part.contains(char::is_control);
        let is_prefix = prefix.len() <= KEY_MAX && prefix.split('/').all(is_part);
        if !is_bucket || !bucket.chars().all(is_name) || !(prefix.is_empty() || is_prefix) {
            return Err(());
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix.as_str() {
            "" => write!(formatter, "s3://{}", self.bucket),
            prefix => write!(formatter, "s3://{}/{prefix}", self.bucket),
        }
    }
}
