//! Managed node groups. Source: EKS API reference, CreateNodegroup; EKS user guide, "Managed node groups".
//!
//! Instances that end by themselves are not replaced: no Auto Scaling group works behind a node group here.
//! UpdateNodegroupConfig brings it back to its size.

use ec2::eks::*;
use ec2::limits;

use super::actions::{EksAction, arn, check_name, check_tags, page, role_name, uuid};
use super::catalog::{KUBERNETES_VERSION, RELEASE_VERSION};
use super::error::{bad_request, in_use, invalid, not_found, of_ec2};
use super::store::{self, Cluster};
use super::update::{self, Target};
use super::{access, nodes};
use crate::actions::Context;
use crate::error::ApiResult;
use crate::ids::{InstanceId, SubnetId};
use crate::store::{InstanceState, State};

const EFFECTS: [&str; 3] = ["NO_SCHEDULE", "NO_EXECUTE", "PREFER_NO_SCHEDULE"];
const RESERVED: [&str; 3] = ["kubernetes.io/", "k8s.io/", "eks.amazonaws.com/"];
const DEFAULT_TYPE: &str = "t3.medium";

pub(super) fn find<'c>(cluster: &'c Cluster, name: &str) -> ApiResult<&'c store::Nodegroup> {
    cluster.nodegroups.get(name).ok_or_else(|| no_group(name))
}

pub(super) fn find_mut<'s>(
    state: &'s mut State,
    cluster: &str,
    name: &str,
) -> ApiResult<&'s mut store::Nodegroup> {
    state
        .eks
        .cluster_mut(cluster)?
        .nodegroups
        .get_mut(name)
        .ok_or_else(|| no_group(name))
}

fn no_group(name: &str) -> crate::error::ApiError {
    not_found(format_args!("No node group found for name: {name}."))
}

/// The nodes that are not on their way out, in the order of their launch.
pub(super) fn alive(state: &State, group: &store::Nodegroup) -> Vec<InstanceId> {
    let alive = |id: &InstanceId| state.instances.get(id).is_some_and(|i| !i.state.ends());
    group.instances.iter().copied().filter(alive).collect()
}

/// Forgets node groups that were deleted and whose nodes have ended, and removes their launch templates.
pub(super) fn forget_ended(state: &mut State) {
    let instances = &state.instances;
    let mut templates = Vec::new();
    for cluster in state.eks.clusters.values_mut() {
        cluster.nodegroups.retain(|_, group| {
            let there = |id: &InstanceId| {
                instances
                    .get(id)
                    .is_some_and(|i| i.state != InstanceState::Terminated)
            };
            let stays = group.wire.status != "DELETING" || group.instances.iter().any(there);
            if !stays {
                templates.push(group.template);
            }
            stays
        });
    }
    for template in templates {
        // The user may have deleted it already.
        state.templates.remove(&template);
        state.drop_tags(template);
    }
}

/// The group as it is shown: its status follows from its nodes.
fn shown(state: &State, group: &store::Nodegroup) -> Nodegroup {
    let mut wire = group.wire.clone();
    let running = |id: &InstanceId| state.instances[id].state == InstanceState::Running;
    let failed = !wire.health.issues.is_empty();
    wire.status = match wire.status.as_str() {
        "DELETING" => "DELETING",
        "CREATING" if failed => "CREATE_FAILED",
        _ if failed => "DEGRADED",
        _ if alive(state, group).iter().all(running) => "ACTIVE",
        _ => "CREATING",
    }
    .to_owned();
    wire
}

fn subnets(state: &State, cluster: &Cluster, texts: &[String]) -> ApiResult<Vec<SubnetId>> {
    let mut subnets = Vec::new();
    for text in texts {
        let (id, subnet) = state.subnets.find(text).map_err(of_ec2)?;
        if subnet.vpc != cluster.vpc {
            return Err(invalid(format_args!(
                "The subnet {id} is not in the VPC {} of the cluster.",
                cluster.vpc
            )));
        }
        if !subnets.contains(&id) {
            subnets.push(id);
        }
    }
    match subnets.is_empty() {
        true => Err(invalid("Subnets cannot be empty.")),
        false => Ok(subnets),
    }
}

