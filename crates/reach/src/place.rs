//! Where a pod may run: the pods that run, the next interface of their node, the next node.
//!
//! A place that does not exist yet is made by adding the interface it would have to a copy of the
//! world, with the groups it would get; the same trace then answers for it. What those groups are
//! is known facts about engines: a new interface gets the primary's groups, as they are now (group
//! sync on; upstream since 1.7.2) or as they were when the agent started (off; before 1.7.2); a new
//! node gets what its launch template says (S3-17).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::Serialize;
use vpc::facts::{
    Attachment, Eni, EniAddress, EniId, EniKind, EniStatus, Instance, Kind, LaunchTemplateId, Mac,
    SgId, Subnet, SubnetId, World,
};

use crate::error::Error;
use crate::facts::{GroupSync, Inputs, InstanceLimits};
use crate::resolve::find_instance;

/// Which places a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Over {
    /// The pods that run.
    Running,
    /// The next interface that a node's agent would attach.
    NextEni,
    /// The next node that the launch template would make.
    NextNode,
}

impl Over {
    /// What is asked when nothing is said.
    pub const ALL: [Over; 3] = [Over::Running, Over::NextEni, Over::NextNode];
}

/// The list of `--over`.
pub fn parse_over(text: &str) -> Result<BTreeSet<Over>, Error> {
    let mut over = BTreeSet::new();
    for word in text.split(',').map(str::trim) {
        match word {
            "all" => over.extend(Over::ALL),
            word => {
                over.insert(word.parse().map_err(|()| Error::BadOver {
                    text: text.to_owned(),
                })?);
            }
        }
    }
    Ok(over)
}

impl FromStr for Over {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "running" => Ok(Over::Running),
            "next-eni" => Ok(Over::NextEni),
            "next-node" => Ok(Over::NextNode),
            _ => Err(()),
        }
    }
}

/// A place where no pod runs yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Future {
    /// [`Over::NextEni`] or [`Over::NextNode`].
    pub over: Over,
    /// The node that would get the interface, or after which the next node is modelled.
    pub node: String,
    /// Whether the place can exist.
    pub state: FutureState,
    /// What its groups come from, for people: `lt-0c3 v3`, `groups of the primary ENI`.
    pub source: String,
    /// How many pods would fit there; 0 when that is not known.
    pub capacity: u32,
}

impl Future {
    /// Equal for places that differ in nothing but the node they come after.
    pub(crate) fn sameness(&self) -> String {
        match &self.state {
            FutureState::Possible(eni) => {
                format!(
                    "{} {} {:?} {}",
                    self.source, eni.subnet, eni.groups, self.capacity
                )
            }
            FutureState::Impossible(why) | FutureState::Unknown(why) => why.clone(),
        }
    }
}

/// Whether a place can exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FutureState {
    /// It can: the interface it would have, with a free address of its subnet.
    Possible(Box<Eni>),
    /// It cannot: why, as `none possible (t3.medium: 3 ENIs)`.
    Impossible(String),
    /// It cannot be said: what would have to be known.
    Unknown(String),
}

/// The next interface of a node.
pub fn next_eni(inputs: &Inputs, node: &str) -> Result<Future, Error> {
    let instance = find_instance(inputs, node)?;
    let world = &inputs.world;
    let attached = world.enis_of(&instance.id);
    let limits = inputs.limits.get(&instance.instance_type).copied();
    let (groups, source) = next_groups(inputs, node, attached.first().copied());
    let state = match (limits, attached.first()) {
        (None, _) => FutureState::Unknown(unknown_limits(inputs, &instance.instance_type)),
        (_, None) => FutureState::Unknown(unread(world, Kind::Enis)),
        (Some(limits), Some(_)) if attached.len() as u32 >= limits.interfaces => {
            FutureState::Impossible(full(&instance.instance_type, limits))
        }
        (Some(_), Some(primary)) => match groups {
            Err(need) => FutureState::Unknown(need),
            Ok(groups) => match world.subnets.get(&primary.subnet) {
                None => FutureState::Unknown(unread(world, Kind::Subnets)),
                Some(subnet) => {
                    hypothetical(world, subnet, groups, instance, attached.len() as u32)
                }
            },
        },
    };
    let capacity = limits.map_or(0, |l| l.addresses.saturating_sub(1));
    Ok(Future {
        over: Over::NextEni,
        node: node.to_owned(),
        state,
        source,
        capacity,
    })
}

/// The node that the launch template of a node would make next.
pub fn next_node(inputs: &Inputs, node: &str) -> Result<Future, Error> {
    let instance = find_instance(inputs, node)?;
    let limits = inputs.limits.get(&instance.instance_type).copied();
    let future = |state, source| Future {
        over: Over::NextNode,
        node: node.to_owned(),
        state,
        source,
        capacity: limits.map_or(0, InstanceLimits::pod_addresses),
    };
    let Some((template, launched)) = instance.launch_template() else {
        let need = format!(
            "the launch template of {node}: its instance has no aws:ec2launchtemplate tags"
        );
        return Ok(future(
            FutureState::Unknown(need),
            "no launch template".to_owned(),
        ));
    };
    Ok(
        match template_groups(&inputs.world, &template, launched, instance) {
            Err(need) => future(FutureState::Unknown(need), template.to_string()),
            Ok((groups, subnet, source)) => {
                let state = match inputs.world.subnets.get(&subnet) {
                    Some(subnet) => hypothetical(&inputs.world, subnet, groups, instance, 0),
                    None => FutureState::Unknown(unread(&inputs.world, Kind::Subnets)),
                };
                future(state, source)
            }
        },
    )
}

