//! From the kernel's messages to the owner of the pool.

#![allow(
    unsafe_code,
    reason = "tokio's AsyncFd takes the word of its caller that the descriptor stays open"
)]

use std::time::Duration;

use anyhow::Context as _;
use kernel::{Change, Monitor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::owner::Message;

/// Changes come in bursts: what follows the first one so soon is taken along.
const TOGETHER: Duration = Duration::from_millis(50);
/// Until a watch that broke is begun again.
const AGAIN: Duration = Duration::from_secs(10);

/// Tells the owner what changes in the node's network.
pub(crate) fn watch(to: mpsc::Sender<Message>) {
    tokio::spawn(async move {
        while let Err(error) = follow(&to).await {
            let error = format!("{error:#}");
            tracing::error!(error, "the node's network is not watched; tried again");
            tokio::time::sleep(AGAIN).await;
            // Whatever happened meanwhile.
            let _ = to.send(Message::Network(vec![Change::Missed])).await;
        }
    });
}

/// Ends well only with the agent.
async fn follow(to: &mpsc::Sender<Message>) -> anyhow::Result<()> {
    let monitor = Monitor::open()?;
    // SAFETY: the descriptor is the monitor's own socket; it is open and the same until the monitor
    // is dropped, which the AsyncFd owns.
    let registered = unsafe { AsyncFd::register_with_interest(monitor, Interest::READABLE) };
    let mut monitor = registered.context("watching the netlink socket")?;
    loop {
        // Before anything is read: what comes while it is read makes it ready again.
        monitor.readable_mut().await?.clear_ready();
        tokio::time::sleep(TOGETHER).await;
        loop {
            let changes = monitor.get_mut().read()?;
            if changes.is_empty() {
                break;
            }
            if to.send(Message::Network(changes)).await.is_err() {
                return Ok(());
            }
        }
    }
}
