//! What must survive the process: upstream's checkpoint, and what upstream does not know.
//!
//! Three files in one directory (tmpfs on a node, so a reboot clears them with the pods):
//! * `ipam.json`, upstream's `vpc-cni-ipam/1`, written whole (temporary file, fsync, rename): a
//!   node can go back to upstream at any time;
//! * `ipam.branchline.json`: when addresses were released or given back to EC2;
//! * `ipam.journal`: the changes since. An ADD costs one `write` of a line instead of a rewrite of
//!   everything (82 kB at 300 pods); what `write` has taken survives the process.
//!
//! The journal is replayed over the checkpoint; replaying a line twice changes nothing. It counts
//! only if it is not older than the checkpoint, so one left behind from before a stay with
//! upstream is ignored. A checkpoint that cannot be read stops the start: guessing would give
//! addresses away twice.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ipam::{Allocation, Key, Millis, Pod, Pool, Record};
use serde::{Deserialize, Serialize};

const VERSION: &str = "vpc-cni-ipam/1";
const OUR_VERSION: &str = "branchline-ipam/1";
/// Who wrote a checkpoint: upstream ignores the field, and writes none.
const WRITER: &str = "branchline";

/// What a file holds is not usable, or a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{}: {doing}", path.display())]
    Io {
        path: PathBuf,
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a checkpoint of the form {VERSION}", path.display())]
    Syntax {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{} has version {version:?}, expected {expected:?}", path.display())]
    Version {
        path: PathBuf,
        version: String,
        expected: &'static str,
    },
    #[error("{}: {address} is in use by {first} and by {second}", path.display())]
    Twice {
        path: PathBuf,
        address: Ipv4Addr,
        first: Box<Key>,
        second: Box<Key>,
    },
    #[error("{}: {key} has an IPv6 address, which is not built yet", path.display())]
    Ipv6 { path: PathBuf, key: Key },
    #[error("{}:{line}: a line that is not complete, followed by others", path.display())]
    Torn { path: PathBuf, line: usize },
}

/// What a start finds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Recovered {
    pub(crate) allocations: BTreeMap<Key, Allocation>,
    pub(crate) released: BTreeMap<Ipv4Addr, Millis>,
    pub(crate) returned: BTreeMap<Ipv4Addr, Millis>,
    /// When another agent last wrote the checkpoint, if the last one to write it was not ours.
    pub(crate) unwatched_until: Option<Millis>,
}

/// The files, and whether the journal holds anything that the checkpoint does not.
#[derive(Debug)]
pub(crate) struct Store {
    checkpoint: PathBuf,
    ours: PathBuf,
    journal_path: PathBuf,
    journal: File,
    dirty: bool,
}

impl Store {
    /// Opens the files beside `checkpoint` and reads what they hold.
    pub(crate) fn open(checkpoint: &Path) -> Result<(Self, Recovered), Error> {
        if let Some(dir) = checkpoint.parent() {
            fs::create_dir_all(dir).map_err(io_error(dir, "cannot be created"))?;
        }
        let ours = checkpoint.with_extension("branchline.json");
        let journal_path = checkpoint.with_extension("journal");
        let mut found = read_checkpoint(checkpoint)?;
        read_ours(&ours, &mut found)?;
        if is_current(&journal_path, checkpoint) {
            replay(&journal_path, &mut found)?;
        }
        check_unique(checkpoint, &found)?;
        let journal = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&journal_path)
            .map_err(io_error(&journal_path, "cannot be opened"))?;
        let store = Self {
            checkpoint: checkpoint.to_owned(),
            ours,
            journal_path,
            journal,
            dirty: true,
        };
        Ok((store, found))
    }

    /// Takes a change: once this returns it survives the process.
    pub(crate) fn append(&mut self, record: &Record) -> Result<(), Error> {
        let mut line = serde_json::to_vec(&Line::from(record)).expect("a line has text keys only");
        line.push(b'\n');
        self.dirty = true;
        self.journal.write_all(&line).map_err(io_error(
            &self.journal_path,
            "cannot be written: is the disk full?",
        ))
    }

    /// Whether a checkpoint would say something new.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Writes the checkpoint and empties the journal.
    pub(crate) fn checkpoint(&mut self, pool: &Pool) -> Result<(), Error> {
        let ours = Ours {
            version: OUR_VERSION.to_owned(),
            released: pool.released(),
            returned: pool.returned().clone(),
        };
        replace(&self.ours, &ours)?;
        let allocations = pool.allocations().map(Entry::from).collect();
        replace(
            &self.checkpoint,
            &Checkpoint {
                version: VERSION.to_owned(),
                writer: Some(WRITER.to_owned()),
                allocations,
            },
        )?;
        self.journal
            .set_len(0)
            .map_err(io_error(&self.journal_path, "cannot be emptied"))?;
        self.dirty = false;
        Ok(())
    }
}

