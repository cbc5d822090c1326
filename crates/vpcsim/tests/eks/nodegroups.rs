//! Groups of nodes: the launch template each is made from, and what a call that is refused leaves as it was.

use ec2::eks::*;
use ec2::types::{
    CreateLaunchTemplateRequest, CreateLaunchTemplateVersionRequest, DescribeInstancesRequest,
    DescribeLaunchTemplateVersionsRequest, DescribeLaunchTemplatesRequest, LaunchTemplateVersion,
    ModifyLaunchTemplateRequest, RequestLaunchTemplateData,
};

use crate::{Lab, NODE_ROLE, lab, some};

#[tokio::test]
async fn a_call_that_is_refused_changes_nothing() {
    let lab = lab().await;
    lab.cluster("dev").await;
    lab.nodegroup(2).await;
    let protect = ec2::types::ModifyInstanceAttributeRequest {
        instance_id: Some(lab.view()[0].nodegroups[0].instances[1].to_string()),
        disable_api_termination: Some(ec2::types::AttributeBooleanValue { value: Some(true) }),
        ..Default::default()
    };
    lab.sim.call(&protect).await.unwrap();
    let before = lab.view();
    let request = UpdateNodegroupConfigRequest {
        cluster_name: "dev".into(),
        nodegroup_name: "ng".into(),
        scaling_config: Some(NodegroupScalingConfig {
            desired_size: Some(1),
            ..Default::default()
        }),
        labels: Some(UpdateLabelsPayload {
            remove_labels: vec!["role".into()],
            ..Default::default()
        }),
        ..Default::default()
    };
    let error = lab.sim.eks().call(&request).await.unwrap_err();
    assert!(error.message.contains("may not be terminated"), "{error}");
    assert_eq!(lab.view(), before);
}

impl Lab {
    /// Versions of launch templates that were made for the group `ng`, and what its nodes say they are made from.
    async fn own_templates(&self) -> (Vec<LaunchTemplateVersion>, Vec<(String, String)>) {
        let every = DescribeLaunchTemplatesRequest::default();
        let all = self.sim.call(&every).await.unwrap().launch_templates;
        let own = all.iter().filter(|t| {
            let name = t.launch_template_name.as_deref().unwrap();
            let tags = t
                .tags
                .iter()
                .map(|t| (t.key.as_deref(), t.value.as_deref()));
            name.starts_with("eks-")
                && tags.eq([
                    (Some("eks:cluster-name"), Some("dev")),
                    (Some("eks:nodegroup-name"), Some("ng")),
                ])
        });
        let mut versions = Vec::new();
        for template in own {
            let request = DescribeLaunchTemplateVersionsRequest {
                launch_template_id: template.launch_template_id.clone(),
                ..Default::default()
            };
            let found = self.sim.call(&request).await.unwrap();
            versions.extend(found.launch_template_versions);
        }
        let every = DescribeInstancesRequest::default();
        let nodes = self.sim.call(&every).await.unwrap().reservations;
        let nodes = nodes.into_iter().flat_map(|r| r.instances);
        let tag = |i: &ec2::types::Instance, key: &str| {
            let tag = i.tags.iter().find(|t| t.key.as_deref() == Some(key));
            tag.and_then(|t| t.value.clone()).unwrap()
        };
        let tags = nodes.map(|i| {
            let made_of = |part| tag(&i, &format!("aws:ec2launchtemplate:{part}"));
            (made_of("id"), made_of("version"))
        });
        (versions, tags.collect())
    }

    async fn delete_nodegroup(&self) {
        let request = DeleteNodegroupRequest {
            cluster_name: "dev".into(),
            nodegroup_name: "ng".into(),
        };
        self.sim.eks().call(&request).await.unwrap();
    }
}

