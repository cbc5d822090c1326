//! [`Eks`]: what the lab's daemon does with clusters.

use std::sync::Arc;

use aws_credential_types::Credentials;
use ec2::eks::token::{Token, TokenError};
use ec2::eks::{CallerIdentity, Operation};
use jiff::Timestamp;
use tokio::sync::watch;

use super::actions::{self, EksAction};
use super::report;
use super::users::{self, KubernetesUser};
use super::view::ClusterView;
use crate::actions::{Caller, Context};
use crate::error::ApiResult;
use crate::shell::{Core, Sim};

/// The clusters of a [`Sim`]. Cheap to clone.
#[derive(Clone)]
pub struct Eks {
    pub(super) sim: Sim,
}

impl Sim {
    /// The clusters.
    pub fn eks(&self) -> Eks {
        Eks { sim: self.clone() }
    }
}

impl Eks {
    /// The clusters, by name, as they come, change and go. A cluster that is no longer in the list is deleted: its
    /// interfaces are gone, and its control plane is to be ended.
    pub fn clusters(&self) -> watch::Receiver<Arc<Vec<ClusterView>>> {
        self.sim.clusters()
    }

    /// Makes a call as the account's root user, in this process; a change waits for the fabric.
    ///
    /// # Errors
    /// The error that a client would get.
    pub async fn call<A: EksAction>(&self, request: &A) -> ApiResult<<A as Operation>::Output> {
        let now = Sim::now();
        let caller = Caller::root(&self.sim.account());
        let run = |core: &mut Core| {
            let mut cx = Context {
                state: &mut core.state,
                caller: &caller,
                now,
            };
            actions::run(request, &mut cx)
        };
        if actions::reads(A::ROUTE.method) {
            return self.sim.read(now, run);
        }
        let (answer, version) = self.sim.mutate(now, run)?;
        self.sim.wait_applied(version).await;
        Ok(answer)
    }

    /// Tells that a cluster's API server answers at `endpoint` (`https://127.0.0.1:PORT`) with a certificate of the CA
    /// `ca_pem_base64`. The cluster is ACTIVE from then on; told again, the new values are shown.
    ///
    /// # Errors
    /// `ResourceNotFoundException`: it was deleted meanwhile.
    pub fn set_cluster_active(
        &self,
        name: &str,
        endpoint: &str,
        ca_pem_base64: &str,
    ) -> ApiResult<()> {
        let now = Sim::now();
        let set = |core: &mut Core| report::active(&mut core.state, name, endpoint, ca_pem_base64);
        self.sim.mutate(now, set).map(drop)
    }

    /// Tells that a cluster has no control plane, and why. The cluster is FAILED from then on.
    ///
    /// # Errors
    /// `ResourceNotFoundException`: it was deleted meanwhile.
    pub fn set_cluster_failed(&self, name: &str, why: &str) -> ApiResult<()> {
        let now = Sim::now();
        self.sim
            .mutate(now, |core| report::failed(&mut core.state, name, why))
            .map(drop)
    }

    /// Tells what came of installing an add-on: until then it is CREATING or UPDATING. A report of an older
    /// `generation` than the add-on's is of a configuration that nobody asks for any more; it changes nothing.
    ///
    /// # Errors
    /// `ResourceNotFoundException`: cluster or add-on were deleted meanwhile.
    pub fn report_addon(
        &self,
        cluster: &str,
        addon: &str,
        generation: u64,
        outcome: Result<(), String>,
    ) -> ApiResult<()> {
        let now = Sim::now();
        let set = |core: &mut Core| {
            report::addon(&mut core.state, cluster, addon, generation, outcome, now)
        };
        self.sim.mutate(now, set).map(drop)
    }

    /// Who made the token of `aws eks get-token` for `cluster`.
    ///
    /// The URL in the token is not called: the signature is made again with the secret that belongs to the access key.
    ///
    /// # Errors
    /// One for each way in which a token can be wrong.
    pub fn authenticate(&self, token: &str, cluster: &str) -> Result<CallerIdentity, TokenError> {
        let now = Sim::now();
        let token: Token = token.parse()?;
        token.check_time(now)?;
        self.sim
            .read(now, |core| believe(core, &token, cluster, now))
    }