/// Sizes of a request over those that were there.
fn scaling(
    request: Option<&NodegroupScalingConfig>,
    old: &NodegroupScalingConfig,
) -> ApiResult<NodegroupScalingConfig> {
    let pick = |of: fn(&NodegroupScalingConfig) -> Option<i32>, default| {
        request.and_then(of).or_else(|| of(old)).unwrap_or(default)
    };
    let (min, max) = (pick(|s| s.min_size, 1), pick(|s| s.max_size, 2));
    let desired = pick(|s| s.desired_size, 2);
    let wrong = [
        (
            min < 0 || desired < 0 || max < 1,
            "Sizes cannot be negative, and the maximum is at least 1.".to_owned(),
        ),
        (
            min > max,
            format!("Minimum capacity {min} can't be greater than maximum size {max}"),
        ),
        (
            min > desired,
            format!("Minimum capacity {min} can't be greater than desired size {desired}"),
        ),
        (
            desired > max,
            format!("Desired capacity {desired} can't be greater than max size {max}"),
        ),
        (
            max > 450,
            format!("Maximum size {max} is beyond the quota of 450 nodes per group."),
        ),
    ];
    match wrong.into_iter().find(|(is, _)| *is) {
        Some((_, why)) => Err(invalid(why)),
        None => Ok(NodegroupScalingConfig {
            min_size: Some(min),
            max_size: Some(max),
            desired_size: Some(desired),
        }),
    }
}

fn check_labels(labels: &Texts) -> ApiResult<()> {
    for (key, value) in labels {
        let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
        let reserved = RESERVED.iter().map(|r| r.trim_end_matches('/'));
        if reserved
            .into_iter()
            .any(|r| prefix == r || prefix.ends_with(&format!(".{r}")))
        {
            return Err(invalid(format_args!(
                "Label cannot contain reserved prefixes [{}]: {key}",
                RESERVED.join(", ")
            )));
        }
        let fits = |text: &str, empty: bool| {
            let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let ends = |c: char| c.is_ascii_alphanumeric();
            text.len() <= 63
                && text.chars().all(inner)
                && (if text.is_empty() {
                    empty
                } else {
                    text.starts_with(ends) && text.ends_with(ends)
                })
        };
        let name = key.rsplit('/').next().unwrap_or_default();
        if !fits(name, false) || !fits(value, true) || key.len() > 317 {
            return Err(invalid(format_args!(
                "The label {key}={value} is not one of Kubernetes."
            )));
        }
    }
    Ok(())
}

fn check_taints(taints: &[Taint]) -> ApiResult<()> {
    if taints.len() > 50 {
        return Err(invalid("A node group has at most 50 taints."));
    }
    for taint in taints {
        let (key, effect) = (
            taint.key.as_deref().unwrap_or_default(),
            taint.effect.as_deref().unwrap_or_default(),
        );
        if key.is_empty() || key.len() > 63 || !EFFECTS.contains(&effect) {
            return Err(invalid(format_args!(
                "The taint '{key}' with the effect '{effect}' is not valid: a key of 1 to 63 characters and one of {} \
                 are expected.",
                EFFECTS.join(", ")
            )));
        }
    }
    Ok(())
}

fn check_update_config(config: &NodegroupUpdateConfig) -> ApiResult<()> {
    match (config.max_unavailable, config.max_unavailable_percentage) {
        (Some(_), Some(_)) => Err(invalid(
            "Only one of maxUnavailable and maxUnavailablePercentage can be given.",
        )),
        (Some(n), _) if !(1..=100).contains(&n) => Err(invalid("maxUnavailable must be 1 to 100.")),
        (_, Some(n)) if !(1..=100).contains(&n) => {
            Err(invalid("maxUnavailablePercentage must be 1 to 100."))
        }
        _ => Ok(()),
    }
}

/// Instance types, image type and disk: the request's, or those that the launch template leaves open.
fn hardware(
    request: &CreateNodegroupRequest,
    state: &State,
) -> ApiResult<(Vec<String>, String, Option<i32>)> {
    let unknown = request
        .instance_types
        .iter()
        .find(|t| limits::of(t).is_none());
    if let Some(unknown) = unknown {
        return Err(invalid(format_args!(
            "The following supplied instance types do not exist: [{unknown}]"
        )));
    }
    let ami = |default: &str| {
        request
            .ami_type
            .clone()
            .unwrap_or_else(|| default.to_owned())
    };
    let Some(spec) = &request.launch_template else {
        let types = match request.instance_types.is_empty() {
            true => vec![DEFAULT_TYPE.to_owned()],
            false => request.instance_types.clone(),
        };
        return Ok((
            types,
            ami("AL2023_x86_64_STANDARD"),
            Some(request.disk_size.unwrap_or(20)),
        ));
    };
    if spec.id.is_some() == spec.name.is_some() {
        return Err(invalid(
            "Either the id or the name of a launch template must be given, and not both.",
        ));
    }
    if request.disk_size.is_some() {
        return Err(invalid(
            "Disk size must be specified within the launch template.",
        ));
    }
    let data = nodes::template_data(state, spec)?;
    if data.instance_type.is_some() && !request.instance_types.is_empty() {
        return Err(invalid(
            "Instance types can be given in the launch template or in the request, not in both.",
        ));
    }
    let types = match (&data.instance_type, request.instance_types.is_empty()) {
        (None, true) => vec![DEFAULT_TYPE.to_owned()],
        _ => request.instance_types.clone(),
    };
    let custom = data.image_id.is_some();
    Ok((
        types,
        ami(if custom {
            "CUSTOM"
        } else {
            "AL2023_x86_64_STANDARD"
        }),
        None,
    ))
}

