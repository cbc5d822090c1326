//! The topology file: what a lab consists of, in one page of YAML.
//!
//! A topology describes only what an operator would create in EC2: networks, groups, hosts with
//! network interfaces, instances. The lab builds it through the EC2 API, so `aws ec2 describe-*`
//! shows everything under the names written here (as `Name` tags).
//!
//! Invariant: a [`Topology`] that came out of [`Topology::parse`] is closed: every name it uses
//! exists and is of the right kind, every address lies in its subnet. Whatever breaks that is an
//! error with file, line and column; unknown fields are such errors.

mod check;
mod check_cluster;
mod cluster;
mod listener;
mod rule;

pub(crate) use check::is_host_name;
pub use cluster::{Addons, Cluster, Nodegroup, ProxyMode, Taint, TaintEffect};
pub use listener::{Answers, Listener, ListenerError};
pub use rule::{AclAction, AclEntry, Peer, PortRange, Proto, Rule, RuleError};

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_saphyr::Spanned;
use vpcsim::knobs::Knobs;

/// A name that must be defined elsewhere in the file, with the place where it is used.
pub type Ref = Spanned<String>;

/// The only `apiVersion` this version reads.
pub const API_VERSION: &str = "branchline/v1";

/// One lab, as its file describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Topology {
    /// Always [`API_VERSION`].
    pub api_version: Spanned<String>,
    /// Always `Topology`.
    pub kind: Spanned<String>,
    /// What the topology is called in messages; the lab's own name is chosen on the command line.
    pub name: String,
    /// Region of everything in it.
    #[serde(default = "default_region")]
    pub region: String,
    /// The virtual private clouds.
    pub vpcs: Vec<Vpc>,
    /// Peering connections between them.
    #[serde(default)]
    pub peerings: Vec<Peering>,
    /// Hosts with network interfaces that are not instances: databases, load balancers, clients.
    #[serde(default)]
    pub hosts: Vec<Host>,
    /// Kubernetes clusters.
    #[serde(default)]
    pub clusters: Vec<Cluster>,
    /// Instances that run the agent, or join a cluster.
    #[serde(default)]
    pub nodes: Vec<Node>,
    /// How the embedded EC2 behaves once everything stands, in the words of `lab knob`.
    #[serde(default)]
    pub simulator: Knobs,
}

fn default_region() -> String {
    "us-west-2".to_owned()
}

/// A VPC and what belongs to exactly one VPC.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Vpc {
    /// Its name.
    pub name: Ref,
    /// IPv4 blocks; the first is the primary one.
    pub cidrs: Vec<Spanned<Ipv4Net>>,
    /// Whether an internet gateway is attached. Routes name it `igw`.
    #[serde(default)]
    pub internet_gateway: bool,
    /// Subnets.
    #[serde(default)]
    pub subnets: Vec<Subnet>,
    /// NAT gateways.
    #[serde(default)]
    pub nat_gateways: Vec<NatGateway>,
    /// Route tables besides the main one. A subnet without one uses the main table.
    #[serde(default)]
    pub route_tables: Vec<RouteTable>,
    /// Routes of the main table besides `local`.
    #[serde(default)]
    pub main_routes: Vec<Route>,
    /// Network ACLs besides the default one, which allows everything.
    #[serde(default)]
    pub acls: Vec<Acl>,
    /// Customer-managed prefix lists.
    #[serde(default)]
    pub prefix_lists: Vec<PrefixList>,
    /// Security groups besides the default one.
    #[serde(default)]
    pub groups: Vec<Group>,
}

/// A subnet.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Subnet {
    /// Its name, unique in the file.
    pub name: Ref,
    /// Availability zone as its letter (`a`) or in full (`us-west-2a`).
    #[serde(default = "default_zone")]
    pub zone: String,
    /// IPv4 block.
    pub cidr: Spanned<Ipv4Net>,
    /// Network ACL; the VPC's default one when absent.
    pub acl: Option<Ref>,
    /// Route table; the VPC's main one when absent.
    pub route_table: Option<Ref>,
}

