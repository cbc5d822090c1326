//! What a node's agent believes, against EC2 and against Kubernetes: interfaces, addresses, pods, the
//! kernel's state; and interfaces in EC2 that belong to nobody any more.
//!
//! The three are read within seconds of each other, and an address that comes or goes meanwhile is no
//! difference: what the agent itself says is on its way is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use cni::introspect::{Address, Enis};
use ipnet::Ipv4Net;
use jiff::Timestamp;
use kube_view::facts::{AGENT, ObjectName};
use reach::Inputs;
use reach::facts::{Node, Told};
use reach::resolve::find_instance;
use vpc::facts::{Eni, EniKind, EniStatus};

use crate::drift::{Difference, What};

/// The tag that an agent puts on its interfaces.
const INSTANCE_ID: &str = "node.k8s.amazonaws.com/instance_id";
/// When it made them.
const CREATED_AT: &str = "node.k8s.amazonaws.com/createdAt";
/// The tag of interfaces that the agent shall leave alone.
const NO_MANAGE: &str = "node.k8s.amazonaws.com/no_manage";
/// What agents call their interfaces.
const DESCRIPTION: &str = "aws-K8S-";
/// Younger interfaces may be on their way to a node (upstream's sweeper waits as long).
const YOUNG_SECONDS: i64 = 300;

/// The interfaces of a node that pods have addresses of, by EC2's word.
pub(crate) fn pod_interfaces<'a>(inputs: &'a Inputs, node: &Node) -> Vec<&'a Eni> {
    let attached = inputs.world.enis_of(&node.instance);
    let card = |e: &Eni| e.attachment.as_ref().map_or(0, |a| a.network_card);
    let own = attached.first().map_or(0, |e| card(e));
    let of_pods = |e: &&Eni| {
        let left_alone = e.tags.get(NO_MANAGE).is_some_and(|v| v == "true");
        card(e) == own && e.kind == EniKind::Interface && !left_alone
    };
    attached.into_iter().filter(of_pods).collect()
}

/// The addresses that EC2 says pods of an interface may have.
pub(crate) fn pod_networks(eni: &Eni) -> BTreeSet<Ipv4Net> {
    let primary = eni.primary();
    eni.networks()
        .filter(|net| primary.is_none_or(|own| *net != Ipv4Net::from(own)))
        .collect()
}

/// An interface as the agent believes it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Believed<'a> {
    /// Single addresses and prefixes.
    pub(crate) networks: BTreeSet<Ipv4Net>,
    /// Addresses that were given to a pod, now or before.
    pub(crate) addresses: BTreeMap<Ipv4Addr, &'a Address>,
}

/// The agent's interfaces, by id. What is no address is passed over: it is not ours to judge.
pub(crate) fn believed(enis: &Enis) -> BTreeMap<&str, Believed<'_>> {
    let mut all = BTreeMap::new();
    for eni in enis.0.values().flat_map(|pool| pool.enis.values()) {
        let mut one = Believed::default();
        for (cidr, range) in &eni.available_ipv4_cidrs {
            one.networks.extend(cidr.parse::<Ipv4Net>().ok());
            for address in range.ip_addresses.values() {
                if let Ok(parsed) = address.address.parse() {
                    one.addresses.insert(parsed, address);
                }
            }
        }
        all.insert(eni.id.as_str(), one);
    }
    all
}

/// `namespace/name` of the pod that has an address, if the agent tells.
pub(crate) fn pod_of(address: &Address) -> Option<ObjectName> {
    let pod = &address.ipam_metadata;
    (address.assigned() && !pod.k8s_pod_name.is_empty())
        .then(|| ObjectName::new(&pod.k8s_pod_namespace, &pod.k8s_pod_name))
}

/// Everything in which a node's agent differs from EC2 and Kubernetes, and what it could not put right.
pub(crate) fn node(inputs: &Inputs, node: &Node) -> Vec<Difference> {
    let mut all = Vec::new();
    all.extend(agent_pod(inputs, node));
    let Some(told) = &node.told else {
        return all;
    };
    all.extend(interfaces(inputs, node, told));
    all.extend(pods(inputs, node, told));
    all.extend(kernel(node, told));
    all
}

