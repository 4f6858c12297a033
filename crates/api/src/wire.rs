//! The original's JSON objects. Names, order and casing are frozen by its clients.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Declares a wire type that decodes as the original's language decodes: see `decode.rs`.
macro_rules! wire {
    ($(#[$meta:meta])* pub struct $name:ident {
        $($(#[doc = $doc:literal])+ $(#[serde($($attr:tt)*)])? $key:literal $field:ident : $type:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, Serialize)]
        pub struct $name {
            $($(#[doc = $doc])+ #[serde(rename = $key)] $(#[serde($($attr)*)])? pub $field: $type,)*
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;
                impl<'de> Visitor<'de> for Fields {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<$name, M::Error> {
                        let mut value = $name::default();
                        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                            match () {
                                $(() if key.eq_ignore_ascii_case($key) => {
                                    let field = map.next_value::<Option<$type>>();
                                    let field = field.map_err(|error| in_field($key, error))?;
                                    if let Some(field) = field {
                                        value.$field = field;
                                    }
                                })*
                                () => {
                                    map.next_value::<IgnoredAny>()?;
                                }
                            }
                        }
                        Ok(value)
                    }
                }
                deserializer.deserialize_map(Fields)
            }
        }
    };
}

pub(crate) fn in_field<E: serde::de::Error>(field: &str, error: E) -> E {
    E::custom(format_args!("field `{field}`: {error}"))
}

wire! {
    /// A function, as registered.
    pub struct FunctionSpec {
        /// Unique name.
        "Name" name: String,
        /// Name of a runtime, such as `python314`.
        "Runtime" runtime: String,
        /// Memory of a sandbox, MiB.
        "MemoryMB" memory_mb: i64,
        /// Cores; 0 = no limit.
        "CPUDemand" cpu_demand: f64,
        /// Calls that one sandbox serves at once.
        "MaxConcurrency" max_concurrency: i16,
        /// In the runtime's notation, such as `module.function`.
        "Handler" handler: String,
        /// Base64 of a tar, tar.gz or zip, or of the URL of one.
        "TarFunctionCode" code: String,
        /// SHA-256 of code that nodes get from each other, in hexadecimal digits. Not in the original.
        #[serde(skip_serializing_if = "String::is_empty")]
        "CodeDigest" code_digest: String,
        /// The node that had that code first. Not in the original.
        #[serde(skip_serializing_if = "String::is_empty")]
        "CodeHolder" code_holder: String,
        /// Image of a `custom` function.
        "CustomImage" custom_image: String,
        /// Architectures; filled in by the node.
        "SupportedArchs" supported_archs: Option<Vec<String>>,
        /// Declared inputs and outputs.
        "Signature" signature: Option<Signature>,
        /// Time limit of a call, seconds. Not in the original.
        #[serde(skip_serializing_if = "Option::is_none")]
        "TimeoutSeconds" timeout_seconds: Option<f64>,
        /// Python modules that sandboxes import before they get the function. Not in the original.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        "Preload" preload: Vec<String>,
        /// Whom it may talk to; the node's default if absent. Not in the original.
        #[serde(skip_serializing_if = "Option::is_none")]
        "Network" network: Option<Network>,
    }
}

/// `"none"`, `"egress"`, or rules such as `["10.0.0.0/8", "10.1.2.3:443", "dns"]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"none\", \"egress\" or a list of rules"
)]
pub enum Network {
    /// One word.
    Word(String),
    /// Rules.
    Rules(Vec<String>),
}

impl Network {
    /// The words, one or many.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        let words = match self {
            Self::Word(word) => std::slice::from_ref(word),
            Self::Rules(rules) => rules,
        };
        words.iter().map(String::as_str)
    }
}

wire! {
    /// Inputs and outputs of a function.
    #[derive(PartialEq, Eq)]
    pub struct Signature {
        /// Parameters.
        "Inputs" inputs: Vec<Field>,
        /// Results.
        "Outputs" outputs: Vec<Field>,
    }
}

wire! {
    /// A named value of a [`Signature`].
    #[derive(PartialEq, Eq)]
    pub struct Field {
        /// Its name.
        "Name" name: String,
        /// Its type, such as `Int`.
        "Type" kind: String,
    }
}

wire! {
    /// A call of a function.
    pub struct InvokeRequest {
        /// An object, as raw text; `None` = null.
        "Params" params: Option<Params>,
        /// Quality-of-service class.
        "QoSClass" qos_class: QosClass,
        /// Wanted response time, seconds.
        "QoSMaxRespT" qos_max_response_time: f64,
        /// Whether another node may run it.
        "CanDoOffloading" can_do_offloading: bool,
        /// Whether the caller polls for the result later.
        "Async" is_async: bool,
        /// Whether the caller wants what the function prints.
        "ReturnOutput" return_output: bool,
    }
}

