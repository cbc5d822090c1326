//! How many pods fit, and which of the four ceilings is reached first: kubelet's max-pods, interfaces
//! × addresses, branch interfaces, the subnets' free addresses.
//!
//! The numbers are those of the best case: addresses that a warm pool holds on one node are not
//! another's, and CPU, memory, taints and affinity are not looked at.

mod add;
mod findings;
mod frame;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use kube_view::facts::{Kind, Phase};
use reach::Inputs;
use reach::facts::{Evidence, InstanceLimits, Node};
use reach::resolve::find_instance;
use serde::Serialize;
use vpc::facts::SubnetId;

use crate::finding::Finding;

pub use add::{Added, BadWish, NewNodes, Wish};
pub use text::{render, sentence};

use frame::{Frame, Rooms, Variables, count};

/// The schema's name.
pub const SCHEMA: &str = "branchline/capacity/v1";

/// What bounds the pods of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ceiling {
    /// kubelet's max-pods.
    MaxPods,
    /// Interfaces × addresses of the instance type, `MAX_ENI` included.
    Interfaces,
    /// Branch interfaces, for pods with security groups of their own.
    Branches,
    /// Free addresses of the subnets; for prefixes free `/28`s.
    Subnet,
}

impl Ceiling {
    /// As people say it.
    pub fn label(self) -> &'static str {
        match self {
            Ceiling::MaxPods => "kubelet max-pods",
            Ceiling::Interfaces => "ENI × IP",
            Ceiling::Branches => "branch ENIs",
            Ceiling::Subnet => "subnet addresses",
        }
    }
}

/// The answer in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// More pods fit.
    Room,
    /// None fits, or pods wait in vain.
    Full,
    /// What was to be added fits.
    Fits,
    /// It does not.
    DoesNotFit,
    /// Something needed could not be read.
    Unknown,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capacity {
    schema: &'static str,
    /// In a word.
    pub verdict: Verdict,
    /// The cluster, if one was read.
    pub cluster: Option<String>,
    /// Pods with an address of their own that run.
    pub pods: u32,
    /// Pods that are on a node and have no address yet.
    pub waiting: u32,
    /// Pods that fit besides those.
    pub room: u32,
    /// The ceiling that the nodes together reach first.
    pub binds: Option<Ceiling>,
    /// Node by node.
    pub nodes: Vec<NodeCapacity>,
    /// The subnets that the nodes take addresses of.
    pub subnets: Vec<SubnetCapacity>,
    /// What was to be added.
    pub added: Option<Added>,
    /// Findings BL0501 to BL0503.
    pub findings: Vec<Finding>,
    /// What was not looked at.
    pub not_checked: Vec<String>,
    /// What could not be read and is needed.
    pub unknown: Vec<String>,
    /// Where each part was read.
    pub evidence: Vec<Evidence>,
}

/// One node. Ceilings are totals of pods with a shared address, those that run included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeCapacity {
    /// Its short name.
    pub node: String,
    /// Its type.
    pub instance_type: String,
    /// Pods with a shared address that run.
    pub pods: u32,
    /// Pods with a branch interface.
    pub branch_pods: u32,
    /// Pods on the host's network.
    pub host_pods: u32,
    /// Pods that are on it and have no address yet.
    pub waiting: u32,
    /// Why no new pod is put there; `None`: nothing speaks against it.
    pub closed: Option<&'static str>,
    /// Whether its agent takes `/28` prefixes.
    pub prefixes: bool,
    /// Addresses that it has for pods now.
    pub addresses: u32,
    /// Interfaces that it may still attach.
    pub more_interfaces: u32,
    /// By kubelet's max-pods; `None`: not known.
    pub max_pods: Option<u32>,
    /// By interfaces × addresses.
    pub interfaces: u32,
    /// The subnets that it takes addresses of.
    pub subnets: BTreeSet<SubnetId>,
    /// By its subnets, if it took all that is free there.
    pub subnet: u32,
    /// Branch interfaces; `None` where they are not switched on.
    pub branches: Option<u32>,
    /// Pods that fit besides those that run and wait, the other nodes' growth included.
    pub room: u32,
    /// Pods that wait and will get no address.
    pub short: u32,
    /// The lowest of the ceilings.
    pub binds: Vec<Ceiling>,
}

