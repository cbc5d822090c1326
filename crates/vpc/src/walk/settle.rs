//! The end of all walks: a partition.
//!
//! Pieces are disjoint by construction, with one exception. After a NAT gateway a piece can be told
//! from another by the source port (or address) that the gateway picks, which the sender does not
//! decide: the same packet as sent is then in both. If both meet the same fate it is theirs;
//! otherwise the answer is not known.

use flowset::FlowSet;

use super::state::Finished;
use crate::need::Need;
use crate::path::{Outcome, Part, Stage};

pub(super) fn settle(done: Vec<Finished>) -> Vec<Part> {
    let (chosen, plain): (Vec<_>, Vec<_>) = done.into_iter().partition(|f| f.nat.is_some());
    let mut parts: Vec<Part> = plain.into_iter().map(|f| f.part).collect();
    parts.extend(settle_chosen(chosen));
    parts
}

fn settle_chosen(chosen: Vec<Finished>) -> Vec<Part> {
    let mut settled: Vec<Part> = Vec::new();
    let mut open: Vec<Part> = Vec::new();
    for Finished { mut part, nat } in chosen {
        for other in &open {
            part.flows = part.flows.difference(&other.flows);
        }
        for other in &mut settled {
            let both = part.flows.intersect(&other.flows);
            if both.is_empty() {
                continue;
            }
            part.flows = part.flows.difference(&both);
            if other.outcome != part.outcome {
                other.flows = other.flows.difference(&both);
                open.extend(
                    nat.clone()
                        .map(|nat| undecided(&part, both, Need::NatChoice { nat })),
                );
            }
        }
        settled.push(part);
        settled.retain(|p| !p.flows.is_empty());
    }
    settled.extend(open);
    settled
}

/// Packets whose fate depends on the gateway, with the hops up to it.
fn undecided(part: &Part, flows: FlowSet, need: Need) -> Part {
    let to = part.hops.iter().position(|h| h.stage == Stage::NatGateway);
    let hops = part.hops[..to.map_or(0, |at| at + 1)].to_vec();
    Part {
        flows,
        arrives: FlowSet::empty(),
        hops,
        outcome: Outcome::Unknown { need },
    }
}
