//! Figures, printed with `--nocapture`. What is tested is that many starts at once succeed.

use std::time::{Duration, Instant};

use serverledge_sandbox::Shim;

use crate::harness::machine;

const HELLO: &str = "def handler(p, c): return 1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_starts_at_once_succeed() {
    let (machine, _) = machine().await;
    let mut times = Vec::new();
    for _ in 0..30 {
        let spec = machine.spec(Shim::Python, HELLO);
        let start = Instant::now();
        let sandbox = machine.create(spec).await.unwrap();
        times.push(start.elapsed());
        sandbox.destroy().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    times.sort();
    println!("create to loaded: p50 {:?}, p95 {:?}", times[15], times[28]);

    let specs: Vec<_> = (0..32).map(|_| machine.spec(Shim::Python, HELLO)).collect();
    let start = Instant::now();
    let creates = specs.into_iter().map(|spec| {
        let backend = machine.backend.clone();
        tokio::spawn(async move { backend.create(spec).await })
    });
    let creates: Vec<_> = creates.collect();
    let mut sandboxes = Vec::new();
    for create in creates {
        sandboxes.push(create.await.unwrap().unwrap());
    }
    println!("32 at once: the last after {:?}", start.elapsed());
    let start = Instant::now();
    machine.backend.shutdown().await;
    println!("32 ended and cleared up after {:?}", start.elapsed());
}
