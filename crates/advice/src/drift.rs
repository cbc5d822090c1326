//! Drift: what is declared, what the DaemonSet says, what each node really runs, and whether somebody
//! attached a security group by hand.

mod text;

use std::collections::{BTreeMap, BTreeSet};

use kube_view::Cluster;
use kube_view::facts::{AGENT, Container, EnvValue, Kind, ObjectName};
use reach::Inputs;
use reach::facts::{Addon, Evidence, Node, Told};
use reach::resolve::find_instance;
use serde::Serialize;

use crate::code::Code;
use crate::compare;
use crate::finding::{Finding, enis_disagree, template_differs};

pub use text::render;

/// The schema's name.
pub const SCHEMA: &str = "branchline/drift/v1";

/// What differs from what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drift {
    schema: &'static str,
    /// The agent's DaemonSets.
    pub daemon_sets: Vec<AgentSet>,
    /// How many nodes were looked at.
    pub nodes: usize,
    /// The differences.
    pub differences: Vec<Difference>,
    /// Groups that were attached or detached by hand, node by node.
    pub groups: Vec<Finding>,
    /// Which of the two happened: a group attached by hand, or at most a changed rule.
    pub groups_verdict: String,
    /// Agents that were asked themselves.
    pub told: usize,
    /// What was changed and is right again.
    pub notes: Vec<String>,
    /// What was not compared, and why that is no matter for the verdict.
    pub not_checked: Vec<String>,
    /// What could not be read and is needed.
    pub unknown: Vec<String>,
    /// Where each part was read.
    pub evidence: Vec<Evidence>,
}

/// One DaemonSet of agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgentSet {
    /// Its name.
    pub name: ObjectName,
    /// How often it was changed.
    pub generation: i64,
    /// The generation that its controller has acted upon.
    pub observed: i64,
    /// The agent's image.
    pub image: String,
    /// The object's version when it was read.
    pub version: String,
    /// Who manages it, as far as its annotations say.
    pub managed_by: Vec<String>,
}

/// What kind of difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A node's agent was started with an older template.
    OutdatedPod,
    /// A node has no agent.
    NoAgent,
    /// A node's agent crash-loops or is not Ready.
    AgentTrouble,
    /// An agent runs with other values than its pod declares.
    RunsOtherwise,
    /// The agent counts on what EC2 does not have.
    LostAddress,
    /// EC2 has what the agent does not know.
    UnknownAddress,
    /// Kubernetes and the agent disagree on pods' addresses.
    Leases,
    /// The agent could not put the kernel's state right.
    Kernel,
    /// Interfaces of agents that are attached to nothing.
    LeakedInterface,
    /// The DaemonSet's controller has not acted on the last change.
    NotObserved,
    /// Settings that an add-on update would take away.
    OnlyInDaemonSet,
}

/// One difference, on some objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What kind.
    pub what: What,
    /// The finding's code, if it has one.
    pub code: Option<Code>,
    /// The nodes or the DaemonSet.
    pub objects: Vec<String>,
    /// One line.
    pub title: String,
    /// Value by value.
    pub lines: Vec<String>,
    /// What to do.
    pub help: Option<String>,
}

/// Compares. `cluster` is EKS's name of the cluster, for commands.
pub fn drift(inputs: &Inputs, eks: Option<&str>) -> Drift {
    let mut drift = Drift {
        schema: SCHEMA,
        daemon_sets: Vec::new(),
        nodes: inputs.nodes.len(),
        differences: Vec::new(),
        groups: Vec::new(),
        groups_verdict: String::new(),
        told: 0,
        notes: Vec::new(),
        not_checked: Vec::new(),
        unknown: Vec::new(),
        evidence: inputs.evidence.clone(),
    };
    match &inputs.kubernetes {
        None => drift.unknown.push(
            "the DaemonSet: no cluster was read (set KUBECONFIG, or --kubeconfig and --context)"
                .to_owned(),
        ),
        Some(cluster) => {
            daemon_sets(cluster, &mut drift);
            for name in cluster.nodes.keys() {
                drift.differences.extend(node(inputs, cluster, &name.name));
            }
            addon(inputs, cluster, eks, &mut drift);
        }
    }
    agents(inputs, &mut drift);
    together(&mut drift.differences);
    groups(inputs, &mut drift);
    drift
}

impl Drift {
    /// Whether anything differs.
    pub fn is_empty(&self) -> bool {
        self.differences.is_empty() && self.groups.is_empty()
    }
}

