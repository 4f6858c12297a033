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

impl Branch {
    /// A task of this id in whatever workflow.
    fn of_any(task: &str) -> Self {
        Self {
            workflow: String::new(),
            task: task.to_owned(),
        }
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    functions: BTreeMap<String, Function>,
    branches: BTreeMap<Branch, BTreeMap<String, f64>>,
}

/// What is known, as values: to be written down, or as it was.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Means {
    /// By function.
    pub functions: BTreeMap<String, FunctionMeans>,
    /// By task and the one that follows, the share of that. Tasks of one name in several workflows
    /// are one here.
    pub branches: BTreeMap<String, BTreeMap<String, f64>>,
}

/// Of a function.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FunctionMeans {
    /// By node, [`super::CLOUD`] among them.
    pub places: BTreeMap<String, PlaceMeans>,
    /// Size of its result, bytes.
    pub output_bytes: Option<f64>,
}

/// Of a function in a place; what was never measured is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PlaceMeans {
    /// Run time, s.
    pub execution: Option<f64>,
    /// What starting a sandbox adds to it, s.
    pub init: Option<f64>,
    /// Share of the calls that had to start one.
    pub cold: Option<f64>,
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

    /// As if it had been measured once.
    fn of(value: Option<f64>) -> Self {
        let value = value.filter(|value| value.is_finite() && *value >= 0.0);
        Self {
            sum: value.unwrap_or(0.0),
            count: f64::from(u8::from(value.is_some())),
        }
    }

    fn value(self) -> Option<f64> {
        (self.count > 0.0).then(|| self.sum / self.count)
    }
}

impl Statistics {
    /// With what was written down. Values that are no amounts are left out, and so is what there is
    /// no room for.
    pub fn of(means: &Means) -> Self {
        let mut known = Self::default();
        for (name, means) in means.functions.iter().take(ENTRIES_MAX) {
            let places = means.places.iter().take(WAYS_MAX);
            let places = places.map(|(place, means)| {
                let sums = Sums {
                    execution: Mean::of(means.execution),
                    init: Mean::of(means.init),
                    cold: Mean::of(means.cold.map(|share| share.min(1.0))),
                };
                (place.clone(), sums)
            });
            let function = Function {
                places: places.collect(),
                output: Mean::of(means.output_bytes),
            };
            known.functions.insert(name.clone(), function);
        }
        for (task, ways) in means.branches.iter().take(ENTRIES_MAX) {
            let ways = ways.iter().take(WAYS_MAX);
            let ways = ways.map(|(next, share)| (next.clone(), Mean::of(Some(*share)).sum));
            known.branches.insert(Branch::of_any(task), ways.collect());
        }
        known
    }

    /// To be written down.
    pub fn means(&self) -> Means {
        let mut means = Means::default();
        for (name, function) in &self.functions {
            let of = |sums: &Sums| PlaceMeans {
                execution: sums.execution.value(),
                init: sums.init.value(),
                cold: sums.cold.value(),
            };
            let places = function.places.iter();
            let function = FunctionMeans {
                places: places
                    .map(|(place, sums)| (place.clone(), of(sums)))
                    .collect(),
                output_bytes: function.output.value(),
            };
            means.functions.insert(name.clone(), function);
        }
        for (branch, ways) in &self.branches {
            let known = means.branches.entry(branch.task.clone()).or_default();
            for (next, count) in ways {
                *known.entry(next.clone()).or_default() += count;
            }
        }
        for ways in means.branches.values_mut() {
            let sum: f64 = ways.values().sum();
            if sum > 0.0 {
                ways.values_mut().for_each(|count| *count /= sum);
            }
        }
        means
    }

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
        let of_any = || self.branches.get(&Branch::of_any(&branch.task));
        let ways = self.branches.get(branch).or_else(of_any);
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
    fn what_is_written_down_says_the_same() {
        let mut known = Statistics::default();
        known.ran("f", "n", measured(1.0, Some(0.4)));
        known.ran("f", "n", measured(3.0, None));
        known.ran("f", CLOUD, measured(8.0, None));
        let branch = |workflow: &str| Branch {
            workflow: workflow.into(),
            task: "c".into(),
        };
        known.chose(&branch("w"), "a");
        known.chose(&branch("w"), "b");
        known.chose(&branch("v"), "b");
        known.chose(&branch("v"), "b");
        let means = known.means();
        let again = Statistics::of(&means);
        assert_eq!(again.means(), means);
        for place in ["n", "other", CLOUD] {
            assert_eq!(again.execution("f", place), known.execution("f", place));
            assert_eq!(again.init("f", place), known.init("f", place));
        }
        assert_eq!(again.output("f"), known.output("f"));
        assert_eq!(again.shares(&branch("any"), &["a", "b"]), [0.25, 0.75]);
    }

    #[test]
    fn nonsense_that_is_written_down_is_not_known() {
        let place = PlaceMeans {
            execution: Some(f64::NAN),
            init: Some(-1.0),
            cold: Some(7.0),
        };
        let function = FunctionMeans {
            places: [("n".to_owned(), place)].into(),
            output_bytes: Some(f64::INFINITY),
        };
        let known = Statistics::of(&Means {
            functions: [("f".to_owned(), function)].into(),
            ..Means::default()
        });
        assert_eq!(known.execution("f", "n"), 0.01);
        assert_eq!(known.init("f", "n"), 0.01);
        assert_eq!(known.output("f"), 0.0);
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
