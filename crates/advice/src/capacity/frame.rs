//! One node in numbers: what it has, and how it can get more addresses.
//!
//! An agent fills its interfaces first and then attaches another one, whose own address comes out of
//! the same subnet. Upstream chooses the subnet of a new interface by its free addresses, out of the
//! primary interface's and those with the tag `kubernetes.io/role/cni` (0 excludes one).

use std::collections::BTreeMap;

use ipam::SubnetUse;
use kube_view::facts::{AGENT, Container, EnvValue};
use reach::Inputs;
use reach::facts::{InstanceLimits, Node};
use vpc::facts::{Eni, EniKind, Instance, SubnetId};
use vpc::space::{PREFIX_SIZE, Room};

/// The tag of interfaces that the agent shall leave alone.
const NO_MANAGE: &str = "node.k8s.amazonaws.com/no_manage";
/// The tag of interfaces that the agent made, or took over.
const INSTANCE_ID: &str = "node.k8s.amazonaws.com/instance_id";
/// Pods on the host's network that every node has: the agent and kube-proxy.
pub(super) const HOST_PODS: u32 = 2;

/// The agent's variables that bound a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variables {
    pub(super) max_eni: Option<u32>,
    pub(super) prefixes: bool,
    pub(super) custom_networking: bool,
    pub(super) pod_eni: bool,
    manage_untagged: bool,
}

impl Variables {
    pub(super) fn of(containers: &[Container]) -> Self {
        let agent = containers.iter().find(|c| c.name == AGENT);
        let value = |name: &str| match agent?.env.get(name)? {
            EnvValue::Is(text) => Some(text.as_str()),
            EnvValue::From(_) | EnvValue::Withheld => None,
        };
        let on =
            |name: &str, default: bool| value(name).and_then(settings::boolean).unwrap_or(default);
        Self {
            max_eni: value("MAX_ENI")
                .and_then(settings::integer)
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| *n >= 1),
            prefixes: on("ENABLE_PREFIX_DELEGATION", false),
            custom_networking: on("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", false),
            pod_eni: on("ENABLE_POD_ENI", false),
            manage_untagged: on("MANAGE_UNTAGGED_ENI", true),
        }
    }
}

/// One interface that pods have addresses of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    subnet: SubnetId,
    /// Slots that nothing is in.
    open: u32,
}

/// A node in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    /// Addresses that it has for pods, used or not.
    pub(super) have: u32,
    interfaces: Vec<Interface>,
    /// Interfaces that may still be attached.
    pub(super) more: u32,
    /// Where they may be.
    pub(super) subnets: Vec<SubnetId>,
    /// Slots of an interface beside its own address.
    slots: u32,
    /// Whether a slot takes a `/28`.
    pub(super) prefixes: bool,
    /// Whether the agent takes single addresses where no `/28` is free.
    pub(super) falls_back: bool,
    /// Pods that kubelet takes, those on the host's network taken off; `None`: not known.
    pub(super) kubelet: Option<u32>,
    /// Branch interfaces that are not used yet; `None` where there are none to have.
    pub(super) branches: Option<u32>,
    /// How many branch interfaces it may have.
    pub(super) branches_max: Option<u32>,
}

impl Frame {
    /// The numbers of a node that runs.
    pub(super) fn of(
        inputs: &Inputs,
        node: &Node,
        instance: &Instance,
        limits: InstanceLimits,
        variables: &Variables,
    ) -> Self {
        let world = &inputs.world;
        let attached = world.enis_of(&instance.id);
        let primary = attached.first().copied();
        let card = |e: &Eni| e.attachment.as_ref().map_or(0, |a| a.network_card);
        let own_card = primary.map_or(0, card);
        let on_card: Vec<&Eni> = attached
            .into_iter()
            .filter(|e| card(e) == own_card)
            .collect();
        let device = |e: &Eni| e.attachment.as_ref().map_or(0, |a| a.device_index);
        let for_pods = |e: &&&Eni| {
            let managed = device(e) == 0
                || match e.tags.get(NO_MANAGE).map(String::as_str) {
                    Some("true") => false,
                    Some(_) => true,
                    None => variables.manage_untagged || e.tags.contains_key(INSTANCE_ID),
                };
            let host_only = variables.custom_networking && device(e) == 0;
            managed && !host_only && e.kind == EniKind::Interface
        };
        let prefixes = variables.prefixes && limits.prefixes != Some(false);
        let slots = limits.addresses.saturating_sub(1);
        let mut interfaces = Vec::new();
        let mut have = 0;
        for eni in on_card.iter().filter(for_pods) {
            let (single, blocks) = (
                count(&eni.addresses).saturating_sub(1),
                count(&eni.prefixes),
            );
            have += single + blocks * PREFIX_SIZE;
            interfaces.push(Interface {
                subnet: eni.subnet.clone(),
                open: slots.saturating_sub(single + blocks),
            });
        }
        let trunk = on_card.iter().find(|e| e.kind == EniKind::Trunk);
        let trunks = variables.pod_eni && limits.trunking == Some(true);
        let reserved = u32::from(trunks && trunk.is_none());
        let most = limits
            .usable_interfaces()
            .min(variables.max_eni.unwrap_or(u32::MAX));
        let branches_max = match variables.pod_eni {
            true => limits.branches.filter(|_| trunks).or(Some(0)),
            false => None,
        };
        let used = trunk.map_or(0, |t| world.branches_of(&t.id).count());
        let used = u32::try_from(used).unwrap_or(u32::MAX);
        let subnets = match (variables.custom_networking, primary) {
            (true, _) => {
                let mut of_others: Vec<_> = interfaces.iter().map(|i| i.subnet.clone()).collect();
                of_others.sort();
                of_others.dedup();
                of_others
            }
            (false, Some(primary)) => pod_subnets(inputs, primary),
            (false, None) => Vec::new(),
        };
        Self {
            have,
            interfaces,
            more: most.saturating_sub(count(&on_card) + reserved),
            subnets,
            slots,
            prefixes,
            falls_back: node.packs,
            kubelet: max_pods(inputs, node).map(|max| max.saturating_sub(count(&node.host_pods))),
            branches: branches_max.map(|max| max.saturating_sub(used)),
            branches_max,
        }
    }

