//! From the nouns of a question to interfaces and addresses.

mod workload;

use std::net::Ipv4Addr;

use vpc::facts::{Eni, EniId, Instance, SgId, VpcId, World};
use vpc::world::name_tag;

use crate::error::Error;
use crate::facts::{Inputs, Node, Pod};
use crate::noun::{Noun, Service};
use crate::target::{self, Target, Via};

pub use workload::find_service;
pub(crate) use workload::{cluster, only_ipv4, unread};

/// One running sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The pod, or `None` for a bare interface.
    pub pod: Option<Pod>,
    /// The node it runs on, if it runs on one that was read.
    pub node: Option<String>,
    /// The address it sends from.
    pub address: Ipv4Addr,
    /// The interface that owns the address by EC2's word; `None` when EC2 knows none.
    pub eni: Option<EniId>,
    /// It is on its node's network: its packets are the node's own.
    pub host: bool,
}

impl Sender {
    /// What people call it.
    pub fn label(&self) -> String {
        match (&self.pod, &self.eni) {
            (Some(pod), _) => pod.label(),
            (None, Some(eni)) => eni.to_string(),
            (None, None) => self.address.to_string(),
        }
    }
}

/// Who sends. `unknown` names what could not be read; the senders are then not all there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Senders {
    /// The running ones.
    pub running: Vec<Sender>,
    /// Nodes whose pods the question is about.
    pub nodes: Vec<String>,
    /// What could not be read.
    pub unknown: Vec<String>,
}

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// What people call it.
    pub label: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The interface that owns the address, if one is known.
    pub eni: Option<EniId>,
    /// The Service that stands before the targets, if one does.
    pub via: Option<Via>,
    /// The addresses that packets may go to: its own, or the ready endpoints of a Service.
    pub targets: Vec<Target>,
    /// What could not be read; the targets are then not all there are.
    pub unknown: Vec<String>,
}

/// Looks up the senders that a noun names.
pub fn senders(inputs: &Inputs, noun: &Noun) -> Result<Senders, Error> {
    match noun {
        Noun::Pod { namespace, name } => {
            let (node, pod) = match find_pod(inputs, namespace.as_deref(), name) {
                Ok(found) => found,
                Err(error @ Error::NotFound { .. }) => {
                    let unknown = workload::absent_pod(inputs, namespace.as_deref(), name);
                    if unknown.is_empty() {
                        return Err(error);
                    }
                    return Ok(Senders {
                        unknown,
                        ..Senders::default()
                    });
                }
                Err(error) => return Err(error),
            };
            Ok(Senders {
                running: vec![pod_sender(inputs, node, pod)],
                nodes: vec![node.name.clone()],
                unknown: Vec::new(),
            })
        }
        Noun::Workload {
            kind,
            namespace,
            name,
        } => workload::senders(inputs, noun, *kind, namespace.as_deref(), name),
        Noun::Service { namespace, name } => {
            workload::of_selector(inputs, noun, namespace.as_deref(), name)
        }
        Noun::ApiServer => Err(Error::WrongSide {
            noun: noun.to_string(),
            role: "a source",
            why: "what it sends (webhooks, kubelet calls) is not modelled; ask about eni/ID of the control plane",
        }),
        Noun::Node(name) => node_senders(inputs, name),
        Noun::Eni(name) => {
            let eni = find_eni(&inputs.world, name)?;
            let address = eni.primary().ok_or_else(|| Error::NotFound {
                kind: "address of eni",
                name: name.clone(),
                hint: ": the interface has no IPv4 address".to_owned(),
            })?;
            Ok(bare(eni, address))
        }
        Noun::Address(address) => match owner(inputs, *address) {
            Some(Owner::Pod(node, pod)) => Ok(Senders {
                running: vec![pod_sender(inputs, node, pod)],
                nodes: vec![node.name.clone()],
                unknown: Vec::new(),
            }),
            Some(Owner::Eni(eni)) => Ok(bare(eni, *address)),
            None => Err(Error::NobodysAddress { address: *address }),
        },
        Noun::Rds(name) => {
            let eni = find_rds(&inputs.world, name)?;
            let address = eni.primary().ok_or(Error::WrongSide {
                noun: noun.to_string(),
                role: "a source",
                why: "its interface has no IPv4 address",
            })?;
            Ok(bare(eni, address))
        }
    }
}

