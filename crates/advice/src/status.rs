//! What is really there on a node: declared (its DaemonSet), believed (its agent), real (EC2 and
//! Kubernetes), side by side, with what differs.

mod text;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use cni::introspect::{NEVER, State};
use jiff::Timestamp;
use kube_view::facts::{AGENT, EnvValue, ObjectName};
use reach::Inputs;
use reach::facts::{Evidence, Node, Told};
use reach::resolve::{find_instance, short_name};
use serde::Serialize;
use vpc::facts::{Eni, EniKind, Instance};

use crate::capacity::{NodeCapacity, capacity, sentence};
use crate::compare::{self, Believed};
use crate::drift::{self, Difference};
use crate::finding::{Finding, enis_disagree};
use crate::name;

pub use text::render;

/// The schema's name.
pub const SCHEMA: &str = "branchline/status/v1";
/// What an address rests after its pod, where nobody says otherwise.
const COOLDOWN_SECONDS: i64 = 30;

/// The answer in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Declared, believed and real are the same.
    Equal,
    /// They are not.
    Differs,
    /// One of the three could not be read.
    Unknown,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    schema: &'static str,
    /// In a word.
    pub verdict: Verdict,
    /// Its short name.
    pub node: String,
    /// Its instance.
    pub instance: String,
    /// Its type.
    pub instance_type: String,
    /// The instance's state by EC2's word.
    pub state: String,
    /// Which agent, as far as it is known.
    pub agent: Option<String>,
    /// The agent's variables that its pod declares.
    pub declared: BTreeMap<String, String>,
    /// Its interfaces.
    pub interfaces: Vec<Interface>,
    /// The addresses that pods have, by anybody's word.
    pub addresses: Vec<Address>,
    /// The ceilings of its pods.
    pub capacity: Option<NodeCapacity>,
    /// The lowest ceiling in a sentence.
    pub ceiling: Option<String>,
    /// What our agent says of itself: what it waits for, back-offs, denied actions, repairs, leases,
    /// its checkpoint.
    pub told: Option<State>,
    /// What differs from what.
    pub differences: Vec<Difference>,
    /// BL0301.
    pub groups: Vec<Finding>,
    /// What could not be read and is needed.
    pub unknown: Vec<String>,
    /// Where each part was read.
    pub evidence: Vec<Evidence>,
}

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its id.
    pub id: String,
    /// `primary`, `device 1`, `trunk`.
    pub device: String,
    /// Its subnet; `None`: EC2 does not list the interface.
    pub subnet: Option<String>,
    /// Its groups by EC2's word.
    pub groups: Vec<String>,
    /// Whether they are those of the primary interface.
    pub groups_equal: bool,
    /// Addresses for pods by EC2's word, those of prefixes included; `None`: not listed.
    pub real: Option<u32>,
    /// Addresses for pods by the agent's word; `None`: it does not know the interface, or was not asked.
    pub believed: Option<u32>,
    /// Of those, with a pod.
    pub used: u32,
    /// Of those, at rest after their last pod.
    pub resting: u32,
    /// Where it is in its life, by the agent's word.
    pub stage: Option<String>,
    /// Why its life does not go on.
    pub trouble: Option<String>,
}

impl Interface {
    /// Addresses that a pod could have now.
    pub fn free(&self) -> u32 {
        let all = self.believed.or(self.real).unwrap_or_default();
        all.saturating_sub(self.used + self.resting)
    }
}

/// The address of a pod, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Address {
    /// It.
    pub address: Ipv4Addr,
    /// The pod that has it.
    pub pod: String,
    /// The interface that it belongs to, by EC2's word.
    pub eni: Option<String>,
    /// The pod by Kubernetes' word; `None` when no cluster was read.
    pub kubernetes: Option<bool>,
    /// The pod by the agent's word; `None` when it was not asked.
    pub agent: Option<bool>,
}

