//! Nodes of the model from what Kubernetes, EC2 and the agents say, and where they disagree.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use kube_view::Cluster;
use kube_view::facts::{Kind, ObjectName};
use reach::Inputs;
use reach::facts::{Node, Pod};
use reach::resolve::short_name;
use vpc::facts::{Instance, InstanceId};

use crate::agent::{self, Agent, Documents};

/// Adds the nodes that Kubernetes knows.
pub(crate) fn from_kubernetes(inputs: &mut Inputs) {
    let Some(cluster) = inputs.kubernetes.take() else {
        return;
    };
    let pods = match cluster.unread.get(&Kind::Pod) {
        None => Ok(by_node(&cluster)),
        Some(unread) => Err(format!("{}: {}", unread.right, unread.reason)),
    };
    for (name, node) in &cluster.nodes {
        let instance = match instance(inputs, node.instance.as_deref()) {
            Ok(instance) => instance,
            Err(why) => {
                inputs.unread_nodes.insert(name.name.clone(), why);
                continue;
            }
        };
        let on_it = match &pods {
            Ok(pods) => pods.get(name.name.as_str()).cloned().unwrap_or_default(),
            Err(why) => {
                let short = unique_name(inputs, instance);
                inputs.unread_nodes.insert(short, why.clone());
                continue;
            }
        };
        let agent = agent_of(&cluster, &name.name);
        let (settings, unclear) = match agent.settings {
            Ok(settings) => (Some(settings), None),
            Err(why) => (
                None,
                Some(format!("what the agent of {name} does with packets: {why}")),
            ),
        };
        let node = Node {
            name: unique_name(inputs, instance),
            instance: instance.id.clone(),
            kubernetes: Some(name.name.clone()),
            pods: on_it.own,
            host_pods: on_it.host,
            settings,
            unclear,
            groups: agent.groups,
            agent: agent.name,
            packs: agent.packs,
            runs_otherwise: Vec::new(),
            told: None,
            silent: None,
        };
        inputs.nodes.insert(node.name.clone(), node);
    }
    inputs.kubernetes = Some(cluster);
}

/// The running pods of a node.
#[derive(Debug, Clone, Default)]
struct OnNode {
    own: Vec<Pod>,
    host: Vec<Pod>,
}

fn by_node(cluster: &Cluster) -> BTreeMap<&str, OnNode> {
    let mut nodes: BTreeMap<&str, OnNode> = BTreeMap::new();
    for (name, pod) in cluster.pods.iter().filter(|(_, p)| p.runs() && !p.deleting) {
        let (Some(node), Some(address)) = (&pod.node, pod.ipv4()) else {
            continue; // the sender's own answer says that there is no IPv4 address
        };
        let named = Pod {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            address,
        };
        let on = nodes.entry(node).or_default();
        match pod.host_network {
            true => on.host.push(named),
            false => on.own.push(named),
        }
    }
    nodes
}

fn instance<'a>(inputs: &'a Inputs, id: Option<&str>) -> Result<&'a Instance, String> {
    let id = id.ok_or("its provider id names no EC2 instance")?;
    let parsed: InstanceId = id.parse().map_err(|e| format!("its provider id: {e}"))?;
    inputs.world.instances.get(&parsed).ok_or_else(|| match inputs.world.unread(vpc::facts::Kind::Instances) {
        Some(unread) => format!("{}: {}", unread.action, unread.reason),
        None => format!(
            "EC2 lists no instance {id} in {} of account {}: are region and profile those of the cluster?",
            inputs.world.region, inputs.world.account
        ),
    })
}

/// The short name of a node, or the instance's id where two have the same.
fn unique_name(inputs: &Inputs, instance: &Instance) -> String {
    let short = short_name(instance);
    let same = |i: &&Instance| i.state != "terminated" && short_name(i) == short;
    match inputs.world.instances.values().filter(same).count() {
        0 | 1 => short.to_owned(),
        _ => instance.id.to_string(),
    }
}

/// The agent of a node: what its own pod was started with, else what the DaemonSet says.
fn agent_of(cluster: &Cluster, node: &str) -> Agent {
    let containers = cluster.agent_containers(node);
    if !containers.is_empty() {
        return agent::agent(containers);
    }
    match cluster.unread.get(&Kind::DaemonSet) {
        Some(unread) => Agent {
            settings: Err(format!("{}: {}", unread.right, unread.reason)),
            ..agent::agent(&[])
        },
        None => Agent {
            settings: Err(format!(
                "no DaemonSet in kube-system has a container {}",
                kube_view::facts::AGENT
            )),
            ..agent::agent(&[])
        },
    }
}

/// Puts what an agent says of its node beside what is known of it. An agent that has just started
/// knows no pods yet, which is not the same as none.
pub(crate) fn from_agent(inputs: &mut Inputs, told: Node, documents: Documents) {
    let state = told.told.as_ref().and_then(|t| t.state.as_ref());
    let young = state
        .filter(|s| !s.ready && told.pods.is_empty())
        .map(|s| format!("the agent is not ready: {}", s.reason));
    let Some(known) = inputs
        .nodes
        .values_mut()
        .find(|n| n.instance == told.instance)
    else {
        match young {
            Some(why) => {
                inputs.unread_nodes.insert(told.name, why);
            }
            None => {
                inputs.unread_nodes.remove(&told.name);
                inputs.nodes.insert(told.name.clone(), told);
            }
        }
        return;
    };
    known.told.clone_from(&told.told);
    if young.is_some() {
        known.groups = told.groups;
        return;
    }
    let cluster = inputs.kubernetes.as_ref();
    let name = known.kubernetes.as_deref();
    if let Some((_, pod)) = name.and_then(|n| cluster?.agent_on(n)) {
        known.runs_otherwise = agent::runs_otherwise(&pod.containers, &documents);
    }
    let lines = disagreements(cluster, known, &told);
    known.groups = told.groups;
    known.agent = told.agent;
    known.packs = told.packs;
    inputs.contradictions.extend(lines);
}

fn disagreements(cluster: Option<&Cluster>, known: &Node, told: &Node) -> Vec<String> {
    let by_address = |pods: &[Pod]| -> BTreeMap<Ipv4Addr, String> {
        pods.iter().map(|p| (p.address, p.label())).collect()
    };
    let (kubernetes, agent) = (by_address(&known.pods), by_address(&told.pods));
    let addresses: BTreeSet<&Ipv4Addr> = kubernetes.keys().chain(agent.keys()).collect();
    let exists = |label: &str| {
        let Ok(name) = label.parse::<ObjectName>();
        cluster.is_some_and(|c| c.pods.contains_key(&name))
    };
    let lines = addresses.into_iter().filter_map(|address| {
        match (kubernetes.get(address), agent.get(address)) {
            (Some(a), Some(b)) if a == b => None,
            (Some(a), Some(b)) => Some(format!("Kubernetes says {a} has it, the agent says {b}")),
            (Some(a), None) => Some(format!(
                "Kubernetes says {a} has it, the agent gave it to nobody"
            )),
            // A pod that starts has its address before Kubernetes tells.
            (None, Some(b)) if exists(b) => None,
            (None, Some(b)) => Some(format!(
                "the agent keeps it for {b}, which Kubernetes does not know"
            )),
            (None, None) => None,
        }
        .map(|what| format!("{address} on {}: {what}", known.name))
    });
    lines.collect()
}
