//! What a node does with its pods' packets before the VPC sees them.
//!
//! The node's network is compiled from what EC2, Kubernetes and its agent say, with the same numbers that the
//! plugin installs; `nodenet` then says by which interface the packets leave. Packets that leave
//! the VPC would be translated by the node (SNAT), which is not modelled yet: UNKNOWN.

use std::collections::BTreeMap;

use flowset::FlowSet;
use ipnet::Ipv4Net;
use nodenet::{
    EniFacts, Entering, Exit, LinkName, NodeFacts, NodeNet, Part, PodFacts, PodName, VethPrefix,
};
use serde::Serialize;
use vpc::facts::{Eni, EniId, EniKind};

use crate::facts::{Inputs, Node, Pod};
use crate::resolve::Sender;

/// What a node does with a pod's packets.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStep {
    /// They leave by the interface that owns the pod's address.
    Leaves {
        /// The interface.
        eni: EniId,
        /// Its name on the node.
        link: String,
        /// The policy rule and route that say so.
        because: String,
    },
    /// They never leave the node: the destination is a pod on it, and no security group is met.
    Local {
        /// The rule and route that say so.
        because: String,
    },
}

/// How a sender's packets leave its node.
#[derive(Debug, Clone, PartialEq)]
pub enum Leave {
    /// The sender is an interface itself.
    NotAPod,
    /// By this interface.
    By(EniId, NodeStep),
    /// They do not: the destination is on the node.
    Stays(NodeStep),
    /// It cannot be said.
    Unknown(String),
}

impl Leave {
    /// The interface by which a sender's packets reach the VPC, if they do.
    pub fn eni<'a>(&'a self, sender: &'a Sender) -> Option<&'a EniId> {
        match self {
            Leave::NotAPod => sender.eni.as_ref(),
            Leave::By(eni, _) => Some(eni),
            Leave::Stays(_) | Leave::Unknown(_) => None,
        }
    }
}

/// The networks of some nodes as they must be.
#[derive(Debug, Default)]
pub struct Nodes {
    nets: BTreeMap<String, Result<Compiled, String>>,
}

#[derive(Debug)]
struct Compiled {
    net: NodeNet,
    vpc: Vec<Ipv4Net>,
    veth_prefix: VethPrefix,
    veths: BTreeMap<Pod, LinkName>,
    enis: BTreeMap<nodenet::Mac, EniId>,
}

impl Nodes {
    /// Compiles the nodes of these names; a node that cannot be compiled makes answers about it
    /// UNKNOWN.
    pub fn new<'n>(inputs: &Inputs, names: impl IntoIterator<Item = &'n String>) -> Self {
        let known = names.into_iter().filter_map(|name| inputs.nodes.get(name));
        Self {
            nets: known
                .map(|node| (node.name.clone(), compile(inputs, node)))
                .collect(),
        }
    }

    /// Sorts them for questions.
    pub fn tracers(&self) -> Tracers<'_> {
        let tracers = self.nets.iter().map(|(name, net)| {
            let tracer = net.as_ref().map(|c| (c, nodenet::Tracer::new(&c.net)));
            (name.as_str(), tracer.map_err(String::as_str))
        });
        Tracers {
            by_node: tracers.collect(),
        }
    }
}

/// The networks of some nodes, ready for questions.
pub struct Tracers<'a> {
    by_node: BTreeMap<&'a str, Result<(&'a Compiled, nodenet::Tracer<'a>), &'a str>>,
}

impl Tracers<'_> {
    /// Asks the sender's node what it does with these packets.
    pub fn leave(&self, sender: &Sender, flows: &FlowSet) -> Leave {
        let Some(pod) = &sender.pod else {
            return Leave::NotAPod;
        };
        let Some(node) = &sender.node else {
            return Leave::Unknown(format!("the node of {}", pod.label()));
        };
        let (compiled, tracer) = match self.by_node.get(node.as_str()) {
            Some(Ok(found)) => (&found.0, &found.1),
            Some(Err(why)) => return Leave::Unknown(format!("the network of node {node}: {why}")),
            None => return Leave::Unknown(format!("the network of node {node}")),
        };
        let entering = match (sender.host, compiled.veths.get(pod)) {
            (true, _) => Entering::Local,
            (false, Some(veth)) => Entering::Pod(veth.clone()),
            (false, None) => {
                return Leave::Unknown(format!("the link of {} on node {node}", pod.label()));
            }
        };
        let question = nodenet::Question {
            entering,
            mark: 0,
            vpc: &compiled.vpc,
            veth_prefix: &compiled.veth_prefix,
        };
        let parts = tracer.trace(flows, &question);
        match parts.as_slice() {
            [part] => exit(compiled, node, part),
            _ => Leave::Unknown(format!(
                "one way for all packets of {} through node {node}",
                pod.label()
            )),
        }
    }
}

