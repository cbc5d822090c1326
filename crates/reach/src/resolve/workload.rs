//! Kubernetes' nouns: the pods of a workload or of a Service's selector.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use kube_view::Cluster;
use kube_view::facts::{self, Kind, ObjectName};
use kube_view::workload::{Belongs, Workload, WorkloadKind};

use super::{Sender, Senders, in_order, known, only, pod_sender, unread_nodes};
use crate::error::Error;
use crate::facts::{Inputs, Node, Pod};
use crate::noun::Noun;

/// The cluster, for a noun that needs one.
pub(crate) fn cluster<'a>(inputs: &'a Inputs, noun: &Noun) -> Result<&'a Cluster, Error> {
    inputs
        .kubernetes
        .as_ref()
        .ok_or_else(|| Error::NoKubernetes {
            noun: noun.to_string(),
        })
}

/// What is missing because a kind may not be read.
pub(crate) fn unread(cluster: &Cluster, kind: Kind) -> Option<String> {
    let unread = cluster.unread.get(&kind)?;
    Some(format!("{}: {}", unread.right, unread.reason))
}

/// The IPv4 address of a list.
pub(crate) fn only_ipv4(addresses: &[IpAddr]) -> Option<Ipv4Addr> {
    addresses.iter().find_map(|address| match address {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    })
}

/// The pods of a workload.
pub(super) fn senders(
    inputs: &Inputs,
    noun: &Noun,
    kind: WorkloadKind,
    namespace: Option<&str>,
    name: &str,
) -> Result<Senders, Error> {
    let cluster = cluster(inputs, noun)?;
    let mut needs = vec![Kind::Pod];
    if kind == WorkloadKind::Deployment {
        needs.push(Kind::ReplicaSet);
    }
    if let Some(unknown) = not_known(cluster, &needs) {
        return Ok(unknown);
    }
    let workload = match find_workload(cluster, kind, namespace, name) {
        Ok(found) => found,
        Err(error @ Error::NotFound { .. }) => match unread(cluster, kind.kind()) {
            None => return Err(error),
            Some(need) => {
                return Ok(Senders {
                    unknown: vec![need],
                    ..Senders::default()
                });
            }
        },
        Err(error) => return Err(error),
    };
    let mut orphans = Vec::new();
    let pods: Vec<_> = cluster
        .pods
        .iter()
        .filter(|(at, _)| at.namespace == workload.name.namespace)
        .filter(|(at, pod)| match cluster.workload_of(at, pod) {
            Belongs::To(found) => found == workload,
            Belongs::ToNone => false,
            Belongs::Unknown(_) => {
                if kind == WorkloadKind::Deployment && pod.runs() {
                    orphans.push(format!(
                        "the Deployment of pod {at}: its ReplicaSet is gone or was made after the list"
                    ));
                }
                false
            }
        })
        .collect();
    let mut found = running(inputs, cluster, pods);
    found.unknown.extend(orphans);
    found
        .unknown
        .extend(odd_pods(cluster, &workload.name.namespace));
    Ok(found)
}

/// What is missing, where a kind that the answer needs may not be read.
fn not_known(cluster: &Cluster, needs: &[Kind]) -> Option<Senders> {
    let missing = needs.iter().filter_map(|kind| unread(cluster, *kind));
    let unknown: Vec<String> = missing.collect();
    (!unknown.is_empty()).then(|| Senders {
        unknown,
        ..Senders::default()
    })
}

/// The pods that a Service's selector selects.
pub(super) fn of_selector(
    inputs: &Inputs,
    noun: &Noun,
    namespace: Option<&str>,
    name: &str,
) -> Result<Senders, Error> {
    let cluster = cluster(inputs, noun)?;
    if let Some(unknown) = not_known(cluster, &[Kind::Service, Kind::Pod]) {
        return Ok(unknown);
    }
    let (at, service) = find_service(cluster, namespace, name)?;
    if service.selector.is_empty() {
        return Err(Error::WrongSide {
            noun: noun.to_string(),
            role: "a source",
            why: "it has no selector, so it stands for no pods",
        });
    }
    let pods = cluster.selected(&at.namespace, &service.selector);
    let mut found = running(inputs, cluster, pods);
    found.unknown.extend(odd_pods(cluster, &at.namespace));
    Ok(found)
}

/// The Service of that name, or the only one whose name begins so.
pub fn find_service<'a>(
    cluster: &'a Cluster,
    namespace: Option<&str>,
    name: &str,
) -> Result<(&'a ObjectName, &'a facts::Service), Error> {
    let all = || cluster.services.iter().map(|(at, s)| (at.clone(), (at, s)));
    by_name("service", all, namespace, name)
}

