//! A lab that is up while it is measured.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// A lab of the release binary `branchline`, taken down when dropped.
pub(crate) struct Lab {
    branchline: PathBuf,
    name: String,
    /// How long `lab up` took.
    pub(crate) took: Duration,
}

impl Lab {
    /// Brings a topology up under a name of its own.
    pub(crate) fn up(bin: &Path, topology: &Path) -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut lab = Self {
            branchline: bin.join("branchline"),
            name: format!("bench-{}-{number}", std::process::id()),
            took: Duration::ZERO,
        };
        let begun = Instant::now();
        lab.run(["lab", "up", "-f", path(topology)?])?;
        lab.took = begun.elapsed();
        Ok(lab)
    }

    /// Takes it down, and says how long that took.
    pub(crate) fn down(self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.run(["lab", "down"])?;
        let took = begun.elapsed();
        std::mem::forget(self);
        Ok(took)
    }

    /// Runs `branchline …` against the lab; returns what it prints.
    pub(crate) fn run<'a>(
        &self,
        args: impl IntoIterator<Item = &'a str>,
    ) -> anyhow::Result<String> {
        let mut command = self.command(args);
        let output = command
            .stdin(Stdio::null())
            .output()
            .context("execute branchline")?;
        if !output.status.success() {
            bail!(
                "{command:?}: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// `branchline …` with the lab's name in its environment.
    pub(crate) fn command<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(&self.branchline);
        command.env("BRANCHLINE_LAB", &self.name).args(args);
        command
    }

    /// Runs a part of this program inside a node; what it prints is printed.
    pub(crate) fn inside(&self, node: &str, part: &[&str]) -> anyhow::Result<()> {
        print!("{}", self.inside_for(node, part)?);
        Ok(())
    }

    /// Runs a part of this program inside a node; returns what it prints.
    pub(crate) fn inside_for(&self, node: &str, part: &[&str]) -> anyhow::Result<String> {
        let own = std::env::current_exe()?;
        let head = ["lab", "node", "exec", node, "--", path(&own)?, "node"];
        self.run(head.into_iter().chain(part.iter().copied()))
    }

    /// Variables that `branchline` and `aws` need to find the lab.
    pub(crate) fn env(&self) -> anyhow::Result<Vec<(String, String)>> {
        let text = self.run(["lab", "env", "--shell", "json"])?;
        let vars: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text)?;
        let text = |v: serde_json::Value| v.as_str().map(str::to_owned).unwrap_or_default();
        Ok(vars.into_iter().map(|(k, v)| (k, text(v))).collect())
    }

    /// What the lab's daemon answers at a path of its own surface.
    pub(crate) fn surface(&self, path: &str) -> anyhow::Result<String> {
        let env = self.env()?;
        let endpoint = env.iter().find(|(name, _)| name == "AWS_ENDPOINT_URL");
        let (_, endpoint) = endpoint.context("AWS_ENDPOINT_URL in the lab's environment")?;
        let address = endpoint.trim_start_matches("http://").trim_end_matches('/');
        let mut stream = TcpStream::connect(address).context("reach the lab's daemon")?;
        let head = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
        anyhow::ensure!(head.contains(" 200 "), "GET {path}: {head}");
        Ok(body.to_owned())
    }

    /// A group of the node's agent below a mounted controller.
    pub(crate) fn agent_group(&self, controller: &str, node: &str) -> PathBuf {
        let top = Path::new("/sys/fs/cgroup").join(controller);
        top.join("branchline")
            .join(&self.name)
            .join(node)
            .join("agent")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.run(["lab", "down"]) {
            eprintln!("error: {error:#}");
        }
    }
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is text")
}
