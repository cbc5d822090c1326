//! Everything that was read, in one file: answers from it are those of the moment it was taken.
//!
//! What it holds is what the model needs: identifiers, addresses, rules, labels, and the address agent's
//! own variables. Other pods' variables, annotations and Secrets are never read into it.

use std::io::Write;
use std::path::Path;

use jiff::Timestamp;
use reach::Inputs;
use serde::{Deserialize, Serialize};

use crate::Error;

/// The schema's name; it changes when an older reader would misread the file.
pub const SCHEMA: &str = "branchline/snapshot/v1";

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    schema: String,
    /// The program that wrote it.
    written_by: String,
    /// When, RFC 3339.
    taken: String,
}

#[derive(Debug, Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    head: Head,
    inputs: &'a Inputs,
}

#[derive(Debug, Deserialize)]
struct Read {
    inputs: Inputs,
}

/// Writes a snapshot; the file is there whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn save(path: &Path, inputs: &Inputs) -> Result<(), Error> {
    let failed = |source| Error::SnapshotFile {
        path: path.to_owned(),
        source,
    };
    let text = text(inputs).map_err(|e| failed(e.into()))?;
    if path == Path::new("-") {
        return std::io::stdout().write_all(text.as_bytes()).map_err(failed);
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    std::fs::write(&beside, &text).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)
}

/// A snapshot's text.
pub(crate) fn text(inputs: &Inputs) -> Result<String, serde_json::Error> {
    let written = Written {
        head: Head {
            schema: SCHEMA.to_owned(),
            written_by: format!("branchline {}", env!("CARGO_PKG_VERSION")),
            taken: Timestamp::now().to_string(),
        },
        inputs,
    };
    Ok(serde_json::to_string_pretty(&written)? + "\n")
}

/// Reads a snapshot.
///
/// # Errors
/// When it is not there, not a snapshot, or one of another schema.
pub fn load(path: &Path) -> Result<Inputs, Error> {
    let text = std::fs::read(path).map_err(|source| Error::SnapshotFile {
        path: path.to_owned(),
        source,
    })?;
    let not_one = |why: String| Error::NotASnapshot {
        path: path.to_owned(),
        why,
    };
    let head: Head = serde_json::from_slice(&text).map_err(|e| not_one(e.to_string()))?;
    if head.schema != SCHEMA {
        return Err(not_one(format!(
            "its schema is {:?} (written by {}), and this program reads {SCHEMA:?}",
            head.schema, head.written_by
        )));
    }
    let read: Read = serde_json::from_slice(&text).map_err(|e| not_one(e.to_string()))?;
    Ok(read.inputs)
}