/// Looks at one node.
///
/// # Errors
/// When no instance, or more than one, is called so.
pub fn status(inputs: &Inputs, name: &str) -> Result<Status, reach::Error> {
    let instance = find_instance(inputs, name)?;
    let known = inputs.nodes.values().find(|n| n.instance == instance.id);
    let mut status = Status {
        schema: SCHEMA,
        verdict: Verdict::Unknown,
        node: known.map_or_else(|| short_name(instance).to_owned(), |n| n.name.clone()),
        instance: instance.id.to_string(),
        instance_type: instance.instance_type.clone(),
        state: instance.state.clone(),
        agent: known.map(|n| n.agent.clone()),
        declared: BTreeMap::new(),
        interfaces: interfaces(inputs, instance, known),
        addresses: Vec::new(),
        capacity: None,
        ceiling: None,
        told: known.and_then(|n| n.told.as_ref()?.state.clone()),
        differences: Vec::new(),
        groups: enis_disagree(inputs, None, instance).into_iter().collect(),
        unknown: Vec::new(),
        evidence: inputs.evidence.clone(),
    };
    if let Some(node) = known {
        status.declared = declared(inputs, node);
        status.addresses = addresses(inputs, node);
        status.differences = drift::of_node(inputs, node);
        let counted = capacity(inputs, &[]);
        status.ceiling = sentence(&counted, &node.name);
        status.capacity = counted.nodes.into_iter().find(|n| n.node == node.name);
    }
    status.unknown = unknown(inputs, instance, known);
    let equal = status.differences.is_empty() && status.groups.is_empty();
    status.verdict = match (equal, status.unknown.is_empty()) {
        (false, _) => Verdict::Differs,
        (true, true) => Verdict::Equal,
        (true, false) => Verdict::Unknown,
    };
    Ok(status)
}

/// Which of the three could not be read.
fn unknown(inputs: &Inputs, instance: &Instance, node: Option<&Node>) -> Vec<String> {
    let mut unknown = Vec::new();
    let enis = inputs.world.unread(vpc::facts::Kind::Enis);
    unknown.extend(enis.map(|u| format!("real: {}: {}", u.action, u.reason)));
    let names = [
        short_name(instance),
        &instance.private_dns_name,
        instance.id.as_str(),
    ];
    let unread = inputs.unread_nodes.iter();
    unknown.extend(
        unread
            .filter(|(name, _)| names.contains(&name.as_str()))
            .map(|(name, why)| format!("{name}: {why}")),
    );
    match &inputs.kubernetes {
        None => unknown.push(
            "declared: no cluster was read (set KUBECONFIG, or --kubeconfig and --context)"
                .to_owned(),
        ),
        Some(cluster) => {
            use kube_view::facts::Kind;
            let needed = [Kind::Pod, Kind::DaemonSet, Kind::Node];
            let missing = needed.iter().filter_map(|kind| cluster.unread.get(kind));
            unknown.extend(missing.map(|u| format!("declared: {}: {}", u.right, u.reason)));
            if node.is_none_or(|n| n.kubernetes.is_none()) && unknown.is_empty() {
                unknown.push("declared: Kubernetes has no such node".to_owned());
            }
        }
    }
    match node {
        Some(Node { told: Some(_), silent: None, .. }) => {}
        Some(Node { silent: Some(why), .. }) => unknown.push(format!("believed: {why}")),
        Some(Node { name, .. }) => unknown.push(format!(
            "believed: the agent was not asked (--node {name}=URL; it listens on the node's loopback address, port 61679: forward it)"
        )),
        None => unknown.push("believed: no agent of that node is known".to_owned()),
    }
    unknown
}

/// The stack's variables that the agent's pod declares by value.
fn declared(inputs: &Inputs, node: &Node) -> BTreeMap<String, String> {
    let cluster = inputs.kubernetes.as_ref();
    let name = node.kubernetes.as_deref();
    let containers = name.and_then(|n| Some(cluster?.agent_containers(n)));
    let agent = containers.and_then(|c| c.iter().find(|c| c.name == AGENT));
    let mut values = BTreeMap::new();
    for (variable, value) in agent.iter().flat_map(|a| &a.env) {
        if let (Some(_), EnvValue::Is(text)) = (settings::variable(variable), value) {
            values.insert(variable.clone(), text.clone());
        }
    }
    values
}

