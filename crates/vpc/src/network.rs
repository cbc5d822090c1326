//! A world, indexed and compiled: what the walk looks up at every step, and what the lab renders.
//!
//! Layers are compiled on first use, one per distinct list of groups and one per ACL, so that a
//! question about one pod does not pay for a thousand interfaces.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::OnceLock;

use flowset::{FlowSet, RangeSet};
use ipnet::Ipv4Net;
use layers::{Sets, mutated};

use crate::facts::*;
use crate::layers::{AclLayers, GroupLayers, acl_layers, group_layers, sets};
use crate::need::Need;
use crate::routes::{NextHops, next_hops};

/// An indexed world. Cheap to make, meant to answer many questions.
#[derive(Debug)]
pub struct Network<'w> {
    world: &'w World,
    sets: Sets,
    groups: BTreeMap<&'w BTreeSet<SgId>, OnceLock<Result<GroupLayers, Need>>>,
    acls: BTreeMap<&'w AclId, OnceLock<AclLayers>>,
    tables: BTreeMap<&'w RtbId, OnceLock<NextHops>>,
    acl_of: BTreeMap<&'w SubnetId, &'w NetworkAcl>,
    owners: BTreeMap<&'w VpcId, Vec<Owned<'w>>>,
    public: BTreeMap<Ipv4Addr, PublicHost<'w>>,
}

/// A network owned by an interface.
#[derive(Debug, Clone, Copy)]
struct Owned<'w> {
    first: u32,
    last: u32,
    eni: &'w Eni,
}

/// The destinations that an interface owns.
type Hit<'w> = (&'w Eni, Vec<(u32, u32)>);

/// The private side of a public address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PublicHost<'w> {
    pub(crate) eni: &'w Eni,
    pub(crate) private: Ipv4Addr,
    pub(crate) public: Ipv4Addr,
}

impl<'w> Network<'w> {
    /// Indexes a world.
    pub fn new(world: &'w World) -> Self {
        let acl_of = |a: &'w NetworkAcl| a.subnets.iter().map(move |s| (s, a));
        Network {
            world,
            sets: sets(world),
            groups: world
                .enis
                .values()
                .map(|e| (&e.groups, OnceLock::new()))
                .collect(),
            acls: world.acls.keys().map(|id| (id, OnceLock::new())).collect(),
            tables: world
                .route_tables
                .keys()
                .map(|id| (id, OnceLock::new()))
                .collect(),
            acl_of: world.acls.values().flat_map(acl_of).collect(),
            owners: owners(world),
            public: nat_hosts(world)
                .chain(world.enis.values().flat_map(public_hosts))
                .map(|h| (h.public, h))
                .collect(),
        }
    }

