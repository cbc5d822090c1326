//! Known faults, recognised in what was read.

use std::collections::{BTreeMap, BTreeSet};

use reach::ask::{Answer, Placement};
use reach::facts::{GroupSync, Inputs, Node};
use reach::place::Over;
use reach::resolve::{find_instance, short_name};
use serde::Serialize;
use vpc::facts::{Eni, EniKind, Instance, SgId, World};
use vpc::path::Stage;

use crate::code::Code;
use crate::name;

/// How much a finding matters for the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is the cause of what was found.
    Error,
    /// It is there, and will be the cause of something.
    Warning,
}

/// One recognised fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which.
    pub code: Code,
    /// How much it matters here.
    pub severity: Severity,
    /// One line.
    pub title: String,
    /// What it was seen in, source by source.
    pub sections: Vec<Section>,
}

/// What one source says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Section {
    /// The source, as `aws DescribeNetworkInterfaces` or `node ip-10-0-1-11`.
    pub source: String,
    /// What it says, line by line.
    pub lines: Vec<String>,
}

/// Looks at every node that the question is about.
pub fn findings(inputs: &Inputs, answer: &Answer) -> Vec<Finding> {
    let mut findings = Vec::new();
    let placements = || answer.running.iter().chain(&answer.future);
    let nodes: BTreeSet<&String> = placements().filter_map(|p| p.node.as_ref()).collect();
    for node in nodes {
        let Ok(instance) = find_instance(inputs, node) else {
            continue;
        };
        findings.extend(enis_disagree(inputs, Some(answer), instance));
        findings.extend(template_differs(inputs, Some(answer), instance));
    }
    findings
}

/// The interfaces of a node whose groups pods get. A trunk's own groups are nobody's.
fn pod_enis<'a>(world: &'a World, instance: &Instance) -> Vec<&'a Eni> {
    let mut enis = world.enis_of(&instance.id);
    enis.retain(|e| e.kind == EniKind::Interface);
    enis
}

/// BL0301 for one node; the answer to a question says whether it is the cause of what was found.
pub(crate) fn enis_disagree(
    inputs: &Inputs,
    answer: Option<&Answer>,
    instance: &Instance,
) -> Option<Finding> {
    let world = &inputs.world;
    let enis = pod_enis(world, instance);
    let sets: BTreeSet<&BTreeSet<SgId>> = enis.iter().map(|e| &e.groups).collect();
    if sets.len() < 2 {
        return None;
    }
    let split = answer.and_then(|a| a.split.as_ref());
    let by_eni = split.is_some_and(|s| s.attribute == Some("ENI"));
    let mut sections = vec![Section {
        source: "aws DescribeNetworkInterfaces".to_owned(),
        lines: group_lines(world, &enis),
    }];
    sections.extend(answer.and_then(deciding_rule));
    sections.extend(agent_section(inputs, short_name(instance)));
    Some(Finding {
        code: Code::Bl0301,
        severity: if by_eni {
            Severity::Error
        } else {
            Severity::Warning
        },
        title: Code::Bl0301.title().to_owned(),
        sections,
    })
}

/// One line per interface, and under it which groups the others lack.
fn group_lines(world: &World, enis: &[&Eni]) -> Vec<String> {
    let mut carriers: BTreeMap<&SgId, usize> = BTreeMap::new();
    for group in enis.iter().flat_map(|e| &e.groups) {
        *carriers.entry(group).or_default() += 1;
    }
    let mut lines = Vec::new();
    for eni in enis {
        let names = name::groups(world, &eni.groups).join(" ");
        lines.push(format!("{}  {:<9} {names}", eni.id, name::device(eni)));
        let alone = |g: &&SgId| carriers[*g] < enis.len();
        for group in eni.groups.iter().filter(alone) {
            let count = carriers[group];
            let on = match count {
                1 => "this ENI only".to_owned(),
                n => format!("{n} of {} ENIs", enis.len()),
            };
            lines.push(format!("    ^ {} is on {on}", name::group(world, group)));
        }
    }
    lines
}

/// The rule that lets the working places in, and what it looks at.
fn deciding_rule(answer: &Answer) -> Option<Section> {
    let works = answer.running.iter().find(|p| p.outcome.works())?;
    let hop = works.path.stage(Stage::GroupIngress)?;
    let source = hop.source.as_ref()?;
    let from_group = source.peer.as_deref().is_some_and(|p| p.contains("sg-"));
    let mut lines = vec![source.to_string()];
    if from_group {
        lines.push(
            "the rule that admits this flow; it looks at the groups of the sending ENI".to_owned(),
        );
    }
    Some(Section {
        source: "aws DescribeSecurityGroupRules".to_owned(),
        lines,
    })
}

