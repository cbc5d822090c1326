//! The walk of a set of packets through the VPC, stage by stage.
//!
//! Order for a packet from interface A to interface B (VPC user guide): source check at A, egress
//! groups of A, and if it leaves A's subnet: ACL out of A's subnet, route table of A's subnet, the
//! route's target, ACL into B's subnet; then ingress groups of B and destination check at B. Groups
//! remember what they allowed; ACLs and routes do not, so the answer is walked through those of the
//! way back.
//!
//! Each stage splits the set; each piece walks on alone ([`state::Walk`]), so that at the end the
//! pieces are a partition of what was sent. Address translation is undone on the way back from a
//! stack of [`state::Crossing`]s, and a piece found after a translation is traced back to what was
//! sent by the stack of [`state::Lift`]s.

mod gateways;
mod settle;
mod state;

use flowset::{FlowSet, RangeSet};
use layers::{Decided, Layer, eval, mutated};

use crate::facts::*;
use crate::layers::default_provenance;
use crate::need::Need;
use crate::network::{Network, owned_networks};
use crate::path::{DropReason, Endpoint, Leg, Origin, Outcome, Permit, Stage, Trace};
use crate::routes::{NextHop, Way};
use state::{Crossing, Finished, Walk};

/// More decisions than any loop-free way has.
const MAX_HOPS: usize = 128;

/// Walks packets from an origin; `established` are the permits of connections open already.
pub(crate) fn walk(
    net: &Network<'_>,
    from: &Origin,
    flows: &FlowSet,
    established: Option<(Permit, Permit)>,
) -> Trace {
    let mut walker = Walker {
        net,
        origin: None,
        established,
        done: Vec::new(),
    };
    if let Some(w) = Walk::new(flows) {
        match from {
            Origin::Eni(id) => match net.eni(id) {
                Ok(eni) => walker.start(w, eni),
                Err(need) => walker.unknown(w, need),
            },
            Origin::Outside => walker.enter_from_outside(w),
        }
    }
    Trace {
        parts: settle::settle(walker.done),
    }
}

pub(crate) struct Walker<'n, 'w> {
    net: &'n Network<'w>,
    /// The sending interface; `None` for the internet.
    origin: Option<&'w Eni>,
    established: Option<(Permit, Permit)>,
    done: Vec<Finished>,
}

