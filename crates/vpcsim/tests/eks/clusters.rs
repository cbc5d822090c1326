//! A cluster from its first call to its last: what the lab sees of it, what the fabric is told, what is left behind.

use std::sync::Arc;

use ec2::eks::*;
use ec2::types::{
    AuthorizeSecurityGroupIngressRequest, CreateSubnetRequest, IpPermission, UserIdGroupPair,
};
use vpcsim::eks::{ClusterStatus, ClusterView};

use crate::{lab, some};

#[tokio::test]
async fn the_lab_sees_clusters_come_change_and_go() {
    let lab = lab().await;
    let eks = lab.sim.eks();
    let mut clusters = eks.clusters();
    assert!(clusters.borrow_and_update().is_empty());
    eks.call(&lab.request("dev")).await.unwrap();
    assert!(clusters.has_changed().unwrap());
    let seen: Arc<Vec<ClusterView>> = clusters.borrow_and_update().clone();
    let dev = &seen[0];
    assert_eq!(
        (dev.name.as_str(), dev.status, dev.version.as_str()),
        ("dev", ClusterStatus::Creating, "1.36")
    );
    assert_eq!(
        dev.service_cidr.to_string(),
        "10.100.0.0/16",
        "the VPC is not of 10/8"
    );
    assert_eq!(dev.vpc.as_str(), lab.vpc);
    assert_eq!(
        dev.security_groups
            .iter()
            .map(|g| g.as_str())
            .collect::<Vec<_>>(),
        [lab.shared.as_str()]
    );
    assert!(dev.public_access && !dev.private_access && dev.self_managed_addons);
    let zones: Vec<_> = dev
        .enis
        .iter()
        .map(|e| (e.device, e.zone.as_str()))
        .collect();
    assert_eq!(zones, [(0, "us-west-2a"), (1, "us-west-2b")]);

    // The fabric is told to plug both into the control plane's host.
    let desired = lab.sim.desired().unwrap();
    for eni in &dev.enis {
        let at = &desired.attachments[&eni.id];
        assert_eq!(
            (at.host.as_str(), at.device),
            (dev.host.as_str(), eni.device)
        );
        let facts = &desired.world.enis[&eni.id];
        assert_eq!(facts.addresses[0].address, eni.address);
        let expected = [
            dev.cluster_security_group.clone(),
            lab.shared.parse().unwrap(),
        ]
        .into();
        assert_eq!(facts.groups, expected);
    }

    lab.nodegroup_refused().await;
    eks.set_cluster_failed("dev", "no etcd").unwrap();
    assert_eq!(
        clusters.borrow_and_update()[0].status,
        ClusterStatus::Failed
    );
    eks.set_cluster_active("dev", "https://127.0.0.1:6443", "Q0E=")
        .unwrap();
    assert_eq!(
        clusters.borrow_and_update()[0].status,
        ClusterStatus::Active
    );
    eks.set_cluster_active("dev", "https://127.0.0.1:6443", "Q0E=")
        .unwrap();
    assert!(
        !clusters.has_changed().unwrap(),
        "the same again is no change"
    );

    lab.nodegroup(3).await;
    let group = lab.view()[0].nodegroups[0].clone();
    assert_eq!(
        (group.labels["role"].as_str(), group.instances.len()),
        ("web", 3)
    );
    assert_eq!(
        (group.taints[0].key.as_str(), group.taints[0].effect),
        ("a", "NoExecute")
    );
    eks.call(&DeleteNodegroupRequest {
        cluster_name: "dev".into(),
        nodegroup_name: "ng".into(),
    })
    .await
    .unwrap();
    assert!(
        lab.view()[0]
            .nodegroups
            .iter()
            .all(|g| g.instances.is_empty())
    );

    eks.call(&DeleteClusterRequest { name: "dev".into() })
        .await
        .unwrap();
    assert!(lab.view().is_empty());
    let desired = lab.sim.desired().unwrap();
    assert!(
        dev.enis
            .iter()
            .all(|e| !desired.world.enis.contains_key(&e.id))
    );
    assert!(
        !desired
            .world
            .groups
            .contains_key(&dev.cluster_security_group)
    );
    assert_eq!(
        eks.set_cluster_active("dev", "", "").unwrap_err().code,
        "ResourceNotFoundException"
    );
}

#[tokio::test]
async fn a_cluster_that_finds_no_address_leaves_nothing() {
    let mut lab = lab().await;
    // A subnet with 11 addresses, all of them taken.
    let request = CreateSubnetRequest {
        vpc_id: some(&lab.vpc),
        cidr_block: some("127.78.9.0/28"),
        availability_zone: some("us-west-2b"),
        ..Default::default()
    };
    let small = lab
        .sim
        .call(&request)
        .await
        .unwrap()
        .subnet
        .unwrap()
        .subnet_id
        .unwrap();
    let request = ec2::types::CreateNetworkInterfaceRequest {
        subnet_id: some(&small),
        secondary_private_ip_address_count: Some(10),
        ..Default::default()
    };
    lab.sim.call(&request).await.unwrap();
    lab.subnets[1] = small;
    let before = lab.sim.desired().unwrap();
    let error = lab.sim.eks().call(&lab.request("dev")).await.unwrap_err();
    assert!(
        error.message.contains("InsufficientFreeAddressesInSubnet"),
        "{error}"
    );
    let after = lab.sim.desired().unwrap();
    assert_eq!(before.world, after.world);
    assert!(lab.view().is_empty());
}

#[tokio::test]
async fn a_group_that_something_uses_outlives_its_cluster() {
    let lab = lab().await;
    let cluster = lab.cluster("dev").await;
    let group = cluster
        .resources_vpc_config
        .cluster_security_group_id
        .unwrap();
    let pair = UserIdGroupPair {
        group_id: some(&group),
        ..Default::default()
    };
    let request = AuthorizeSecurityGroupIngressRequest {
        group_id: some(&lab.shared),
        ip_permissions: vec![IpPermission {
            ip_protocol: some("-1"),
            user_id_group_pairs: vec![pair],
            ..Default::default()
        }],
        ..Default::default()
    };
    lab.sim.call(&request).await.unwrap();
    let deleted = lab
        .sim
        .eks()
        .call(&DeleteClusterRequest { name: "dev".into() })
        .await
        .unwrap()
        .cluster;
    let named = &deleted.health.issues[0].resource_ids;
    assert_eq!(named, std::slice::from_ref(&group));
    assert!(
        lab.sim
            .desired()
            .unwrap()
            .world
            .groups
            .contains_key(&group.parse().unwrap())
    );
}
