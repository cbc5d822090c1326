//! Ports on the machine's loopback for what answers inside of a namespace: each node's introspection,
//! each cluster's API server.
//!
//! The management path, and the only place where the lab carries bytes: they are reached on their
//! own 127.0.0.1, which nothing outside can reach. Traffic of nodes and pods never comes near it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use kernel::NetNs;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use crate::error::{Error, IoContext as _};

/// The agent's introspection, inside a node.
pub(super) const INTROSPECTION: u16 = 61679;

/// A forwarded port; forwarding ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Forward {
    pub(crate) port: u16,
    task: JoinHandle<()>,
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Forwards a port to `inner` on the loopback behind a pinned namespace: `wanted` if it is free, else
/// any.
pub(crate) async fn forward(
    netns: &Path,
    inner: u16,
    wanted: Option<u16>,
) -> Result<Forward, Error> {
    let netns = NetNs::open(netns)?;
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = match bind(wanted.unwrap_or(0)).await {
        Err(_) if wanted.is_some() => bind(0).await,
        first => first,
    };
    let listener = listener.doing("open a port")?;
    let port = listener.local_addr().doing("read a port's number")?.port();
    let task = tokio::spawn(async move {
        loop {
            let Ok((client, _)) = listener.accept().await else {
                continue;
            };
            // A socket belongs to the namespace it was made in, whoever connects it.
            match netns.run(TcpSocket::new_v4) {
                Ok(Ok(socket)) => drop(tokio::spawn(carry(client, socket, inner))),
                failed => tracing::warn!(?failed, "cannot reach into a namespace"),
            }
        }
    });
    Ok(Forward { port, task })
}

async fn carry(mut client: TcpStream, socket: TcpSocket, inner: u16) {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, inner));
    let Ok(mut inside) = socket.connect(to).await else {
        // Nobody listens there: the client sees its connection close, as it would see a refusal.
        return;
    };
    // Either side may go away at any time; the other then sees the end.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut inside).await;
}