/// Looks up the destination that a noun names, for packets to this service.
pub fn destination(inputs: &Inputs, noun: &Noun, service: Service) -> Result<Destination, Error> {
    if matches!(noun, Noun::Service { .. } | Noun::ApiServer) {
        return target::through_service(inputs, noun, service);
    }
    let mut found = by_address(inputs, noun)?;
    if let (Noun::Address(address), Some(cluster)) = (noun, &inputs.kubernetes) {
        // A Service's own address is rewritten before anything else happens.
        let is = |s: &kube_view::facts::Service| s.cluster_ip == Some(*address);
        if let Some((name, _)) = cluster.services.iter().find(|(_, s)| is(s)) {
            let noun = Noun::Service {
                namespace: Some(name.namespace.clone()),
                name: name.name.clone(),
            };
            return target::through_service(inputs, &noun, service);
        }
    }
    found.targets.push(target::itself(&found, service));
    Ok(found)
}

/// What is reached by its own address.
fn by_address(inputs: &Inputs, noun: &Noun) -> Result<Destination, Error> {
    let plain = |label: String, address, eni| Destination {
        label,
        address,
        eni,
        via: None,
        targets: Vec::new(),
        unknown: Vec::new(),
    };
    let of = |eni: &Eni, label: String| {
        let address = eni.primary().ok_or(Error::WrongSide {
            noun: noun.to_string(),
            role: "a destination",
            why: "its interface has no IPv4 address",
        })?;
        Ok(plain(label, address, Some(eni.id.clone())))
    };
    match noun {
        Noun::Pod { namespace, name } => {
            let (node, pod) = find_pod(inputs, namespace.as_deref(), name)?;
            let eni = eni_of_pod(inputs, node, pod.address);
            Ok(plain(pod.label(), pod.address, eni))
        }
        Noun::Workload { .. } => Err(Error::WrongSide {
            noun: noun.to_string(),
            role: "a destination",
            why: "clients reach its pods through a Service, or one by one: ask about svc/NAME or pod/NAME",
        }),
        Noun::Service { .. } | Noun::ApiServer => Err(Error::WrongSide {
            noun: noun.to_string(),
            role: "a destination without endpoints",
            why: "it has no address of its own",
        }),
        Noun::Node(name) => {
            let instance = find_instance(inputs, name)?;
            let enis = inputs.world.enis_of(&instance.id);
            let primary = enis.first().ok_or(Error::WrongSide {
                noun: noun.to_string(),
                role: "a destination",
                why: "no interface of it was read",
            })?;
            of(primary, noun.to_string())
        }
        Noun::Rds(name) => of(find_rds(&inputs.world, name)?, noun.to_string()),
        Noun::Eni(name) => {
            let eni = find_eni(&inputs.world, name)?;
            of(eni, eni.id.to_string())
        }
        Noun::Address(address) => Ok(match owner(inputs, *address) {
            Some(Owner::Pod(node, pod)) => {
                let eni = eni_of_pod(inputs, node, *address);
                plain(pod.label(), *address, eni)
            }
            Some(Owner::Eni(eni)) => plain(eni.name().to_owned(), *address, Some(eni.id.clone())),
            None => plain(address.to_string(), *address, None),
        }),
    }
}

/// Who has an address.
pub enum Owner<'a> {
    /// A pod on a node.
    Pod(&'a Node, &'a Pod),
    /// An interface, and no pod that is known.
    Eni(&'a Eni),
}

/// Looks up who has an address.
pub fn owner(inputs: &Inputs, address: Ipv4Addr) -> Option<Owner<'_>> {
    let pods = inputs
        .nodes
        .values()
        .flat_map(|n| n.pods.iter().map(move |p| (n, p)));
    if let Some((node, pod)) = pods.into_iter().find(|(_, p)| p.address == address) {
        return Some(Owner::Pod(node, pod));
    }
    inputs
        .world
        .enis
        .values()
        .find(|e| e.owns(address))
        .map(Owner::Eni)
}