fn daemon_sets(cluster: &Cluster, drift: &mut Drift) {
    for kind in [Kind::DaemonSet, Kind::Pod, Kind::Node] {
        if let Some(unread) = cluster.unread.get(&kind) {
            drift
                .unknown
                .push(format!("{}: {}", unread.right, unread.reason));
        }
    }
    for (name, set) in &cluster.daemon_sets {
        let Some(agent) = set.containers.iter().find(|c| c.name == AGENT) else {
            continue;
        };
        drift.daemon_sets.push(AgentSet {
            name: name.clone(),
            generation: set.generation,
            observed: set.observed,
            image: agent.image.clone(),
            version: set.version.clone(),
            managed_by: set.managed_by.clone(),
        });
        if set.observed < set.generation {
            drift.differences.push(Difference {
                what: What::NotObserved,
                code: None,
                objects: vec![format!("DaemonSet {name}")],
                title: format!(
                    "its controller has acted on generation {} of {}",
                    set.observed, set.generation
                ),
                lines: Vec::new(),
                help: Some(
                    "is kube-controller-manager running? Seconds after a change this is normal"
                        .to_owned(),
                ),
            });
        }
    }
    let readable = !cluster.unread.contains_key(&Kind::DaemonSet);
    if drift.daemon_sets.is_empty() && readable {
        drift.unknown.push(format!(
            "the agent's DaemonSet: none in kube-system has a container {AGENT}"
        ));
    }
}

/// Everything that differs on one node.
pub(crate) fn of_node(inputs: &Inputs, of: &Node) -> Vec<Difference> {
    let declared = inputs.kubernetes.as_ref().zip(of.kubernetes.as_ref());
    let mut all = declared.map_or_else(Vec::new, |(cluster, name)| node(inputs, cluster, name));
    all.extend(compare::node(inputs, of));
    all
}

/// What is declared, against what the node's agent was started with and says it runs with.
fn node(inputs: &Inputs, cluster: &Cluster, node: &str) -> Vec<Difference> {
    let mut differences = Vec::new();
    if cluster.unread.contains_key(&Kind::Pod) || cluster.unread.contains_key(&Kind::DaemonSet) {
        return differences;
    }
    let Some((name, pod)) = cluster.agent_on(node) else {
        differences.push(Difference {
            what: What::NoAgent,
            code: None,
            objects: vec![node.to_owned()],
            title: "the node has no pod of the agent: new pods get no address there".to_owned(),
            lines: Vec::new(),
            help: Some("kubectl describe daemonset aws-node -n kube-system".to_owned()),
        });
        return differences;
    };
    let owner = pod
        .owner
        .as_ref()
        .map(|o| ObjectName::new(&name.namespace, &o.name));
    let set = owner.as_ref().and_then(|o| cluster.daemon_sets.get(o));
    if let (Some(owner), Some(set)) = (owner, set) {
        let lines = compare(&set.containers, &pod.containers);
        if !lines.is_empty() {
            let restart = match set.on_delete {
                true => format!(
                    "kubectl delete pod {} -n {}   # OnDelete: nothing replaces it by itself",
                    name.name, name.namespace
                ),
                false => format!(
                    "kubectl rollout status daemonset {} -n {}",
                    owner.name, owner.namespace
                ),
            };
            differences.push(Difference {
                what: What::OutdatedPod,
                code: None,
                objects: vec![node.to_owned()],
                title: "the node's agent was started before the DaemonSet was changed, and runs with the old values".to_owned(),
                lines,
                help: Some(restart),
            });
        }
    }
    let told = inputs
        .nodes
        .values()
        .find(|n| n.kubernetes.as_deref() == Some(node));
    let otherwise = told
        .map(|n| n.runs_otherwise.as_slice())
        .unwrap_or_default();
    if !otherwise.is_empty() {
        let lines = otherwise.iter().map(|o| {
            format!(
                "{}: the pod declares {:?}, the agent runs with {:?}",
                o.variable, o.declared, o.runs
            )
        });
        differences.push(Difference {
            what: What::RunsOtherwise,
            code: None,
            objects: vec![node.to_owned()],
            title: "the agent runs with other values than its pod declares".to_owned(),
            lines: lines.collect(),
            help: Some(format!(
                "kubectl logs {} -n {} -c {AGENT}   # a value that is not accepted falls back",
                name.name, name.namespace
            )),
        });
    }
    differences
}

