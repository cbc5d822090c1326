//! Tags of clusters and of their parts, by ARN.

use ec2::eks::*;

use super::actions::{EksAction, check_tags};
use crate::actions::Context;
use crate::error::{ApiError, ApiResult};
use crate::store::State;

/// The tags of the resource that an ARN names.
fn find<'s>(state: &'s mut State, arn: &str) -> ApiResult<&'s mut Texts> {
    let clusters = state.eks.clusters.values_mut();
    for cluster in clusters {
        if cluster.wire.arn == arn {
            return Ok(&mut cluster.wire.tags);
        }
        let groups = cluster
            .nodegroups
            .values_mut()
            .map(|n| (&n.wire.nodegroup_arn, &mut n.wire.tags));
        let profiles = cluster
            .fargate
            .values_mut()
            .map(|p| (&p.wire.fargate_profile_arn, &mut p.wire.tags));
        let addons = cluster
            .addons
            .values_mut()
            .map(|a| (&a.wire.addon_arn, &mut a.wire.tags));
        let entries = cluster
            .access
            .values_mut()
            .map(|a| (&a.wire.access_entry_arn, &mut a.wire.tags));
        let mut parts = groups.chain(profiles).chain(addons).chain(entries);
        if let Some((_, tags)) = parts.find(|(own, _)| *own == arn) {
            return Ok(tags);
        }
    }
    match arn.starts_with("arn:aws:eks:") {
        true => Err(ApiError::new(
            "NotFoundException",
            format_args!("Resource was not found: {arn}"),
        )),
        false => Err(ApiError::new(
            "BadRequestException",
            format_args!("Invalid arn: '{arn}' is not one of EKS."),
        )),
    }
}

impl EksAction for ListTagsForResourceRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<ListTagsForResourceResponse> {
        Ok(ListTagsForResourceResponse {
            tags: find(cx.state, &self.resource_arn)?.clone(),
        })
    }
}

impl EksAction for TagResourceRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Empty> {
        let tags = find(cx.state, &self.resource_arn)?;
        tags.extend(self.tags.clone());
        let bad = |error: ApiError| ApiError::new("BadRequestException", error.message);
        check_tags(tags).map_err(bad)?;
        Ok(Empty {})
    }
}

impl EksAction for UntagResourceRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Empty> {
        find(cx.state, &self.resource_arn)?.retain(|key, _| !self.tag_keys.contains(key));
        Ok(Empty {})
    }
}
