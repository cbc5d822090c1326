//! `branchline who-is X`: from an address to its pod, workload, node and interface, and back.

use std::net::Ipv4Addr;

use anyhow::bail;
use clap::Args;
use kube_view::Cluster;
use kube_view::facts::ObjectName;
use kube_view::workload::Belongs;
use reach::facts::{Inputs, InstanceLimits, Node, Pod};
use reach::noun::{Noun, Service};
use reach::resolve::{
    Owner, Sender, find_eni, find_group, find_instance, find_pod, find_rds, find_service, owner,
    short_name,
};
use reach::target::Target;
use serde::Serialize;
use vpc::facts::{Eni, EniKind};

use crate::read::{HOLDS, Output, Sources};

/// Whose address, interface or group is this?
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  branchline who-is 10.0.1.23
  branchline who-is dev/pod/api-7c9-x
  branchline who-is dev/deploy/api
  branchline who-is dev/svc/web
  branchline who-is eni-0123456789abcdef0
  branchline who-is sg/add_sg
  branchline who-is node/ip-10-0-1-11")]
pub(crate) struct WhoIsArgs {
    /// An IPv4 address, a pod, workload, Service or node by its noun, rds/NAME, apiserver, an ENI's or a
    /// security group's id or sg/NAME.
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
    workload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<Destination>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pods: Vec<Row>,
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

/// One pod of a workload or Service.
#[derive(Debug, Serialize)]
struct Row {
    pod: String,
    address: Ipv4Addr,
    node: Option<String>,
    eni: Option<String>,
    groups: Vec<String>,
}

/// A Service's addresses.
#[derive(Debug, Serialize)]
struct Destination {
    name: String,
    cluster_ip: Option<Ipv4Addr>,
    port: String,
    endpoints: Vec<Target>,
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
    let unread = inputs.kubernetes.iter().flat_map(|c| c.unread.values());
    let unread = unread.map(|u| format!("{}: {}", u.right, u.reason));
    document.unknown.extend(unread);
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
        workload: None,
        object: None,
        service: None,
        pods: Vec::new(),
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
        noun @ Noun::Workload { .. } => of_workload(inputs, &noun),
        noun @ (Noun::Service { .. } | Noun::ApiServer) => of_service(inputs, &noun),
        Noun::Rds(name) => Ok(of_eni(inputs, find_rds(&inputs.world, &name)?, None)),
        Noun::Address(address) => match owner(inputs, address) {
            Some(Owner::Pod(node, pod)) => Ok(of_pod(inputs, node, pod)),
            Some(Owner::Eni(eni)) => Ok(of_eni(inputs, eni, Some(address))),
            None if is_cluster_ip(inputs, address) => of_service(inputs, &Noun::Address(address)),
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
    if let Some((name, fact)) = inputs.kubernetes.as_ref().and_then(|c| {
        let name = ObjectName::new(&pod.namespace, &pod.name);
        c.pods.get_key_value(&name)
    }) {
        document.workload = inputs
            .kubernetes
            .as_ref()
            .and_then(|c| workload(c, name, fact));
        document.object = Some(format!("Pod {name}, resourceVersion {}", fact.version));
        if node.host_pods.contains(pod) {
            document.object = document
                .object
                .map(|o| format!("{o}, on the host's network"));
        }
    }
    document.pod = Some(pod.clone());
    document.node = Some(node.name.clone());
    document.address = Some(pod.address);
    document
}

fn workload(cluster: &Cluster, name: &ObjectName, pod: &kube_view::facts::Pod) -> Option<String> {
    match cluster.workload_of(name, pod) {
        Belongs::To(found) => Some(found.to_string()),
        Belongs::ToNone => None,
        Belongs::Unknown(kind) => Some(format!("not known: {} was not read", kind.resource())),
    }
}

fn of_workload(inputs: &Inputs, noun: &Noun) -> anyhow::Result<Document> {
    let senders = reach::resolve::senders(inputs, noun)?;
    let row = |sender: &Sender| Row {
        pod: sender.label(),
        address: sender.address,
        node: sender.node.clone(),
        eni: sender.eni.as_ref().map(ToString::to_string),
        groups: sender
            .eni
            .as_ref()
            .and_then(|id| inputs.world.enis.get(id))
            .map(|e| advice::name::groups(&inputs.world, &e.groups))
            .unwrap_or_default(),
    };
    Ok(Document {
        workload: Some(noun.to_string()),
        pods: senders.running.iter().map(row).collect(),
        unknown: senders.unknown.clone(),
        ..empty()
    })
}

fn is_cluster_ip(inputs: &Inputs, address: Ipv4Addr) -> bool {
    let mut services = inputs.kubernetes.iter().flat_map(|c| c.services.values());
    services.any(|s| s.cluster_ip == Some(address))
}

/// A Service's endpoints at its first port; the others differ in the port alone.
fn of_service(inputs: &Inputs, noun: &Noun) -> anyhow::Result<Document> {
    let service = match (noun, inputs.kubernetes.as_ref()) {
        (Noun::Service { namespace, name }, Some(cluster)) => {
            let (_, found) = find_service(cluster, namespace.as_deref(), name)?;
            first_port(found)
        }
        (Noun::Address(address), Some(cluster)) => {
            let found = cluster
                .services
                .values()
                .find(|s| s.cluster_ip == Some(*address));
            found.and_then(first_port)
        }
        _ => None,
    };
    let found = reach::resolve::destination(inputs, noun, service.unwrap_or(Service::Tcp(443)))?;
    Ok(Document {
        service: Some(Destination {
            name: found.label,
            cluster_ip: found.via.as_ref().and_then(|v| v.cluster_ip),
            port: found.via.map(|v| v.port.to_string()).unwrap_or_default(),
            endpoints: found.targets,
        }),
        unknown: found.unknown,
        ..empty()
    })
}

fn first_port(service: &kube_view::facts::Service) -> Option<Service> {
    let port = service.ports.first()?;
    match port.protocol {
        kube_view::facts::Protocol::Tcp => Some(Service::Tcp(port.port)),
        kube_view::facts::Protocol::Udp => Some(Service::Udp(port.port)),
        kube_view::facts::Protocol::Sctp => None,
    }
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
        .flat_map(|n| n.pods.iter().chain(&n.host_pods))
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
    if let Some(workload) = &document.workload {
        line("workload", workload);
    }
    if let Some(object) = &document.object {
        line("k8s", object);
    }
    if let Some(service) = &document.service {
        let at = service
            .cluster_ip
            .map_or_else(|| "headless".to_owned(), |ip| ip.to_string());
        line(
            "service",
            &format!("{} {at} {}", service.name, service.port),
        );
        for e in &service.endpoints {
            let eni = e.eni.as_ref().map(ToString::to_string).unwrap_or_default();
            line(
                "  endpoint",
                &format!("{} {} {} {eni}", e.address, e.service, e.label),
            );
        }
    }
    for row in &document.pods {
        let (node, eni) = (
            row.node.as_deref().unwrap_or("?"),
            row.eni.as_deref().unwrap_or("?"),
        );
        line(
            "  pod",
            &format!(
                "{} {} {node} {eni} {}",
                row.pod,
                row.address,
                row.groups.join(" ")
            ),
        );
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
