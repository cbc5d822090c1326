//! One [`EksAction`] per call; what several of them need.

use ec2::eks::{AnyRequest, Operation};
use jiff::Timestamp;
use serde::Serialize;

use super::error::{invalid, no_cluster};
use super::nodegroup;
use super::store::{Cluster, Store};
use crate::actions::{Caller, Context};
use crate::error::{ApiError, ApiResult};
use crate::page::{self, Sizes};
use crate::rng::Rng;
use crate::store::State;

/// An action of EKS that the embedded EKS has.
pub trait EksAction: Operation {
    /// Does it, on a copy of the state that counts only if it succeeds.
    ///
    /// # Errors
    /// An error of EKS.
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<<Self as Operation>::Output>;
}

/// Page sizes of every List action.
pub(super) const PAGES: Sizes = Sizes(1, 100);

/// Applies a request of any action; its answer as JSON.
pub(super) fn apply(
    state: &mut State,
    caller: &Caller,
    request: &AnyRequest,
    now: Timestamp,
) -> ApiResult<serde_json::Value> {
    let mut cx = Context { state, caller, now };
    dispatch(request, &mut cx)
}

fn json(answer: impl Serialize) -> ApiResult<serde_json::Value> {
    serde_json::to_value(answer).map_err(|error| ApiError::new("ServerException", error))
}

/// Applies a request of a known type. One that answers an error has changed nothing.
pub(super) fn run<A: EksAction>(
    request: &A,
    cx: &mut Context<'_>,
) -> ApiResult<<A as Operation>::Output> {
    nodegroup::forget_ended(cx.state);
    if reads(A::ROUTE.method) {
        return request.run(cx);
    }
    let mut copy = cx.state.clone();
    let answer = request.run(&mut Context {
        state: &mut copy,
        caller: cx.caller,
        now: cx.now,
    })?;
    *cx.state = copy;
    Ok(answer)
}

/// Whether a call changes nothing.
pub(super) fn reads(method: &str) -> bool {
    method == "GET"
}

macro_rules! actions {
    ($($name:ident)*) => {
        fn dispatch(request: &AnyRequest, cx: &mut Context<'_>) -> ApiResult<serde_json::Value> {
            match request {
                $(AnyRequest::$name(r) => json(run(r, cx)?),)*
            }
        }
    };
}

actions! {
    CreateCluster DescribeCluster ListClusters DeleteCluster UpdateClusterConfig CreateNodegroup DescribeNodegroup
    ListNodegroups DeleteNodegroup UpdateNodegroupConfig CreateFargateProfile DescribeFargateProfile
    ListFargateProfiles DeleteFargateProfile CreateAddon DescribeAddon UpdateAddon ListAddons DeleteAddon
    DescribeAddonConfiguration DescribeAddonVersions DescribeUpdate ListUpdates CreateAccessEntry DescribeAccessEntry
    ListAccessEntries DeleteAccessEntry AssociateAccessPolicy DisassociateAccessPolicy ListAssociatedAccessPolicies
    ListTagsForResource TagResource UntagResource
}

impl Store {
    pub(super) fn cluster(&self, name: &str) -> ApiResult<&Cluster> {
        self.clusters.get(name).ok_or_else(|| no_cluster(name))
    }

    pub(super) fn cluster_mut(&mut self, name: &str) -> ApiResult<&mut Cluster> {
        self.clusters.get_mut(name).ok_or_else(|| no_cluster(name))
    }

    /// A cluster whose control plane is there.
    pub(super) fn active(&self, name: &str) -> ApiResult<&Cluster> {
        let cluster = self.cluster(name)?;
        match cluster.wire.status.as_str() {
            "ACTIVE" => Ok(cluster),
            status => Err(super::error::bad_request(format_args!(
                "Cluster '{name}' is not in ACTIVE status: it is {status}."
            ))),
        }
    }
}

/// A page of names.
pub(super) fn page<'n>(
    names: impl Iterator<Item = &'n String>,
    max_results: Option<i32>,
    token: Option<&str>,
) -> ApiResult<(Vec<String>, Option<String>)> {
    let token = token.filter(|t| !t.is_empty());
    let page = page::page(
        names.cloned().collect(),
        Clone::clone,
        max_results,
        token,
        PAGES,
    );
    page.map_err(|error| invalid(error.message))
}

/// `00c1b5f2-…`: ids of updates, ends of ARNs.
pub(super) fn uuid(rng: &mut Rng) -> String {
    let (a, b) = (rng.next_u64(), rng.next_u64());
    let (low, high) = (a & 0xffff_ffff, a >> 32);
    format!(
        "{high:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        low >> 16,
        low & 0xffff,
        b >> 48,
        b & 0xffff_ffff_ffff
    )
}

/// The ARN of something of EKS.
pub(super) fn arn(state: &State, kind: &str, rest: std::fmt::Arguments<'_>) -> String {
    let config = state.config();
    format!(
        "arn:aws:eks:{}:{}:{kind}/{rest}",
        config.region, config.account
    )
}

/// Letters, digits, `-` and `_`, the first a letter or digit.
pub(super) fn check_name(what: &str, name: &str, longest: usize) -> ApiResult<()> {
    let first = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if first && rest && name.len() <= longest {
        return Ok(());
    }
    Err(invalid(format_args!(
        "{what} '{name}' is not valid: 1 to {longest} letters, digits, '-' and '_', the first one a letter or digit."
    )))
}

/// The name of a role by its ARN. Roles are not modelled: any that could be one is taken.
pub(super) fn role_name<'a>(what: &str, arn: &'a str) -> ApiResult<&'a str> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let role = match parts[..] {
        ["arn", _, "iam", "", account, rest] if account.len() == 12 => rest.strip_prefix("role/"),
        _ => None,
    };
    let name = role
        .and_then(|r| r.rsplit('/').next())
        .filter(|n| !n.is_empty());
    name.ok_or_else(|| {
        invalid(format_args!(
            "The {what} '{arn}' is not valid: expected arn:aws:iam::ACCOUNT:role/NAME."
        ))
    })
}

/// Tags of a request.
pub(super) fn check_tags(tags: &ec2::eks::Texts) -> ApiResult<()> {
    let wrong = tags.iter().find(|(k, v)| {
        k.is_empty() || k.chars().count() > 128 || v.chars().count() > 256 || k.starts_with("aws:")
    });
    match wrong {
        Some((key, _)) => Err(invalid(format_args!(
            "The tag '{key}' is not valid: keys have 1 to 128 characters and do not start with aws:, values have at \
             most 256."
        ))),
        None if tags.len() > 50 => Err(invalid("A resource has at most 50 tags.")),
        None => Ok(()),
    }
}
