//! DELs that no address daemon heard: notes that the plugin leaves beside the daemon's socket.
//!
//! A DEL must succeed without the daemon, or a node whose daemon is away cannot delete pods; upstream
//! then forgets it, and the address is lost until the daemon starts again and misses the pod. The
//! note names the attachment, so the daemon takes back that address and no other: not that of a
//! later pod of the same name.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

const FOLDER: &str = "deleted";

/// An attachment that the runtime deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deleted {
    /// The network's name.
    pub network_name: String,
    /// The container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface in the container.
    pub if_name: String,
}

/// A note that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What was deleted; `None`: the note cannot be read.
    pub deleted: Option<Deleted>,
    /// When it was written.
    pub at: Option<SystemTime>,
    /// Its file.
    pub path: PathBuf,
}

/// Where the notes for the daemon behind `socket` lie.
pub fn folder(socket: &Path) -> PathBuf {
    socket.with_file_name(FOLDER)
}

impl Deleted {
    /// Leaves the note; a second one of the same attachment replaces the first.
    pub fn leave(&self, socket: &Path) -> io::Result<()> {
        let folder = folder(socket);
        fs::create_dir_all(&folder)?;
        // The syntax of both parts has no slash.
        let path = folder.join(format!("{}.{}", self.container_id, self.if_name));
        let temporary = folder.join(format!(".{}", std::process::id()));
        let write = || {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            fs::rename(&temporary, &path)
        };
        // Half a note would be in the way of whoever cleans up.
        write().inspect_err(|_| drop(fs::remove_file(&temporary)))
    }
}

/// The notes that were left; none when there is no folder.
pub fn read(socket: &Path) -> io::Result<Vec<Note>> {
    let entries = match fs::read_dir(folder(socket)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut notes = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let text = fs::read(entry.path())?;
        notes.push(Note {
            deleted: serde_json::from_slice(&text).ok(),
            at: entry.metadata().and_then(|facts| facts.modified()).ok(),
            path: entry.path(),
        });
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_found_once_for_each_attachment() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("ipamd.sock");
        assert_eq!(read(&socket).unwrap(), []);
        let one = Deleted {
            network_name: "aws-cni".into(),
            container_id: "c1".into(),
            if_name: "eth0".into(),
        };
        let other = Deleted {
            if_name: "net1".into(),
            ..one.clone()
        };
        for deleted in [&one, &one, &other] {
            deleted.leave(&socket).unwrap();
        }
        fs::write(folder(&socket).join("junk"), "{").unwrap();
        let mut found = read(&socket).unwrap();
        found.sort_by(|a, b| a.path.cmp(&b.path));
        let deleted: Vec<_> = found.iter().map(|note| note.deleted.clone()).collect();
        assert_eq!(deleted, [Some(one), Some(other), None]);
        assert!(found.iter().all(|note| note.at.is_some()));
    }
}
