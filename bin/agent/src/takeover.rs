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
use ipam::{Allocation, Key, Millis, Record};
use nodenet::VethPrefix;
use rustix::fs::inotify;
use serde_json::{Value, json};
use settings::Settings;
use tokio::net::unix::pipe;

use crate::gc::{self, Notes, Seen, Veth};
use crate::links;
use crate::store::{Recovered, Store};

/// How long a free address rests when nobody knows who had it: longer than any ADD takes.
const REST: Duration = Duration::from_secs(30);
/// Until what seems to be gone is looked at a second time.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How often the socket is looked at where its file cannot be watched; one system call.
const LOOK_EVERY: Duration = Duration::from_secs(2);

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
        // Before the first look: nothing happens between the two unseen.
        let mut bell = Bell::on(&self.socket);
        loop {
            let mut now = identity(&self.socket);
            if matches!(&now, Err(error) if error.kind() == ErrorKind::NotFound) {
                // Who replaces it removes it first: a moment later it is clear which of the two it is.
                tokio::time::sleep(LOOK_AGAIN).await;
                now = identity(&self.socket);
            }
            match now {
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
            let rung = match &bell {
                Ok(bell) => bell.rung().await,
                Err(error) => {
                    let every = LOOK_EVERY.as_secs();
                    tracing::debug!(%error, every, "the socket is not watched but looked at");
                    tokio::time::sleep(LOOK_EVERY).await;
                    Ok(())
                }
            };
            if let Err(error) = rung {
                bell = Err(error);
            }
        }
    }
}

/// Rings when the socket's file is removed or renamed: looking at it again and again was a third of
/// what an idle agent cost.
struct Bell {
    /// Readable when there is news. tokio has no type for such a descriptor that is safe to make; a
    /// pipe's end does the same with it: wait, read.
    news: pipe::Receiver,
}

impl Bell {
    fn on(path: &Path) -> std::io::Result<Self> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let watch = inotify::init(flags)?;
        // An unlink is a change of the number of links while the socket is still open.
        let events = inotify::WatchFlags::ATTRIB
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::MOVE_SELF;
        inotify::add_watch(&watch, path, events)?;
        Ok(Self {
            news: pipe::Receiver::from_owned_fd_unchecked(watch)?,
        })
    }

    async fn rung(&self) -> std::io::Result<()> {
        let mut events = [0_u8; 1024];
        self.news.readable().await?;
        match self.news.try_read(&mut events) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }
}

fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    let facts = std::fs::symlink_metadata(path)?;
    Ok((facts.dev(), facts.ino()))
}

/// Sets what the files say against what the node shows, before anybody is served.
///
/// * Who was deleted while no agent ran has left a note, or has no link any more: free. Whoever has no
///   name is kept; so is who is young ([`gc`] looks again).
/// * Addresses that lead to a pod's link and are in no file belong to pods that nobody wrote down
///   (the file was lost, or lay elsewhere). To give them away would be to give them twice: they are
///   held until the link goes.
/// * When what we wrote is lost, so is who left a moment ago and whose ADD was at work: every free
///   address rests first.
pub(crate) async fn look(
    store: &mut Store,
    found: &mut Recovered,
    settings: &Settings,
) -> anyhow::Result<()> {
    let prefix = VethPrefix::new(settings.network.veth_prefix.as_str())?;
    let now = now();
    found.clamp(now);
    let strays = match Seen::look() {
        Ok(seen) => {
            hear(store, found, &settings.paths.socket, &seen, now);
            let gone = gone(found, &seen, now);
            if !gone.is_empty() {
                forget_gone(store, found, gone, now).await;
            }
            hold(store, found, &seen, &prefix, now)
        }
        Err(error) => {
            tracing::warn!("every recovered pod is kept: {error:#}");
            0
        }
    };
    for broken in &found.broken {
        tracing::error!("the checkpoint is rebuilt from the kernel and EC2: {broken}");
    }
    if !found.broken.is_empty() || (strays > 0 && !found.earlier) {
        // With a shorter cool-down than this a plugin could still be at work.
        let more = REST.saturating_sub(settings.cooldown);
        found.unwatched_until = Some(now.after(more));
    }
    Ok(())
}