/// What the agents believe, against EC2 and Kubernetes.
fn agents(inputs: &Inputs, drift: &mut Drift) {
    for node in inputs.nodes.values() {
        drift.differences.extend(compare::node(inputs, node));
        drift.notes.extend(compare::troubles(inputs, node));
        if let Some(told) = &node.told {
            drift.notes.extend(repairs(&node.name, told));
        }
        match (&node.silent, &node.told) {
            (Some(why), _) => drift
                .not_checked
                .push(format!("addresses by the agent's word: {why}")),
            (None, Some(_)) => drift.told += 1,
            (None, None) => {}
        }
    }
    if drift.told < drift.nodes {
        drift.not_checked.push(format!(
            "addresses, leases and kernel of {} nodes: their agents were not asked (--node NODE=URL)",
            drift.nodes - drift.told
        ));
    }
    drift.differences.extend(compare::leaked(inputs));
}

/// What was put right.
fn repairs(node: &str, told: &Told) -> Vec<String> {
    let Some(state) = &told.state else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    if !state.repairs.counts.is_empty() {
        let counts = state.repairs.counts.iter();
        let counts: Vec<String> = counts.map(|(kind, n)| format!("{n} {kind}")).collect();
        lines.push(format!(
            "{node}: the agent put right since its start: {}",
            counts.join(", ")
        ));
    }
    if state.leases.released > 0 {
        lines.push(format!(
            "{node}: the agent took back {} addresses whose DEL was lost",
            state.leases.released
        ));
    }
    lines
}

/// Images and variables that differ, container by container.
fn compare(declared: &[Container], runs: &[Container]) -> Vec<String> {
    let mut lines = Vec::new();
    for container in declared {
        let Some(other) = runs.iter().find(|c| c.name == container.name) else {
            lines.push(format!(
                "container {}: the DaemonSet has it, the pod has not",
                container.name
            ));
            continue;
        };
        let of = |what: &str| match container.name == AGENT {
            true => what.to_owned(),
            false => format!("{} of {}", what, container.name),
        };
        if container.image != other.image {
            lines.push(format!(
                "{}: DaemonSet {}, this pod {}",
                of("image"),
                container.image,
                other.image
            ));
        }
        let names: BTreeSet<&String> = container.env.keys().chain(other.env.keys()).collect();
        for name in names {
            let (a, b) = (container.env.get(name), other.env.get(name));
            if a != b {
                lines.push(format!(
                    "{}: DaemonSet {}, this pod {}",
                    of(name),
                    value(a),
                    value(b)
                ));
            }
        }
    }
    lines
}

fn value(value: Option<&EnvValue>) -> String {
    match value {
        None => "not set".to_owned(),
        Some(EnvValue::Is(text)) => format!("{text:?}"),
        Some(EnvValue::From(source)) => format!("from {source}"),
        Some(EnvValue::Withheld) => "set (its value is not kept)".to_owned(),
    }
}

/// What the add-on would take away.
fn addon(inputs: &Inputs, cluster: &Cluster, eks: Option<&str>, drift: &mut Drift) {
    let managed: Vec<String> = drift
        .daemon_sets
        .iter()
        .flat_map(|s| s.managed_by.clone())
        .collect();
    let (version, env) = match &inputs.addon {
        None => {
            drift.not_checked.push(
                "the EKS add-on's configuration: the kubeconfig's cluster is not named by an EKS ARN (aws eks update-kubeconfig names it so)".to_owned(),
            );
            return;
        }
        Some(Addon::Absent) => {
            let by = if managed.is_empty() {
                "nobody known".to_owned()
            } else {
                managed.join(", ")
            };
            drift.not_checked.push(format!(
                "what an update would take away: EKS has no add-on vpc-cni here, the DaemonSet is managed by {by}"
            ));
            return;
        }
        Some(Addon::Unread(unread)) => {
            drift.not_checked.push(format!(
                "the EKS add-on's configuration: {}: {}",
                unread.action, unread.reason
            ));
            return;
        }
        Some(Addon::Managed { version, env, .. }) => (version, env),
    };
    for (name, set) in &cluster.daemon_sets {
        let Some(agent) = set.containers.iter().find(|c| c.name == AGENT) else {
            continue;
        };
        let only: Vec<(&String, &String, Option<&String>)> = agent
            .env
            .iter()
            .filter_map(|(variable, value)| match value {
                EnvValue::Is(value) => Some((variable, value)),
                EnvValue::From(_) | EnvValue::Withheld => None,
            })
            .filter(|(variable, value)| differs(variable, value, env.get(*variable)))
            .map(|(variable, value)| (variable, value, env.get(variable)))
            .collect();
        if only.is_empty() {
            continue;
        }
        let run = |variable: &str| runs(cluster, name, variable);
        let lines = only.iter().map(|(variable, value, declared)| {
            let declared = declared.map_or_else(|| "not set".to_owned(), |d| format!("{d:?}"));
            format!(
                "{variable}   add-on: {declared}   DaemonSet: {value:?}   nodes run: {}",
                run(variable)
            )
        });
        let lines = lines.collect();
        let mut whole: BTreeMap<&str, &str> =
            env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        whole.extend(only.iter().map(|(k, v, _)| (k.as_str(), v.as_str())));
        let configuration = serde_json::json!({ "env": whole });
        drift.differences.push(Difference {
            what: What::OnlyInDaemonSet,
            code: Some(Code::Bl0108),
            objects: vec![format!("DaemonSet {name}")],
            title: format!(
                "{} settings live only in the DaemonSet; an update of add-on vpc-cni {version} with --resolve-conflicts OVERWRITE would revert them",
                only.len()
            ),
            lines,
            help: Some(format!(
                "aws eks update-addon --cluster-name {} --addon-name vpc-cni --resolve-conflicts PRESERVE --configuration-values '{configuration}'",
                eks.unwrap_or("CLUSTER")
            )),
        });
    }
}

