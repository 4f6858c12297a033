//! What is measured, and the program that is made of it.
//!
//! An interval is closed when a program is about to be made: counts become rates then, and what has
//! not been seen for long is forgotten.

use std::collections::BTreeMap;
use std::time::Duration;

use super::classes::Classes;
use super::draw::Choice;
use super::means::Mean;
use super::program::{FLOWS_MAX, Flow, Place, Program, View};

/// Weight of the newest interval in a rate of arrivals.
const RATE_WEIGHT: f64 = 0.3;

/// Arrivals a second that are as good as none.
const RATE_MIN: f64 = 1e-5;

/// Run time where nothing has been measured, seconds.
const SERVICE_PRIOR: f64 = 0.1;

/// Intervals without a call after which a function, or what is known of it in a place, is forgotten.
const IDLE_MAX: u32 = 20;

/// Functions that are measured at most; others are not planned for.
const FUNCTIONS_MAX: usize = 4096;

/// Neighbors whose refusals are remembered at most.
const PEERS_MAX: usize = 4096;

/// A neighbor's memory counts for this at least, however often it refuses.
const EXPOSED_MIN: f64 = 0.05;

/// The same for memory here: what is not planned with is not tried, and nothing is learnt of it.
const USABLE_MIN: f64 = 0.05;

/// How a call went that has run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ran {
    /// Its run time, seconds.
    pub service: f64,
    /// From its arrival there until it ran, seconds.
    pub init: f64,
    /// Whether a sandbox was started for it.
    pub is_cold: bool,
    /// The way to another node and back, seconds; 0 here.
    pub way: f64,
}

/// What is known of a function, besides what was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known {
    /// Memory that one call takes while it runs, MB.
    pub memory_mb: f64,
    /// Whether it can run here.
    pub here: bool,
    /// Whether somebody in the cloud can run it.
    pub in_cloud: bool,
    /// Whether a neighbor can run it.
    pub on_edge: bool,
}

/// What is known of the world.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Surroundings {
    /// Memory of this node, MB.
    pub local_memory_mb: f64,
    /// Memory of neighbors that is free, each weighed by [`Estimators::exposed`], MB.
    pub edge_memory_mb: f64,
    /// Way to the cloud and back, seconds.
    pub cloud_way: f64,
    /// Way to neighbors and back, seconds.
    pub edge_way: f64,
    /// Bandwidth to the cloud, bits a second; infinite if it limits nothing.
    pub cloud_bandwidth: f64,
    /// Bandwidth to neighbors, bits a second.
    pub edge_bandwidth: f64,
    /// Cost of a GB used for a second in the cloud.
    pub cloud_cost: f64,
    /// What the cloud may cost an hour; `None`: anything.
    pub budget: Option<f64>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Estimators {
    classes: usize,
    functions: BTreeMap<String, Function>,
    /// Calls that were tried here since the last interval, and those that found no room.
    tried: u64,
    blocked: u64,
    usable: f64,
    peers: BTreeMap<String, Peer>,
}

#[derive(Debug, Clone, Default)]
struct Function {
    flows: Vec<Arrivals>,
    /// Size of parameters, bytes.
    input: Mean,
    idle: u32,
    here: Measured,
    cloud: Measured,
    edge: Measured,
}

#[derive(Debug, Clone, Copy, Default)]
struct Arrivals {
    count: u64,
    rate: Option<f64>,
}

/// What was measured in one place.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    service: Mean,
    init: Mean,
    cold: Mean,
    way: Mean,
    idle: u32,
}

#[derive(Debug, Clone, Copy)]
struct Peer {
    sent: u64,
    refused: u64,
    exposed: f64,
    idle: u32,
}