/// A quality-of-service class: a number, or (in an older version of the original, and here) a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number or a name")]
pub enum QosClass {
    /// 0 for calls that name none.
    Number(i64),
    /// Empty for calls that name none.
    Name(String),
}

impl Default for QosClass {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl fmt::Display for QosClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Parameters of a call: JSON text of an object, checked but not parsed.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Params(Box<RawValue>);

impl Params {
    /// Of an object, or null; `None` for anything else.
    pub fn from_value(value: &serde_json::Value) -> Option<Self> {
        let text = value.to_string();
        crate::decode::check_params(&text).ok()?;
        RawValue::from_string(text).ok().map(Self)
    }

    /// The text.
    pub fn get(&self) -> &str {
        self.0.get()
    }

    /// Of an object.
    pub fn object(object: &serde_json::Map<String, serde_json::Value>) -> Self {
        // An object of values can always be written.
        let raw = serde_json::value::to_raw_value(object);
        Self(raw.unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Params {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        crate::decode::check_params(raw.get()).map_err(D::Error::custom)?;
        Ok(Self(raw))
    }
}

/// Reply to a synchronous call, and result of an asynchronous one.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct InvokeReply {
    /// Whether the function returned.
    pub success: bool,
    /// JSON text of what it returned.
    pub result: String,
    /// From arrival to reply, seconds.
    pub response_time: f64,
    /// Whether the sandbox had served before.
    pub is_warm_start: bool,
    /// From arrival to the start of the function, seconds.
    pub init_time: f64,
    /// Part of it spent in a queue, seconds.
    pub queueing_time: f64,
    /// Cost of the way to another node, seconds.
    pub offload_latency: f64,
    /// Run time, seconds.
    pub duration: f64,
    /// What the function printed.
    pub output: String,
    /// Area of the node that ran it.
    pub execution_area: String,
    /// Node that ran it.
    pub execution_node: String,
}

/// Reply to an accepted asynchronous call.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AsyncReply {
    /// What to poll for.
    #[serde(rename = "ReqId")]
    pub req_id: String,
}

wire! {
    /// A wish for warm sandboxes.
    pub struct PrewarmRequest {
        /// The function's name.
        "Function" function: String,
        /// How many.
        "Instances" instances: i64,
        /// Whether to fetch the image again.
        "ForceImagePull" force_image_pull: bool,
    }
}

/// Reply to a [`PrewarmRequest`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PrewarmReply {
    /// How many were started.
    #[serde(rename = "Prewarmed")]
    pub prewarmed: i64,
}

/// What a node has and uses. Memory in MiB, CPU in cores.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StatusReply {
    /// Idle sandboxes of each function.
    #[serde(rename = "AvailableWarmContainers", deserialize_with = "none_as_empty")]
    pub available_warm_containers: BTreeMap<String, i64>,
    /// The pool.
    #[serde(rename = "TotalMemory")]
    pub total_memory: i64,
    /// The pool less what runs.
    #[serde(rename = "AvailableMemory")]
    pub available_memory: i64,
    /// The pool less what runs and what is warm.
    #[serde(rename = "FreeMemory")]
    pub free_memory: i64,
    /// Cores of the pool.
    #[serde(rename = "TotalCPU")]
    pub total_cpu: f64,
    /// Cores in use.
    #[serde(rename = "UsedCPU")]
    pub used_cpu: f64,
    /// Network coordinates.
    #[serde(rename = "Coordinates")]
    pub coordinates: Coordinates,
    /// Load of the machine over 1, 5 and 15 minutes.
    #[serde(rename = "LoadAvg")]
    pub load_avg: Option<[f64; 3]>,
    /// Unix seconds.
    #[serde(rename = "LastUpdateTime")]
    pub last_update_time: i64,
}

/// Vivaldi coordinates, in seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Coordinates {
    /// Position.
    pub vec: [f64; 3],
    /// Confidence, smaller is better.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub error: f64,
    /// Correction learned from round trips.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub adjustment: f64,
    /// Cost of the node's own link.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub height: f64,
}

impl Default for Coordinates {
    /// Those of a node that knows nothing yet.
    fn default() -> Self {
        Self {
            vec: [0.0; 3],
            error: 1.5,
            adjustment: 0.0,
            height: 1e-5,
        }
    }
}

/// The original's language writes a map that was never made as `null`.
fn none_as_empty<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, i64>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// An error reply: RFC 9457, with what helps here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind of problem, in two or three words.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What was wrong, and where.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The call it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Stack of the function's error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// Everything that is wrong with a definition: pointer, line, column, message, suggestion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnostics: Option<serde_json::Value>,
}

/// For people: what and why, the stack if there is one, what to do.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.title, self.detail)?;
        if let Some(stack) = &self.stack {
            write!(f, "\n{}", stack.trim_end())?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl Problem {
    /// With neither hint nor stack.
    pub fn new(status: u16, title: &str, detail: String) -> Self {
        Self {
            title: title.into(),
            status,
            detail,
            ..Self::default()
        }
    }
}
