//! What tasks have taken and which branches were chosen: means that a problem's numbers come from.
//!
//! Fed by the reports of functions in workflows, wherever they ran, so neighbours and the cloud are
//! measured like this node, with no Prometheus between. Old measurements fade; what was never
//! measured has the original's defaults.

use std::collections::BTreeMap;

/// Functions, and choices, that are remembered.
const ENTRIES_MAX: usize = 10_000;

/// Places of a function that are remembered, and ways out of a choice.
const WAYS_MAX: usize = 64;

/// When so many were measured, what is known counts half.
const FADE_AT: f64 = 1000.0;

/// Of a function that was never measured, s.
const EXECUTION_UNKNOWN: f64 = 0.01;
const INIT_UNKNOWN: f64 = 0.01;

/// One run of a function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Run time, s.
    pub execution: f64,
    /// From arrival to the function's start, s; `None` in a warm sandbox.
    pub init: Option<f64>,
    /// Its result, bytes.
    pub output_bytes: f64,
}

/// A choice of a workflow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Branch {
    /// The workflow's name.
    pub workflow: String,
    /// The task's id.
    pub task: String,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    functions: BTreeMap<String, Function>,
    branches: BTreeMap<Branch, BTreeMap<String, f64>>,
}

#[derive(Debug, Clone, Default)]
struct Function {
    /// By node, [`super::CLOUD`] among them.
    places: BTreeMap<String, Sums>,
    output: Mean,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    execution: Mean,
    init: Mean,
    /// Share of cold starts: 1 for each, 0 for others.
    cold: Mean,
}

#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: f64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        if self.count >= FADE_AT {
            self.sum /= 2.0;
            self.count /= 2.0;
        }
        self.sum += value;
        self.count += 1.0;
    }

    fn join(self, other: Self) -> Self {
        Self {
            sum: self.sum + other.sum,
            count: self.count + other.count,
        }
    }

    fn value(self) -> Option<f64> {
        (self.count > 0.0).then(|| self.sum / self.count)
    }
}

impl Statistics {
    /// Takes a run of `function` at `place` (a node's key, or [`super::CLOUD`]) into account.
    pub fn ran(&mut self, function: &str, place: &str, measured: Measured) {
        let Measured {
            execution,
            init,
            output_bytes,
        } = measured;
        // Others measure too, and may send anything.
        let is_amount = |value: f64| value.is_finite() && value >= 0.0;
        if ![execution, init.unwrap_or(0.0), output_bytes]
            .into_iter()
            .all(is_amount)
        {
            return;
        }
        let Some(known) = entry(&mut self.functions, function, ENTRIES_MAX) else {
            return;
        };
        known.output.add(output_bytes);
        let Some(sums) = entry(&mut known.places, place, WAYS_MAX) else {
            return;
        };
        sums.execution.add(execution);
        sums.cold.add(f64::from(u8::from(init.is_some())));
        if let Some(init) = init {
            sums.init.add(init);
        }
    }

    /// A choice was made.
    pub fn chose(&mut self, branch: &Branch, next: &str) {
        if !self.branches.contains_key(branch) {
            if self.branches.len() >= ENTRIES_MAX {
                return;
            }
            self.branches.insert(branch.clone(), BTreeMap::new());
        }
        let Some(ways) = self.branches.get_mut(branch) else {
            return;
        };
        if ways.values().sum::<f64>() >= FADE_AT {
            ways.values_mut().for_each(|count| *count /= 2.0);
        }
        if let Some(count) = entry(ways, next, WAYS_MAX) {
            *count += 1.0;
        }
    }

    /// Expected run time at `place`, s: as measured there, else anywhere of its kind.
    pub fn execution(&self, function: &str, place: &str) -> f64 {
        let sums = self.sums(function, place);
        let known = sums.and_then(|sums| sums.execution.value());
        known.unwrap_or(EXECUTION_UNKNOWN)
    }

    /// What starting a sandbox adds to it, as expected, s.
    pub fn init(&self, function: &str, place: &str) -> f64 {
        let sums = self.sums(function, place);
        // The cloud, of which nothing is known, is thought to be warm.
        let unknown = if place == super::CLOUD { 0.0 } else { 1.0 };
        let cold = sums.and_then(|sums| sums.cold.value()).unwrap_or(unknown);
        let init = sums.and_then(|sums| sums.init.value());
        cold * init.unwrap_or(INIT_UNKNOWN)
    }

    /// Expected size of its result, bytes.
    pub fn output(&self, function: &str) -> f64 {
        let known = self.functions.get(function);
        known.and_then(|known| known.output.value()).unwrap_or(0.0)
    }