/// The workload of that name, or the only one whose name begins so.
fn find_workload(
    cluster: &Cluster,
    kind: WorkloadKind,
    namespace: Option<&str>,
    name: &str,
) -> Result<Workload, Error> {
    let all = cluster.workloads(kind);
    let named = || all.iter().map(|w| (w.name.clone(), w.clone()));
    let word = match kind {
        WorkloadKind::Deployment => "deployment",
        WorkloadKind::StatefulSet => "statefulset",
        WorkloadKind::DaemonSet => "daemonset",
        WorkloadKind::Job => "job",
    };
    by_name(word, named, namespace, name)
}

fn by_name<T, I: Iterator<Item = (ObjectName, T)>>(
    kind: &'static str,
    all: impl Fn() -> I,
    namespace: Option<&str>,
    name: &str,
) -> Result<T, Error> {
    let in_namespace = |at: &ObjectName| namespace.is_none_or(|ns| at.namespace == ns);
    let of = |fits: &dyn Fn(&ObjectName) -> bool| -> Vec<(ObjectName, T)> {
        all()
            .filter(|(at, _)| in_namespace(at) && fits(at))
            .collect()
    };
    let exact = of(&|at| at.name == name);
    let found = match exact.is_empty() {
        true => of(&|at| at.name.starts_with(name)),
        false => exact,
    };
    let shown = namespace.map_or_else(|| name.to_owned(), |ns| format!("{ns}/{name}"));
    let hint = || known(&format!("{kind}s"), all().map(|(at, _)| at.to_string()));
    only(kind, &shown, found, |(at, _)| at.to_string(), hint).map(|(_, found)| found)
}

/// The running ones of some pods, each at its place.
fn running<'a>(
    inputs: &Inputs,
    cluster: &Cluster,
    pods: impl IntoIterator<Item = (&'a ObjectName, &'a facts::Pod)>,
) -> Senders {
    let nodes: BTreeMap<&str, &Node> = inputs
        .nodes
        .values()
        .filter_map(|n| Some((n.kubernetes.as_deref()?, n)))
        .collect();
    let mut senders = Senders::default();
    let (mut used, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    for (at, pod) in pods.into_iter().filter(|(_, p)| p.runs() && !p.deleting) {
        let Some(address) = pod.ipv4() else {
            unknown.insert(format!(
                "pod {at} has no IPv4 address; IPv6 is not modelled"
            ));
            continue;
        };
        let named = Pod {
            namespace: at.namespace.clone(),
            name: at.name.clone(),
            address,
        };
        let on = pod.node.as_deref().unwrap_or_default();
        match nodes.get(on) {
            Some(node) => {
                used.insert(node.name.clone());
                senders.running.push(pod_sender(inputs, node, &named));
            }
            None => {
                unknown.insert(why_no_node(inputs, cluster, on));
                senders.running.push(Sender {
                    pod: Some(named),
                    node: None,
                    address,
                    eni: None,
                    host: pod.host_network,
                });
            }
        }
    }
    in_order(&mut senders.running);
    senders.nodes = used.into_iter().collect();
    senders.unknown = unknown.into_iter().collect();
    senders
}

fn why_no_node(inputs: &Inputs, cluster: &Cluster, node: &str) -> String {
    match (inputs.unread_nodes.get(node), unread(cluster, Kind::Node)) {
        (Some(why), _) => format!("node {node}: {why}"),
        (None, Some(need)) => need,
        (None, None) => format!("node {node}: Kubernetes lists no such node"),
    }
}

fn odd_pods(cluster: &Cluster, namespace: &str) -> Vec<String> {
    let here = |odd: &&facts::Odd| odd.kind == Kind::Pod && odd.name.namespace == namespace;
    let told = |odd: &facts::Odd| format!("pod {}: {}", odd.name, odd.why);
    cluster.odd.iter().filter(here).map(told).collect()
}

/// Why a pod that was not found may be there all the same; empty when it is not.
pub(super) fn absent_pod(inputs: &Inputs, namespace: Option<&str>, name: &str) -> Vec<String> {
    let Some(cluster) = &inputs.kubernetes else {
        return unread_nodes(inputs);
    };
    let mut unknown = Vec::new();
    unknown.extend(unread(cluster, Kind::Pod));
    unknown.extend(unread(cluster, Kind::Node));
    let named = |at: &ObjectName| at.name == name && namespace.is_none_or(|ns| ns == at.namespace);
    let here = cluster.pods.iter().filter(|(at, _)| named(at));
    unknown.extend(here.map(|(at, pod)| match pod.runs() {
        true => why_no_node(inputs, cluster, pod.node.as_deref().unwrap_or_default()),
        false => format!(
            "pod {at} is {:?}{}, so it sends nothing now",
            pod.phase,
            if pod.addresses.is_empty() {
                " without an address"
            } else {
                ""
            }
        ),
    }));
    let odd = cluster
        .odd
        .iter()
        .filter(|o| o.kind == Kind::Pod && named(&o.name));
    unknown.extend(odd.map(|o| format!("pod {}: {}", o.name, o.why)));
    unknown
}
