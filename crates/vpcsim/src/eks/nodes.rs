//! The nodes of a node group: from its record to RunInstances. Source: EKS user guide, "Customize managed nodes with
//! launch templates".

use std::collections::BTreeMap;

use ec2::eks::{self as wire, Issue};
use ec2::types::*;

use super::error::{bad_request, invalid, of_ec2};
use super::store::Nodegroup;
use super::{actions, nodegroup};
use crate::actions::{Action, Caller, Context, interface_of_template, launch_template};
use crate::error::{ApiError, ApiResult};
use crate::ids::{InstanceId, ResourceId, SubnetId, TemplateId};
use crate::store::State;

/// Images are not modelled; RunInstances wants one.
const IMAGE: &str = "ami-0e4b5a6c7d8f90123";
/// What EKS sets on nodes without a launch template of the user.
const HOP_LIMIT: i32 = 2;

/// The user's launch template, checked for what EKS refuses in one.
pub(super) fn template_data(
    state: &State,
    spec: &wire::LaunchTemplateSpecification,
) -> ApiResult<RequestLaunchTemplateData> {
    let data = launch_template(state, &of_wire(spec)).map_err(of_ec2)?;
    let refused = [
        (
            data.iam_instance_profile.is_some(),
            "an IAM instance profile: the node role takes its place",
        ),
        (
            data.network_interfaces
                .iter()
                .any(|i| i.subnet_id.is_some()),
            "a subnet: the node group's take its place",
        ),
    ];
    match refused.iter().find(|(is, _)| *is) {
        Some((_, what)) => Err(bad_request(format_args!(
            "The launch template of a node group cannot name {what}."
        ))),
        None => Ok(data),
    }
}

fn of_wire(spec: &wire::LaunchTemplateSpecification) -> LaunchTemplateSpecification {
    LaunchTemplateSpecification {
        launch_template_id: spec.id.clone(),
        launch_template_name: spec.name.clone().filter(|_| spec.id.is_none()),
        version: spec.version.clone(),
    }
}

fn tag(key: impl Into<String>, value: &str) -> Tag {
    Tag {
        key: Some(key.into()),
        value: Some(value.to_owned()),
    }
}

/// What EKS puts on everything that it makes for a group.
fn eks_tags(cluster: &str, nodegroup: &str) -> Vec<Tag> {
    vec![
        tag("eks:cluster-name", cluster),
        tag("eks:nodegroup-name", nodegroup),
    ]
}

fn tags(cluster: &str, nodegroup: &str) -> Vec<Tag> {
    let mut tags = eks_tags(cluster, nodegroup);
    tags.extend([
        tag(format!("kubernetes.io/cluster/{cluster}"), "owned"),
        tag("k8s.io/cluster-autoscaler/enabled", "true"),
        tag(format!("k8s.io/cluster-autoscaler/{cluster}"), "owned"),
    ]);
    tags
}

/// Makes the group's own launch template `eks-ID`, from which all its nodes are launched: a copy of the user's, or a
/// new one. Groups of its nodes: the user's template's where that names any, else the cluster's; never the additional
/// groups of the control plane. A later version of the user's template does not change it.
pub(super) fn own_template(
    cx: &mut Context<'_>,
    cluster: &str,
    group: &wire::Nodegroup,
    id: &str,
) -> ApiResult<TemplateId> {
    let mut data = match &group.launch_template {
        Some(spec) => template_data(cx.state, spec)?,
        None => RequestLaunchTemplateData {
            metadata_options: Some(LaunchTemplateInstanceMetadataOptionsRequest {
                http_tokens: Some("required".into()),
                http_put_response_hop_limit: Some(HOP_LIMIT),
                ..Default::default()
            }),
            ..Default::default()
        },
    };
    let role = actions::role_name("nodeRole", &group.node_role)?;
    data.iam_instance_profile = Some(LaunchTemplateIamInstanceProfileSpecificationRequest {
        name: Some(role.to_owned()),
        ..Default::default()
    });
    data.image_id.get_or_insert_with(|| IMAGE.into());
    let none = data.security_group_ids.is_empty();
    let groups = match none {
        true => vec![cx.state.eks.cluster(cluster)?.group.to_string()],
        false => data.security_group_ids.clone(),
    };
    if data.network_interfaces.is_empty() {
        data.security_group_ids = groups;
    } else {
        let silent = |i: &&mut LaunchTemplateInstanceNetworkInterfaceSpecificationRequest| {
            i.groups.is_empty()
        };
        let interfaces = data.network_interfaces.iter_mut().filter(silent);
        interfaces.for_each(|i| i.groups = groups.clone());
    }
    let request = CreateLaunchTemplateRequest {
        launch_template_name: Some(format!("eks-{id}")),
        launch_template_data: Some(data),
        tag_specifications: vec![TagSpecification {
            resource_type: Some("launch-template".into()),
            tags: eks_tags(cluster, &group.nodegroup_name),
        }],
        ..Default::default()
    };
    // Its author is the service, not who asked for the group.
    let account = cx.caller.account.clone();
    let service = Caller {
        arn: format!("arn:aws:sts::{account}:assumed-role/AWSServiceRoleForAmazonEKSNodegroup/EKS"),
        ..Caller::root(&account)
    };
    let made = request.run(&mut Context {
        state: cx.state,
        caller: &service,
        now: cx.now,
    });
    let made = made.map_err(of_ec2)?.launch_template;
    let made = made.and_then(|t| t.launch_template_id).unwrap_or_default();
    TemplateId::parse(&made)?.ok_or_else(|| TemplateId::not_found(&made))
}

