//! Every variable of the stack, read once, with upstream's parsing.
//!
//! An operator swaps the agent without touching the DaemonSet, so each variable must mean what it
//! meant before, the odd rules included: a boolean that is set but empty is its default, an empty
//! `AWS_VPC_K8S_CNI_VETHPREFIX` is an empty prefix, an unreadable warm target is the default one.
//! Where upstream falls back it does so silently; here every fallback is a [`Notice`] that names
//! the variable, the value and the rule. Where upstream aborts, [`Settings::from_env`] returns
//! *all* the [`Error`]s at once. A feature that is not built is an error too, never ignored.
//!
//! Invariant: [`VARIABLES`] is the only list; what it does not name is not read, and a test reads
//! every row back. The agent, drift, plan and the lab share it.

mod engine;
mod error;
mod parse;
mod read;
mod table;

pub use engine::{Engine, GroupDrift, GroupSync};
pub use error::{Error, Errors, Notice};
pub use parse::{boolean, integer};
pub use read::Loaded;
pub use table::{OnInvalid, Unit, VARIABLES, Variable, variable};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::Serialize;

/// The stack's settings, parsed and within their ranges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// How many free addresses the pool keeps.
    pub warm: WarmTargets,
    /// `ENABLE_PREFIX_DELEGATION`: the pool takes /28 prefixes instead of single addresses.
    pub prefix_delegation: bool,
    /// `ENABLE_SUBNET_DISCOVERY`: new interfaces go to tagged subnets of the node's zone too.
    pub subnet_discovery: bool,
    /// Not `DISABLE_NETWORK_RESOURCE_PROVISIONING`: the agent creates, changes and removes
    /// interfaces; otherwise it serves what somebody else gives the node.
    pub provision: bool,
    /// `MAX_ENI`: an upper bound below the instance's own limit; `None` is the instance's.
    pub max_eni: Option<u32>,
    /// `IP_COOLDOWN_PERIOD`: how long a released address rests before its next pod.
    pub cooldown: Duration,
    /// How the security groups of the primary interface reach the others.
    pub group_sync: GroupSync,
    /// `BRANCHLINE_GROUP_DRIFT`: what happens to groups that somebody sets on another interface
    /// by hand.
    pub group_drift: GroupDrift,
    /// `BRANCHLINE_REPAIR`: rules, routes, links of the node that are ours are put right when
    /// something changes them; otherwise only told.
    pub repair: bool,
    /// `MANAGE_UNTAGGED_ENI`: interfaces without our instance tag belong to the pool.
    pub manage_untagged: bool,
    /// `DISABLE_LEAKED_ENI_CLEANUP`: leave interfaces that an earlier start did not finish.
    pub leaked_eni_cleanup: bool,
    /// What the node does to a packet.
    pub network: NodeNetwork,
    /// Tags for every interface that the agent creates, the cluster's included.
    pub tags: EniTags,
    /// Where things lie on the node.
    pub paths: Paths,
    /// Log files and levels.
    pub logs: Logs,
    /// Ports and sockets for people and scrapers.
    pub admin: Admin,
    /// `NETWORK_POLICY_ENFORCING_MODE`; `None` (unset): the plugin never calls the policy agent.
    pub policy_mode: Option<PolicyMode>,
    /// `AWS_MANAGE_ENIS_NON_SCHEDULABLE`: attach and detach interfaces of a cordoned node too.
    pub manage_enis_cordoned: bool,
    /// `DISABLE_TCP_EARLY_DEMUX`, of the init container: kubelet's probes then reach pods on branch
    /// interfaces on older kernels.
    pub disable_tcp_early_demux: bool,
    /// How the agent reaches its cluster, and what it says there.
    pub kubernetes: Kubernetes,
}

/// How the agent reaches its cluster, and what it says there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kubernetes {
    /// `MY_NODE_NAME`, from the downward API. Not part of the fingerprint.
    #[serde(skip)]
    pub node_name: Option<String>,
    /// `MY_POD_NAME`, from the downward API; the reporting instance of events. Not part of the
    /// fingerprint.
    #[serde(skip)]
    pub pod_name: Option<String>,
    /// `CLUSTER_ENDPOINT`: `https://host[:port]`, in the place of the cluster's service address,
    /// which needs kube-proxy.
    pub cluster_endpoint: Option<String>,
    /// `KUBERNETES_SERVICE_HOST`, which the kubelet sets; `None`: not a pod.
    pub service_host: Option<String>,
    /// `KUBERNETES_SERVICE_PORT`, which the kubelet sets.
    pub service_port: u16,
    /// `ANNOTATE_POD_IP`: keep `vpc.amazonaws.com/pod-ips` on pods.
    pub annotate_pod_ip: bool,
}

/// The targets of the warm pool, as vpc-cni.md §4.4 combines them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WarmTargets {
    /// `WARM_ENI_TARGET`: interfaces' worth of free addresses. Ignored once [`Self::by_address`].
    pub eni: u32,
    /// `WARM_IP_TARGET`: free addresses to hold; 0 is off.
    pub ip: u32,
    /// `MINIMUM_IP_TARGET`: floor on all addresses, used or free; 0 is off.
    pub minimum: u32,
    /// `WARM_PREFIX_TARGET`: whole free prefixes to hold, with prefix delegation only. Ignored once
    /// [`Self::by_address`].
    pub prefix: u32,
}

