//! `--add 'deploy/web x30'`: whether pods that do not exist yet would fit, and how many more nodes
//! they need where they do not.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::Serialize;
use vpc::facts::SubnetId;

use super::frame::{Frame, HOST_PODS, Rooms};
use super::{Ceiling, Counted};

/// More pods than anybody means to add at once.
const MOST: u32 = 100_000;
/// More nodes than are tried.
const MOST_NODES: u32 = 5_000;

/// Pods to add: `shop/deploy/web x30`, or `… x30 sgp` for pods with security groups of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wish {
    /// What people call them.
    pub name: String,
    /// How many.
    pub count: u32,
    /// Each needs a branch interface.
    pub branch: bool,
}

/// A wish that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "--add {text:?} is not NAME xCOUNT [sgp], as 'deploy/web x30' or 'shop/deploy/api x20 sgp'"
)]
pub struct BadWish {
    /// The text as given.
    pub text: String,
}

impl FromStr for Wish {
    type Err = BadWish;

    fn from_str(text: &str) -> Result<Self, BadWish> {
        let bad = || BadWish {
            text: text.to_owned(),
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let (name, times, branch) = match words.as_slice() {
            [name, times] => (*name, *times, false),
            [name, times, "sgp"] => (*name, *times, true),
            _ => return Err(bad()),
        };
        let number = times.strip_prefix(['x', '×']).ok_or_else(bad)?;
        let count: u32 = number.parse().map_err(|_| bad())?;
        if !(1..=MOST).contains(&count) {
            return Err(bad());
        }
        Ok(Self {
            name: name.to_owned(),
            count,
            branch,
        })
    }
}

/// What became of the wishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Added {
    /// Each wish with how many of its pods fit.
    pub wishes: Vec<Placed>,
    /// The ceiling that stops the first wish that does not fit.
    pub binds: Option<Ceiling>,
    /// How many more nodes of each type in the cluster would take the rest.
    pub new_nodes: Vec<NewNodes>,
}

impl Added {
    /// Whether all of them fit.
    pub fn fits(&self) -> bool {
        self.wishes.iter().all(|w| w.fit == w.wish.count)
    }
}

/// One wish and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// The wish.
    #[serde(flatten)]
    pub wish: Wish,
    /// Pods that fit on the nodes there are.
    pub fit: u32,
    /// The ceiling that stops the rest on most nodes.
    pub binds: Option<Ceiling>,
}

/// What more nodes of a type would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewNodes {
    /// The type.
    pub instance_type: String,
    /// Where their interfaces would be.
    pub subnets: Vec<SubnetId>,
    /// How many; `None`: no number of them suffices.
    pub nodes: Option<u32>,
    /// What stops at that number, where none suffices.
    pub binds: Option<Ceiling>,
}

/// A node while pods are put on it.
#[derive(Clone)]
struct Filling {
    frame: Frame,
    /// Addresses that no pod has.
    spare: u32,
    /// Pods that kubelet still takes.
    kubelet: u32,
}

impl Filling {
    fn place(&mut self, branch: bool, rooms: &mut Rooms) -> Result<(), Ceiling> {
        if self.kubelet == 0 {
            return Err(Ceiling::MaxPods);
        }
        match branch {
            true => self.branch(rooms)?,
            false => self.shared(rooms)?,
        }
        self.kubelet -= 1;
        Ok(())
    }

    fn shared(&mut self, rooms: &mut Rooms) -> Result<(), Ceiling> {
        if self.spare == 0 {
            if self.frame.open_slots() == 0 {
                return Err(Ceiling::Interfaces);
            }
            self.spare = self.frame.grow(rooms);
        }
        self.spare = self.spare.checked_sub(1).ok_or(Ceiling::Subnet)?;
        Ok(())
    }

    /// A branch interface has one address, of the node's subnet.
    fn branch(&mut self, rooms: &mut Rooms) -> Result<(), Ceiling> {
        let left = self.frame.branches.unwrap_or_default();
        let left = left.checked_sub(1).ok_or(Ceiling::Branches)?;
        let mut near = self.frame.subnets.iter();
        let took = near.any(|id| rooms.get_mut(id).is_some_and(|r| r.take_addresses(1) == 1));
        if !took {
            return Err(Ceiling::Subnet);
        }
        self.frame.branches = Some(left);
        Ok(())
    }
}

