//! An nft table as data: what is wanted, how to write it, and the smallest transaction from one to another.
//!
//! The problem: replacing a whole table on every change costs time linear in the VPC, and loses counters.
//! Invariant: [`Ruleset::transaction`] only names what differs, in an order in which nothing is referenced
//! before it exists or deleted while referenced, so it either applies as a whole or not at all. Connection
//! tracking entries, and with them the marks that make groups stateful, live outside the table and survive
//! every transaction. Kernel: concatenated interval sets need Linux 5.6.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::mutants::mutated;

/// Family and name of the table in every namespace of the fabric.
pub const TABLE: &str = "ip vpc";

/// A named set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The key's type as nft writes it, e.g. `ifname . ipv4_addr`.
    pub key: &'static str,
    /// The value's type for a map, e.g. `verdict`.
    pub value: Option<&'static str>,
    /// True when elements are prefixes or ranges.
    pub interval: bool,
    /// Key text to value text (empty for a set).
    pub elements: BTreeMap<String, String>,
}

impl Set {
    /// An empty set of exact keys.
    pub fn exact(key: &'static str) -> Self {
        Self {
            key,
            value: None,
            interval: false,
            elements: BTreeMap::new(),
        }
    }

    /// An empty set of prefixes or ranges.
    pub fn interval(key: &'static str) -> Self {
        Self {
            interval: true,
            ..Self::exact(key)
        }
    }

    /// An empty map.
    pub fn map(key: &'static str, value: &'static str) -> Self {
        Self {
            value: Some(value),
            ..Self::exact(key)
        }
    }

    /// Adds a member.
    pub fn insert(&mut self, key: impl Into<String>) {
        self.elements.insert(key.into(), String::new());
    }

    /// Adds or replaces a map's element.
    pub fn put(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.elements.insert(key.into(), value.into());
    }

    fn same_shape(&self, other: &Self) -> bool {
        (self.key, self.value, self.interval) == (other.key, other.value, other.interval)
    }

    fn keyword(&self) -> &'static str {
        if self.value.is_some() { "map" } else { "set" }
    }

    fn declaration(&self) -> String {
        let value = self
            .value
            .map(|value| format!(" : {value}"))
            .unwrap_or_default();
        let flags = if self.interval {
            " flags interval;"
        } else {
            ""
        };
        format!("{{ type {}{value};{flags} }}", self.key)
    }
}

fn element(key: &str, value: &str) -> String {
    if value.is_empty() {
        key.to_owned()
    } else {
        format!("{key} : {value}")
    }
}

/// A chain: a base chain when `hook` is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// `type filter hook forward priority 0; policy drop;`
    pub hook: Option<&'static str>,
    /// One statement line each.
    pub rules: Vec<String>,
}

/// The whole table of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
}

impl Ruleset {
    /// The table as one readable text, as `nft list table` shows it: for snapshots and people.
    pub fn render(&self) -> String {
        let mut out = format!("table {TABLE} {{\n");
        for (name, set) in &self.sets {
            let _ = writeln!(out, "  {} {name} {}", set.keyword(), set.declaration());
            for (key, value) in &set.elements {
                let _ = writeln!(out, "    {}", element(key, value));
            }
        }
        for (name, chain) in &self.chains {
            let _ = writeln!(out, "  chain {name} {{");
            if let Some(hook) = chain.hook {
                let _ = writeln!(out, "    {hook}");
            }
            for rule in &chain.rules {
                let _ = writeln!(out, "    {rule}");
            }
            out.push_str("  }\n");
        }
        out.push_str("}\n");
        out
    }

    /// The transaction that makes the table this one whatever was there before (first start, or after a crash
    /// when what is in the kernel is not known). Atomic: open connections notice nothing.
    pub fn replacement(&self) -> String {
        let mut out = format!("add table {TABLE}\ndelete table {TABLE}\nadd table {TABLE}\n");
        out.push_str(&self.additions(&Ruleset::default()));
        out
    }

    /// The smallest transaction from `self` to `to`; `None` when nothing differs.
    pub fn transaction(&self, to: &Ruleset) -> Option<String> {
        let mut out = to.additions(self);
        self.removals(to, &mut out);
        (!out.is_empty()).then_some(out)
    }

