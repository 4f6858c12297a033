//! The linear program: what goes in, what a solution is worth, and what it must keep to.

use super::classes::Class;
use super::draw::Probabilities;

/// Pairs of function and class in a program at most: solving takes well below a second then.
pub const FLOWS_MAX: usize = 400;

/// What is expected of a function in one place, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Mean run time.
    pub service: f64,
    /// Mean duration of a cold start.
    pub init: f64,
    /// Probability of a cold start.
    pub cold: f64,
    /// The way there and back, parameters included.
    pub offset: f64,
}

impl Place {
    /// The probability that a call is answered within `deadline` seconds, its run time taken to be
    /// exponentially distributed.
    pub fn in_time(&self, deadline: f64) -> f64 {
        let within = |slack: f64| match slack {
            slack if slack <= 0.0 => 0.0,
            _ if self.service <= 0.0 => 1.0,
            slack => 1.0 - (-slack / self.service).exp(),
        };
        let slack = deadline - self.offset;
        self.cold * within(slack - self.init) + (1.0 - self.cold) * within(slack)
    }
}

/// A function, as the program sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Its name.
    pub name: String,
    /// Memory that one call takes while it runs, MB.
    pub memory_mb: f64,
    /// Here; `None` if it can't run here.
    pub local: Option<Place>,
    /// In the cloud; `None` if there is none for it.
    pub cloud: Option<Place>,
    /// On neighbors; `None` if there are none for it.
    pub edge: Option<Place>,
}

/// Calls of one function and class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flow {
    /// Index of the function.
    pub function: usize,
    /// Index of the class.
    pub class: usize,
    /// Arrivals a second.
    pub rate: f64,
}

/// Everything that a solution depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// What can be called.
    pub functions: Vec<View>,
    /// What calls are worth.
    pub classes: Vec<Class>,
    /// What is called, and how often: at most one flow for a function and a class.
    pub flows: Vec<Flow>,
    /// Memory of this node, MB.
    pub local_memory_mb: f64,
    /// How much of it can be used before calls find no room, 0 to 1.
    pub usable: f64,
    /// Memory of neighbors that they let us use, MB.
    pub edge_memory_mb: f64,
    /// Cost of a GB used for a second in the cloud.
    pub cloud_cost: f64,
    /// What the cloud may cost an hour; `None`: anything.
    pub budget: Option<f64>,
}

/// What of a flow goes where costs and yields, a second, for each unit of probability.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Terms {
    /// Net utility here, in the cloud, on a neighbor; `None` where it can't go.
    pub(super) values: [Option<f64>; 3],
    /// Net utility of dropping.
    pub(super) dropped: f64,
    /// Memory here, in use at a time, MB.
    pub(super) local_mb: f64,
    /// Memory on neighbors, MB.
    pub(super) edge_mb: f64,
    /// Money in the cloud.
    pub(super) cost: f64,
}

impl Program {
    /// The terms of a flow.
    pub(super) fn terms(&self, flow: &Flow) -> Terms {
        let (view, class) = (&self.functions[flow.function], &self.classes[flow.class]);
        let deadline = class.deadline_seconds();
        let value = |place: &Place| {
            let in_time = place.in_time(deadline);
            flow.rate * (class.utility * in_time - class.penalty * (1.0 - in_time))
        };
        let busy = |place: Option<Place>| {
            let place = place.map_or(0.0, |place| place.service);
            flow.rate * place * view.memory_mb
        };
        Terms {
            values: [view.local, view.cloud, view.edge].map(|place| place.as_ref().map(value)),
            dropped: -flow.rate * class.drop_penalty,
            local_mb: busy(view.local),
            edge_mb: busy(view.edge),
            cost: busy(view.cloud) / 1024.0 * self.cloud_cost,
        }
    }

    /// Memory of this node that calls may take, MB.
    pub(super) fn local_limit(&self) -> f64 {
        (self.local_memory_mb * self.usable).max(0.0)
    }