fn exit(compiled: &Compiled, node: &str, part: &Part) -> Leave {
    let because = because(part);
    match &part.exit {
        Exit::Link { link, mac, .. } => match mac.as_ref().and_then(|m| compiled.enis.get(m)) {
            Some(eni) => {
                let step = NodeStep::Leaves {
                    eni: eni.clone(),
                    link: link.to_string(),
                    because,
                };
                Leave::By(eni.clone(), step)
            }
            None => Leave::Unknown(format!("which ENI link {link} of node {node} is")),
        },
        Exit::Pod { .. } | Exit::LocalDelivery { .. } => Leave::Stays(NodeStep::Local { because }),
        Exit::Dropped(reason) => {
            Leave::Unknown(format!("why node {node} would drop them: {reason}"))
        }
        Exit::Unknown(need) => Leave::Unknown(need.to_string()),
    }
}

fn because(part: &Part) -> String {
    let rule = part.rule.as_ref().map(ToString::to_string);
    let route = part.route.as_ref().map(ToString::to_string);
    let texts: Vec<String> = rule.into_iter().chain(route).collect();
    texts.join(" → ")
}

fn compile(inputs: &Inputs, node: &Node) -> Result<Compiled, String> {
    if let Some(why) = &node.unclear {
        return Err(why.clone());
    }
    let world = &inputs.world;
    let attached = world.enis_of(&node.instance);
    let primary = attached.first().ok_or("EC2 lists no interface of it")?;
    let vpc = world
        .vpcs
        .get(&primary.vpc)
        .ok_or_else(|| world.need(vpc::facts::Kind::Vpcs, &primary.vpc).to_string())?;
    let enis: Vec<EniFacts> = attached
        .iter()
        .map(|e| eni_facts(inputs, e))
        .collect::<Result<_, String>>()?;
    let (mut pods, mut veths) = (Vec::new(), BTreeMap::new());
    for pod in &node.pods {
        let Some(eni) = attached.iter().find(|e| e.owns(pod.address)) else {
            continue; // the sender's own answer says that EC2 does not know its address
        };
        pods.push(PodFacts {
            pod: PodName::new(&pod.namespace, &pod.name),
            index: 0,
            address: pod.address,
            eni: eni.id.to_string(),
        });
    }
    let facts = NodeFacts {
        enis,
        pods,
        settings: node.settings.clone().unwrap_or_default(),
    };
    for (pod, of) in node.pods.iter().filter_map(|p| {
        let facts = facts.pods.iter().find(|f| f.address == p.address)?;
        Some((p, facts))
    }) {
        let wiring = nodenet::wiring(&facts, of).map_err(|e| e.to_string())?;
        veths.insert(pod.clone(), wiring.host.link);
    }
    Ok(Compiled {
        net: nodenet::whole(&facts).map_err(|e| e.to_string())?,
        vpc: vpc.cidrs.clone(),
        veth_prefix: facts.settings.veth_prefix,
        veths,
        enis: attached
            .iter()
            .map(|e| (nodenet::Mac(e.mac.0), e.id.clone()))
            .collect(),
    })
}

/// Links are called `ethN` here: their real names are the machine image's business, and an
/// interface is recognised by its Ethernet address.
fn eni_facts(inputs: &Inputs, eni: &Eni) -> Result<EniFacts, String> {
    let attachment = eni
        .attachment
        .as_ref()
        .ok_or_else(|| format!("{} is not attached", eni.id))?;
    let subnet = inputs.world.subnets.get(&eni.subnet).ok_or_else(|| {
        inputs
            .world
            .need(vpc::facts::Kind::Subnets, &eni.subnet)
            .to_string()
    })?;
    Ok(EniFacts {
        id: eni.id.to_string(),
        card: attachment.network_card,
        device: attachment.device_index,
        mac: nodenet::Mac(eni.mac.0),
        link: LinkName::new(format!("eth{}", attachment.device_index))
            .map_err(|e| e.to_string())?,
        address: eni
            .primary()
            .ok_or_else(|| format!("{} has no IPv4 address", eni.id))?,
        subnet: subnet.cidr,
        trunk: eni.kind == EniKind::Trunk,
    })
}
