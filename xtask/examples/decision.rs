//! How long a decision takes with a thousand peers known, in microseconds: for `cargo xtask bench`,
//! which runs this optimised. As in the node, the nearest are looked at and 32 more at most.

#![expect(clippy::print_stdout, reason = "its one result")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serverledge_core::Timestamp;
use serverledge_core::fleet::{Coordinates, Fleet, Group, Known, Status};
use serverledge_core::policy::{
    Candidate, Local, Placement, Remote, Situation, Trail, Wanted, by_name, choose, choose_neighbor,
};

const PEERS: usize = 1000;
const OTHERS: usize = 32;
const ROUNDS: usize = 2000;

fn main() {
    let (fleet, now) = fleet();
    let near = fleet.nearest();
    let architectures = ["amd64".to_owned()];
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let policy = ["edgeonly", "cloudonly", "edgecloud"][round % 3];
        let Some(policy) = by_name(policy) else {
            return;
        };
        let situation = Situation {
            can_offload: true,
            fallback_local: false,
            local: Local::Unfit,
            edge: Remote::Open,
            cloud: Remote::Open,
            odds: None,
        };
        let wanted = Wanted {
            architectures: &architectures,
            memory_mb: 128,
            cpu: 1.0,
            now,
            seed: round as u64,
        };
        let began = Instant::now();
        let candidates = candidates(&near);
        let rejected = vec![None; candidates.len()];
        let mut trail = Trail::new(policy.name());
        let choose = match policy.place(black_box(&situation)) {
            Placement::Neighbor => choose_neighbor,
            _ => choose,
        };
        let chosen = choose(black_box(&candidates), &rejected, &wanted, &mut trail);
        black_box((chosen, trail));
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
    let (median, most) = (times[ROUNDS / 2], times[ROUNDS * 99 / 100]);
    println!("{:.2} {:.2}", microseconds(median), microseconds(most));
}

/// A thousand that have just told their status, half of them full.
fn fleet() -> (Fleet, Timestamp) {
    let mut fleet = Fleet::new(1, 1);
    let keys: Vec<Arc<str>> = (0..PEERS)
        .map(|it| format!("node-{it:04}").into())
        .collect();
    fleet.set_members(keys.iter().map(|key| (Arc::clone(key), Group::Neighbor)));
    let now = Timestamp(Duration::from_secs(1));
    for (index, key) in keys.iter().enumerate() {
        let status = Status {
            memory_available: if index % 2 == 0 {
                64
            } else {
                512 + index as u64
            },
            cpu_total: 4.0,
            coordinates: Coordinates::default(),
            ..Status::default()
        };
        fleet.answered(key, status, 500, None, now);
    }
    fleet.tick(now);
    (fleet, now)
}

fn candidates(near: &[Known]) -> Vec<Candidate> {
    let near = near.iter().map(|known| (known.key.as_ref(), Some(known)));
    let others = (0..OTHERS).map(|_| ("another-node", None));
    let candidate = |(key, known): (&str, Option<&Known>)| Candidate {
        key: key.to_owned(),
        is_balancer: false,
        architecture: "amd64".to_owned(),
        known: known.cloned(),
    };
    near.chain(others).map(candidate).collect()
}
