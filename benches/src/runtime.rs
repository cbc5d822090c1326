//! A container runtime's half of CNI, timed: the plugin is executed as containerd executes it, and
//! so is the program that does nothing.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kernel::{NetNs, Socket};
use nodenet::LinkName;
use serde_json::{Value, json};

const LIST: &str = "/etc/cni/net.d/10-aws.conflist";
const PLUGIN: &str = "/opt/cni/bin/aws-cni";
/// Where runtimes pin the namespaces of pods.
const NETNS: &str = "/run/netns";

/// A pod's network namespace, pinned until the pod is dropped.
pub(crate) struct Pod {
    pub(crate) ns: NetNs,
    pub(crate) name: String,
    path: PathBuf,
    /// What the ADD printed.
    result: Option<Value>,
}

impl Pod {
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(NETNS)?;
        let path = Path::new(NETNS).join(format!("cni-{name}"));
        let ns = NetNs::create_pinned(&path)?;
        Socket::open_in(&ns)?.set_up(&LinkName::loopback(), true)?;
        Ok(Self {
            ns,
            name: name.to_owned(),
            path,
            result: None,
        })
    }

    /// The routing table that the ADD's result names (0.4.0: the `mac` of the pod's interface).
    pub(crate) fn table(&self) -> Option<u32> {
        let mac = &self.result.as_ref()?["interfaces"][1]["mac"];
        mac.as_str()?.parse().ok().filter(|table| *table != 0)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Err(error) = NetNs::unpin(&self.path) {
            eprintln!("error: {error}");
        }
    }
}

/// The network as the agent configured it.
pub(crate) struct Runtime {
    config: Value,
}

impl Runtime {
    /// Reads the node's network list.
    pub(crate) fn load() -> anyhow::Result<Self> {
        let list = std::fs::read_to_string(LIST).context(LIST)?;
        let list: Value = serde_json::from_str(&list).context(LIST)?;
        let mut config = list["plugins"][0].clone();
        let object = config.as_object_mut().context("a plugin in the list")?;
        object.remove("capabilities");
        let annotations = json!({ "io.kubernetes.cri.pod-annotations": {} });
        object.insert("runtimeConfig".to_owned(), annotations);
        object.insert("name".to_owned(), list["name"].clone());
        object.insert("cniVersion".to_owned(), list["cniVersion"].clone());
        Ok(Self { config })
    }

    /// One ADD, from the start of the process to its end.
    pub(crate) fn add(&self, pod: &mut Pod) -> anyhow::Result<Duration> {
        let (call, begun) = (self.call("ADD", pod), Instant::now());
        let call = call.start()?;
        call.end_add(pod)?;
        Ok(begun.elapsed())
    }

    /// One DEL.
    pub(crate) fn del(&self, pod: &Pod) -> anyhow::Result<Duration> {
        let (call, begun) = (self.call("DEL", pod), Instant::now());
        call.start()?.end()?;
        Ok(begun.elapsed())
    }

    /// ADDs of all pods at once: from the first start to the last end, and how many failed.
    pub(crate) fn add_all(&self, pods: &mut [Pod]) -> anyhow::Result<(Duration, Vec<String>)> {
        let calls: Vec<Call> = pods.iter().map(|pod| self.call("ADD", pod)).collect();
        let begun = Instant::now();
        let running = calls
            .into_iter()
            .map(Call::start)
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut failed = Vec::new();
        for (call, pod) in running.into_iter().zip(pods) {
            if let Err(error) = call.end_add(pod) {
                failed.push(error.to_string());
            }
        }
        Ok((begun.elapsed(), failed))
    }

    fn call(&self, verb: &str, pod: &Pod) -> Call {
        let mut config = self.config.clone();
        if let (Some(result), "DEL") = (&pod.result, verb) {
            config["prevResult"] = result.clone();
        }
        let mut call = Call::of(Path::new(PLUGIN), config.to_string());
        let id = format!("{:0>64}", pod.name.replace('-', "0"));
        call.command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &id)
            .env("CNI_NETNS", &pod.path)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .env(
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={};\
                     K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=uid-{}",
                    pod.name, pod.name
                ),
            );
        call
    }
}

/// The program that does nothing, executed like the plugin.
pub(crate) fn nothing(program: &Path) -> anyhow::Result<Duration> {
    let (call, begun) = (Call::of(program, "{}".to_owned()), Instant::now());
    call.start()?.end()?;
    Ok(begun.elapsed())
}

/// The program that does nothing, so many at once.
pub(crate) fn nothing_at_once(program: &Path, count: usize) -> anyhow::Result<Duration> {
    let calls: Vec<Call> = (0..count)
        .map(|_| Call::of(program, "{}".to_owned()))
        .collect();
    let begun = Instant::now();
    let running = calls
        .into_iter()
        .map(Call::start)
        .collect::<anyhow::Result<Vec<_>>>()?;
    running
        .into_iter()
        .try_for_each(|call| call.end().map(drop))?;
    Ok(begun.elapsed())
}

/// A program that is about to be executed.
struct Call {
    command: Command,
    input: String,
}

impl Call {
    fn of(program: &Path, input: String) -> Self {
        let mut command = Command::new(program);
        command
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        Self { command, input }
    }

    fn start(mut self) -> anyhow::Result<Running> {
        let mut child = self
            .command
            .spawn()
            .with_context(|| format!("execute {}", self.command.get_program().display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // Who does not read its input ends before it is written.
            let _ = stdin.write_all(self.input.as_bytes());
        }
        Ok(Running(child))
    }
}

struct Running(Child);

impl Running {
    fn end(self) -> anyhow::Result<Vec<u8>> {
        let output = self.0.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "{}: {}",
                output.status,
                String::from_utf8_lossy(&output.stdout)
            );
        }
        Ok(output.stdout)
    }

    fn end_add(self, pod: &mut Pod) -> anyhow::Result<()> {
        pod.result = Some(serde_json::from_slice(&self.end()?)?);
        Ok(())
    }
}
