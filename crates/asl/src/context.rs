//! The context object: `$$`, and `$states.context`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::template::Data;
use crate::timestamp;

/// What an execution knows of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct About {
    /// Id of the execution; an ARN in AWS.
    pub id: String,
    /// Name of the execution.
    pub name: String,
    /// Role it runs as.
    pub role: String,
    /// Id of the machine.
    pub machine_id: String,
    /// Name of the machine.
    pub machine_name: String,
    /// How often it was started again after a failure.
    pub redrives: u32,
}

impl Default for About {
    fn default() -> Self {
        let account = "arn:aws:states:us-east-1:123456789012";
        Self {
            id: format!("{account}:execution:machine:execution"),
            name: "execution".to_owned(),
            role: "arn:aws:iam::123456789012:role/role".to_owned(),
            machine_id: format!("{account}:stateMachine:machine"),
            machine_name: "machine".to_owned(),
            redrives: 0,
        }
    }
}

/// The item that an iteration works on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) index: usize,
    pub(crate) value: Data,
    /// Its key, where the items are an object.
    pub(crate) key: Option<String>,
    /// `STATE_DATA`, or where the items were read from.
    pub(crate) source: String,
}

/// What the context object is made of.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) about: &'a About,
    pub(crate) input: &'a Value,
    pub(crate) started: i64,
    pub(crate) state: &'a str,
    pub(crate) entered: i64,
    pub(crate) retries: u32,
    pub(crate) token: Option<&'a str>,
    pub(crate) item: Option<&'a Item>,
}

impl Context<'_> {
    const SECTIONS: [&'static str; 5] = ["Execution", "State", "StateMachine", "Task", "Map"];

    /// All sections that there are here.
    pub(crate) fn whole(&self) -> Value {
        let sections = Self::SECTIONS.iter();
        let present = sections.filter_map(|name| Some(((*name).to_owned(), self.section(name)?)));
        Value::Object(present.collect())
    }

    pub(crate) fn section(&self, name: &str) -> Option<Value> {
        match name {
            "Execution" => Some(json!({
                "Id": self.about.id,
                "Input": self.input,
                "Name": self.about.name,
                "RoleArn": self.about.role,
                "StartTime": timestamp::text(self.started),
                "RedriveCount": self.about.redrives,
            })),
            "State" => Some(json!({
                "Name": self.state,
                "EnteredTime": timestamp::text(self.entered),
                "RetryCount": self.retries,
            })),
            "StateMachine" => Some(json!({
                "Id": self.about.machine_id,
                "Name": self.about.machine_name,
            })),
            "Task" => Some(json!({"Token": self.token?})),
            "Map" => {
                let item = self.item?;
                let mut map = Map::new();
                map.insert("Index".to_owned(), item.index.into());
                if let Some(key) = &item.key {
                    map.insert("Key".to_owned(), key.as_str().into());
                }
                map.insert("Value".to_owned(), Value::clone(&item.value));
                map.insert("Source".to_owned(), item.source.as_str().into());
                Some(json!({"Item": map}))
            }
            _ => None,
        }
    }
}