impl Estimators {
    /// With nothing measured, for so many classes.
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            functions: BTreeMap::new(),
            tried: 0,
            blocked: 0,
            usable: 1.0,
            peers: BTreeMap::new(),
        }
    }

    /// A call has arrived, with parameters of so many bytes.
    pub fn arrived(&mut self, function: &str, class: usize, input_bytes: usize) {
        if !self.functions.contains_key(function) {
            if self.functions.len() >= FUNCTIONS_MAX {
                return;
            }
            let new = Function {
                flows: vec![Arrivals::default(); self.classes],
                ..Function::default()
            };
            self.functions.insert(function.to_owned(), new);
        }
        if let Some(function) = self.functions.get_mut(function) {
            function.input.add(input_bytes as f64);
            if let Some(flow) = function.flows.get_mut(class) {
                flow.count += 1;
            }
        }
    }

    /// A call has run, here or elsewhere.
    pub fn ran(&mut self, function: &str, place: Choice, ran: &Ran) {
        let Some(function) = self.functions.get_mut(function) else {
            return;
        };
        let place = match place {
            Choice::Local => &mut function.here,
            Choice::Cloud => &mut function.cloud,
            Choice::Edge => &mut function.edge,
            Choice::Drop => return,
        };
        place.idle = 0;
        place.service.add_seconds(ran.service);
        place.way.add_seconds(ran.way);
        place.cold.add(f64::from(u8::from(ran.is_cold)));
        if ran.is_cold {
            place.init.add_seconds(ran.init);
        }
    }

    /// A call was tried here.
    pub fn tried(&mut self, is_blocked: bool) {
        self.tried += 1;
        self.blocked += u64::from(is_blocked);
    }

    /// A call was sent to a neighbor.
    pub fn sent(&mut self, peer: &str, is_refused: bool) {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(peer) {
            return;
        }
        let new = || Peer {
            sent: 0,
            refused: 0,
            exposed: 1.0,
            idle: 0,
        };
        let peer = self.peers.entry(peer.to_owned()).or_insert_with(new);
        peer.sent += 1;
        peer.refused += u64::from(is_refused);
    }

    /// The share of a neighbor's free memory that is taken to be there for this node.
    pub fn exposed(&self, peer: &str) -> f64 {
        self.peers.get(peer).map_or(1.0, |peer| peer.exposed)
    }

    /// How much of this node's memory can be used before calls find no room.
    pub fn usable(&self) -> f64 {
        self.usable
    }

    /// An interval of this length has ended.
    pub fn close(&mut self, interval: Duration) {
        let seconds = interval.as_secs_f64().max(1e-3);
        self.functions.retain(|_, function| {
            function.close(seconds);
            function.idle <= IDLE_MAX
        });
        let loss = share(self.blocked, self.tried);
        self.usable = if loss > 0.0 {
            (self.usable - self.usable * loss / 2.0).max(USABLE_MIN)
        } else {
            (self.usable * 1.1).min(1.0)
        };
        (self.tried, self.blocked) = (0, 0);
        self.peers.retain(|_, peer| {
            peer.close();
            peer.idle <= IDLE_MAX || peer.exposed < 1.0
        });
    }

    /// The program for what was measured, with the functions that `known` knows: the flows with the
    /// most arrivals, if there are too many. The second is how many flows were left out.
    pub fn program(
        &self,
        classes: &Classes,
        known: impl Fn(&str) -> Option<Known>,
        around: &Surroundings,
    ) -> (Program, usize) {
        let mut candidates = Vec::new();
        for (name, function) in &self.functions {
            for (class, flow) in function.flows.iter().enumerate() {
                let rate = flow.rate.unwrap_or(0.0);
                if rate >= RATE_MIN && class < classes.all().len() {
                    candidates.push((rate, name.as_str(), class));
                }
            }
        }
        candidates.sort_by(|a, b| {
            b.0.total_cmp(&a.0)
                .then_with(|| (a.1, a.2).cmp(&(b.1, b.2)))
        });
        let left_out = candidates.len().saturating_sub(FLOWS_MAX);
        candidates.truncate(FLOWS_MAX);
        candidates.sort_by(|a, b| (a.1, a.2).cmp(&(b.1, b.2)));
        let (mut functions, mut flows): (Vec<View>, Vec<Flow>) = (Vec::new(), Vec::new());
        for (rate, name, class) in candidates {
            if functions.last().is_none_or(|view| view.name != name) {
                let Some((function, known)) = self.functions.get(name).zip(known(name)) else {
                    continue;
                };
                functions.push(function.view(name, &known, around));
            }
            let function = functions.len() - 1;
            flows.push(Flow {
                function,
                class,
                rate,
            });
        }
        let program = Program {
            functions,
            classes: classes.all().to_vec(),
            flows,
            local_memory_mb: around.local_memory_mb,
            usable: self.usable,
            edge_memory_mb: around.edge_memory_mb,
            cloud_cost: around.cloud_cost,
            budget: around.budget,
        };
        (program, left_out)
    }
}

