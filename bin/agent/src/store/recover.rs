//! What a start finds in the files, whatever is left of them.
//!
//! A file that cannot be used is no reason to serve nobody: pods that run are known by the kernel
//! ([`crate::takeover`]), interfaces by EC2. Such a file is kept beside as `NAME.broken-N` (the last
//! three), and told. What it may have said besides (who left a moment ago, whose ADD was at work)
//! nobody knows: so every address that is free at the start rests first, as if it had been released
//! right then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ipam::{Allocation, Key, Millis};

use super::format::{Checkpoint, Line, OUR_VERSION, Ours, VERSION, WRITER};
use super::{Error, io_error};

/// How many broken files of a name are kept.
const KEPT: usize = 3;

/// What a start finds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Recovered {
    pub(crate) allocations: BTreeMap<Key, Allocation>,
    pub(crate) released: BTreeMap<Ipv4Addr, Millis>,
    pub(crate) returned: BTreeMap<Ipv4Addr, Millis>,
    /// When another agent last wrote the checkpoint, if the last one to write it was not ours; or
    /// now, when what ours wrote is lost.
    pub(crate) unwatched_until: Option<Millis>,
    /// The instance that the files are about, as far as they say.
    pub(crate) instance: Option<String>,
    /// There is something of an earlier start.
    pub(crate) earlier: bool,
    /// What could not be used.
    pub(crate) broken: Vec<Broken>,
}

/// A file, or a part of one, that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    /// The fact, with the file's name.
    pub(crate) why: String,
    /// Where it was put.
    pub(crate) kept: Option<PathBuf>,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)?;
        match &self.kept {
            Some(kept) => write!(f, " (kept as {})", kept.display()),
            None => Ok(()),
        }
    }
}

impl Recovered {
    /// No time of an earlier start lies ahead: the wall clock was turned back since, and what is
    /// "released in an hour" would rest for an hour.
    pub(crate) fn clamp(&mut self, now: Millis) {
        let times = self
            .released
            .values_mut()
            .chain(self.returned.values_mut())
            .chain(self.unwatched_until.as_mut())
            .chain(self.allocations.values_mut().map(|held| &mut held.since));
        for at in times {
            *at = (*at).min(now);
        }
    }

    /// For `/state`.
    pub(crate) fn told(&self) -> String {
        if !self.broken.is_empty() {
            let broken: Vec<String> = self.broken.iter().map(ToString::to_string).collect();
            return format!("rebuilt: {}", broken.join("; "));
        }
        if self.earlier {
            "checkpoint"
        } else {
            "nothing"
        }
        .to_owned()
    }
}

/// Reads the three files; and whether the journal counts. An error means that the agent must not start
/// at all.
pub(super) fn read_all(
    checkpoint: &Path,
    ours: &Path,
    journal: &Path,
) -> Result<(Recovered, bool), Error> {
    let mut found = Recovered::default();
    let written = read_checkpoint(checkpoint, &mut found);
    let by_us = usable(checkpoint, written, &mut found)?.flatten();
    let read = read_ours(ours, &mut found);
    let has_ours = usable(ours, read, &mut found)?.unwrap_or(true);
    let counts = by_us == Some(true) || is_current(journal, checkpoint);
    let lines = if counts {
        let replayed = replay(journal, &mut found);
        usable(journal, replayed, &mut found)?.unwrap_or(0)
    } else {
        0
    };
    if by_us.is_none() && found.broken.is_empty() && (has_ours || lines > 0 || has_kept(checkpoint))
    {
        found.broken.push(Broken {
            why: format!(
                "{} is missing, and an earlier start has written it",
                checkpoint.display()
            ),
            kept: None,
        });
    }
    found.earlier = by_us.is_some() || has_ours || lines > 0;
    Ok((found, counts))
}

/// Keeps a file that cannot be used, and goes on without it.
fn usable<T>(
    path: &Path,
    read: Result<T, Error>,
    found: &mut Recovered,
) -> Result<Option<T>, Error> {
    let error = match read {
        Ok(value) => return Ok(Some(value)),
        Err(error) if error.is_final() => return Err(error),
        Err(error) => error,
    };
    let kept = keep(path).map_err(io_error(path, "cannot be used, and cannot be put aside"))?;
    found.broken.push(Broken {
        why: error.to_string(),
        kept: Some(kept),
    });
    Ok(None)
}

/// A copy, so that a start that is killed finds the file again; what cannot be copied is moved.
fn keep(path: &Path) -> io::Result<PathBuf> {
    let mut taken = kept(path)?;
    let next = taken.last().map_or(1, |(n, _)| n + 1);
    let target = numbered(path, next);
    if !path.is_file() || fs::copy(path, &target).is_err() {
        fs::rename(path, &target)?;
    }
    taken.push((next, target.clone()));
    let surplus = taken.len().saturating_sub(KEPT);
    for (_, old) in &taken[..surplus] {
        if old.is_dir() {
            fs::remove_dir_all(old)?;
        } else {
            fs::remove_file(old)?;
        }
    }
    Ok(target)
}

fn numbered(path: &Path, n: u64) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.broken-{n}"))
}

