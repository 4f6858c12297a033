//! How far an execution is, in etcd, as the original keeps it: `/progress/<id>`, and the output of
//! each task that another may need, `/data/<id>/<task>`.
//!
//! Beyond the original, progress says how often it was taken up (`Epoch`) and is only replaced by
//! who has seen it last: of two nodes that would go on with one execution, one finds that it comes
//! too late, before it runs another task. What nobody ends goes with its lease.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::HandoverError;
use crate::federation::etcd::{Etcd, VALUE_MAX, Values};

/// How long what nobody ends is kept. The original keeps it for ever.
const RETENTION: Duration = Duration::from_secs(24 * 3600);

/// Longest id of an execution, bytes.
const ID_MAX: usize = 1024;

/// How a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Status {
    /// It has not run.
    Pending,
    /// It has.
    Executed,
    /// It won't: another alternative was chosen.
    Skipped,
    /// It has, and failed.
    Failed,
}

/// How far an execution is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The execution's id.
    #[serde(rename = "ReqId")]
    pub(crate) req_id: String,
    /// By task.
    #[serde(rename = "Status")]
    pub(crate) status: BTreeMap<String, Status>,
    /// Tasks that come next.
    #[serde(rename = "ReadyToExecute")]
    pub(crate) ready: Vec<String>,
    /// How often it was taken up; the original's nodes don't say.
    #[serde(rename = "Epoch", default, skip_serializing_if = "Option::is_none")]
    pub(crate) epoch: Option<u64>,
}

/// Output of a task.
#[derive(Debug, Serialize, Deserialize)]
struct Data {
    #[serde(rename = "Data")]
    data: Value,
}

/// Whether an execution of this id can be kept: ids are parts of keys.
pub(crate) fn is_id(id: &str) -> bool {
    let is_good = |c: char| !c.is_control() && c != '/';
    !id.is_empty() && id.len() <= ID_MAX && id.chars().all(is_good)
}

fn progress_key(id: &str) -> String {
    format!("/progress/{id}")
}

fn data_key(id: &str, task: &str) -> String {
    format!("/data/{id}/{task}")
}

/// An execution in etcd, as this node has seen it last.
pub(crate) struct Kept<'a> {
    etcd: &'a Etcd,
    id: String,
    /// Of its progress; 0 if there is none.
    revision: u64,
    lease: Option<u64>,
}

impl<'a> Kept<'a> {
    /// One that is not there yet.
    pub(crate) fn new(etcd: &'a Etcd, id: &str) -> Self {
        Self {
            etcd,
            id: id.to_owned(),
            revision: 0,
            lease: None,
        }
    }

    /// Reads the progress.
    pub(crate) async fn load(&mut self) -> Result<Progress, HandoverError> {
        let entry = self.etcd.get(&progress_key(&self.id)).await?;
        let entry = entry.ok_or_else(|| HandoverError::Unknown(self.id.clone()))?;
        self.revision = entry.revision;
        let progress: Progress = serde_json::from_slice(&entry.value)
            .map_err(|error| HandoverError::Unreadable(error.to_string()))?;
        Ok(progress)
    }

    /// Makes the execution this node's, if nobody else has done so since it was read. With this,
    /// whoever had it before comes too late.
    pub(crate) async fn claim(&mut self, progress: &mut Progress) -> Result<(), HandoverError> {
        progress.epoch = Some(progress.epoch.unwrap_or(0).saturating_add(1));
        self.save(progress, &[]).await
    }

    /// Whether the execution is still this node's, or as it was read.
    pub(crate) async fn check(&self) -> Result<(), HandoverError> {
        let entry = self.etcd.get(&progress_key(&self.id)).await?;
        match entry {
            Some(entry) if entry.revision == self.revision => Ok(()),
            _ => Err(HandoverError::Superseded(self.id.clone())),
        }
    }

