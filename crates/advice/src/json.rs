//! An answer as JSON, schema `branchline/why/v1` (docs/schema/why.v1.json).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use reach::ask::{Answer, Placement, Verdict};
use reach::facts::{Evidence, Inputs};
use reach::node::NodeStep;
use reach::place::Over;
use reach::target::{Target, Via};
use reach::trace::Outcome;
use serde::Serialize;
use vpc::path::Hop;

use crate::advise::{Advice, WhatIf};
use crate::finding::Finding;
use crate::fix::Fix;
use crate::name;
use crate::ruled_out::RuledOut;

/// The schema's name. It changes when a reader of the old form would misread the new one.
pub const SCHEMA: &str = "branchline/why/v1";

/// The document.
#[derive(Debug, Serialize)]
pub struct Why<'a> {
    schema: &'static str,
    source: String,
    destination: To<'a>,
    verdict: Verdict,
    works: u32,
    of: u32,
    placements: Vec<Place<'a>>,
    split: Option<Separates>,
    findings: &'a [Finding],
    ruled_out: &'a [RuledOut],
    not_checked: &'a [String],
    fixes: &'a [Fix],
    what_if: &'a Option<WhatIf>,
    open_connections: &'a [String],
    evidence: &'a [Evidence],
    unknown: &'a [String],
    contradictions: &'a [String],
}

#[derive(Debug, Serialize)]
struct To<'a> {
    name: &'a str,
    address: Ipv4Addr,
    service: String,
    eni: Option<String>,
    via: Option<&'a Via>,
    targets: &'a [Target],
}

#[derive(Debug, Serialize)]
struct Place<'a> {
    over: Over,
    label: &'a str,
    node: Option<&'a str>,
    zone: Option<&'a str>,
    eni: Option<&'a str>,
    device: Option<u32>,
    address: Option<Ipv4Addr>,
    security_groups: Vec<String>,
    weight: u32,
    source: Option<&'a str>,
    #[serde(flatten)]
    outcome: &'a Outcome,
    node_step: Option<&'a NodeStep>,
    hops: &'a [Hop],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    endpoints: &'a [Outcome],
}

#[derive(Debug, Serialize)]
struct Separates {
    attribute: Option<&'static str>,
    scores: BTreeMap<&'static str, f64>,
}

/// Builds the document.
pub fn document<'a>(inputs: &'a Inputs, answer: &'a Answer, advice: &'a Advice) -> Why<'a> {
    let to = &answer.destination;
    Why {
        schema: SCHEMA,
        source: answer.question.source.to_string(),
        destination: To {
            name: &to.label,
            address: to.address,
            service: answer.question.service.to_string(),
            eni: to.eni.as_ref().map(ToString::to_string),
            via: to.via.as_ref(),
            targets: &to.targets,
        },
        verdict: answer.verdict,
        works: answer.works,
        of: answer.of,
        placements: answer
            .running
            .iter()
            .chain(&answer.future)
            .map(|p| place(inputs, p))
            .collect(),
        split: answer.split.as_ref().map(|s| Separates {
            attribute: s.attribute,
            scores: s
                .scores
                .iter()
                .map(|s| (s.attribute, (s.score * 100.0).round() / 100.0))
                .collect(),
        }),
        findings: &advice.findings,
        ruled_out: &advice.ruled_out,
        not_checked: &advice.not_checked,
        fixes: &advice.fixes,
        what_if: &advice.what_if,
        open_connections: &advice.open_connections,
        evidence: &inputs.evidence,
        unknown: &answer.unknown,
        contradictions: &inputs.contradictions,
    }
}

fn place<'a>(inputs: &Inputs, place: &'a Placement) -> Place<'a> {
    Place {
        over: place.over,
        label: &place.label,
        node: place.node.as_deref(),
        zone: place.zone.as_deref(),
        eni: place.eni.as_ref().map(|e| e.as_str()),
        device: place.device,
        address: place.address,
        security_groups: name::groups(&inputs.world, &place.groups),
        weight: place.weight,
        source: place.source.as_deref(),
        outcome: &place.outcome,
        node_step: place.path.node.as_ref(),
        hops: &place.path.hops,
        endpoints: &place.endpoints,
    }
}
