//! Security groups and network ACLs to layers.
//!
//! *Security groups* (VPC user guide, "Security group rules"): all rules of all groups on an
//! interface form one union of permissions, evaluated as a set; nothing else passes. The compiled
//! order therefore has no meaning for what passes, and is chosen so that the first match also says
//! how: untracked permissions first, then tracked, then those whose members are not known.
//! When tracked and untracked permissions overlap, see docs/decisions/001.md.
//!
//! *Network ACLs*: stateless, by number, first match wins, nothing else passes.

use flowset::RangeSet;
use layers::mutated;
use layers::{
    Action, Addresses, Layer, LayerName, Match, Provenance, Rule, Service, SetName, Sets,
};

use crate::facts::*;
use crate::need::Need;

/// The layers of one list of security groups, shared by all interfaces that carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupLayers {
    /// For packets to the interface.
    pub ingress: Layer,
    /// For packets from the interface.
    pub egress: Layer,
}

/// The layers of one network ACL, shared by all subnets it guards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AclLayers {
    /// For packets that enter the subnet.
    pub ingress: Layer,
    /// For packets that leave the subnet.
    pub egress: Layer,
}

impl GroupLayers {
    /// The layer of a direction.
    pub fn of(&self, direction: Direction) -> &Layer {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

impl AclLayers {
    /// The layer of a direction.
    pub fn of(&self, direction: Direction) -> &Layer {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// The set that holds no address, for references that match nothing.
pub fn nothing() -> SetName {
    SetName("nothing".to_owned())
}

/// The set of the private addresses of the interfaces with a group.
pub fn group_set(group: &SgId) -> SetName {
    SetName(group.to_string())
}

/// The set of the entries of a prefix list.
pub fn prefix_list_set(list: &PrefixListId) -> SetName {
    SetName(list.to_string())
}

/// The table of all sets that group rules can name: one per group with the primary, secondary and
/// prefix addresses of the interfaces that carry it, one per prefix list. What could not be read is
/// not in the table, so that rules which name it decide nothing.
pub fn sets(world: &World) -> Sets {
    let mut sets = Sets::new();
    sets.insert(nothing(), RangeSet::empty());
    if world.unread(Kind::Enis).is_none() {
        for group in world.groups.keys() {
            let members = world.enis.values().filter(|e| e.groups.contains(group));
            sets.insert(group_set(group), members.flat_map(Eni::networks).collect());
        }
    }
    for (id, list) in world
        .prefix_lists
        .iter()
        .filter(|(_, l)| l.unread.is_none())
    {
        sets.insert(prefix_list_set(id), list.entries.iter().copied().collect());
    }
    sets
}

/// Compiles the groups of an interface. An interface without groups lets nothing pass.
///
/// # Errors
/// [`Need`] names the group that could not be read.
pub fn group_layers<'a>(
    world: &World,
    groups: impl IntoIterator<Item = &'a SgId>,
) -> Result<GroupLayers, Need> {
    let find = |id: &SgId| {
        world
            .groups
            .get(id)
            .ok_or_else(|| world.need(Kind::Groups, id))
    };
    let groups = groups
        .into_iter()
        .map(find)
        .collect::<Result<Vec<_>, _>>()?;
    let layer = |direction| group_layer(world, &groups, direction);
    Ok(GroupLayers {
        ingress: layer(Direction::Ingress),
        egress: layer(Direction::Egress),
    })
}

fn group_layer(world: &World, groups: &[&SecurityGroup], direction: Direction) -> Layer {
    let open = OpenReverse::of(groups, direction);
    let (mut untracked, mut tracked, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for group in groups {
        for rule in group.rules.iter().filter(|r| r.direction == direction) {
            let Some(peer) = peer(world, group, rule) else {
                continue;
            };
            let source = group_provenance(group, rule, peer.note.clone());
            for (service, is_tracked) in open.services(rule) {
                let class = match (peer.known, is_tracked) {
                    (false, _) => &mut unknown,
                    (true, false) => &mut untracked,
                    (true, true) => &mut tracked,
                };
                class.push(Rule {
                    matches: remote(peer.addresses.clone(), direction, service),
                    action: Action::Allow {
                        tracked: is_tracked,
                    },
                    source: source.clone(),
                });
            }
        }
    }
    let ids: Vec<&str> = groups.iter().map(|g| g.id.as_str()).collect();
    Layer {
        name: LayerName(format!("{} {direction}", ids.join("+"))),
        stateful: true,
        default: Action::Deny,
        rules: [untracked, tracked, unknown].concat(),
    }
}

/// A match of the remote side: the source of what comes in, the destination of what goes out.
fn remote(peer: Addresses, direction: Direction, service: Service) -> Match {
    match direction {
        Direction::Ingress => Match {
            src: peer,
            dst: Addresses::Any,
            service,
        },
        Direction::Egress => Match {
            src: Addresses::Any,
            dst: peer,
            service,
        },
    }
}

/// Whether the other direction lets everything pass for TCP and for UDP: then what a rule permits
/// from or to everywhere is not tracked (EC2 user guide, "Untracked connections").
struct OpenReverse {
    tcp: bool,
    udp: bool,
}

impl OpenReverse {
    fn of(groups: &[&SecurityGroup], direction: Direction) -> Self {
        let reverse = || {
            groups
                .iter()
                .flat_map(|g| &g.rules)
                .filter(|r| r.direction != direction)
        };
        let open = |protocol: fn(Ports) -> Protocol| {
            let every = protocol(Ports {
                from: 0,
                to: u16::MAX,
            });
            let all = |r: &&GroupRule| r.protocol == Protocol::All || r.protocol == every;
            reverse().filter(|r| everywhere(&r.peer)).any(|r| all(&r))
        };
        if mutated!(UntrackedForgotten) {
            return OpenReverse {
                tcp: false,
                udp: false,
            };
        }
        OpenReverse {
            tcp: open(Protocol::Tcp),
            udp: open(Protocol::Udp),
        }
    }

    /// The services of a rule, each with whether it is tracked. Where they overlap, the first
    /// is meant.
    fn services(&self, rule: &GroupRule) -> Vec<(Service, bool)> {
        let open = everywhere(&rule.peer);
        match rule.protocol {
            Protocol::Tcp(p) => vec![(Service::Tcp(p.from, p.to), !(open && self.tcp))],
            Protocol::Udp(p) => vec![(Service::Udp(p.from, p.to), !(open && self.udp))],
            Protocol::All => match (open && self.tcp, open && self.udp) {
                (true, true) => vec![(Service::TcpUdp(0, u16::MAX), false), (Service::All, true)],
                (true, false) => vec![(Service::Tcp(0, u16::MAX), false), (Service::All, true)],
                (false, true) => vec![(Service::Udp(0, u16::MAX), false), (Service::All, true)],
                (false, false) => vec![(Service::All, true)],
            },
            other => service(other).into_iter().map(|s| (s, true)).collect(),
        }
    }
}

fn everywhere(peer: &RulePeer) -> bool {
    matches!(peer, RulePeer::Cidr4(net) if net.prefix_len() == 0)
}

/// The packets of a protocol; `None` for ICMPv6, which no IPv4 packet is.
fn service(protocol: Protocol) -> Option<Service> {
    Some(match protocol {
        Protocol::All => Service::All,
        Protocol::Tcp(p) => Service::Tcp(p.from, p.to),
        Protocol::Udp(p) => Service::Udp(p.from, p.to),
        Protocol::Icmp { kind, code } => Service::Icmp(kind, code),
        Protocol::Icmp6 { .. } => return None,
        Protocol::Number(number) => Service::Protocol(number),
    })
}

/// The addresses of a rule's peer.
struct Peer {
    addresses: Addresses,
    note: Option<String>,
    known: bool,
}

impl Peer {
    fn known(addresses: Addresses) -> Self {
        Peer {
            addresses,
            note: None,
            known: true,
        }
    }
}

/// `None` for IPv6 peers.
fn peer(world: &World, owner: &SecurityGroup, rule: &GroupRule) -> Option<Peer> {
    match &rule.peer {
        RulePeer::Cidr4(net) if net.prefix_len() == 0 => Some(Peer::known(Addresses::Any)),
        RulePeer::Cidr4(net) => Some(Peer::known(Addresses::Net(*net))),
        RulePeer::Cidr6(_) => None,
        RulePeer::PrefixList(id) => {
            let known = world
                .prefix_lists
                .get(id)
                .is_some_and(|l| l.unread.is_none());
            let note = (!known).then(|| format!("the entries of {id} are not known"));
            Some(Peer {
                addresses: Addresses::Set(prefix_list_set(id)),
                note,
                known,
            })
        }
        RulePeer::Group { id, vpc, .. } => Some(match reference(world, owner, id, vpc.as_ref()) {
            Reference::Current => Peer {
                addresses: Addresses::Set(group_set(id)),
                note: None,
                known: world.unread(Kind::Enis).is_none(),
            },
            Reference::Unknown => Peer {
                addresses: Addresses::Set(group_set(id)),
                note: Some(format!("the members of {id} are not known")),
                known: false,
            },
            Reference::Stale(why) => Peer {
                addresses: Addresses::Set(nothing()),
                note: Some(format!("stale, matches nothing: {why}")),
                known: true,
            },
        }),
    }
}

/// What a reference to a group is worth.
enum Reference {
    /// It stands for the members of the group.
    Current,
    /// It matches nothing.
    Stale(String),
    /// The group is in a VPC that was not read.
    Unknown,
}

fn reference(
    world: &World,
    owner: &SecurityGroup,
    id: &SgId,
    reported: Option<&VpcId>,
) -> Reference {
    let vpc = world
        .groups
        .get(id)
        .map(|g| &g.vpc)
        .or(reported)
        .unwrap_or(&owner.vpc);
    if *vpc != owner.vpc {
        let between = |p: &&Peering| p.other_side(&owner.vpc).is_some_and(|s| s.vpc == *vpc);
        let mut peerings = world.peerings.values().filter(between).peekable();
        if peerings.peek().is_none() && world.unread(Kind::Peerings).is_some() {
            return Reference::Unknown;
        }
        let active = peerings.any(|p| p.status == PeeringStatus::Active);
        if !active || mutated!(PeerGroupMissed) {
            return Reference::Stale(format!("no active peering with {vpc}, the VPC of {id}"));
        }
    }
    if world.groups.contains_key(id) {
        Reference::Current
    } else if *vpc == owner.vpc || world.vpcs.contains_key(vpc) {
        Reference::Stale(format!("{id} does not exist any more"))
    } else {
        Reference::Unknown
    }
}

impl Peering {
    /// The side of the connection opposite to a VPC; `None` if the VPC is on neither.
    pub fn other_side(&self, vpc: &VpcId) -> Option<&PeeringSide> {
        if self.requester.vpc == *vpc {
            Some(&self.accepter)
        } else if self.accepter.vpc == *vpc {
            Some(&self.requester)
        } else {
            None
        }
    }
}

fn group_provenance(group: &SecurityGroup, rule: &GroupRule, note: Option<String>) -> Provenance {
    Provenance {
        object: group.id.to_string(),
        name: Some(group.name.clone()).filter(|n| !n.is_empty()),
        rule: rule.id.as_ref().map(ToString::to_string),
        peer: Some(rule.peer.to_string()),
        text: rule.to_string(),
        note,
    }
}

/// Compiles a network ACL.
pub fn acl_layers(acl: &NetworkAcl) -> AclLayers {
    let layer = |direction| acl_layer(acl, direction);
    AclLayers {
        ingress: layer(Direction::Ingress),
        egress: layer(Direction::Egress),
    }
}

fn acl_layer(acl: &NetworkAcl, direction: Direction) -> Layer {
    let mut entries: Vec<&AclEntry> = acl
        .entries
        .iter()
        .filter(|e| e.direction == direction)
        .collect();
    entries.sort_by_key(|e| e.number);
    if mutated!(AclOrderReversed) {
        entries.sort_by_key(|e| (e.number >= LAST_ENTRY, std::cmp::Reverse(e.number)));
    }
    Layer {
        name: LayerName(format!("{} {direction}", acl.id)),
        stateful: false,
        default: Action::Deny,
        rules: entries
            .into_iter()
            .filter_map(|e| acl_rule(acl, e))
            .collect(),
    }
}

/// The number of the entry that closes an ACL, printed as `*`.
const LAST_ENTRY: u16 = 32767;

fn acl_rule(acl: &NetworkAcl, entry: &AclEntry) -> Option<Rule> {
    let AclCidr::V4(net) = entry.cidr else {
        return None;
    };
    let peer = if net.prefix_len() == 0 {
        Addresses::Any
    } else {
        Addresses::Net(net)
    };
    let number = if entry.number >= LAST_ENTRY {
        "*".into()
    } else {
        entry.number.to_string()
    };
    Some(Rule {
        matches: remote(peer, entry.direction, service(entry.protocol)?),
        action: if entry.allow {
            Action::Allow { tracked: false }
        } else {
            Action::Deny
        },
        source: Provenance {
            object: acl.id.to_string(),
            name: crate::world::name_tag(&acl.tags).map(str::to_owned),
            rule: Some(format!("#{number}")),
            peer: Some(net.to_string()),
            text: entry.text(),
            note: None,
        },
    })
}

/// Where the default of a layer comes from: the absence of a rule, or an ACL's `*`.
pub fn default_provenance(layer: &Layer) -> Provenance {
    let (objects, direction) = layer.name.0.rsplit_once(' ').unwrap_or((&layer.name.0, ""));
    let acl = !layer.stateful;
    let text = match (acl, objects.is_empty()) {
        (true, _) => format!("{direction} deny all"),
        (false, false) => format!("no {direction} rule matches"),
        (false, true) => "the interface has no security group".to_owned(),
    };
    Provenance {
        object: objects.replace('+', ", "),
        rule: acl.then(|| "#*".to_owned()),
        text,
        ..Provenance::default()
    }
}