/// The broken files that were kept, the oldest first.
fn kept(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let Some(dir) = path.parent() else {
        return Ok(Vec::new());
    };
    let prefix = format!(
        "{}.broken-",
        path.file_name().unwrap_or_default().to_string_lossy()
    );
    let mut kept = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(&prefix)?.parse().ok());
        kept.extend(number.map(|n| (n, entry.path())));
    }
    kept.sort();
    Ok(kept)
}

/// A start before this one put a file aside and was killed before it wrote another.
fn has_kept(path: &Path) -> bool {
    kept(path).is_ok_and(|kept| !kept.is_empty())
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(path, "cannot be read")(error)),
    }
}

/// Whether the file is there, and if so whether we wrote it.
fn read_checkpoint(path: &Path, found: &mut Recovered) -> Result<Option<bool>, Error> {
    let Some(text) = read(path)? else {
        return Ok(None);
    };
    let checkpoint: Checkpoint = parse(path, &text, VERSION)?;
    expect_version(path, checkpoint.version, VERSION)?;
    let by_us = checkpoint.writer.as_deref() == Some(WRITER);
    if !by_us {
        found.unwatched_until = modified(path).and_then(since_epoch);
    }
    let mut leases = Vec::new();
    for entry in checkpoint.allocations {
        leases.push(entry.lease().map_err(|key| Error::Ipv6 {
            path: path.to_owned(),
            key,
        })?);
    }
    let (leases, contested) = without_contested(leases);
    found.allocations = leases;
    if !contested.is_empty() {
        // Who has such an address the kernel knows.
        let kept = keep(path).map_err(io_error(path, "cannot be kept"))?;
        found
            .broken
            .extend(contested.into_iter().map(|(address, keys)| Broken {
                why: format!("{}: {address} is in use by {keys}", path.display()),
                kept: Some(kept.clone()),
            }));
    }
    Ok(Some(by_us))
}

type Leases = BTreeMap<Key, Allocation>;

/// The leases whose address no other has; and the addresses that several have, with whose they are.
fn without_contested(leases: Vec<Allocation>) -> (Leases, BTreeMap<Ipv4Addr, String>) {
    let (mut seen, mut twice) = (BTreeSet::new(), BTreeSet::new());
    for lease in &leases {
        if !seen.insert(lease.address) {
            twice.insert(lease.address);
        }
    }
    let (contested, alone): (Vec<_>, Vec<_>) = leases
        .into_iter()
        .partition(|lease| twice.contains(&lease.address));
    let mut by_address: BTreeMap<Ipv4Addr, String> = BTreeMap::new();
    for lease in contested {
        let keys = by_address.entry(lease.address).or_default();
        let and = if keys.is_empty() { "" } else { " and by " };
        keys.push_str(&format!("{and}{}", lease.key));
    }
    let alone = alone.into_iter().map(|lease| (lease.key.clone(), lease));
    (alone.collect(), by_address)
}

fn parse<T: serde::de::DeserializeOwned>(
    path: &Path,
    text: &[u8],
    expected: &'static str,
) -> Result<T, Error> {
    if text.is_empty() {
        return Err(Error::Empty {
            path: path.to_owned(),
        });
    }
    serde_json::from_slice(text).map_err(|source| {
        // Another version may have another form: that it is another version says more.
        let version = serde_json::from_slice::<serde_json::Value>(text)
            .ok()
            .and_then(|value| Some(value.get("version")?.as_str()?.to_owned()));
        match version {
            Some(version) if version != expected => Error::Version {
                path: path.to_owned(),
                version,
                expected,
            },
            _ => Error::Syntax {
                path: path.to_owned(),
                expected,
                source,
            },
        }
    })
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

/// Whether the file is there.
fn read_ours(path: &Path, found: &mut Recovered) -> Result<bool, Error> {
    let Some(text) = read(path)? else {
        return Ok(false);
    };
    let ours: Ours = parse(path, &text, OUR_VERSION)?;
    expect_version(path, ours.version, OUR_VERSION)?;
    found.released = ours.released;
    found.returned = ours.returned;
    found.instance = ours.instance;
    Ok(true)
}

pub(super) fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// Milliseconds since the Unix epoch; `None` for what was before.
pub(crate) fn since_epoch(at: SystemTime) -> Option<Millis> {
    Some(Millis(0).after(at.duration_since(SystemTime::UNIX_EPOCH).ok()?))
}

/// Not older than a checkpoint that we did not write: an older one was written before somebody else
/// wrote that. (One that we wrote is never newer than its journal, whatever the clock shows.)
fn is_current(journal: &Path, checkpoint: &Path) -> bool {
    match (modified(journal), modified(checkpoint)) {
        (Some(journal), Some(checkpoint)) => journal >= checkpoint,
        (journal, _) => journal.is_some(),
    }
}

/// How many lines there were.
fn replay(path: &Path, found: &mut Recovered) -> Result<usize, Error> {
    let Some(text) = read(path)? else {
        return Ok(0);
    };
    let (mut count, mut torn) = (0, None);
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    for (i, line) in lines
        .iter()
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
    {
        match serde_json::from_slice::<Line>(line) {
            Ok(line) => {
                line.apply(found);
                count += 1;
            }
            // The kill came in the middle of the last line: nobody has heard of it.
            Err(_) if i + 1 == lines.len() => {}
            Err(_) => torn = torn.or(Some(i + 1)),
        }
    }
    match torn {
        None => Ok(count),
        Some(line) => Err(Error::Torn {
            path: path.to_owned(),
            line,
        }),
    }
}
