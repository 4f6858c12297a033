//! An S3-compatible store, by `object_store`: code that nodes have for each other (`codes`), and
//! objects that workflows read and write (`workflows::objects`, which decides which).
//!
//! Requests are signed with the node's own keys, or not at all without them: nothing asks a cloud's
//! metadata service. Everything has an end: each request by its answer (`connector`), an object by
//! its pauses, everything together by `object_store.timeout`. What failed is asked for again a few
//! times by the library if that can help, but never what hung.

pub(crate) mod codes;
mod connector;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::list::{PaginatedListOptions, PaginatedListStore as _};
use object_store::path::Path;
use object_store::{BackoffConfig, GetOptions, ObjectMeta, ObjectStore as _, ObjectStoreExt as _};
use object_store::{MultipartUpload, RetryConfig};
use tokio::time::timeout;

use self::codes::Codes;
use self::connector::Connector;
use crate::config::{self, Config};
use crate::federation::TlsError;

/// How long an object may pause while it is read.
const STALL_TIME_MAX: Duration = Duration::from_secs(10);

/// How often what failed is asked for again, and for how long.
const RETRIES_MAX: usize = 3;
const RETRY_TIME_MAX: Duration = Duration::from_secs(10);

/// Pauses before that: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Keys that are asked for at once.
const PAGE: usize = 1000;

/// What is written at once; more is written in parts of this.
const PART: usize = 8 << 20;

/// How much of what the store says about a failure is told, characters.
const SAID_MAX: usize = 300;

/// Why something could not be done with an object.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The settings don't fit together.
    #[error("the object store can't be used as configured")]
    Settings(#[source] object_store::Error),
    /// Its certificates can't be read.
    #[error("TLS to the object store can't be used as configured")]
    Tls(#[from] TlsError),
    /// No object is called that.
    #[error(
        "{0:?} is no key that can be used: parts between slashes are neither empty, '.' nor '..'"
    )]
    Key(String),
    /// It isn't there.
    #[error("there is no {0}")]
    Missing(String),
    /// The store doesn't believe this node, or doesn't let it.
    #[error("the object store refuses this node {0}")]
    Refused(String),
    /// More than may be read.
    #[error("{place} has more than {bytes_max} bytes")]
    TooLarge {
        /// The object.
        place: String,
        /// How many would be read.
        bytes_max: usize,
    },
    /// More than may be listed.
    #[error("more than {objects_max} objects begin with {place}")]
    TooMany {
        /// What they begin with.
        place: String,
        /// How many would be listed.
        objects_max: usize,
    },
    /// Nothing came for a while.
    #[error("nothing came from {0} for {STALL_TIME_MAX:?}")]
    Stalled(String),
    /// It took too long in all.
    #[error("{place} took more than {time_max:?} (object_store.timeout)")]
    Late {
        /// What was read or written.
        place: String,
        /// How long it might take.
        time_max: Duration,
    },
    /// Anything else.
    #[error("{place}: {said}")]
    Failed {
        /// What was read or written.
        place: String,
        /// What the library or the store said of it, not all if that is long.
        said: String,
    },
}

/// The store. Buckets are known by their names.
pub(crate) struct Objects {
    settings: config::ObjectStore,
    connector: Connector,
    /// Made when first needed; as many as the configuration names.
    buckets: Mutex<BTreeMap<String, AmazonS3>>,
    /// Where code is, if it is to be in the store.
    pub(crate) codes: Option<Codes>,
}

/// What begins what.
fn place(bucket: &str, key: &str) -> String {
    format!("s3://{bucket}/{key}")
}

impl Objects {
    /// `None` if the configuration names no bucket. Connects to nothing yet.
    pub(crate) fn new(config: &Config) -> Result<Option<Self>, ObjectError> {
        let settings = config.object_store.clone();
        if !config.uses_object_store() {
            return Ok(None);
        }
        let objects = Self {
            connector: Connector::new(&settings)?,
            buckets: Mutex::default(),
            codes: settings.url.clone().map(Codes::new),
            settings,
        };
        // What is wrong with the settings is wrong with all buckets.
        let named = objects
            .settings
            .url
            .iter()
            .chain(&config.workflow.s3_buckets);
        for location in named {
            objects.bucket(&location.bucket)?;
        }
        Ok(Some(objects))
    }