    /// The user of Kubernetes that the cluster's access entries make of a caller; `None`: no entry lets it in (where
    /// the cluster reads `aws-auth`, that may).
    ///
    /// # Errors
    /// [`TokenError::UnknownCluster`], [`TokenError::Principal`].
    pub fn user(
        &self,
        caller: &CallerIdentity,
        cluster: &str,
    ) -> Result<Option<KubernetesUser>, TokenError> {
        self.sim
            .read(Sim::now(), |core| users::user(&core.state, caller, cluster))
    }
}

/// The caller whose key has signed a token for `cluster`.
fn believe(
    core: &Core,
    token: &Token,
    cluster: &str,
    now: Timestamp,
) -> Result<CallerIdentity, TokenError> {
    let clusters = &core.state.eks.clusters;
    if !clusters.contains_key(cluster) {
        return Err(TokenError::UnknownCluster {
            cluster: cluster.to_owned(),
        });
    }
    let access_key = token.access_key.clone();
    let Some(principal) = core.principals.get(&access_key) else {
        return Err(TokenError::UnknownAccessKey { access_key });
    };
    if let Some(expired) = principal.expires.filter(|at| *at <= now) {
        return Err(TokenError::CredentialsExpired {
            access_key,
            arn: principal.caller.arn.clone(),
            expired,
        });
    }
    let session = principal.session_token.clone();
    let credentials = Credentials::new(access_key, &principal.secret, session, None, "vpcsim");
    match token.check_signature(&credentials, cluster) {
        Ok(()) => Ok(principal.caller.identity()),
        // The name is only in the signature: whether another one is right tells which error this is.
        Err(error @ TokenError::Signature { .. }) => {
            let mut others = clusters.keys().filter(|name| *name != cluster);
            let made_for = others.find(|name| token.check_signature(&credentials, name).is_ok());
            Err(made_for.map_or(error, |made_for| TokenError::OtherCluster {
                made_for: made_for.clone(),
                cluster: cluster.to_owned(),
            }))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use ec2::eks::token;
    use ec2::eks::{CreateClusterRequest, VpcConfigRequest};
    use ec2::types::{CreateSubnetRequest, CreateVpcRequest};

    use super::*;
    use crate::Config;

    fn text(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    async fn with_cluster() -> Sim {
        let sim = Sim::new(Config::default());
        let vpc = CreateVpcRequest {
            cidr_block: text("10.0.0.0/16"),
            ..Default::default()
        };
        let vpc_id = sim.call(&vpc).await.unwrap().vpc.unwrap().vpc_id;
        let mut subnet_ids = Vec::new();
        for (cidr, zone) in [("10.0.1.0/24", "us-west-2a"), ("10.0.2.0/24", "us-west-2b")] {
            let subnet = CreateSubnetRequest {
                vpc_id: vpc_id.clone(),
                cidr_block: text(cidr),
                availability_zone: text(zone),
                ..Default::default()
            };
            subnet_ids.extend(sim.call(&subnet).await.unwrap().subnet.unwrap().subnet_id);
        }
        let request = CreateClusterRequest {
            name: "dev".into(),
            role_arn: "arn:aws:iam::111122223333:role/eks".into(),
            resources_vpc_config: Some(VpcConfigRequest {
                subnet_ids,
                ..Default::default()
            }),
            ..Default::default()
        };
        sim.eks().call(&request).await.unwrap();
        assert_eq!(sim.core().state.violations(), [""; 0]);
        sim
    }

    #[tokio::test]
    async fn temporary_credentials_end() {
        let sim = with_cluster().await;
        let caller = Caller {
            access_key: "ASIAX".into(),
            ..Caller::root("111122223333")
        };
        sim.add_access_key(caller, "secret");
        let now = Timestamp::now();
        let credentials = Credentials::new("ASIAX", "secret", None, None, "test");
        let sts = "https://sts.us-west-2.amazonaws.com";
        let made = token::make(&credentials, "us-west-2", sts, "dev", now).unwrap();
        let eks = sim.eks();
        assert!(eks.authenticate(&made, "dev").is_ok());
        let ends = |at| {
            let mut core = sim.core();
            core.principals.get_mut("ASIAX").unwrap().expires = Some(at);
        };
        ends(now + jiff::SignedDuration::from_mins(1));
        assert!(eks.authenticate(&made, "dev").is_ok());
        ends(now);
        let error = eks.authenticate(&made, "dev").unwrap_err();
        assert!(
            matches!(error, TokenError::CredentialsExpired { .. }),
            "{error}"
        );
    }
}