impl WarmTargets {
    /// Whether single addresses are counted instead of whole interfaces: either address target is set.
    pub fn by_address(self) -> bool {
        self.ip != 0 || self.minimum != 0
    }
}

impl Default for WarmTargets {
    fn default() -> Self {
        Self {
            eni: 1,
            ip: 0,
            minimum: 0,
            prefix: 1,
        }
    }
}

/// What the node does to a packet; the input of `nodenet`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeNetwork {
    /// `AWS_VPC_K8S_CNI_VETHPREFIX`: start of every host-side veth name, at most 4 characters.
    pub veth_prefix: String,
    /// `AWS_VPC_ENI_MTU`, bytes.
    pub eni_mtu: u16,
    /// `POD_MTU`, bytes; the interface's unless set.
    pub pod_mtu: u16,
    /// `AWS_VPC_K8S_CNI_EXTERNALSNAT`: somebody else translates traffic that leaves the VPC.
    pub external_snat: bool,
    /// `AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS`: destinations that keep the pod's address.
    pub exclude_snat: Vec<Ipv4Net>,
    /// `AWS_EXTERNAL_SERVICE_CIDRS`: destinations looked up in the main table (rule 1535).
    pub external_services: Vec<Ipv4Net>,
    /// `AWS_VPC_K8S_CNI_RANDOMIZESNAT`.
    pub randomize_snat: RandomizeSnat,
    /// `AWS_VPC_CNI_NODE_PORT_SUPPORT`: replies to node ports leave by the primary interface.
    pub node_port: bool,
    /// `AWS_VPC_K8S_CNI_CONNMARK`: the conntrack bit of that traffic (rule 1024).
    pub connmark: u32,
}

/// How source ports are chosen when the node translates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RandomizeSnat {
    /// `prng`: fully random.
    Prng,
    /// `hashrandom`: random by hash.
    HashRandom,
    /// `none`: the kernel's order.
    None,
}

/// What a pod may do before its policies are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyMode {
    /// The policy agent is called but enforces nothing.
    None,
    /// Open until a policy selects the pod.
    Standard,
    /// Closed until the pod's policies are known.
    Strict,
}

impl PolicyMode {
    /// The word on the wire (`NetworkPolicyMode` of the RPC).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Standard => "standard",
            Self::Strict => "strict",
        }
    }
}

/// Tags for interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct EniTags {
    /// `CLUSTER_NAME`; adds `cluster.k8s.amazonaws.com/name` and `eks:eni:owner`.
    pub cluster: Option<String>,
    /// `ADDITIONAL_ENI_TAGS`, reserved keys already dropped.
    pub additional: BTreeMap<String, String>,
}

/// Where things lie on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Paths {
    /// `AWS_VPC_K8S_CNI_BACKING_STORE`: the checkpoint, format `vpc-cni-ipam/1`.
    pub checkpoint: PathBuf,
    /// `AWS_VPC_CNI_IPAMD_SOCKET`: where the agent listens for the plugin.
    pub socket: PathBuf,
    /// `HOST_CNI_BIN_PATH`: where the runtime looks for plugins.
    pub cni_bin: PathBuf,
    /// `HOST_CNI_CONFDIR_PATH`: where the runtime looks for network lists.
    pub cni_conf: PathBuf,
}

/// A log's destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFile {
    /// Standard output: what `kubectl logs` shows.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to.
    Path(PathBuf),
}

/// Log destinations and levels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Logs {
    /// `AWS_VPC_K8S_CNI_LOG_FILE`.
    pub agent_file: LogFile,
    /// `AWS_VPC_K8S_CNI_LOGLEVEL`.
    pub agent_level: LogLevel,
    /// `AWS_VPC_K8S_PLUGIN_LOG_FILE`, handed to the plugin in the network list; never stdout,
    /// which carries the CNI result.
    pub plugin_file: String,
    /// `AWS_VPC_K8S_PLUGIN_LOG_LEVEL`, handed to the plugin as written.
    pub plugin_level: String,
}

/// A log level, upstream's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words say it")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// Ports and sockets for people and scrapers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Admin {
    /// `INTROSPECTION_BIND_ADDRESS`; `None` when `DISABLE_INTROSPECTION`.
    pub introspection: Option<BindAddress>,
    /// Whether port 61678 serves metrics (`DISABLE_METRICS`).
    pub metrics: bool,
}

/// Where introspection listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BindAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket, written `unix:<path>`.
    Unix(PathBuf),
}

impl Settings {
    /// A short fingerprint of all settings: equal on two nodes that run alike. Not cryptographic.
    pub fn fingerprint(&self) -> String {
        // FNV-1a, 64 bit, over the canonical JSON; written out so that it never changes with std.
        let text = serde_json::to_vec(self).expect("settings have string keys only");
        let hash = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3)
        });
        format!("{hash:016x}")
    }
}

impl Default for Settings {
    /// What an empty environment gives.
    fn default() -> Self {
        Self::from_env(std::iter::empty::<(String, String)>())
            .expect("a test holds that the defaults are valid")
            .settings
    }
}
