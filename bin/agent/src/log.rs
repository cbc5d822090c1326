//! The log in upstream's form and place: one JSON object per line with `level`, `ts`, `caller`,
//! `msg`, and the event's own fields after them. A log that cannot be written never stops the agent.
//!
//! The file is rotated as the plugin's is ([`log_file`]). A warning that repeats is written once a minute ([`flood`]).

mod flood;

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use cni::log_file::{self, ROTATE_AT};
use jiff::Timestamp;
use settings::{LogFile, LogLevel, Logs};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry};

use flood::{Flood, Place, Verdict};

/// Collectors of logs that are not root's may read it, where the process's mask lets them.
const MODE: u32 = 0o666;

/// Lines left out since the start, for the metrics.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// How many warnings were left out since the start because they repeat.
pub(crate) fn left_out() -> u64 {
    LEFT_OUT.load(Ordering::Relaxed)
}

/// Starts logging where the settings say; to standard error when that is not possible.
pub(crate) fn start(logs: &Logs) {
    let level = match logs.agent_level {
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Info => Level::INFO,
        LogLevel::Warn => Level::WARN,
        LogLevel::Error => Level::ERROR,
    };
    let (sink, trouble) = match &logs.agent_file {
        LogFile::Stdout => (Sink::Stdout, None),
        LogFile::Stderr => (Sink::Stderr, None),
        LogFile::Path(path) => match open(path) {
            Ok((file, written)) => (
                Sink::File {
                    path: path.clone(),
                    file,
                    written,
                    rotate_at: ROTATE_AT,
                },
                None,
            ),
            Err(error) => (Sink::Stderr, Some((path.clone(), error))),
        },
    };
    let layer = Lines {
        level,
        in_file: matches!(sink, Sink::File { .. }),
        state: Mutex::new(State {
            sink,
            flood: Flood::default(),
        }),
    };
    if Registry::default().with(layer).try_init().is_err() {
        return;
    }
    if let Some((path, error)) = trouble {
        tracing::warn!(path = %path.display(), %error, "the log file cannot be written");
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = log_file::append(path, MODE)?;
    let written = file.metadata()?.len();
    Ok((file, written))
}

enum Sink {
    Stdout,
    Stderr,
    File {
        path: PathBuf,
        file: File,
        written: u64,
        rotate_at: u64,
    },
}

impl Sink {
    fn write(&mut self, line: &str) {
        // Nothing can be done about a log that is full, and nothing must depend on it.
        let _ = match self {
            Self::Stdout => io::stdout().write_all(line.as_bytes()),
            Self::Stderr => io::stderr().write_all(line.as_bytes()),
            Self::File {
                path,
                file,
                written,
                rotate_at,
            } => {
                if *written > *rotate_at
                    && log_file::rotate(path, Timestamp::now()).is_ok()
                    && let Ok((fresh, length)) = open(path)
                {
                    (*file, *written) = (fresh, length);
                }
                *written += line.len() as u64;
                file.write_all(line.as_bytes())
            }
        };
    }
}

struct Lines {
    level: Level,
    in_file: bool,
    state: Mutex<State>,
}

struct State {
    sink: Sink,
    flood: Flood,
}

impl State {
    fn write(&mut self, level: Level, line: &str, in_file: bool) {
        // What matters is also where `kubectl logs` finds it; the rest is in the file only.
        if level <= Level::WARN && in_file {
            let _ = io::stderr().write_all(line.as_bytes());
        }
        self.sink.write(line);
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        // Libraries below us speak only when something is wrong.
        let ours = metadata.target().starts_with("branchline_agent");
        *metadata.level()
            <= if ours {
                self.level
            } else {
                self.level.min(Level::WARN)
            }
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        let place = place(event.metadata());
        let body = body(event);
        let (now, wall) = (Instant::now(), Timestamp::now());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = match level <= Level::WARN {
            true => state.flood.pass(place, &body, now),
            false => Verdict::Written { left_out: 0 },
        };
        // Warnings whose minute ended after they came again: their counts are not lost.
        for (place, body, left_out) in state.flood.over(now) {
            let line = line(place, &body, left_out, wall);
            state.write(place.2, &line, self.in_file);
        }
        match verdict {
            Verdict::Written { left_out } => {
                let line = line(place, &body, left_out, wall);
                state.write(level, &line, self.in_file);
            }
            Verdict::LeftOut => {
                LEFT_OUT.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn place(metadata: &'static Metadata<'static>) -> Place {
    let file = metadata
        .file()
        .map_or("", |file| file.rsplit("src/").next().unwrap_or(file));
    (file, metadata.line().unwrap_or(0), *metadata.level())
}

/// The message and the event's own fields.
fn body(event: &Event<'_>) -> String {
    let mut fields = Fields::default();
    event.record(&mut fields);
    format!("\"msg\":{}{}", quoted(&fields.message), fields.rest)
}

fn line((file, at, level): Place, body: &str, left_out: u32, now: Timestamp) -> String {
    let level = level.as_str().to_ascii_lowercase();
    let repeated = match left_out {
        0 => String::new(),
        n => format!(",\"repeated\":{n}"),
    };
    format!(
        "{{\"level\":\"{level}\",\"ts\":\"{now:.3}\",\"caller\":\"{file}:{at}\",{body}{repeated}}}\n"
    )
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn add(&mut self, field: &Field, json: &str) {
        // Writing to text cannot fail.
        let _ = write!(self.rest, ",{}:{json}", quoted(field.name()));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.add(field, &quoted(&text));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, &quoted(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, &value.to_string());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, &value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, if value { "true" } else { "false" });
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file holds after events, line by line.
    fn written(dir: &Path, level: Level, events: impl FnOnce()) -> Vec<serde_json::Value> {
        let path = dir.join("ipamd.log");
        let (file, written) = open(&path).unwrap();
        let sink = Sink::File {
            path: path.clone(),
            file,
            written,
            rotate_at: ROTATE_AT,
        };
        let layer = Lines {
            level,
            in_file: false,
            state: Mutex::new(State {
                sink,
                flood: Flood::default(),
            }),
        };
        tracing::subscriber::with_default(Registry::default().with(layer), events);
        let text = std::fs::read_to_string(&path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_line_has_upstreams_keys_and_the_events_fields() {
        let dir = tempfile::tempdir().unwrap();
        let lines = written(dir.path(), Level::DEBUG, || {
            tracing::info!(eni = "eni-1", n = 3, ok = true, "a \"b\"\n");
            tracing::debug!(target: "hyper", "libraries speak when something is wrong");
        });
        assert_eq!(lines.len(), 1);
        let line = &lines[0];
        assert_eq!(
            (&line["level"], &line["msg"]),
            (&"info".into(), &"a \"b\"\n".into())
        );
        assert_eq!(
            (&line["eni"], &line["n"], &line["ok"]),
            (&"eni-1".into(), &3.into(), &true.into())
        );
        let ts = line["ts"].as_str().unwrap();
        assert!(ts.len() == 24 && ts.ends_with('Z'), "{ts}");
        assert!(
            line["caller"].as_str().unwrap().starts_with("log.rs:"),
            "{line}"
        );
    }

    #[test]
    fn a_warning_that_repeats_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let before = left_out();
        let lines = written(dir.path(), Level::INFO, || {
            for pod in 0..100 {
                tracing::warn!(subnet = "subnet-1", "no free address");
                tracing::info!(pod, "a pod");
                tracing::debug!("not at this level");
            }
        });
        let warnings = lines.iter().filter(|line| line["level"] == "warn").count();
        assert_eq!((warnings, lines.len()), (1, 101));
        assert!(left_out() - before >= 99);
    }

    #[test]
    fn a_full_file_is_renamed_and_the_next_line_begins_a_fresh_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ipamd.log");
        let (file, written) = open(&path).unwrap();
        let mut sink = Sink::File {
            path: path.clone(),
            file,
            written,
            rotate_at: 10,
        };
        for line in ["0123456789\n", "next\n"] {
            sink.write(line);
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "next\n");
        let entries = std::fs::read_dir(dir.path()).unwrap();
        let old: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|at| *at != path)
            .collect();
        assert_eq!(old.len(), 1, "{old:?}");
        assert_eq!(std::fs::read_to_string(&old[0]).unwrap(), "0123456789\n");
    }
}