impl Function {
    fn close(&mut self, seconds: f64) {
        self.idle = match self.flows.iter().any(|flow| flow.count > 0) {
            true => 0,
            false => self.idle.saturating_add(1),
        };
        for flow in &mut self.flows {
            let newest = flow.count as f64 / seconds;
            flow.count = 0;
            let rate = flow
                .rate
                .map_or(newest, |rate| rate + RATE_WEIGHT * (newest - rate));
            // A class whose calls are over is forgotten, too.
            flow.rate = (rate >= RATE_MIN).then_some(rate);
        }
        for place in [&mut self.here, &mut self.cloud, &mut self.edge] {
            place.close();
        }
    }

    fn view(&self, name: &str, known: &Known, around: &Surroundings) -> View {
        // What a function does takes about as long elsewhere.
        let services = [&self.here, &self.cloud, &self.edge];
        let service = services.iter().find_map(|it| it.service.get());
        let service = service.unwrap_or(SERVICE_PRIOR);
        let place = |measured: &Measured, way: f64, bandwidth: f64| {
            let transfer = 8.0 * self.input.get().unwrap_or(0.0) / bandwidth.max(1.0);
            Place {
                service: measured.service.get().unwrap_or(service),
                init: measured.init.get().unwrap_or(0.0),
                cold: measured.cold.get().unwrap_or(0.0),
                offset: measured.way.get().unwrap_or(way + transfer),
            }
        };
        let here = || place(&self.here, 0.0, f64::INFINITY);
        let cloud = || place(&self.cloud, around.cloud_way, around.cloud_bandwidth);
        let edge = || place(&self.edge, around.edge_way, around.edge_bandwidth);
        View {
            name: name.to_owned(),
            memory_mb: known.memory_mb,
            local: known.here.then(here),
            cloud: known.in_cloud.then(cloud),
            edge: known.on_edge.then(edge),
        }
    }
}

impl Measured {
    /// Sandboxes there are gone after a while, and the way may have become another. How long a
    /// function runs stays true.
    fn close(&mut self) {
        self.idle = self.idle.saturating_add(1);
        if self.idle > IDLE_MAX {
            *self = Self {
                service: self.service,
                ..Self::default()
            };
        }
    }
}

impl Peer {
    fn close(&mut self) {
        let loss = share(self.refused, self.sent);
        let exposed = if loss > 0.0 {
            (self.exposed * loss / 2.0).max(EXPOSED_MIN)
        } else {
            (self.exposed * 1.1).min(1.0)
        };
        let idle = match self.sent {
            0 => self.idle.saturating_add(1),
            _ => 0,
        };
        *self = Self {
            sent: 0,
            refused: 0,
            exposed,
            idle,
        };
    }
}