/// Whether a value of the DaemonSet is neither the add-on's nor the default. Only variables whose
/// default is known are looked at; those that EKS itself fills in are not settings.
fn differs(variable: &str, value: &str, declared: Option<&String>) -> bool {
    const FILLED_IN: [&str; 2] = ["CLUSTER_NAME", "MY_NODE_NAME"];
    if FILLED_IN.contains(&variable) {
        return false;
    }
    match (declared, settings::variable(variable)) {
        (Some(declared), _) => declared != value,
        (None, Some(row)) => !row.default.eq_ignore_ascii_case(value),
        (None, None) => false,
    }
}

/// The values that the agents' pods were started with.
fn runs(cluster: &Cluster, set: &ObjectName, variable: &str) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (name, pod) in cluster
        .pods
        .iter()
        .filter(|(_, p)| !p.containers.is_empty() && !p.deleting)
    {
        let of = pod
            .owner
            .as_ref()
            .map(|o| ObjectName::new(&name.namespace, &o.name));
        let agent = pod.containers.iter().find(|c| c.name == AGENT);
        if let (true, Some(agent)) = (of.as_ref() == Some(set), agent) {
            *counts.entry(value(agent.env.get(variable))).or_default() += 1;
        }
    }
    let parts: Vec<String> = counts.iter().map(|(v, n)| format!("{v} ({n})")).collect();
    match parts.is_empty() {
        true => "no pod".to_owned(),
        false => parts.join(", "),
    }
}

/// Equal differences are told once, with all their nodes.
fn together(differences: &mut Vec<Difference>) {
    let mut kept: Vec<Difference> = Vec::new();
    for difference in differences.drain(..) {
        let same = |k: &&mut Difference| {
            (k.what, &k.title, &k.lines) == (difference.what, &difference.title, &difference.lines)
        };
        match kept.iter_mut().find(same) {
            Some(known) => known.objects.extend(difference.objects),
            None => kept.push(difference),
        }
    }
    kept.sort_by_key(|d| d.what);
    *differences = kept;
}

/// Which of the two happened (S3-01): a group attached to interfaces by hand, or at most a rule changed.
fn groups(inputs: &Inputs, drift: &mut Drift) {
    let kinds = [
        vpc::facts::Kind::Enis,
        vpc::facts::Kind::Instances,
        vpc::facts::Kind::LaunchTemplates,
    ];
    let unread: Vec<String> = kinds
        .into_iter()
        .filter_map(|kind| inputs.world.unread(kind))
        .map(|u| format!("{}: {}", u.action, u.reason))
        .collect();
    let (mut templates, mut none) = (0, 0);
    for node in inputs.nodes.keys() {
        let Ok(instance) = find_instance(inputs, node) else {
            continue;
        };
        match instance.launch_template() {
            Some(_) => templates += 1,
            None => none += 1,
        }
        drift.groups.extend(enis_disagree(inputs, None, instance));
        drift
            .groups
            .extend(template_differs(inputs, None, instance));
    }
    drift.groups_verdict = match (drift.groups.is_empty(), unread.is_empty()) {
        (false, _) => "a group was attached or detached by hand: it holds for the pods of those ENIs only, and not for the next node".to_owned(),
        (true, false) => "not known".to_owned(),
        (true, true) if drift.nodes == 0 => "no node was read".to_owned(),
        (true, true) => {
            let compared = match none {
                0 => "and with its launch template",
                _ if templates == 0 => "(no node has a launch template to compare with)",
                _ => "and, where there is one, with its launch template",
            };
            format!(
                "no group was attached by hand: all ENIs of each node agree {compared}; a changed rule reaches all pods at once"
            )
        }
    };
    drift.unknown.extend(unread);
}