    /// The object, which has at most so many bytes, in the version that is asked for.
    pub(crate) async fn get(
        &self,
        (bucket, key): (&str, &str),
        version: Option<&str>,
        bytes_max: usize,
    ) -> Result<Bytes, ObjectError> {
        let place = place(bucket, key);
        let (store, path) = (self.bucket(bucket)?, path(key)?);
        let options = GetOptions {
            version: version.map(str::to_owned),
            ..GetOptions::default()
        };
        let too_large = || ObjectError::TooLarge {
            place: place.clone(),
            bytes_max,
        };
        let read = async {
            let found = store.get_opts(&path, options).await;
            let found = found.map_err(|error| failed(error, &place))?;
            if found.meta.size > bytes_max as u64 {
                return Err(too_large());
            }
            let mut content = Vec::new();
            let mut stream = found.into_stream();
            loop {
                let next = timeout(STALL_TIME_MAX, stream.next()).await;
                let next = next.map_err(|_| ObjectError::Stalled(place.clone()))?;
                let Some(chunk) = next.transpose().map_err(|error| failed(error, &place))? else {
                    return Ok(content.into());
                };
                // Whatever was announced.
                if content.len() + chunk.len() > bytes_max {
                    return Err(too_large());
                }
                content.extend_from_slice(&chunk);
            }
        };
        self.in_time(&place, read).await
    }

    /// Whether the object is there.
    pub(crate) async fn has(&self, bucket: &str, key: &str) -> Result<bool, ObjectError> {
        let place = place(bucket, key);
        let (store, path) = (self.bucket(bucket)?, path(key)?);
        let asked = async {
            match store
                .head(&path)
                .await
                .map_err(|error| failed(error, &place))
            {
                Ok(_) => Ok(true),
                Err(ObjectError::Missing(_)) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.in_time(&place, asked).await
    }

    /// Writes the object, whole or not at all. What is large goes in parts, each within
    /// `object_store.timeout`; parts of what failed are removed, if the store can be reached.
    pub(crate) async fn put(
        &self,
        bucket: &str,
        key: &str,
        content: Bytes,
    ) -> Result<(), ObjectError> {
        let place = place(bucket, key);
        let (store, path) = (self.bucket(bucket)?, path(key)?);
        let failed = |error| failed(error, &place);
        if content.len() <= PART {
            let put = async { store.put(&path, content.into()).await.map_err(failed) };
            return self.in_time(&place, put).await.map(drop);
        }
        let begun = async { store.put_multipart(&path).await.map_err(failed) };
        let mut upload = self.in_time(&place, begun).await?;
        let put = self.put_parts(&mut *upload, content, &place).await;
        if put.is_err() {
            let abort = async { upload.abort().await.map_err(failed) };
            let _ = self.in_time(&place, abort).await;
        }
        put
    }

    async fn put_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        mut rest: Bytes,
        place: &str,
    ) -> Result<(), ObjectError> {
        while !rest.is_empty() {
            let part = rest.split_to(PART.min(rest.len()));
            let sent = upload.put_part(part.into());
            let sent = async { sent.await.map_err(|error| failed(error, place)) };
            self.in_time(place, sent).await?;
        }
        let done = async {
            upload
                .complete()
                .await
                .map_err(|error| failed(error, place))
        };
        self.in_time(place, done).await.map(drop)
    }

    /// The objects whose keys begin with `prefix`, `objects_max` of them at most.
    pub(crate) async fn list(
        &self,
        (bucket, prefix): (&str, &str),
        objects_max: usize,
        more: More,
    ) -> Result<Vec<ObjectMeta>, ObjectError> {
        let place = place(bucket, prefix);
        let store = self.bucket(bucket)?;
        let listed = async {
            let mut objects = Vec::new();
            let mut page_token = None;
            loop {
                let options = PaginatedListOptions {
                    max_keys: Some(PAGE),
                    page_token: page_token.take(),
                    ..PaginatedListOptions::default()
                };
                let prefix = Some(prefix).filter(|prefix| !prefix.is_empty());
                let page = store.list_paginated(prefix, options).await;
                let page = page.map_err(|error| failed(error, &place))?;
                objects.extend(page.result.objects);
                page_token = page.page_token;
                if objects.len() > objects_max && more == More::Fails {
                    let place = place.clone();
                    return Err(ObjectError::TooMany { place, objects_max });
                }
                if objects.len() >= objects_max || page_token.is_none() {
                    objects.truncate(objects_max);
                    return Ok(objects);
                }
            }
        };
        self.in_time(&place, listed).await
    }

    async fn in_time<T>(
        &self,
        place: &str,
        operation: impl Future<Output = Result<T, ObjectError>>,
    ) -> Result<T, ObjectError> {
        let time_max = self.settings.timeout;
        timeout(time_max, operation).await.unwrap_or_else(|_| {
            Err(ObjectError::Late {
                place: place.to_owned(),
                time_max,
            })
        })
    }

    fn bucket(&self, name: &str) -> Result<AmazonS3, ObjectError> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get(name) {
            return Ok(bucket.clone());
        }
        let built = self.build(name).map_err(ObjectError::Settings)?;
        buckets.insert(name.to_owned(), built.clone());
        Ok(built)
    }

