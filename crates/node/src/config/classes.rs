//! Classes of calls in a file of their own, `serverledge-classes.json`, as the original's branch for
//! them (`fgcs24`) reads it: a list of classes. Each becomes the settings `qos.class.<name>.*`, which
//! are checked as those of the configuration are; what that says of a class wins.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::value::Scalar;

/// What it is called where it is looked for.
const NAME: &str = "serverledge-classes.json";

/// Largest file, bytes.
const FILE_MAX: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Class {
    name: String,
    utility: Option<f64>,
    /// Seconds; negative: none.
    #[serde(rename = "maximumResponseTime")]
    maximum_response_time: Option<f64>,
    /// A fraction, 0 to 1.
    #[serde(rename = "completedPercentage")]
    completed_percentage: Option<f64>,
}

/// The first file there is.
pub(super) fn find(directories: &[PathBuf]) -> Option<PathBuf> {
    let paths = directories.iter().map(|directory| directory.join(NAME));
    paths.into_iter().find(|path| path.is_file())
}

/// The settings of a file, as the configuration would have them. An error is a text.
pub(super) fn read(path: &Path) -> Result<Vec<(String, Scalar)>, String> {
    let unreadable = |error| format!("it can't be read: {error}");
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_MAX {
        return Err(format!("it is larger than {FILE_MAX} bytes"));
    }
    let text = std::fs::read(path).map_err(unreadable)?;
    let classes: Vec<Class> = serde_json::from_slice(&text).map_err(|error| {
        format!(
            "expected a list of {{name, utility, maximumResponseTime, completedPercentage}}: {error}"
        )
    })?;
    let mut settings = Vec::new();
    for class in classes {
        let Class { name, .. } = &class;
        if name.is_empty() || name.contains('.') {
            return Err(format!(
                "'{name}' can't be the name of a class: it needs letters, no dots"
            ));
        }
        let name = name.to_lowercase();
        for (field, value) in [
            // A class of which nothing is said is there all the same.
            ("utility", class.utility.or(Some(1.0))),
            ("deadline", class.maximum_response_time),
            ("completion", class.completed_percentage),
        ] {
            if let Some(value) = value {
                settings.push((format!("qos.class.{name}.{field}"), Scalar::Float(value)));
            }
        }
    }
    Ok(settings)
}
