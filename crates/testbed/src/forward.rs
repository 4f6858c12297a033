//! A port of this machine's loopback that leads to a port of a host.

use std::io::ErrorKind;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;

use crate::host::Host;

/// How long a connection to the host may take to come about.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How often it is looked whether to end.
const LOOK: Duration = Duration::from_millis(50);

/// A running forward. Dropping it takes no more connections.
#[derive(Debug)]
pub(crate) struct Forward {
    pub(crate) address: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forward {
    pub(crate) fn start(port: u16, host: &Host, to: SocketAddr) -> anyhow::Result<Self> {
        // Made here, so that it is this machine's; connections are made on the host.
        let listener = TcpListener::bind(("127.0.0.1", port))
            .with_context(|| format!("listening on port {port}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let (entered, result) = mpsc::channel();
        // The thread can't borrow the host; its namespace is all it needs.
        let enter = host.entrance()?;
        let thread = std::thread::Builder::new()
            .name("forward".into())
            .spawn(move || {
                let inside = enter();
                let is_inside = inside.is_ok();
                let _ = entered.send(inside);
                if is_inside {
                    accept(&listener, to, &seen);
                }
            })?;
        result.recv().context("the thread ended")??;
        Ok(Self {
            address,
            is_over,
            thread: Some(thread),
        })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, to: SocketAddr, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((client, _)) => {
                // Threads of this one are on the host as well.
                std::thread::spawn(move || {
                    // A host that can't be reached: the client's connection is closed.
                    let _ = carry(&client, to);
                });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(LOOK),
            Err(_) => return,
        }
    }
}

fn carry(client: &TcpStream, to: SocketAddr) -> std::io::Result<()> {
    client.set_nonblocking(false)?;
    let host = TcpStream::connect_timeout(&to, CONNECT_MAX)?;
    for stream in [client, &host] {
        stream.set_nodelay(true)?;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| pipe(client, &host));
        pipe(&host, client);
    });
    Ok(())
}

/// Copies until the end; then the other side learns of it.
fn pipe(mut from: &TcpStream, mut to: &TcpStream) {
    let copied = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    if copied.is_err() {
        let _ = from.shutdown(Shutdown::Both);
    }
}
