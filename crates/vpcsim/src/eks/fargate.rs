//! Fargate profiles. They are kept and shown; no pod runs on Fargate in the lab.
//! Source: EKS user guide, "Define which Pods use AWS Fargate when launched".

use ec2::eks::*;

use super::access;
use super::actions::{EksAction, arn, check_name, check_tags, page, role_name, uuid};
use super::error::{in_use, invalid, not_found, of_ec2};
use super::store::{Cluster, Token};
use crate::actions::Context;
use crate::error::ApiResult;
use crate::ids::SubnetId;
use crate::store::{State, Target};

/// Whether a subnet's routes lead to an internet gateway.
fn is_public(state: &State, id: SubnetId) -> bool {
    let Some(subnet) = state.subnets.get(&id) else {
        return false;
    };
    let main = || state.vpcs[&subnet.vpc].main_route_table;
    let table = subnet.route_table.map_or_else(main, |(_, table)| table);
    let mut targets = state
        .route_tables
        .get(&table)
        .into_iter()
        .flat_map(|t| t.routes.values());
    targets.any(|t| matches!(t, Target::Internet(_)))
}

fn subnets(state: &State, cluster: &Cluster, texts: &[String]) -> ApiResult<Vec<SubnetId>> {
    if texts.is_empty() {
        let private: Vec<SubnetId> = cluster
            .subnets
            .iter()
            .copied()
            .filter(|s| state.subnets.contains_key(s) && !is_public(state, *s))
            .collect();
        return match private.is_empty() {
            true => Err(invalid(
                "The cluster has no private subnets: give subnets without a route to an internet gateway.",
            )),
            false => Ok(private),
        };
    }
    let mut subnets = Vec::new();
    for text in texts {
        let (id, subnet) = state.subnets.find(text).map_err(of_ec2)?;
        if subnet.vpc != cluster.vpc {
            return Err(invalid(format_args!(
                "The subnet {id} is not in the VPC {} of the cluster.",
                cluster.vpc
            )));
        }
        if is_public(state, id) {
            return Err(invalid(format_args!(
                "Subnet {id} provided in Fargate Profile is not a private subnet"
            )));
        }
        subnets.push(id);
    }
    Ok(subnets)
}

fn check_selectors(selectors: &[FargateProfileSelector]) -> ApiResult<()> {
    if !(1..=5).contains(&selectors.len()) {
        return Err(invalid("A Fargate profile has 1 to 5 selectors."));
    }
    let wrong = selectors
        .iter()
        .any(|s| s.namespace.as_deref().unwrap_or_default().is_empty() || s.labels.len() > 5);
    match wrong {
        true => Err(invalid(
            "A selector of a Fargate profile has a namespace and at most 5 labels.",
        )),
        false => Ok(()),
    }
}

fn no_profile(name: &str) -> crate::error::ApiError {
    not_found(format_args!("No Fargate Profile found with name: {name}."))
}

impl EksAction for CreateFargateProfileRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<FargateProfileAnswer> {
        let (cluster, name) = (&self.cluster_name, &self.fargate_profile_name);
        check_name("The Fargate profile name", name, 100)?;
        check_tags(&self.tags)?;
        check_selectors(&self.selectors)?;
        role_name("podExecutionRoleArn", &self.pod_execution_role_arn)?;
        let record = cx.state.eks.active(cluster)?;
        if let Some(known) = record.fargate.get(name) {
            if self.client_request_token.is_some() && known.token == self.client_request_token {
                return Ok(FargateProfileAnswer {
                    fargate_profile: known.wire.clone(),
                });
            }
            return Err(in_use(format_args!(
                "A Fargate Profile already exists with this name in this cluster: {name}"
            )));
        }
        let subnets = subnets(cx.state, record, &self.subnets)?;
        let id = uuid(&mut cx.state.rng);
        let mut wire = FargateProfile {
            fargate_profile_name: name.clone(),
            fargate_profile_arn: arn(
                cx.state,
                "fargateprofile",
                format_args!("{cluster}/{name}/{id}"),
            ),
            cluster_name: cluster.clone(),
            created_at: Some(cx.now),
            pod_execution_role_arn: self.pod_execution_role_arn.clone(),
            subnets: subnets.iter().map(ToString::to_string).collect(),
            selectors: self.selectors.clone(),
            status: "ACTIVE".into(),
            tags: self.tags.clone(),
            health: Health::default(),
        };
        access::admit_nodes(cx, cluster, &self.pod_execution_role_arn, "FARGATE_LINUX")?;
        let profile = Token {
            wire: wire.clone(),
            token: self.client_request_token.clone(),
        };
        cx.state
            .eks
            .cluster_mut(cluster)?
            .fargate
            .insert(name.clone(), profile);
        wire.status = "CREATING".into();
        Ok(FargateProfileAnswer {
            fargate_profile: wire,
        })
    }
}

impl EksAction for DescribeFargateProfileRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<FargateProfileAnswer> {
        let profiles = &cx.state.eks.cluster(&self.cluster_name)?.fargate;
        let found = profiles
            .get(&self.fargate_profile_name)
            .ok_or_else(|| no_profile(&self.fargate_profile_name))?;
        Ok(FargateProfileAnswer {
            fargate_profile: found.wire.clone(),
        })
    }
}

impl EksAction for ListFargateProfilesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<ListFargateProfilesResponse> {
        let names = cx.state.eks.cluster(&self.cluster_name)?.fargate.keys();
        let (fargate_profile_names, next_token) =
            page(names, self.max_results, self.next_token.as_deref())?;
        Ok(ListFargateProfilesResponse {
            fargate_profile_names,
            next_token,
        })
    }
}

impl EksAction for DeleteFargateProfileRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<FargateProfileAnswer> {
        let profiles = &mut cx.state.eks.cluster_mut(&self.cluster_name)?.fargate;
        let gone = profiles
            .remove(&self.fargate_profile_name)
            .ok_or_else(|| no_profile(&self.fargate_profile_name))?;
        let fargate_profile = FargateProfile {
            status: "DELETING".into(),
            ..gone.wire
        };
        Ok(FargateProfileAnswer { fargate_profile })
    }
}