fn check(request: &CreateNodegroupRequest) -> ApiResult<()> {
    check_name("The node group name", &request.nodegroup_name, 63)?;
    check_tags(&request.tags)?;
    check_labels(&request.labels)?;
    check_taints(&request.taints)?;
    role_name("nodeRole", &request.node_role)?;
    check_update_config(&request.update_config.clone().unwrap_or_default())?;
    if let Some(other) = request
        .capacity_type
        .as_deref()
        .filter(|c| !["ON_DEMAND", "SPOT"].contains(c))
    {
        return Err(invalid(format_args!(
            "capacityType is '{other}': expected ON_DEMAND or SPOT."
        )));
    }
    if let Some(version) = request
        .version
        .as_deref()
        .filter(|v| *v != KUBERNETES_VERSION)
    {
        return Err(invalid(format_args!(
            "Requested Nodegroup Kubernetes version {version} is not supported: the lab's nodes are {KUBERNETES_VERSION}"
        )));
    }
    match request
        .release_version
        .as_deref()
        .filter(|v| *v != RELEASE_VERSION)
    {
        Some(other) => Err(invalid(format_args!(
            "Requested release version {other} is not valid: expected {RELEASE_VERSION}"
        ))),
        None => Ok(()),
    }
}

impl EksAction for CreateNodegroupRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<NodegroupAnswer> {
        let (cluster, name) = (&self.cluster_name, &self.nodegroup_name);
        check(self)?;
        let record = cx.state.eks.active(cluster)?;
        if let Some(known) = record.nodegroups.get(name) {
            if self.client_request_token.is_some() && known.token == self.client_request_token {
                return Ok(NodegroupAnswer {
                    nodegroup: shown(cx.state, known),
                });
            }
            return Err(in_use(format_args!(
                "NodeGroup already exists with name {name} and cluster name {cluster}"
            )));
        }
        let subnets = subnets(cx.state, record, &self.subnets)?;
        let scaling_config = scaling(
            self.scaling_config.as_ref(),
            &NodegroupScalingConfig::default(),
        )?;
        let (instance_types, ami_type, disk_size) = hardware(self, cx.state)?;

        let id = uuid(&mut cx.state.rng);
        let default_update = NodegroupUpdateConfig {
            max_unavailable: Some(1),
            max_unavailable_percentage: None,
        };
        let wire = Nodegroup {
            nodegroup_name: name.clone(),
            nodegroup_arn: arn(cx.state, "nodegroup", format_args!("{cluster}/{name}/{id}")),
            cluster_name: cluster.clone(),
            version: KUBERNETES_VERSION.into(),
            release_version: RELEASE_VERSION.into(),
            created_at: Some(cx.now),
            modified_at: Some(cx.now),
            status: "CREATING".into(),
            capacity_type: self
                .capacity_type
                .clone()
                .unwrap_or_else(|| "ON_DEMAND".into()),
            scaling_config,
            instance_types,
            subnets: subnets.iter().map(ToString::to_string).collect(),
            ami_type,
            node_role: self.node_role.clone(),
            labels: self.labels.clone(),
            taints: self.taints.clone(),
            resources: NodegroupResources {
                auto_scaling_groups: vec![AutoScalingGroup {
                    name: format!("eks-{name}-{id}"),
                }],
            },
            disk_size,
            health: Health::default(),
            update_config: self.update_config.clone().unwrap_or(default_update),
            launch_template: self.launch_template.clone(),
            tags: self.tags.clone(),
        };
        access::admit_nodes(cx, cluster, &self.node_role, "EC2_LINUX")?;
        let group = store::Nodegroup {
            template: nodes::own_template(cx, cluster, &wire, &id)?,
            wire,
            subnets,
            instances: Vec::new(),
            token: self.client_request_token.clone(),
        };
        cx.state
            .eks
            .cluster_mut(cluster)?
            .nodegroups
            .insert(name.clone(), group);
        nodes::scale(cx, cluster, name)?;
        let group = find_mut(cx.state, cluster, name)?;
        let mut nodegroup = group.wire.clone();
        if nodegroup.health.issues.is_empty() {
            group.wire.status = "ACTIVE".into();
        }
        nodegroup.status = "CREATING".into();
        Ok(NodegroupAnswer { nodegroup })
    }
}

