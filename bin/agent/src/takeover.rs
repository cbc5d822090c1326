//! Taking a node over from the agent before us: one of ours, or AWS's.
//!
//! What it left in force stays in force. Addresses that are in use are in its checkpoint
//! ([`crate::store`]), interfaces are EC2's to tell ([`ipam`]), rules and routes of pods are right as
//! they are. What remains is here: it must have ended, pods may have gone while nobody watched, and
//! its translation of addresses goes on without anybody who looks after it.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use ipam::{Allocation, Key, Millis, Pod, Record};
use nodenet::{LinkName, VethPrefix};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::links;
use crate::owner::Message;
use crate::store::{Recovered, Store};

/// A pod this young may not have its link yet: its plugin was at work when the agent was killed.
const YOUNG: Duration = Duration::from_secs(120);
/// How often the socket is looked at; one system call.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What a release is called that no DEL asked for.
const GONE: &str = "PodGone";
/// The network of attachments that are not in the checkpoint; their container is the link's name.
const UNKNOWN: &str = "_not-in-checkpoint";

/// Fails while another agent serves: two would give the same addresses away. Ours are kept apart by
/// their lock, which AWS's does not know.
pub(crate) fn refuse_while_served(socket: &Path) -> anyhow::Result<()> {
    match UnixStream::connect(socket) {
        Ok(_) => bail!(
            "{} is served by another agent: does AWS's aws-node still run on this node? It must end \
             before this one starts",
            socket.display()
        ),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("looking at {}", socket.display())),
    }
}

/// Our socket in the file system. AWS's agent puts its own in the place of whatever is there, and
/// knows no lock: to see ours replaced is the only way to learn that it was started beside us.
#[derive(Debug)]
pub(crate) struct Place {
    socket: PathBuf,
    ours: (u64, u64),
}

impl Place {
    /// Of a socket that was bound a moment ago.
    pub(crate) fn of(socket: &Path) -> anyhow::Result<Self> {
        let ours = identity(socket).with_context(|| format!("looking at {}", socket.display()))?;
        Ok(Self {
            socket: socket.to_owned(),
            ours,
        })
    }

    /// Returns when the socket is not ours any more, with the words for it. The agent must then end at
    /// once: it would go on giving back addresses that the other one has given to pods.
    pub(crate) async fn lost(&self) -> anyhow::Error {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match identity(&self.socket) {
                Ok(now) if now == self.ours => {}
                Ok(_) => {
                    return anyhow!(
                        "another agent has taken the place of {}: was AWS's aws-node started on this \
                         node as well? This one ends, and starts again when the other has ended",
                        self.socket.display()
                    );
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return anyhow!(
                        "{} was removed: no plugin reaches this agent, so it ends to begin anew",
                        self.socket.display()
                    );
                }
                Err(error) => tracing::warn!(%error, "the socket cannot be looked at"),
            }
        }
    }
}

fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    let facts = std::fs::symlink_metadata(path)?;
    Ok((facts.dev(), facts.ino()))
}

/// Sets what the checkpoint says against what the node shows. Returns the pods to [`look_again`] at.
///
/// * Pods without a link were deleted while no agent ran: their addresses are free. Whoever has no
///   name is kept; so is who is young, and looked at again.
/// * Addresses that lead to a pod's link and are in no checkpoint belong to pods that nobody wrote
///   down (the file was lost, or lay elsewhere). To give them away would be to give them twice: they
///   are held until the link goes.
pub(crate) fn look(
    store: &mut Store,
    found: &mut Recovered,
    prefix: &VethPrefix,
) -> Vec<Allocation> {
    let seen = links::names().and_then(|names| Ok((names, links::pods(prefix)?)));
    let (names, pods) = match seen {
        Ok(seen) => seen,
        Err(error) => {
            tracing::warn!("links cannot be listed, so every recovered pod is kept: {error:#}");
            return Vec::new();
        }
    };
    let now = now();
    let mut doubtful = prune(store, found, &names, now);
    let known: BTreeSet<Ipv4Addr> = found.allocations.values().map(|a| a.address).collect();
    for (address, link) in pods.into_iter().filter(|(at, _)| !known.contains(at)) {
        tracing::warn!(%address, %link, "a pod that is in no checkpoint: its address is held until its link goes");
        let held = Allocation {
            key: Key {
                network: UNKNOWN.to_owned(),
                container: link.as_str().to_owned(),
                ifname: UNKNOWN.to_owned(),
            },
            pod: Pod::default(),
            address,
            since: now,
        };
        record(store, &Record::Leased(held.clone()));
        found.allocations.insert(held.key.clone(), held.clone());
        doubtful.push(held);
    }
    doubtful
}

/// Frees what is gone; returns who is too young to tell.
fn prune(
    store: &mut Store,
    found: &mut Recovered,
    names: &[LinkName],
    now: Millis,
) -> Vec<Allocation> {
    let without_link = found
        .allocations
        .values()
        .filter(|held| !has_link(held, names));
    let (gone, young): (Vec<_>, Vec<_>) = without_link
        .cloned()
        .partition(|held| is_unknown(held) || now.since(held.since) > YOUNG);
    for held in gone {
        forget(&held);
        let (key, address) = (held.key, held.address);
        found.allocations.remove(&key);
        found.released.insert(address, now);
        let at = now;
        record(store, &Record::Released { key, address, at });
    }
    young
}

