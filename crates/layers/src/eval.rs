//! The evaluator: a layer and a set of packets give a partition of the set, each part with the rule
//! that decided it.

use flowset::FlowSet;

use crate::{Action, Layer, Provenance, SetName, Sets, mutated};

/// One part of an evaluated set: all its packets meet the same fate by the same rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The packets, never none.
    pub flows: FlowSet,
    /// What happens to them.
    pub action: Action,
    /// What decided.
    pub decided: Decided,
}

/// What decided the fate of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decided {
    /// The rule at this index.
    Rule(usize),
    /// No rule matched.
    Default,
    /// A rule names a set that is not known, so that these packets may or may not match it. The
    /// action is then [`Action::Deny`], so that who looks no further fails closed.
    Unresolved {
        /// The index of the rule.
        rule: usize,
        /// The set.
        set: SetName,
    },
}

impl Part {
    /// Where the deciding rule comes from; `None` for the default.
    pub fn source<'a>(&self, layer: &'a Layer) -> Option<&'a Provenance> {
        match &self.decided {
            Decided::Rule(index) | Decided::Unresolved { rule: index, .. } => {
                layer.rules.get(*index).map(|r| &r.source)
            }
            Decided::Default => None,
        }
    }
}

/// Evaluates a layer on a set of packets. The parts are disjoint, none is empty, and together they
/// are the set. The first rule that matches a packet decides.
///
/// A rule with an unknown set takes out every packet it could match, as [`Decided::Unresolved`];
/// compilers that know a union of rules to be order-free put such rules last.
pub fn eval(layer: &Layer, sets: &Sets, flows: &FlowSet) -> Vec<Part> {
    let mut rest = flows.clone();
    let mut parts = Vec::new();
    for index in order(layer) {
        if rest.is_empty() {
            break;
        }
        let rule = &layer.rules[index];
        let (hit, action, decided) = match rule.matches.select(sets, &rest) {
            Some(hit) => (hit, rule.action, Decided::Rule(index)),
            None => unresolved(layer, sets, &rest, index),
        };
        if !hit.is_empty() {
            rest = rest.difference(&hit);
            parts.push(Part {
                flows: hit,
                action,
                decided,
            });
        }
    }
    if !rest.is_empty() {
        let mut action = layer.default;
        if mutated!(DefaultFlipped) {
            action = if action.allows() {
                Action::Deny
            } else {
                Action::Allow { tracked: true }
            };
        }
        parts.push(Part {
            flows: rest,
            action,
            decided: Decided::Default,
        });
    }
    parts
}

fn unresolved(
    layer: &Layer,
    sets: &Sets,
    rest: &FlowSet,
    index: usize,
) -> (FlowSet, Action, Decided) {
    let matches = &layer.rules[index].matches;
    let set = matches
        .unresolved(sets)
        .cloned()
        .unwrap_or_else(|| SetName(String::new()));
    let hit = matches.select_at_most(sets, rest);
    (hit, Action::Deny, Decided::Unresolved { rule: index, set })
}

/// The indices of the rules in the order of evaluation.
fn order(layer: &Layer) -> Vec<usize> {
    let mut order: Vec<usize> = (0..layer.rules.len()).collect();
    if mutated!(LastMatchWins) {
        order.reverse();
    }
    if mutated!(LastRuleForgotten) {
        order.pop();
    }
    order
}