    /// How probable each of the alternatives is; equally, if the choice was never made.
    pub fn shares(&self, branch: &Branch, alternatives: &[&str]) -> Vec<f64> {
        let ways = self.branches.get(branch);
        let count = |next: &&str| {
            ways.and_then(|ways| ways.get(*next))
                .copied()
                .unwrap_or(0.0)
        };
        let counts: Vec<f64> = alternatives.iter().map(count).collect();
        let sum: f64 = counts.iter().sum();
        let equal = 1.0 / alternatives.len().max(1) as f64;
        let share = |count: f64| if sum > 0.0 { count / sum } else { equal };
        counts.into_iter().map(share).collect()
    }

    fn sums(&self, function: &str, place: &str) -> Option<Sums> {
        let places = &self.functions.get(function)?.places;
        if let Some(sums) = places.get(place) {
            return Some(*sums);
        }
        let of_kind = places
            .iter()
            .filter(|(key, _)| place != super::CLOUD && *key != super::CLOUD);
        let join = |a: Sums, b: Sums| Sums {
            execution: a.execution.join(b.execution),
            init: a.init.join(b.init),
            cold: a.cold.join(b.cold),
        };
        of_kind.map(|(_, sums)| *sums).reduce(join)
    }
}

/// The entry for `key`, made if there is room for it.
fn entry<'a, T: Default>(
    map: &'a mut BTreeMap<String, T>,
    key: &str,
    max: usize,
) -> Option<&'a mut T> {
    if !map.contains_key(key) {
        if map.len() >= max {
            return None;
        }
        map.insert(key.to_owned(), T::default());
    }
    map.get_mut(key)
}

#[cfg(test)]
mod tests {
    use super::super::CLOUD;
    use super::*;

    fn measured(execution: f64, init: Option<f64>) -> Measured {
        Measured {
            execution,
            init,
            output_bytes: execution * 100.0,
        }
    }

    #[test]
    fn what_was_never_measured_has_the_originals_defaults() {
        let known = Statistics::default();
        assert_eq!(known.execution("f", "n"), 0.01);
        assert_eq!(known.init("f", "n"), 0.01);
        assert_eq!(known.init("f", CLOUD), 0.0);
        assert_eq!(known.output("f"), 0.0);
    }

    #[test]
    fn means_are_by_place_and_else_by_kind_of_place() {
        let mut known = Statistics::default();
        known.ran("f", "n", measured(1.0, Some(0.4)));
        known.ran("f", "n", measured(3.0, None));
        known.ran("f", CLOUD, measured(8.0, None));
        assert_eq!(known.execution("f", "n"), 2.0);
        assert_eq!(known.init("f", "n"), 0.5 * 0.4);
        assert_eq!(known.execution("f", "other"), 2.0);
        assert_eq!(known.execution("f", CLOUD), 8.0);
        assert_eq!(known.init("f", CLOUD), 0.0);
        assert_eq!(known.output("f"), 400.0);
    }

    #[test]
    fn nonsense_from_others_is_not_counted() {
        let mut known = Statistics::default();
        known.ran("f", "n", measured(f64::NAN, None));
        known.ran("f", "n", measured(1.0, Some(-1.0)));
        assert_eq!(known.execution("f", "n"), 0.01);
    }

    #[test]
    fn what_is_new_outweighs_what_is_old() {
        let mut known = Statistics::default();
        (0..10_000).for_each(|_| known.ran("f", "n", measured(1.0, None)));
        (0..2000).for_each(|_| known.ran("f", "n", measured(2.0, None)));
        assert!(known.execution("f", "n") > 1.7);
    }

    #[test]
    fn choices_are_counted_by_workflow_and_task() {
        let mut known = Statistics::default();
        let branch = Branch {
            workflow: "w".into(),
            task: "c".into(),
        };
        assert_eq!(known.shares(&branch, &["a", "b"]), [0.5, 0.5]);
        known.chose(&branch, "a");
        known.chose(&branch, "a");
        known.chose(&branch, "b");
        known.chose(&branch, "b");
        known.chose(&branch, "gone");
        assert_eq!(known.shares(&branch, &["a", "b", "c"]), [0.5, 0.5, 0.0]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut known = Statistics::default();
        for number in 0..ENTRIES_MAX + 10 {
            known.ran(&format!("f{number}"), "n", measured(1.0, None));
        }
        assert_eq!(known.functions.len(), ENTRIES_MAX);
        assert_eq!(known.execution("f0", "n"), 1.0);
    }
}
