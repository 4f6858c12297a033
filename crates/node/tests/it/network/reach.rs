//! Tells what a WebAssembly function reaches. Parameters have `attempts`, separated by semicolons;
//! the result is a list of what came back, or the kind of the error, for each.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};

fn tcp(to: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    stream.write_all(b"hello")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn udp(to: &str) -> std::io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.send_to(b"hello", to)?;
    let mut buffer = [0; 100];
    let (size, from) = socket.recv_from(&mut buffer)?;
    assert_eq!(from.to_string(), to);
    Ok(String::from_utf8_lossy(&buffer[..size]).into_owned())
}

fn name(name: &str) -> std::io::Result<String> {
    let mut addresses = (name, 80).to_socket_addrs()?;
    Ok(addresses.next().map_or("none".to_owned(), |it| it.ip().to_string()))
}

/// Sends this many MiB and gets them back.
fn bulk(to: &str, megabytes: usize) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    let block: Vec<u8> = (0..1 << 20).map(|n: u32| (n ^ (n >> 8)) as u8).collect();
    let mut back = vec![0; block.len()];
    for _ in 0..megabytes {
        // Smaller pieces: both ways at once there is no room for all of it.
        for (piece, back) in block.chunks(16 << 10).zip(back.chunks_mut(16 << 10)) {
            stream.write_all(piece)?;
            stream.read_exact(back)?;
        }
        assert_eq!(back, block);
    }
    Ok("whole".to_owned())
}

/// How many connections can be open at once, of this many; and again when they are closed.
fn many(to: &str, count: usize) -> std::io::Result<String> {
    let opened = || {
        let open: Vec<_> = (0..count).map_while(|_| TcpStream::connect(to).ok()).collect();
        open.len()
    };
    let (first, second) = (opened(), opened());
    Ok(format!("{first} {second}"))
}

fn attempt(text: &str) -> std::io::Result<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        ["tcp", to] => tcp(to),
        ["udp", to] => udp(to),
        ["name", of] => name(of),
        ["bulk", to, count] => bulk(to, count.parse().unwrap()),
        ["many", to, count] => many(to, count.parse().unwrap()),
        ["listen", at] => TcpListener::bind(at).map(|_| "listens".to_owned()),
        ["bind", at] => UdpSocket::bind(at).map(|_| "bound".to_owned()),
        // Never comes: nobody was asked.
        ["wait"] => {
            let mut stream = TcpStream::connect("93.184.216.34:443")?;
            stream.read(&mut [0]).map(|size| size.to_string())
        }
        _ => panic!("{text:?} is no attempt"),
    }
}

fn main() {
    let mut params = String::new();
    std::io::stdin().read_to_string(&mut params).unwrap();
    let attempts = params.split('"').nth(3).unwrap();
    let came = |text: &str| match attempt(text) {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => format!("\"{:?}\"", error.kind()),
    };
    let results: Vec<String> = attempts.split(';').map(came).collect();
    println!("[{}]", results.join(", "));
}
