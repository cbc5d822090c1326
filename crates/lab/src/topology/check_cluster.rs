//! What a cluster's description must fulfil beyond its shape.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;
use serde_saphyr::{Location, Spanned};

use super::check::{Known, Names, Wrong, check_groups, define, find, same_vpc};
use super::{Agent, Cluster, Node, Nodegroup, Ref, Topology, Vpc};

pub(super) fn check(topology: &Topology, names: &Known<'_>) -> Result<(), Wrong> {
    for cluster in &topology.clusters {
        let vpc = check_subnets(cluster, names)?;
        check_groups(vpc, &cluster.security_groups, names)?;
        check_services(cluster, vpc)?;
        let mut groups: Names<'_, ()> = Names::new();
        for group in &cluster.nodegroups {
            define(&mut groups, &group.name, (), "node group")?;
            check_nodegroup(group, vpc, names)?;
        }
        let addons = &cluster.addons;
        for values in [&addons.vpc_cni, &addons.coredns, &addons.kube_proxy] {
            check_values(values.as_ref())?;
        }
    }
    Ok(())
}

/// The VPC of a cluster's subnets, which are two or more, in different zones.
fn check_subnets<'n>(cluster: &Cluster, names: &Known<'n>) -> Result<&'n Vpc, Wrong> {
    let name = &cluster.name;
    let mut vpc: Option<&'n Vpc> = None;
    let mut zones = BTreeSet::new();
    for subnet in &cluster.subnets {
        let (owner, found) = *find(&names.subnets, subnet, "subnet")?;
        match vpc {
            Some(first) => same_vpc(first, owner, subnet, "subnet")?,
            None => vpc = Some(owner),
        }
        // `a` and `us-west-2a` are one zone.
        if !zones.insert(found.zone.chars().last()) {
            let zone = &found.zone;
            let text = format!(
                "the control plane's subnets lie in different zones: '{}' is the second in zone {zone}",
                subnet.value
            );
            return Err((subnet.referenced, text));
        }
    }
    let vpc = match (vpc, cluster.subnets.len()) {
        (Some(vpc), 2) => vpc,
        (_, n) => {
            let text = format!(
                "cluster '{}' names {n} subnet{}: its control plane needs two, in different zones",
                name.value,
                if n == 1 { "" } else { "s" }
            );
            return Err((name.referenced, text));
        }
    };
    if let Some(told) = &cluster.vpc {
        find(&names.vpcs, told, "VPC")?;
        if told.value != vpc.name.value {
            let there = &vpc.name.value;
            let text = format!("the subnets of cluster '{}' lie in VPC {there}", name.value);
            return Err((told.referenced, text));
        }
    }
    Ok(vpc)
}

/// EKS: a private block, /24 to /12, outside of the VPC.
fn check_services(cluster: &Cluster, vpc: &Vpc) -> Result<(), Wrong> {
    let services = cluster.service_cidr.value;
    // The default has no place in the file; the cluster has.
    let at = match cluster.service_cidr.referenced {
        Location::UNKNOWN => cluster.name.referenced,
        at => at,
    };
    if services.trunc() != services {
        let text = format!("{services} has host bits set: write {}", services.trunc());
        return Err((at, text));
    }
    let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
        .iter()
        .any(|net| net.parse::<Ipv4Net>().is_ok_and(|n| n.contains(&services)));
    if !private || !(12..=24).contains(&services.prefix_len()) {
        let text = format!("serviceCidr {services} is no private block of /24 to /12");
        return Err((at, text));
    }
    let overlaps = |c: &&Spanned<Ipv4Net>| {
        c.value.contains(&services.network()) || services.contains(&c.value.network())
    };
    match vpc.cidrs.iter().find(overlaps) {
        None => Ok(()),
        Some(cidr) => {
            let (cidr, name) = (cidr.value, &vpc.name.value);
            let text = format!("serviceCidr {services} overlaps {cidr} of VPC {name}");
            Err((at, text))
        }
    }
}

fn check_nodegroup(group: &Nodegroup, vpc: &Vpc, names: &Known<'_>) -> Result<(), Wrong> {
    for subnet in &group.subnets {
        let (owner, _) = find(&names.subnets, subnet, "subnet")?;
        same_vpc(vpc, owner, subnet, "subnet")?;
    }
    check_groups(vpc, &group.groups, names)
}

fn check_values(values: Option<&Spanned<serde_json::Value>>) -> Result<(), Wrong> {
    match values {
        Some(v) if !v.value.is_object() => {
            Err((v.referenced, "an add-on's values are a mapping".to_owned()))
        }
        _ => Ok(()),
    }
}

/// A node of a cluster lies in the cluster's VPC and has no agent of the lab's.
pub(super) fn check_node(node: &Node, vpc: &Vpc, names: &Known<'_>) -> Result<(), Wrong> {
    let Some(name) = &node.cluster else {
        return Ok(());
    };
    let cluster: &Cluster = find(&names.clusters, name, "cluster")?;
    let first: Option<&Ref> = cluster.subnets.first();
    if let Some((owner, _)) = first.and_then(|s| names.subnets.get(s.value.as_str())) {
        same_vpc(vpc, owner, name, "cluster")?;
    }
    if node.agent != Agent::default() {
        let text = format!(
            "node '{}' gets its agent from the DaemonSet aws-node of cluster '{}': write its settings under addons: vpc-cni: of the cluster",
            node.name.value, name.value
        );
        return Err((name.referenced, text));
    }
    Ok(())
}
