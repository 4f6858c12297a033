//! A closed-loop load generator: one thread a connection, the next request after the reply.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// What every benchmark sends.
pub(crate) const BODY: &str = r#"{"Params":{"n":"1"},"CanDoOffloading":false}"#;

/// Requests that are not measured, on each connection.
const WARM_UP: usize = 100;

/// No request may take longer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Latencies in seconds, and requests a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) rate: f64,
}

/// Loads a server for `duration`.
pub(crate) fn run(
    port: u16,
    path: &str,
    connections: usize,
    duration: Duration,
) -> anyhow::Result<Summary> {
    let results: Vec<anyhow::Result<(Vec<f64>, f64)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|_| scope.spawn(|| client(port, path, duration)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a client panicked")))
            .collect()
    });
    let (mut latencies, mut rate) = (Vec::new(), 0.0);
    for result in results {
        let (times, seconds) = result?;
        rate += times.len() as f64 / seconds;
        latencies.extend(times);
    }
    latencies.sort_by(f64::total_cmp);
    ensure!(!latencies.is_empty(), "no request was answered");
    let at = |share: usize| latencies[(latencies.len() - 1) * share / 100];
    Ok(Summary {
        p50: at(50),
        p99: at(99),
        rate,
    })
}

fn client(port: u16, path: &str, duration: Duration) -> anyhow::Result<(Vec<f64>, f64)> {
    let mut stream = connect(port)?;
    let request = request("POST", path, BODY);
    let mut buffer = vec![0; 65536];
    for _ in 0..WARM_UP {
        round(&mut stream, &request, &mut buffer)?;
    }
    let mut latencies = Vec::with_capacity(100_000);
    let began = Instant::now();
    while began.elapsed() < duration {
        let sent = Instant::now();
        round(&mut stream, &request, &mut buffer)?;
        latencies.push(sent.elapsed().as_secs_f64());
    }
    Ok((latencies, began.elapsed().as_secs_f64()))
}

fn connect(port: u16) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).context("connecting")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// One request and its whole reply; the reply's body.
fn round<'a>(
    stream: &mut TcpStream,
    request: &[u8],
    buffer: &'a mut [u8],
) -> anyhow::Result<&'a [u8]> {
    stream.write_all(request)?;
    let mut filled = 0;
    loop {
        let got = stream.read(&mut buffer[filled..])?;
        ensure!(got > 0, "the server closed the connection");
        filled += got;
        let Some(head) = buffer[..filled]
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
        else {
            continue;
        };
        let length = content_length(&buffer[..head])?;
        let body_at = head + 4;
        if filled >= body_at + length {
            let ok = buffer.starts_with(b"HTTP/1.1 200");
            let body = &buffer[body_at..body_at + length];
            ensure!(
                ok,
                "the reply was {}",
                String::from_utf8_lossy(&buffer[..filled])
            );
            return Ok(body);
        }
    }
}

fn content_length(head: &[u8]) -> anyhow::Result<usize> {
    let head = std::str::from_utf8(head)?;
    let line = head
        .lines()
        .find(|line| line.len() > 15 && line[..15].eq_ignore_ascii_case("content-length:"));
    Ok(line.context("a reply without a length")?[15..]
        .trim()
        .parse()?)
}

/// One request on a connection of its own; the reply's body.
pub(crate) fn exchange(port: u16, method: &str, path: &str, body: &str) -> anyhow::Result<String> {
    let mut stream = connect(port)?;
    let mut buffer = vec![0; 65536];
    let reply = round(&mut stream, &request(method, path, body), &mut buffer)?;
    Ok(String::from_utf8_lossy(reply).into_owned())
}
