//! The plugin's log: one JSON object per line, keys and file as upstream's (`level`, `ts`,
//! `caller`, `msg`), so that the same collectors read it.
//!
//! A log that cannot be written never disturbs the result: the first failure is told on stderr,
//! which runtimes keep apart from the result, and then the log is silent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::Location;
use std::path::{Path, PathBuf};

use cni::{Command, LogConf};
use serde_json::json;

/// Upstream rotates at this size and keeps this many old files.
const ROTATE_AT: u64 = 100 * 1024 * 1024;
const KEEP: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
}

impl Level {
    /// As upstream: in any case, anything unknown is debug.
    fn parse(level: &str) -> Self {
        match level.to_ascii_lowercase().as_str() {
            "info" => Self::Info,
            "warn" => Self::Warn,
            "error" => Self::Error,
            "fatal" => Self::Fatal,
            _ => Self::Debug,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }
}

enum Sink {
    Stderr,
    /// Opened with the first line.
    Path(PathBuf),
    File(File),
    Silent,
}

/// Where lines go.
pub(crate) struct Log {
    sink: Sink,
    level: Level,
}

impl Log {
    pub(crate) fn new(conf: &LogConf) -> Self {
        let sink = match conf.file.to_ascii_lowercase().as_str() {
            // Standard output carries the result; upstream's entry point refuses it for the log.
            "" | "stderr" | "stdout" => Sink::Stderr,
            _ => Sink::Path(PathBuf::from(&conf.file)),
        };
        Self {
            sink,
            level: Level::parse(&conf.level),
        }
    }

    /// The request as it came.
    #[track_caller]
    pub(crate) fn request(&mut self, command: &Command, stdin: &[u8]) {
        if self.level == Level::Debug {
            self.debug(&format!(
                "configuration: {}",
                String::from_utf8_lossy(stdin)
            ));
        }
        let name = command.name().to_lowercase();
        let (Command::Add(at, _) | Command::Del(at, _) | Command::Check(at, _)) = command else {
            return self.info(&format!("received CNI {name} request"));
        };
        let netns = match command {
            Command::Add(_, netns) | Command::Check(_, netns) | Command::Del(_, Some(netns)) => {
                netns.to_string_lossy()
            }
            _ => "".into(),
        };
        self.info(&format!(
            "received CNI {name} request: ContainerID({}) Netns({netns}) IfName({}) Pod({}/{})",
            at.container_id, at.if_name, at.pod.namespace, at.pod.name
        ));
    }

    #[track_caller]
    pub(crate) fn debug(&mut self, message: &str) {
        self.line(Level::Debug, message, Location::caller());
    }

    #[track_caller]
    pub(crate) fn info(&mut self, message: &str) {
        self.line(Level::Info, message, Location::caller());
    }

    #[track_caller]
    pub(crate) fn warn(&mut self, message: &str) {
        self.line(Level::Warn, message, Location::caller());
    }

    #[track_caller]
    pub(crate) fn error(&mut self, message: &str) {
        self.line(Level::Error, message, Location::caller());
    }

    fn line(&mut self, level: Level, message: &str, caller: &Location<'_>) {
        if level < self.level {
            return;
        }
        let file = Path::new(caller.file())
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let entry = Entry {
            level: level.as_str(),
            ts: format!("{:.3}", jiff::Timestamp::now()),
            caller: format!("aws-cni/{file}:{}", caller.line()),
            msg: message,
        };
        if let Err(error) = self.write(entry.to_line().as_bytes()) {
            self.sink = Sink::Silent;
            let _ = writeln!(io::stderr(), "aws-cni: cannot write the log: {error}");
        }
    }

    /// One write per line: lines of plugins that run at once do not mix in an appended file.
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if let Sink::Path(path) = &self.sink {
            self.sink = Sink::File(open(path)?);
        }
        match &mut self.sink {
            Sink::File(file) => file.write_all(line),
            Sink::Stderr => io::stderr().write_all(line),
            Sink::Path(_) | Sink::Silent => Ok(()),
        }
    }
}

struct Entry<'a> {
    level: &'static str,
    ts: String,
    caller: String,
    msg: &'a str,
}

impl Entry<'_> {
    /// Keys in upstream's order, which `serde_json::Map` would not keep.
    fn to_line(&self) -> String {
        let Self {
            level,
            ts,
            caller,
            msg,
        } = self;
        let (caller, msg) = (json!(caller), json!(msg));
        format!("{{\"level\":\"{level}\",\"ts\":\"{ts}\",\"caller\":{caller},\"msg\":{msg}}}\n")
    }
}

fn open(path: &Path) -> io::Result<File> {
    let append = || {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
    };
    let file = match append() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            append()?
        }
        file => file?,
    };
    if file.metadata()?.len() < ROTATE_AT {
        return Ok(file);
    }
    rotate(path)?;
    append()
}

/// Renames the file to `<stem>-<time>.<extension>`, upstream's pattern, and removes the oldest of
/// these beyond [`KEEP`].
fn rotate(path: &Path) -> io::Result<()> {
    let stem = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let extension = path
        .extension()
        .map(|e| format!(".{}", e.to_string_lossy()));
    let extension = extension.unwrap_or_default();
    let now = format!("{:.3}", jiff::Timestamp::now())
        .replace(':', "-")
        .replace('Z', "");
    match fs::rename(
        path,
        path.with_file_name(format!("{stem}-{now}{extension}")),
    ) {
        // Another plugin was faster.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed?,
    }
    let prefix = format!("{stem}-");
    let mut old: Vec<PathBuf> = fs::read_dir(path.parent().unwrap_or(Path::new("/")))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|at| {
            at.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(&prefix))
        })
        .collect();
    old.sort();
    let beyond = old.len().saturating_sub(KEEP);
    old[..beyond].iter().try_for_each(fs::remove_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_upstreams_keys_in_upstreams_order() {
        let entry = Entry {
            level: "info",
            ts: "2026-01-02T03:04:05.006Z".to_owned(),
            caller: "aws-cni/add.rs:1".to_owned(),
            msg: "a \"b\"\n",
        };
        assert_eq!(
            entry.to_line(),
            "{\"level\":\"info\",\"ts\":\"2026-01-02T03:04:05.006Z\",\
             \"caller\":\"aws-cni/add.rs:1\",\"msg\":\"a \\\"b\\\"\\n\"}\n"
        );
    }

    #[test]
    fn a_full_file_is_rotated_and_five_old_ones_are_kept() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("plugin.log");
        for day in 1..=6 {
            let old = directory
                .path()
                .join(format!("plugin-2020-01-0{day}T00-00-00.000.log"));
            fs::write(old, "old").expect("written");
        }
        File::create(&path)
            .and_then(|f| f.set_len(ROTATE_AT))
            .expect("a full file");
        drop(open(&path).expect("opened"));
        let mut names: Vec<_> = fs::read_dir(directory.path())
            .expect("read")
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        assert_eq!(names.len(), KEEP + 1);
        assert_eq!(names[0], "plugin-2020-01-03T00-00-00.000.log");
        assert_eq!(names[KEEP], "plugin.log");
        assert_eq!(fs::metadata(&path).expect("fresh").len(), 0);
    }
}
