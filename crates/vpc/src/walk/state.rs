//! One piece of the set on its way, and how to trace it back to what was sent.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::rc::Rc;

use flowset::{FlowSet, RangeSet};
use layers::Provenance;

use crate::facts::*;
use crate::path::{Endpoint, Hop, Leg, Outcome, Part, Permit, Stage};

/// A piece of the set. Never empty.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    /// The packets as they were sent.
    sent: FlowSet,
    /// The packets as they are now, after translations and, on the way back, as answers.
    pub(super) now: FlowSet,
    lifts: Vec<Lift>,
    /// Shared, because every split copies the way so far.
    pub(super) hops: Vec<Rc<Hop>>,
    pub(super) leg: Leg,
    pub(super) crossings: Vec<Crossing>,
    pub(super) egress: Permit,
    pub(super) ingress: Permit,
    pub(super) to: Option<Endpoint>,
    /// What arrived at the far end.
    pub(super) arrives: Option<FlowSet>,
    /// The NAT gateway whose choice of ports the answer could depend on.
    nat: Option<NatId>,
}

/// One step back towards what was sent.
#[derive(Debug, Clone)]
enum Lift {
    /// The source was this address.
    Source(Ipv4Addr),
    /// The source address and port could have been any.
    AnySource,
    /// The destination was this address.
    Destination(Ipv4Addr),
    /// These are the answers.
    Reply,
}

impl Lift {
    fn apply(&self, flows: &FlowSet) -> FlowSet {
        match self {
            Lift::Source(address) => flows.with_source(*address),
            Lift::AnySource => flows
                .with_sources(&RangeSet::full())
                .with_source_ports(&RangeSet::full()),
            Lift::Destination(address) => flows.with_destination(*address),
            Lift::Reply => flows.reply(),
        }
    }
}

/// A translation on the way there, to be undone on the way back.
#[derive(Debug, Clone)]
pub(super) enum Crossing {
    /// A NAT gateway put its own address and port in place of the source's.
    Nat {
        /// Where the gateway is.
        subnet: SubnetId,
        /// The interfaces that carry its addresses.
        enis: BTreeSet<EniId>,
        /// Before it.
        past: Past,
    },
    /// An internet gateway put a public address in place of the source's.
    IgwOut {
        /// The VPC of the gateway.
        vpc: VpcId,
        /// Before it.
        past: Past,
    },
    /// An internet gateway put a private address in place of the public destination.
    IgwIn {
        /// The VPC of the gateway.
        vpc: VpcId,
        /// Before it.
        past: Past,
    },
}

/// The packets before a translation, and the way back from there to what was sent.
#[derive(Debug, Clone)]
pub(super) struct Past {
    flows: FlowSet,
    lifts: Vec<Lift>,
}

/// A piece at its end.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) part: Part,
    /// The NAT gateway that picked a source port for it.
    pub(super) nat: Option<NatId>,
}

impl Walk {
    pub(super) fn new(flows: &FlowSet) -> Option<Walk> {
        (!flows.is_empty()).then(|| Walk {
            sent: flows.clone(),
            now: flows.clone(),
            lifts: Vec::new(),
            hops: Vec::new(),
            leg: Leg::Forward,
            crossings: Vec::new(),
            egress: Permit::NoGroups,
            ingress: Permit::NoGroups,
            to: None,
            arrives: None,
            nat: None,
        })
    }

    /// The piece with these packets of it only; `None` if that is none.
    pub(super) fn narrow(&self, now: FlowSet) -> Option<Walk> {
        if now.is_empty() {
            return None;
        }
        let sent = if self.lifts.is_empty() {
            now.clone()
        } else {
            let lifted = self
                .lifts
                .iter()
                .rev()
                .fold(now.clone(), |f, lift| lift.apply(&f));
            self.sent.intersect(&lifted)
        };
        (!sent.is_empty()).then(|| Walk {
            sent,
            now,
            ..self.clone()
        })
    }

    pub(super) fn hop(self, stage: Stage, at: impl ToString) -> Walk {
        self.decided(stage, at, None)
    }

