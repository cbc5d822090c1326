//! Subnets for new interfaces (`ENABLE_SUBNET_DISCOVERY`): which may be used, which comes first.
//!
//! Upstream's rules (vpc-cni.md §4.7): the tag `kubernetes.io/role/cni` with the value 0 excludes a
//! subnet, its interfaces take no new pods; other subnets than the primary interface's need the
//! tag; where it has tags `cni.networking.k8s.aws/cluster/…` besides, this cluster's must be among
//! them. The subnet with the most free addresses comes first.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::Ipv4Net;
use vpc::facts::SubnetId;

use crate::effect::{Call, Effect};
use crate::event::{Failure, FailureKind};
use crate::pool::{Backoff, Eni, Pool};
use crate::types::Millis;

const ROLE_TAG: &str = "kubernetes.io/role/cni";
const CLUSTER_TAGS: &str = "cni.networking.k8s.aws/cluster/";

/// One subnet of the node's zone, as EC2 shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetView {
    /// Its id.
    pub id: SubnetId,
    /// Its IPv4 block.
    pub cidr: Ipv4Net,
    /// Its free addresses (`AvailableIpAddressCount`).
    pub free: u32,
    /// What its tags say; [`SubnetUse::judge`].
    pub usage: SubnetUse,
}

/// What a subnet may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SubnetUse {
    /// New interfaces, and pods.
    Pods,
    /// Not for new interfaces; those that are there serve on.
    NotTagged,
    /// Not for pods: interfaces there take no new ones and give back what is free.
    Excluded,
}

impl SubnetUse {
    /// What a subnet's tags say. `primary`: it is the subnet of the node's primary interface.
    pub fn judge<'a>(
        tags: impl IntoIterator<Item = (&'a str, &'a str)>,
        primary: bool,
        cluster: Option<&str>,
    ) -> Self {
        let (mut role, mut others, mut ours) = (None, false, false);
        for (key, value) in tags {
            if key == ROLE_TAG {
                role = Some(value);
            } else if let Some(name) = key.strip_prefix(CLUSTER_TAGS) {
                ours |= Some(name) == cluster;
                others = true;
            }
        }
        match role {
            Some("0") => Self::Excluded,
            None if primary => Self::Pods,
            None => Self::NotTagged,
            Some(_) if cluster.is_some() && others && !ours => Self::Excluded,
            Some(_) => Self::Pods,
        }
    }
}

/// What is known of the zone's subnets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subnets {
    known: Option<BTreeMap<SubnetId, SubnetView>>,
    asked: Millis,
    /// EC2 is to be asked.
    pub(crate) wish: bool,
    pub(crate) retry: Backoff,
    pub(crate) trouble: Option<Failure>,
}

/// What EC2 told of subnets is not asked for again so soon.
const FRESH: Duration = Duration::from_secs(60);

impl Subnets {
    /// Addresses of a subnet went to us.
    pub(crate) fn took(&mut self, subnet: &SubnetId, n: u32) {
        let known = self.known.as_mut().and_then(|known| known.get_mut(subnet));
        if let Some(known) = known {
            known.free = known.free.saturating_sub(n);
        }
    }

    /// A subnet has less than `n` free, whatever was known; and what was known of others is old.
    pub(crate) fn lacks(&mut self, subnet: &SubnetId, n: u32, now: Millis) {
        let known = self.known.as_mut().and_then(|known| known.get_mut(subnet));
        if let Some(known) = known {
            known.free = known.free.min(n.saturating_sub(1));
        }
        self.wish |= self.asked.after(FRESH) <= now;
    }
}

/// Asks EC2 for the zone's subnets, when that is due.
pub(crate) fn ask(pool: &mut Pool, now: Millis, effects: &mut Vec<Effect>) {
    let asking = pool
        .ops
        .values()
        .any(|call| matches!(call, Call::ShowSubnets));
    let due = pool.subnets.wish && pool.config.discovery && pool.config.provision;
    if !due || asking || pool.node.is_none() || !pool.subnets.retry.open(now) {
        return;
    }
    pool.subnets.wish = false;
    pool.subnets.asked = now;
    pool.call(Call::ShowSubnets, effects);
}