/// A start does not end for this: the checkpoint that follows has it all.
fn record(store: &mut Store, record: &Record) {
    if let Err(error) = store.append(record) {
        tracing::error!("{error:#}");
    }
}

/// Looks at doubtful pods again until there are none: who still holds an address and has no link is
/// gone; of the others only those that nobody wrote down stay doubtful.
pub(crate) async fn look_again(mut doubtful: Vec<Allocation>, owner: mpsc::Sender<Message>) {
    while !doubtful.is_empty() {
        tokio::time::sleep(YOUNG).await;
        let (to, held) = oneshot::channel();
        // The owner is gone only when the agent ends.
        let _ = owner.send(Message::List(to)).await;
        let Ok(held) = held.await else { return };
        let names = match links::names() {
            Ok(names) => names,
            Err(error) => {
                tracing::warn!("links cannot be listed: {error:#}");
                continue;
            }
        };
        doubtful.retain(|one| held.iter().any(|(allocation, _)| allocation == one));
        let (there, gone) = doubtful
            .into_iter()
            .partition(|held| has_link(held, &names));
        doubtful = there;
        doubtful.retain(is_unknown);
        for held in gone {
            release(held, &owner).await;
        }
    }
}

async fn release(gone: Allocation, owner: &mpsc::Sender<Message>) {
    // Before the address is free for another pod.
    forget(&gone);
    let (to, answer) = oneshot::channel();
    let delete = Message::Delete {
        key: gone.key,
        reason: GONE.to_owned(),
        to,
    };
    let _ = owner.send(delete).await;
    let _ = answer.await;
}

fn forget(gone: &Allocation) {
    tracing::info!(key = %gone.key, address = %gone.address, "pod is gone, address released");
    links::forget(gone.address);
}

fn is_unknown(held: &Allocation) -> bool {
    held.key.network == UNKNOWN
}

fn has_link(held: &Allocation, names: &[LinkName]) -> bool {
    if is_unknown(held) {
        return names.iter().any(|name| name.as_str() == held.key.container);
    }
    if held.pod.namespace.is_empty() || held.pod.name.is_empty() {
        return true;
    }
    let pod = nodenet::PodName::new(held.pod.namespace.as_str(), held.pod.name.as_str());
    let hash = nodenet::layout::pod_hash(&pod, 0);
    names.iter().any(|name| name.as_str().ends_with(&hash))
}

fn now() -> Millis {
    Millis(0).after(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

/// The chains with which AWS's agent translates pods' addresses to the node's, and marks what it
/// translates. A kernel without nf_tables has none.
fn left_rules() -> Vec<String> {
    let chains = kernel::nft::chains().unwrap_or_else(|error| {
        tracing::debug!(%error, "nft chains are not listed");
        Vec::new()
    });
    let mut left: Vec<String> = chains
        .into_iter()
        .filter(|at| at.table == "aws-cni" || at.chain.starts_with("AWS-"))
        .map(|at| format!("nft ip {} {}", at.table, at.chain))
        .collect();
    // Its chains cannot be listed without iptables; that there is a table says enough.
    let legacy = std::fs::read_to_string("/proc/self/net/ip_tables_names").unwrap_or_default();
    if legacy.lines().any(|table| table == "nat") {
        left.push("iptables-legacy nat".to_owned());
    }
    left
}

/// What becomes of packets that leave the VPC, for `/state`. `external`:
/// `AWS_VPC_K8S_CNI_EXTERNALSNAT`, with which the node translates nothing.
pub(crate) fn translation(external: bool) -> Value {
    json!({ "wanted": !external, "built": false, "left": left_rules() })
}

/// Says at the start what becomes of packets that leave the VPC. Nothing is changed: to take the
/// rules away would cut the connections that use them, and new ones too.
pub(crate) fn tell_translation(external: bool) {
    let left = left_rules();
    match (external, left.is_empty()) {
        (true, true) => {}
        (false, true) => tracing::warn!(
            "AWS_VPC_K8S_CNI_EXTERNALSNAT is false, but translation on the node is not built yet: \
             pods reach the VPC; what leaves it needs a NAT gateway"
        ),
        (false, false) => tracing::warn!(
            ?left,
            "AWS_VPC_K8S_CNI_EXTERNALSNAT is false, and translation on the node is not built yet: \
             the rules that AWS's agent left are in force and stay. Nobody follows changes of the \
             VPC's blocks in them, and the next boot comes without them"
        ),
        (true, false) => tracing::warn!(
            ?left,
            "AWS_VPC_K8S_CNI_EXTERNALSNAT is true, but the rules that AWS's agent left still \
             translate: they stay until the node boots, since connections use them"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_that_answers_is_another_agents() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("ipamd.sock");
        refuse_while_served(&socket).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let error = refuse_while_served(&socket).unwrap_err().to_string();
        assert!(error.contains("another agent"), "{error}");
        // A killed agent leaves its socket; nobody answers on it.
        drop(listener);
        refuse_while_served(&socket).unwrap();
    }
}
