//! What-if edits: `sg/add_sg ingress += tcp/5432 from sg/nodes`.
//!
//! An edit is parsed against what was read (its names must exist), applied to a copy, and the
//! question is asked again. Nothing is ever written to AWS. The same edits are the fixes that the
//! tool proposes, so a proposed fix is one that was tried on the model.

use std::fmt;

use ipnet::Ipv4Net;
use serde::Serialize;
use vpc::facts::{
    Direction, EniId, GroupRule, LaunchTemplateId, Ports, Protocol, RulePeer, SgId, World,
};

use crate::error::Error;
use crate::facts::{GroupSync, Inputs};
use crate::resolve::{find_eni, find_group, find_instance, short_name};

/// One change of what was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Edit {
    /// A rule of a security group.
    Rule {
        /// The group.
        group: SgId,
        /// Ingress or egress.
        direction: Direction,
        /// Added or removed.
        add: bool,
        /// Protocol and ports.
        protocol: Protocol,
        /// The other side.
        peer: RulePeer,
    },
    /// The groups of one interface.
    EniGroups {
        /// The interface.
        eni: EniId,
        /// Added or removed.
        add: bool,
        /// The group.
        group: SgId,
    },
    /// The groups that a launch template's default version gives to new instances.
    TemplateGroups {
        /// The template.
        template: LaunchTemplateId,
        /// Added or removed.
        add: bool,
        /// The group.
        group: SgId,
    },
    /// The agent of a node copies the primary interface's groups to the others from now on.
    GroupSyncOn {
        /// The node's name.
        node: String,
    },
}