    /// The facts.
    pub fn world(&self) -> &'w World {
        self.world
    }

    /// The sets that group layers refer to.
    pub fn sets(&self) -> &Sets {
        &self.sets
    }

    /// The layers of the groups of an interface; `Ok(None)` for one of a NAT gateway, which has
    /// none and lets everything pass.
    ///
    /// # Errors
    /// [`Need`] names the group that could not be read.
    pub fn group_layers(&self, eni: &Eni) -> Result<Option<&GroupLayers>, Need> {
        if eni.kind == EniKind::NatGateway {
            return Ok(None);
        }
        let cell = self.groups.get(&eni.groups);
        let cell = cell.ok_or_else(|| self.world.need(Kind::Enis, &eni.id))?;
        let compiled = cell.get_or_init(|| group_layers(self.world, &eni.groups));
        compiled.as_ref().map(Some).map_err(Clone::clone)
    }

    /// The layers of the ACL that guards a subnet.
    ///
    /// # Errors
    /// [`Need`] when the subnet's ACL could not be read.
    pub fn acl_layers(&self, subnet: &SubnetId) -> Result<&AclLayers, Need> {
        let missing = || {
            self.world
                .need(Kind::Acls, format!("the network ACL of {subnet}"))
        };
        let acl = self.acl_of.get(subnet).ok_or_else(missing)?;
        let cell = self.acls.get(&acl.id).ok_or_else(missing)?;
        Ok(cell.get_or_init(|| acl_layers(acl)))
    }

    /// The next hops of the route table that a subnet uses.
    ///
    /// # Errors
    /// [`Need`] when the subnet or its table could not be read.
    pub fn next_hops(&self, subnet: &SubnetId) -> Result<&NextHops, Need> {
        let subnet = self.subnet(subnet)?;
        let missing = || {
            self.world.need(
                Kind::RouteTables,
                format!("the route table of {}", subnet.id),
            )
        };
        let table = self.world.route_table_of(subnet).ok_or_else(missing)?;
        let cell = self.tables.get(&table.id).ok_or_else(missing)?;
        Ok(cell.get_or_init(|| next_hops(self.world, table)))
    }

    pub(crate) fn subnet(&self, id: &SubnetId) -> Result<&'w Subnet, Need> {
        self.world
            .subnets
            .get(id)
            .ok_or_else(|| self.world.need(Kind::Subnets, id))
    }

    pub(crate) fn vpc(&self, id: &VpcId) -> Result<&'w Vpc, Need> {
        self.world
            .vpcs
            .get(id)
            .ok_or_else(|| self.world.need(Kind::Vpcs, id))
    }

    pub(crate) fn eni(&self, id: &EniId) -> Result<&'w Eni, Need> {
        self.world
            .enis
            .get(id)
            .ok_or_else(|| self.world.need(Kind::Enis, id))
    }

    /// The interface that owns an address of a VPC.
    pub fn owner(&self, vpc: &VpcId, address: Ipv4Addr) -> Option<&'w Eni> {
        let owned = self.owners.get(vpc)?;
        let address = u32::from(address);
        let at = owned.partition_point(|o| o.last < address);
        owned.get(at).filter(|o| o.first <= address).map(|o| o.eni)
    }

    /// Splits packets by the interface of a VPC that owns their destination; the second value is
    /// what nobody owns.
    pub(crate) fn by_owner(
        &self,
        vpc: &VpcId,
        flows: &FlowSet,
    ) -> (Vec<(FlowSet, &'w Eni)>, FlowSet) {
        let mut hits: BTreeMap<&EniId, Hit<'w>> = BTreeMap::new();
        let owned = self.owners.get(vpc).map_or(&[][..], Vec::as_slice);
        let wanted = flows.destinations();
        for &(first, last) in wanted.ranges() {
            let from = owned.partition_point(|o| o.last < first);
            for o in owned[from..].iter().take_while(|o| o.first <= last) {
                let range = (o.first.max(first), o.last.min(last));
                hits.entry(&o.eni.id)
                    .or_insert((o.eni, Vec::new()))
                    .1
                    .push(range);
            }
        }
        let mut unowned = wanted;
        let mut parts = Vec::with_capacity(hits.len());
        for (eni, ranges) in hits.into_values() {
            let mine: RangeSet<u32> = ranges.into_iter().collect();
            parts.push((flows.to_destinations(&mine), eni));
            unowned = unowned.difference(&mine);
        }
        (parts, flows.to_destinations(&unowned))
    }

    /// The addresses of a VPC that an internet gateway exchanges for public ones.
    pub(crate) fn public_of(&self, vpc: &VpcId) -> impl Iterator<Item = PublicHost<'w>> {
        self.public
            .values()
            .copied()
            .filter(move |h| h.eni.vpc == *vpc)
    }

    /// All public addresses of the world.
    pub(crate) fn public(&self) -> impl Iterator<Item = PublicHost<'w>> {
        self.public.values().copied()
    }

    /// The addresses a subnet's hosts reach without a router.
    pub(crate) fn subnet_range(subnet: &Subnet) -> RangeSet<u32> {
        subnet.cidr.into()
    }
}

fn owners(world: &World) -> BTreeMap<&VpcId, Vec<Owned<'_>>> {
    let mut owners: BTreeMap<&VpcId, Vec<Owned<'_>>> = BTreeMap::new();
    for eni in world.enis.values() {
        let of = owners.entry(&eni.vpc).or_default();
        let owned = |n: Ipv4Net| Owned {
            first: n.network().into(),
            last: n.broadcast().into(),
            eni,
        };
        of.extend(owned_networks(eni).map(owned));
    }
    for of in owners.values_mut() {
        of.sort_by_key(|o| o.first);
    }
    owners
}

/// The networks that count as an interface's own.
pub(crate) fn owned_networks(eni: &Eni) -> impl Iterator<Item = Ipv4Net> + '_ {
    eni.networks()
        .filter(|n| n.prefix_len() == 32 || !mutated!(PrefixesNotOwned))
}

fn public_hosts(eni: &Eni) -> impl Iterator<Item = PublicHost<'_>> {
    let host = move |a: &EniAddress| {
        let public = a.public.as_ref()?.address;
        Some(PublicHost {
            eni,
            private: a.address,
            public,
        })
    };
    eni.addresses.iter().filter_map(host)
}

/// The public addresses of NAT gateways, for worlds in which their interfaces do not show them.
fn nat_hosts(world: &World) -> impl Iterator<Item = PublicHost<'_>> {
    let host = |a: &NatAddress| {
        let eni = world.enis.get(&a.eni)?;
        Some(PublicHost {
            eni,
            private: a.private,
            public: a.public?,
        })
    };
    world
        .nat_gateways
        .values()
        .flat_map(|n| &n.addresses)
        .filter_map(host)
}
