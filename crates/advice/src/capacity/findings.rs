//! What the numbers mean: BL0501, BL0502, BL0503.

use std::collections::BTreeMap;

use vpc::space::PREFIX_SIZE;

use crate::code::Code;
use crate::finding::{Finding, Section, Severity};

use super::frame::{HOST_PODS, count};
use super::text::plural;
use super::{Capacity, Ceiling, Counted, NodeCapacity};

pub(super) fn findings(capacity: &Capacity, counted: &[Counted]) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(reached(capacity));
    findings.extend(too_many_pods(&capacity.nodes));
    findings.extend(fragmented(capacity, counted));
    findings
}

/// BL0501: no more pods fit, or those to add do not.
fn reached(capacity: &Capacity) -> Option<Finding> {
    let unfit = capacity.added.as_ref().filter(|a| !a.fits());
    let short: u32 = capacity.nodes.iter().map(|n| n.short).sum();
    let full = capacity.room == 0 && !capacity.nodes.is_empty();
    if unfit.is_none() && short == 0 && !full {
        return None;
    }
    let mut lines = Vec::new();
    for node in &capacity.nodes {
        if node.short > 0 || node.room == 0 {
            lines.push(format!("{}: {}", node.node, stands(capacity, node)));
        }
    }
    if let Some(added) = unfit {
        for placed in added.wishes.iter().filter(|p| p.fit < p.wish.count) {
            let (name, count, fit) = (&placed.wish.name, placed.wish.count, placed.fit);
            lines.push(format!("{name}: {fit} of {count} pods fit"));
        }
    }
    Some(Finding {
        code: Code::Bl0501,
        severity: match short > 0 || unfit.is_some() {
            true => Severity::Error,
            false => Severity::Warning,
        },
        title: Code::Bl0501.title().to_owned(),
        sections: vec![Section {
            source: "aws DescribeInstanceTypes, DescribeNetworkInterfaces, DescribeSubnets; k8s nodes, pods".to_owned(),
            lines,
        }],
    })
}

/// Which ceiling a node is at, or will be, and what stands there.
pub(super) fn stands(capacity: &Capacity, node: &NodeCapacity) -> String {
    if let Some(why) = node.closed {
        return why.to_owned();
    }
    let there = node.pods + node.waiting;
    let ceilings: Vec<String> = node
        .binds
        .iter()
        .map(|ceiling| match ceiling {
            Ceiling::MaxPods => format!(
                "kubelet max-pods leaves {} for pods with an address of their own",
                node.max_pods.unwrap_or_default()
            ),
            Ceiling::Interfaces => format!(
                "{} holds {} pod addresses{}",
                node.instance_type,
                node.interfaces,
                if node.prefixes { " in /28s" } else { "" }
            ),
            Ceiling::Branches => format!("{} branch ENIs", node.branches.unwrap_or_default()),
            Ceiling::Subnet => format!("{}: {} addresses", subnets(capacity, node), node.subnet),
        })
        .collect();
    let waits = match (node.waiting, node.short) {
        (0, _) => String::new(),
        (n, 0) => format!(", {n} waiting for one"),
        (n, short) => format!(", {n} waiting, {short} of them in vain"),
    };
    let least = node
        .max_pods
        .unwrap_or(u32::MAX)
        .min(node.interfaces)
        .min(node.subnet);
    let why = match (there >= least, node.room) {
        (true, _) => ceilings.join("; "),
        (false, 1..) => format!("room for {} more: {}", node.room, ceilings.join("; ")),
        // It could hold more, and other nodes take what is left of the subnet.
        (false, 0) => format!("{} is shared with other nodes", subnets(capacity, node)),
    };
    let have = plural(node.pods, "pod");
    format!("{have} with an address{waits}; {why}")
}

fn subnets(capacity: &Capacity, node: &NodeCapacity) -> String {
    let all: Vec<String> = capacity
        .subnets
        .iter()
        .filter(|s| node.subnets.contains(&s.subnet))
        .map(|s| match node.prefixes {
            true => format!(
                "{} ({}, {} free, {} free /28s)",
                s.subnet, s.cidr, s.free, s.blocks
            ),
            false => format!("{} ({}, {} free)", s.subnet, s.cidr, s.free),
        })
        .collect();
    format!("subnet {}", all.join(", "))
}

/// BL0502: kubelet takes pods that no address will ever be there for.
fn too_many_pods(nodes: &[NodeCapacity]) -> Option<Finding> {
    let mut alike: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for node in nodes {
        let Some(own) = node.max_pods else {
            continue;
        };
        let all = own + node.branch_pods + node.host_pods;
        let takes = all.saturating_sub(node.host_pods.max(HOST_PODS));
        let branches = node.branches.unwrap_or_default();
        let (have, by) = match node.subnet < node.interfaces {
            true => (node.subnet, "its subnets leave"),
            false => (node.interfaces, "its interfaces hold"),
        };
        if takes <= have + branches {
            continue;
        }
        let more = match branches {
            0 => String::new(),
            n => format!(" (and {n} branch ENIs)"),
        };
        let line = format!(
            "{}: max-pods {all}, so {takes} pods with an address of their own; {by} {have}{more}: {} pods too many",
            node.instance_type,
            takes - have - branches
        );
        alike.entry(line).or_default().push(&node.node);
    }
    if alike.is_empty() {
        return None;
    }
    let lines = alike
        .into_iter()
        .map(|(line, nodes)| match nodes.as_slice() {
            [one] => format!("{one}  {line}"),
            [first, rest @ ..] => format!("{first} and {} more  {line}", rest.len()),
            [] => line,
        });
    Some(Finding {
        code: Code::Bl0502,
        severity: Severity::Warning,
        title: Code::Bl0502.title().to_owned(),
        sections: vec![Section {
            source: "k8s nodes status.allocatable; aws DescribeInstanceTypes, DescribeSubnets"
                .to_owned(),
            lines: lines.collect(),
        }],
    })
}

/// BL0503: there are addresses, and no `/28` of them for the prefixes that nodes may still take.
fn fragmented(capacity: &Capacity, counted: &[Counted]) -> Option<Finding> {
    let mut lines = Vec::new();
    for subnet in &capacity.subnets {
        let users: Vec<&Counted> = counted
            .iter()
            .filter(|c| c.frame.prefixes && c.frame.all_subnets().any(|id| *id == subnet.subnet))
            .collect();
        let slots: u32 = users.iter().map(|c| c.frame.open_slots()).sum();
        let could = subnet.free / PREFIX_SIZE;
        // The first and the last /28 of a subnet are never whole: that is not fragmentation.
        if subnet.blocks + 1 >= could || subnet.blocks >= slots {
            continue;
        }
        let fall = match users.iter().all(|c| c.frame.falls_back) {
            true => "the agent takes single addresses there, one per slot in place of 16",
            false => "upstream's agent takes no single addresses in their place: pods wait",
        };
        lines.push(format!(
            "{} ({}): {} addresses are free and {} whole /28s ({could} would fit); the slots of {} could take {slots}",
            subnet.subnet, subnet.cidr, subnet.free, subnet.blocks, plural(count(&users), "node")
        ));
        lines.push(format!("    {fall}"));
    }
    (!lines.is_empty()).then(|| Finding {
        code: Code::Bl0503,
        severity: Severity::Warning,
        title: Code::Bl0503.title().to_owned(),
        sections: vec![Section {
            source: "aws DescribeNetworkInterfaces, DescribeSubnets".to_owned(),
            lines,
        }],
    })
}
