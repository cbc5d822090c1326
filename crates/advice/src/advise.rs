//! Everything there is to say about an answer.

use reach::Error;
use reach::ask::{Answer, Verdict};
use reach::blast::Blast;
use reach::edit::Edit;
use reach::facts::Inputs;
use reach::trace::Outcome;
use serde::Serialize;
use vpc::path::Permit;

use crate::finding::{Finding, findings};
use crate::fix::{Fix, fixes};
use crate::ruled_out::{RuledOut, ruled_out};

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advice {
    /// Known faults.
    pub findings: Vec<Finding>,
    /// Refuted suspicions.
    pub ruled_out: Vec<RuledOut>,
    /// Suspicions that could not be checked.
    pub not_checked: Vec<String>,
    /// Ways to make it work.
    pub fixes: Vec<Fix>,
    /// What a removed rule would do to connections that are open.
    pub open_connections: Vec<String>,
    /// For a what-if question: the edits and what else they would change.
    pub what_if: Option<WhatIf>,
}

/// The edits of a what-if question.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WhatIf {
    /// The edits.
    pub edits: Vec<Edit>,
    /// What they open and close.
    pub blast: Blast,
    /// What they do to connections that are open now.
    pub connections: Vec<String>,
}

/// Interprets an answer. For a what-if question `inputs` already has the edits.
///
/// # Errors
/// A fix that cannot be tried: a fault of this program, reported rather than hidden.
pub fn advise(inputs: &Inputs, answer: &Answer, what_if: Option<WhatIf>) -> Result<Advice, Error> {
    let fixes = match answer.verdict {
        Verdict::Unknown => Vec::new(),
        _ => fixes(inputs, answer)?,
    };
    Ok(Advice {
        findings: findings(inputs, answer),
        ruled_out: ruled_out(inputs, answer),
        not_checked: not_checked(inputs, answer),
        fixes,
        open_connections: open_connections(answer),
        what_if,
    })
}

fn not_checked(inputs: &Inputs, answer: &Answer) -> Vec<String> {
    let mut list = Vec::new();
    if answer.running.iter().any(|p| p.node.is_some()) {
        list.push(
            "NetworkPolicy and SecurityGroupPolicy: they are Kubernetes' and not modelled yet"
                .to_owned(),
        );
    }
    if let Some(via) = &answer.destination.via {
        let cluster = inputs.kubernetes.as_ref();
        let slices = cluster.iter().flat_map(|c| c.endpoint_slices.iter());
        let mut mine = slices.filter(|(at, slice)| {
            at.namespace == via.service.namespace
                && slice.service.as_deref() == Some(&via.service.name)
        });
        if mine.any(|(_, slice)| slice.endpoints.iter().any(|e| !e.zones.is_empty())) {
            list.push(
                "zone hints: kube-proxy may keep to the endpoints of the sender's zone; all are told here"
                    .to_owned(),
            );
        }
    }
    list
}

/// One line per kind of permit that working places pass by.
fn open_connections(answer: &Answer) -> Vec<String> {
    let permits = |p: &Outcome| match p {
        Outcome::Works {
            egress: Some(egress),
            ingress: Some(ingress),
        } => Some((*egress, *ingress)),
        _ => None,
    };
    let mut kinds: Vec<_> = answer
        .running
        .iter()
        .filter_map(|p| permits(&p.outcome))
        .collect();
    kinds.sort();
    kinds.dedup();
    kinds
        .into_iter()
        .map(|(egress, ingress)| match (egress, ingress) {
            (Permit::Untracked, _) | (_, Permit::Untracked) => {
                let side = if egress == Permit::Untracked { "sender's" } else { "receiver's" };
                format!("untracked at the {side} groups: if that rule goes, open connections break at once")
            }
            _ => "tracked: if a group's rule goes, open connections live on until they end or time out; \
                  an ACL that denies cuts them at once"
                .to_owned(),
        })
        .collect()
}
