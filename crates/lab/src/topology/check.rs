//! What the shape of the file cannot say: names exist, are unique and fit; addresses are inside.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use serde_saphyr::Location;

use super::{
    API_VERSION, Cluster, Host, HostKind, Node, Peer, Ref, Rule, Subnet, Topology, Vpc,
    check_cluster,
};

pub(super) type Wrong = (Location, String);
pub(super) type Names<'a, T> = BTreeMap<&'a str, T>;

/// Everything that other parts of the file refer to.
pub(super) struct Known<'a> {
    pub(super) vpcs: Names<'a, &'a Vpc>,
    pub(super) subnets: Names<'a, (&'a Vpc, &'a Subnet)>,
    groups: Names<'a, &'a Vpc>,
    prefix_lists: Names<'a, &'a Vpc>,
    tables: Names<'a, &'a Vpc>,
    acls: Names<'a, &'a Vpc>,
    nats: Names<'a, &'a Vpc>,
    peerings: Names<'a, ()>,
    hosts: Names<'a, ()>,
    pub(super) clusters: Names<'a, &'a Cluster>,
}

pub(super) fn check(topology: &Topology) -> Result<(), Wrong> {
    if topology.api_version.value != API_VERSION {
        let at = topology.api_version.referenced;
        let found = &topology.api_version.value;
        return Err((
            at,
            format!("apiVersion '{found}' is not known: write {API_VERSION}"),
        ));
    }
    if topology.kind.value != "Topology" {
        let found = &topology.kind.value;
        return Err((
            topology.kind.referenced,
            format!("kind '{found}' is not Topology"),
        ));
    }
    let names = collect(topology)?;
    for vpc in &topology.vpcs {
        check_vpc(vpc, &names)?;
    }
    for peering in &topology.peerings {
        find(&names.vpcs, &peering.requester, "VPC")?;
        find(&names.vpcs, &peering.accepter, "VPC")?;
        if peering.requester.value == peering.accepter.value {
            return Err((
                peering.accepter.referenced,
                "a VPC cannot peer with itself".into(),
            ));
        }
    }
    for host in &topology.hosts {
        check_host(host, &names)?;
    }
    check_cluster::check(topology, &names)?;
    check_nodes(topology, &names)
}

fn collect(topology: &Topology) -> Result<Known<'_>, Wrong> {
    let mut n = Known {
        vpcs: Names::new(),
        subnets: Names::new(),
        groups: Names::new(),
        prefix_lists: Names::new(),
        tables: Names::new(),
        acls: Names::new(),
        nats: Names::new(),
        peerings: Names::new(),
        hosts: Names::new(),
        clusters: Names::new(),
    };
    for vpc in &topology.vpcs {
        define(&mut n.vpcs, &vpc.name, vpc, "VPC")?;
        for x in &vpc.subnets {
            define(&mut n.subnets, &x.name, (vpc, x), "subnet")?;
        }
        for x in &vpc.groups {
            if x.name.value == "default" {
                let what = "every VPC has a group 'default' already";
                return Err((x.name.referenced, what.into()));
            }
            define(&mut n.groups, &x.name, vpc, "group")?;
        }
        for x in &vpc.prefix_lists {
            define(&mut n.prefix_lists, &x.name, vpc, "prefix list")?;
        }
        for x in &vpc.route_tables {
            define(&mut n.tables, &x.name, vpc, "route table")?;
        }
        for x in &vpc.acls {
            define(&mut n.acls, &x.name, vpc, "network ACL")?;
        }
        for x in &vpc.nat_gateways {
            define(&mut n.nats, &x.name, vpc, "NAT gateway")?;
        }
    }
    for x in &topology.peerings {
        define(&mut n.peerings, &x.name, (), "peering")?;
    }
    for x in &topology.hosts {
        path_name(&x.name, "host")?;
        define(&mut n.hosts, &x.name, (), "host")?;
    }
    for x in &topology.clusters {
        cluster_name(&x.name)?;
        define(&mut n.clusters, &x.name, x, "cluster")?;
    }
    Ok(n)
}

pub(super) fn define<'a, T>(
    map: &mut Names<'a, T>,
    name: &'a Ref,
    it: T,
    what: &str,
) -> Result<(), Wrong> {
    if name.value.is_empty() {
        return Err((name.referenced, format!("a {what} without a name")));
    }
    match map.insert(&name.value, it) {
        None => Ok(()),
        Some(_) => Err((
            name.referenced,
            format!("{what} '{}' is defined twice", name.value),
        )),
    }
}

/// Whether a text can be the name of a host or node, which becomes a directory, a cgroup, a pinned
/// namespace and a host name.
pub(crate) fn is_host_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = text.len() <= 48 && text.chars().all(fits);
    good && text.starts_with(edge) && text.ends_with(edge) && !is_taken(text)
}

/// Their namespaces are pinned beside those of routers, NAT gateways and control planes.
fn is_taken(text: &str) -> bool {
    text == "internet"
        || ["vpc-", "nat-", "cluster-"]
            .iter()
            .any(|p| text.starts_with(p))
}

