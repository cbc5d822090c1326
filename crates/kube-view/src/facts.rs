//! What a cluster's objects say, as far as the network is concerned. No client's types, no labels or
//! annotations beyond those that decide something: this is what snapshots keep.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `NAMESPACE/NAME`, or the name alone for what has no namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace; empty for what has none.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectName {
    /// A name in a namespace.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.is_empty() {
            true => f.write_str(&self.name),
            false => write!(f, "{}/{}", self.namespace, self.name),
        }
    }
}

impl FromStr for ObjectName {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once('/') {
            Some((namespace, name)) => Self::new(namespace, name),
            None => Self::new("", text),
        })
    }
}

impl Serialize for ObjectName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ObjectName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let Ok(name) = text.parse();
        Ok(name)
    }
}

/// Labels. The pods of one ReplicaSet share one allocation.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(pub Arc<BTreeMap<String, String>>);

impl Labels {
    /// Whether a Service's selector fits; an empty one selects nothing.
    pub fn fit(&self, selector: &BTreeMap<String, String>) -> bool {
        !selector.is_empty() && selector.iter().all(|(k, v)| self.0.get(k) == Some(v))
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(|map| Labels(Arc::new(map)))
    }
}

/// The kinds that are looked at. Their order is that of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "Kubernetes' own words")]
pub enum Kind {
    Namespace,
    Node,
    Pod,
    ReplicaSet,
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
    Service,
    EndpointSlice,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 10] = [
        Kind::Namespace,
        Kind::Node,
        Kind::Pod,
        Kind::ReplicaSet,
        Kind::Deployment,
        Kind::StatefulSet,
        Kind::DaemonSet,
        Kind::Job,
        Kind::Service,
        Kind::EndpointSlice,
    ];

    /// As a role names it, with its group: `replicasets.apps`.
    pub fn resource(self) -> &'static str {
        match self {
            Kind::Namespace => "namespaces",
            Kind::Node => "nodes",
            Kind::Pod => "pods",
            Kind::ReplicaSet => "replicasets.apps",
            Kind::Deployment => "deployments.apps",
            Kind::StatefulSet => "statefulsets.apps",
            Kind::DaemonSet => "daemonsets.apps",
            Kind::Job => "jobs.batch",
            Kind::Service => "services",
            Kind::EndpointSlice => "endpointslices.discovery.k8s.io",
        }
    }

    /// The plural and the API group, as a role rule has them.
    pub fn plural_and_group(self) -> (&'static str, &'static str) {
        self.resource()
            .split_once('.')
            .unwrap_or((self.resource(), ""))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the cluster says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// What people call the cluster: the name in the kubeconfig.
    pub name: String,
    /// The namespaces.
    pub namespaces: BTreeMap<ObjectName, Namespace>,
    /// The nodes.
    pub nodes: BTreeMap<ObjectName, Node>,
    /// The pods, finished ones included.
    pub pods: BTreeMap<ObjectName, Pod>,
    /// ReplicaSets: the link between pods and Deployments.
    pub replica_sets: BTreeMap<ObjectName, Controller>,
    /// Deployments.
    pub deployments: BTreeMap<ObjectName, Controller>,
    /// StatefulSets.
    pub stateful_sets: BTreeMap<ObjectName, Controller>,
    /// DaemonSets, the address agent's among them.
    pub daemon_sets: BTreeMap<ObjectName, DaemonSet>,
    /// Jobs.
    pub jobs: BTreeMap<ObjectName, Controller>,
    /// Services.
    pub services: BTreeMap<ObjectName, Service>,
    /// EndpointSlices.
    pub endpoint_slices: BTreeMap<ObjectName, EndpointSlice>,
    /// Kinds that could not be read, and why.
    pub unread: BTreeMap<Kind, Unread>,
    /// Objects that were read and cannot be represented, and why: nothing may be concluded about
    /// them, or from their absence.
    pub odd: BTreeSet<Odd>,
}

impl Cluster {
    /// The address agent's pod on a node.
    pub fn agent_on(&self, node: &str) -> Option<(&ObjectName, &Pod)> {
        self.pods.iter().find(|(_, pod)| {
            pod.node.as_deref() == Some(node) && !pod.containers.is_empty() && !pod.deleting
        })
    }

    /// The containers of a node's address agent: those of its pod, else of the DaemonSet that would
    /// put one there; empty when neither is known.
    pub fn agent_containers(&self, node: &str) -> &[Container] {
        let set = || self.daemon_sets.values().map(|s| s.containers.as_slice());
        match self.agent_on(node) {
            Some((_, pod)) => &pod.containers,
            None => set().find(|c| !c.is_empty()).unwrap_or_default(),
        }
    }
}

/// Why a kind is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// The right that would be needed, as `list pods`.
    pub right: String,
    /// What the API server said.
    pub reason: String,
}

