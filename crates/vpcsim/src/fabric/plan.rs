//! What the kernel should hold for a [`Desired`]: namespaces, cables, addresses, neighbours, routes, routing rules.
//!
//! The problem: many small decisions (who gets a port, which targets exist, which next hop) that must be made once,
//! without touching the kernel, so that they can be read and tested. Invariant: a plan is a pure function of what is
//! desired; two plans of the same world are equal, and their difference is what has to be done.
//!
//! A router's main table holds the addresses of its VPC and nothing else, and ends in a blackhole. Packets from an
//! interface carry the mark of their subnet's route table and look there first; `local` routes `throw` back to the
//! main table. Packets from a peering or from the internet carry no mark, so they reach addresses of this VPC only:
//! that is why peering is not transitive and has no edge-to-edge routing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use nodenet::{Addr, LinkName, Neighbour, NodeNet, Rule, TableId};
use nodenet::{Route as KernelRoute, Target as KernelTarget};
use vpc::facts::*;
use vpc::routes::NextHop;

use super::mutants::mutated;
use super::names::{self, NEXT_HOP, SERVICES};
use super::{Desired, HostId, NotPlugged, Plug};

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The router of a VPC; the fabric's own.
    Router(VpcId),
    /// A NAT gateway; the fabric's own.
    Nat(NatId),
    /// Everything outside; the fabric's own.
    Internet,
    /// A host; the caller's.
    Host(HostId),
}

impl Place {
    /// The name of the pin below `<dir>/netns`; `None` for hosts, whose namespaces are the caller's.
    pub fn pin(&self) -> Option<&str> {
        match self {
            Self::Router(id) => Some(id.as_str()),
            Self::Nat(id) => Some(id.as_str()),
            Self::Internet => Some("internet"),
            Self::Host(_) => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "host {host}"),
            _ => f.write_str(self.pin().unwrap_or_default()),
        }
    }
}

/// The address that a host's link gets, as DHCP would give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address with the subnet's length.
    pub address: Ipv4Net,
    /// The subnet's router, the next hop of the default route.
    pub router: Ipv4Addr,
}

/// One end of a veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Where it is.
    pub place: Place,
    /// Its name there.
    pub link: LinkName,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Whether it is set up; a secondary interface in an instance is not.
    pub up: bool,
    /// What it is configured with.
    pub lease: Option<Lease>,
}

/// A veth pair. The near end is always in a namespace of the fabric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cable {
    /// The end that is looked after.
    pub near: End,
    /// The other end.
    pub far: End,
    /// MTU of both ends in bytes.
    pub mtu: u32,
}

/// The whole network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Namespaces of the fabric, and what each holds besides cables.
    pub spaces: BTreeMap<Place, NodeNet>,
    /// Cables by near end.
    pub cables: BTreeMap<(Place, LinkName), Cable>,
    /// Interfaces with a port.
    pub plugged: BTreeMap<EniId, (Place, LinkName)>,
    /// Interfaces without, and why.
    pub not_plugged: BTreeMap<EniId, NotPlugged>,
    /// Routes into nothing that is modelled.
    pub dropped: BTreeSet<String>,
    /// Kernel table of each route table.
    pub tables: BTreeMap<RtbId, u32>,
    /// Public addresses and the private ones behind them, per router.
    pub public: BTreeMap<(Place, Ipv4Addr), Ipv4Addr>,
    /// Two interfaces whose ports would have one name.
    pub collisions: Vec<(LinkName, EniId, EniId)>,
}

const EVERYWHERE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
/// After the local table (0), before the main one (32766).
pub(super) const RULE_PRIORITY: u32 = 100;
const MTU_INSIDE: u32 = 9001;
const MTU_OUTSIDE: u32 = 1500;

/// Makes the plan; hosts in `gone` have no namespace to plug anything into.
pub fn plan(desired: &Desired, gone: &BTreeSet<HostId>) -> Plan {
    let world = &desired.world;
    let mut plan = Plan {
        tables: names::tables(world.route_tables.keys()),
        ..Plan::default()
    };
    for vpc in world.vpcs.values() {
        plan.spaces
            .insert(Place::Router(vpc.id.clone()), router_space(world, vpc));
    }
    plan.internet(desired);
    for nat in world.nat_gateways.values() {
        plan.nat_gateway(world, nat);
    }
    for (id, plug) in &desired.plugs {
        if let Err(why) = plan.plug(desired, gone, id, plug) {
            plan.not_plugged.insert(id.clone(), why);
        }
    }
    for peering in world.peerings.values() {
        plan.peering(world, peering);
    }
    for table in world.route_tables.values() {
        plan.route_table(world, table);
    }
    plan
}

/// A router before anything is plugged: its own addresses, and nothing else reachable.
fn router_space(world: &World, vpc: &Vpc) -> NodeNet {
    let own = world.subnets.values().filter(|s| s.vpc == vpc.id);
    let addresses = own.map(|s| names::router_address(s.cidr)).chain(SERVICES);
    NodeNet {
        addrs: addresses.map(local_address).collect(),
        routes: [blackhole(TableId::MAIN, EVERYWHERE)].into(),
        ..NodeNet::default()
    }
}

