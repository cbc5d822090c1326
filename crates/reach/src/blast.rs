//! Blast radius: what else an edit would open or close.
//!
//! For every interface the permissions of its groups are compared, before and after, as sets of
//! packets: what is in one and not in the other. Interfaces with the same difference are told
//! together. Routes and ACLs are not looked at: a permission that no route reaches today may be
//! reached tomorrow, so the radius is an upper bound.

use std::collections::{BTreeMap, BTreeSet};

use flowset::{FlowSet, ICMP, RangeSet, TCP, UDP};
use serde::Serialize;
use vpc::facts::{Direction, EniId, SgId, World};
use vpc::layers::{group_layers, sets};

use crate::facts::Inputs;

/// What an edit opens and closes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Blast {
    /// Packets that are permitted after and were not before.
    pub opens: Vec<Change>,
    /// Packets that were permitted before and are not after.
    pub closes: Vec<Change>,
    /// Interfaces whose permissions could not be compared, because something was not read.
    pub unknown: Vec<String>,
}

/// The same change on some interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Into the interfaces or out of them.
    pub direction: Direction,
    /// The interfaces.
    pub on: BTreeSet<EniId>,
    /// What of it are node interfaces, and primary ones among them.
    pub nodes: NodeInterfaces,
    /// Services, as `tcp/5432`.
    pub services: Vec<String>,
    /// How many addresses are at the other side.
    pub addresses: u64,
    /// How many interfaces are at the other side.
    pub remote_enis: usize,
    /// How many pods that were read are at the other side.
    pub remote_pods: usize,
}

/// How many of a change's interfaces are those of nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NodeInterfaces {
    /// Primary interfaces of instances.
    pub primary: usize,
    /// Other interfaces of instances.
    pub secondary: usize,
}

impl Blast {
    /// A measure to rank edits by: addresses that gain access, over all interfaces.
    pub fn opened(&self) -> u64 {
        self.opens
            .iter()
            .map(|c| c.addresses * c.on.len() as u64)
            .sum()
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.opens.is_empty() && self.closes.is_empty() && self.unknown.is_empty()
    }
}

/// Compares the permissions of all interfaces.
pub fn blast(before: &Inputs, after: &Inputs) -> Blast {
    let mut old = Permissions::new(&before.world);
    let mut new = Permissions::new(&after.world);
    let mut changes: BTreeMap<(bool, Direction, String), (FlowSet, BTreeSet<EniId>)> =
        BTreeMap::new();
    let mut blast = Blast::default();
    for (id, eni) in &after.world.enis {
        let earlier = before.world.enis.get(id).map(|e| &e.groups);
        for direction in [Direction::Ingress, Direction::Egress] {
            let was = match earlier {
                Some(groups) => old.of(groups, direction),
                None => Ok(FlowSet::empty()),
            };
            let (was, is) = match (was, new.of(&eni.groups, direction)) {
                (Ok(was), Ok(is)) => (was, is),
                (Err(need), _) | (_, Err(need)) => {
                    blast.unknown.push(format!("{id}: {need}"));
                    continue;
                }
            };
            for (opens, delta) in [(true, is.difference(&was)), (false, was.difference(&is))] {
                if !delta.is_empty() {
                    let key = (opens, direction, delta.to_string());
                    changes
                        .entry(key)
                        .or_insert_with(|| (delta, BTreeSet::new()))
                        .1
                        .insert(id.clone());
                }
            }
        }
    }
    for ((opens, direction, _), (delta, on)) in changes {
        let change = describe(after, direction, &delta, on);
        match opens {
            true => blast.opens.push(change),
            false => blast.closes.push(change),
        }
    }
    blast
}

/// Permissions by list of groups, computed once each.
struct Permissions<'a> {
    world: &'a World,
    sets: layers::Sets,
    known: BTreeMap<(BTreeSet<SgId>, Direction), Result<FlowSet, String>>,
}

impl<'a> Permissions<'a> {
    fn new(world: &'a World) -> Self {
        Self {
            world,
            sets: sets(world),
            known: BTreeMap::new(),
        }
    }

    fn of(&mut self, groups: &BTreeSet<SgId>, direction: Direction) -> Result<FlowSet, String> {
        let key = (groups.clone(), direction);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let permitted = self.compute(groups, direction);
        self.known.insert(key, permitted.clone());
        permitted
    }

    fn compute(&self, groups: &BTreeSet<SgId>, direction: Direction) -> Result<FlowSet, String> {
        let layers = group_layers(self.world, groups).map_err(|need| need.to_string())?;
        let parts = layers::eval(layers.of(direction), &self.sets, &FlowSet::full());
        let unresolved = parts.iter().find_map(|p| match &p.decided {
            layers::Decided::Unresolved { set, .. } => Some(format!("the members of {set}")),
            _ => None,
        });
        match unresolved {
            Some(need) => Err(need),
            None => Ok(parts
                .iter()
                .filter(|p| p.action.allows())
                .fold(FlowSet::empty(), |all, p| all.union(&p.flows))),
        }
    }
}

fn describe(inputs: &Inputs, direction: Direction, delta: &FlowSet, on: BTreeSet<EniId>) -> Change {
    let remote: RangeSet<u32> = match direction {
        Direction::Ingress => delta.sources(),
        Direction::Egress => delta.destinations(),
    };
    let has = |address: std::net::Ipv4Addr| remote.has(address);
    let mut nodes = NodeInterfaces::default();
    let attachments = on
        .iter()
        .filter_map(|id| inputs.world.enis.get(id)?.attachment.as_ref());
    for attachment in attachments.filter(|a| a.instance.is_some()) {
        match attachment.device_index {
            0 => nodes.primary += 1,
            _ => nodes.secondary += 1,
        }
    }
    let pods = inputs.nodes.values().flat_map(|n| &n.pods);
    Change {
        direction,
        nodes,
        services: services(delta),
        addresses: remote.count(),
        remote_enis: inputs
            .world
            .enis
            .values()
            .filter(|e| e.networks().any(|n| has(n.addr())))
            .count(),
        remote_pods: pods.filter(|p| has(p.address)).count(),
        on,
    }
}

/// `tcp/5432`, `udp`, `icmp`: the protocols and ports of a set, for people.
pub fn services(flows: &FlowSet) -> Vec<String> {
    let mut texts = Vec::new();
    for (number, name) in [(TCP, "tcp"), (UDP, "udp")] {
        let some = flows.of_protocols(&RangeSet::single(number));
        if some.is_empty() {
            continue;
        }
        let ports = some.ports();
        if ports.is_full() {
            texts.push(name.to_owned());
            continue;
        }
        texts.extend(
            ports
                .ranges()
                .iter()
                .map(|&(first, last)| match first == last {
                    true => format!("{name}/{first}"),
                    false => format!("{name}/{first}-{last}"),
                }),
        );
    }
    if !flows.of_protocols(&RangeSet::single(ICMP)).is_empty() {
        texts.push("icmp".to_owned());
    }
    let known = [TCP, UDP, ICMP]
        .map(|p| (p, p))
        .into_iter()
        .collect::<RangeSet<u8>>();
    if !flows.of_protocols(&known.complement()).is_empty() {
        texts.push("other protocols".to_owned());
    }
    texts
}