fn io_error<'a>(path: &'a Path, doing: &'static str) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io {
        path: path.to_owned(),
        doing,
        source,
    }
}

fn replace(path: &Path, content: &impl Serialize) -> Result<(), Error> {
    let temporary = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        let text = serde_json::to_vec(content).map_err(io::Error::other)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(io_error(path, "cannot be replaced"))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io {
            path: path.to_owned(),
            doing: "cannot be read",
            source,
        }),
    }
}

fn read_checkpoint(path: &Path) -> Result<Recovered, Error> {
    let mut found = Recovered::default();
    let Some(text) = read(path)? else {
        return Ok(found);
    };
    let checkpoint: Checkpoint = serde_json::from_slice(&text).map_err(|source| Error::Syntax {
        path: path.to_owned(),
        source,
    })?;
    expect_version(path, checkpoint.version, VERSION)?;
    if checkpoint.writer.as_deref() != Some(WRITER) {
        found.unwatched_until = modified(path).and_then(since_epoch);
    }
    for entry in checkpoint.allocations {
        let key = entry.key();
        let Some(address) = entry.ipv4 else {
            return Err(Error::Ipv6 {
                path: path.to_owned(),
                key,
            });
        };
        let pod = Pod {
            namespace: entry.metadata.namespace,
            name: entry.metadata.name,
            uid: entry.metadata.uid,
        };
        let since = Millis(entry.timestamp / 1_000_000);
        found.allocations.insert(
            key.clone(),
            Allocation {
                key,
                pod,
                address,
                since,
            },
        );
    }
    Ok(found)
}

fn expect_version(path: &Path, version: String, expected: &'static str) -> Result<(), Error> {
    if version == expected {
        return Ok(());
    }
    Err(Error::Version {
        path: path.to_owned(),
        version,
        expected,
    })
}

