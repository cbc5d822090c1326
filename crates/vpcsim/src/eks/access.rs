//! Access entries: which user or role of AWS is which user of Kubernetes, and the policies of EKS that it has.
//! Source: EKS user guide, "Grant IAM users access to Kubernetes with EKS access entries".

use std::collections::BTreeMap;

use ec2::eks::*;

use super::actions::{EksAction, check_tags, page, uuid};
use super::error::{bad_request, in_use, invalid, not_found};
use super::store::{self, Access};
use crate::actions::Context;
use crate::error::ApiResult;

const POLICY_PREFIX: &str = "arn:aws:eks::aws:cluster-access-policy/";
const ADMIN: &str = "AmazonEKSClusterAdminPolicy";
/// Policies that an entry can have.
const POLICIES: [&str; 6] = [
    "AmazonEKSAdminPolicy",
    "AmazonEKSAdminViewPolicy",
    ADMIN,
    "AmazonEKSEditPolicy",
    "AmazonEKSSecretReaderPolicy",
    "AmazonEKSViewPolicy",
];

/// What a type of entry says about user and groups; `None`: the request says it.
fn of_type(kind: &str) -> Option<(&'static str, &'static [&'static str])> {
    match kind {
        "EC2_LINUX" => Some(("system:node:{{EC2PrivateDNSName}}", &["system:nodes"])),
        "FARGATE_LINUX" => Some((
            "system:node:{{SessionName}}",
            &[
                "system:bootstrappers",
                "system:node-proxier",
                "system:nodes",
            ],
        )),
        _ => None,
    }
}

/// `(kind, account, name)` of `arn:aws:iam::ACCOUNT:KIND/NAME`.
fn principal(arn: &str) -> ApiResult<(&str, &str, &str)> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let found = match parts[..] {
        ["arn", _, "iam", "", account, rest] if account.len() == 12 => match rest {
            "root" => Some(("root", account, "root")),
            rest => rest
                .split_once('/')
                .map(|(kind, name)| (kind, account, name)),
        },
        _ => None,
    };
    found.filter(|(kind, _, name)| matches!(*kind, "user" | "role" | "root") && !name.is_empty()).ok_or_else(|| {
        invalid(format_args!(
            "The specified principalArn is invalid: '{arn}' is not the ARN of an IAM user or role (the session of a \
             role, arn:aws:sts::…, is neither)."
        ))
    })
}

/// A new entry. The caller has checked the principal.
fn entry(cx: &mut Context<'_>, cluster: &str, arn: &str, kind: &str) -> ApiResult<AccessEntry> {
    let (principal_kind, account, name) = principal(arn)?;
    let config = cx.state.config().clone();
    let short = name.rsplit('/').next().unwrap_or(name);
    let id = uuid(&mut cx.state.rng);
    let username = match (of_type(kind), principal_kind) {
        (Some((username, _)), _) => username.to_owned(),
        (None, "role") => {
            format!("arn:aws:sts::{account}:assumed-role/{short}/{{{{SessionName}}}}")
        }
        (None, _) => arn.to_owned(),
    };
    let groups = of_type(kind).map_or(&[][..], |(_, groups)| groups);
    Ok(AccessEntry {
        cluster_name: cluster.to_owned(),
        principal_arn: arn.to_owned(),
        kubernetes_groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        access_entry_arn: format!(
            "arn:aws:eks:{}:{}:access-entry/{cluster}/{principal_kind}/{account}/{short}/{id}",
            config.region, config.account
        ),
        created_at: Some(cx.now),
        modified_at: Some(cx.now),
        tags: Texts::new(),
        username,
        type_: kind.to_owned(),
    })
}

/// Makes whoever creates a cluster its administrator, unless the request says otherwise. In the mode CONFIG_MAP EKS
/// does so too, without showing it.
pub(super) fn admit_creator(cx: &mut Context<'_>, cluster: &mut store::Cluster) {
    let wanted = cluster
        .wire
        .access_config
        .as_ref()
        .and_then(|a| a.bootstrap_cluster_creator_admin_permissions);
    let arn = cx.caller.identity().principal_arn();
    let (Some(true), Ok(arn)) = (wanted, arn) else {
        return;
    };
    let Ok(wire) = entry(cx, &cluster.wire.name, &arn, "STANDARD") else {
        return;
    };
    let policy = AssociatedAccessPolicy {
        policy_arn: format!("{POLICY_PREFIX}{ADMIN}"),
        access_scope: AccessScope {
            type_: Some("cluster".into()),
            namespaces: Vec::new(),
        },
        associated_at: Some(cx.now),
        modified_at: Some(cx.now),
    };
    let policies = BTreeMap::from([(policy.policy_arn.clone(), policy)]);
    cluster.access.insert(
        arn,
        Access {
            wire,
            policies,
            token: None,
        },
    );
}