fn path_name(name: &Ref, what: &str) -> Result<(), Wrong> {
    let text = &name.value;
    if is_taken(text) {
        return Err((
            name.referenced,
            format!("'{text}' is kept for the lab's own namespaces"),
        ));
    }
    if is_host_name(text) {
        return Ok(());
    }
    let rule = "lower-case letters, digits, '-' and '.', at most 48";
    Err((
        name.referenced,
        format!("'{text}' cannot be the name of a {what}: {rule}"),
    ))
}

/// EKS's rule for the names of clusters, shorter: the name becomes part of a host's name.
fn cluster_name(name: &Ref) -> Result<(), Wrong> {
    let text = &name.value;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let edge = |c: char| c.is_ascii_alphanumeric();
    if text.len() <= 48 && text.chars().all(fits) && text.starts_with(edge) {
        return Ok(());
    }
    let rule = "letters, digits, '-' and '_', a letter or digit first, at most 48";
    Err((
        name.referenced,
        format!("'{text}' cannot be the name of a cluster: {rule}"),
    ))
}

pub(super) fn find<'n, T>(map: &'n Names<'_, T>, name: &Ref, what: &str) -> Result<&'n T, Wrong> {
    map.get(name.value.as_str())
        .ok_or_else(|| unknown(name, what, map.keys()))
}

fn unknown<'k>(name: &Ref, what: &str, known: impl Iterator<Item = &'k &'k str>) -> Wrong {
    let known: Vec<&str> = known.copied().collect();
    let list = if known.is_empty() {
        "there is none".into()
    } else {
        known.join(", ")
    };
    (
        name.referenced,
        format!("no {what} '{}' in this file ({list})", name.value),
    )
}

/// A name that exists but in another VPC cannot be used here either.
fn find_in(vpc: &Vpc, map: &Names<'_, &Vpc>, name: &Ref, what: &str) -> Result<(), Wrong> {
    let owner = find(map, name, what)?;
    same_vpc(vpc, owner, name, what)
}

pub(super) fn same_vpc(vpc: &Vpc, owner: &Vpc, name: &Ref, what: &str) -> Result<(), Wrong> {
    if owner.name.value == vpc.name.value {
        return Ok(());
    }
    let (here, there) = (&vpc.name.value, &owner.name.value);
    let text = format!(
        "{what} '{}' belongs to VPC {there}, not to {here}",
        name.value
    );
    Err((name.referenced, text))
}

fn check_vpc(vpc: &Vpc, names: &Known<'_>) -> Result<(), Wrong> {
    if vpc.cidrs.is_empty() {
        return Err((
            vpc.name.referenced,
            format!("VPC '{}' has no CIDR block", vpc.name.value),
        ));
    }
    for cidr in &vpc.cidrs {
        block(&cidr.value, cidr.referenced, "VPC")?;
    }
    for subnet in &vpc.subnets {
        let cidr = subnet.cidr.value;
        block(&cidr, subnet.cidr.referenced, "subnet")?;
        if !vpc.cidrs.iter().any(|c| c.value.contains(&cidr)) {
            let text = format!("{cidr} lies in no CIDR block of VPC {}", vpc.name.value);
            return Err((subnet.cidr.referenced, text));
        }
        if let Some(acl) = &subnet.acl {
            find_in(vpc, &names.acls, acl, "network ACL")?;
        }
        if let Some(table) = &subnet.route_table {
            find_in(vpc, &names.tables, table, "route table")?;
        }
    }
    for nat in &vpc.nat_gateways {
        let (owner, _) = find(&names.subnets, &nat.subnet, "subnet")?;
        same_vpc(vpc, owner, &nat.subnet, "subnet")?;
    }
    for route in vpc
        .main_routes
        .iter()
        .chain(vpc.route_tables.iter().flat_map(|t| &t.routes))
    {
        check_target(vpc, &route.via, names)?;
    }
    for group in &vpc.groups {
        for rule in &group.ingress {
            check_rule(&rule.value, true, rule.referenced, names)?;
        }
        for rule in group.egress.iter().flatten() {
            check_rule(&rule.value, false, rule.referenced, names)?;
        }
    }
    for acl in &vpc.acls {
        let wrong = |e: &super::AclEntry, ingress: bool| e.rule.ingress != ingress;
        let bad = acl.ingress.iter().find(|e| wrong(e, true));
        if let Some(entry) = bad.or_else(|| acl.egress.iter().find(|e| wrong(e, false))) {
            let text = format!(
                "entry {} of ACL '{}': {}",
                entry.number, acl.name.value, DIRECTION
            );
            return Err((acl.name.referenced, text));
        }
    }
    Ok(())
}

const DIRECTION: &str = "ingress takes 'from', egress takes 'to'";

fn block(cidr: &Ipv4Net, at: Location, what: &str) -> Result<(), Wrong> {
    if cidr.trunc() != *cidr {
        return Err((
            at,
            format!("{cidr} has host bits set: write {}", cidr.trunc()),
        ));
    }
    if !(16..=28).contains(&cidr.prefix_len()) {
        return Err((at, format!("{cidr}: a {what} is a /16 to /28")));
    }
    Ok(())
}

