//! [`Eks`]: what the lab's daemon does with clusters.

use std::sync::Arc;

use aws_credential_types::Credentials;
use ec2::eks::token::{Token, TokenError};
use ec2::eks::{CallerIdentity, Operation};
use tokio::sync::watch;

use super::actions::{self, EksAction};
use super::report;
use super::users::{self, KubernetesUser};
use super::view::ClusterView;
use crate::actions::{Caller, Context};
use crate::error::ApiResult;
use crate::shell::Sim;

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
        let run = |core: &mut crate::shell::Core| {
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
        let set = |core: &mut crate::shell::Core| {
            report::active(&mut core.state, name, endpoint, ca_pem_base64)
        };
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
        let set = |core: &mut crate::shell::Core| {
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
        self.sim.read(now, |core| {
            if !core.state.eks.clusters.contains_key(cluster) {
                return Err(TokenError::UnknownCluster {
                    cluster: cluster.to_owned(),
                });
            }
            let access_key = token.access_key.clone();
            let unknown = TokenError::UnknownAccessKey {
                access_key: access_key.clone(),
            };
            let principal = core.principals.get(&access_key).ok_or(unknown)?;
            if let Some(expired) = principal.expires.filter(|at| *at <= now) {
                let arn = principal.caller.arn.clone();
                return Err(TokenError::CredentialsExpired {
                    access_key,
                    arn,
                    expired,
                });
            }
            let session = principal.session_token.clone();
            let credentials =
                Credentials::new(access_key, &principal.secret, session, None, "vpcsim");
            match token.check_signature(&credentials, cluster) {
                Ok(()) => Ok(principal.caller.identity()),
                // The name is only in the signature: whether another one is right tells which error this is.
                Err(error @ TokenError::Signature { .. }) => {
                    let mut others = core
                        .state
                        .eks
                        .clusters
                        .keys()
                        .filter(|name| *name != cluster);
                    match others.find(|name| token.check_signature(&credentials, name).is_ok()) {
                        Some(made_for) => Err(TokenError::OtherCluster {
                            made_for: made_for.clone(),
                            cluster: cluster.to_owned(),
                        }),
                        None => Err(error),
                    }
                }
                Err(error) => Err(error),
            }
        })
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
