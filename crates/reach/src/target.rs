//! Where packets to a destination really go: to itself, or to the endpoints behind a Service.
//!
//! kube-proxy rewrites the destination on the sender's node before anything is routed, to one of the
//! ready endpoints at random. So a question about a Service is a question about each of them.

use std::net::Ipv4Addr;

use kube_view::Cluster;
use kube_view::facts::{Endpoint, EndpointSlice, Kind, ObjectName, Protocol, ServiceKind};
use serde::Serialize;
use vpc::facts::EniId;

use crate::error::Error;
use crate::facts::Inputs;
use crate::noun::{Noun, Service};
use crate::resolve::{self, Destination, Owner, find_service, only_ipv4, unread};

/// One address that packets may go to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// What people call it.
    pub label: String,
    /// The address.
    pub address: Ipv4Addr,
    /// The port there.
    pub service: Service,
    /// The interface that owns the address, if one is known.
    pub eni: Option<EniId>,
    /// The Kubernetes node it is on, as far as Kubernetes says.
    pub node: Option<String>,
}

/// The Service by which packets reach their target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Via {
    /// Its name.
    pub service: ObjectName,
    /// The address that is rewritten; `None` for a headless one, where names lead to endpoints.
    pub cluster_ip: Option<Ipv4Addr>,
    /// Its port.
    pub port: Service,
    /// Endpoints that are not ready, and so get nothing.
    pub not_ready: usize,
    /// Only endpoints of the sender's own node are used.
    pub local: bool,
}

/// The service that a destination has when none is said.
///
/// # Errors
/// When it has none, or several.
pub fn service_of(inputs: &Inputs, noun: &Noun, asked: Option<Service>) -> Result<Service, Error> {
    match (asked, noun) {
        (Some(service), _) => Ok(service),
        (None, Noun::ApiServer) => Ok(Service::Tcp(443)),
        (None, Noun::Service { namespace, name }) => {
            let cluster = resolve::cluster(inputs, noun)?;
            let (_, found) = find_service(cluster, namespace.as_deref(), name)?;
            match found.ports.as_slice() {
                [only] => Ok(service(only.protocol, only.port).ok_or_else(|| no_port(noun))?),
                _ => Err(no_port(noun)),
            }
        }
        (None, _) => Err(no_port(noun)),
    }
}

fn no_port(noun: &Noun) -> Error {
    Error::NoPort {
        destination: noun.to_string(),
    }
}

fn service(protocol: Protocol, port: u16) -> Option<Service> {
    match protocol {
        Protocol::Tcp => Some(Service::Tcp(port)),
        Protocol::Udp => Some(Service::Udp(port)),
        Protocol::Sctp => None,
    }
}

fn parts(service: Service) -> Option<(Protocol, u16)> {
    match service {
        Service::Tcp(port) => Some((Protocol::Tcp, port)),
        Service::Udp(port) => Some((Protocol::Udp, port)),
        Service::Icmp => None,
    }
}

