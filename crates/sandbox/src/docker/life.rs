//! The life of one container, in a task of its own: whoever asked for it may lose interest at any
//! moment, and what was begun with the engine must still be finished and removed.

use std::sync::Arc;
use std::time::Duration;

use bollard::models::{ContainerCreateBody, ContainerState};
use futures_util::StreamExt;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::engine::{Engine, EngineError, Output};
use crate::body::Body;
use crate::{CreateError, Exit};

/// How long removing a container is tried. What is left then is reaped at the node's next start.
const REMOVE_FOR: Duration = Duration::from_secs(40);
/// Pause before the engine is asked once more.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the last output is waited for after a container is gone: the engine sends it, and its
/// end, on its own time.
const LAST_OUTPUT: Duration = Duration::from_secs(2);
/// What a shell says of a process that a signal has ended is this and the signal; the engine too.
const SIGNALLED: i64 = 128;
const SIGNAL_MAX: i64 = 64;

/// What a container's task needs.
pub(super) struct Life {
    pub(super) engine: Engine,
    pub(super) name: String,
    pub(super) body: Arc<Body>,
    /// Where its output goes.
    pub(super) log: DuplexStream,
}

impl Life {
    /// Makes the container, waits for its end and removes it. `started` is told how the start
    /// went.
    pub(super) async fn live(
        self,
        order: ContainerCreateBody,
        started: oneshot::Sender<Result<(), CreateError>>,
    ) -> Option<Exit> {
        let begun = self.begin(order).await;
        let Life {
            engine,
            name,
            body,
            log,
        } = self;
        let mut copying = None;
        let mut exit = None;
        // If nobody waits for the start any more, the body has been killed.
        match begun {
            Err(error) => drop(started.send(Err(error))),
            Ok(output) => {
                copying = Some(tokio::spawn(copy(output, log)));
                let _ = started.send(Ok(()));
                exit = tokio::select! {
                    biased;
                    () = body.killed() => None,
                    exit = end(&engine, &name, &body) => exit,
                };
            }
        }
        remove(&engine, &name).await;
        if let Some(mut copying) = copying
            && tokio::time::timeout(LAST_OUTPUT, &mut copying)
                .await
                .is_err()
        {
            copying.abort();
        }
        exit
    }

    async fn begin(&self, order: ContainerCreateBody) -> Result<Output, CreateError> {
        let (engine, name) = (&self.engine, &self.name);
        let image = order.image.clone().unwrap_or_default();
        engine.create(name, order).await?;
        let output = engine.attach(name).await?;
        let starting = engine.start(name).await;
        starting.map_err(|error| not_started(error, image))?;
        Ok(output)
    }
}

/// Tells an image without the program from an engine in trouble.
fn not_started(error: EngineError, image: String) -> CreateError {
    let EngineError::Failed {
        status: Some(_),
        source,
        ..
    } = &error
    else {
        return error.into();
    };
    let words = source.to_string();
    let missing = ["executable file not found", "no such file or directory"];
    if missing.iter().any(|missing| words.contains(missing)) {
        let problem = format!("lacks the program to be run in it: {words}");
        return CreateError::Image { image, problem };
    }
    error.into()
}

async fn copy(mut output: Output, mut log: DuplexStream) {
    while let Some(Ok(printed)) = output.next().await {
        // The reader takes its time with what is endless, and so the function has to.
        if log.write_all(&printed.into_bytes()).await.is_err() {
            return;
        }
    }
}

/// Waits for the end of a container that runs. An engine that is away for a while is no end.
async fn end(engine: &Engine, name: &str, body: &Body) -> Option<Exit> {
    loop {
        engine.wait(name).await;
        match engine.look(name).await {
            Ok(Some(container)) => {
                let state = container.state.unwrap_or_default();
                if state.running != Some(true) {
                    return exit(&state, body.memory_mb());
                }
            }
            // Somebody else has removed it.
            Ok(None) => return None,
            Err(error) => tracing::warn!(%error, container = name, "a container is out of sight"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// How it ended. The engine doesn't tell a signal from an exit with 128 and more.
fn exit(state: &ContainerState, memory_mb: u64) -> Option<Exit> {
    let code = state.exit_code?;
    let signal = code - SIGNALLED;
    let killed = signal == i64::from(libc::SIGKILL);
    if killed && state.oom_killed == Some(true) {
        return Some(Exit::OutOfMemory { memory_mb });
    }
    match signal {
        1..=SIGNAL_MAX => Some(Exit::Signal(signal as i32)),
        _ => i32::try_from(code).ok().map(Exit::Code),
    }
}

async fn remove(engine: &Engine, name: &str) {
    let until = Instant::now() + REMOVE_FOR;
    loop {
        let Err(error) = engine.remove(name).await else {
            return;
        };
        if Instant::now() >= until {
            tracing::warn!(%error, container = name, "a container could not be removed");
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        let check = |code, oom, expected| {
            let state = ContainerState {
                exit_code: code,
                oom_killed: Some(oom),
                ..ContainerState::default()
            };
            assert_eq!(exit(&state, 64), expected);
        };
        check(Some(0), false, Some(Exit::Code(0)));
        check(Some(3), true, Some(Exit::Code(3)));
        check(Some(137), true, Some(Exit::OutOfMemory { memory_mb: 64 }));
        check(Some(137), false, Some(Exit::Signal(9)));
        check(Some(139), true, Some(Exit::Signal(11)));
        check(Some(255), false, Some(Exit::Code(255)));
        check(None, false, None);
    }
}
