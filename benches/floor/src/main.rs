//! The floor: the smallest program that does the same job as a warm invocation. An HTTP/1.1 server
//! that passes the body of each request over a Unix socket to an interpreter and returns what comes
//! back. No isolation, no scheduler, no limits, no error handling worth the name: nothing real can
//! be much faster, which is what makes it a measure.
//!
//! `floor INTERPRETER SCRIPT PROCESSES` prints its port and serves until it is killed. So does
//! `floor proxy PORT`, which passes everything on to that port.

#![expect(clippy::print_stdout, reason = "tells its port")]

mod proxy;

use std::collections::VecDeque;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

type Error = Box<dyn std::error::Error + Send + Sync>;

struct Workers {
    free: Mutex<VecDeque<UnixStream>>,
    permits: Semaphore,
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || {
        arguments
            .next()
            .ok_or("usage: floor INTERPRETER SCRIPT PROCESSES, or floor proxy PORT")
    };
    let (program, argument) = (next()?, next()?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    match program.as_str() {
        "proxy" => runtime.block_on(proxy::serve(argument.parse()?)),
        interpreter => runtime.block_on(serve(interpreter, &argument, next()?.parse()?)),
    }
}

async fn serve(interpreter: &str, script: &str, processes: usize) -> Result<(), Error> {
    let path = std::env::temp_dir().join(format!("floor-{}.sock", std::process::id()));
    let socket = UnixListener::bind(&path)?;
    let mut free = VecDeque::new();
    let mut children: Vec<Child> = Vec::new();
    for _ in 0..processes {
        let mut command = Command::new(interpreter);
        command
            .arg(script)
            .arg(&path)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        children.push(command.spawn()?);
        free.push_back(socket.accept().await?.0);
    }
    std::fs::remove_file(&path)?;
    let workers = Workers {
        free: Mutex::new(free),
        permits: Semaphore::new(processes),
    };
    let workers = Arc::new(workers);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    loop {
        let (client, _) = listener.accept().await?;
        let _ = client.set_nodelay(true);
        let workers = Arc::clone(&workers);
        tokio::spawn(async move {
            // Ends with the connection.
            let _ = connection(client, &workers).await;
        });
    }
}

async fn connection(mut client: TcpStream, workers: &Workers) -> Result<(), Error> {
    let mut request = Vec::with_capacity(4096);
    let mut reply = Vec::with_capacity(4096);
    loop {
        request.clear();
        let body_at = loop {
            if client.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
            if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let head = std::str::from_utf8(&request[..body_at])?.to_ascii_lowercase();
        let length = head
            .split_once("content-length:")
            .map_or("0", |(_, rest)| rest);
        let length: usize = length.lines().next().unwrap_or("0").trim().parse()?;
        while request.len() < body_at + length {
            client.read_buf(&mut request).await?;
        }
        let answer = call(workers, &request[body_at..body_at + length]).await?;
        reply.clear();
        write!(
            reply,
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        )?;
        reply.extend_from_slice(&answer);
        client.write_all(&reply).await?;
    }
}

async fn call(workers: &Workers, body: &[u8]) -> Result<Vec<u8>, Error> {
    let _permit = workers.permits.acquire().await?;
    let lock = || workers.free.lock().unwrap_or_else(PoisonError::into_inner);
    let mut worker = lock().pop_front().ok_or("a permit without a worker")?;
    let mut frame = u32::try_from(body.len())?.to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    worker.write_all(&frame).await?;
    let mut answer = Vec::with_capacity(512);
    while answer.len() < 4 {
        worker.read_buf(&mut answer).await?;
    }
    let length = answer
        .first_chunk()
        .map_or(0, |length| u32::from_be_bytes(*length)) as usize;
    while answer.len() < 4 + length {
        worker.read_buf(&mut answer).await?;
    }
    lock().push_back(worker);
    Ok(answer.split_off(4))
}
