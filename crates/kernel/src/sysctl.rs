//! Settings under `/proc/sys/net` of a namespace.
//!
//! The files there show the namespace of the thread that opens them, so reading and writing happen
//! on a thread inside it ([`NetNs::run`]). A caller that already is in the namespace uses
//! [`write_here`].

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use crate::{Error, NetNs, Result};

/// Writes `value` to `/proc/sys/net/<key>` in a namespace; `key` is slash-separated, for example
/// `ipv4/ip_forward`.
pub fn write(ns: &NetNs, key: &str, value: &str) -> Result<()> {
    ns.run(|| write_here(key, value))?
}

/// Several settings with one visit to the namespace; stops at the first failure.
pub fn write_all<K: AsRef<str> + Sync, V: AsRef<str> + Sync>(
    ns: &NetNs,
    settings: &[(K, V)],
) -> Result<()> {
    ns.run(|| {
        settings
            .iter()
            .try_for_each(|(k, v)| write_here(k.as_ref(), v.as_ref()))
    })?
}

/// The value of `/proc/sys/net/<key>` in a namespace, without the line end.
pub fn read(ns: &NetNs, key: &str) -> Result<String> {
    ns.run(|| {
        let text = fs::read_to_string(path(key)?).map_err(|source| failed(key, source))?;
        Ok(text.trim_end().to_owned())
    })?
}

/// The value of a setting of the namespace that the calling thread is in; `None` when this kernel
/// does not have it.
pub fn read_here(key: &str) -> Result<Option<String>> {
    match fs::read_to_string(path(key)?) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(key, source)),
    }
}

/// Writes a setting of the namespace that the calling thread is in.
pub fn write_here(key: &str, value: &str) -> Result<()> {
    // Not fs::write: O_CREAT on a missing file of /proc answers EACCES instead of ENOENT.
    let file = fs::OpenOptions::new().write(true).open(path(key)?);
    file.and_then(|mut f| f.write_all(value.as_bytes()))
        .map_err(|source| failed(key, source))
}

/// Like [`write_here`], but a setting that this kernel does not have (IPv6 left out, say) is fine.
/// Returns whether it was there.
pub fn write_here_if_present(key: &str, value: &str) -> Result<bool> {
    match write_here(key, value) {
        Err(Error::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.map(|()| true),
    }
}

/// A key never leaves `/proc/sys/net`, whatever link name it was made of.
fn path(key: &str) -> Result<PathBuf> {
    if key
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return Err(failed(key, io::Error::from(io::ErrorKind::InvalidInput)));
    }
    Ok(PathBuf::from("/proc/sys/net").join(key))
}

fn failed(key: &str, source: io::Error) -> Error {
    Error::Sysctl {
        key: key.to_owned(),
        source,
    }
}