impl<'w> Walker<'_, 'w> {
    fn start(&mut self, w: Walk, eni: &'w Eni) {
        self.origin = Some(eni);
        if !eni.is_attached() {
            return self.drop(w, DropReason::NotAttached, &eni.id);
        }
        let own: RangeSet<u32> = owned_networks(eni).collect();
        let mut w = w;
        if eni.source_dest_check && !mutated!(SourceCheckSkipped) {
            if let Some(foreign) = w.narrow(w.now.from_sources(&own.complement())) {
                self.drop(
                    foreign.hop(Stage::SourceCheck, &eni.id),
                    DropReason::SourceCheck,
                    &eni.id,
                );
            }
            let Some(rest) = w.narrow(w.now.from_sources(&own)) else {
                return;
            };
            w = rest;
        }
        let w = w.hop(Stage::SourceCheck, &eni.id);
        let Some(w) = self.services(w, eni) else {
            return;
        };
        let subnet = match self.net.subnet(&eni.subnet) {
            Ok(subnet) => subnet,
            Err(need) => return self.unknown(w, need),
        };
        for w in self.groups(w, eni, Direction::Egress) {
            self.depart(w, subnet);
        }
    }

    /// Takes out what goes to the services that a VPC offers to every interface, whatever its
    /// groups and ACLs (VPC user guide, "Security"); returns the rest.
    fn services(&mut self, w: Walk, eni: &Eni) -> Option<Walk> {
        let mut rest = w.now.clone();
        for (name, flows) in services(self.net.world().vpcs.get(&eni.vpc)) {
            let hit = rest.intersect(&flows);
            if let Some(mut w) = w.narrow(hit.clone()) {
                rest = rest.difference(&hit);
                w.to = Some(Endpoint::Service(name));
                let w = w.hop(Stage::Service, name);
                self.delivered(w);
            }
        }
        for (net, reason) in never_routed() {
            let hit = rest.to_destinations(&net);
            if let Some(w) = w.narrow(hit) {
                rest = rest.to_destinations(&net.complement());
                self.drop(w, reason, &eni.subnet);
            }
        }
        w.narrow(rest)
    }

    /// A packet leaves an interface in a subnet.
    fn depart(&mut self, w: Walk, subnet: &'w Subnet) {
        if w.hops.len() > MAX_HOPS {
            return self.drop(w, DropReason::Loop, &subnet.id);
        }
        let near = Network::subnet_range(subnet);
        if let Some(near) = w.narrow(w.now.to_destinations(&near)) {
            if mutated!(AclInsideSubnet) {
                for w in self.acl(near, &subnet.id, Direction::Egress) {
                    self.local(w, &subnet.vpc, true);
                }
            } else {
                self.local(near, &subnet.vpc, false);
            }
        }
        if let Some(far) = w.narrow(w.now.to_destinations(&near.complement())) {
            for w in self.acl(far, &subnet.id, Direction::Egress) {
                self.route(w, subnet);
            }
        }
    }

    fn route(&mut self, w: Walk, subnet: &'w Subnet) {
        let net = self.net;
        let hops = match net.next_hops(&subnet.id) {
            Ok(hops) => hops,
            Err(need) => return self.unknown(w, need),
        };
        for (flows, way) in hops.split(&w.now) {
            let Some(w) = w.narrow(flows) else { continue };
            match way {
                Way::NoRoute => self.drop(w, DropReason::NoRoute, &hops.table),
                Way::Unknown(need) => self.unknown(w, need.clone()),
                Way::Hop(hop) => {
                    let w = w.decided(Stage::Route, &hops.table, Some(hop.source.clone()));
                    self.target(w, subnet, hop);
                }
            }
        }
    }

    fn target(&mut self, w: Walk, subnet: &'w Subnet, hop: &NextHop) {
        if hop.state == RouteState::Blackhole {
            if mutated!(BlackholeIgnored) {
                return self.anywhere(w);
            }
            return self.drop(w, DropReason::Blackhole, &hop.target);
        }
        match &hop.target {
            Target::Local => self.local(w, &subnet.vpc, true),
            Target::Igw(id) => self.igw_out(w, &subnet.vpc, id),
            Target::Nat(id) => self.nat(w, subnet, id),
            Target::Pcx(id) => self.peering(w, &subnet.vpc, id),
            Target::Eni(id) => match self.net.eni(id) {
                Ok(eni) => self.handed(w, subnet, eni),
                Err(need) => self.unknown(w, need),
            },
            Target::Instance(id) => match self.net.world().enis_of(id).first() {
                Some(eni) => self.handed(w, subnet, eni),
                None => self.unknown(w, self.net.world().need(Kind::Enis, id)),
            },
            Target::Unmodelled { kind, id } => {
                let (kind, id) = (kind.clone(), id.clone());
                self.unknown(w, Need::Unmodelled { kind, id });
            }
        }
    }

    /// Delivery inside a VPC to whoever owns the destination. `crossed`: from another subnet.
    fn local(&mut self, w: Walk, vpc: &VpcId, crossed: bool) {
        let (owned, nobody) = self.net.by_owner(vpc, &w.now);
        for (flows, eni) in owned {
            if let Some(w) = w.narrow(flows) {
                self.arrive(w, eni, crossed);
            }
        }
        if let Some(w) = w.narrow(nobody) {
            if self.net.world().unread(Kind::Enis).is_some() {
                let what = format!("the owner of {}", w.now.destinations());
                return self.unknown(w, self.net.world().need(Kind::Enis, what));
            }
            self.drop(w, DropReason::NoSuchAddress, vpc);
        }
    }

    /// Only for mutants: delivery wherever the destination exists.
    fn anywhere(&mut self, w: Walk) {
        for vpc in self.net.world().vpcs.values() {
            let inside: RangeSet<u32> = vpc.cidrs.iter().copied().collect();
            if let Some(w) = w.narrow(w.now.to_destinations(&inside)) {
                self.local(w, &vpc.id, true);
            }
        }
    }

    fn arrive(&mut self, w: Walk, eni: &'w Eni, crossed: bool) {
        if !eni.is_attached() {
            return self.drop(w, DropReason::NotAttached, &eni.id);
        }
        for w in self.enter(w, eni, crossed) {
            match w.leg {
                Leg::Forward => self.arrive_forward(w, eni),
                Leg::Reply => self.arrive_reply(w, eni),
            }
        }
    }

    /// The ACL of an interface's subnet, for packets from outside the subnet.
    fn enter(&mut self, w: Walk, eni: &Eni, crossed: bool) -> Vec<Walk> {
        if crossed {
            self.acl(w, &eni.subnet, Direction::Ingress)
        } else {
            vec![w]
        }
    }

    fn arrive_forward(&mut self, w: Walk, eni: &'w Eni) {
        if eni.kind == EniKind::NatGateway {
            return self.drop(w, DropReason::NatUnsolicited, &eni.id);
        }
        let subnet = match self.net.subnet(&eni.subnet) {
            Ok(subnet) => subnet,
            Err(need) => return self.unknown(w, need),
        };
        for mut w in self.groups(w, eni, Direction::Ingress) {
            w.to = Some(Endpoint::Eni(eni.id.clone()));
            let w = w.hop(Stage::DestinationCheck, &eni.id);
            if let Some(answer) = self.answer(w) {
                self.depart(answer, subnet);
            }
        }
    }

    /// At the far end: what expects no answer is delivered, the answers to the rest set out.
    fn answer(&mut self, mut w: Walk) -> Option<Walk> {
        w.arrives = Some(w.now.clone());
        let queries = w.now.expecting_reply();
        if let Some(w) = w.narrow(w.now.difference(&queries)) {
            self.delivered(w);
        }
        w.narrow(queries).map(Walk::turn)
    }

    fn arrive_reply(&mut self, mut w: Walk, eni: &'w Eni) {
        match w.crossings.pop() {
            Some(Crossing::Nat { subnet, enis, past }) if enis.contains(&eni.id) => {
                let w = w.undo(&past, |answers| {
                    let any = answers.with_destinations(&RangeSet::full());
                    any.with_destination_ports(&RangeSet::full())
                });
                let Some(w) = w else { return };
                match self.net.subnet(&subnet) {
                    Ok(subnet) => self.depart(w.hop(Stage::NatGateway, &eni.id), subnet),
                    Err(need) => self.unknown(w, need),
                }
            }
            None if self.origin.is_some_and(|origin| origin.id == eni.id) => self.delivered(w),
            Some(_) | None => self.drop(w, DropReason::ReplyElsewhere, &eni.id),
        }
    }

    /// A route hands packets to an interface that need not own their destination.
    fn handed(&mut self, w: Walk, subnet: &Subnet, eni: &'w Eni) {
        if !eni.is_attached() {
            return self.drop(w, DropReason::Blackhole, &eni.id);
        }
        let own: RangeSet<u32> = owned_networks(eni).collect();
        let crossed = eni.subnet != subnet.id;
        if let Some(w) = w.narrow(w.now.to_destinations(&own)) {
            self.arrive(w, eni, crossed);
        }
        let Some(w) = w.narrow(w.now.to_destinations(&own.complement())) else {
            return;
        };
        for w in self.enter(w, eni, crossed) {
            let back = w.leg == Leg::Reply && w.crossings.is_empty();
            if back && self.origin.is_some_and(|origin| origin.id == eni.id) {
                self.delivered(w);
                continue;
            }
            for w in self.handed_groups(w, eni) {
                if eni.source_dest_check {
                    self.drop(w, DropReason::DestinationCheck, &eni.id);
                } else {
                    self.unknown(
                        w,
                        Need::Middlebox {
                            eni: eni.id.clone(),
                        },
                    );
                }
            }
        }
    }

    fn handed_groups(&mut self, w: Walk, eni: &Eni) -> Vec<Walk> {
        match w.leg {
            Leg::Forward => self.groups(w, eni, Direction::Ingress),
            // An answer that passes a middlebox: its groups may have state or not.
            Leg::Reply => vec![w],
        }
    }

    fn acl(&mut self, w: Walk, subnet: &SubnetId, direction: Direction) -> Vec<Walk> {
        if mutated!(AclReplyIgnored) && w.leg == Leg::Reply {
            return vec![w];
        }
        let net = self.net;
        let (stage, reason) = match direction {
            Direction::Egress => (Stage::AclOut, DropReason::AclOut),
            Direction::Ingress => (Stage::AclIn, DropReason::AclIn),
        };
        match net.acl_layers(subnet) {
            Ok(layers) => {
                let passed = self.layer(w, layers.of(direction), stage, reason, subnet.as_str());
                passed.into_iter().map(|(w, _)| w).collect()
            }
            Err(need) => {
                self.unknown(w, need);
                Vec::new()
            }
        }
    }

    fn groups(&mut self, w: Walk, eni: &Eni, direction: Direction) -> Vec<Walk> {
        let net = self.net;
        let (stage, reason) = match direction {
            Direction::Egress => (Stage::GroupEgress, DropReason::GroupEgress),
            Direction::Ingress => (Stage::GroupIngress, DropReason::GroupIngress),
        };
        let layers = match net.group_layers(eni) {
            Ok(Some(layers)) => layers,
            Ok(None) => return vec![w.permit(direction, Permit::NoGroups)],
            Err(need) => {
                self.unknown(w, need);
                return Vec::new();
            }
        };
        let remembered = self.established.map(|(egress, ingress)| match direction {
            Direction::Egress => egress,
            Direction::Ingress => ingress,
        });
        let skipped = mutated!(GroupEgressSkipped) && direction == Direction::Egress;
        if remembered == Some(Permit::Tracked) || skipped {
            return vec![w.hop(stage, &eni.id).permit(direction, Permit::Tracked)];
        }
        let passed = self.layer(w, layers.of(direction), stage, reason, eni.id.as_str());
        let permit = |tracked| {
            if tracked {
                Permit::Tracked
            } else {
                Permit::Untracked
            }
        };
        passed
            .into_iter()
            .map(|(w, tracked)| w.permit(direction, permit(tracked)))
            .collect()
    }

    /// Evaluates a layer; what passes walks on, with whether it is tracked.
    fn layer(
        &mut self,
        w: Walk,
        layer: &Layer,
        stage: Stage,
        reason: DropReason,
        at: &str,
    ) -> Vec<(Walk, bool)> {
        let mut passed = Vec::new();
        for part in eval(layer, self.net.sets(), &w.now) {
            let source = part
                .source(layer)
                .cloned()
                .unwrap_or_else(|| default_provenance(layer));
            let Some(w) = w.narrow(part.flows) else {
                continue;
            };
            let w = w.decided(stage, at, Some(source));
            match (part.action, part.decided) {
                (_, Decided::Unresolved { set, .. }) => {
                    let need = self.need_set(&set.0);
                    self.unknown(w, need);
                }
                (layers::Action::Allow { tracked }, _) => passed.push((w, tracked)),
                (layers::Action::Deny, _) => self.drop(w, reason, at),
            }
        }
        passed
    }

    fn need_set(&self, set: &str) -> Need {
        let world = self.net.world();
        if let Ok(list) = set.parse::<PrefixListId>() {
            return match world.prefix_lists.get(&list).and_then(|l| l.unread.clone()) {
                Some(u) => Need::Unread {
                    object: set.to_owned(),
                    action: u.action,
                    reason: u.reason,
                },
                None => world.need(Kind::PrefixLists, set),
            };
        }
        let of = if world.unread(Kind::Enis).is_some() {
            Kind::Enis
        } else {
            Kind::Groups
        };
        world.need(of, format!("the members of {set}"))
    }

    fn drop(&mut self, w: Walk, reason: DropReason, at: impl ToString) {
        let source = match reason {
            DropReason::GroupEgress
            | DropReason::GroupIngress
            | DropReason::AclOut
            | DropReason::AclIn
            | DropReason::Blackhole => w.hops.last().and_then(|h| h.source.clone()),
            _ => None,
        };
        let leg = w.leg;
        self.finish(
            w,
            Outcome::Dropped {
                reason,
                leg,
                at: at.to_string(),
                source,
            },
        );
    }

    fn unknown(&mut self, w: Walk, need: Need) {
        self.finish(w, Outcome::Unknown { need });
    }

    fn delivered(&mut self, w: Walk) {
        let (egress, ingress) = (w.egress, w.ingress);
        let to =
            w.to.clone()
                .expect("set where the packets arrived, before any delivery");
        self.finish(
            w,
            Outcome::Delivered {
                to,
                egress,
                ingress,
            },
        );
    }

    fn finish(&mut self, w: Walk, outcome: Outcome) {
        self.done.push(w.finish(outcome));
    }
}