fn default_zone() -> String {
    "a".to_owned()
}

/// A NAT gateway.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NatGateway {
    /// Its name.
    pub name: Ref,
    /// The subnet it lives in.
    pub subnet: Ref,
    /// Private gateways have no public address.
    #[serde(default)]
    pub private: bool,
}

/// A route table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RouteTable {
    /// Its name.
    pub name: Ref,
    /// Routes besides `local`.
    #[serde(default)]
    pub routes: Vec<Route>,
}

/// One route.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Route {
    /// Destination block.
    pub to: Ipv4Net,
    /// `igw`, `nat/NAME`, `peering/NAME` or `host/NAME` (that host's network interface).
    pub via: Ref,
}

/// A network ACL: entries of both directions, each in ascending order of their numbers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Acl {
    /// Its name.
    pub name: Ref,
    /// Entries for traffic entering the subnets.
    #[serde(default)]
    pub ingress: Vec<AclEntry>,
    /// Entries for traffic leaving the subnets.
    #[serde(default)]
    pub egress: Vec<AclEntry>,
}

/// A customer-managed prefix list.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PrefixList {
    /// Its name.
    pub name: Ref,
    /// Its blocks.
    pub entries: Vec<Ipv4Net>,
}

/// A security group.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Group {
    /// Its name, unique in the file. Also the `GroupName` in EC2.
    pub name: Ref,
    /// EC2's description; the name when absent.
    pub description: Option<String>,
    /// Rules for traffic that reaches an interface. None: nothing comes in.
    #[serde(default)]
    pub ingress: Vec<Spanned<Rule>>,
    /// Rules for traffic that leaves an interface. Absent: everything, as EC2 does for a new group;
    /// an empty list: nothing.
    pub egress: Option<Vec<Spanned<Rule>>>,
}

/// A peering connection.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Peering {
    /// Its name.
    pub name: Ref,
    /// The VPC that asks.
    pub requester: Ref,
    /// The VPC that accepts.
    pub accepter: Ref,
}

/// What a host stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HostKind {
    /// A database: its interface carries the description that RDS gives its own.
    Rds,
    /// Anything else with an interface in a subnet.
    Host,
    /// A host on the internet, outside every VPC.
    Internet,
}

/// A host that is not an instance.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Host {
    /// Its name, unique in the file.
    pub name: Ref,
    /// What it stands for.
    #[serde(default = "default_kind")]
    pub kind: HostKind,
    /// Its subnet (not for `internet`).
    pub subnet: Option<Ref>,
    /// Its address; chosen by EC2 when absent. Required for `internet`.
    pub address: Option<Spanned<Ipv4Addr>>,
    /// Its security groups (not for `internet`); the VPC's default group when empty.
    #[serde(default)]
    pub groups: Vec<Ref>,
    /// EC2's description of its interface; by kind when absent.
    pub description: Option<String>,
    /// Ports on which it answers.
    #[serde(default)]
    pub listen: Vec<Listener>,
    /// `false` lets it forward what is not addressed to it.
    #[serde(default = "yes")]
    pub source_dest_check: bool,
}

fn default_kind() -> HostKind {
    HostKind::Host
}

fn yes() -> bool {
    true
}

