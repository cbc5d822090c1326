//! A node and its pods as network namespaces that nothing but the test holds, and the plugin run
//! on it as a container runtime runs it.

use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use kernel::{NetNs, Socket};
use nodenet::{LinkName, NodeNet};
use serde_json::{Value, json};

use crate::agent::Agent;

/// Whether this test can run. As root it must; without root it says so, and fails under CI.
pub(crate) fn is_root() -> bool {
    let root = kernel::NetNs::create().is_ok();
    if !root {
        assert!(
            std::env::var_os("CI").is_none(),
            "this test needs root and CI must have it"
        );
        eprintln!("SKIPPED: this test needs root (CAP_SYS_ADMIN)");
    }
    root
}

/// Makes the rest of a test need root.
macro_rules! need_root {
    () => {
        if !crate::node::is_root() {
            return;
        }
    };
}
pub(crate) use need_root;

/// A node: a namespace, the daemons, a directory for the log.
pub(crate) struct Node {
    pub(crate) ns: NetNs,
    pub(crate) agent: Agent,
    pub(crate) directory: tempfile::TempDir,
}

/// A pod's namespace. Its path is a descriptor of this process, so nothing has to be mounted.
pub(crate) struct Pod {
    pub(crate) ns: NetNs,
    pub(crate) container: String,
    pub(crate) name: String,
}

impl Pod {
    pub(crate) fn new(name: &str) -> Self {
        let ns = NetNs::create().expect("root can make namespaces");
        Self {
            ns,
            container: format!("container-of-{name}"),
            name: name.to_owned(),
        }
    }

    pub(crate) fn path(&self) -> String {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.ns.as_fd().as_raw_fd()
        )
    }

    pub(crate) fn net(&self) -> NodeNet {
        kernel::node::read(&self.ns).expect("readable")
    }
}

/// What the plugin did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not JSON: {error}: {self:?}"))
    }

    /// The result of a call that must succeed with one.
    pub(crate) fn result(&self) -> Value {
        assert!(self.success, "{self:?}");
        self.json()
    }

    /// A call that must succeed without a word.
    pub(crate) fn silent(&self) {
        assert!(self.success && self.stdout.is_empty(), "{self:?}");
    }

    /// The code and message of a call that must fail with an error object of the right form.
    pub(crate) fn error(&self) -> (u64, String) {
        assert!(!self.success, "{self:?}");
        let error = self.json();
        let object = error.as_object().expect("an object");
        let known = ["cniVersion", "code", "msg", "details"];
        assert!(
            object.keys().all(|key| known.contains(&key.as_str())),
            "{error}"
        );
        let version = error["cniVersion"].as_str().expect("a version");
        assert!(version.parse::<cni::SpecVersion>().is_ok(), "{error}");
        let message = error["msg"].as_str().expect("a message");
        assert!(!message.is_empty());
        let details = error
            .get("details")
            .and_then(Value::as_str)
            .unwrap_or_default();
        (
            error["code"].as_u64().expect("a code"),
            format!("{message}\n{details}"),
        )
    }
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with(Agent::start())
    }

    pub(crate) fn with(agent: Agent) -> Self {
        let ns = NetNs::create().expect("root can make namespaces");
        let lo = LinkName::loopback();
        Socket::open_in(&ns)
            .and_then(|mut s| s.set_up(&lo, true))
            .expect("lo comes up");
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self {
            ns,
            agent,
            directory,
        }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.directory.path().join("log/plugin.log")
    }

    /// The network configuration as a runtime makes it from the installed conflist.
    pub(crate) fn conf(&self, version: &str) -> Value {
        json!({
            "cniVersion": version,
            "name": "aws-cni",
            "type": "aws-cni",
            "vethPrefix": "eni",
            "mtu": "9001",
            "podSGEnforcingMode": "strict",
            "pluginLogFile": self.log(),
            "pluginLogLevel": "Debug",
            "capabilities": {"io.kubernetes.cri.pod-annotations": true},
            "runtimeConfig": {"io.kubernetes.cri.pod-annotations": {}},
        })
    }

    pub(crate) fn net(&self) -> NodeNet {
        kernel::node::read(&self.ns).expect("readable")
    }

    /// Rules and routes: what a DEL has to take away. The veth pair goes with the pod's namespace,
    /// in the background.
    pub(crate) fn policy(&self) -> NodeNet {
        let net = self.net();
        NodeNet {
            rules: net.rules,
            routes: net.routes,
            ..NodeNet::default()
        }
    }

    pub(crate) fn host(&self) -> Socket {
        Socket::open_in(&self.ns).expect("a socket")
    }

    /// The variables that a runtime sets for a pod.
    pub(crate) fn environment(&self, command: &str, pod: &Pod) -> Vec<(&'static str, String)> {
        vec![
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", pod.container.clone()),
            ("CNI_NETNS", pod.path()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
            (
                "CNI_ARGS",
                format!(
                    "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={};\
                     K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=uid-1",
                    pod.name, pod.container
                ),
            ),
        ]
    }

    /// Executes the plugin in the node's namespace with exactly this environment and stdin.
    pub(crate) fn execute(&self, environment: &[(&str, String)], stdin: &[u8]) -> Outcome {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aws-cni"));
        command
            .env_clear()
            .env("AWS_VPC_CNI_IPAMD_SOCKET", self.agent.ipamd())
            .env("AWS_VPC_CNI_NPA_SOCKET", self.agent.npa())
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let spawned = self
            .ns
            .run(|| command.spawn())
            .expect("the namespace can be entered");
        let mut child = spawned.expect("the plugin can be executed");
        // A plugin that fails early need not have read everything.
        let _ = child.stdin.take().expect("piped").write_all(stdin);
        let output = child.wait_with_output().expect("the plugin ends");
        let text = |bytes| String::from_utf8(bytes).expect("the plugin writes text");
        Outcome {
            success: output.status.success(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// One command for a pod.
    pub(crate) fn call(&self, command: &str, pod: &Pod, conf: &Value) -> Outcome {
        self.execute(&self.environment(command, pod), conf.to_string().as_bytes())
    }

    pub(crate) fn add(&self, pod: &Pod) -> Value {
        self.call("ADD", pod, &self.conf("0.4.0")).result()
    }

    /// A configuration with the result of an ADD.
    pub(crate) fn conf_after(&self, version: &str, result: &Value) -> Value {
        let mut conf = self.conf(version);
        conf["prevResult"] = result.clone();
        conf
    }
}

/// The host end of a pod's veth.
pub(crate) fn host_link(pod: &Pod) -> LinkName {
    let name = nodenet::PodName::new("default", &pod.name);
    nodenet::layout::host_veth(&nodenet::VethPrefix::default(), &name, 0)
}

/// The address that a result gives, without its prefix length.
pub(crate) fn address_of(result: &Value) -> std::net::Ipv4Addr {
    let text = result["ips"][0]["address"].as_str().expect("an address");
    text.strip_suffix("/32")
        .expect("a host address")
        .parse()
        .expect("IPv4")
}
