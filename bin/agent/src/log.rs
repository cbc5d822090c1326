//! The log in upstream's form: one JSON object per line with `level`, `ts`, `caller`, `msg`, and
//! the event's own fields after them. A log that cannot be written never stops the agent.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use settings::{LogFile, LogLevel, Logs};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry};

/// Upstream rotates at 100 MB and keeps five; one predecessor is kept here.
const ROTATE_AT: u64 = 100 << 20;

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
                },
                None,
            ),
            Err(error) => (Sink::Stderr, Some((path.clone(), error))),
        },
    };
    let layer = Lines {
        level,
        in_file: matches!(sink, Sink::File { .. }),
        sink: Mutex::new(sink),
    };
    if Registry::default().with(layer).try_init().is_err() {
        return;
    }
    if let Some((path, error)) = trouble {
        tracing::warn!(path = %path.display(), %error, "the log file cannot be written");
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let written = file.metadata()?.len();
    Ok((file, written))
}

enum Sink {
    Stdout,
    Stderr,
    File {
        path: std::path::PathBuf,
        file: File,
        written: u64,
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
            } => {
                if *written > ROTATE_AT
                    && rotate(path).is_ok()
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

fn rotate(path: &Path) -> io::Result<()> {
    let mut old = path.as_os_str().to_owned();
    old.push(".1");
    std::fs::rename(path, old)
}

struct Lines {
    level: Level,
    in_file: bool,
    sink: Mutex<Sink>,
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
        let line = line(event, Timestamp::now());
        // What matters is also where `kubectl logs` finds it; the rest is in the file only.
        if *event.metadata().level() <= Level::WARN && self.in_file {
            let _ = io::stderr().write_all(line.as_bytes());
        }
        self.sink
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(&line);
    }
}

fn line(event: &Event<'_>, now: Timestamp) -> String {
    let metadata = event.metadata();
    let level = metadata.level().as_str().to_ascii_lowercase();
    let file = metadata
        .file()
        .map_or("", |file| file.rsplit("src/").next().unwrap_or(file));
    let mut fields = Fields::default();
    event.record(&mut fields);
    let mut line = format!(
        "{{\"level\":\"{level}\",\"ts\":\"{now:.3}\",\"caller\":\"{file}:{}\",\"msg\":{}",
        metadata.line().unwrap_or(0),
        quoted(&fields.message)
    );
    line.push_str(&fields.rest);
    line.push_str("}\n");
    line
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