    pub(super) fn decided(
        mut self,
        stage: Stage,
        at: impl ToString,
        source: Option<Provenance>,
    ) -> Walk {
        self.hops.push(Rc::new(Hop {
            stage,
            leg: self.leg,
            at: at.to_string(),
            source,
        }));
        self
    }

    /// Notes how groups let the piece pass. What goes through a NAT gateway is always tracked
    /// (EC2 user guide, "Automatically tracked connections").
    pub(super) fn permit(mut self, direction: Direction, permit: Permit) -> Walk {
        let permit = match permit {
            Permit::Untracked if self.nat.is_some() => Permit::Tracked,
            other => other,
        };
        match direction {
            Direction::Egress => self.egress = permit,
            Direction::Ingress => self.ingress = permit,
        }
        self
    }

    fn past(&self) -> Past {
        Past {
            flows: self.now.clone(),
            lifts: self.lifts.clone(),
        }
    }

    /// A NAT gateway takes the piece over.
    pub(super) fn through_nat(mut self, nat: &NatGateway) -> Walk {
        let own: RangeSet<u32> = nat.addresses.iter().map(|a| a.private).collect();
        let enis = nat.addresses.iter().map(|a| a.eni.clone()).collect();
        let past = self.past();
        self.crossings.push(Crossing::Nat {
            subnet: nat.subnet.clone(),
            enis,
            past,
        });
        self.lifts.push(Lift::AnySource);
        self.now = self.now.with_sources(&own).with_source_ports(&nat_ports());
        self.nat = Some(nat.id.clone());
        self.permit_again()
    }

    fn permit_again(self) -> Walk {
        let egress = self.egress;
        self.permit(Direction::Egress, egress)
    }

    /// An internet gateway takes the piece out of a VPC; its one source is `private`.
    pub(super) fn through_igw_out(
        mut self,
        vpc: &VpcId,
        private: Ipv4Addr,
        public: Ipv4Addr,
    ) -> Walk {
        self.crossings.push(Crossing::IgwOut {
            vpc: vpc.clone(),
            past: self.past(),
        });
        self.lifts.push(Lift::Source(private));
        self.now = self.now.with_source(public);
        self
    }

    /// An internet gateway takes the piece into a VPC; its one destination is `public`.
    pub(super) fn through_igw_in(
        mut self,
        vpc: &VpcId,
        private: Ipv4Addr,
        public: Ipv4Addr,
    ) -> Walk {
        self.crossings.push(Crossing::IgwIn {
            vpc: vpc.clone(),
            past: self.past(),
        });
        self.lifts.push(Lift::Destination(public));
        self.now = self.now.with_destination(private);
        self
    }

    /// The answers to the piece set out.
    pub(super) fn turn(mut self) -> Walk {
        self.now = self.now.reply();
        self.lifts.push(Lift::Reply);
        self.leg = Leg::Reply;
        self
    }

    /// A translation is undone: the answers become those to the packets before it. `blur` frees the
    /// dimensions that the translation had set.
    pub(super) fn undo(&self, past: &Past, blur: impl Fn(&FlowSet) -> FlowSet) -> Option<Walk> {
        let now = past.flows.reply().intersect(&blur(&self.now));
        let mut lifts = past.lifts.clone();
        lifts.push(Lift::Reply);
        Walk {
            lifts,
            ..self.clone()
        }
        .narrow(now)
    }

    pub(super) fn finish(self, outcome: Outcome) -> Finished {
        let arrives = match self.arrives {
            Some(arrives) => arrives,
            None if self.leg == Leg::Forward => self.now,
            None => FlowSet::empty(),
        };
        let part = Part {
            flows: self.sent,
            arrives,
            hops: self.hops.into_iter().map(Rc::unwrap_or_clone).collect(),
            outcome,
        };
        Finished {
            part,
            nat: self.nat,
        }
    }
}

/// The source ports that NAT gateways use.
fn nat_ports() -> RangeSet<u16> {
    RangeSet::range(1024, u16::MAX)
}