/// The pod of that name, or the only one whose name begins so.
pub fn find_pod<'a>(
    inputs: &'a Inputs,
    namespace: Option<&str>,
    name: &str,
) -> Result<(&'a Node, &'a Pod), Error> {
    let pods = || {
        inputs
            .nodes
            .values()
            .flat_map(|n| n.pods.iter().chain(&n.host_pods).map(move |p| (n, p)))
    };
    let in_namespace = |p: &Pod| namespace.is_none_or(|ns| p.namespace == ns);
    let exact: Vec<_> = pods()
        .filter(|(_, p)| in_namespace(p) && p.name == name)
        .collect();
    let begins = || {
        pods()
            .filter(|(_, p)| in_namespace(p) && p.name.starts_with(name))
            .collect()
    };
    let found = if exact.is_empty() { begins() } else { exact };
    only(
        "pod",
        name,
        found,
        |(_, p)| p.label(),
        || known("pods", pods().map(|(_, p)| p.label())),
    )
}

/// The instance of a node: by short name, private DNS name, id, Name tag, or the beginning of one.
pub fn find_instance<'a>(inputs: &'a Inputs, name: &str) -> Result<&'a Instance, Error> {
    let instances = || {
        inputs
            .world
            .instances
            .values()
            .filter(|i| i.state != "terminated")
    };
    let is = |i: &&Instance| {
        let names = [short_name(i), &i.private_dns_name, i.id.as_str()];
        names.contains(&name)
    };
    let in_kubernetes = |i: &&Instance| {
        let called = |n: &&Node| n.instance == i.id;
        let node = inputs.nodes.values().find(called);
        node.is_some_and(|n| n.answers_to(name))
    };
    let mut exact: Vec<_> = instances().filter(is).collect();
    if exact.len() != 1 {
        let known: Vec<_> = instances().filter(in_kubernetes).collect();
        exact = if known.is_empty() { exact } else { known };
    }
    if exact.is_empty() {
        exact = instances()
            .filter(|i| name_tag(&i.tags) == Some(name))
            .collect();
    }
    let begins = || {
        instances()
            .filter(|i| i.private_dns_name.starts_with(name) || i.id.as_str().starts_with(name))
            .collect()
    };
    let found = if exact.is_empty() { begins() } else { exact };
    only(
        "node",
        name,
        found,
        |i| short_name(i).to_owned(),
        || known("nodes", instances().map(|i| short_name(i).to_owned())),
    )
}

/// The interface of that id or Name tag, or the only one whose id begins so.
pub fn find_eni<'a>(world: &'a World, name: &str) -> Result<&'a Eni, Error> {
    let exact: Vec<_> = world
        .enis
        .values()
        .filter(|e| e.id.as_str() == name || name_tag(&e.tags) == Some(name))
        .collect();
    let begins = || {
        world
            .enis
            .values()
            .filter(|e| e.id.as_str().starts_with(name))
            .collect()
    };
    let found = if exact.is_empty() { begins() } else { exact };
    only("eni", name, found, |e| e.id.to_string(), String::new)
}

/// The group of that id or name.
pub fn find_group(world: &World, name: &str, vpc: Option<&VpcId>) -> Result<SgId, Error> {
    let found: Vec<_> = world
        .groups
        .values()
        .filter(|g| g.id.as_str() == name || g.name == name)
        .filter(|g| vpc.is_none_or(|vpc| &g.vpc == vpc))
        .collect();
    only(
        "sg",
        name,
        found,
        |g| g.label(),
        || known("groups", world.groups.values().map(|g| g.name.clone())),
    )
    .map(|g| g.id.clone())
}

/// The interface of a database: one that RDS made, named by its Name tag.
pub fn find_rds<'a>(world: &'a World, name: &str) -> Result<&'a Eni, Error> {
    let databases = || {
        world
            .enis
            .values()
            .filter(|e| e.description == "RDSNetworkInterface")
    };
    let found = databases()
        .filter(|e| name_tag(&e.tags) == Some(name))
        .collect();
    only(
        "rds",
        name,
        found,
        |e| e.id.to_string(),
        || known("databases", databases().map(|e| e.name().to_owned())),
    )
}

