//! What could be done: candidate edits, each tried on the model and ranked by its blast radius.

use std::collections::{BTreeMap, BTreeSet};

use reach::ask::{Answer, Placement, Verdict, ask_after};
use reach::blast::{Blast, blast};
use reach::edit::Edit;
use reach::facts::{GroupSync, Inputs};
use reach::noun::Service;
use reach::place::Over;
use reach::trace::Outcome;
use reach::{Error, Question};
use serde::Serialize;
use vpc::facts::{Direction, EniId, Ports, Protocol, RulePeer, SgId};
use vpc::path::{DropReason, Stage};

use crate::command;
use crate::name;

/// One way to make it work.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fix {
    /// What to do, one line.
    pub title: String,
    /// The edits it consists of.
    pub edits: Vec<Edit>,
    /// The verdict for running pods with the edits in place.
    pub verdict: Verdict,
    /// How many running pods work then.
    pub works: u32,
    /// Of how many.
    pub of: u32,
    /// Whether the next node works then; `None` when that is not known.
    pub next_node: Option<bool>,
    /// What else it opens and closes.
    pub blast: Blast,
    /// Nodes that must be replaced for it.
    pub nodes_to_replace: usize,
    /// The commands.
    pub commands: Vec<String>,
}

/// The most fixes that are worth reading.
const MOST: usize = 4;

/// Proposes fixes for what does not work, best first: those that also hold for the next node, then
/// without replacing nodes, then the smaller blast radius.
pub fn fixes(inputs: &Inputs, answer: &Answer) -> Result<Vec<Fix>, Error> {
    if answer.running.iter().all(|p| p.outcome.works()) && !next_node_fails(answer) {
        return Ok(Vec::new());
    }
    let mut fixes = Vec::new();
    for (title, edits, nodes_to_replace) in candidates(inputs, answer) {
        let fix = try_out(inputs, answer, title, edits, nodes_to_replace)?;
        if fix.works > answer_works(answer)
            || (fix.next_node == Some(true) && next_node_fails(answer))
        {
            fixes.push(fix);
        }
    }
    fixes.sort_by_key(|f| {
        let incomplete = f.works < f.of || f.next_node == Some(false);
        (incomplete, f.nodes_to_replace, f.blast.opened())
    });
    one_per_kind(&mut fixes);
    fixes.truncate(MOST);
    Ok(fixes)
}

/// Of several rules that differ in the admitted group only, the one with the smallest radius stays;
/// its title names those that would do equally.
fn one_per_kind(fixes: &mut Vec<Fix>) {
    let mut kept: Vec<Fix> = Vec::new();
    for fix in fixes.drain(..) {
        let kind = rule_of(&fix);
        match kept
            .iter_mut()
            .find(|k| kind.is_some() && rule_of(k) == kind)
        {
            None => kept.push(fix),
            Some(same) if same.blast == fix.blast => {
                let other = fix.title.rsplit(' ').next().unwrap_or_default();
                same.title = format!("{} or {other}", same.title);
            }
            Some(_) => {}
        }
    }
    *fixes = kept;
}

/// The group and direction of a fix that is a single rule.
fn rule_of(fix: &Fix) -> Option<(SgId, Direction)> {
    match fix.edits.as_slice() {
        [
            Edit::Rule {
                group, direction, ..
            },
        ] => Some((group.clone(), *direction)),
        _ => None,
    }
}

fn answer_works(answer: &Answer) -> u32 {
    answer.running.iter().filter(|p| p.outcome.works()).count() as u32
}

fn next_node_fails(answer: &Answer) -> bool {
    let next = |p: &&Placement| p.over == Over::NextNode;
    answer
        .future
        .iter()
        .filter(next)
        .any(|p| p.outcome.blocked_by().is_some())
}