/// The id of an interface that does not exist.
pub fn hypothetical_id() -> EniId {
    "eni-next"
        .parse()
        .expect("eni-next has the form of an ENI's id")
}

type Groups = BTreeSet<SgId>;

fn next_groups(
    inputs: &Inputs,
    node: &str,
    primary: Option<&Eni>,
) -> (Result<Groups, String>, String) {
    let now = primary.map(|e| e.groups.clone()).unwrap_or_default();
    let sync = inputs.nodes.get(node).map(|n| &n.groups);
    match sync {
        Some(GroupSync::On { .. }) => (Ok(now), "groups of the primary ENI".to_owned()),
        Some(GroupSync::Off {
            at_start: Some(groups),
        }) => {
            let source = "groups of the primary ENI when the agent started".to_owned();
            (Ok(groups.clone()), source)
        }
        Some(GroupSync::Off { at_start: None }) => {
            let need = format!(
                "the groups that the primary ENI had when the agent of {node} started: only the agent knows (--node {node}=URL)"
            );
            (
                Err(need),
                "groups of the primary ENI when the agent started".to_owned(),
            )
        }
        _ => {
            let need = format!("whether the agent of {node} copies the primary ENI's groups");
            (Err(need), "the agent does not tell".to_owned())
        }
    }
}

/// Groups, subnet and a label of the next node: by the template's default version, which is what a
/// node group without a pinned version uses.
fn template_groups(
    world: &World,
    id: &LaunchTemplateId,
    launched: u64,
    like: &Instance,
) -> Result<(Groups, SubnetId, String), String> {
    let template = world.launch_templates.get(id);
    let template = template.ok_or_else(|| unread_or(world, Kind::LaunchTemplates, id.as_str()))?;
    let number = template.default_version;
    let version = template
        .versions
        .get(&number)
        .ok_or_else(|| unread_or(world, Kind::LaunchTemplates, &format!("{id} v{number}")))?;
    let primary = version.interfaces.iter().find(|i| i.device_index == 0);
    let mut groups = primary.map_or(&version.groups, |i| &i.groups).clone();
    if groups.is_empty() {
        groups.extend(default_group(world, like));
    }
    let subnet = primary
        .and_then(|i| i.subnet.clone())
        .or_else(|| like.subnet.clone());
    let subnet = subnet.ok_or_else(|| format!("the subnet of the next node after {}", like.id))?;
    let source = match launched == number {
        true => format!("{id} v{number}"),
        false => format!("{id} v{number} (this node: v{launched})"),
    };
    Ok((groups, subnet, source))
}

/// EC2 gives the VPC's default group to an instance that asks for none.
fn default_group(world: &World, like: &Instance) -> Option<SgId> {
    let vpc = like.vpc.as_ref()?;
    let mut groups = world.groups.values();
    groups
        .find(|g| &g.vpc == vpc && g.name == "default")
        .map(|g| g.id.clone())
}

fn hypothetical(
    world: &World,
    subnet: &Subnet,
    groups: Groups,
    instance: &Instance,
    device_index: u32,
) -> FutureState {
    let Some(address) = free_address(world, subnet) else {
        return FutureState::Impossible(format!(
            "no free address in {} ({})",
            subnet.id, subnet.cidr
        ));
    };
    FutureState::Possible(Box::new(Eni {
        id: hypothetical_id(),
        subnet: subnet.id.clone(),
        vpc: subnet.vpc.clone(),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        addresses: vec![EniAddress {
            address,
            primary: true,
            public: None,
        }],
        prefixes: Vec::new(),
        addresses6: Vec::new(),
        prefixes6: Vec::new(),
        groups,
        source_dest_check: true,
        kind: EniKind::Interface,
        status: EniStatus::InUse,
        attachment: (device_index > 0).then(|| Attachment {
            id: "eni-attach-next".to_owned(),
            instance: Some(instance.id.clone()),
            owner: String::new(),
            device_index,
            network_card: 0,
            delete_on_termination: true,
        }),
        trunk: None,
        description: "the next interface".to_owned(),
        tags: Default::default(),
    }))
}

/// The first address of a subnet that EC2 may give away and no interface has. EC2 keeps the first
/// four and the last.
fn free_address(world: &World, subnet: &Subnet) -> Option<Ipv4Addr> {
    let first = u32::from(subnet.cidr.network()).checked_add(4)?;
    let last = u32::from(subnet.cidr.broadcast()).checked_sub(1)?;
    let taken = |a: Ipv4Addr| {
        world
            .enis
            .values()
            .any(|e| e.vpc == subnet.vpc && e.owns(a))
    };
    (first..=last).map(Ipv4Addr::from).find(|a| !taken(*a))
}

fn full(instance_type: &str, limits: InstanceLimits) -> String {
    format!(
        "none possible ({instance_type}: {} ENIs)",
        limits.interfaces
    )
}

fn unknown_limits(inputs: &Inputs, instance_type: &str) -> String {
    match &inputs.unread_limits {
        Some(unread) => format!(
            "how many ENIs a {instance_type} may have: {} ({})",
            unread.action, unread.reason
        ),
        None => format!(
            "how many ENIs a {instance_type} may have: ec2:DescribeInstanceTypes does not list it"
        ),
    }
}

fn unread(world: &World, kind: Kind) -> String {
    unread_or(world, kind, "an object that is not there")
}

fn unread_or(world: &World, kind: Kind, object: &str) -> String {
    match world.unread(kind) {
        Some(unread) => format!("{}: {}", unread.action, unread.reason),
        None => format!("{} does not list {object}", kind.action()),
    }
}
