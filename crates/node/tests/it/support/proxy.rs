//! A way to a server that can be cut, as networks can.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Passes connections on; ends with the test.
pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    is_cut: bool,
    is_over: bool,
    streams: Vec<TcpStream>,
}

impl Proxy {
    /// A way to `target`, which is open.
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let mut state = shared.lock().expect("no panic under the lock");
                if state.is_over {
                    return;
                }
                // A client of a way that is cut finds its connection closed.
                if state.is_cut {
                    continue;
                }
                if let Ok(server) = TcpStream::connect(target) {
                    for (from, to) in [(&client, &server), (&server, &client)] {
                        state.streams.push(from.try_clone().expect("a handle"));
                        let from = from.try_clone().expect("a handle");
                        let to = to.try_clone().expect("a handle");
                        std::thread::spawn(move || pass(from, to));
                    }
                }
            }
        });
        Self { address, state }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Ends all connections and lets none through.
    pub(crate) fn cut(&self) {
        let mut state = self.state.lock().expect("no panic under the lock");
        state.is_cut = true;
        for stream in state.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets connections through again.
    pub(crate) fn mend(&self) {
        let mut state = self.state.lock().expect("no panic under the lock");
        state.is_cut = false;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        if let Ok(mut state) = self.state.lock() {
            state.is_over = true;
        }
        // Wakes the thread, which then ends.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut chunk = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        if to.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
