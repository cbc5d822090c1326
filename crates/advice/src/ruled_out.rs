//! Suspicions that were checked and refuted. Half of an outage is spent refuting them by hand.
//!
//! Each is listed only where the facts refute it: what is the cause, or what could not be checked,
//! is never called innocent.

use std::collections::BTreeSet;

use reach::ask::{Answer, Placement};
use reach::facts::Inputs;
use reach::resolve::find_instance;
use reach::trace::Outcome;
use serde::Serialize;
use vpc::facts::SgId;
use vpc::path::{DropReason, Hop, Stage};

use crate::name;

/// A refuted suspicion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuledOut {
    /// What one would suspect.
    pub hypothesis: String,
    /// Why it is not the cause.
    pub because: String,
}

/// Checks the usual suspects against the answer.
pub fn ruled_out(inputs: &Inputs, answer: &Answer) -> Vec<RuledOut> {
    if places(answer).all(|p| p.outcome.works()) {
        return Vec::new();
    }
    let works: Vec<&Placement> = places(answer).filter(|p| p.outcome.works()).collect();
    let mut list = Vec::new();
    list.extend(rule_and_port(&works));
    list.extend(instance_groups(inputs, answer, &works));
    list.extend(self_reference(&works));
    // ACLs and routes come before the receiver's groups: only packets that got so far have met them.
    let got_there = |p: &Placement| {
        p.outcome.works() || p.outcome.blocked_by() == Some(DropReason::GroupIngress)
    };
    if places(answer).all(got_there) {
        list.extend(acl(places(answer), !works.is_empty()));
        list.extend(route(places(answer)));
    }
    list
}

fn places(answer: &Answer) -> impl Iterator<Item = &Placement> {
    answer
        .running
        .iter()
        .filter(|p| !matches!(p.outcome, Outcome::Unknown { .. }))
}

fn out(hypothesis: &str, because: String) -> Option<RuledOut> {
    Some(RuledOut {
        hypothesis: hypothesis.to_owned(),
        because,
    })
}

/// The receiver's rule admits the service: some place gets in by it.
fn rule_and_port(works: &[&Placement]) -> Option<RuledOut> {
    let hop = works
        .iter()
        .find_map(|p| p.path.stage(Stage::GroupIngress))?;
    let source = hop.source.as_ref()?;
    out(
        "rule and port",
        format!(
            "{source} is right: {} of the pods get in by it",
            works.len()
        ),
    )
}

/// "The instance has the group": true, and it decides nothing.
fn instance_groups(inputs: &Inputs, answer: &Answer, works: &[&Placement]) -> Option<RuledOut> {
    let needed = sender_group(inputs, works)?;
    let nodes: BTreeSet<&String> = answer
        .running
        .iter()
        .filter_map(|p| p.node.as_ref())
        .collect();
    let on_primary = |node: &&String| {
        let instance = find_instance(inputs, node).ok();
        instance.is_some_and(|i| {
            inputs
                .world
                .enis_of(&i.id)
                .first()
                .is_some_and(|e| e.groups.contains(&needed))
        })
    };
    if nodes.is_empty() || !nodes.iter().all(on_primary) {
        return None;
    }
    out(
        "an instance without the group",
        format!(
            "every instance shows {}; but the instance view shows the primary ENI only, and groups are the ENIs'",
            name::group(&inputs.world, &needed)
        ),
    )
}

/// The group on the sending interface that the admitting rule looks at.
fn sender_group(inputs: &Inputs, works: &[&Placement]) -> Option<SgId> {
    let hop = works
        .iter()
        .find_map(|p| p.path.stage(Stage::GroupIngress))?;
    let peer = hop.source.as_ref()?.peer.as_deref()?;
    inputs
        .world
        .groups
        .keys()
        .find(|id| peer.contains(id.as_str()))
        .cloned()
}

/// A rule of a group that names the group itself works like any other.
fn self_reference(works: &[&Placement]) -> Option<RuledOut> {
    let source = works
        .iter()
        .filter_map(|p| p.path.stage(Stage::GroupIngress)?.source.as_ref())
        .find(|s| s.peer.as_deref().is_some_and(|p| p.contains(&s.object)))?;
    let group = source.name.as_deref().unwrap_or(&source.object);
    out(
        "self-reference",
        format!(
            "not the cause: {group} admits itself, which is evaluated on the sending ENI's groups and matches \
             whenever the sending ENI has {group}"
        ),
    )
}

fn acl<'a>(all: impl Iterator<Item = &'a Placement>, answered: bool) -> Option<RuledOut> {
    let stage = |h: &Hop| matches!(h.stage, Stage::AclIn | Stage::AclOut);
    let acls: BTreeSet<String> = all
        .flat_map(|p| p.path.hops.iter().filter(|h| stage(h)))
        .filter_map(|h| h.source.as_ref().map(|s| s.object.clone()))
        .collect();
    let what = if answered {
        "the packets and the answers"
    } else {
        "the packets"
    };
    match acls.is_empty() {
        true => out(
            "network ACL",
            "not met: the packets stay in one subnet".to_owned(),
        ),
        false => {
            let names = acls.into_iter().collect::<Vec<_>>().join(", ");
            out("network ACL", format!("{names} allows {what}"))
        }
    }
}

fn route<'a>(mut all: impl Iterator<Item = &'a Placement>) -> Option<RuledOut> {
    let route = all.find_map(|p| p.path.stage(Stage::Route).cloned());
    match route.and_then(|h| h.source) {
        Some(source) => out("route", format!("{source} is in force")),
        None => out(
            "route",
            "not met: the packets stay in one subnet".to_owned(),
        ),
    }
}