/// One subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubnetCapacity {
    /// Its id.
    pub subnet: SubnetId,
    /// Its range.
    pub cidr: String,
    /// Free addresses.
    pub free: u32,
    /// Free aligned `/28`s.
    pub blocks: u32,
    /// What EC2 counts as free, where its interfaces leave another number.
    pub told: Option<u32>,
    /// How many of the nodes take addresses of it.
    pub nodes: u32,
}

/// A node with what is needed to compute.
struct Counted {
    row: NodeCapacity,
    frame: Frame,
    limits: InstanceLimits,
    variables: Variables,
}

/// Counts. `wishes` are pods that somebody means to add.
pub fn capacity(inputs: &Inputs, wishes: &[Wish]) -> Capacity {
    let mut unknown = unread(inputs);
    let mut counted: Vec<Counted> = Vec::new();
    for node in inputs.nodes.values() {
        match count_node(inputs, node) {
            Ok(one) => counted.push(one),
            Err(why) => unknown.push(format!("{}: {why}", node.name)),
        }
    }
    let mut rooms = rooms(inputs, &counted);
    let subnets = subnets(inputs, &rooms, &counted);
    for one in &mut counted {
        let mut alone = one.frame.clone();
        alone.grow_to(u32::MAX, &mut rooms.clone());
        // An interface that is full may hold more than the instance's limits let one hope for.
        one.row.subnet = alone.have;
        one.row.binds = lowest(&one.row);
        if one.row.max_pods.is_none() && inputs.kubernetes.is_some() {
            unknown.push(format!(
                "max-pods of {}: Kubernetes' node object does not say how many pods it takes",
                one.row.node
            ));
        }
    }
    // Addresses first go to pods that are there; then the nodes grow in turn.
    for one in &mut counted {
        let there = one.row.pods + one.row.waiting;
        one.frame.grow_to(there, &mut rooms);
        let may = one.frame.have.min(one.row.max_pods.unwrap_or(u32::MAX));
        one.row.short = there.saturating_sub(may).min(one.row.waiting);
    }
    let before = rooms.clone();
    let mut grown: Vec<Frame> = counted.iter().map(|c| c.frame.clone()).collect();
    for (one, frame) in counted.iter_mut().zip(&mut grown) {
        if one.row.closed.is_some() {
            continue;
        }
        let most = one.row.max_pods.unwrap_or(u32::MAX);
        frame.grow_to(most.min(frame.addresses_max()), &mut rooms);
        let there = one.row.pods + one.row.waiting;
        one.row.room = frame.have.min(most).saturating_sub(there);
    }
    let added = (!wishes.is_empty()).then(|| add::add(&counted, before, wishes));
    let rows: Vec<NodeCapacity> = counted.iter().map(|c| c.row.clone()).collect();
    let binds = together(&rows, &grown);
    let mut capacity = Capacity {
        schema: SCHEMA,
        verdict: Verdict::Unknown,
        cluster: inputs.kubernetes.as_ref().map(|c| c.name.clone()),
        pods: rows.iter().map(|n| n.pods + n.branch_pods).sum(),
        waiting: rows.iter().map(|n| n.waiting).sum(),
        room: rows.iter().map(|n| n.room).sum(),
        binds,
        findings: Vec::new(),
        not_checked: not_checked(inputs, &counted),
        nodes: rows,
        subnets,
        added,
        unknown,
        evidence: inputs.evidence.clone(),
    };
    capacity.verdict = verdict(&capacity);
    capacity.findings = findings::findings(&capacity, &counted);
    capacity
}

