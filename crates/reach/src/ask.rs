//! The question and its answer: from every place, to one destination.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::Serialize;
use vpc::facts::{EniId, SgId};

use crate::error::Error;
use crate::facts::Inputs;
use crate::node::{Leave, NodeStep, Nodes};
use crate::noun::{Noun, Service};
use crate::place::{self, Future, FutureState, Over};
use crate::resolve::{self, Destination, Sender, Senders};
use crate::split::{self, Sample, Score};
use crate::trace::{self, Outcome, Path};

/// Can SOURCE reach DESTINATION, from everywhere it runs or may run?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who sends.
    pub source: Noun,
    /// Where to.
    pub destination: Noun,
    /// What is sent.
    pub service: Service,
    /// Which places are asked about.
    pub over: BTreeSet<Over>,
}

/// The four verdicts. UNKNOWN is never printed as reachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// From every place that was asked about.
    Always,
    /// From some of them.
    Sometimes,
    /// From none of them.
    Never,
    /// Something that was needed could not be read.
    Unknown,
}

/// One place and what happens there.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// What people call it: `default/api-1`, `the next node`.
    pub label: String,
    /// Running, next ENI or next node.
    pub over: Over,
    /// The node, if there is one.
    pub node: Option<String>,
    /// The zone of its subnet.
    pub zone: Option<String>,
    /// The interface that owns the address; `None` when EC2 knows none, or for the next one.
    pub eni: Option<EniId>,
    /// The interface's device index.
    pub device: Option<u32>,
    /// The sending address.
    pub address: Option<Ipv4Addr>,
    /// The groups on the interface.
    pub groups: BTreeSet<SgId>,
    /// How many pods the place stands for: 1 for a running pod, all that would fit for another.
    pub weight: u32,
    /// Where the facts of a place to come are from, as `lt-0c3 v3`.
    pub source: Option<String>,
    /// What happens.
    pub outcome: Outcome,
    /// Hop by hop.
    pub path: Path,
}

/// What separates the places that work from the others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Split {
    /// The attribute that decides alone, if one does.
    pub attribute: Option<&'static str>,
    /// How well each explains the outcome.
    pub scores: Vec<Score>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The question.
    pub question: Question,
    /// Where to, looked up.
    pub destination: Destination,
    /// The verdict over the places that were asked about.
    pub verdict: Verdict,
    /// How many work.
    pub works: u32,
    /// Of how many.
    pub of: u32,
    /// One for each running sender.
    pub running: Vec<Placement>,
    /// The places to come.
    pub future: Vec<Placement>,
    /// What separates the running ones, if they differ.
    pub split: Option<Split>,
    /// What could not be read and would be needed.
    pub unknown: Vec<String>,
}

/// Answers a question from what was read.
pub fn ask(inputs: &Inputs, question: &Question) -> Result<Answer, Error> {
    answer(inputs, question, None)
}

/// Answers a question again after edits that moved no address and changed no node: what the nodes
/// do with the packets is taken from the earlier answer.
pub fn ask_after(inputs: &Inputs, question: &Question, earlier: &Answer) -> Result<Answer, Error> {
    answer(inputs, question, Some(earlier))
}

fn answer(inputs: &Inputs, question: &Question, earlier: Option<&Answer>) -> Result<Answer, Error> {
    let senders = resolve::senders(inputs, &question.source)?;
    let destination = resolve::destination(inputs, &question.destination)?;
    let running: Vec<Placement> = match question.over.contains(&Over::Running) {
        true => all_running(inputs, &senders, &destination, question.service, earlier),
        false => Vec::new(),
    };
    let mut future = Vec::new();
    for node in &senders.nodes {
        for over in [Over::NextEni, Over::NextNode] {
            if question.over.contains(&over) {
                let place = match over {
                    Over::NextNode => place::next_node(inputs, node)?,
                    _ => place::next_eni(inputs, node)?,
                };
                future.push(to_come(inputs, &destination, question.service, place));
            }
        }
    }
    Ok(conclude(
        question.clone(),
        destination,
        running,
        future,
        senders.unknown,
    ))
}

fn conclude(
    question: Question,
    destination: Destination,
    running: Vec<Placement>,
    future: Vec<Placement>,
    mut unknown: Vec<String>,
) -> Answer {
    let asked = match question.over.contains(&Over::Running) {
        true => &running,
        false => &future,
    };
    let possible = || {
        asked
            .iter()
            .filter(|p| !matches!(p.outcome, Outcome::Impossible { .. }))
    };
    let works = possible()
        .filter(|p| p.outcome.works())
        .map(|p| p.weight)
        .sum();
    let of: u32 = possible().map(|p| p.weight).sum();
    let needs = asked.iter().filter_map(|p| match &p.outcome {
        Outcome::Unknown { need } => Some(need.clone()),
        _ => None,
    });
    unknown.extend(needs);
    unknown.sort();
    unknown.dedup();
    if unknown.is_empty() && of == 0 {
        unknown.push(nothing_to_ask(&question, asked));
    }
    let verdict = match (unknown.is_empty(), works) {
        (false, _) => Verdict::Unknown,
        (true, 0) => Verdict::Never,
        (true, k) if k == of => Verdict::Always,
        _ => Verdict::Sometimes,
    };
    let split = split_of(&running);
    Answer {
        question,
        destination,
        verdict,
        works,
        of,
        running,
        future,
        split,
        unknown,
    }
}