fn try_out(
    inputs: &Inputs,
    answer: &Answer,
    title: String,
    edits: Vec<Edit>,
    nodes_to_replace: usize,
) -> Result<Fix, Error> {
    let mut after = inputs.clone();
    for edit in &edits {
        edit.apply(&mut after)?;
    }
    let everywhere = Question {
        over: Over::ALL.into(),
        ..answer.question.clone()
    };
    let then = ask_after(&after, &everywhere, answer)?;
    let next = then.future.iter().filter(|p| p.over == Over::NextNode);
    let next: Vec<Option<bool>> = next
        .map(|p| match &p.outcome {
            Outcome::Works { .. } => Some(true),
            Outcome::Unknown { .. } => None,
            _ => Some(false),
        })
        .collect();
    let next_node = match next.is_empty() {
        true => None,
        false => next
            .into_iter()
            .collect::<Option<Vec<bool>>>()
            .map(|all| all.into_iter().all(|w| w)),
    };
    Ok(Fix {
        title,
        commands: edits
            .iter()
            .flat_map(|e| command::commands(inputs, e))
            .collect(),
        edits,
        verdict: then.verdict,
        works: then.works,
        of: then.of,
        next_node,
        blast: blast(inputs, &after),
        nodes_to_replace,
    })
}

type Candidate = (String, Vec<Edit>, usize);

fn candidates(inputs: &Inputs, answer: &Answer) -> Vec<Candidate> {
    let places = || answer.running.iter().chain(&answer.future);
    let by = |reason| places().any(|p| p.outcome.blocked_by() == Some(reason));
    let mut list = Vec::new();
    if by(DropReason::GroupIngress) {
        list.extend(admit_a_common_group(inputs, answer));
    }
    if by(DropReason::GroupEgress) {
        list.extend(let_it_out(inputs, answer));
    }
    list.extend(spread_a_group(inputs, answer));
    list
}

fn protocol(service: Service) -> Protocol {
    match service {
        Service::Tcp(port) => Protocol::Tcp(Ports {
            from: port,
            to: port,
        }),
        Service::Udp(port) => Protocol::Udp(Ports {
            from: port,
            to: port,
        }),
        Service::Icmp => Protocol::Icmp {
            kind: Some(8),
            code: None,
        },
    }
}

/// A rule on the receiver's group that admits a group which every sending interface has, those to
/// come included.
fn admit_a_common_group(inputs: &Inputs, answer: &Answer) -> Vec<Candidate> {
    let Some(to) = receiver_group(inputs, answer) else {
        return Vec::new();
    };
    let met = answer.met_service();
    let service = protocol(met);
    common_groups(answer)
        .into_iter()
        .map(|from| {
            let title = format!(
                "{}: inbound {} from {}",
                name::group(&inputs.world, &to),
                met,
                name::group(&inputs.world, &from)
            );
            let edit = Edit::Rule {
                group: to.clone(),
                direction: Direction::Ingress,
                add: true,
                protocol: service,
                peer: RulePeer::Group {
                    id: from,
                    vpc: None,
                    peering: None,
                },
            };
            (title, vec![edit], 0)
        })
        .collect()
}

/// The receiver's group to edit: the one whose rule lets the working places in, else its first.
fn receiver_group(inputs: &Inputs, answer: &Answer) -> Option<SgId> {
    let admits = answer.running.iter().find_map(|p| {
        let hop = p.path.stage(Stage::GroupIngress)?;
        hop.source.as_ref()?.object.parse().ok()
    });
    let eni = inputs.world.enis.get(answer.met_eni()?)?;
    admits
        .filter(|g| eni.groups.contains(g))
        .or_else(|| eni.groups.iter().next().cloned())
}

fn common_groups(answer: &Answer) -> BTreeSet<SgId> {
    let exists = |p: &&Placement| {
        !matches!(
            p.outcome,
            Outcome::Impossible { .. } | Outcome::Unknown { .. }
        )
    };
    let mut places = answer.running.iter().chain(&answer.future).filter(exists);
    let first = places.next().map(|p| p.groups.clone()).unwrap_or_default();
    places.fold(first, |common, p| {
        common.intersection(&p.groups).cloned().collect()
    })
}

