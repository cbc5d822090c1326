//! The nodes of a node group: from its record to RunInstances. Source: EKS user guide, "Customize managed nodes with
//! launch templates".

use std::collections::BTreeMap;

use ec2::eks::{self as wire, Issue};
use ec2::types::*;

use super::error::{bad_request, invalid, of_ec2};
use super::store::{Cluster, Nodegroup};
use super::{actions, nodegroup};
use crate::actions::{Action, Context, interface_of_template, launch_template};
use crate::error::{ApiError, ApiResult};
use crate::ids::{InstanceId, ResourceId, SubnetId};
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

fn tags(cluster: &str, nodegroup: &str) -> Vec<Tag> {
    let tag = |key: String, value: &str| Tag {
        key: Some(key),
        value: Some(value.to_owned()),
    };
    vec![
        tag("eks:cluster-name".into(), cluster),
        tag("eks:nodegroup-name".into(), nodegroup),
        tag(format!("kubernetes.io/cluster/{cluster}"), "owned"),
        tag("k8s.io/cluster-autoscaler/enabled".into(), "true"),
        tag(format!("k8s.io/cluster-autoscaler/{cluster}"), "owned"),
    ]
}

/// The launch of one node. Its groups: the launch template's where that names any, else the cluster's; never the
/// additional groups of the control plane.
fn request(
    state: &State,
    cluster: &Cluster,
    group: &wire::Nodegroup,
    subnet: SubnetId,
) -> ApiResult<RunInstancesRequest> {
    let own_group = || vec![cluster.group.to_string()];
    let role = actions::role_name("nodeRole", &group.node_role)?;
    let mut request = RunInstancesRequest {
        min_count: Some(1),
        max_count: Some(1),
        instance_type: group.instance_types.first().cloned(),
        iam_instance_profile: Some(IamInstanceProfileSpecification {
            name: Some(role.to_owned()),
            ..Default::default()
        }),
        tag_specifications: vec![TagSpecification {
            resource_type: Some("instance".into()),
            tags: tags(&group.cluster_name, &group.nodegroup_name),
        }],
        ..Default::default()
    };
    let Some(spec) = &group.launch_template else {
        request.image_id = Some(IMAGE.into());
        request.subnet_id = Some(subnet.to_string());
        request.security_group_ids = own_group();
        request.metadata_options = Some(InstanceMetadataOptionsRequest {
            http_tokens: Some("required".into()),
            http_put_response_hop_limit: Some(HOP_LIMIT),
            ..Default::default()
        });
        return Ok(request);
    };
    let data = template_data(state, spec)?;
    request.launch_template = Some(of_wire(spec));
    if data.image_id.is_none() {
        request.image_id = Some(IMAGE.into());
    }
    if data.network_interfaces.is_empty() {
        request.subnet_id = Some(subnet.to_string());
        if data.security_group_ids.is_empty() {
            request.security_group_ids = own_group();
        }
        return Ok(request);
    }
    request.network_interfaces = data
        .network_interfaces
        .iter()
        .map(interface_of_template)
        .collect();
    for interface in &mut request.network_interfaces {
        interface.subnet_id = Some(subnet.to_string());
        if interface.groups.is_empty() {
            interface.groups = match data.security_group_ids.is_empty() {
                true => own_group(),
                false => data.security_group_ids.clone(),
            };
        }
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
    let request = request(cx.state, record, &nodegroup.wire, subnet)?;
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