    fn build(&self, bucket: &str) -> object_store::Result<AmazonS3> {
        let settings = &self.settings;
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(&settings.region)
            .with_virtual_hosted_style_request(!settings.path_style)
            .with_allow_http(settings.allow_http)
            .with_http_connector(self.connector.clone())
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: BACKOFF.0,
                    max_backoff: BACKOFF.1,
                    ..BackoffConfig::default()
                },
                max_retries: RETRIES_MAX,
                retry_timeout: RETRY_TIME_MAX,
            });
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(match settings.path_style {
                true => endpoint.clone(),
                false => endpoint.replacen("://", &format!("://{bucket}."), 1),
            });
        }
        let keys = settings
            .access_key
            .as_ref()
            .zip(settings.secret_key.as_ref());
        let builder = match (keys, &settings.session_token) {
            (None, _) => builder.with_skip_signature(true),
            (Some((access, secret)), token) => {
                let builder = builder
                    .with_access_key_id(access)
                    .with_secret_access_key(&secret.0);
                match token {
                    Some(token) => builder.with_token(&token.0),
                    None => builder,
                }
            }
        };
        builder.build()
    }
}

/// What is done about more objects than may be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum More {
    /// They are left out.
    LeftOut,
    /// Listing fails.
    Fails,
}

fn path(key: &str) -> Result<Path, ObjectError> {
    let path = Path::parse(key).map_err(|_| ObjectError::Key(key.to_owned()))?;
    // The library takes slashes off both ends, which would be another object.
    match path.as_ref() == key && !key.is_empty() {
        true => Ok(path),
        false => Err(ObjectError::Key(key.to_owned())),
    }
}

fn failed(error: object_store::Error, place: &str) -> ObjectError {
    let place = place.to_owned();
    match error {
        object_store::Error::NotFound { .. } => ObjectError::Missing(place),
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => ObjectError::Refused(place),
        error => {
            let mut said = crate::chain(&error);
            if let Some((end, _)) = said.char_indices().nth(SAID_MAX) {
                said.truncate(end);
                said.push('…');
            }
            ObjectError::Failed { place, said }
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::Method;
    use object_store::signer::Signer as _;

    use super::*;
    use crate::config::{Hidden, Location};

    /// Where the object `a b/c` of the bucket `data` is asked for.
    async fn url(change: impl FnOnce(&mut config::ObjectStore)) -> String {
        let mut config = Config::default();
        config.object_store = config::ObjectStore {
            url: Some(Location {
                bucket: "data".into(),
                prefix: String::new(),
            }),
            endpoint: Some("https://s3.example:9000".into()),
            access_key: Some("me".into()),
            secret_key: Some(Hidden("hush".into())),
            ..config::ObjectStore::default()
        };
        change(&mut config.object_store);
        let objects = Objects::new(&config).unwrap().unwrap();
        let (bucket, path) = (objects.bucket("data").unwrap(), path("a b/c").unwrap());
        let url = bucket.signed_url(Method::GET, &path, STALL_TIME_MAX);
        let url = url.await.unwrap();
        url.as_str().split('?').next().unwrap().to_owned()
    }

    #[tokio::test]
    async fn buckets_are_in_paths_or_in_names() {
        let in_path = url(|_| {}).await;
        assert_eq!(in_path, "https://s3.example:9000/data/a%20b/c");
        let in_name = url(|store| store.path_style = false).await;
        assert_eq!(in_name, "https://data.s3.example:9000/a%20b/c");
        let aws = url(|store| {
            store.endpoint = None;
            store.region = "eu-south-1".into();
        });
        let expected = ["https://", "s3.eu-south-1.amazonaws.com/data/a%20b/c"].concat();
        assert_eq!(aws.await, expected);
    }

    #[test]
    fn keys_are_taken_as_they_are_or_not_at_all() {
        for key in ["a", "a b/ü", "a/.b", "100%/x", "a:b"] {
            assert_eq!(path(key).unwrap().as_ref(), key);
        }
        for key in ["", "/", "/a", "a/", "a//b", "a/../b", "./a", "a\n"] {
            assert!(matches!(path(key), Err(ObjectError::Key(_))), "{key:?}");
        }
    }

    #[test]
    fn what_a_store_says_is_cut_short() {
        let error = object_store::Error::Generic {
            store: "S3",
            source: "ü".repeat(10_000).into(),
        };
        let said = failed(error, "s3://data/a").to_string();
        assert!(said.starts_with("s3://data/a: Generic S3"), "{said}");
        assert!(said.ends_with("ü…") && said.chars().count() < SAID_MAX + 20);
    }
}