/// DELs that came while no agent ran.
fn hear(store: &mut Store, found: &mut Recovered, socket: &Path, seen: &Seen, now: Millis) {
    let notes = Notes::read(socket);
    let mut unsettled = Vec::new();
    for (key, at) in notes.deleted() {
        let Some(held) = found.allocations.get(&key).filter(|held| held.since <= at) else {
            continue;
        };
        if seen.veth(held) == Veth::There {
            // The runtime is not through with it yet.
            unsettled.push(key);
        } else {
            release(store, found, &held.clone(), at.min(now));
        }
    }
    notes.remove_settled(&unsettled);
}

fn gone(found: &Recovered, seen: &Seen, now: Millis) -> Vec<Key> {
    let grown = |held: &&Allocation| gc::is_stray(&held.key) || now.since(held.since) > gc::YOUNG;
    let gone = found.allocations.values().filter(grown);
    gone.filter(|held| seen.veth(held) == Veth::Gone)
        .map(|held| held.key.clone())
        .collect()
}

/// One look may have come while a link was between two names.
async fn forget_gone(store: &mut Store, found: &mut Recovered, gone: Vec<Key>, now: Millis) {
    tokio::time::sleep(LOOK_AGAIN).await;
    let seen = match Seen::look() {
        Ok(seen) => seen,
        Err(error) => {
            tracing::warn!("pods without a link are looked for later: {error:#}");
            return;
        }
    };
    for key in gone {
        let Some(held) = found.allocations.get(&key).cloned() else {
            continue;
        };
        if seen.veth(&held) == Veth::Gone {
            release(store, found, &held, now);
        }
    }
}

fn release(store: &mut Store, found: &mut Recovered, gone: &Allocation, at: Millis) {
    tracing::info!(key = %gone.key, address = %gone.address, "pod is gone, address released");
    links::forget(gone.address);
    let (key, address) = (gone.key.clone(), gone.address);
    found.allocations.remove(&key);
    found.released.insert(address, at);
    record(store, &Record::Released { key, address, at });
}

/// How many pods nobody wrote down.
fn hold(
    store: &mut Store,
    found: &mut Recovered,
    seen: &Seen,
    prefix: &VethPrefix,
    now: Millis,
) -> usize {
    let known: BTreeSet<Ipv4Addr> = found.allocations.values().map(|a| a.address).collect();
    let strays = seen.pods(prefix).filter(|(at, _)| !known.contains(at));
    let strays: Vec<Allocation> = strays
        .map(|(address, link)| gc::stray(address, link, now))
        .collect();
    for held in &strays {
        tracing::warn!(
            address = %held.address, link = held.key.container,
            "a pod that is in no checkpoint: its address is held until its link goes"
        );
        record(store, &Record::Leased(held.clone()));
        found.allocations.insert(held.key.clone(), held.clone());
    }
    strays.len()
}

/// A start does not end for this: the checkpoint that follows has it all.
fn record(store: &mut Store, record: &Record) {
    if let Err(error) = store.append(record) {
        tracing::error!("{error}");
    }
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

    #[tokio::test]
    async fn a_socket_that_is_replaced_or_removed_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ipamd.sock");
        let ours = UnixListener::bind(&path).unwrap();
        let place = Place::of(&path).unwrap();
        let mut lost = std::pin::pin!(place.lost());
        // What changes nothing about whose it is, is no loss; nor is a file beside it.
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        std::fs::write(dir.path().join("ipam.json"), "{}").unwrap();
        let some = Duration::from_millis(50);
        assert!(tokio::time::timeout(some, lost.as_mut()).await.is_err());
        std::fs::remove_file(&path).unwrap();
        let theirs = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(lost.await.to_string().contains("another agent has taken"));
        // Lost before it was watched.
        assert!(place.lost().await.to_string().contains("another agent"));
        drop(theirs);
        std::fs::remove_file(&path).unwrap();
        assert!(place.lost().await.to_string().contains("was removed"));
    }

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
