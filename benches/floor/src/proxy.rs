//! The smallest program that does the same job as a load balancer with one target: each connection
//! has one of its own to the target, and what comes on one goes out on the other.

use std::io::Write as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::Error;

/// Prints its port and serves until it is killed.
pub(crate) async fn serve(target: u16) -> Result<(), Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(async move {
            // Ends with either connection.
            let _ = connection(client, target).await;
        });
    }
}

/// Requests and answers come in turn, each in one piece.
async fn connection(mut client: TcpStream, target: u16) -> Result<(), Error> {
    let mut node = TcpStream::connect(("127.0.0.1", target)).await?;
    client.set_nodelay(true)?;
    node.set_nodelay(true)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        for back in [false, true] {
            let (from, to) = match back {
                false => (&mut client, &mut node),
                true => (&mut node, &mut client),
            };
            let length = from.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            to.write_all(&buffer[..length]).await?;
        }
    }
}