    /// A new node of the same kind: its primary interface and nothing else. `None` when the subnet
    /// has no address for it.
    pub(super) fn fresh(
        &self,
        limits: InstanceLimits,
        variables: &Variables,
        rooms: &mut Rooms,
    ) -> Option<Self> {
        let subnet = self.choose(rooms)?;
        rooms.get_mut(&subnet)?.take_addresses(1);
        let most = limits
            .usable_interfaces()
            .min(variables.max_eni.unwrap_or(u32::MAX));
        let trunk = u32::from(self.branches_max.is_some_and(|n| n > 0));
        let primary = Interface {
            subnet,
            open: self.slots,
        };
        let host_only = variables.custom_networking;
        Some(Self {
            have: 0,
            interfaces: if host_only { Vec::new() } else { vec![primary] },
            more: most.saturating_sub(1 + trunk),
            branches: self.branches_max,
            ..self.clone()
        })
    }

    /// Addresses that it could have if its subnets had enough.
    pub(super) fn addresses_max(&self) -> u32 {
        let open: u32 = self.interfaces.iter().map(|i| i.open).sum();
        let per_slot = if self.prefixes { PREFIX_SIZE } else { 1 };
        self.have + (open + self.more * self.slots) * per_slot
    }

    /// Slots that it may still fill.
    pub(super) fn open_slots(&self) -> u32 {
        let open: u32 = self.interfaces.iter().map(|i| i.open).sum();
        open + self.more * self.slots
    }

    /// Gets one more address, or a `/28` of them: how many came. Nothing comes when the interfaces or
    /// the subnets are full.
    pub(super) fn grow(&mut self, rooms: &mut Rooms) -> u32 {
        for interface in self.interfaces.iter_mut().filter(|i| i.open > 0) {
            let came = take(rooms, &interface.subnet, self.prefixes, self.falls_back);
            if came > 0 {
                interface.open -= 1;
                self.have += came;
                return came;
            }
        }
        if self.more == 0 || self.slots == 0 {
            return 0;
        }
        let Some(subnet) = self.choose(rooms) else {
            return 0;
        };
        // Its own address, and nothing gained if that was the last one.
        let before = rooms.get(&subnet).cloned();
        if let Some(room) = rooms.get_mut(&subnet) {
            room.take_addresses(1);
        }
        let came = take(rooms, &subnet, self.prefixes, self.falls_back);
        match (came, before) {
            (0, Some(room)) => {
                rooms.insert(subnet, room);
            }
            _ => {
                self.more -= 1;
                self.have += came;
                let open = self.slots - 1;
                self.interfaces.push(Interface { subnet, open });
            }
        }
        came
    }

    /// Grows until it has so many, or nothing more comes.
    pub(super) fn grow_to(&mut self, wanted: u32, rooms: &mut Rooms) {
        while self.have < wanted && self.grow(rooms) > 0 {}
    }

    /// The subnet of the next interface: the one with the most room.
    fn choose(&self, rooms: &Rooms) -> Option<SubnetId> {
        let free = |id: &&SubnetId| rooms.get(*id).map_or(0, |r| r.free);
        let best = self.subnets.iter().max_by_key(free)?;
        (free(&best) > 0).then(|| best.clone())
    }

    /// The subnets that it has interfaces in, or may have.
    pub(super) fn all_subnets(&self) -> impl Iterator<Item = &SubnetId> {
        let own = self.interfaces.iter().map(|i| &i.subnet);
        own.chain(&self.subnets)
    }
}

/// Free addresses, subnet by subnet.
pub(super) type Rooms = BTreeMap<SubnetId, Room>;

fn take(rooms: &mut Rooms, subnet: &SubnetId, prefixes: bool, falls_back: bool) -> u32 {
    let Some(room) = rooms.get_mut(subnet) else {
        return 0;
    };
    match prefixes {
        true if room.take_blocks(1) == 1 => PREFIX_SIZE,
        true if !falls_back => 0,
        _ => room.take_addresses(1),
    }
}

/// Where a new interface of the node may be.
fn pod_subnets(inputs: &Inputs, primary: &Eni) -> Vec<SubnetId> {
    let subnets = &inputs.world.subnets;
    let Some(own) = subnets.get(&primary.subnet) else {
        return Vec::new();
    };
    let near = subnets
        .values()
        .filter(|s| s.vpc == own.vpc && s.zone == own.zone);
    // The agent's own rule.
    let cluster = inputs.kubernetes.as_ref().map(|c| c.name.as_str());
    let may = near.filter(|s| {
        let tags = s
            .tags
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        SubnetUse::judge(tags, s.id == own.id, cluster) == SubnetUse::Pods
    });
    may.map(|s| s.id.clone()).collect()
}

/// What the node's kubelet says it takes.
fn max_pods(inputs: &Inputs, node: &Node) -> Option<u32> {
    let name = node.kubernetes.as_deref()?;
    let nodes = &inputs.kubernetes.as_ref()?.nodes;
    let found = nodes.iter().find(|(n, _)| n.name == name)?;
    found.1.max_pods
}

pub(super) fn count<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).unwrap_or(u32::MAX)
}
