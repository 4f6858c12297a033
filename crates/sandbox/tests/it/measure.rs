//! Figures, printed with `--nocapture`; the limits are wide, as other tests run at the same time.

use std::time::{Duration, Instant};

use serverledge_sandbox::Shim;

use crate::harness::{machine, invoke};

const HELLO: &str = "def handler(p, c): return 1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_are_fast() {
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
    assert!(times[15] < Duration::from_millis(500));

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

#[tokio::test]
async fn zz_where_time_goes() {
    let (machine, _) = machine().await;
    for _ in 0..12 {
        let spec = machine.spec(Shim::Python, "import time, resource\nr = resource.getrusage(0)\nt = [time.monotonic(), time.process_time(), r.ru_utime, r.ru_stime, r.ru_minflt, r.ru_majflt, r.ru_nvcsw, r.ru_nivcsw]\ndef handler(p, c): return t");
        let now = || { let t = rustix_time(); t };
        let start = now();
        let sandbox = machine.create(spec).await.unwrap();
        let end = now();
        let r = invoke(&sandbox, serde_json::json!({})).await.unwrap().unwrap();
        println!("total {:.1} ms, import at {:.1}, rest {r}", (end - start) * 1e3, (r[0].as_f64().unwrap() - start) * 1e3);
        sandbox.destroy().await;
    }
    machine.backend.shutdown().await;
}
fn rustix_time() -> f64 {
    let s = std::fs::read_to_string("/proc/uptime").unwrap(); let _ = s;
    let mut t: libc::timespec = unsafe { std::mem::zeroed() };
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}
