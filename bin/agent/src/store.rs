//! What must survive the process: upstream's checkpoint, and what upstream does not know.
//!
//! Three files in one directory (tmpfs on a node, so a reboot clears them with the pods):
//! * `ipam.json`, upstream's `vpc-cni-ipam/1`, written whole (temporary file, fsync, rename): a
//!   node can go back to upstream at any time;
//! * `ipam.branchline.json`: when addresses were released or given back to EC2, and the instance
//!   that all of it is about;
//! * `ipam.journal`: the changes since. An ADD costs one `write` of a line instead of a rewrite of
//!   everything (82 kB at 300 pods); what `write` has taken survives the process.
//!
//! The journal is replayed over the checkpoint; replaying a line twice changes nothing. Over a
//! checkpoint that is not ours it counts only if it is not older, so one left behind from before a
//! stay with upstream is ignored. What cannot be read is [`recover`]'s.

#[cfg(test)]
mod crash;
mod format;
mod recover;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ipam::{Key, Pool, Record};
use serde::Serialize;

use format::{Checkpoint, Entry, Line, OUR_VERSION, Ours, VERSION, WRITER};
pub(crate) use recover::{Recovered, since_epoch};

/// What a file holds is not usable, or a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{}: {doing}: {source}", path.display())]
    Io {
        path: PathBuf,
        doing: &'static str,
        source: io::Error,
    },
    #[error("{} is not of the form {expected}: {source}", path.display())]
    Syntax {
        path: PathBuf,
        expected: &'static str,
        source: serde_json::Error,
    },
    #[error("{} is empty", path.display())]
    Empty { path: PathBuf },
    #[error("{} has version {version:?}, expected {expected:?}", path.display())]
    Version {
        path: PathBuf,
        version: String,
        expected: &'static str,
    },
    #[error("{}: {key} has an IPv6 address, which is not built yet", path.display())]
    Ipv6 { path: PathBuf, key: Key },
    #[error("{}:{line}: a line that is not complete, followed by others", path.display())]
    Torn { path: PathBuf, line: usize },
}

impl Error {
    /// The node is not one that this agent can serve; to go on without the file would not change it.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Ipv6 { .. })
    }
}

/// The files, and whether the journal holds anything that the checkpoint does not.
#[derive(Debug)]
pub(crate) struct Store {
    checkpoint: PathBuf,
    ours: PathBuf,
    journal_path: PathBuf,
    journal: File,
    /// The journal's whole lines, in bytes.
    length: u64,
    dirty: bool,
    /// The last change could not be written.
    failing: bool,
    instance: Option<String>,
}

impl Store {
    /// Opens the files beside `checkpoint` and reads what they hold.
    pub(crate) fn open(checkpoint: &Path) -> Result<(Self, Recovered), Error> {
        if let Some(dir) = checkpoint.parent() {
            fs::create_dir_all(dir).map_err(io_error(dir, "cannot be created"))?;
        }
        let ours = checkpoint.with_extension("branchline.json");
        let journal_path = checkpoint.with_extension("journal");
        let (found, counts) = recover::read_all(checkpoint, &ours, &journal_path)?;
        let journal = open_journal(&journal_path)?;
        // What does not count now must not count together with what is written next.
        let length = if counts {
            end_of_lines(&journal_path)?
        } else {
            0
        };
        // Half a line that a kill left: the next one must not be written behind it.
        journal
            .set_len(length)
            .map_err(io_error(&journal_path, "cannot be cut after its last line"))?;
        let store = Self {
            checkpoint: checkpoint.to_owned(),
            ours,
            journal_path,
            journal,
            length,
            dirty: true,
            failing: false,
            instance: found.instance.clone(),
        };
        Ok((store, found))
    }

    /// Names the instance that the files are about from now on; returns whose they were.
    pub(crate) fn belongs_to(&mut self, instance: &str) -> Option<String> {
        let was = self.instance.replace(instance.to_owned());
        self.dirty |= was.as_deref() != Some(instance);
        was
    }

    /// Takes a change: once this returns it survives the process.
    pub(crate) fn append(&mut self, record: &Record) -> Result<(), Error> {
        let mut line = serde_json::to_vec(&Line::from(record)).expect("a line has text keys only");
        line.push(b'\n');
        self.dirty = true;
        self.write(&line)
    }

    /// Whether a change would be taken; asked before an address is given that could not be
    /// recorded. As long as nothing fails nothing is tried.
    pub(crate) fn is_writable(&mut self) -> Result<(), Error> {
        if !self.failing {
            return Ok(());
        }
        // An empty line means nothing to who reads it.
        self.write(b"\n")
    }

    fn write(&mut self, line: &[u8]) -> Result<(), Error> {
        let journal = &mut self.journal;
        // A full disk may have taken a part of the last one.
        let cut = if self.failing {
            journal.set_len(self.length)
        } else {
            Ok(())
        };
        let written = cut.and_then(|()| journal.write_all(line));
        if written.is_err() {
            // Once more with the next one, should it fail.
            let _ = journal.set_len(self.length);
        }
        self.failing = written.is_err();
        if written.is_ok() {
            self.length += line.len() as u64;
        }
        written.map_err(io_error(
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
        let allocations = pool.allocations().map(Entry::from).collect();
        replace(
            &self.checkpoint,
            &Checkpoint {
                version: VERSION.to_owned(),
                writer: Some(WRITER.to_owned()),
                allocations,
            },
        )?;
        // After it: until the journal is empty it has these times as well.
        let ours = Ours {
            version: OUR_VERSION.to_owned(),
            instance: self.instance.clone(),
            released: pool.released(),
            returned: pool.returned().clone(),
        };
        replace(&self.ours, &ours)?;
        self.journal
            .set_len(0)
            .map_err(io_error(&self.journal_path, "cannot be emptied"))?;
        self.length = 0;
        if !self.has_journal() {
            // Somebody removed it: what is written to it would be lost with us.
            self.journal = open_journal(&self.journal_path)?;
        }
        self.dirty = false;
        Ok(())
    }

    fn has_journal(&self) -> bool {
        let identity = |facts: fs::Metadata| (facts.dev(), facts.ino());
        let named = fs::metadata(&self.journal_path).map(identity);
        let open = self.journal.metadata().map(identity);
        matches!((named, open), (Ok(named), Ok(open)) if named == open)
    }
}

fn open_journal(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(io_error(path, "cannot be opened"))
}

fn end_of_lines(path: &Path) -> Result<u64, Error> {
    let text = fs::read(path).map_err(io_error(path, "cannot be read"))?;
    let last = text.iter().rposition(|byte| *byte == b'\n');
    Ok(last.map_or(0, |at| at as u64 + 1))
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
    write().map_err(|error| {
        // Half a file would take the room that is missing; that it stays changes nothing else.
        let _ = fs::remove_file(&temporary);
        io_error(path, "cannot be replaced")(error)
    })
}