    /// Writes outputs, then the progress.
    pub(crate) async fn save(
        &mut self,
        progress: &Progress,
        outputs: &[(&str, &Value)],
    ) -> Result<(), HandoverError> {
        let lease = match self.lease {
            Some(lease) => lease,
            None => *self.lease.insert(self.etcd.grant(RETENTION).await?),
        };
        for (task, data) in outputs {
            let data = Data {
                data: Value::clone(data),
            };
            let value = bounded(serverledge_api::encode(&data))?;
            let key = data_key(&self.id, task);
            self.etcd.put(&key, &value, Some(lease)).await?;
        }
        let value = bounded(serverledge_api::encode(progress))?;
        let key = progress_key(&self.id);
        let replaced = self
            .etcd
            .replace(&key, &value, Some(lease), self.revision)
            .await?;
        self.revision = replaced.ok_or_else(|| HandoverError::Superseded(self.id.clone()))?;
        Ok(())
    }

    /// The output of a task.
    pub(crate) async fn output(&self, task: &str) -> Result<Value, HandoverError> {
        let entry = self.etcd.get(&data_key(&self.id, task)).await?;
        let unreadable = |what: &str| HandoverError::Unreadable(format!("task '{task}': {what}"));
        let entry = entry.ok_or_else(|| unreadable("its output isn't stored"))?;
        let data = serde_json::from_slice::<Data>(&entry.value);
        let data = data.map_err(|error| unreadable(&error.to_string()))?;
        Ok(data.data)
    }

    /// Removes the progress, if it is this node's: the execution has ended, and nobody else can go
    /// on with it. Nothing if it was never stored.
    pub(crate) async fn end(&mut self) -> Result<(), HandoverError> {
        if self.revision == 0 {
            return Ok(());
        }
        let key = progress_key(&self.id);
        match self.etcd.delete_at(&key, self.revision).await? {
            true => Ok(()),
            false => Err(HandoverError::Superseded(self.id.clone())),
        }
    }

    /// Removes what else is stored, after the end.
    pub(crate) async fn clean(&mut self) -> Result<(), HandoverError> {
        if self.revision == 0 {
            return Ok(());
        }
        let (outputs, _) = self
            .etcd
            .list(&data_key(&self.id, ""), Values::Left)
            .await?;
        for output in outputs {
            self.etcd.delete(&output.key).await?;
        }
        if let Some(lease) = self.lease.take() {
            self.etcd.revoke(lease).await?;
        }
        self.revision = 0;
        Ok(())
    }
}

fn bounded(value: Vec<u8>) -> Result<Vec<u8>, HandoverError> {
    match value.len() <= VALUE_MAX {
        true => Ok(value),
        false => Err(HandoverError::TooLarge(value.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the Go original stored when it handed a workflow over.
    const RECORDED: &str = include_str!("../../../tests/it/data/node-to-node.jsonl");

    fn recorded(part: &str) -> String {
        let lines = RECORDED.lines();
        let mut entries = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        let entry = entries
            .find(|entry| entry.get("etcd_after").is_some())
            .unwrap();
        let text = entry["etcd_after"][part].as_str().unwrap();
        text.split('\n').nth(1).unwrap().to_owned()
    }

    #[test]
    fn progress_is_the_originals_and_says_more_only_if_there_is_more_to_say() {
        let text = recorded("progress");
        let mut progress: Progress = serde_json::from_str(&text).unwrap();
        assert_eq!(progress.ready, ["A"]);
        assert_eq!(progress.status["B"], Status::Pending);
        let written =
            |progress: &Progress| String::from_utf8(serverledge_api::encode(progress)).unwrap();
        assert_eq!(written(&progress), text);
        progress.epoch = Some(2);
        assert!(written(&progress).ends_with(",\"Epoch\":2}"));
    }

    #[test]
    fn outputs_are_the_originals() {
        let text = recorded("data");
        let data: Data = serde_json::from_str(&text).unwrap();
        assert_eq!(data.data, serde_json::json!({"n": 1}));
        assert_eq!(
            String::from_utf8(serverledge_api::encode(&data)).unwrap(),
            text
        );
    }

    #[test]
    fn ids_that_would_reach_into_others_are_none() {
        for id in ["wf-ode-a326115773", "w f-ä1"] {
            assert!(is_id(id), "{id}");
        }
        for id in ["", "a/b", "a\nb", &"x".repeat(1025)] {
            assert!(!is_id(id), "{id}");
        }
    }
}