/// The services at fixed addresses, and where they listen. 169.254.169.249 is the lab's interface
/// endpoint of the EC2 API; on AWS nothing answers there.
fn services(vpc: Option<&Vpc>) -> Vec<(&'static str, FlowSet)> {
    let at = |address: std::net::Ipv4Addr, flows: FlowSet| flows.to_destinations(&address.into());
    let local = |last| std::net::Ipv4Addr::new(169, 254, 169, last);
    let port = |port: u16, protocols: &[u8]| {
        let protocols = protocols.iter().map(|p| (*p, *p)).collect();
        FlowSet::full()
            .of_protocols(&protocols)
            .to_ports(&port.into())
    };
    let dns = || port(53, &[flowset::TCP, flowset::UDP]);
    let mut all = vec![
        (
            "instance metadata",
            at(local(254), port(80, &[flowset::TCP])),
        ),
        ("Amazon DNS", at(local(253), dns())),
        (
            "Amazon Time Sync",
            at(local(123), port(123, &[flowset::UDP])),
        ),
        (
            "the EC2 endpoint of the lab",
            at(local(249), port(80, &[flowset::TCP])),
        ),
    ];
    let base = vpc
        .and_then(|v| v.cidrs.first())
        .map(|c| u32::from(c.network()));
    if let Some(resolver) = base.and_then(|b| b.checked_add(2)) {
        all.push(("Amazon DNS", at(resolver.into(), dns())));
    }
    all
}

/// Destinations that no route leads to: the services' other ports, link-local, loopback, multicast.
fn never_routed() -> Vec<(RangeSet<u32>, DropReason)> {
    let net = |a, b, len| {
        let net = ipnet::Ipv4Net::new(std::net::Ipv4Addr::new(a, b, 0, 0), len);
        RangeSet::from(net.expect("the constant lengths are at most 32"))
    };
    vec![
        (net(169, 254, 16), DropReason::NotServed),
        (net(0, 0, 8), DropReason::NoRoute),
        (net(127, 0, 8), DropReason::NoRoute),
        (net(224, 0, 3), DropReason::NoRoute),
    ]
}