/// An object that cannot be represented.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Odd {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: ObjectName,
    /// What is wrong with it.
    pub why: String,
}

/// A namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Its labels, which policies select by.
    pub labels: Labels,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// The instance's id, out of the provider id `aws:///us-west-2a/i-…`; `None` when it has none.
    pub instance: Option<String>,
    /// `InternalIP`s.
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: Labels,
    /// Cordoned.
    pub unschedulable: bool,
    /// The condition Ready; `None` when the kubelet has not said.
    pub ready: Option<bool>,
    /// Pods that the kubelet takes at most.
    pub max_pods: Option<u32>,
    /// The object's version when it was read.
    pub version: String,
}

/// How far a pod is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "Kubernetes' own words")]
pub enum Phase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

/// Who made an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// Its kind, as `ReplicaSet`.
    pub kind: String,
    /// Its name, in the same namespace.
    pub name: String,
}

/// A pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Its uid: another pod of the same name has another.
    pub uid: String,
    /// The name of its node, once it is scheduled.
    pub node: Option<String>,
    /// Its addresses; on the host's network the node's own.
    pub addresses: Vec<IpAddr>,
    /// It shares its node's network namespace.
    pub host_network: bool,
    /// How far it is.
    pub phase: Phase,
    /// The condition Ready.
    pub ready: bool,
    /// It is being deleted.
    pub deleting: bool,
    /// Its controller.
    pub owner: Option<Owner>,
    /// Its labels.
    pub labels: Labels,
    /// `vpc.amazonaws.com/pod-eni` as written: it has an interface of its own.
    pub pod_eni: Option<String>,
    /// The containers, of the address agent's pods only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<Container>,
    /// What is wrong with its containers in kubelet's words, of the address agent's pods only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trouble: Vec<String>,
    /// The object's version when it was read.
    pub version: String,
}

impl Pod {
    /// Whether packets can come from it: it runs and has an address.
    pub fn runs(&self) -> bool {
        self.phase == Phase::Running && !self.addresses.is_empty()
    }

    /// Its IPv4 address.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        })
    }
}

/// A controller whose pods are made from one template.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Controller {
    /// Who made it in turn.
    pub owner: Option<Owner>,
    /// The object's version when it was read.
    pub version: String,
}

/// A DaemonSet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DaemonSet {
    /// How often its specification was changed.
    pub generation: i64,
    /// The generation that its controller has acted upon.
    pub observed: i64,
    /// `OnDelete` replaces no pod by itself.
    pub on_delete: bool,
    /// Its annotations by name, of the address agent's only; values that say who manages it.
    pub managed_by: Vec<String>,
    /// The containers of its template, of the address agent's only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<Container>,
    /// The object's version when it was read.
    pub version: String,
}

/// The name of the address agent's container, upstream's and ours.
pub const AGENT: &str = "aws-node";

/// One container of the address agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Whether it runs before the others.
    #[serde(default)]
    pub init: bool,
    /// Its environment.
    #[serde(default)]
    pub env: BTreeMap<String, EnvValue>,
}

/// A variable's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EnvValue {
    /// As written.
    Is(String),
    /// From elsewhere: `fieldRef spec.nodeName`, `configMapKeyRef NAME/KEY`.
    From(String),
    /// Not one of the stack's variables, so it is not kept: it may be a secret.
    Withheld,
}

/// How a Service is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "Kubernetes' own words")]
pub enum ServiceKind {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// How it is reached.
    pub kind: ServiceKind,
    /// Its virtual address; `None` for a headless one.
    pub cluster_ip: Option<Ipv4Addr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// The labels of its pods; empty when others write its endpoints.
    pub selector: BTreeMap<String, String>,
    /// `internalTrafficPolicy: Local`: kube-proxy takes endpoints of the sender's node only.
    pub local: bool,
    /// The object's version when it was read.
    pub version: String,
}

/// Transport protocols.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the words say it")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// A port of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name; may be empty when it is the only one.
    #[serde(default)]
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The number that clients use.
    pub port: u16,
}

/// A part of a Service's endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSlice {
    /// The Service.
    pub service: Option<String>,
    /// The ports of all its endpoints.
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// The object's version when it was read.
    pub version: String,
}

/// A port of endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPort {
    /// The Service's port of that name.
    #[serde(default)]
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The number that the pods listen on; `None`: all.
    pub port: Option<u16>,
}

/// One endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// Its addresses, of one family; the first is used.
    pub addresses: Vec<IpAddr>,
    /// Whether kube-proxy sends to it.
    pub ready: bool,
    /// The node it is on.
    pub node: Option<String>,
    /// The pod it is.
    pub pod: Option<String>,
    /// The zones that shall use it; kube-proxy keeps to them only if every endpoint says so.
    pub zones: Vec<String>,
}
