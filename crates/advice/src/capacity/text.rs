//! The answer for people.

use std::fmt::{self, Write};

use comfy_table::Table;

use crate::page::{self, BAD, BOLD, GOOD, WARN, number};

use super::findings::stands;
use super::{Added, Capacity, Ceiling, NodeCapacity, Verdict};

/// The most nodes that get a row.
const ROWS: usize = 30;

/// Renders for people; colours are ANSI sequences.
pub fn render(capacity: &Capacity) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let verdict = match capacity.verdict {
        Verdict::Room => (GOOD, "ROOM"),
        Verdict::Fits => (GOOD, "FITS"),
        Verdict::Full => (BAD, "FULL"),
        Verdict::DoesNotFit => (BAD, "DOES NOT FIT"),
        Verdict::Unknown => (WARN, "UNKNOWN"),
    };
    let cluster = capacity.cluster.as_deref().map(|c| format!("{c}  "));
    page::verdict(
        &mut out,
        verdict,
        format_args!("{}{}", cluster.unwrap_or_default(), binds(capacity)),
    )?;
    writeln!(
        out,
        "  {} with an address of their own on {}, {} wait for one; room for {} more",
        plural(capacity.pods, "pod"),
        plural(super::frame::count(&capacity.nodes), "node"),
        capacity.waiting,
        capacity.room
    )?;
    page::unknown(&mut out, &capacity.unknown)?;
    page::table(&mut out, &nodes(capacity))?;
    page::table(&mut out, &subnets(capacity))?;
    for subnet in &capacity.subnets {
        if let Some(told) = subnet.told {
            writeln!(
                out,
                "   {}: EC2 counts {told} free addresses, the interfaces that it lists leave {}",
                subnet.subnet, subnet.free
            )?;
        }
    }
    if let Some(added) = &capacity.added {
        self::added(&mut out, added)?;
    }
    for finding in &capacity.findings {
        page::finding(&mut out, finding, ROWS)?;
    }
    writeln!(out)?;
    for line in &capacity.not_checked {
        writeln!(out, "  not checked: {line}")?;
    }
    Ok(out)
}

fn binds(capacity: &Capacity) -> String {
    if let Some(added) = capacity.added.as_ref().filter(|a| !a.fits()) {
        return match added.binds {
            Some(ceiling) => format!("binds first: {}", ceiling.label()),
            None => "no node takes pods".to_owned(),
        };
    }
    match capacity.binds {
        Some(ceiling) => format!("binds first: {}", ceiling.label()),
        None => "no node is known".to_owned(),
    }
}

fn nodes(capacity: &Capacity) -> Table {
    let mut table = page::columns(&[
        "node",
        "type",
        "pods",
        "wait",
        "max-pods",
        "ENI × IP",
        "branch",
        "subnet",
        "room",
        "binds first",
    ]);
    // The fullest first: they are what is asked about.
    let mut rows: Vec<&NodeCapacity> = capacity.nodes.iter().collect();
    rows.sort_by_key(|n| (std::cmp::Reverse(n.short), n.room));
    for node in rows.iter().take(ROWS) {
        let labels: Vec<&str> = node.binds.iter().map(|c| c.label()).collect();
        let branch = node
            .branches
            .map(|max| format!("{}/{max}", node.branch_pods));
        table.add_row([
            node.node.clone(),
            match node.prefixes {
                true => format!("{} /28", node.instance_type),
                false => node.instance_type.clone(),
            },
            node.pods.to_string(),
            node.waiting.to_string(),
            number(node.max_pods),
            node.interfaces.to_string(),
            branch.unwrap_or_else(|| "–".to_owned()),
            match node.subnet < node.interfaces {
                true => node.subnet.to_string(),
                false => "enough".to_owned(),
            },
            match node.closed {
                Some(why) => why.to_owned(),
                None => node.room.to_string(),
            },
            labels.join(" = "),
        ]);
    }
    if capacity.nodes.len() > ROWS {
        table.add_row([format!("… {} more nodes", capacity.nodes.len() - ROWS)]);
    }
    table
}

fn subnets(capacity: &Capacity) -> Table {
    let mut table = page::columns(&["subnet", "range", "free", "free /28s", "nodes"]);
    for subnet in &capacity.subnets {
        table.add_row([
            subnet.subnet.to_string(),
            subnet.cidr.clone(),
            subnet.free.to_string(),
            subnet.blocks.to_string(),
            subnet.nodes.to_string(),
        ]);
    }
    table
}

fn added(out: &mut String, added: &Added) -> fmt::Result {
    writeln!(out, "\n  {BOLD}To add{BOLD:#}")?;
    for placed in &added.wishes {
        let branch = if placed.wish.branch {
            " with branch ENIs"
        } else {
            ""
        };
        let stops = placed.binds.map(|c| format!("; stopped by {}", c.label()));
        writeln!(
            out,
            "    {}  {} of {} pods{branch} fit{}",
            placed.wish.name,
            placed.fit,
            placed.wish.count,
            stops.unwrap_or_default()
        )?;
    }
    for new in &added.new_nodes {
        let subnets: Vec<&str> = new.subnets.iter().map(|s| s.as_str()).collect();
        let kind = format!("{} in {}", new.instance_type, subnets.join(", "));
        match (new.nodes, new.binds) {
            (Some(nodes), _) => writeln!(
                out,
                "    {} more of {kind} would take the rest",
                plural(nodes, "node")
            )?,
            (None, binds) => writeln!(
                out,
                "    no number of {kind} would take the rest: {}",
                binds.map_or("no node starts", Ceiling::label)
            )?,
        }
    }
    Ok(())
}

pub(super) fn plural(n: u32, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// A node's ceiling in a sentence, for `status`.
pub fn sentence(capacity: &Capacity, node: &str) -> Option<String> {
    let row = capacity.nodes.iter().find(|n| n.node == node)?;
    Some(stands(capacity, row))
}
