//! Talking to the engine: a time limit on every call, and errors that say what to do.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerUpdateBody, ImageInspect, SystemInfo,
};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, WaitContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::{Stream, StreamExt};

use crate::CreateError;

/// How long the engine may take for one call.
const CALL_MAX: Duration = Duration::from_secs(30);
/// How long it may take to say who it is: that is no work.
const GREETING_MAX: Duration = Duration::from_secs(5);
/// The client's own limit, which must not end what has one of ours.
const CLIENT_MAX: Duration = Duration::from_secs(60);

/// What a container prints, as it comes.
pub(super) type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>;

/// Why the engine did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nobody answers, or nobody who could be understood.
    #[error(
        "no Docker engine answers at {}: is it installed and running, and may this user use it \
         (group docker)?",
        socket.display()
    )]
    Absent {
        /// Where it should be.
        socket: PathBuf,
        /// How that was found out.
        source: io::Error,
    },
    /// It took too long.
    #[error("the Docker engine has hung for {} s: {doing}", limit.as_secs())]
    Hangs {
        /// What it was asked for.
        doing: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// It did not do it.
    #[error("the Docker engine failed: {doing}")]
    Failed {
        /// What it was asked for.
        doing: &'static str,
        /// The status of its answer, if it gave one.
        status: Option<u16>,
        /// Its words, or what happened to the connection.
        source: io::Error,
    },
}

impl EngineError {
    fn failed(doing: &'static str, error: Error) -> Self {
        let (status, source) = match error {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => (Some(status_code), io::Error::other(message)),
            error => (None, io::Error::other(error)),
        };
        EngineError::Failed {
            doing,
            status,
            source,
        }
    }

    /// Whether the thing in question does not exist.
    pub(super) fn is_not_found(&self) -> bool {
        let EngineError::Failed { status, .. } = self else {
            return false;
        };
        *status == Some(404)
    }
}

impl From<EngineError> for CreateError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Failed { doing, source, .. } => {
                CreateError::io(format!("the Docker engine failed: {doing}"), source)
            }
            EngineError::Absent { .. } | EngineError::Hangs { .. } => {
                CreateError::io("asking the Docker engine", io::Error::other(error))
            }
        }
    }
}

/// A Docker engine.
#[derive(Clone)]
pub struct Engine {
    docker: Docker,
}

impl Engine {
    /// Finds the engine that listens on this socket and agrees with it on a version of the
    /// protocol.
    pub async fn connect(socket: &Path) -> Result<Engine, EngineError> {
        let absent = |error: Error| EngineError::Absent {
            socket: socket.to_owned(),
            source: io::Error::other(error),
        };
        let path = socket.to_string_lossy();
        let docker = Docker::connect_with_unix(&path, CLIENT_MAX.as_secs(), API_DEFAULT_VERSION)
            .map_err(absent)?;
        match tokio::time::timeout(GREETING_MAX, docker.negotiate_version()).await {
            Ok(docker) => Ok(Engine {
                docker: docker.map_err(absent)?,
            }),
            Err(_) => Err(EngineError::Hangs {
                doing: "asking for its version",
                limit: GREETING_MAX,
            }),
        }
    }

    /// The version of the protocol that was agreed on.
    pub fn api_version(&self) -> String {
        let version = self.docker.client_version();
        format!("{}.{}", version.major_version, version.minor_version)
    }

    pub(super) async fn info(&self) -> Result<SystemInfo, EngineError> {
        limited("asking what it can do", self.docker.info()).await
    }

    pub(super) async fn image(&self, image: &str) -> Result<ImageInspect, EngineError> {
        limited("looking at an image", self.docker.inspect_image(image)).await
    }

    pub(super) async fn create(
        &self,
        name: &str,
        body: ContainerCreateBody,
    ) -> Result<(), EngineError> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let creating = self.docker.create_container(Some(options), body);
        limited("creating a container", creating).await.map(drop)
    }

    pub(super) async fn attach(&self, name: &str) -> Result<Output, EngineError> {
        let options = AttachContainerOptionsBuilder::new()
            .stream(true)
            .stdout(true)
            .stderr(true)
            .build();
        let attaching = self.docker.attach_container(name, Some(options));
        let attached = limited("attaching to a container", attaching).await?;
        Ok(attached.output)
    }

    pub(super) async fn start(&self, name: &str) -> Result<(), EngineError> {
        limited(
            "starting a container",
            self.docker.start_container(name, None),
        )
        .await
    }

    /// Resolves when the container doesn't run any more, which may take for ever, or when it can't
    /// be told any more whether it does.
    pub(super) async fn wait(&self, name: &str) {
        let options = WaitContainerOptionsBuilder::new()
            .condition("not-running")
            .build();
        let mut ended = Box::pin(self.docker.wait_container(name, Some(options)));
        // Whatever comes, the caller looks for itself.
        let _ = ended.next().await;
    }

    /// `None` if there is no such container.
    pub(super) async fn look(
        &self,
        name: &str,
    ) -> Result<Option<ContainerInspectResponse>, EngineError> {
        let looking = self.docker.inspect_container(name, None);
        found(limited("looking at a container", looking).await)
    }

    pub(super) async fn update(
        &self,
        name: &str,
        body: ContainerUpdateBody,
    ) -> Result<(), EngineError> {
        let updating = self.docker.update_container(name, body);
        limited("setting a container's limits", updating).await
    }

    /// Kills and removes a container. One that isn't there is no error.
    pub(super) async fn remove(&self, name: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::new()
            .force(true)
            .v(true)
            .build();
        let removing = self.docker.remove_container(name, Some(options));
        found(limited("removing a container", removing).await).map(drop)
    }

    /// Ids of all containers with this label, also of those that don't run.
    pub(super) async fn containers(&self, label: &str) -> Result<Vec<String>, EngineError> {
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&HashMap::from([("label", vec![label])]))
            .build();
        let listing = self.docker.list_containers(Some(options));
        let containers = limited("listing containers", listing).await?;
        Ok(containers.into_iter().filter_map(|it| it.id).collect())
    }
}

async fn limited<T>(
    doing: &'static str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, EngineError> {
    match tokio::time::timeout(CALL_MAX, call).await {
        Ok(done) => done.map_err(|error| EngineError::failed(doing, error)),
        Err(_) => Err(EngineError::Hangs {
            doing,
            limit: CALL_MAX,
        }),
    }
}

fn found<T>(answer: Result<T, EngineError>) -> Result<Option<T>, EngineError> {
    match answer {
        Err(error) if error.is_not_found() => Ok(None),
        answer => answer.map(Some),
    }
}