pub(crate) fn shown(pool: &mut Pool, seen: Vec<SubnetView>) {
    pool.subnets.retry = Backoff::default();
    pool.subnets.trouble = None;
    let seen = seen.into_iter().map(|subnet| (subnet.id.clone(), subnet));
    pool.subnets.known = Some(seen.collect());
}

/// Without an answer new interfaces go where the primary one is, as without discovery.
pub(crate) fn failed(pool: &mut Pool, failure: Failure, now: Millis) {
    let (first, most) = match failure.kind {
        FailureKind::Denied => (Duration::from_secs(60), Duration::from_secs(3600)),
        _ => (Duration::from_secs(1), Duration::from_secs(300)),
    };
    let failures = pool.subnets.retry.failures;
    pool.subnets.retry = pool.backed_off(failures, now, first, most);
    pool.subnets.trouble = Some(failure);
    pool.subnets.wish = true;
}

impl Pool {
    /// Whether an interface's subnet is not for pods any more.
    pub fn is_excluded(&self, eni: &Eni) -> bool {
        let known = self.subnets.known.as_ref();
        known
            .and_then(|known| known.get(&eni.subnet))
            .is_some_and(|subnet| subnet.usage == SubnetUse::Excluded)
    }

    /// The zone's subnets as EC2 last showed them, less what went to us since.
    pub fn subnets(&self) -> impl Iterator<Item = &SubnetView> {
        self.subnets.known.iter().flat_map(BTreeMap::values)
    }

    /// Where a new interface may go, the best first; none while that is not known, or when all
    /// subnets are excluded.
    pub(crate) fn places(&self) -> Vec<SubnetId> {
        let Some(primary) = self.node.as_ref().map(|node| node.subnet.clone()) else {
            return Vec::new();
        };
        if !self.config.discovery {
            return vec![primary];
        }
        let Some(known) = &self.subnets.known else {
            // Until the first answer nobody knows of a better place; after a failure none is.
            let unknown = self.subnets.trouble.is_none();
            return if unknown { Vec::new() } else { vec![primary] };
        };
        let mut usable: Vec<&SubnetView> = known
            .values()
            .filter(|subnet| subnet.usage == SubnetUse::Pods)
            .collect();
        usable.sort_by_key(|subnet| (std::cmp::Reverse(subnet.free), subnet.id.clone()));
        if usable.is_empty() && !known.contains_key(&primary) {
            return vec![primary];
        }
        usable.into_iter().map(|subnet| subnet.id.clone()).collect()
    }

    /// Subnets of the zone that may not be used, where none may be.
    pub(crate) fn all_excluded(&self) -> Option<Vec<SubnetId>> {
        let known = self.subnets.known.as_ref()?;
        (self.config.discovery && self.places().is_empty()).then(|| known.keys().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_decide_as_upstreams_do() {
        use SubnetUse::{Excluded, NotTagged, Pods};
        let (ours, theirs) = (
            ("cni.networking.k8s.aws/cluster/shop", "shared"),
            ("cni.networking.k8s.aws/cluster/bank", "shared"),
        );
        let (yes, no) = ((ROLE_TAG, "1"), (ROLE_TAG, "0"));
        for (tags, primary, cluster, expected) in [
            (vec![], true, Some("shop"), Pods),
            (vec![], false, Some("shop"), NotTagged),
            (vec![yes], false, Some("shop"), Pods),
            (vec![no], false, Some("shop"), Excluded),
            (vec![no, ours], true, Some("shop"), Excluded),
            (vec![yes, ours], false, Some("shop"), Pods),
            (vec![yes, theirs], false, Some("shop"), Excluded),
            (vec![yes, theirs, ours], false, Some("shop"), Pods),
            // The clusters' tags say something beside the role's only.
            (vec![theirs], true, Some("shop"), Pods),
            // Without CLUSTER_NAME the clusters' tags say nothing.
            (vec![yes, theirs], false, None, Pods),
            (vec![ours], false, Some("shop"), NotTagged),
        ] {
            let got = SubnetUse::judge(tags.clone(), primary, cluster);
            assert_eq!(got, expected, "{tags:?} {primary} {cluster:?}");
        }
    }
}