fn agent_section(inputs: &Inputs, node: &str) -> Option<Section> {
    let agent = inputs.nodes.get(node)?;
    let line = match &agent.groups {
        GroupSync::On { pending } if pending.is_empty() && believes_equal(agent) => {
            "the agent believes that it already synced (cache≠EC2): somebody changed a secondary ENI since, or EC2 did not keep the change".to_owned()
        }
        GroupSync::On { pending } if pending.is_empty() => {
            "group sync on: the next pass, within 30 s, copies the primary ENI's groups".to_owned()
        }
        GroupSync::On { pending } => format!(
            "group sync on, not yet confirmed by EC2 for {}",
            pending
                .iter()
                .map(|eni| with_reason(agent, eni))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        GroupSync::Off { .. } => "group sync off: nothing will copy the primary ENI's groups".to_owned(),
        GroupSync::Unknown => {
            "upstream's agent does not tell: since 1.7.2 it copies the primary ENI's groups every 30 s, \
             and does not try again what failed once: it then believes that it already synced (cache≠EC2) until it restarts"
                .to_owned()
        }
    };
    Some(Section {
        source: format!("node {node}, agent {}", agent.agent),
        lines: vec![line],
    })
}

/// An interface, and what the agent says of its groups: the last failure, or that it only reports.
fn with_reason(node: &Node, eni: &str) -> String {
    let told = node.told.as_ref().and_then(|t| t.state.as_ref());
    let why = told.and_then(|state| state.group_sync.pending.get(eni));
    match why.filter(|why| !why.is_empty()) {
        Some(why) => format!("{eni} ({why})"),
        None => eni.to_owned(),
    }
}

/// Whether the agent itself says that all its interfaces carry the same groups.
fn believes_equal(node: &Node) -> bool {
    let told = node.told.as_ref().and_then(|t| t.state.as_ref());
    told.is_some_and(|state| {
        let attached = state.interfaces.iter().filter(|i| i.device.is_some());
        let sets: BTreeSet<BTreeSet<&String>> =
            attached.map(|i| i.groups.iter().collect()).collect();
        sets.len() == 1
    })
}

/// BL0302 for one node.
pub(crate) fn template_differs(
    inputs: &Inputs,
    answer: Option<&Answer>,
    instance: &Instance,
) -> Option<Finding> {
    let world = &inputs.world;
    let (id, _) = instance.launch_template()?;
    let template = world.launch_templates.get(&id)?;
    let version = template.versions.get(&template.default_version)?;
    let primary = version.interfaces.iter().find(|i| i.device_index == 0);
    let wanted = primary.map_or(&version.groups, |i| &i.groups);
    let primary = *pod_enis(world, instance).first()?;
    if wanted.is_empty() || *wanted == primary.groups {
        return None;
    }
    let node = short_name(instance);
    let matters = answer.is_some_and(|a| matters_for_next_node(a, node));
    let missing: BTreeSet<SgId> = primary.groups.difference(wanted).cloned().collect();
    let extra: BTreeSet<SgId> = wanted.difference(&primary.groups).cloned().collect();
    let mut lines = vec![
        format!(
            "{}  primary ENI of {node}: {}",
            primary.id,
            name::groups(world, &primary.groups).join(" ")
        ),
        format!(
            "{id} v{}: {}",
            template.default_version,
            name::groups(world, wanted).join(" ")
        ),
    ];
    if !missing.is_empty() {
        lines.push(format!(
            "    a new node will not have {}",
            name::groups(world, &missing).join(" ")
        ));
    }
    if !extra.is_empty() {
        lines.push(format!(
            "    a new node will also have {}",
            name::groups(world, &extra).join(" ")
        ));
    }
    Some(Finding {
        code: Code::Bl0302,
        severity: if matters {
            Severity::Error
        } else {
            Severity::Warning
        },
        title: Code::Bl0302.title().to_owned(),
        sections: vec![Section {
            source: "aws DescribeLaunchTemplateVersions, DescribeNetworkInterfaces".to_owned(),
            lines,
        }],
    })
}

/// Whether the next node was asked about alone and fails: then the template is the cause.
fn matters_for_next_node(answer: &Answer, node: &str) -> bool {
    let next = |p: &&Placement| p.over == Over::NextNode && p.node.as_deref() == Some(node);
    let fails = answer
        .future
        .iter()
        .find(next)
        .is_some_and(|p| p.outcome.blocked_by().is_some());
    fails && !answer.question.over.contains(&Over::Running)
}