/// Parses one edit; names are looked up in what was read.
pub fn parse(inputs: &Inputs, text: &str) -> Result<Edit, Error> {
    let bad = |why: String| Error::BadEdit {
        text: text.to_owned(),
        why,
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    let (object, rest) = words
        .split_first()
        .ok_or_else(|| bad("it is empty".into()))?;
    let (kind, name) = object
        .split_once('/')
        .ok_or_else(|| bad(format!("{object:?} is not KIND/NAME")))?;
    match (kind, rest) {
        ("sg", [direction, sign, protocol, side, peer]) => {
            let group = find_group(&inputs.world, name, None)?;
            let direction = parse_direction(direction, side).map_err(bad)?;
            Ok(Edit::Rule {
                add: parse_sign(sign).map_err(bad)?,
                protocol: parse_protocol(protocol).map_err(bad)?,
                peer: parse_peer(&inputs.world, &group, peer, text)?,
                group,
                direction,
            })
        }
        ("eni", ["groups", sign, group]) => {
            let eni = find_eni(&inputs.world, name)?;
            Ok(Edit::EniGroups {
                add: parse_sign(sign).map_err(bad)?,
                group: find_group(&inputs.world, strip_sg(group), Some(&eni.vpc))?,
                eni: eni.id.clone(),
            })
        }
        ("lt", ["groups", sign, group]) => Ok(Edit::TemplateGroups {
            template: find_template(&inputs.world, name)?,
            add: parse_sign(sign).map_err(bad)?,
            group: find_group(&inputs.world, strip_sg(group), None)?,
        }),
        ("node", ["group-sync", "=", "on"]) => {
            let instance = find_instance(inputs, name)?;
            Ok(Edit::GroupSyncOn {
                node: short_name(instance).to_owned(),
            })
        }
        ("sg" | "eni" | "lt" | "node", _) => Err(bad(format!(
            "what stands behind {object} is not an edit of it"
        ))),
        _ => Err(bad(format!(
            "edits of {kind}/… are not built; sg, eni, lt and node are"
        ))),
    }
}

impl Edit {
    /// Changes `inputs`. Removing a rule or group that is not there is an error: the person who
    /// asks believes something that is not so.
    pub fn apply(&self, inputs: &mut Inputs) -> Result<(), Error> {
        match self {
            Edit::Rule {
                group,
                direction,
                add,
                protocol,
                peer,
            } => {
                let rules = match inputs.world.groups.get_mut(group) {
                    Some(group) => &mut group.rules,
                    None => return Err(self.refuse("the group was not read")),
                };
                let same = |r: &GroupRule| {
                    r.direction == *direction && r.protocol == *protocol && same_peer(&r.peer, peer)
                };
                let before = rules.len();
                rules.retain(|r| !same(r));
                if *add {
                    rules.push(GroupRule {
                        id: None,
                        direction: *direction,
                        protocol: *protocol,
                        peer: peer.clone(),
                        description: "what if".to_owned(),
                    });
                } else if rules.len() == before {
                    return Err(self.refuse("the group has no such rule"));
                }
            }
            Edit::EniGroups { eni, add, group } => {
                let Some(eni) = inputs.world.enis.get_mut(eni) else {
                    return Err(self.refuse("the interface was not read"));
                };
                if *add {
                    eni.groups.insert(group.clone());
                } else if !eni.groups.remove(group) {
                    return Err(self.refuse("the interface does not carry that group"));
                }
            }
            Edit::TemplateGroups {
                template,
                add,
                group,
            } => {
                let version = inputs
                    .world
                    .launch_templates
                    .get_mut(template)
                    .and_then(|t| t.versions.get_mut(&t.default_version));
                let Some(version) = version else {
                    return Err(self.refuse("the template's default version was not read"));
                };
                let groups = match version.interfaces.iter_mut().find(|i| i.device_index == 0) {
                    Some(primary) => &mut primary.groups,
                    None => &mut version.groups,
                };
                if *add {
                    groups.insert(group.clone());
                } else if !groups.remove(group) {
                    return Err(self.refuse("the template does not give that group"));
                }
            }
            Edit::GroupSyncOn { node } => return self.sync_groups(inputs, node),
        }
        Ok(())
    }

    fn sync_groups(&self, inputs: &mut Inputs, node: &str) -> Result<(), Error> {
        let instance = find_instance(inputs, node)?.id.clone();
        let enis: Vec<(EniId, _)> = inputs
            .world
            .enis_of(&instance)
            .iter()
            .map(|e| (e.id.clone(), e.groups.clone()))
            .collect();
        let Some((_, groups)) = enis.first().cloned() else {
            return Err(self.refuse("no interface of the node was read"));
        };
        for (id, _) in &enis {
            if let Some(eni) = inputs.world.enis.get_mut(id) {
                eni.groups = groups.clone();
            }
        }
        if let Some(node) = inputs.nodes.get_mut(node) {
            node.groups = GroupSync::On {
                pending: Default::default(),
            };
        }
        Ok(())
    }

    fn refuse(&self, why: &str) -> Error {
        Error::BadEdit {
            text: self.to_string(),
            why: why.to_owned(),
        }
    }
}

/// A peer of the rule as EC2 reports it carries the VPC of a group, an edit's does not.
fn same_peer(a: &RulePeer, b: &RulePeer) -> bool {
    match (a, b) {
        (RulePeer::Group { id: a, .. }, RulePeer::Group { id: b, .. }) => a == b,
        _ => a == b,
    }
}

fn strip_sg(text: &str) -> &str {
    text.strip_prefix("sg/").unwrap_or(text)
}

fn find_template(world: &World, name: &str) -> Result<LaunchTemplateId, Error> {
    let mut found = world
        .launch_templates
        .values()
        .filter(|t| t.id.as_str() == name || t.name == name);
    found
        .next()
        .map(|t| t.id.clone())
        .ok_or_else(|| Error::NotFound {
            kind: "lt",
            name: name.to_owned(),
            hint: String::new(),
        })
}

fn parse_sign(text: &str) -> Result<bool, String> {
    match text {
        "+=" => Ok(true),
        "-=" => Ok(false),
        _ => Err(format!("{text:?} is neither += nor -=")),
    }
}

fn parse_direction(direction: &str, side: &str) -> Result<Direction, String> {
    match (direction, side) {
        ("ingress", "from") => Ok(Direction::Ingress),
        ("egress", "to") => Ok(Direction::Egress),
        ("ingress", _) => Err("an ingress rule has a \"from\"".to_owned()),
        ("egress", _) => Err("an egress rule has a \"to\"".to_owned()),
        _ => Err(format!("{direction:?} is neither ingress nor egress")),
    }
}

fn parse_peer(world: &World, group: &SgId, peer: &str, text: &str) -> Result<RulePeer, Error> {
    let bad = |why: String| Error::BadEdit {
        text: text.to_owned(),
        why,
    };
    if peer == "self" {
        return Ok(RulePeer::Group {
            id: group.clone(),
            vpc: None,
            peering: None,
        });
    }
    if let Some(name) = peer.strip_prefix("sg/") {
        let id = find_group(world, name, None)?;
        return Ok(RulePeer::Group {
            id,
            vpc: None,
            peering: None,
        });
    }
    if let Some(name) = peer.strip_prefix("pl/") {
        let mut lists = world.prefix_lists.values();
        let list = lists.find(|l| l.id.as_str() == name || l.name == name);
        return list
            .map(|l| RulePeer::PrefixList(l.id.clone()))
            .ok_or_else(|| bad(format!("there is no prefix list {name:?} in what was read")));
    }
    match peer.parse::<Ipv4Net>() {
        Ok(cidr) => Ok(RulePeer::Cidr4(cidr.trunc())),
        Err(_) => Err(bad(format!(
            "{peer:?} is neither sg/NAME, pl/NAME, self nor an IPv4 CIDR"
        ))),
    }
}

fn parse_protocol(text: &str) -> Result<Protocol, String> {
    let (name, detail) = match text.split_once('/') {
        Some((name, detail)) => (name, Some(detail)),
        None => (text, None),
    };
    match (name, detail) {
        ("all", None) => Ok(Protocol::All),
        ("tcp", Some(ports)) => parse_ports(ports).map(Protocol::Tcp),
        ("udp", Some(ports)) => parse_ports(ports).map(Protocol::Udp),
        ("tcp", None) => Ok(Protocol::Tcp(Ports {
            from: 0,
            to: u16::MAX,
        })),
        ("udp", None) => Ok(Protocol::Udp(Ports {
            from: 0,
            to: u16::MAX,
        })),
        ("icmp", None) => Ok(Protocol::Icmp {
            kind: None,
            code: None,
        }),
        ("icmp", Some(kind)) => match kind.parse() {
            Ok(kind) => Ok(Protocol::Icmp {
                kind: Some(kind),
                code: None,
            }),
            Err(_) => Err(format!("{kind:?} is not an ICMP type")),
        },
        _ => Err(format!(
            "{text:?} is not a protocol: tcp/PORT[-PORT], udp/PORT, icmp[/TYPE], all"
        )),
    }
}

fn parse_ports(text: &str) -> Result<Ports, String> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    match (from.parse(), to.parse()) {
        (Ok(from), Ok(to)) if from <= to => Ok(Ports { from, to }),
        _ => Err(format!("{text:?} is not a port or a range of ports")),
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = |add: &bool| if *add { "+=" } else { "-=" };
        match self {
            Edit::Rule {
                group,
                direction,
                add,
                protocol,
                peer,
            } => {
                let (direction, side) = match direction {
                    Direction::Ingress => ("ingress", "from"),
                    Direction::Egress => ("egress", "to"),
                };
                let protocol = protocol_text(protocol);
                write!(f, "sg/{group} {direction} {} {protocol} {side} ", sign(add))?;
                match peer {
                    RulePeer::Cidr4(net) => write!(f, "{net}"),
                    RulePeer::Cidr6(net) => write!(f, "{net}"),
                    RulePeer::PrefixList(list) => write!(f, "pl/{list}"),
                    RulePeer::Group { id, .. } => write!(f, "sg/{id}"),
                }
            }
            Edit::EniGroups { eni, add, group } => {
                write!(f, "eni/{eni} groups {} sg/{group}", sign(add))
            }
            Edit::TemplateGroups {
                template,
                add,
                group,
            } => {
                write!(f, "lt/{template} groups {} sg/{group}", sign(add))
            }
            Edit::GroupSyncOn { node } => write!(f, "node/{node} group-sync = on"),
        }
    }
}

/// `tcp/5432`, `udp/53`, `icmp/8`, `all`: the form that [`parse`] reads.
pub fn protocol_text(protocol: &Protocol) -> String {
    let ports = |p: &Ports| match (p.from, p.to) {
        (a, b) if a == b => format!("/{a}"),
        (0, u16::MAX) => String::new(),
        (a, b) => format!("/{a}-{b}"),
    };
    match protocol {
        Protocol::All => "all".to_owned(),
        Protocol::Tcp(p) => format!("tcp{}", ports(p)),
        Protocol::Udp(p) => format!("udp{}", ports(p)),
        Protocol::Icmp {
            kind: Some(kind), ..
        } => format!("icmp/{kind}"),
        Protocol::Icmp { kind: None, .. } => "icmp".to_owned(),
        Protocol::Icmp6 { .. } => "icmpv6".to_owned(),
        Protocol::Number(n) => format!("protocol {n}"),
    }
}