#[tokio::test]
async fn a_group_without_a_template_of_the_user_gets_one_of_its_own() {
    let lab = lab().await;
    let cluster = lab.cluster("dev").await;
    let group = lab.nodegroup(2).await;
    assert!(group.launch_template.is_none(), "it names the user's alone");

    let (versions, nodes) = lab.own_templates().await;
    let [version] = &versions[..] else {
        panic!("one template with one version: {versions:?}")
    };
    let id = group.nodegroup_arn.rsplit('/').next().unwrap();
    assert_eq!(version.launch_template_name, some(format_args!("eks-{id}")));
    assert!(
        version
            .created_by
            .as_deref()
            .unwrap()
            .ends_with("Nodegroup/EKS")
    );
    let data = version.launch_template_data.as_ref().unwrap();
    let config = cluster.resources_vpc_config;
    assert_eq!(
        data.security_group_ids,
        [config.cluster_security_group_id.unwrap()]
    );
    assert_eq!(
        data.metadata_options
            .as_ref()
            .unwrap()
            .http_put_response_hop_limit,
        Some(2)
    );
    let lt = version.launch_template_id.clone().unwrap();
    assert_eq!(nodes, vec![(lt, "1".to_owned()); 2]);

    lab.delete_nodegroup().await;
    let list = ListNodegroupsRequest {
        cluster_name: "dev".into(),
        ..Default::default()
    };
    assert!(
        lab.sim
            .eks()
            .call(&list)
            .await
            .unwrap()
            .nodegroups
            .is_empty()
    );
    let (versions, _) = lab.own_templates().await;
    assert!(versions.is_empty(), "it goes with the group: {versions:?}");
}

#[tokio::test]
async fn a_group_copies_the_template_of_the_user() {
    let lab = lab().await;
    let cluster = lab.cluster("dev").await;
    let data = |groups: Vec<String>| {
        Some(RequestLaunchTemplateData {
            instance_type: some("m5.large"),
            security_group_ids: groups,
            ..Default::default()
        })
    };
    let request = CreateLaunchTemplateRequest {
        launch_template_name: some("users"),
        launch_template_data: data(vec![lab.shared.clone()]),
        ..Default::default()
    };
    let users = lab
        .sim
        .call(&request)
        .await
        .unwrap()
        .launch_template
        .unwrap();
    let request = CreateNodegroupRequest {
        cluster_name: "dev".into(),
        nodegroup_name: "ng".into(),
        node_role: NODE_ROLE.into(),
        subnets: lab.subnets.clone(),
        launch_template: Some(LaunchTemplateSpecification {
            name: some("users"),
            ..Default::default()
        }),
        ..Default::default()
    };
    let group = lab.sim.eks().call(&request).await.unwrap().nodegroup;
    assert_eq!(group.launch_template, request.launch_template);

    // A later version of the user's is not the group's.
    let later = CreateLaunchTemplateVersionRequest {
        launch_template_name: some("users"),
        launch_template_data: data(Vec::new()),
        ..Default::default()
    };
    lab.sim.call(&later).await.unwrap();
    let default = ModifyLaunchTemplateRequest {
        launch_template_name: some("users"),
        default_version: some(2),
        ..Default::default()
    };
    lab.sim.call(&default).await.unwrap();
    let more = UpdateNodegroupConfigRequest {
        cluster_name: "dev".into(),
        nodegroup_name: "ng".into(),
        scaling_config: Some(NodegroupScalingConfig {
            max_size: Some(3),
            desired_size: Some(3),
            ..Default::default()
        }),
        ..Default::default()
    };
    lab.sim.eks().call(&more).await.unwrap();

    let (versions, nodes) = lab.own_templates().await;
    let [copy] = &versions[..] else {
        panic!("one template with one version: {versions:?}")
    };
    let own = copy.launch_template_data.as_ref().unwrap();
    assert_eq!(own.security_group_ids, std::slice::from_ref(&lab.shared));
    assert_eq!(own.instance_type, some("m5.large"));
    assert_ne!(copy.launch_template_id, users.launch_template_id);
    let lt = copy.launch_template_id.clone().unwrap();
    assert_eq!(nodes, vec![(lt, "1".to_owned()); 3]);
    assert_ne!(
        own.security_group_ids,
        [cluster
            .resources_vpc_config
            .cluster_security_group_id
            .unwrap()]
    );

    lab.delete_nodegroup().await;
    lab.sim
        .eks()
        .call(&DescribeClusterRequest { name: "dev".into() })
        .await
        .unwrap();
    let every = DescribeLaunchTemplatesRequest::default();
    let left = lab.sim.call(&every).await.unwrap().launch_templates;
    let names: Vec<_> = left
        .iter()
        .map(|t| t.launch_template_name.as_deref())
        .collect();
    assert_eq!(names, [Some("users")]);
}