    /// Declares what is new, replaces chains that differ, moves elements.
    fn additions(&self, from: &Ruleset) -> String {
        let mut out = String::new();
        for (name, set) in &self.sets {
            if !from.sets.get(name).is_some_and(|old| old.same_shape(set)) {
                let _ = writeln!(
                    out,
                    "add {} {TABLE} {name} {}",
                    set.keyword(),
                    set.declaration()
                );
            }
        }
        for (name, chain) in &self.chains {
            if !from.chains.contains_key(name) {
                let hook = chain
                    .hook
                    .map(|hook| format!(" {{ {hook} }}"))
                    .unwrap_or_default();
                let _ = writeln!(out, "add chain {TABLE} {name}{hook}");
            }
        }
        for (name, chain) in &self.chains {
            let old = from.chains.get(name);
            if old.is_some_and(|old| old.rules == chain.rules) {
                continue;
            }
            if old.is_some_and(|old| !old.rules.is_empty()) {
                let _ = writeln!(out, "flush chain {TABLE} {name}");
            }
            for rule in &chain.rules {
                let _ = writeln!(out, "add rule {TABLE} {name} {rule}");
            }
        }
        let nothing = BTreeMap::new();
        for (name, set) in &self.sets {
            if mutated!(MembershipNotUpdated) && name.starts_with("sg_") && !from.sets.is_empty() {
                continue;
            }
            let old = from.sets.get(name).map_or(&nothing, |old| &old.elements);
            let gone = old
                .iter()
                .filter(|(key, value)| set.elements.get(*key) != Some(*value));
            elements(&mut out, "delete", name, gone);
            let new = set
                .elements
                .iter()
                .filter(|(key, value)| old.get(*key) != Some(*value));
            elements(&mut out, "add", name, new);
        }
        out
    }

    /// Deletes chains and sets that `to` no longer has; chains are emptied first, as they may name each other.
    fn removals(&self, to: &Ruleset, out: &mut String) {
        let chains: Vec<_> = self
            .chains
            .keys()
            .filter(|name| !to.chains.contains_key(*name))
            .collect();
        let sets: Vec<_> = self
            .sets
            .iter()
            .filter(|(name, _)| !to.sets.contains_key(*name))
            .collect();
        for name in &chains {
            let _ = writeln!(out, "flush chain {TABLE} {name}");
        }
        for (name, set) in &sets {
            let _ = writeln!(out, "flush {} {TABLE} {name}", set.keyword());
        }
        for name in &chains {
            let _ = writeln!(out, "delete chain {TABLE} {name}");
        }
        for (name, set) in &sets {
            let _ = writeln!(out, "delete {} {TABLE} {name}", set.keyword());
        }
    }
}

/// One command for all elements: nft reads the whole set once per command on it, not once per element.
fn elements<'a>(
    out: &mut String,
    verb: &str,
    set: &str,
    list: impl Iterator<Item = (&'a String, &'a String)>,
) {
    let list: Vec<_> = list.map(|(key, value)| element(key, value)).collect();
    if !list.is_empty() {
        let _ = writeln!(
            out,
            "{verb} element {TABLE} {set} {{ {} }}",
            list.join(", ")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Ruleset {
        let mut ruleset = Ruleset::default();
        let mut group = Set::interval("ipv4_addr");
        group.insert("10.0.1.10");
        let mut dispatch = Set::map("ifname", "verdict");
        dispatch.put("\"pa\"", "jump group_a");
        ruleset.sets.insert("sg_a".into(), group);
        ruleset.sets.insert("egress".into(), dispatch);
        ruleset.chains.insert(
            "group_a".into(),
            Chain {
                hook: None,
                rules: vec!["ip daddr @sg_a return".into(), "drop".into()],
            },
        );
        ruleset.chains.insert(
            "groups".into(),
            Chain {
                hook: Some("type filter hook forward priority 0; policy drop;"),
                rules: vec!["iifname vmap @egress".into()],
            },
        );
        ruleset
    }

    #[test]
    fn no_difference_is_no_transaction() {
        assert_eq!(sample().transaction(&sample()), None);
    }

    #[test]
    fn membership_is_one_element_and_no_rule() {
        let mut to = sample();
        to.sets.get_mut("sg_a").unwrap().insert("10.0.1.11");
        assert_eq!(
            sample().transaction(&to).unwrap(),
            "add element ip vpc sg_a { 10.0.1.11 }\n"
        );
    }

    #[test]
    fn a_chain_goes_after_the_element_that_names_it() {
        let mut to = sample();
        to.chains.remove("group_a");
        to.chains.insert(
            "group_b".into(),
            Chain {
                hook: None,
                rules: vec!["drop".into()],
            },
        );
        to.sets
            .get_mut("egress")
            .unwrap()
            .put("\"pa\"", "jump group_b");
        insta::assert_snapshot!(sample().transaction(&to).unwrap());
    }

    #[test]
    fn replacement_is_one_text() {
        insta::assert_snapshot!(sample().replacement());
    }
}
