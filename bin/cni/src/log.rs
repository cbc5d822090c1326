//! The plugin's log: one JSON object per line, keys and file as upstream's (`level`, `ts`,
//! `caller`, `msg`), so that the same collectors read it.
//!
//! A log that cannot be written never disturbs the result: the first failure is told on stderr,
//! which runtimes keep apart from the result, and then the log is silent.

use std::fs::File;
use std::io::{self, Write};
use std::panic::Location;
use std::path::{Path, PathBuf};

use cni::log_file::{self, ROTATE_AT};
use cni::{Command, LogConf};
use jiff::Timestamp;
use serde_json::json;

/// What the configuration holds is root's business.
const MODE: u32 = 0o600;

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

/// Where lines go. They are kept until [`flush`](Log::flush), which is called where there is time
/// for it and at the end at the latest.
pub(crate) struct Log {
    sink: Sink,
    level: Level,
    kept: Vec<u8>,
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
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
            kept: Vec::new(),
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
            ts: format!("{:.3}", Timestamp::now()),
            caller: format!("aws-cni/{file}:{}", caller.line()),
            msg: message,
        };
        self.kept.extend_from_slice(entry.to_line().as_bytes());
    }

    /// Writes what was kept, in one write: lines of plugins that run at once do not mix in an
    /// appended file.
    pub(crate) fn flush(&mut self) {
        if self.kept.is_empty() {
            return;
        }
        if let Err(error) = self.write() {
            self.sink = Sink::Silent;
            let _ = writeln!(io::stderr(), "aws-cni: cannot write the log: {error}");
        }
        self.kept.clear();
    }

    fn write(&mut self) -> io::Result<()> {
        if let Sink::Path(path) = &self.sink {
            self.sink = Sink::File(open(path)?);
        }
        match &mut self.sink {
            Sink::File(file) => file.write_all(&self.kept),
            Sink::Stderr => io::stderr().write_all(&self.kept),
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
    let file = log_file::append(path, MODE)?;
    if file.metadata()?.len() < ROTATE_AT {
        return Ok(file);
    }
    log_file::rotate(path, Timestamp::now())?;
    log_file::append(path, MODE)
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
    fn a_full_file_is_renamed_and_the_next_plugin_begins_a_fresh_one() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("plugin.log");
        let length = |path: &Path| std::fs::metadata(path).expect("a file").len();
        let full = File::create(&path).expect("a file");
        full.set_len(ROTATE_AT - 1).expect("sparse");
        drop(open(&path).expect("opened"));
        assert_eq!(length(&path), ROTATE_AT - 1, "not full yet");
        full.set_len(ROTATE_AT).expect("sparse");
        drop(open(&path).expect("opened"));
        assert_eq!(length(&path), 0);
        let entries = std::fs::read_dir(directory.path()).expect("read");
        let old: Vec<_> = entries
            .map(|entry| entry.expect("entry").path())
            .filter(|at| *at != path)
            .collect();
        assert_eq!(old.len(), 1, "{old:?}");
        assert_eq!(length(&old[0]), ROTATE_AT);
    }
}
