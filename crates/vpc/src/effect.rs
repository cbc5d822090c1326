//! What a change does to connections that are open already.
//!
//! EC2 user guide, "Security group connection tracking": a tracked connection survives the removal
//! of the rule that let it in until it times out; an untracked one breaks at once; a network ACL
//! that denies breaks either.

use flowset::Packet;
use layers::Provenance;
use serde::Serialize;

use crate::facts::World;
use crate::need::Need;
use crate::network::Network;
use crate::path::{DropReason, Leg, Origin, Outcome, Trace};

/// What becomes of an open connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionEffect {
    /// It could not have been open before.
    NotOpen,
    /// It goes on, and would be let in again.
    Continues,
    /// It goes on because it is tracked; once idle for the tracking timeout, or closed, it does
    /// not come back.
    LivesOn {
        /// Why a new connection is refused.
        reason: DropReason,
        /// The layer that refuses it.
        source: Option<Provenance>,
    },
    /// It breaks at once.
    Breaks {
        /// Why.
        reason: DropReason,
        /// Whether the packets or the answers are dropped.
        leg: Leg,
        /// The layer that drops them.
        source: Option<Provenance>,
    },
    /// It cannot be said.
    Unknown {
        /// What would have to be known.
        need: Need,
    },
}

/// What a change from one world to another does to a connection opened by this packet.
pub fn open_connection_effect(
    before: &World,
    after: &World,
    from: &Origin,
    packet: &Packet,
) -> ConnectionEffect {
    let (egress, ingress) = match outcome(Network::new(before).trace(from, &packet.into())) {
        Some(Outcome::Delivered {
            egress, ingress, ..
        }) => (egress, ingress),
        Some(Outcome::Unknown { need }) => return ConnectionEffect::Unknown { need },
        Some(Outcome::Dropped { .. }) | None => return ConnectionEffect::NotOpen,
    };
    let after = Network::new(after);
    let old = outcome(after.trace_established(from, &packet.into(), egress, ingress));
    match old {
        Some(Outcome::Delivered { .. }) => {}
        Some(Outcome::Dropped {
            reason,
            leg,
            source,
            ..
        }) => {
            return ConnectionEffect::Breaks {
                reason,
                leg,
                source,
            };
        }
        Some(Outcome::Unknown { need }) => return ConnectionEffect::Unknown { need },
        None => return ConnectionEffect::NotOpen,
    }
    match outcome(after.trace(from, &packet.into())) {
        Some(Outcome::Dropped { reason, source, .. }) => {
            ConnectionEffect::LivesOn { reason, source }
        }
        Some(Outcome::Unknown { need }) => ConnectionEffect::Unknown { need },
        Some(Outcome::Delivered { .. }) | None => ConnectionEffect::Continues,
    }
}

/// The outcome of a trace of one packet.
fn outcome(trace: Trace) -> Option<Outcome> {
    trace.parts.into_iter().next().map(|p| p.outcome)
}