fn interfaces(inputs: &Inputs, instance: &Instance, node: Option<&Node>) -> Vec<Interface> {
    let told = node.and_then(|n| n.told.as_deref());
    let believed = told.map(|t| compare::believed(&t.enis)).unwrap_or_default();
    let rests = node
        .map(|n| declared(inputs, n))
        .and_then(|d| d.get("IP_COOLDOWN_PERIOD")?.parse().ok())
        .unwrap_or(COOLDOWN_SECONDS);
    let attached = inputs.world.enis_of(&instance.id);
    let primary = attached.first().map(|e| &e.groups);
    let mut rows = Vec::new();
    for eni in &attached {
        let mut row = Interface {
            id: eni.id.to_string(),
            device: match eni.kind {
                EniKind::Trunk => "trunk".to_owned(),
                _ => name::device(eni),
            },
            subnet: Some(eni.subnet.to_string()),
            groups: name::groups(&inputs.world, &eni.groups),
            groups_equal: primary == Some(&eni.groups),
            real: Some(size(compare::pod_networks(eni).iter())),
            used: u32::try_from(pods_on(node, eni)).unwrap_or(u32::MAX),
            ..Interface::default()
        };
        if let (Some(told), Some(one)) = (told, believed.get(eni.id.as_str())) {
            believe(&mut row, told, one, rests);
        }
        rows.push(row);
    }
    for (id, one) in &believed {
        if let (Some(told), false) = (told, attached.iter().any(|e| e.id.as_str() == *id)) {
            let mut row = Interface {
                id: (*id).to_owned(),
                device: "not in EC2".to_owned(),
                ..Interface::default()
            };
            believe(&mut row, told, one, rests);
            rows.push(row);
        }
    }
    rows
}

/// What the agent says of an interface.
fn believe(row: &mut Interface, told: &Told, one: &Believed<'_>, rests: i64) {
    row.believed = Some(size(one.networks.iter()));
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    row.used = count(one.addresses.values().filter(|a| a.assigned()).count());
    let now = told.at.parse::<Timestamp>().ok();
    let resting = one
        .addresses
        .values()
        .filter(|a| !a.assigned() && a.unassigned_time != NEVER);
    let resting = resting.filter(|a| {
        let since = a.unassigned_time.parse::<Timestamp>().ok();
        now.zip(since)
            .is_some_and(|(now, since)| now.as_second() - since.as_second() < rests)
    });
    row.resting = count(resting.count());
    let state = told.state.as_ref();
    if let Some(said) = state.and_then(|s| s.interfaces.iter().find(|i| i.id == row.id)) {
        row.stage = Some(said.stage.clone()).filter(|s| !s.is_empty());
        row.trouble.clone_from(&said.trouble);
    }
}

fn size<'a>(networks: impl Iterator<Item = &'a ipnet::Ipv4Net>) -> u32 {
    networks
        .map(|net| {
            1_u32
                .checked_shl(32 - u32::from(net.prefix_len()))
                .unwrap_or(u32::MAX)
        })
        .sum()
}

fn pods_on(node: Option<&Node>, eni: &Eni) -> usize {
    let pods = node.map(|n| n.pods.as_slice()).unwrap_or_default();
    pods.iter().filter(|p| eni.owns(p.address)).count()
}

/// Everybody's word on who has which address.
fn addresses(inputs: &Inputs, node: &Node) -> Vec<Address> {
    let mut all: BTreeMap<(Ipv4Addr, ObjectName), (bool, bool)> = BTreeMap::new();
    for pod in &node.pods {
        let name = ObjectName::new(&pod.namespace, &pod.name);
        all.entry((pod.address, name)).or_default().0 = true;
    }
    let told = node.told.as_deref();
    for one in told
        .map(|t| compare::believed(&t.enis))
        .unwrap_or_default()
        .values()
    {
        for (address, of) in &one.addresses {
            if let Some(name) = compare::pod_of(of) {
                all.entry((*address, name)).or_default().1 = true;
            }
        }
    }
    let by_cluster = node.kubernetes.is_some();
    let attached = inputs.world.enis_of(&node.instance);
    all.into_iter()
        .map(|((address, pod), (kubernetes, agent))| Address {
            address,
            pod: pod.to_string(),
            eni: attached
                .iter()
                .find(|e| e.owns(address))
                .map(|e| e.id.to_string()),
            kubernetes: by_cluster.then_some(kubernetes),
            agent: told.map(|_| agent),
        })
        .collect()
}