fn read_ours(path: &Path, found: &mut Recovered) -> Result<(), Error> {
    let Some(text) = read(path)? else {
        return Ok(());
    };
    let ours: Ours = serde_json::from_slice(&text).map_err(|source| Error::Syntax {
        path: path.to_owned(),
        source,
    })?;
    expect_version(path, ours.version, OUR_VERSION)?;
    found.released = ours.released;
    found.returned = ours.returned;
    Ok(())
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

fn since_epoch(at: SystemTime) -> Option<Millis> {
    Some(Millis(0).after(at.duration_since(SystemTime::UNIX_EPOCH).ok()?))
}

/// Not older than the checkpoint: an older one was written before somebody else wrote that.
fn is_current(journal: &Path, checkpoint: &Path) -> bool {
    match (modified(journal), modified(checkpoint)) {
        (Some(journal), Some(checkpoint)) => journal >= checkpoint,
        (journal, _) => journal.is_some(),
    }
}

fn replay(path: &Path, found: &mut Recovered) -> Result<(), Error> {
    let Some(text) = read(path)? else {
        return Ok(());
    };
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    for (i, line) in lines
        .iter()
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
    {
        match serde_json::from_slice::<Line>(line) {
            Ok(line) => line.apply(found),
            // The kill came in the middle of the last line: nobody has heard of it.
            Err(_) if i + 1 == lines.len() => {}
            Err(_) => {
                return Err(Error::Torn {
                    path: path.to_owned(),
                    line: i + 1,
                });
            }
        }
    }
    Ok(())
}

fn check_unique(path: &Path, found: &Recovered) -> Result<(), Error> {
    let mut seen: BTreeMap<Ipv4Addr, &Key> = BTreeMap::new();
    for allocation in found.allocations.values() {
        if let Some(first) = seen.insert(allocation.address, &allocation.key) {
            return Err(Error::Twice {
                path: path.to_owned(),
                address: allocation.address,
                first: Box::new(first.clone()),
                second: Box::new(allocation.key.clone()),
            });
        }
    }
    Ok(())
}

#[derive(Debug, Serialize, Deserialize)]
struct Checkpoint {
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    writer: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    allocations: Vec<Entry>,
}

/// Go writes a nil slice as null.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<Entry>, D::Error> {
    Ok(Option::<Vec<Entry>>::deserialize(d)?.unwrap_or_default())
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(rename = "networkName")]
    network: String,
    #[serde(rename = "containerID")]
    container: String,
    #[serde(rename = "ifName")]
    ifname: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ipv4: Option<Ipv4Addr>,
    /// Nanoseconds since the Unix epoch.
    #[serde(rename = "allocationTimestamp", default)]
    timestamp: u64,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Metadata {
    #[serde(
        rename = "k8sPodNamespace",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    namespace: String,
    #[serde(
        rename = "k8sPodName",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    name: String,
    #[serde(rename = "interfacesCount", default, skip_serializing_if = "is_zero")]
    interfaces: u32,
    /// Ours; upstream ignores what it does not know.
    #[serde(
        rename = "k8sPodUID",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    uid: String,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Entry {
    fn key(&self) -> Key {
        Key {
            network: self.network.clone(),
            container: self.container.clone(),
            ifname: self.ifname.clone(),
        }
    }
}

impl From<&Allocation> for Entry {
    fn from(allocation: &Allocation) -> Self {
        let Allocation {
            key,
            pod,
            address,
            since,
        } = allocation.clone();
        Self {
            network: key.network,
            container: key.container,
            ifname: key.ifname,
            ipv4: Some(address),
            timestamp: since.0.saturating_mul(1_000_000),
            metadata: Metadata {
                namespace: pod.namespace,
                name: pod.name,
                interfaces: 1,
                uid: pod.uid,
            },
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Ours {
    version: String,
    released: BTreeMap<Ipv4Addr, Millis>,
    returned: BTreeMap<Ipv4Addr, Millis>,
}

/// One line of the journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    Leased(Entry),
    Released {
        key: Key,
        address: Ipv4Addr,
        at: Millis,
    },
    Returning {
        addresses: Vec<Ipv4Addr>,
        at: Millis,
    },
}

impl From<&Record> for Line {
    fn from(record: &Record) -> Self {
        match record {
            Record::Leased(allocation) => Self::Leased(allocation.into()),
            Record::Released { key, address, at } => Self::Released {
                key: key.clone(),
                address: *address,
                at: *at,
            },
            Record::Returning { addresses, at } => Self::Returning {
                addresses: addresses.clone(),
                at: *at,
            },
        }
    }
}

impl Line {
    fn apply(self, found: &mut Recovered) {
        match self {
            Self::Leased(entry) => {
                let key = entry.key();
                let since = Millis(entry.timestamp / 1_000_000);
                let Metadata {
                    namespace,
                    name,
                    uid,
                    ..
                } = entry.metadata;
                let pod = Pod {
                    namespace,
                    name,
                    uid,
                };
                if let Some(address) = entry.ipv4 {
                    let allocation = Allocation {
                        key: key.clone(),
                        pod,
                        address,
                        since,
                    };
                    found.allocations.insert(key, allocation);
                }
            }
            Self::Released { key, address, at } => {
                found.allocations.remove(&key);
                found.released.insert(address, at);
            }
            Self::Returning { addresses, at } => {
                found
                    .returned
                    .extend(addresses.into_iter().map(|address| (address, at)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocation(container: &str, last: u8) -> Allocation {
        let key = Key {
            network: "aws-cni".into(),
            container: container.into(),
            ifname: "eth0".into(),
        };
        let pod = Pod {
            namespace: "ns".into(),
            name: "pod".into(),
            uid: "u".into(),
        };
        let since = Millis(1_700_000_000_000);
        Allocation {
            key,
            pod,
            address: Ipv4Addr::new(10, 0, 1, last),
            since,
        }
    }

    fn open(dir: &tempfile::TempDir) -> Result<(Store, Recovered), Error> {
        Store::open(&dir.path().join("ipam.json"))
    }

    const UPSTREAM: &str = r#"{"version":"vpc-cni-ipam/1","allocations":[{"networkName":"aws-cni",
        "containerID":"c1","ifName":"eth0","ipv4":"10.0.1.5","allocationTimestamp":1700000000000000000,
        "metadata":{"k8sPodNamespace":"ns","k8sPodName":"pod","interfacesCount":1}}]}"#;

    #[test]
    fn upstreams_checkpoint_is_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ipam.json"), UPSTREAM).unwrap();
        let (_, found) = open(&dir).unwrap();
        let mut expected = allocation("c1", 5);
        expected.pod.uid.clear();
        assert_eq!(
            found.allocations.into_values().collect::<Vec<_>>(),
            [expected]
        );
    }

    #[test]
    fn what_another_agent_wrote_last_is_told_from_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ipam.json");
        assert_eq!(open(&dir).unwrap().1.unwatched_until, None);
        fs::write(&path, UPSTREAM).unwrap();
        let (mut store, found) = open(&dir).unwrap();
        let written = modified(&path).and_then(since_epoch);
        assert!(written.is_some());
        assert_eq!(found.unwatched_until, written);
        let config = ipam::Config::new(&settings::Settings::default(), 1);
        store.checkpoint(&Pool::new(config)).unwrap();
        assert_eq!(open(&dir).unwrap().1.unwatched_until, None);
    }

    #[test]
    fn changes_survive_without_a_checkpoint_and_a_torn_last_line_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ipam.json"), UPSTREAM).unwrap();
        let (mut store, found) = open(&dir).unwrap();
        let first = found.allocations.into_keys().next().unwrap();
        store.append(&Record::Leased(allocation("c2", 6))).unwrap();
        let address = Ipv4Addr::new(10, 0, 1, 5);
        let at = Millis(7);
        store
            .append(&Record::Released {
                key: first,
                address,
                at,
            })
            .unwrap();
        let addresses = vec![Ipv4Addr::new(10, 0, 1, 9)];
        store.append(&Record::Returning { addresses, at }).unwrap();
        store.journal.write_all(br#"{"leased":{"netw"#).unwrap();
        drop(store);
        let (_, found) = open(&dir).unwrap();
        assert_eq!(
            found.allocations.into_values().collect::<Vec<_>>(),
            [allocation("c2", 6)]
        );
        assert_eq!(found.released, [(address, at)].into());
        assert_eq!(found.returned, [(Ipv4Addr::new(10, 0, 1, 9), at)].into());
    }

    #[test]
    fn a_journal_from_before_a_stay_with_upstream_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(&dir).unwrap();
        store.append(&Record::Leased(allocation("c2", 6))).unwrap();
        drop(store);
        let later = SystemTime::now() + std::time::Duration::from_secs(60);
        fs::write(dir.path().join("ipam.json"), UPSTREAM).unwrap();
        let file = File::options()
            .write(true)
            .open(dir.path().join("ipam.json"))
            .unwrap();
        file.set_modified(later).unwrap();
        let (_, found) = open(&dir).unwrap();
        assert_eq!(found.allocations.len(), 1);
        assert!(
            found
                .allocations
                .into_keys()
                .all(|key| key.container == "c1")
        );
    }

    #[test]
    fn what_cannot_be_trusted_stops_the_start() {
        let twice = UPSTREAM.replace("]}", "") + ",";
        let second = UPSTREAM.split_once('[').unwrap().1.replace("c1", "c2");
        for (text, says) in [
            ("{".to_owned(), "is not a checkpoint"),
            (
                UPSTREAM.replace("ipam/1", "ipam/2"),
                "has version \"vpc-cni-ipam/2\"",
            ),
            (UPSTREAM.replace("ipv4", "ipv6"), "has an IPv6 address"),
            (
                twice + &second,
                "10.0.1.5 is in use by aws-cni/c1/eth0 and by aws-cni/c2/eth0",
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("ipam.json"), &text).unwrap();
            let error = open(&dir).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("ipam.json"),
            r#"{"version":"vpc-cni-ipam/1","allocations":null}"#,
        )
        .unwrap();
        let expected = Recovered {
            unwatched_until: modified(&dir.path().join("ipam.json")).and_then(since_epoch),
            ..Recovered::default()
        };
        assert_eq!(open(&dir).unwrap().1, expected);
    }
}