/// Lets the nodes of a role in, as EKS does for managed nodes and Fargate pods.
pub(super) fn admit_nodes(
    cx: &mut Context<'_>,
    cluster: &str,
    role: &str,
    kind: &str,
) -> ApiResult<()> {
    if cx.state.eks.cluster(cluster)?.access.contains_key(role) {
        return Ok(());
    }
    let wire = entry(cx, cluster, role, kind)?;
    let access = Access {
        wire,
        policies: BTreeMap::new(),
        token: None,
    };
    cx.state
        .eks
        .cluster_mut(cluster)?
        .access
        .insert(role.to_owned(), access);
    Ok(())
}

/// A cluster whose mode has access entries.
fn with_entries<'s>(cx: &'s mut Context<'_>, name: &str) -> ApiResult<&'s mut store::Cluster> {
    let cluster = cx.state.eks.cluster_mut(name)?;
    let mode = cluster
        .wire
        .access_config
        .as_ref()
        .and_then(|a| a.authentication_mode.as_deref());
    match mode {
        Some("CONFIG_MAP") => Err(bad_request(
            "The cluster's authentication mode must be set to one of [API, API_AND_CONFIG_MAP] to perform this operation.",
        )),
        _ => Ok(cluster),
    }
}

fn find<'s>(cx: &'s mut Context<'_>, cluster: &str, arn: &str) -> ApiResult<&'s mut Access> {
    with_entries(cx, cluster)?.access.get_mut(arn).ok_or_else(|| {
        not_found(
            "The specified principalArn could not be found. You can view your available access entries with \
             'list-access-entries'.",
        )
    })
}

impl EksAction for CreateAccessEntryRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<AccessEntryAnswer> {
        check_tags(&self.tags)?;
        principal(&self.principal_arn)?;
        let cluster = with_entries(cx, &self.cluster_name)?;
        if let Some(known) = cluster.access.get(&self.principal_arn) {
            if self.client_request_token.is_some() && known.token == self.client_request_token {
                return Ok(AccessEntryAnswer {
                    access_entry: known.wire.clone(),
                });
            }
            return Err(in_use(
                "The specified access entry resource is already in use on this cluster.",
            ));
        }
        let kind = self.type_.as_deref().unwrap_or("STANDARD");
        if kind != "STANDARD" && of_type(kind).is_none() {
            return Err(invalid(format_args!(
                "The type '{kind}' is not one of STANDARD, EC2_LINUX, FARGATE_LINUX."
            )));
        }
        if kind != "STANDARD" && (self.username.is_some() || !self.kubernetes_groups.is_empty()) {
            return Err(invalid(format_args!(
                "An access entry of type {kind} has a user name and groups of its own."
            )));
        }
        if let Some(group) = self
            .kubernetes_groups
            .iter()
            .find(|g| g.starts_with("system:") || g.is_empty())
        {
            return Err(invalid(format_args!(
                "The kubernetes group name {group} is invalid, it cannot start with system:"
            )));
        }
        let reserved = ["system:", "eks:", "aws:", "amazon:", "iam:"];
        if let Some(username) = self
            .username
            .as_deref()
            .filter(|u| reserved.iter().any(|r| u.starts_with(r)) || u.is_empty())
        {
            return Err(invalid(format_args!(
                "The username {username} is invalid, it cannot start with {}",
                reserved.join(", ")
            )));
        }
        let mut wire = entry(cx, &self.cluster_name, &self.principal_arn, kind)?;
        wire.tags = self.tags.clone();
        if kind == "STANDARD" {
            wire.kubernetes_groups = self.kubernetes_groups.clone();
            wire.username = self.username.clone().unwrap_or(wire.username);
        }
        let access = Access {
            wire: wire.clone(),
            policies: BTreeMap::new(),
            token: self.client_request_token.clone(),
        };
        cx.state
            .eks
            .cluster_mut(&self.cluster_name)?
            .access
            .insert(self.principal_arn.clone(), access);
        Ok(AccessEntryAnswer { access_entry: wire })
    }
}

