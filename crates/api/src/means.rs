//! What functions take, as a file: the original's form (`metrics.dump.json.file`,
//! `metrics.load.json.file`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serverledge_core::placement::{CLOUD, FunctionMeans, Means, PlaceMeans};

/// By node and function.
type ByNode = BTreeMap<String, BTreeMap<String, f64>>;

/// As the file has it; what is missing isn't known.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Retrieved {
    edge_cold_start_probability: ByNode,
    avg_edge_execution_time: ByNode,
    avg_edge_init_time: ByNode,
    remote_cold_start_probability: BTreeMap<String, f64>,
    avg_remote_execution_time: BTreeMap<String, f64>,
    avg_remote_init_time: BTreeMap<String, f64>,
    avg_output_size: BTreeMap<String, f64>,
    branch_frequency: ByNode,
}

/// The file's text.
pub fn encode_means(means: &Means) -> Vec<u8> {
    let mut file = Retrieved {
        branch_frequency: means.branches.clone(),
        ..Retrieved::default()
    };
    for (name, function) in &means.functions {
        if let Some(bytes) = function.output_bytes {
            file.avg_output_size.insert(name.clone(), bytes);
        }
        for (place, means) in &function.places {
            let PlaceMeans {
                execution,
                init,
                cold,
            } = *means;
            let put = |table: &mut ByNode, remote: &mut BTreeMap<String, f64>, value| {
                let Some(value) = value else {
                    return;
                };
                let table = match place == CLOUD {
                    true => remote,
                    false => table.entry(place.clone()).or_default(),
                };
                table.insert(name.clone(), value);
            };
            put(
                &mut file.avg_edge_execution_time,
                &mut file.avg_remote_execution_time,
                execution,
            );
            put(
                &mut file.avg_edge_init_time,
                &mut file.avg_remote_init_time,
                init,
            );
            put(
                &mut file.edge_cold_start_probability,
                &mut file.remote_cold_start_probability,
                cold,
            );
        }
    }
    crate::decode::encode(&file)
}

/// What the file says.
pub fn decode_means(text: &[u8]) -> Result<Means, serde_json::Error> {
    // A struct would be read from a list as well.
    let file: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text)?;
    let file: Retrieved = serde_json::from_value(file.into())?;
    let mut functions: BTreeMap<String, FunctionMeans> = BTreeMap::new();
    for (name, bytes) in file.avg_output_size {
        functions.entry(name).or_default().output_bytes = Some(bytes);
    }
    let mut take = |edge: ByNode, remote, put: fn(&mut PlaceMeans, f64)| {
        let remote = std::iter::once((CLOUD.to_owned(), remote));
        for (place, values) in edge.into_iter().chain(remote) {
            for (name, value) in values {
                let function = functions.entry(name).or_default();
                put(function.places.entry(place.clone()).or_default(), value);
            }
        }
    };
    take(
        file.avg_edge_execution_time,
        file.avg_remote_execution_time,
        |means, value| means.execution = Some(value),
    );
    take(
        file.avg_edge_init_time,
        file.avg_remote_init_time,
        |means, value| means.init = Some(value),
    );
    take(
        file.edge_cold_start_probability,
        file.remote_cold_start_probability,
        |means, value| means.cold = Some(value),
    );
    Ok(Means {
        functions,
        branches: file.branch_frequency,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_what_was_measured() {
        let text = r#"{
            "EdgeColdStartProbability": {"n": {"f": 0.5}},
            "AvgEdgeExecutionTime": {"n": {"f": 2.0}, "m": {"g": 1.0}},
            "AvgEdgeInitTime": {"n": {"f": 0.25}},
            "RemoteColdStartProbability": {"f": 0.125},
            "AvgRemoteExecutionTime": {"f": 4.0},
            "AvgRemoteInitTime": {"f": 0.75},
            "AvgOutputSize": {"f": 100.0},
            "BranchFrequency": {"c": {"a": 0.25, "b": 0.75}}
        }"#;
        let means = decode_means(text.as_bytes()).unwrap();
        let f = &means.functions["f"];
        let cloud = PlaceMeans {
            execution: Some(4.0),
            init: Some(0.75),
            cold: Some(0.125),
        };
        assert_eq!(f.places[CLOUD], cloud);
        assert_eq!(f.output_bytes, Some(100.0));
        assert_eq!(means.functions["g"].places["m"].execution, Some(1.0));
        assert_eq!(means.branches["c"]["b"], 0.75);
        let written = encode_means(&means);
        assert_eq!(decode_means(&written).unwrap(), means);
        let names = |text: &[u8]| -> Vec<String> {
            let file: serde_json::Map<_, _> = serde_json::from_slice(text).unwrap();
            file.keys().cloned().collect()
        };
        assert_eq!(names(&written), names(text.as_bytes()));
    }

    #[test]
    fn what_is_missing_is_not_known_and_nonsense_is_an_error() {
        assert_eq!(decode_means(b"{}").unwrap(), Means::default());
        assert!(decode_means(b"[]").is_err());
        assert!(decode_means(br#"{"AvgOutputSize": {"f": "many"}}"#).is_err());
    }
}