/// `part` of `whole`; nothing of nothing.
fn share(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        whole => part as f64 / whole as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    const ANYWHERE: Known = Known {
        memory_mb: 128.0,
        here: true,
        in_cloud: true,
        on_edge: false,
    };

    fn around() -> Surroundings {
        Surroundings {
            local_memory_mb: 1024.0,
            cloud_way: 0.25,
            cloud_bandwidth: 32_000.0,
            ..Surroundings::default()
        }
    }

    fn arrivals(estimators: &mut Estimators, function: &str, count: usize) {
        (0..count).for_each(|_| estimators.arrived(function, 0, 1000));
    }

    fn program(estimators: &Estimators) -> Program {
        let classes = Classes::default();
        estimators
            .program(&classes, |_| Some(ANYWHERE), &around())
            .0
    }

    #[test]
    fn rates_follow_the_arrivals_and_end() {
        let mut estimators = Estimators::new(1);
        arrivals(&mut estimators, "f", 10);
        estimators.close(SECOND);
        assert_eq!(program(&estimators).flows[0].rate, 10.0);
        arrivals(&mut estimators, "f", 40);
        estimators.close(SECOND * 2);
        // 0.7 of 10 and 0.3 of 20.
        assert!((program(&estimators).flows[0].rate - 13.0).abs() < 1e-9);
        for _ in 0..60 {
            estimators.close(SECOND);
        }
        assert!(program(&estimators).flows.is_empty());
        assert!(estimators.functions.is_empty());
    }

    #[test]
    fn what_was_measured_is_what_is_expected() {
        let mut estimators = Estimators::new(1);
        arrivals(&mut estimators, "f", 1);
        estimators.close(SECOND);
        let view = &program(&estimators).functions[0];
        let prior = Place {
            service: 0.1,
            init: 0.0,
            cold: 0.0,
            offset: 0.0,
        };
        assert_eq!(view.local, Some(prior));
        // 250 ms, and 8000 bits at 32,000 a second.
        let there = Place {
            offset: 0.5,
            ..prior
        };
        assert_eq!(view.cloud, Some(there));
        assert_eq!(view.edge, None);

        for (is_cold, init) in [(true, 0.4), (false, 0.0)] {
            let ran = Ran {
                service: 0.3,
                init,
                is_cold,
                way: 0.05,
            };
            estimators.ran("f", Choice::Cloud, &ran);
            estimators.ran("unknown", Choice::Cloud, &ran);
        }
        let view = &program(&estimators).functions[0];
        let measured = Place {
            service: 0.3,
            init: 0.4,
            cold: 0.5,
            offset: 0.05,
        };
        assert_eq!(view.cloud, Some(measured));
        // Run times are known from there.
        assert_eq!(view.local.unwrap().service, 0.3);
    }

    #[test]
    fn what_has_not_been_used_for_long_is_forgotten_but_run_times() {
        let mut estimators = Estimators::new(1);
        arrivals(&mut estimators, "f", 1);
        let ran = Ran {
            service: 0.3,
            init: 9.0,
            is_cold: true,
            way: 9.0,
        };
        estimators.ran("f", Choice::Cloud, &ran);
        for _ in 0..=IDLE_MAX {
            arrivals(&mut estimators, "f", 1);
            estimators.close(SECOND);
        }
        let cloud = program(&estimators).functions[0].cloud.unwrap();
        assert_eq!((cloud.service, cloud.cold), (0.3, 0.0));
        assert!(cloud.offset < 1.0, "{cloud:?}");
    }

    #[test]
    fn usable_memory_shrinks_with_losses_and_comes_back() {
        let mut estimators = Estimators::new(1);
        for blocked in [true, true, false, false] {
            estimators.tried(blocked);
        }
        estimators.close(SECOND);
        assert_eq!(estimators.usable(), 0.75);
        for _ in 0..2 {
            estimators.tried(false);
            estimators.close(SECOND);
        }
        assert!((estimators.usable() - 0.9075).abs() < 1e-9);
        for _ in 0..100 {
            estimators.tried(true);
            estimators.close(SECOND);
        }
        assert_eq!(estimators.usable(), USABLE_MIN);
        // Nothing is tried any more, and yet it will be again.
        for _ in 0..40 {
            estimators.close(SECOND);
        }
        assert_eq!(estimators.usable(), 1.0);
    }

    #[test]
    fn neighbors_that_refuse_count_for_less() {
        let mut estimators = Estimators::new(1);
        estimators.sent("a", true);
        estimators.sent("b", false);
        estimators.close(SECOND);
        assert_eq!(
            (estimators.exposed("a"), estimators.exposed("b")),
            (0.5, 1.0)
        );
        for _ in 0..20 {
            estimators.sent("a", true);
            estimators.close(SECOND);
        }
        assert_eq!(estimators.exposed("a"), EXPOSED_MIN);
        for _ in 0..40 {
            estimators.close(SECOND);
        }
        assert_eq!(estimators.exposed("a"), 1.0);
        assert!(estimators.peers.is_empty());
        assert_eq!(estimators.exposed("never asked"), 1.0);
    }

    #[test]
    fn the_busiest_flows_are_planned_for() {
        let mut estimators = Estimators::new(1);
        for function in 0..FLOWS_MAX + 10 {
            arrivals(&mut estimators, &format!("f{function}"), 1);
        }
        arrivals(&mut estimators, "zz", 5);
        estimators.close(SECOND);
        let classes = Classes::default();
        let known = |name: &str| (name != "f1").then_some(ANYWHERE);
        let (program, left_out) = estimators.program(&classes, known, &around());
        assert_eq!(left_out, 11);
        assert_eq!(program.flows.len(), FLOWS_MAX - 1);
        assert!(program.functions.iter().any(|view| view.name == "zz"));
        assert!(program.functions.iter().all(|view| view.name != "f1"));
    }
}
