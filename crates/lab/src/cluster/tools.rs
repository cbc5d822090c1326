//! kubectl and helm, run by the lab beside a control plane.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kernel::NetNs;

use super::binaries::Binaries;
use super::chart;
use super::kubeconfig::{self, Context};
use crate::error::{Error, IoContext as _};
use crate::place::Place;

/// Namespace of everything that the lab installs.
const NAMESPACE: &str = "kube-system";
/// How long one call to the API server may take.
const CALL: &str = "30s";

/// The command-line tools with one identity.
#[derive(Debug)]
pub(super) struct Tools {
    cluster: String,
    netns: PathBuf,
    /// They are part of the control plane's cgroup, so they end with it.
    group: PathBuf,
    program: PathBuf,
    binaries: Binaries,
    /// Their home.
    dir: PathBuf,
}

impl Tools {
    /// The tools for a cluster whose control plane is in `netns`; `program` is `branchline`.
    pub(super) fn new(
        place: &Place,
        cluster: &str,
        netns: &Path,
        program: &Path,
        binaries: &Binaries,
    ) -> Result<Self, Error> {
        let host = Place::plane(cluster);
        let dir = place.node_dir(&host).join("tools");
        fs::create_dir_all(&dir).at(&dir)?;
        Ok(Self {
            cluster: cluster.to_owned(),
            netns: netns.to_owned(),
            group: place.host_cgroup(&host).join("tools"),
            program: program.to_owned(),
            binaries: binaries.clone(),
            dir,
        })
    }

    /// Applies objects as `context`, whose file exists only meanwhile.
    pub(super) fn apply_as(&self, context: Context, objects: &str) -> Result<(), Error> {
        let kubeconfig = self.dir.join("boot.kubeconfig");
        kubeconfig::save(&kubeconfig, &[context])?;
        let applied = self.apply_with(&kubeconfig, objects);
        fs::remove_file(&kubeconfig).at(&kubeconfig)?;
        applied
    }

    /// Makes `context` the identity of all that follows.
    pub(super) fn identify(&self, context: Context) -> Result<(), Error> {
        kubeconfig::save(&self.kubeconfig(), &[context])
    }

    /// Applies objects.
    pub(super) fn apply(&self, objects: &str) -> Result<(), Error> {
        self.apply_with(&self.kubeconfig(), objects)
    }

    /// Deletes objects; those that are not there are fine.
    pub(super) fn delete(&self, objects: &str) -> Result<(), Error> {
        let timeout = format!("--request-timeout={CALL}");
        let args = [
            "delete",
            "--ignore-not-found",
            "--wait=false",
            &timeout,
            "-f",
            "-",
        ];
        self.run("kubectl", &self.kubeconfig(), &args, objects)
    }

    /// Removes the release of the stack's chart.
    pub(super) fn remove_chart(&self) -> Result<(), Error> {
        let args = ["uninstall", chart::NAME, "--namespace", NAMESPACE];
        self.run("helm", &self.kubeconfig(), &args, "")
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    fn apply_with(&self, kubeconfig: &Path, objects: &str) -> Result<(), Error> {
        let timeout = format!("--request-timeout={CALL}");
        // What somebody changed by hand is set back, as an add-on with OVERWRITE does it.
        let args = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=branchline-lab",
            &timeout,
            "-f",
            "-",
        ];
        self.run("kubectl", kubeconfig, &args, objects)
    }

    /// Installs the chart of the stack, or brings its release to these values: the lab's own, then
    /// the user's, which win.
    pub(super) fn install_chart(
        &self,
        own: &serde_json::Value,
        values: &serde_json::Value,
    ) -> Result<(), Error> {
        let chart = self.dir.join(chart::NAME);
        chart::write(&chart)?;
        let file = |name: &str, values: &serde_json::Value| {
            let path = self.dir.join(name);
            fs::write(&path, values.to_string()).at(&path)?;
            Ok::<_, Error>(path.display().to_string())
        };
        let (own, values) = (file("lab.json", own)?, file("values.json", values)?);
        let chart = chart.display().to_string();
        let args = [
            "upgrade",
            "--install",
            chart::NAME,
            &chart,
            "--namespace",
            NAMESPACE,
            "--values",
            &own,
            "--values",
            &values,
        ];
        self.run("helm", &self.kubeconfig(), &args, "")
    }

    fn run(&self, tool: &str, kubeconfig: &Path, args: &[&str], input: &str) -> Result<(), Error> {
        let mut command = Command::new(&self.program);
        command.args(["lab", "enter-cgroup"]).arg(&self.group);
        command
            .arg("--")
            .arg(self.binaries.program(tool))
            .args(args);
        command.env_clear();
        command.env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        command.env("HOME", &self.dir).env("KUBECONFIG", kubeconfig);
        command.current_dir(&self.dir);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // A process is born into the namespace of the thread that starts it.
        let spawned = NetNs::open(&self.netns)?.run(|| command.spawn())?;
        let mut child = spawned.map_err(|source| Error::Spawn {
            program: self.program.clone(),
            source,
        })?;
        if let Some(mut stdin) = child.stdin.take() {
            // A tool that does not read it ends, and says why.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().doing("wait for kubectl or helm")?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Kubectl {
            cluster: self.cluster.clone(),
            what: format!("{tool} {}", args.first().copied().unwrap_or_default()),
            said,
        })
    }
}
