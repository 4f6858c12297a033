//! `Retry` and `Catch`.

use serde_json::Value;

use super::fields::Fields;
use super::{Builder, Names};
use crate::diagnostic::{code, nearest};
use crate::machine::{Catcher, Retrier};

/// Error names of the language.
const ERRORS: [&str; 18] = [
    "States.ALL",
    "States.HeartbeatTimeout",
    "States.Timeout",
    "States.TaskFailed",
    "States.Permissions",
    "States.ResultPathMatchFailure",
    "States.ParameterPathFailure",
    "States.QueryEvaluationError",
    "States.BranchFailed",
    "States.NoChoiceMatched",
    "States.IntrinsicFailure",
    "States.ExceedToleratedFailureThreshold",
    "States.ItemReaderFailed",
    "States.ResultWriterFailed",
    "States.Runtime",
    "States.DataLimitExceeded",
    "States.Http.Socket",
    "States.Http.StatusCode",
];

/// Longest `MaxDelaySeconds`: a year.
const DELAY_MAX: f64 = 31_622_400.0;

impl Builder {
    pub(super) fn retriers(&mut self, fields: &Fields<'_>) -> Vec<Retrier> {
        let list_place = fields.at("Retry");
        let values = self.list(fields, "Retry").map_or(&[][..], Vec::as_slice);
        let mut retriers = Vec::new();
        for (at, value) in values.iter().enumerate() {
            let place = list_place.index(at);
            let Some(retrier) = self.object(value, &place) else {
                continue;
            };
            let known = [
                "ErrorEquals",
                "IntervalSeconds",
                "MaxAttempts",
                "BackoffRate",
                "MaxDelaySeconds",
                "JitterStrategy",
                "Comment",
            ];
            self.only(&retrier, &known, "a retrier");
            let errors = self.error_names(&retrier, at + 1 == values.len());
            let interval = self.number(&retrier, "IntervalSeconds", 1.0, 99_999_999.0, true);
            let interval = interval.unwrap_or(1.0);
            let attempts = self.number(&retrier, "MaxAttempts", 0.0, 99_999_999.0, true);
            let rate = self.number(&retrier, "BackoffRate", 1.0, f64::MAX, false);
            let delay_max = self.number(&retrier, "MaxDelaySeconds", 1.0, DELAY_MAX, true);
            if delay_max.is_some_and(|most| most < interval) {
                let message = "MaxDelaySeconds is smaller than IntervalSeconds";
                self.warn(
                    code::NO_EFFECT,
                    &retrier.at("MaxDelaySeconds"),
                    message,
                    None,
                );
            }
            let jitter = self.string(&retrier, "JitterStrategy");
            if jitter.is_some_and(|jitter| jitter != "FULL" && jitter != "NONE") {
                let message = "the jitter strategy is \"FULL\" or \"NONE\"";
                self.error(code::SCHEMA, &retrier.at("JitterStrategy"), message);
            }
            retriers.push(Retrier {
                errors,
                interval_seconds: interval,
                attempts_max: attempts.unwrap_or(3.0) as u64,
                rate: rate.unwrap_or(2.0),
                delay_max_seconds: delay_max,
                has_jitter: jitter == Some("FULL"),
            });
        }
        retriers
    }

    pub(super) fn catchers(
        &mut self,
        fields: &Fields<'_>,
        names: &Names,
        is_jsonata: bool,
    ) -> Vec<Catcher> {
        let list_place = fields.at("Catch");
        let values = self.list(fields, "Catch").map_or(&[][..], Vec::as_slice);
        let mut catchers = Vec::new();
        for (at, value) in values.iter().enumerate() {
            let place = list_place.index(at);
            let Some(catcher) = self.object(value, &place) else {
                continue;
            };
            let known: &[&str] = match is_jsonata {
                true => &["ErrorEquals", "Next", "Assign", "Output", "Comment"],
                false => &["ErrorEquals", "Next", "Assign", "ResultPath", "Comment"],
            };
            self.only(&catcher, known, "a catcher");
            let errors = self.error_names(&catcher, at + 1 == values.len());
            let next = self.required_string(&catcher, "Next");
            let next = next.and_then(|next| self.target(next, names, &catcher.at("Next")));
            let result_path = self.result_path(&catcher);
            let owner = format!("Catch/{at}/");
            let assign = self.assign(&catcher, &owner, is_jsonata);
            let output = match is_jsonata {
                true => self.template_within(&catcher, "Output", &owner, true),
                false => None,
            };
            catchers.push(Catcher {
                errors,
                next: next.unwrap_or(0),
                result_path,
                assign,
                output,
            });
        }
        catchers
    }

    fn error_names(&mut self, fields: &Fields<'_>, is_last: bool) -> Vec<String> {
        let place = fields.at("ErrorEquals");
        if !fields.has("ErrorEquals") {
            self.missing(fields, "ErrorEquals");
        }
        let Some(values) = self.list(fields, "ErrorEquals") else {
            return Vec::new();
        };
        if values.is_empty() {
            self.error(code::SCHEMA, &place, "at least one error is expected");
        }
        let mut names = Vec::new();
        for (at, value) in values.iter().enumerate() {
            let Value::String(name) = value else {
                self.error(
                    code::SCHEMA,
                    &place.index(at),
                    "an error's name is expected",
                );
                continue;
            };
            if name.starts_with("States.") && !ERRORS.contains(&name.as_str()) {
                let suggestion =
                    nearest(name, ERRORS).map(|near| format!("did you mean '{near}'?"));
                let message = format!("there is no error '{name}' in the language");
                self.warn(code::UNKNOWN_ERROR, &place.index(at), message, suggestion);
            }
            names.push(name.clone());
        }
        let is_wildcard = names.iter().any(|name| name == "States.ALL");
        if is_wildcard && values.len() > 1 {
            self.error(code::SCHEMA, &place, "States.ALL stands alone");
        }
        if is_wildcard && !is_last {
            self.error(code::SCHEMA, &place, "States.ALL stands in the last entry");
        }
        names
    }
}