/// An egress rule on a group that every sending interface has.
fn let_it_out(inputs: &Inputs, answer: &Answer) -> Vec<Candidate> {
    let receiver = answer.met_eni().and_then(|id| inputs.world.enis.get(id));
    let peer = match receiver.and_then(|e| e.groups.iter().next()) {
        Some(group) => RulePeer::Group {
            id: group.clone(),
            vpc: None,
            peering: None,
        },
        None => RulePeer::Cidr4(answer.met_address().into()),
    };
    common_groups(answer)
        .into_iter()
        .map(|group| {
            let title = format!(
                "{}: outbound {} to {}",
                name::group(&inputs.world, &group),
                answer.met_service(),
                answer.destination.label
            );
            let edit = Edit::Rule {
                group,
                direction: Direction::Egress,
                add: true,
                protocol: protocol(answer.met_service()),
                peer: peer.clone(),
            };
            (title, vec![edit], 0)
        })
        .collect()
}

/// Give the blocked interfaces the groups that working ones have and they have not: by hand, by the
/// agent's group sync, by the launch template.
fn spread_a_group(inputs: &Inputs, answer: &Answer) -> Vec<Candidate> {
    let Some(group) = helping_group(inputs, answer) else {
        return Vec::new();
    };
    let shown = name::group(&inputs.world, &group);
    let mut list = Vec::new();
    let lacking: BTreeSet<EniId> = answer
        .running
        .iter()
        .filter(|p| p.node.is_some() && !p.groups.contains(&group))
        .filter_map(|p| p.eni.clone())
        .collect();
    let nodes: BTreeSet<&String> = answer
        .running
        .iter()
        .filter_map(|p| p.node.as_ref())
        .collect();
    let add = |eni: EniId| Edit::EniGroups {
        eni,
        add: true,
        group: group.clone(),
    };
    if !lacking.is_empty() {
        for node in &nodes {
            if matches!(
                inputs.nodes.get(*node).map(|n| &n.groups),
                Some(GroupSync::Off { .. })
            ) {
                let edit = Edit::GroupSyncOn {
                    node: (*node).clone(),
                };
                list.push((
                    format!("group sync on {node}: every ENI gets the primary's groups"),
                    vec![edit],
                    0,
                ));
            }
        }
        let on: Vec<String> = lacking.iter().map(ToString::to_string).collect();
        let title = format!("{shown} on {} by hand, until the next ENI", on.join(", "));
        list.push((title, lacking.iter().cloned().map(add).collect(), 0));
    }
    let templates: BTreeMap<_, usize> = nodes.iter().fold(BTreeMap::new(), |mut counts, node| {
        if let Some((id, _)) = template_of(inputs, node) {
            *counts.entry(id).or_default() += 1;
        }
        counts
    });
    for (template, count) in templates {
        let edit = Edit::TemplateGroups {
            template: template.clone(),
            add: true,
            group: group.clone(),
        };
        let mut edits: Vec<Edit> = lacking.iter().cloned().map(add).collect();
        edits.push(edit);
        list.push((
            format!("{shown} in {template}, and replace the nodes"),
            edits,
            count,
        ));
    }
    list
}

fn template_of(inputs: &Inputs, node: &str) -> Option<(vpc::facts::LaunchTemplateId, u64)> {
    reach::resolve::find_instance(inputs, node)
        .ok()?
        .launch_template()
}

/// The group that the admitting rule looks at: on a working interface, not on a blocked one.
fn helping_group(inputs: &Inputs, answer: &Answer) -> Option<SgId> {
    let works = answer.running.iter().filter(|p| p.outcome.works());
    let sources = works.filter_map(|p| {
        Some((
            p.path
                .stage(Stage::GroupIngress)?
                .source
                .as_ref()?
                .peer
                .clone()?,
            p,
        ))
    });
    let ids = sources.filter_map(|(peer, place)| {
        let named = inputs
            .world
            .groups
            .keys()
            .find(|id| peer.contains(id.as_str()))?;
        place.groups.contains(named).then(|| named.clone())
    });
    let blocked = || {
        answer
            .running
            .iter()
            .chain(&answer.future)
            .filter(|p| p.outcome.blocked_by().is_some())
    };
    ids.into_iter()
        .find(|id| blocked().any(|p| !p.groups.contains(id)))
}
