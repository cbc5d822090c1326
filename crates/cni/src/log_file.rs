//! The log files of plugin and agent, as upstream rotates its own: at [`ROTATE_AT`] bytes a file is renamed to
//! `<stem>-<time>.<extension>`, and [`KEEP`] of these stay; they are not compressed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Upstream rotates at this size and keeps this many old files.
pub const ROTATE_AT: u64 = 100 << 20;
/// How many old files stay.
pub const KEEP: usize = 5;

/// Opens a log to write behind its end; makes the file (with `mode`, less the process's mask) and its folder where they
/// are missing.
pub fn append(path: &Path, mode: u32) -> io::Result<File> {
    let open = || {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(mode)
            .open(path)
    };
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder(path))?;
            open()
        }
        file => file,
    }
}

/// Renames the file to `<stem>-<time>.<extension>`, upstream's pattern, and removes the oldest of these beyond [`KEEP`].
/// A file that is not there was renamed by another process, which is as good.
pub fn rotate(path: &Path, now: Timestamp) -> io::Result<()> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = match path.extension() {
        None => String::new(),
        Some(extension) => format!(".{}", extension.to_string_lossy()),
    };
    let now = format!("{now:.3}").replace(':', "-").replace('Z', "");
    let old = path.with_file_name(format!("{stem}-{now}{extension}"));
    match fs::rename(path, old) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed?,
    }
    remove_beyond(folder(path), &format!("{stem}-"))
}

/// The time stands in the name, so the order of the names is that of the files' ages.
fn remove_beyond(folder: &Path, prefix: &str) -> io::Result<()> {
    let mut old: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            old.push(entry.path());
        }
    }
    old.sort();
    let beyond = old.len().saturating_sub(KEEP);
    let mut oldest = old[..beyond].iter();
    oldest.try_for_each(|path| match fs::remove_file(path) {
        // By another process that rotates at the same time.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    })
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_renamed_with_the_time_and_five_old_ones_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for day in 1..=6 {
            let old = format!("ipamd-2026-01-0{day}T00-00-00.000.log");
            fs::write(dir.path().join(old), "old").unwrap();
        }
        fs::write(dir.path().join("plugin.log"), "another's").unwrap();
        let path = dir.path().join("ipamd.log");
        fs::write(&path, "the newest").unwrap();
        rotate(&path, "2026-01-07T01:02:03.0049Z".parse().unwrap()).unwrap();
        assert_eq!(
            names(dir.path()),
            [
                "ipamd-2026-01-03T00-00-00.000.log",
                "ipamd-2026-01-04T00-00-00.000.log",
                "ipamd-2026-01-05T00-00-00.000.log",
                "ipamd-2026-01-06T00-00-00.000.log",
                "ipamd-2026-01-07T01-02-03.004.log",
                "plugin.log",
            ]
        );
        let newest = dir.path().join("ipamd-2026-01-07T01-02-03.004.log");
        assert_eq!(fs::read_to_string(newest).unwrap(), "the newest");
    }

    #[test]
    fn a_file_that_another_process_renamed_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        rotate(&dir.path().join("plugin.log"), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn a_file_is_made_with_its_folder_and_then_written_behind_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aws-routed-eni/plugin.log");
        for line in [&b"one\n"[..], b"two\n"] {
            append(&path, 0o600).unwrap().write_all(line).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }
}
