//! `branchline who-is X`: from an address to its pod, node and interface, and back.

use std::net::Ipv4Addr;

use anyhow::bail;
use clap::Args;
use reach::facts::{Inputs, InstanceLimits, Node, Pod};
use reach::noun::Noun;
use reach::resolve::{Owner, find_eni, find_group, find_instance, find_pod, find_rds, owner, short_name};
use serde::Serialize;
use vpc::facts::{Eni, EniKind};

use crate::read::{HOLDS, Output, Sources};

/// Whose address, interface or group is this?
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  branchline who-is 10.0.1.23
  branchline who-is pod/api-1
  branchline who-is eni-0123456789abcdef0
  branchline who-is sg/add_sg
  branchline who-is node/ip-10-0-1-11")]
pub(crate) struct WhoIsArgs {
    /// An IPv4 address, pod/NAME, node/NAME, rds/NAME, an ENI's or a security group's id or sg/NAME.
    what: String,
    #[command(flatten)]
    sources: Sources,
}

#[derive(Debug, Serialize)]
struct Document {
    schema: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Pod>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eni: Option<Interface>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    enis: Vec<Interface>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity: Option<Capacity>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Interface {
    id: String,
    name: String,
    kind: EniKind,
    device: Option<u32>,
    node: Option<String>,
    subnet: String,
    zone: Option<String>,
    mac: String,
    groups: Vec<String>,
    addresses: Vec<Ipv4Addr>,
    pods: Vec<Pod>,
}

#[derive(Debug, Serialize)]
struct Capacity {
    instance_type: String,
    interfaces: u32,
    addresses: u32,
    pod_addresses: u32,
    max_pods: u32,
    trunking: Option<bool>,
}

pub(crate) async fn run(args: WhoIsArgs) -> anyhow::Result<u8> {
    let inputs = args.sources.read().await?;
    let mut document = look_up(&inputs, &args.what)?;
    document.unknown.extend(
        inputs
            .unread_nodes
            .iter()
            .map(|(n, why)| format!("the pods of {n}: {why}")),
    );
    match args.sources.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&document)?),
        Output::Text => print(&document),
    }
    Ok(HOLDS)
}

fn empty() -> Document {
    Document {
        schema: "branchline/who-is/v1",
        address: None,
        pod: None,
        node: None,
        eni: None,
        enis: Vec::new(),
        group: None,
        capacity: None,
        unknown: Vec::new(),
    }
}

fn look_up(inputs: &Inputs, what: &str) -> anyhow::Result<Document> {
    if let Some(name) = what
        .strip_prefix("sg/")
        .or_else(|| what.starts_with("sg-").then_some(what))
    {
        return group(inputs, name);
    }
    if what.starts_with("eni-") {
        return Ok(of_eni(inputs, find_eni(&inputs.world, what)?, None));
    }
    match what.parse::<Noun>()? {
        Noun::Eni(name) => Ok(of_eni(inputs, find_eni(&inputs.world, &name)?, None)),
        Noun::Pod { namespace, name } => {
            let (node, pod) = find_pod(inputs, namespace.as_deref(), &name)?;
            Ok(of_pod(inputs, node, pod))
        }
        Noun::Node(name) => of_node(inputs, &name),
        Noun::Rds(name) => Ok(of_eni(inputs, find_rds(&inputs.world, &name)?, None)),
        Noun::Address(address) => match owner(inputs, address) {
            Some(Owner::Pod(node, pod)) => Ok(of_pod(inputs, node, pod)),
            Some(Owner::Eni(eni)) => Ok(of_eni(inputs, eni, Some(address))),
            None => bail!("{address} belongs to no pod and no interface that was read"),
        },
    }
}

fn of_pod(inputs: &Inputs, node: &Node, pod: &Pod) -> Document {
    let enis = inputs.world.enis_of(&node.instance);
    let mut document = match enis.iter().find(|e| e.owns(pod.address)) {
        Some(eni) => of_eni(inputs, eni, Some(pod.address)),
        None => {
            let mut document = empty();
            document.unknown.push(format!(
                "EC2 lists {} on no ENI of {}",
                pod.address, node.name
            ));
            document
        }
    };
    document.pod = Some(pod.clone());
    document.node = Some(node.name.clone());
    document.address = Some(pod.address);
    document
}

fn of_eni(inputs: &Inputs, eni: &Eni, address: Option<Ipv4Addr>) -> Document {
    let interface = interface(inputs, eni);
    Document {
        address: address.or(eni.primary()),
        node: interface.node.clone(),
        eni: Some(interface),
        ..empty()
    }
}