/// Puts the wishes on the nodes there are, then counts how many more would be needed. `rooms` is what
/// is left once the pods that are there have their addresses.
pub(super) fn add(counted: &[Counted], mut rooms: Rooms, wishes: &[Wish]) -> Added {
    let open = counted.iter().filter(|c| c.row.closed.is_none());
    let mut nodes: Vec<Filling> = open
        .map(|one| {
            let there = one.row.pods + one.row.waiting;
            Filling {
                spare: one.frame.have.saturating_sub(there),
                kubelet: one
                    .row
                    .max_pods
                    .map_or(u32::MAX, |most| most.saturating_sub(there)),
                frame: one.frame.clone(),
            }
        })
        .collect();
    let mut placed = Vec::new();
    for wish in wishes {
        let fit = put(&mut nodes, &mut rooms, wish.branch, wish.count);
        let binds = match fit < wish.count {
            true => stops(&nodes, &rooms, wish.branch),
            false => None,
        };
        placed.push(Placed {
            wish: wish.clone(),
            fit,
            binds,
        });
    }
    let mut added = Added {
        binds: placed.iter().find_map(|p| p.binds),
        wishes: placed,
        new_nodes: Vec::new(),
    };
    if !added.fits() {
        added.new_nodes = more_nodes(counted, &rooms, &added.wishes);
    }
    added
}

/// The ceiling that one more pod meets on most nodes.
fn stops(nodes: &[Filling], rooms: &Rooms, branch: bool) -> Option<Ceiling> {
    let mut counts: BTreeMap<Ceiling, u32> = BTreeMap::new();
    for node in nodes {
        if let Err(ceiling) = node.clone().place(branch, &mut rooms.clone()) {
            *counts.entry(ceiling).or_default() += 1;
        }
    }
    let most = counts.into_iter().max_by_key(|(_, n)| *n)?;
    Some(most.0)
}

/// Puts pods on nodes, filling one after the other: how many fit.
fn put(nodes: &mut [Filling], rooms: &mut Rooms, branch: bool, count: u32) -> u32 {
    let mut fit = 0;
    for node in nodes {
        while fit < count && node.place(branch, rooms).is_ok() {
            fit += 1;
        }
    }
    fit
}

/// How many more nodes, of each type in each place that there is, would take the rest.
fn more_nodes(counted: &[Counted], rooms: &Rooms, placed: &[Placed]) -> Vec<NewNodes> {
    let mut kinds: BTreeMap<(&str, &[SubnetId]), &Counted> = BTreeMap::new();
    for one in counted {
        let kind = (one.row.instance_type.as_str(), one.frame.subnets.as_slice());
        kinds.entry(kind).or_insert(one);
    }
    let answer = |((name, subnets), like): ((&str, &[SubnetId]), &Counted)| {
        let (nodes, binds) = match needed(like, rooms.clone(), placed) {
            Ok(nodes) => (Some(nodes), None),
            Err(ceiling) => (None, Some(ceiling)),
        };
        NewNodes {
            instance_type: name.to_owned(),
            subnets: subnets.to_vec(),
            nodes,
            binds,
        }
    };
    kinds.into_iter().map(answer).collect()
}

fn needed(like: &Counted, mut rooms: Rooms, placed: &[Placed]) -> Result<u32, Ceiling> {
    let mut rest: Vec<(bool, u32)> = placed
        .iter()
        .map(|p| (p.wish.branch, p.wish.count - p.fit))
        .filter(|(_, n)| *n > 0)
        .collect();
    let row = &like.row;
    // Every new node has the agent and kube-proxy, and what else this one has on its host's network.
    let kubelet = row.max_pods.map_or(u32::MAX, |own| {
        let all = own + row.branch_pods + row.host_pods;
        all.saturating_sub(row.host_pods.max(HOST_PODS))
    });
    for nodes in 1..=MOST_NODES {
        let frame = like.frame.fresh(like.limits, &like.variables, &mut rooms);
        let mut node = Filling {
            frame: frame.ok_or(Ceiling::Subnet)?,
            spare: 0,
            kubelet,
        };
        let mut any = false;
        for (branch, left) in &mut rest {
            let fit = put(std::slice::from_mut(&mut node), &mut rooms, *branch, *left);
            *left -= fit;
            any |= fit > 0;
        }
        rest.retain(|(_, left)| *left > 0);
        match rest.first() {
            None => return Ok(nodes),
            Some((branch, _)) if !any => {
                let stop = node.place(*branch, &mut rooms);
                return Err(stop.err().unwrap_or(Ceiling::MaxPods));
            }
            Some(_) => {}
        }
    }
    Err(Ceiling::MaxPods)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes() {
        let wish: Wish = "shop/deploy/api x20 sgp".parse().unwrap();
        assert_eq!(
            (wish.name.as_str(), wish.count, wish.branch),
            ("shop/deploy/api", 20, true)
        );
        assert!(!"deploy/web x1".parse::<Wish>().unwrap().branch);
        for bad in [
            "",
            "deploy/web",
            "deploy/web 3",
            "deploy/web x0",
            "deploy/web x-1",
            "deploy/web x3 spg",
            "deploy/web x100001",
            "deploy/web x3 sgp more",
        ] {
            assert!(bad.parse::<Wish>().is_err(), "{bad}");
        }
    }
}