/// The agent's pod crash-loops, or is not Ready.
fn agent_pod(inputs: &Inputs, node: &Node) -> Option<Difference> {
    let cluster = inputs.kubernetes.as_ref()?;
    let (name, pod) = cluster.agent_on(node.kubernetes.as_deref()?)?;
    (!pod.ready).then(|| Difference {
        what: What::AgentTrouble,
        code: None,
        objects: vec![node.name.clone()],
        title: "the agent's pod is not Ready: new pods may get no address there".to_owned(),
        lines: pod.trouble.clone(),
        help: Some(format!(
            "kubectl logs {} -n {} -c {AGENT} --previous",
            name.name, name.namespace
        )),
    })
}

/// What the agent's containers went through before they were Ready again.
pub(crate) fn troubles(inputs: &Inputs, node: &Node) -> Vec<String> {
    let cluster = inputs.kubernetes.as_ref();
    let name = node.kubernetes.as_deref();
    let agent = name.and_then(|n| cluster?.agent_on(n));
    let lines = agent.filter(|(_, pod)| pod.ready);
    let lines = lines
        .map(|(_, pod)| pod.trouble.iter())
        .into_iter()
        .flatten();
    lines
        .map(|line| format!("{}: the agent's {line}", node.name))
        .collect()
}

fn difference(
    what: What,
    node: &Node,
    title: &str,
    lines: Vec<String>,
    help: &str,
) -> Option<Difference> {
    (!lines.is_empty()).then(|| Difference {
        what,
        code: None,
        objects: vec![node.name.clone()],
        title: title.to_owned(),
        lines,
        help: Some(help.to_owned()),
    })
}

/// Interfaces and addresses, the agent's against EC2's.
fn interfaces(inputs: &Inputs, node: &Node, told: &Told) -> Vec<Difference> {
    if find_instance(inputs, node.instance.as_str()).is_err() {
        return Vec::new(); // EC2's half was not read
    }
    let real = pod_interfaces(inputs, node);
    let believed = believed(&told.enis);
    let coming = told.state.as_ref().is_some_and(|s| s.pool.coming > 0);
    let (mut lost, mut unknown) = (Vec::new(), Vec::new());
    let attached = inputs.world.enis_of(&node.instance);
    for (id, _) in believed.iter() {
        if !attached.iter().any(|e| e.id.as_str() == *id) {
            lost.push(format!(
                "{id}: the agent has it, EC2 does not list it on the instance"
            ));
        }
    }
    for eni in real {
        let Some(one) = believed.get(eni.id.as_str()) else {
            if !coming {
                let device = crate::name::device(eni);
                unknown.push(format!(
                    "{} ({device}): EC2 lists it on the instance, the agent does not",
                    eni.id
                ));
            }
            continue;
        };
        let networks = pod_networks(eni);
        for net in one.networks.difference(&networks) {
            let holders = one.addresses.iter().filter(|(a, _)| net.contains(*a));
            let pods: Vec<String> = holders
                .filter_map(|(_, a)| Some(pod_of(a)?.to_string()))
                .collect();
            let has = match pods.is_empty() {
                true => "no pod has it".to_owned(),
                false => format!("{} has it and is cut off", pods.join(", ")),
            };
            lost.push(format!(
                "{} on {}: EC2 does not list it; {has}",
                short(*net),
                eni.id
            ));
        }
        if !coming {
            let new = networks.difference(&one.networks);
            unknown.extend(
                new.map(|net| format!("{} on {}: the agent does not know it", short(*net), eni.id)),
            );
        }
    }
    let mut all = Vec::new();
    all.extend(difference(
        What::LostAddress,
        node,
        "the agent counts on interfaces or addresses that EC2 does not list",
        lost,
        "somebody took them away in EC2; the agent asks EC2 again by itself, pods that lost theirs must be deleted",
    ));
    all.extend(difference(
        What::UnknownAddress,
        node,
        "EC2 lists interfaces or addresses that the agent does not know",
        unknown,
        "somebody added them in EC2, or the agent has not asked since; they are not given to pods",
    ));
    all
}

/// A single address without its mask, a prefix with it.
fn short(net: Ipv4Net) -> String {
    match net.prefix_len() {
        32 => net.addr().to_string(),
        _ => net.to_string(),
    }
}