fn verdict(capacity: &Capacity) -> Verdict {
    let short = capacity.nodes.iter().any(|n| n.short > 0);
    match &capacity.added {
        Some(added) if !added.fits() => Verdict::DoesNotFit,
        _ if capacity.nodes.is_empty() => Verdict::Unknown,
        Some(_) if capacity.unknown.is_empty() => Verdict::Fits,
        None if short || (capacity.room == 0 && capacity.unknown.is_empty()) => Verdict::Full,
        None if capacity.unknown.is_empty() => Verdict::Room,
        Some(_) | None => Verdict::Unknown,
    }
}

/// What is missing for any number at all.
fn unread(inputs: &Inputs) -> Vec<String> {
    use vpc::facts::Kind as Ec2;
    let mut unknown: Vec<String> = [Ec2::Enis, Ec2::Instances, Ec2::Subnets]
        .into_iter()
        .filter_map(|kind| inputs.world.unread(kind))
        .chain(&inputs.unread_limits)
        .map(|u| format!("{}: {}", u.action, u.reason))
        .collect();
    if let Some(cluster) = &inputs.kubernetes {
        let needed = [Kind::Pod, Kind::Node, Kind::DaemonSet];
        let missing = needed.iter().filter_map(|kind| cluster.unread.get(kind));
        unknown.extend(missing.map(|u| format!("{}: {}", u.right, u.reason)));
    }
    let nodes = inputs.unread_nodes.iter();
    unknown.extend(nodes.map(|(node, why)| format!("{node}: {why}")));
    if inputs.nodes.is_empty() && unknown.is_empty() {
        unknown.push(
            "nodes: none was read (set KUBECONFIG, or name agents with --node NODE=URL)".to_owned(),
        );
    }
    unknown
}

fn count_node(inputs: &Inputs, node: &Node) -> Result<Counted, String> {
    let instance = find_instance(inputs, node.instance.as_str()).map_err(|e| e.to_string())?;
    let limits = inputs.limits.get(&instance.instance_type).copied();
    let limits = limits.ok_or_else(|| {
        format!(
            "the limits of its type {} were not read",
            instance.instance_type
        )
    })?;
    let cluster = inputs.kubernetes.as_ref();
    let name = node.kubernetes.as_deref();
    let containers = name.and_then(|n| Some(cluster?.agent_containers(n)));
    let variables = Variables::of(containers.unwrap_or_default());
    let frame = Frame::of(inputs, node, instance, limits, &variables);
    let (mut branch_pods, mut waiting) = (0, 0);
    let on_it = cluster
        .iter()
        .flat_map(|c| c.pods.values())
        .filter(|p| name.is_some() && p.node.as_deref() == name && !p.deleting);
    for pod in on_it.filter(|p| !p.host_network) {
        let waits = pod.phase == Phase::Pending && pod.addresses.is_empty();
        branch_pods += u32::from(pod.pod_eni.is_some() && pod.runs());
        waiting += u32::from(waits && pod.pod_eni.is_none());
    }
    let object = name.and_then(|n| cluster?.nodes.iter().find(|(k, _)| k.name == n));
    let closed = object.and_then(|(_, o)| match (o.unschedulable, o.ready) {
        (true, _) => Some("cordoned"),
        (false, Some(false)) => Some("not Ready"),
        (false, _) => None,
    });
    let row = NodeCapacity {
        node: node.name.clone(),
        instance_type: instance.instance_type.clone(),
        pods: count(&node.pods).saturating_sub(branch_pods),
        branch_pods,
        host_pods: count(&node.host_pods),
        waiting,
        closed,
        prefixes: frame.prefixes,
        addresses: frame.have,
        more_interfaces: frame.more,
        max_pods: frame.kubelet.map(|k| k.saturating_sub(branch_pods)),
        interfaces: frame.addresses_max(),
        subnets: frame.all_subnets().cloned().collect(),
        subnet: 0,
        branches: frame.branches_max,
        room: 0,
        short: 0,
        binds: Vec::new(),
    };
    Ok(Counted {
        row,
        frame,
        limits,
        variables,
    })
}