fn local_address(address: Ipv4Addr) -> Addr {
    Addr::new(LinkName::loopback(), address.into())
}

fn blackhole(table: TableId, destination: Ipv4Net) -> KernelRoute {
    KernelRoute::new(table, destination, KernelTarget::Blackhole)
}

fn through(table: TableId, destination: Ipv4Net, link: LinkName) -> KernelRoute {
    KernelRoute::via(table, destination, NEXT_HOP, link).onlink()
}

impl Plan {
    fn space(&mut self, place: &Place) -> &mut NodeNet {
        self.spaces.entry(place.clone()).or_default()
    }

    /// Lays a cable; the fabric's ends reach the other by one permanent neighbour.
    fn cable(&mut self, near: End, far: End, mtu: u32) {
        for (end, other) in [(&near, &far), (&far, &near)] {
            if end.lease.is_none() && end.place.pin().is_some() {
                let mac = nodenet::Mac(other.mac.0);
                let neighbour = Neighbour {
                    link: end.link.clone(),
                    addr: NEXT_HOP,
                    mac,
                };
                self.space(&end.place).neighbours.insert(neighbour);
            }
        }
        let key = (near.place.clone(), near.link.clone());
        self.cables.insert(key, Cable { near, far, mtu });
    }

    fn internet(&mut self, desired: &Desired) {
        let world = &desired.world;
        let gateways = world.internet_gateways.values();
        let vpcs: BTreeSet<&VpcId> = gateways
            .filter_map(|gateway| gateway.vpc.as_ref())
            .filter(|vpc| world.vpcs.contains_key(vpc))
            .collect();
        if vpcs.is_empty() && desired.internet.is_empty() {
            return;
        }
        let internet = self.space(&Place::Internet);
        internet.routes.insert(blackhole(TableId::MAIN, EVERYWHERE));
        internet
            .addrs
            .extend(desired.internet.iter().copied().map(local_address));
        for vpc in vpcs {
            let (router, link) = (Place::Router(vpc.clone()), names::uplink(vpc));
            let inside = own_end(router.clone(), names::igw());
            let outside = own_end(Place::Internet, link.clone());
            self.cable(inside, outside, MTU_OUTSIDE);
            for eni in world.enis.values().filter(|eni| &eni.vpc == vpc) {
                for (private, public) in public_addresses(eni) {
                    let route = through(TableId::MAIN, public.into(), link.clone());
                    self.space(&Place::Internet).routes.insert(route);
                    self.public.insert((router.clone(), public), private);
                }
            }
        }
    }

    fn nat_gateway(&mut self, world: &World, nat: &NatGateway) {
        let Some(address) = nat.addresses.first() else {
            return;
        };
        if nat.state != NatState::Available {
            return;
        }
        let place = Place::Nat(nat.id.clone());
        let (Some(eni), Some(subnet)) =
            (world.enis.get(&address.eni), world.subnets.get(&nat.subnet))
        else {
            self.not_plugged
                .insert(address.eni.clone(), NotPlugged::UnknownSubnet);
            return;
        };
        self.space(&place);
        let far = End {
            place,
            link: names::eth0(),
            mac: eni.mac,
            up: true,
            lease: Some(Lease {
                address: with_length(address.private, subnet.cidr),
                router: names::router_address(subnet.cidr),
            }),
        };
        self.port(eni, far, MTU_INSIDE);
    }

    fn plug(
        &mut self,
        desired: &Desired,
        gone: &BTreeSet<HostId>,
        id: &EniId,
        plug: &Plug,
    ) -> Result<(), NotPlugged> {
        let world = &desired.world;
        let eni = world.enis.get(id).ok_or(NotPlugged::UnknownInterface)?;
        if eni.kind == EniKind::Branch || eni.trunk.is_some() {
            let trunk = eni
                .trunk
                .as_ref()
                .map(|association| association.trunk.clone());
            return Err(NotPlugged::Branch { trunk });
        }
        let subnet = world
            .subnets
            .get(&eni.subnet)
            .ok_or(NotPlugged::UnknownSubnet)?;
        if !world.vpcs.contains_key(&eni.vpc) {
            return Err(NotPlugged::UnknownSubnet);
        }
        match desired.hosts.get(&plug.host) {
            None => return Err(NotPlugged::UnknownHost(plug.host.clone())),
            Some(path) if gone.contains(&plug.host) => {
                return Err(NotPlugged::HostGone {
                    host: plug.host.clone(),
                    path: path.clone(),
                });
            }
            Some(_) => {}
        }
        let lease = eni
            .primary()
            .filter(|_| plug.configure)
            .map(|address| Lease {
                address: with_length(address, subnet.cidr),
                router: names::router_address(subnet.cidr),
            });
        let far = End {
            place: Place::Host(plug.host.clone()),
            link: plug.link.clone(),
            mac: plug.mac,
            up: plug.configure,
            lease,
        };
        self.port(eni, far, plug.mtu);
        Ok(())
    }

