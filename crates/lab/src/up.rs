//! Starting and ending a lab from the command line.

use std::fs::{self, OpenOptions};
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::cgroup::Cgroups;
use crate::error::{Error, IoContext as _};
use crate::place::Place;
use crate::state::{Process, State};
use crate::teardown;

/// What `lab up` is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpOptions {
    /// The topology's file.
    pub file: PathBuf,
    /// Port of the EC2 API; any free one when `None`.
    pub port: Option<u16>,
    /// The `branchline` binary; the agent and the plugin are found beside it.
    pub program: PathBuf,
    /// The directory with Kubernetes' programs; see [`crate::cluster::Binaries::find`] for where they
    /// are looked for otherwise.
    pub kubernetes: Option<PathBuf>,
    /// The directory with another containerd for the nodes than the distribution's.
    pub containerd: Option<PathBuf>,
}

/// What a starting daemon tells whoever started it, one JSON object a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Progress {
    /// What comes next.
    Step(String),
    /// All stands.
    Ready,
    /// It ends, and why.
    Failed(String),
}

/// Starts a lab in the background and returns when all of it is ready. Ctrl-C on the way removes
/// what was started.
///
/// # Errors
/// When the lab is up already or something in it could not be built; nothing is left behind then.
pub fn up(place: &Place, options: &UpOptions) -> Result<(), Error> {
    prepare(place)?;
    runtime()?.block_on(start_and_follow(place, options))
}

/// Refuses when the lab is up, and removes what a killed one left.
pub(crate) fn prepare(place: &Place) -> Result<(), Error> {
    if let Some(state) = State::read(place)?
        && state.daemon.is_alive()
    {
        return Err(Error::AlreadyUp {
            name: place.name().to_string(),
            pid: state.daemon.pid,
        });
    }
    let cgroups = Cgroups::mounted()?;
    if teardown::is_left(place, &cgroups) {
        eprintln!(
            "lab '{}' was killed earlier: removing what is left of it",
            place.name()
        );
        teardown::sweep(place, &cgroups)?;
    }
    fs::create_dir_all(place.dir()).at(place.dir())
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing("start the event loop")
}

async fn start_and_follow(place: &Place, options: &UpOptions) -> Result<(), Error> {
    let mut interrupt = Interrupt::new()?;
    let begun = Instant::now();
    let mut daemon = start_daemon(place, options)?;
    let stdout = daemon.stdout.take();
    let mut lines = stdout.map(|s| BufReader::new(s).lines());
    let view = View::new(begun);
    loop {
        let line = async {
            match &mut lines {
                Some(lines) => lines.next_line().await,
                None => Ok(None),
            }
        };
        let line = tokio::select! {
            line = line => line.doing("hear from the lab's daemon")?,
            () = interrupt.recv() => {
                view.close();
                end(&mut daemon, place).await?;
                return Err(Error::Interrupted);
            }
        };
        let Some(line) = line else {
            view.close();
            let said = fs::read_to_string(place.log()).unwrap_or_default();
            end(&mut daemon, place).await?;
            return Err(Error::DaemonEnded { said: tail(&said) });
        };
        let what = || Error::Message {
            what: "the lab's daemon".to_owned(),
            source: invalid(&line),
        };
        match serde_json::from_str(&line).map_err(|_| what())? {
            Progress::Step(text) => view.step(text),
            Progress::Ready => {
                view.ready(place);
                return Ok(());
            }
            Progress::Failed(message) => {
                view.close();
                end(&mut daemon, place).await?;
                return Err(Error::Daemon { message });
            }
        }
    }
}

fn invalid(line: &str) -> serde_json::Error {
    serde::de::Error::custom(format!("'{line}'"))
}

/// The last lines of a log.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

fn start_daemon(place: &Place, options: &UpOptions) -> Result<Child, Error> {
    let log = place.log();
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .at(&log)?;
    let mut command = Command::new(&options.program);
    command
        .arg("lab")
        .arg("--lab")
        .arg(place.name().to_string());
    command.arg("--lab-dir").arg(place.parent());
    command.arg("serve").arg("--file").arg(&options.file);
    if let Some(port) = options.port {
        command.arg("--port").arg(port.to_string());
    }
    if let Some(kubernetes) = &options.kubernetes {
        command.arg("--kubernetes").arg(kubernetes);
    }
    if let Some(containerd) = &options.containerd {
        command.arg("--containerd").arg(containerd);
    }
    command.current_dir("/");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    command.spawn().map_err(|source| Error::Spawn {
        program: options.program.clone(),
        source,
    })
}

/// Waits for a daemon that is to end, and makes sure that nothing is left.
async fn end(daemon: &mut Child, place: &Place) -> Result<(), Error> {
    if let Some(id) = daemon.id().and_then(|id| i32::try_from(id).ok())
        && let Some(pid) = rustix::process::Pid::from_raw(id)
    {
        // Our own child, not yet waited for: the number is still its own.
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(PATIENCE, daemon.wait()).await.is_err() {
        daemon.kill().await.doing("end the lab's daemon")?;
    }
    teardown::sweep(place, &Cgroups::mounted()?)
}

/// How long a daemon may take to remove its lab before it is killed.
const PATIENCE: Duration = Duration::from_secs(15);

/// Removes a lab. Returns whether there was one.
///
/// # Errors
/// When something of it could not be removed.
pub fn down(place: &Place) -> Result<bool, Error> {
    let cgroups = Cgroups::mounted()?;
    let was = teardown::is_left(place, &cgroups);
    if let Some(state) = State::read(place)? {
        end_process(&state.daemon)?;
    }
    teardown::sweep(place, &cgroups)?;
    Ok(was)
}

fn end_process(process: &Process) -> Result<(), Error> {
    process.signal(Signal::TERM)?;
    // A stopped daemon would never see the first signal.
    process.signal(Signal::CONT)?;
    let begun = Instant::now();
    while process.is_alive() {
        if begun.elapsed() > PATIENCE {
            process.signal(Signal::KILL)?;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Ctrl-C or SIGTERM, whichever comes first.
pub(crate) struct Interrupt {
    int: tokio::signal::unix::Signal,
    term: tokio::signal::unix::Signal,
}

impl Interrupt {
    pub(crate) fn new() -> Result<Self, Error> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            int: signal(SignalKind::interrupt()).doing("listen for Ctrl-C")?,
            term: signal(SignalKind::terminate()).doing("listen for SIGTERM")?,
        })
    }

    pub(crate) async fn recv(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

/// Progress for people: a moving line on a terminal, plain lines elsewhere.
pub(crate) struct View {
    bar: Option<ProgressBar>,
    begun: Instant,
}

impl View {
    pub(crate) fn new(begun: Instant) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(80));
            bar
        });
        Self { bar, begun }
    }

    pub(crate) fn step(&self, text: String) {
        let line = format!("{:5.2} s  {text}", self.begun.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => {
                bar.println(line);
                bar.set_message(text);
            }
            None => eprintln!("{line}"),
        }
    }

    pub(crate) fn ready(&self, place: &Place) {
        self.close();
        let seconds = self.begun.elapsed().as_secs_f64();
        eprintln!("lab '{}' is up after {seconds:.1} s", place.name());
    }

    pub(crate) fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