fn of_node(inputs: &Inputs, name: &str) -> anyhow::Result<Document> {
    let instance = find_instance(inputs, name)?;
    let enis = inputs.world.enis_of(&instance.id);
    let limits = inputs.limits.get(&instance.instance_type);
    Ok(Document {
        node: Some(short_name(instance).to_owned()),
        address: enis.first().and_then(|e| e.primary()),
        enis: enis.iter().map(|e| interface(inputs, e)).collect(),
        capacity: limits.map(|l| capacity(&instance.instance_type, *l)),
        unknown: inputs
            .unread_limits
            .iter()
            .map(|u| format!("{}: {}", u.action, u.reason))
            .collect(),
        ..empty()
    })
}

fn capacity(instance_type: &str, limits: InstanceLimits) -> Capacity {
    Capacity {
        instance_type: instance_type.to_owned(),
        interfaces: limits.interfaces,
        addresses: limits.interfaces * limits.addresses,
        pod_addresses: limits.pod_addresses(),
        max_pods: limits.max_pods(),
        trunking: limits.trunking,
    }
}

fn group(inputs: &Inputs, name: &str) -> anyhow::Result<Document> {
    let id = find_group(&inputs.world, name, None)?;
    let carriers = inputs
        .world
        .enis
        .values()
        .filter(|e| e.groups.contains(&id));
    Ok(Document {
        group: Some(format!(
            "{} ({id})",
            advice::name::group(&inputs.world, &id)
        )),
        enis: carriers.map(|e| interface(inputs, e)).collect(),
        ..empty()
    })
}

fn interface(inputs: &Inputs, eni: &Eni) -> Interface {
    let world = &inputs.world;
    let instance = eni.instance().and_then(|i| world.instances.get(i));
    let pods = inputs
        .nodes
        .values()
        .flat_map(|n| &n.pods)
        .filter(|p| eni.owns(p.address));
    Interface {
        id: eni.id.to_string(),
        name: eni.name().to_owned(),
        kind: eni.kind.clone(),
        device: eni.attachment.as_ref().map(|a| a.device_index),
        node: instance.map(|i| short_name(i).to_owned()),
        subnet: eni.subnet.to_string(),
        zone: world.subnets.get(&eni.subnet).map(|s| s.zone.clone()),
        mac: eni.mac.to_string(),
        groups: advice::name::groups(world, &eni.groups),
        addresses: eni.addresses.iter().map(|a| a.address).collect(),
        pods: pods.cloned().collect(),
    }
}

fn print(document: &Document) {
    let line = |name: &str, value: &str| anstream::println!("{name:<10} {value}");
    if let Some(group) = &document.group {
        line("group", group);
        line("on", &format!("{} ENIs", document.enis.len()));
    }
    if let Some(address) = document.address {
        line("address", &address.to_string());
    }
    if let Some(pod) = &document.pod {
        line("pod", &pod.label());
    }
    if let Some(node) = &document.node {
        line("node", node);
    }
    for eni in document.eni.iter().chain(&document.enis) {
        let device = match eni.device {
            Some(0) => "primary".to_owned(),
            Some(n) => format!("device {n}"),
            None => "not attached".to_owned(),
        };
        line("eni", &format!("{} {device}, {}", eni.id, eni.name));
        line("  groups", &eni.groups.join(" "));
        line(
            "  subnet",
            &format!("{} {}", eni.subnet, eni.zone.as_deref().unwrap_or_default()),
        );
        let addresses: Vec<String> = eni.addresses.iter().map(ToString::to_string).collect();
        line("  owns", &addresses.join(" "));
        if document.pod.is_none() && !eni.pods.is_empty() {
            let pods: Vec<String> = eni.pods.iter().map(Pod::label).collect();
            line("  pods", &pods.join(" "));
        }
    }
    if let Some(c) = &document.capacity {
        let trunk = match c.trunking {
            Some(true) => "can have a trunk",
            Some(false) => "no trunk: branch ENIs 0",
            None => "trunk: not known for this type",
        };
        line(
            "capacity",
            &format!(
                "{}: {} ENIs; {} addresses = {} of the ENIs + {} pod addresses; max-pods {} (two on the host's network); {trunk}",
                c.instance_type,
                c.interfaces,
                c.addresses,
                c.interfaces,
                c.pod_addresses,
                c.max_pods
            ),
        );
    }
    for need in &document.unknown {
        line("unknown", need);
    }
}
