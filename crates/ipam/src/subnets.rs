//! Subnets for new interfaces (`ENABLE_SUBNET_DISCOVERY`): which may be used, which comes first.
//!
//! Upstream's rules (vpc-cni.md §4.7): the tag `kubernetes.io/role/cni` with the value 0 excludes a
//! subnet, its interfaces take no new pods; other subnets than the primary interface's need the
//! tag; where it has tags `cni.networking.k8s.aws/cluster/…` besides, this cluster's must be among
//! them. The subnet with the most free addresses comes first.

use ipnet::Ipv4Net;
use vpc::facts::SubnetId;

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