    /// The router's side of an interface.
    fn port(&mut self, eni: &Eni, far: End, mtu: u32) {
        let place = Place::Router(eni.vpc.clone());
        let link = names::port(&eni.id);
        let key = (place.clone(), link.clone());
        if self.cables.contains_key(&key) {
            self.collisions
                .extend(self.holder(&key).map(|other| (link, other, eni.id.clone())));
            return;
        }
        self.cable(own_end(place.clone(), link.clone()), far, mtu);
        for network in eni.networks() {
            let route = through(TableId::MAIN, network, link.clone());
            self.space(&place).routes.insert(route);
        }
        self.plugged.insert(eni.id.clone(), key);
    }

    fn holder(&self, port: &(Place, LinkName)) -> Option<EniId> {
        self.plugged
            .iter()
            .find(|(_, at)| *at == port)
            .map(|(id, _)| id.clone())
    }

    fn peering(&mut self, world: &World, peering: &Peering) {
        let sides = [&peering.requester.vpc, &peering.accepter.vpc];
        let known = sides.iter().all(|vpc| world.vpcs.contains_key(vpc));
        if peering.status != PeeringStatus::Active || !known {
            return;
        }
        let [near, far] =
            sides.map(|vpc| own_end(Place::Router(vpc.clone()), names::peering(&peering.id)));
        self.cable(near, far, MTU_INSIDE);
    }

    fn route_table(&mut self, world: &World, table: &RouteTable) {
        let place = Place::Router(table.vpc.clone());
        if !self.spaces.contains_key(&place) {
            return;
        }
        let number = TableId(self.tables[&table.id]);
        let mut routes = BTreeSet::new();
        let next = vpc::routes::next_hops(world, table);
        if let Some(need) = &next.unknown {
            // An unknown list may be more specific than any route.
            self.dropped
                .insert(format!("{}: all that is not local: {need}", table.id));
        }
        for hop in &next.hops {
            if mutated!(BlackholeOmitted) && hop.state == RouteState::Blackhole {
                continue;
            }
            let mut target = self.target(world, table, hop);
            if next.unknown.is_some() && hop.target != Target::Local {
                target = KernelTarget::Blackhole;
            }
            if target == KernelTarget::Blackhole && hop.state == RouteState::Active {
                self.dropped
                    .insert(format!("{}: {}", table.id, hop.source.text));
            }
            routes.insert(KernelRoute::new(number, hop.net, target));
        }
        let space = self.space(&place);
        space
            .rules
            .insert(Rule::lookup(RULE_PRIORITY, number).mark(number.0, names::TABLE_MASK));
        space.routes.extend(routes);
    }

    fn target(&self, world: &World, table: &RouteTable, route: &NextHop) -> KernelTarget {
        if route.state == RouteState::Blackhole {
            return KernelTarget::Blackhole;
        }
        let router = Place::Router(table.vpc.clone());
        let link = match &route.target {
            Target::Local => return KernelTarget::Throw,
            Target::Igw(id) => {
                let here = world
                    .internet_gateways
                    .get(id)
                    .and_then(|gateway| gateway.vpc.as_ref());
                here.filter(|vpc| **vpc == table.vpc).map(|_| names::igw())
            }
            Target::Nat(id) => {
                let nat = world.nat_gateways.get(id);
                let eni = nat
                    .and_then(|nat| nat.addresses.first())
                    .map(|address| &address.eni);
                let port = eni.and_then(|eni| self.plugged.get(eni));
                port.filter(|(place, _)| *place == router)
                    .map(|(_, link)| link.clone())
            }
            Target::Pcx(id) => self.has_link(&router, names::peering(id)),
            Target::Eni(_) | Target::Instance(_) | Target::Unmodelled { .. } => None,
        };
        link.map_or(KernelTarget::Blackhole, |link| KernelTarget::Unicast {
            link,
            via: Some(NEXT_HOP),
            onlink: true,
        })
    }

    fn has_link(&self, place: &Place, link: LinkName) -> Option<LinkName> {
        let space = self.spaces.get(place)?;
        space
            .neighbours
            .iter()
            .any(|neighbour| neighbour.link == link)
            .then_some(link)
    }
}

/// An end in a namespace of the fabric.
fn own_end(place: Place, link: LinkName) -> End {
    let mac = names::mac(place.pin().unwrap_or_default(), link.as_str());
    End {
        place,
        link,
        mac,
        up: true,
        lease: None,
    }
}

fn with_length(address: Ipv4Addr, subnet: Ipv4Net) -> Ipv4Net {
    Ipv4Net::new_assert(address, subnet.prefix_len())
}

/// Private and public address of each association of an interface.
pub fn public_addresses(eni: &Eni) -> impl Iterator<Item = (Ipv4Addr, Ipv4Addr)> + '_ {
    let pair = |a: &EniAddress| a.public.as_ref().map(|public| (a.address, public.address));
    eni.addresses.iter().filter_map(pair)
}