/// A Service or the API server as a destination.
pub(crate) fn through_service(
    inputs: &Inputs,
    noun: &Noun,
    asked: Service,
) -> Result<Destination, Error> {
    let cluster = resolve::cluster(inputs, noun)?;
    let (label, name) = match noun {
        Noun::Service { namespace, name } => {
            if let Some(need) = unread(cluster, Kind::Service) {
                return Ok(unknown(noun, need));
            }
            let (name, _) = find_service(cluster, namespace.as_deref(), name)?;
            let label = format!("{}/svc/{}", name.namespace, name.name);
            (label, name.clone())
        }
        _ => (noun.to_string(), ObjectName::new("default", "kubernetes")),
    };
    if let Some(need) = unread(cluster, Kind::Service) {
        return Ok(unknown(noun, need));
    }
    if let Some(need) = unread(cluster, Kind::EndpointSlice) {
        return Ok(unknown(noun, need));
    }
    let Some(found) = cluster.services.get(&name) else {
        return Ok(unknown(
            noun,
            format!("the Service {name}: the cluster has none"),
        ));
    };
    if found.kind == ServiceKind::ExternalName {
        return Err(Error::WrongSide {
            noun: noun.to_string(),
            role: "a destination",
            why: "it is an ExternalName, another name for something else: ask about that",
        });
    }
    let headless = found.cluster_ip.is_none();
    let port = parts(asked).and_then(|(protocol, number)| {
        let mut ports = found.ports.iter();
        ports.find(|p| p.protocol == protocol && p.port == number)
    });
    if port.is_none() && !headless {
        return Err(Error::NoSuchPort {
            service: label,
            port: asked.to_string(),
            ports: found
                .ports
                .iter()
                .map(|p| format!("{}/{}", p.protocol, p.port))
                .collect(),
        });
    }
    let mut via = Via {
        service: name.clone(),
        cluster_ip: found.cluster_ip,
        port: asked,
        not_ready: 0,
        local: found.local && !headless,
    };
    let mut destination = Destination {
        label,
        address: found.cluster_ip.unwrap_or(Ipv4Addr::UNSPECIFIED),
        eni: None,
        via: None,
        targets: Vec::new(),
        unknown: odd(cluster, &name),
    };
    let slices = cluster.endpoint_slices.iter().filter(|(at, slice)| {
        at.namespace == name.namespace && slice.service.as_deref() == Some(&name.name)
    });
    for (_, slice) in slices {
        let to = match headless {
            true => Some(asked),
            false => port.and_then(|p| endpoint_port(slice, &p.name, p.protocol)),
        };
        let Some(to) = to else {
            continue; // another part of the endpoints serves this port
        };
        for endpoint in &slice.endpoints {
            let Some(address) = only_ipv4(&endpoint.addresses) else {
                continue;
            };
            match endpoint.ready {
                true => destination
                    .targets
                    .push(target(inputs, &name, endpoint, address, to)),
                false => via.not_ready += 1,
            }
        }
    }
    destination.targets.sort_by_key(|t| t.address);
    destination.targets.dedup_by_key(|t| t.address);
    if let (true, Some(first)) = (headless, destination.targets.first()) {
        destination.address = first.address;
    }
    destination.via = Some(via);
    Ok(destination)
}

fn unknown(noun: &Noun, need: String) -> Destination {
    Destination {
        label: noun.to_string(),
        address: Ipv4Addr::UNSPECIFIED,
        eni: None,
        via: None,
        targets: Vec::new(),
        unknown: vec![need],
    }
}

/// Endpoints that were read and cannot be represented.
fn odd(cluster: &Cluster, service: &ObjectName) -> Vec<String> {
    let mine = cluster.odd.iter().filter(|odd| {
        let slice = odd.kind == Kind::EndpointSlice
            && odd.name.namespace == service.namespace
            && odd.name.name.starts_with(&service.name);
        slice || (odd.kind == Kind::Service && odd.name == *service)
    });
    mine.map(|odd| format!("{} {}: {}", odd.kind, odd.name, odd.why))
        .collect()
}

fn endpoint_port(slice: &EndpointSlice, name: &str, protocol: Protocol) -> Option<Service> {
    let found = slice
        .ports
        .iter()
        .find(|p| p.name == name && p.protocol == protocol)?;
    service(protocol, found.port?)
}

fn target(
    inputs: &Inputs,
    service: &ObjectName,
    endpoint: &Endpoint,
    address: Ipv4Addr,
    to: Service,
) -> Target {
    let owner = resolve::owner(inputs, address);
    let eni = match &owner {
        Some(Owner::Pod(node, pod)) => resolve::eni_of_pod(inputs, node, pod.address),
        Some(Owner::Eni(eni)) => Some(eni.id.clone()),
        None => None,
    };
    let label = match (&endpoint.pod, owner) {
        (Some(pod), _) => format!("{}/{pod}", service.namespace),
        (None, Some(Owner::Pod(_, pod))) => pod.label(),
        (None, Some(Owner::Eni(eni))) => eni.name().to_owned(),
        (None, None) => address.to_string(),
    };
    Target {
        label,
        address,
        service: to,
        eni,
        node: endpoint.node.clone(),
    }
}

/// The one target of a destination that packets reach by its own address.
pub(crate) fn itself(destination: &Destination, service: Service) -> Target {
    Target {
        label: destination.label.clone(),
        address: destination.address,
        service,
        eni: destination.eni.clone(),
        node: None,
    }
}
