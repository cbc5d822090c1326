//! Targets of routes beyond the VPC: internet gateways, NAT gateways, peerings.

use flowset::{FlowSet, RangeSet};
use layers::mutated;

use super::Walker;
use super::state::{Crossing, Walk};
use crate::facts::*;
use crate::need::Need;
use crate::network::PublicHost;
use crate::path::{DropReason, Endpoint, Leg, Stage};

impl<'w> Walker<'_, 'w> {
    /// Packets from the internet: only public addresses lead into a VPC.
    pub(super) fn enter_from_outside(&mut self, w: Walk) {
        if let Some(w) = self.enter_vpcs(w) {
            self.drop(w, DropReason::NoSuchAddress, "the internet");
        }
    }

    /// A NAT gateway as the target of a route.
    pub(super) fn nat(&mut self, w: Walk, subnet: &Subnet, id: &NatId) {
        if w.leg == Leg::Reply {
            return self.drop(w, DropReason::ReplyElsewhere, id);
        }
        let world = self.net.world();
        let Some(nat) = world.nat_gateways.get(id) else {
            return self.unknown(w, world.need(Kind::NatGateways, id));
        };
        if nat.state != NatState::Available {
            return self.drop(w, DropReason::Blackhole, id);
        }
        if nat.subnet == subnet.id {
            return self.drop(w, DropReason::NatOwnSubnet, id);
        }
        let into = match self.net.subnet(&nat.subnet) {
            Ok(into) => into,
            Err(need) => return self.unknown(w, need),
        };
        let carried: RangeSet<u8> = [flowset::TCP, flowset::UDP, flowset::ICMP]
            .iter()
            .map(|p| (*p, *p))
            .collect();
        for w in self.acl(w, &into.id, Direction::Ingress) {
            if let Some(w) = w.narrow(w.now.of_protocols(&carried.complement())) {
                self.drop(w, DropReason::NatProtocol, id);
            }
            if let Some(w) = w.narrow(w.now.of_protocols(&carried)) {
                self.depart(w.hop(Stage::NatGateway, id).through_nat(nat), into);
            }
        }
    }

    /// A peering connection as the target of a route.
    pub(super) fn peering(&mut self, w: Walk, from: &VpcId, id: &PcxId) {
        let world = self.net.world();
        let Some(peering) = world.peerings.get(id) else {
            return self.unknown(w, world.need(Kind::Peerings, id));
        };
        if peering.status != PeeringStatus::Active {
            return self.drop(w, DropReason::PeeringInactive, id);
        }
        let Some(far) = peering.other_side(from) else {
            return self.drop(w, DropReason::Blackhole, id);
        };
        let near = match self.net.vpc(from) {
            Ok(vpc) => vpc.cidrs.iter().copied().collect::<RangeSet<u32>>(),
            Err(need) => return self.unknown(w, need),
        };
        let there = ranges(world, far);
        let through = w.now.from_sources(&near).to_destinations(&there);
        if let Some(w) = w.narrow(w.now.difference(&through)) {
            if mutated!(PeeringTransitive) {
                self.anywhere(w);
            } else {
                self.drop(w, DropReason::PeeringNotTransitive, id);
            }
        }
        let Some(w) = w.narrow(through) else { return };
        let w = w.hop(Stage::Peering, id);
        match world.vpcs.get(&far.vpc) {
            Some(vpc) => self.local(w, &vpc.id, true),
            None => self.unknown(w, world.need(Kind::Vpcs, &far.vpc)),
        }
    }

    /// An internet gateway as the target of a route.
    pub(super) fn igw_out(&mut self, mut w: Walk, vpc: &VpcId, id: &IgwId) {
        let world = self.net.world();
        let Some(igw) = world.internet_gateways.get(id) else {
            return self.unknown(w, world.need(Kind::InternetGateways, id));
        };
        if igw.vpc.as_ref() != Some(vpc) {
            return self.drop(w, DropReason::Blackhole, id);
        }
        if let Some(need) = self.edge_table(id) {
            return self.unknown(w, need);
        }
        if w.leg == Leg::Reply {
            return match w.crossings.pop() {
                Some(Crossing::IgwIn { vpc: entered, past }) if entered == *vpc => {
                    let blur = |answers: &FlowSet| answers.with_sources(&RangeSet::full());
                    if let Some(w) = w.undo(&past, blur) {
                        self.answer_on_internet(w.hop(Stage::InternetGateway, id));
                    }
                }
                Some(_) | None => self.drop(w, DropReason::ReplyElsewhere, id),
            };
        }
        let mut served = RangeSet::empty();
        for host in self.net.public_of(vpc) {
            let own = host.private.into();
            served = served.union(&own);
            if let Some(w) = w.narrow(w.now.from_sources(&own)) {
                let w = w.hop(Stage::InternetGateway, id);
                self.on_internet(w.through_igw_out(vpc, host.private, host.public), id);
            }
        }
        if let Some(w) = w.narrow(w.now.from_sources(&served.complement())) {
            self.drop(w, DropReason::NoPublicAddress, id);
        }
    }

    /// Packets on the internet: to public addresses of VPCs, else to whoever is there.
    fn on_internet(&mut self, w: Walk, igw: &IgwId) {
        let Some(w) = self.enter_vpcs(w) else { return };
        let private = unroutable();
        if let Some(w) = w.narrow(w.now.to_destinations(&private)) {
            self.drop(w, DropReason::NoRoute, igw);
        }
        if let Some(mut w) = w.narrow(w.now.to_destinations(&private.complement())) {
            w.to = Some(Endpoint::Internet(igw.clone()));
            if let Some(answer) = self.answer(w) {
                self.answer_on_internet(answer);
            }
        }
    }

    /// Takes what is addressed to public addresses into their VPCs; returns the rest.
    fn enter_vpcs(&mut self, w: Walk) -> Option<Walk> {
        let mut known = RangeSet::empty();
        for host in self.net.public() {
            let public = host.public.into();
            known = known.union(&public);
            if let Some(w) = w.narrow(w.now.to_destinations(&public)) {
                self.igw_in(w, host);
            }
        }
        w.narrow(w.now.to_destinations(&known.complement()))
    }

    fn igw_in(&mut self, w: Walk, host: PublicHost<'w>) {
        let world = self.net.world();
        let vpc = &host.eni.vpc;
        let attached = world
            .internet_gateways
            .values()
            .find(|g| g.vpc.as_ref() == Some(vpc));
        let Some(igw) = attached else {
            if world.unread(Kind::InternetGateways).is_some() {
                let what = format!("the internet gateway of {vpc}");
                return self.unknown(w, world.need(Kind::InternetGateways, what));
            }
            return self.drop(w, DropReason::NoRoute, vpc);
        };
        if let Some(need) = self.edge_table(&igw.id) {
            return self.unknown(w, need);
        }
        let w = w.hop(Stage::InternetGateway, &igw.id);
        self.local(w.through_igw_in(vpc, host.private, host.public), vpc, true);
    }

    /// Answers on the internet: back through the gateway the packets left by.
    fn answer_on_internet(&mut self, mut w: Walk) {
        match w.crossings.pop() {
            Some(Crossing::IgwOut { vpc, past }) => {
                let blur = |answers: &FlowSet| answers.with_destinations(&RangeSet::full());
                if let Some(w) = w.undo(&past, blur) {
                    self.local(w.hop(Stage::InternetGateway, &vpc), &vpc, true);
                }
            }
            None if self.origin.is_none() => self.delivered(w),
            Some(_) | None => self.drop(w, DropReason::ReplyElsewhere, "the internet"),
        }
    }

    /// A route table associated with a gateway steers what comes in: not modelled.
    fn edge_table(&self, igw: &IgwId) -> Option<Need> {
        let tables = &self.net.world().route_tables;
        let table = tables.values().find(|t| t.edges.contains(igw.as_str()))?;
        Some(Need::Unmodelled {
            kind: format!("route table of {igw}"),
            id: table.id.to_string(),
        })
    }
}

/// The ranges of one side of a peering: those of the VPC if it was read, else as the peering says.
fn ranges(world: &World, side: &PeeringSide) -> RangeSet<u32> {
    let cidrs = world.vpcs.get(&side.vpc).map_or(&side.cidrs, |v| &v.cidrs);
    cidrs.iter().copied().collect()
}

/// Addresses that the internet does not route (RFC 1918, RFC 6598).
fn unroutable() -> RangeSet<u32> {
    let net = |a, b, len| {
        let net = ipnet::Ipv4Net::new(std::net::Ipv4Addr::new(a, b, 0, 0), len);
        net.expect("the constant lengths are at most 32")
    };
    [
        net(10, 0, 8),
        net(172, 16, 12),
        net(192, 168, 16),
        net(100, 64, 10),
    ]
    .into_iter()
    .collect()
}