/// Who has which address, by Kubernetes' and by the agent's word.
fn pods(inputs: &Inputs, node: &Node, told: &Told) -> Option<Difference> {
    let cluster = inputs.kubernetes.as_ref()?;
    node.kubernetes.as_ref()?;
    let believed = believed(&told.enis);
    let by_agent: BTreeMap<Ipv4Addr, ObjectName> = believed
        .values()
        .flat_map(|one| &one.addresses)
        .filter_map(|(address, of)| Some((*address, pod_of(of)?)))
        .collect();
    let mut lines = Vec::new();
    for pod in &node.pods {
        let name = ObjectName::new(&pod.namespace, &pod.name);
        let branch = cluster.pods.get(&name).is_some_and(|p| p.pod_eni.is_some());
        match by_agent.get(&pod.address) {
            Some(other) if *other == name => {}
            _ if branch => {}
            Some(other) => lines.push(format!(
                "{}: Kubernetes says {name} has it, the agent says {other}",
                pod.address
            )),
            None => lines.push(format!(
                "{}: Kubernetes says {name} has it, the agent gave it to nobody",
                pod.address
            )),
        }
    }
    for (address, name) in &by_agent {
        let there = node.pods.iter().any(|p| p.address == *address);
        // A pod that starts has its address before Kubernetes tells.
        if !there && !cluster.pods.contains_key(name) {
            lines.push(format!(
                "{address}: the agent keeps it for {name}, which Kubernetes does not know"
            ));
        }
    }
    let doubtful = told.state.as_ref().map(|s| &s.leases.doubtful);
    for (address, why) in doubtful.into_iter().flatten() {
        lines.push(format!("{address}: the agent keeps it in doubt: {why}"));
    }
    difference(
        What::Leases,
        node,
        "Kubernetes and the agent disagree on who has which address",
        lines,
        "an agent that compares its leases with the pods on the node takes lost ones back by itself; see leases in /state",
    )
}

/// What the agent could not put right in the kernel.
fn kernel(node: &Node, told: &Told) -> Option<Difference> {
    let failing = &told.state.as_ref()?.repairs.failing;
    let lines = failing.iter().map(|(what, why)| format!("{what}: {why}"));
    difference(
        What::Kernel,
        node,
        "the agent could not put right what it found changed on its node",
        lines.collect(),
        "does something else (NetworkManager, systemd-networkd, a firewall) write these? see repairs in /state",
    )
}

/// Interfaces that an agent made, and that are on no instance.
pub(crate) fn leaked(inputs: &Inputs) -> Option<Difference> {
    let now = inputs
        .evidence
        .iter()
        .find(|e| e.source == "aws")
        .and_then(|e| e.at.parse::<Timestamp>().ok());
    let mut lines = Vec::new();
    let loose = |e: &&Eni| {
        let made = e.tags.contains_key(INSTANCE_ID) || e.description.starts_with(DESCRIPTION);
        made && e.attachment.is_none() && e.status == EniStatus::Available
    };
    for eni in inputs.world.enis.values().filter(loose) {
        let created = eni.tags.get(CREATED_AT);
        let at = created.and_then(|t| t.parse::<Timestamp>().ok());
        let age = now
            .zip(at)
            .map(|(now, at)| now.as_second() - at.as_second());
        if age.is_some_and(|seconds| seconds < YOUNG_SECONDS) {
            continue;
        }
        let of = eni.tags.get(INSTANCE_ID).map_or("", String::as_str);
        let alive = inputs
            .world
            .instances
            .values()
            .any(|i| i.id.as_str() == of && i.state != "terminated");
        let whose = match (of.is_empty(), alive) {
            (true, _) => eni.description.clone(),
            (false, true) => format!("made for {of}"),
            (false, false) => format!("made for {of}, which is gone"),
        };
        let since = created.map_or_else(|| "without a date".to_owned(), |at| format!("since {at}"));
        lines.push(format!("{} in {}: {whose}, {since}", eni.id, eni.subnet));
    }
    (!lines.is_empty()).then(|| Difference {
        what: What::LeakedInterface,
        code: None,
        objects: vec!["EC2".to_owned()],
        title: "interfaces that an agent made are attached to nothing and hold addresses".to_owned(),
        lines,
        help: Some(
            "an agent of the same cluster deletes them within the hour; without one: aws ec2 delete-network-interface --network-interface-id ENI".to_owned(),
        ),
    })
}