fn nothing_to_ask(question: &Question, asked: &[Placement]) -> String {
    let reasons: Vec<&str> = asked
        .iter()
        .filter_map(|p| match &p.outcome {
            Outcome::Impossible { why } => Some(why.as_str()),
            _ => None,
        })
        .collect();
    match reasons.is_empty() {
        true => format!("{} has no running pod with an address", question.source),
        false => format!("no such place can exist: {}", reasons.join("; ")),
    }
}

fn all_running(
    inputs: &Inputs,
    senders: &Senders,
    destination: &Destination,
    service: Service,
    earlier: Option<&Answer>,
) -> Vec<Placement> {
    let known = earlier.and_then(|answer| leaves_of(answer, &senders.running));
    let names = if known.is_some() {
        &[][..]
    } else {
        &senders.nodes
    };
    let nodes = Nodes::new(inputs, names);
    let tracer = trace::Tracer::new(inputs, &nodes, destination, service);
    let leaves = known.unwrap_or_else(|| senders.running.iter().map(|s| tracer.leave(s)).collect());
    let outcomes = tracer.for_senders(&senders.running, &leaves);
    let placements = senders.running.iter().zip(outcomes);
    placements
        .map(|(sender, (outcome, path))| running(inputs, sender, outcome, path))
        .collect()
}

/// How the senders of an earlier answer left their nodes; `None` unless they are the same senders
/// and it is known of each.
fn leaves_of(earlier: &Answer, senders: &[Sender]) -> Option<Vec<Leave>> {
    if earlier.running.len() != senders.len() {
        return None;
    }
    let pairs = earlier.running.iter().zip(senders);
    pairs
        .map(|(place, sender)| {
            if place.label != sender.label() || place.address != Some(sender.address) {
                return None;
            }
            match (&place.path.node, &sender.pod) {
                (Some(step @ NodeStep::Leaves { eni, .. }), _) => {
                    Some(Leave::By(eni.clone(), step.clone()))
                }
                (Some(step @ NodeStep::Local { .. }), _) => Some(Leave::Stays(step.clone())),
                (None, None) => Some(Leave::NotAPod),
                (None, Some(_)) => None,
            }
        })
        .collect()
}

fn running(inputs: &Inputs, sender: &Sender, outcome: Outcome, path: Path) -> Placement {
    let eni = sender.eni.as_ref().and_then(|id| inputs.world.enis.get(id));
    Placement {
        label: sender.label(),
        over: Over::Running,
        node: sender.node.clone(),
        zone: eni
            .and_then(|e| inputs.world.subnets.get(&e.subnet))
            .map(|s| s.zone.clone()),
        eni: sender.eni.clone(),
        device: eni
            .and_then(|e| e.attachment.as_ref())
            .map(|a| a.device_index),
        address: Some(sender.address),
        groups: eni.map(|e| e.groups.clone()).unwrap_or_default(),
        weight: 1,
        source: None,
        outcome,
        path,
    }
}

/// Answers for a place to come, on a copy of the world that has its interface.
fn to_come(
    inputs: &Inputs,
    destination: &Destination,
    service: Service,
    future: Future,
) -> Placement {
    let label = match future.over {
        Over::NextNode => "the next node",
        _ => "the next ENI",
    };
    let mut placement = Placement {
        label: label.to_owned(),
        over: future.over,
        node: Some(future.node.clone()),
        zone: None,
        eni: None,
        device: None,
        address: None,
        groups: BTreeSet::new(),
        weight: future.capacity.max(1),
        source: Some(future.source.clone()),
        outcome: Outcome::Unknown {
            need: String::new(),
        },
        path: Path::default(),
    };
    match future.state {
        FutureState::Impossible(why) => placement.outcome = Outcome::Impossible { why },
        FutureState::Unknown(need) => placement.outcome = Outcome::Unknown { need },
        FutureState::Possible(eni) => {
            let mut with = inputs.clone();
            placement.zone = with.world.subnets.get(&eni.subnet).map(|s| s.zone.clone());
            placement.groups = eni.groups.clone();
            placement.address = eni.primary();
            let id = eni.id.clone();
            with.world.enis.insert(id.clone(), *eni);
            let nodes = Nodes::default();
            let tracer = trace::Tracer::new(&with, &nodes, destination, service);
            (placement.outcome, placement.path) = tracer.for_eni(&id, placement.address);
        }
    }
    placement
}

fn split_of(running: &[Placement]) -> Option<Split> {
    let works = |p: &&Placement| p.outcome.works();
    let some = running.iter().any(|p| works(&p));
    let all = running.iter().all(|p| works(&p));
    if !some || all {
        return None;
    }
    let samples: Vec<Sample> = running
        .iter()
        .map(|p| Sample {
            attributes: vec![
                ("node", p.node.clone().unwrap_or_default()),
                ("zone", p.zone.clone().unwrap_or_default()),
                ("pod", p.label.clone()),
                (
                    "ENI",
                    p.eni.as_ref().map(ToString::to_string).unwrap_or_default(),
                ),
            ],
            works: p.outcome.works(),
        })
        .collect();
    let scores = split::scores(&samples);
    let attribute = split::decisive(&scores).map(|s| s.attribute);
    Some(Split { attribute, scores })
}