/// `ip-10-0-1-11` of `ip-10-0-1-11.us-west-2.compute.internal`.
pub fn short_name(instance: &Instance) -> &str {
    match instance.private_dns_name.split_once('.') {
        Some((short, _)) => short,
        None if instance.private_dns_name.is_empty() => instance.id.as_str(),
        None => &instance.private_dns_name,
    }
}

pub(crate) fn only<T>(
    kind: &'static str,
    name: &str,
    mut found: Vec<T>,
    label: impl Fn(&T) -> String,
    hint: impl Fn() -> String,
) -> Result<T, Error> {
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Error::NotFound {
            kind,
            name: name.to_owned(),
            hint: hint(),
        }),
        _ => Err(Error::Ambiguous {
            kind,
            name: name.to_owned(),
            candidates: found.iter().map(label).collect(),
        }),
    }
}

pub(crate) fn known(what: &str, names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    match names.len() {
        0 => format!("; no {what} were read"),
        n if n > 8 => format!(
            "; {what} that were read: {}, … ({n} in all)",
            names[..8].join(", ")
        ),
        _ => format!("; {what} that were read: {}", names.join(", ")),
    }
}

pub(crate) fn unread_nodes(inputs: &Inputs) -> Vec<String> {
    inputs
        .unread_nodes
        .iter()
        .map(|(node, why)| format!("the pods of node {node}: {why}"))
        .collect()
}

fn bare(eni: &Eni, address: Ipv4Addr) -> Senders {
    let sender = Sender {
        pod: None,
        node: None,
        address,
        eni: Some(eni.id.clone()),
        host: false,
    };
    Senders {
        running: vec![sender],
        ..Senders::default()
    }
}

fn pod_sender(inputs: &Inputs, node: &Node, pod: &Pod) -> Sender {
    Sender {
        pod: Some(pod.clone()),
        node: Some(node.name.clone()),
        address: pod.address,
        eni: eni_of_pod(inputs, node, pod.address),
        host: node.host_pods.contains(pod),
    }
}

/// The interface of a node that owns a pod's address.
pub(crate) fn eni_of_pod(inputs: &Inputs, node: &Node, address: Ipv4Addr) -> Option<EniId> {
    let mut enis = inputs.world.enis.values();
    enis.find(|e| e.instance() == Some(&node.instance) && e.owns(address))
        .map(|e| e.id.clone())
}

fn node_senders(inputs: &Inputs, name: &str) -> Result<Senders, Error> {
    let instance = find_instance(inputs, name)?;
    let short = short_name(instance).to_owned();
    let Some(node) = inputs.nodes.values().find(|n| n.instance == instance.id) else {
        let why = inputs.unread_nodes.get(&short).cloned().unwrap_or_else(|| {
            match inputs.kubernetes {
                Some(_) => "it is no node of the cluster that was read".to_owned(),
                None => "no cluster was read, and its agent's introspection address is not known (--node NAME=URL)"
                    .to_owned(),
            }
        });
        return Ok(Senders {
            nodes: vec![short.clone()],
            unknown: vec![format!("the pods of node {short}: {why}")],
            ..Senders::default()
        });
    };
    let mut running: Vec<Sender> = node
        .pods
        .iter()
        .map(|p| pod_sender(inputs, node, p))
        .collect();
    in_order(&mut running);
    Ok(Senders {
        running,
        nodes: vec![node.name.clone()],
        unknown: Vec::new(),
    })
}

/// Pods in the order that people count them in.
fn in_order(senders: &mut [Sender]) {
    senders.sort_by_cached_key(|sender| sender.pod.as_ref().map(counted));
}

/// A pod's place among its like: `api-2` stands before `api-10`.
fn counted(pod: &Pod) -> (String, String, u64, String) {
    let stem = pod.name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = pod.name[stem.len()..].parse().unwrap_or(0);
    (
        pod.namespace.clone(),
        stem.to_owned(),
        number,
        pod.name.clone(),
    )
}
