//! Callers of AWS as users of Kubernetes, by a cluster's access entries. Source: aws-iam-authenticator, pkg/mapper and
//! pkg/server; EKS user guide, "Create access entries".

use std::collections::BTreeMap;

use ec2::eks::CallerIdentity;
use ec2::eks::token::TokenError;

use super::view::{PolicyView, policies};
use crate::ids::InstanceId;
use crate::store::State;

/// A user of Kubernetes, as the token webhook answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesUser {
    /// `system:node:ip-10-0-1-11.us-west-2.compute.internal`, an ARN, or what the entry says.
    pub username: String,
    /// `aws-iam-authenticator:ACCOUNT:ID`
    pub uid: String,
    /// Groups for RBAC.
    pub groups: Vec<String>,
    /// `arn`, `canonicalArn`, `accessKeyId`, `principalId`, `sessionName`.
    pub extra: BTreeMap<String, Vec<String>>,
    /// Policies of EKS that the user has beside RBAC.
    pub policies: Vec<PolicyView>,
}

/// The user that `caller` is in `cluster`; `None`: no access entry names its user or role.
pub(super) fn user(
    state: &State,
    caller: &CallerIdentity,
    cluster: &str,
) -> Result<Option<KubernetesUser>, TokenError> {
    let unknown = || TokenError::UnknownCluster {
        cluster: cluster.to_owned(),
    };
    let cluster = state.eks.clusters.get(cluster).ok_or_else(unknown)?;
    let principal = caller
        .principal_arn()
        .map_err(|e| TokenError::Principal { arn: e.arn })?;
    let Some(access) = cluster.access.get(&principal) else {
        return Ok(None);
    };
    // '@' has a meaning in some webhooks' configuration: aws-iam-authenticator replaces it as well.
    let session = caller.session().unwrap_or_default().replace('@', "-");
    let mut username = access.wire.username.clone();
    for (placeholder, value) in [
        ("{{SessionName}}", session.as_str()),
        ("{{SessionNameRaw}}", caller.session().unwrap_or_default()),
        ("{{AccountID}}", caller.account.as_str()),
    ] {
        username = username.replace(placeholder, value);
    }
    const DNS: &str = "{{EC2PrivateDNSName}}";
    if username.contains(DNS) {
        let instance = session
            .parse::<InstanceId>()
            .ok()
            .and_then(|id| state.instances.get(&id));
        let address = instance.and_then(|i| i.private_ip);
        let address = address.ok_or_else(|| TokenError::NoInstance {
            session: session.clone(),
        })?;
        username = username.replace(DNS, &state.private_dns(address));
    }
    let mut extra = BTreeMap::from([
        ("arn".to_owned(), vec![caller.arn.clone()]),
        ("canonicalArn".to_owned(), vec![principal]),
        (
            "principalId".to_owned(),
            vec![
                caller
                    .user_id
                    .split(':')
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            ],
        ),
    ]);
    if !session.is_empty() {
        extra.insert("sessionName".to_owned(), vec![session]);
    }
    Ok(Some(KubernetesUser {
        username,
        uid: format!(
            "aws-iam-authenticator:{}:{}",
            caller.account,
            caller.user_id.split(':').next().unwrap_or_default()
        ),
        groups: access.wire.kubernetes_groups.clone(),
        extra,
        policies: policies(access),
    }))
}