/// An instance whose namespace runs the agent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Node {
    /// Its name, unique in the file; with `count` above one, `NAME-1`, `NAME-2`, …
    pub name: Ref,
    /// Instance type.
    #[serde(rename = "type", default = "default_type")]
    pub instance_type: String,
    /// Subnet of its primary interface.
    pub subnet: Ref,
    /// Address of its primary interface (only with `count: 1`).
    pub address: Option<Spanned<Ipv4Addr>>,
    /// Security groups, given through the launch template.
    #[serde(default)]
    pub groups: Vec<Ref>,
    /// Name of the launch template; the node's name when absent. Nodes that name the same template
    /// share it and must agree on type and groups.
    pub launch_template: Option<Ref>,
    /// How many of it.
    #[serde(default = "one")]
    pub count: Spanned<u32>,
    /// The cluster that it joins; without one it is a bare node on which the lab runs the agent.
    pub cluster: Option<Ref>,
    /// The agent on it. Not for nodes of a cluster: theirs comes from the DaemonSet `aws-node`.
    #[serde(default)]
    pub agent: Agent,
}

impl Node {
    /// Whether the lab itself runs the agent on it.
    #[must_use]
    pub fn has_agent(&self) -> bool {
        self.cluster.is_none() && self.agent.enabled
    }
}

fn default_type() -> String {
    "t3.medium".to_owned()
}

fn one() -> Spanned<u32> {
    Spanned::new(
        1,
        serde_saphyr::Location::UNKNOWN,
        serde_saphyr::Location::UNKNOWN,
    )
}

/// How the agent of a node runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Agent {
    /// `false` leaves the node bare: an instance with its interfaces and nothing on it.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The agent's environment, upstream's variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            enabled: true,
            env: BTreeMap::new(),
        }
    }
}

/// A topology that cannot be used, with the place in its file.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The file cannot be read.
    #[error("cannot read the topology {file}")]
    Read {
        /// The file.
        file: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a topology.
    #[error("{file}:{line}:{column}: {message}")]
    At {
        /// The file.
        file: String,
        /// Line, from 1.
        line: u64,
        /// Column, from 1.
        column: u64,
        /// What is wrong there.
        message: String,
    },
}

impl Topology {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When the file cannot be read or is no valid topology.
    pub fn read(path: &Path) -> Result<Self, TopologyError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| TopologyError::Read {
            file: file.clone(),
            source,
        })?;
        Self::parse(&text, &file)
    }

    /// Parses and checks the text of a topology; `file` is named in errors.
    ///
    /// # Errors
    /// [`TopologyError::At`] for the first thing that is wrong.
    pub fn parse(text: &str, file: &str) -> Result<Self, TopologyError> {
        let topology: Self = serde_saphyr::from_str(text).map_err(|e| {
            let (line, column) = e.location().map_or((1, 1), |l| (l.line(), l.column()));
            TopologyError::At {
                file: file.to_owned(),
                line,
                column,
                message: plain(&e),
            }
        })?;
        check::check(&topology).map_err(|(at, message)| TopologyError::At {
            file: file.to_owned(),
            line: at.line(),
            column: at.column(),
            message,
        })?;
        Ok(topology)
    }

    /// How many nodes a cluster is to have.
    #[must_use]
    pub fn nodes_of(&self, cluster: &Cluster) -> usize {
        let name = &cluster.name.value;
        let is_own = |n: &Node| n.cluster.as_ref().is_some_and(|c| c.value == *name);
        let own = self.instances().filter(|(_, n)| is_own(n)).count();
        let managed: usize = cluster
            .nodegroups
            .iter()
            .map(|g| g.size.value as usize)
            .sum();
        own + managed
    }

    /// Every node with `count` unfolded, in the order of the file: its name and its description.
    pub fn instances(&self) -> impl Iterator<Item = (String, &Node)> {
        self.nodes.iter().flat_map(|node| {
            let many = node.count.value > 1;
            (1..=node.count.value).map(move |i| {
                let base = &node.name.value;
                (
                    if many {
                        format!("{base}-{i}")
                    } else {
                        base.clone()
                    },
                    node,
                )
            })
        })
    }
}

/// The parser's message on one line, without the location that we print in front of it.
fn plain(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let first = text.lines().next().unwrap_or_default();
    match first.find(" at line ") {
        Some(at) => first[..at].to_owned(),
        None => first.to_owned(),
    }
}
