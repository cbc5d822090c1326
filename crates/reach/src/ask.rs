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
use crate::target::Target;
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
    /// What happens; behind a Service, over all its endpoints.
    pub outcome: Outcome,
    /// Hop by hop; behind a Service, to the endpoint that decides the outcome.
    pub path: Path,
    /// Behind a Service, what happens at each of the answer's targets, in their order.
    pub endpoints: Vec<Outcome>,
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

impl Answer {
    /// The first target that some running place does not reach, else the first.
    fn met(&self) -> Option<&Target> {
        let targets = &self.destination.targets;
        let fails = |i: usize| {
            let at = |p: &&Placement| p.endpoints.get(i).is_some_and(|o| !o.works());
            self.running.iter().find(at).is_some()
        };
        let failing = (0..targets.len()).find(|i| fails(*i)).unwrap_or(0);
        targets.get(failing)
    }

    /// The service as the receiver meets it: behind a Service, the endpoint's own port.
    pub fn met_service(&self) -> Service {
        self.met().map_or(self.question.service, |t| t.service)
    }

    /// The interface of the receiver.
    pub fn met_eni(&self) -> Option<&EniId> {
        self.met().and_then(|t| t.eni.as_ref())
    }

    /// The address of the receiver.
    pub fn met_address(&self) -> Ipv4Addr {
        self.met().map_or(self.destination.address, |t| t.address)
    }
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
    let destination = resolve::destination(inputs, &question.destination, question.service)?;
    let running: Vec<Placement> = match question.over.contains(&Over::Running) {
        true => all_running(inputs, &senders, &destination, earlier),
        false => Vec::new(),
    };
    let mut future: Vec<Placement> = Vec::new();
    let mut templates: BTreeSet<String> = BTreeSet::new();
    for node in &senders.nodes {
        for over in [Over::NextEni, Over::NextNode] {
            if !question.over.contains(&over) {
                continue;
            }
            let place = match over {
                Over::NextNode => place::next_node(inputs, node)?,
                _ => place::next_eni(inputs, node)?,
            };
            // Nodes of one launch template and subnet have the same next node.
            if over == Over::NextNode && !templates.insert(place.sameness()) {
                continue;
            }
            future.push(to_come(inputs, &destination, place));
        }
    }
    let unknown = senders
        .unknown
        .into_iter()
        .chain(destination.unknown.clone());
    let unknown = unknown.collect();
    Ok(conclude(
        question.clone(),
        destination,
        running,
        future,
        unknown,
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
    let depends = || {
        asked
            .iter()
            .any(|p| matches!(p.outcome, Outcome::Partly { .. }))
    };
    let verdict = match (unknown.is_empty(), works) {
        (false, _) => Verdict::Unknown,
        (true, 0) if !depends() => Verdict::Never,
        (true, k) if k == of => Verdict::Always,
        _ => Verdict::Sometimes,
    };
    let split = split_of(&destination.targets, &running);
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
    earlier: Option<&Answer>,
) -> Vec<Placement> {
    let known = earlier.and_then(|answer| leaves_of(answer, &senders.running));
    let names = if known.is_some() {
        &[][..]
    } else {
        &senders.nodes
    };
    let nodes = Nodes::new(inputs, names);
    let mut each: Vec<Vec<(Outcome, Path)>> = vec![Vec::new(); senders.running.len()];
    for target in &destination.targets {
        let tracer = trace::Tracer::new(&inputs.world, &nodes, target);
        let leaves = match &known {
            Some(leaves) => leaves.clone(),
            None => senders.running.iter().map(|s| tracer.leave(s)).collect(),
        };
        let outcomes = tracer.for_senders(&senders.running, &leaves);
        for (all, one) in each.iter_mut().zip(outcomes) {
            all.push(one);
        }
    }
    let placements = senders.running.iter().zip(each);
    placements
        .map(|(sender, each)| {
            let overall = overall(inputs, destination, Some(sender), each);
            running(inputs, sender, overall)
        })
        .collect()
}

/// What happens over all targets, the path that shows it, and each target's outcome behind a Service.
type Overall = (Outcome, Path, Vec<Outcome>);

fn overall(
    inputs: &Inputs,
    destination: &Destination,
    sender: Option<&Sender>,
    mut each: Vec<(Outcome, Path)>,
) -> Overall {
    let Some(via) = &destination.via else {
        return match each.pop() {
            Some((outcome, path)) => (outcome, path, Vec::new()),
            None => {
                let need = format!("where packets to {} go", destination.label);
                (Outcome::Unknown { need }, Path::default(), Vec::new())
            }
        };
    };
    let node = sender
        .and_then(|s| s.node.as_ref())
        .and_then(|n| inputs.nodes.get(n));
    let node = node.and_then(|n| n.kubernetes.as_ref());
    let used = |target: &Target| !via.local || (node.is_some() && target.node.as_ref() == node);
    let pairs = || {
        destination
            .targets
            .iter()
            .zip(&each)
            .filter(|(t, _)| used(t))
    };
    let (outcome, path) = match pairs().next() {
        None => {
            let which = if via.local { " on its node" } else { "" };
            let why = match via.not_ready {
                0 => format!("{} has no endpoint{which}", destination.label),
                n => format!(
                    "{} has no ready endpoint{which}, and {n} that are not ready",
                    destination.label
                ),
            };
            (Outcome::NoEndpoint { why }, Path::default())
        }
        Some((_, first)) => {
            let unsure = pairs().find(|(_, (o, _))| matches!(o, Outcome::Unknown { .. }));
            let fails = || pairs().filter(|(_, (o, _))| !o.works());
            let all = pairs().count();
            match (unsure, fails().next()) {
                (Some((_, one)), _) => one.clone(),
                (None, None) => first.clone(),
                (None, Some((_, one))) if fails().count() == all => one.clone(),
                (None, Some((_, (outcome, path)))) => {
                    let names: Vec<String> = fails().map(|(t, _)| t.label.clone()).collect();
                    let partly = Outcome::Partly {
                        blocked: format!(
                            "{} of {all} endpoints: {}",
                            names.len(),
                            names.join(", ")
                        ),
                        why: outcome.reason(),
                    };
                    (partly, path.clone())
                }
            }
        }
    };
    (outcome, path, each.into_iter().map(|(o, _)| o).collect())
}

/// How the senders of an earlier answer left their nodes; `None` unless they are the same senders
/// and it is known of each.
fn leaves_of(earlier: &Answer, senders: &[Sender]) -> Option<Vec<Leave>> {
    if earlier.running.len() != senders.len() || earlier.destination.via.is_some() {
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

fn running(inputs: &Inputs, sender: &Sender, overall: Overall) -> Placement {
    let (outcome, path, endpoints) = overall;
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
        endpoints,
    }
}

/// Answers for a place to come, on a copy of the world that has its interface.
fn to_come(inputs: &Inputs, destination: &Destination, future: Future) -> Placement {
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
        endpoints: Vec::new(),
    };
    match future.state {
        FutureState::Impossible(why) => placement.outcome = Outcome::Impossible { why },
        FutureState::Unknown(need) => placement.outcome = Outcome::Unknown { need },
        FutureState::Possible(eni) => {
            let mut with = inputs.world.clone();
            placement.zone = with.subnets.get(&eni.subnet).map(|s| s.zone.clone());
            placement.groups = eni.groups.clone();
            placement.address = eni.primary();
            let id = eni.id.clone();
            with.enis.insert(id.clone(), *eni);
            let nodes = Nodes::default();
            let each = destination.targets.iter().map(|target| {
                let tracer = trace::Tracer::new(&with, &nodes, target);
                tracer.for_eni(&id, placement.address)
            });
            let each = each.collect();
            (placement.outcome, placement.path, placement.endpoints) =
                overall(inputs, destination, None, each);
        }
    }
    placement
}

fn split_of(targets: &[Target], running: &[Placement]) -> Option<Split> {
    let samples: Vec<Sample> = running
        .iter()
        .flat_map(|p| match p.endpoints.is_empty() {
            true => vec![sample(p, None, &p.outcome)],
            false => {
                let each = targets.iter().zip(&p.endpoints);
                each.map(|(t, outcome)| sample(p, Some(t), outcome))
                    .collect()
            }
        })
        .collect();
    let some = samples.iter().any(|s| s.works);
    let all = samples.iter().all(|s| s.works);
    if !some || all {
        return None;
    }
    let scores = split::scores(&samples);
    let attribute = split::decisive(&scores).map(|s| s.attribute);
    Some(Split { attribute, scores })
}

fn sample(place: &Placement, target: Option<&Target>, outcome: &Outcome) -> Sample {
    let id = |eni: &Option<EniId>| eni.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut attributes = vec![
        ("node", place.node.clone().unwrap_or_default()),
        ("zone", place.zone.clone().unwrap_or_default()),
        ("pod", place.label.clone()),
        ("ENI", id(&place.eni)),
    ];
    if let Some(target) = target {
        attributes.push(("endpoint", target.label.clone()));
        attributes.push(("endpoint's ENI", id(&target.eni)));
        attributes.push(("endpoint's node", target.node.clone().unwrap_or_default()));
    }
    Sample {
        attributes,
        works: outcome.works(),
    }
}