fn check_target(vpc: &Vpc, via: &Ref, names: &Known<'_>) -> Result<(), Wrong> {
    let named = |name: &str| Ref::new(name.to_owned(), via.referenced, via.defined);
    match via.value.split_once('/') {
        None if via.value == "igw" && vpc.internet_gateway => Ok(()),
        None if via.value == "igw" => Err((
            via.referenced,
            format!("VPC '{}' has no internet gateway", vpc.name.value),
        )),
        Some(("nat", name)) => find_in(vpc, &names.nats, &named(name), "NAT gateway"),
        Some(("peering", name)) => find(&names.peerings, &named(name), "peering").map(drop),
        Some(("host", name)) => find(&names.hosts, &named(name), "host").map(drop),
        _ => {
            let text = "is no route target: write igw, nat/NAME, peering/NAME or host/NAME";
            Err((via.referenced, format!("'{}' {text}", via.value)))
        }
    }
}

fn check_rule(rule: &Rule, ingress: bool, at: Location, names: &Known<'_>) -> Result<(), Wrong> {
    if rule.ingress != ingress {
        return Err((at, format!("'{rule}': {DIRECTION}")));
    }
    let named = |name: &str| Ref::new(name.to_owned(), at, at);
    match &rule.peer {
        Peer::Group(name) => find(&names.groups, &named(name), "group").map(drop),
        Peer::PrefixList(name) => find(&names.prefix_lists, &named(name), "prefix list").map(drop),
        Peer::Cidr(_) | Peer::Own => Ok(()),
    }
}

pub(super) fn check_groups(vpc: &Vpc, groups: &[Ref], names: &Known<'_>) -> Result<(), Wrong> {
    groups
        .iter()
        .filter(|group| group.value != "default")
        .try_for_each(|group| find_in(vpc, &names.groups, group, "group"))
}

fn check_host(host: &Host, names: &Known<'_>) -> Result<(), Wrong> {
    let name = &host.name.value;
    let Some(subnet) = &host.subnet else {
        return match (host.kind, &host.address) {
            (HostKind::Internet, Some(_)) => match host.groups.first() {
                None => Ok(()),
                Some(group) => Err((
                    group.referenced,
                    "a host on the internet has no security groups".into(),
                )),
            },
            (HostKind::Internet, None) => Err((
                host.name.referenced,
                format!("internet host '{name}' needs an address"),
            )),
            _ => Err((
                host.name.referenced,
                format!("host '{name}' needs a subnet"),
            )),
        };
    };
    if host.kind == HostKind::Internet {
        return Err((
            subnet.referenced,
            "a host on the internet is in no subnet".into(),
        ));
    }
    let (vpc, subnet) = find(&names.subnets, subnet, "subnet")?;
    check_groups(vpc, &host.groups, names)?;
    check_address(host.address.as_ref(), subnet)
}

fn check_address(
    address: Option<&serde_saphyr::Spanned<std::net::Ipv4Addr>>,
    subnet: &Subnet,
) -> Result<(), Wrong> {
    match address {
        Some(a) if !subnet.cidr.value.contains(&a.value) => {
            let (name, cidr) = (&subnet.name.value, subnet.cidr.value);
            Err((
                a.referenced,
                format!("{} is not in subnet {name} ({cidr})", a.value),
            ))
        }
        _ => Ok(()),
    }
}

fn check_nodes(topology: &Topology, names: &Known<'_>) -> Result<(), Wrong> {
    let mut templates: Names<'_, &Node> = Names::new();
    let mut seen: BTreeMap<String, ()> = BTreeMap::new();
    for node in &topology.nodes {
        path_name(&node.name, "node")?;
        let (vpc, subnet) = find(&names.subnets, &node.subnet, "subnet")?;
        check_groups(vpc, &node.groups, names)?;
        check_address(node.address.as_ref(), subnet)?;
        check_cluster::check_node(node, vpc, names)?;
        match (node.count.value, &node.address) {
            (0, _) => return Err((node.count.referenced, "count is at least 1".into())),
            (2.., Some(address)) => {
                return Err((
                    address.referenced,
                    "several nodes cannot share one address".into(),
                ));
            }
            _ => {}
        }
        let template = node.launch_template.as_ref().unwrap_or(&node.name);
        if let Some(first) = templates.insert(&template.value, node)
            && !same_template(first, node)
        {
            let text = format!(
                "nodes of launch template '{}' must agree on type, groups and cluster",
                template.value
            );
            return Err((template.referenced, text));
        }
    }
    for (name, node) in topology.instances() {
        if names.hosts.contains_key(name.as_str()) || seen.insert(name.clone(), ()).is_some() {
            return Err((node.name.referenced, format!("'{name}' is defined twice")));
        }
    }
    Ok(())
}

fn same_template(a: &Node, b: &Node) -> bool {
    let groups = |n: &Node| n.groups.iter().map(|g| g.value.clone()).collect::<Vec<_>>();
    let cluster = |n: &Node| n.cluster.as_ref().map(|c| c.value.clone());
    a.instance_type == b.instance_type && groups(a) == groups(b) && cluster(a) == cluster(b)
}
