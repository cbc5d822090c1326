//! A port on the machine's loopback for each node's introspection.
//!
//! The management path, and the only place where the lab carries bytes: the agent answers on the
//! node's own 127.0.0.1, which nothing outside can reach. Pods' traffic never comes near it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use kernel::NetNs;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use crate::error::{Error, IoContext as _};

/// The agent's introspection, inside a node.
const INTROSPECTION: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 61679);

/// A forwarded port; forwarding ends when this is dropped.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) port: u16,
    task: JoinHandle<()>,
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Forwards a free port to the introspection behind a pinned namespace.
pub(super) async fn forward(netns: &Path) -> Result<Forward, Error> {
    let netns = NetNs::open(netns)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .doing("open a port")?;
    let port = listener.local_addr().doing("read a port's number")?.port();
    let task = tokio::spawn(async move {
        loop {
            let Ok((client, _)) = listener.accept().await else {
                continue;
            };
            // A socket belongs to the namespace it was made in, whoever connects it.
            match netns.run(TcpSocket::new_v4) {
                Ok(Ok(socket)) => drop(tokio::spawn(carry(client, socket))),
                failed => tracing::warn!(?failed, "cannot reach into a node"),
            }
        }
    });
    Ok(Forward { port, task })
}

async fn carry(mut client: TcpStream, socket: TcpSocket) {
    let Ok(mut node) = socket.connect(SocketAddr::from(INTROSPECTION)).await else {
        // Nobody listens there: the client sees its connection close, as it would see a refusal.
        return;
    };
    // Either side may go away at any time; the other then sees the end.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut node).await;
}