    /// What the cloud may cost a second.
    pub(super) fn budget_limit(&self) -> Option<f64> {
        self.budget.map(|budget| budget.max(0.0) / 3600.0)
    }

    /// What probabilities for each flow are worth a second.
    pub fn objective(&self, all: &[Probabilities]) -> f64 {
        let worth = |(flow, it): (&Flow, &Probabilities)| {
            let terms = self.terms(flow);
            let shares = [it.local, it.cloud, it.edge];
            let places = terms.values.iter().zip(shares);
            let places: f64 = places.map(|(value, p)| value.unwrap_or(0.0) * p).sum();
            places + terms.dropped * it.drop
        };
        self.flows.iter().zip(all).map(worth).sum()
    }

    /// By how much probabilities break a rule, at worst, as a share of its limit; 0 if they keep to
    /// all of them. `completion`: whether minimum completions count.
    pub fn violation(&self, all: &[Probabilities], completion: bool) -> f64 {
        let mut worst = 0.0_f64;
        let (mut local, mut edge, mut cost) = (0.0, 0.0, 0.0);
        for (flow, it) in self.flows.iter().zip(all) {
            let terms = self.terms(flow);
            let shares = [it.local, it.cloud, it.edge];
            for (value, share) in terms.values.iter().zip(shares) {
                worst = worst.max(-share);
                if value.is_none() {
                    worst = worst.max(share);
                }
            }
            let sum = it.local + it.cloud + it.edge + it.drop;
            worst = worst.max(-it.drop).max((sum - 1.0).abs());
            local += it.local * terms.local_mb;
            edge += it.edge * terms.edge_mb;
            cost += it.cloud * terms.cost;
        }
        let mut keep = |used: f64, limit: f64| {
            worst = worst.max((used - limit) / limit.max(1e-9));
        };
        keep(local, self.local_limit());
        keep(edge, self.edge_memory_mb);
        if let Some(limit) = self.budget_limit() {
            keep(cost, limit);
        }
        if completion {
            for class in 0..self.classes.len() {
                worst = worst.max(self.shortfall(all, class));
            }
        }
        worst
    }

    /// By how much a class misses its minimum completion, 0 to 1.
    pub(super) fn shortfall(&self, all: &[Probabilities], class: usize) -> f64 {
        let flows = self.flows.iter().zip(all);
        let of_class = flows.filter(|(flow, _)| flow.class == class);
        let (dropped, arriving) = of_class.fold((0.0, 0.0), |(dropped, arriving), (flow, it)| {
            (dropped + it.drop * flow.rate, arriving + flow.rate)
        });
        if arriving <= 0.0 {
            return 0.0;
        }
        (dropped / arriving - (1.0 - self.classes[class].completion)).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `service`, `init`, `cold`, `offset` in a deadline, worked out by hand.
    #[test]
    fn the_probability_of_being_in_time_is_the_papers() {
        let check = |(service, init, cold, offset), deadline: f64, expected: f64| {
            let place = Place {
                service,
                init,
                cold,
                offset,
            };
            let found = place.in_time(deadline);
            assert!((found - expected).abs() < 1e-9, "{place:?}: {found}");
        };
        check((0.25, 0.5, 0.0, 0.0), 0.5, 1.0 - (-2.0_f64).exp());
        check((0.25, 0.5, 1.0, 0.0), 0.5, 0.0);
        check((0.25, 0.25, 1.0, 0.0), 0.5, 1.0 - (-1.0_f64).exp());
        let half = 0.5 * (1.0 - (-1.0_f64).exp());
        check((0.25, 0.25, 0.5, 0.25), 0.5, half);
        check((0.25, 0.0, 0.0, 0.6), 0.5, 0.0);
        check((0.25, 9.0, 1.0, 9.0), f64::INFINITY, 1.0);
        check((0.0, 0.1, 0.5, 0.1), 0.15, 0.5);
    }
}