fn rooms(inputs: &Inputs, counted: &[Counted]) -> Rooms {
    let ids: BTreeSet<&SubnetId> = counted.iter().flat_map(|c| c.frame.all_subnets()).collect();
    let room = |id: &SubnetId| Some((id.clone(), inputs.world.room(id)?));
    ids.into_iter().filter_map(room).collect()
}

fn subnets(inputs: &Inputs, rooms: &Rooms, counted: &[Counted]) -> Vec<SubnetCapacity> {
    let mut users: BTreeMap<&SubnetId, u32> = BTreeMap::new();
    for one in counted {
        let own: BTreeSet<&SubnetId> = one.frame.all_subnets().collect();
        own.into_iter()
            .for_each(|id| *users.entry(id).or_default() += 1);
    }
    let row = |(id, room): (&SubnetId, &vpc::space::Room)| {
        let subnet = inputs.world.subnets.get(id)?;
        Some(SubnetCapacity {
            subnet: id.clone(),
            cidr: subnet.cidr.to_string(),
            free: room.free,
            blocks: room.blocks,
            told: subnet.available.filter(|n| *n != room.free),
            nodes: users.get(id).copied().unwrap_or_default(),
        })
    };
    rooms.iter().filter_map(row).collect()
}

/// The lowest of a node's ceilings. A subnet binds only below what the interfaces could hold.
fn lowest(row: &NodeCapacity) -> Vec<Ceiling> {
    let subnet = (row.subnet < row.interfaces).then_some(row.subnet);
    let all = [
        (Ceiling::MaxPods, row.max_pods),
        (Ceiling::Interfaces, Some(row.interfaces)),
        (Ceiling::Subnet, subnet),
    ];
    let least = all.iter().filter_map(|(_, n)| *n).min();
    all.iter()
        .filter(|(_, n)| n.is_some() && *n == least)
        .map(|(ceiling, _)| *ceiling)
        .collect()
}

/// The ceiling that all nodes together reach first.
fn together(rows: &[NodeCapacity], grown: &[Frame]) -> Option<Ceiling> {
    if rows.is_empty() {
        return None;
    }
    let kubelet: Option<u32> = rows.iter().map(|r| r.max_pods).sum();
    let interfaces = rows.iter().map(|r| r.interfaces).sum();
    // What the subnets leave when every node asks them for all that it could hold.
    let needed = |(row, frame): (&NodeCapacity, &Frame)| {
        if row.closed.is_some() {
            return false;
        }
        let wanted = row.interfaces.min(row.max_pods.unwrap_or(u32::MAX));
        frame.have < wanted
    };
    let starved = rows.iter().zip(grown).any(needed);
    let subnet = starved.then(|| grown.iter().map(|f| f.have).sum::<u32>());
    [
        (Ceiling::Subnet, subnet),
        (Ceiling::MaxPods, kubelet),
        (Ceiling::Interfaces, Some(interfaces)),
    ]
    .into_iter()
    .filter_map(|(ceiling, n)| Some((n?, ceiling)))
    .min_by_key(|(n, _)| *n)
    .map(|(_, ceiling)| ceiling)
}

fn not_checked(inputs: &Inputs, counted: &[Counted]) -> Vec<String> {
    let mut lines = vec!["CPU, memory, taints and affinity of pods".to_owned()];
    if inputs.kubernetes.is_none() {
        lines.push("max-pods and pods that wait: no cluster was read".to_owned());
    }
    if counted.iter().any(|c| c.variables.custom_networking) {
        lines.push(
            "ENIConfigs: nodes with custom networking are taken to get new interfaces in the subnets of those that they have".to_owned(),
        );
    }
    if counted.iter().any(|c| c.frame.prefixes) {
        lines.push("CIDR reservations of the subnets".to_owned());
    }
    lines
}