/// The launch of one node from the group's own template.
fn request(state: &State, group: &Nodegroup, subnet: SubnetId) -> ApiResult<RunInstancesRequest> {
    let wire = &group.wire;
    let template = LaunchTemplateSpecification {
        launch_template_id: Some(group.template.to_string()),
        version: Some("1".into()),
        ..Default::default()
    };
    let data = launch_template(state, &template)?;
    let mut request = RunInstancesRequest {
        min_count: Some(1),
        max_count: Some(1),
        launch_template: Some(template),
        instance_type: wire.instance_types.first().cloned(),
        tag_specifications: vec![TagSpecification {
            resource_type: Some("instance".into()),
            tags: tags(&wire.cluster_name, &wire.nodegroup_name),
        }],
        ..Default::default()
    };
    if data.network_interfaces.is_empty() {
        request.subnet_id = Some(subnet.to_string());
        return Ok(request);
    }
    let interfaces = data.network_interfaces.iter().map(interface_of_template);
    request.network_interfaces = interfaces.collect();
    for interface in &mut request.network_interfaces {
        interface.subnet_id = Some(subnet.to_string());
    }
    Ok(request)
}

/// The subnet that has the fewest nodes of the group, the first one of several.
fn next_subnet(state: &State, group: &Nodegroup) -> Option<SubnetId> {
    let mut nodes: BTreeMap<SubnetId, usize> = BTreeMap::new();
    for id in nodegroup::alive(state, group) {
        *nodes.entry(state.instances[&id].subnet).or_default() += 1;
    }
    group
        .subnets
        .iter()
        .copied()
        .min_by_key(|s| nodes.get(s).copied().unwrap_or(0))
}

fn launch_one(cx: &mut Context<'_>, cluster: &str, group: &str) -> ApiResult<InstanceId> {
    let record = cx.state.eks.cluster(cluster)?;
    let nodegroup = nodegroup::find(record, group)?;
    let subnet = next_subnet(cx.state, nodegroup)
        .ok_or_else(|| invalid("The node group has no subnets."))?;
    let request = request(cx.state, nodegroup, subnet)?;
    let reservation = request.run(cx)?;
    let launched = reservation
        .instances
        .first()
        .and_then(|i| i.instance_id.as_deref())
        .unwrap_or_default();
    let id = InstanceId::parse(launched)?.ok_or_else(|| InstanceId::not_found(launched))?;
    let nodegroup = nodegroup::find_mut(cx.state, cluster, group)?;
    let scaling_group = nodegroup
        .wire
        .resources
        .auto_scaling_groups
        .first()
        .map(|g| g.name.clone());
    nodegroup.instances.push(id);
    // Users cannot set tags of AWS; the services do.
    let own = cx.state.tags.entry(id.to_string()).or_default();
    own.insert("aws:eks:cluster-name".into(), cluster.to_owned());
    own.extend(scaling_group.map(|name| ("aws:autoscaling:groupName".to_owned(), name)));
    Ok(id)
}

/// Launches or ends nodes until the group has its desired size. Nodes that EC2 refuses become an issue of the group,
/// as on AWS, where they are launched later than the call.
pub(super) fn scale(cx: &mut Context<'_>, cluster: &str, group: &str) -> ApiResult<()> {
    let nodegroup = nodegroup::find(cx.state.eks.cluster(cluster)?, group)?;
    let wanted = nodegroup
        .wire
        .scaling_config
        .desired_size
        .unwrap_or(0)
        .max(0) as usize;
    let alive = nodegroup::alive(cx.state, nodegroup);
    if alive.len() > wanted {
        // The newest first.
        let ending: Vec<InstanceId> = alive[wanted..].to_vec();
        return end(cx, &ending);
    }
    let mut refused = None;
    for _ in alive.len()..wanted {
        if let Err(error) = launch_one(cx, cluster, group) {
            refused = Some(error);
            break;
        }
    }
    let nodegroup = nodegroup::find_mut(cx.state, cluster, group)?;
    nodegroup.wire.health.issues.clear();
    if let Some(ApiError { code, message }) = refused {
        let message = format!("Could not launch instances: {code}: {message}");
        nodegroup.wire.health.issues.push(Issue {
            code: "AsgInstanceLaunchFailures".into(),
            message,
            resource_ids: Vec::new(),
        });
    }
    Ok(())
}

/// Ends nodes.
pub(super) fn end(cx: &mut Context<'_>, instances: &[InstanceId]) -> ApiResult<()> {
    if instances.is_empty() {
        return Ok(());
    }
    let instance_ids = instances.iter().map(ToString::to_string).collect();
    let request = TerminateInstancesRequest {
        instance_ids,
        ..Default::default()
    };
    request.run(cx).map(drop).map_err(of_ec2)
}