impl EksAction for DescribeAccessEntryRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<AccessEntryAnswer> {
        let access_entry = find(cx, &self.cluster_name, &self.principal_arn)?
            .wire
            .clone();
        Ok(AccessEntryAnswer { access_entry })
    }
}

impl EksAction for ListAccessEntriesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<ListAccessEntriesResponse> {
        let cluster = with_entries(cx, &self.cluster_name)?;
        let policy = self.associated_policy_arn.as_ref();
        let entries = cluster
            .access
            .iter()
            .filter(|(_, a)| policy.is_none_or(|p| a.policies.contains_key(p)));
        let (access_entries, next_token) = page(
            entries.map(|(arn, _)| arn),
            self.max_results,
            self.next_token.as_deref(),
        )?;
        Ok(ListAccessEntriesResponse {
            access_entries,
            next_token,
        })
    }
}

impl EksAction for DeleteAccessEntryRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Empty> {
        find(cx, &self.cluster_name, &self.principal_arn)?;
        with_entries(cx, &self.cluster_name)?
            .access
            .remove(&self.principal_arn);
        Ok(Empty {})
    }
}

impl EksAction for AssociateAccessPolicyRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<AssociateAccessPolicyResponse> {
        let now = cx.now;
        let name = self.policy_arn.strip_prefix(POLICY_PREFIX);
        if !name.is_some_and(|n| POLICIES.contains(&n)) {
            return Err(invalid(format_args!(
                "The policyArn parameter format is not valid: '{}' is not {POLICY_PREFIX} and one of {}.",
                self.policy_arn,
                POLICIES.join(", ")
            )));
        }
        let scope = self.access_scope.clone().unwrap_or_default();
        match (scope.type_.as_deref(), scope.namespaces.is_empty()) {
            (Some("cluster"), true) | (Some("namespace"), false) => {}
            (Some("cluster"), false) => {
                return Err(invalid("accessScope of type cluster takes no namespaces."));
            }
            (Some("namespace"), true) => {
                return Err(invalid("accessScope of type namespace needs namespaces."));
            }
            _ => return Err(invalid("accessScope.type must be cluster or namespace.")),
        }
        let access = find(cx, &self.cluster_name, &self.principal_arn)?;
        if access.wire.type_ != "STANDARD" {
            return Err(bad_request(format_args!(
                "Access policies cannot be associated with an access entry of type {}.",
                access.wire.type_
            )));
        }
        let old = access.policies.get(&self.policy_arn);
        let policy = AssociatedAccessPolicy {
            policy_arn: self.policy_arn.clone(),
            access_scope: scope,
            associated_at: old.and_then(|p| p.associated_at).or(Some(now)),
            modified_at: Some(now),
        };
        access
            .policies
            .insert(self.policy_arn.clone(), policy.clone());
        Ok(AssociateAccessPolicyResponse {
            cluster_name: self.cluster_name.clone(),
            principal_arn: self.principal_arn.clone(),
            associated_access_policy: policy,
        })
    }
}

impl EksAction for DisassociateAccessPolicyRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Empty> {
        let access = find(cx, &self.cluster_name, &self.principal_arn)?;
        match access.policies.remove(&self.policy_arn) {
            Some(_) => Ok(Empty {}),
            None => Err(not_found(format_args!(
                "The policyArn {} is not associated with this access entry.",
                self.policy_arn
            ))),
        }
    }
}

impl EksAction for ListAssociatedAccessPoliciesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<ListAssociatedAccessPoliciesResponse> {
        let access = find(cx, &self.cluster_name, &self.principal_arn)?;
        let (names, next_token) = page(
            access.policies.keys(),
            self.max_results,
            self.next_token.as_deref(),
        )?;
        let policies = names.iter().filter_map(|n| access.policies.get(n)).cloned();
        Ok(ListAssociatedAccessPoliciesResponse {
            cluster_name: self.cluster_name.clone(),
            principal_arn: self.principal_arn.clone(),
            associated_access_policies: policies.collect(),
            next_token,
        })
    }
}

/// The last part of a policy's ARN.
pub(super) fn policy_name(arn: &str) -> &str {
    arn.strip_prefix(POLICY_PREFIX).unwrap_or(arn)
}