impl EksAction for DescribeNodegroupRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<NodegroupAnswer> {
        let cluster = cx.state.eks.cluster(&self.cluster_name)?;
        Ok(NodegroupAnswer {
            nodegroup: shown(cx.state, find(cluster, &self.nodegroup_name)?),
        })
    }
}

impl EksAction for ListNodegroupsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<ListNodegroupsResponse> {
        let names = cx.state.eks.cluster(&self.cluster_name)?.nodegroups.keys();
        let (nodegroups, next_token) = page(names, self.max_results, self.next_token.as_deref())?;
        Ok(ListNodegroupsResponse {
            nodegroups,
            next_token,
        })
    }
}

impl EksAction for DeleteNodegroupRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<NodegroupAnswer> {
        let group = find(
            cx.state.eks.cluster(&self.cluster_name)?,
            &self.nodegroup_name,
        )?;
        let ending = alive(cx.state, group);
        nodes::end(cx, &ending)?;
        let group = find_mut(cx.state, &self.cluster_name, &self.nodegroup_name)?;
        group.wire.status = "DELETING".into();
        group.wire.modified_at = Some(cx.now);
        Ok(NodegroupAnswer {
            nodegroup: group.wire.clone(),
        })
    }
}

impl EksAction for UpdateNodegroupConfigRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<UpdateAnswer> {
        let group = find(
            cx.state.eks.active(&self.cluster_name)?,
            &self.nodegroup_name,
        )?;
        if group.wire.status == "DELETING" {
            return Err(in_use(format_args!(
                "NodeGroup {} is being deleted.",
                self.nodegroup_name
            )));
        }
        let mut wire = group.wire.clone();
        let mut params = Vec::new();
        if let Some(wanted) = &self.scaling_config {
            wire.scaling_config = scaling(Some(wanted), &wire.scaling_config)?;
            let sizes = [
                ("MinSize", wanted.min_size),
                ("MaxSize", wanted.max_size),
                ("DesiredSize", wanted.desired_size),
            ];
            params.extend(
                sizes
                    .into_iter()
                    .filter_map(|(kind, size)| Some((kind, size?.to_string()))),
            );
        }
        if let Some(labels) = &self.labels {
            check_labels(&labels.add_or_update_labels)?;
            wire.labels.extend(labels.add_or_update_labels.clone());
            wire.labels
                .retain(|key, _| !labels.remove_labels.contains(key));
            params.push(("LabelsToAdd", text(&labels.add_or_update_labels)));
            params.push(("LabelsToRemove", text(&labels.remove_labels)));
        }
        if let Some(taints) = &self.taints {
            check_taints(&taints.add_or_update_taints)?;
            let same = |a: &Taint, b: &Taint| (&a.key, &a.effect) == (&b.key, &b.effect);
            let changed = || {
                taints
                    .remove_taints
                    .iter()
                    .chain(&taints.add_or_update_taints)
            };
            wire.taints.retain(|t| !changed().any(|c| same(c, t)));
            wire.taints.extend(taints.add_or_update_taints.clone());
            check_taints(&wire.taints)?;
            params.push(("TaintsToAdd", text(&taints.add_or_update_taints)));
            params.push(("TaintsToRemove", text(&taints.remove_taints)));
        }
        if let Some(config) = &self.update_config {
            check_update_config(config)?;
            wire.update_config = config.clone();
            params.extend(
                config
                    .max_unavailable
                    .map(|n| ("MaxUnavailable", n.to_string())),
            );
            params.extend(
                config
                    .max_unavailable_percentage
                    .map(|n| ("MaxUnavailablePercentage", n.to_string())),
            );
        }
        if params.is_empty() {
            return Err(bad_request("No changes were given for the node group."));
        }
        wire.modified_at = Some(cx.now);
        find_mut(cx.state, &self.cluster_name, &self.nodegroup_name)?.wire = wire;
        if self.scaling_config.is_some() {
            nodes::scale(cx, &self.cluster_name, &self.nodegroup_name)?;
        }
        let target = Target::Nodegroup(self.nodegroup_name.clone());
        update::done(cx, &self.cluster_name, target, "ConfigUpdate", params)
            .map(|update| UpdateAnswer { update })
    }
}

fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
