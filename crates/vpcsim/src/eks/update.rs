//! Updates: changes that take time, by id. All are done at once, but those of add-ons, which the lab reports.

use ec2::eks::*;

use super::actions::{EksAction, page, uuid};
use super::error::not_found;
use super::store;
use crate::actions::Context;
use crate::error::ApiResult;

/// What an update changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Cluster,
    Nodegroup(String),
    Addon(String),
}

fn record(
    cx: &mut Context<'_>,
    cluster: &str,
    target: Target,
    kind: &str,
    params: Vec<(&'static str, String)>,
    status: &str,
) -> ApiResult<Update> {
    let update = Update {
        id: uuid(&mut cx.state.rng),
        status: status.to_owned(),
        type_: kind.to_owned(),
        params: params
            .into_iter()
            .map(|(kind, value)| UpdateParam {
                type_: kind.to_owned(),
                value,
            })
            .collect(),
        created_at: Some(cx.now),
        errors: Vec::new(),
    };
    let (nodegroup, addon) = match target {
        Target::Cluster => (None, None),
        Target::Nodegroup(name) => (Some(name), None),
        Target::Addon(name) => (None, Some(name)),
    };
    let record = store::Update {
        wire: update.clone(),
        nodegroup,
        addon,
    };
    cx.state
        .eks
        .cluster_mut(cluster)?
        .updates
        .insert(update.id.clone(), record);
    Ok(update)
}

/// An update that is done. It is answered as one in progress, as clients expect; the next look at it shows its end.
pub(super) fn done(
    cx: &mut Context<'_>,
    cluster: &str,
    target: Target,
    kind: &str,
    params: Vec<(&'static str, String)>,
) -> ApiResult<Update> {
    let mut update = record(cx, cluster, target, kind, params, "Successful")?;
    update.status = "InProgress".into();
    Ok(update)
}

/// An update of an add-on, which ends with the lab's report.
pub(super) fn begun(
    cx: &mut Context<'_>,
    cluster: &str,
    addon: &str,
    params: Vec<(&'static str, String)>,
) -> ApiResult<Update> {
    record(
        cx,
        cluster,
        Target::Addon(addon.to_owned()),
        "AddonUpdate",
        params,
        "InProgress",
    )
}

impl EksAction for DescribeUpdateRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<UpdateAnswer> {
        let updates = &cx.state.eks.cluster(&self.name)?.updates;
        let of_target =
            |u: &&store::Update| u.nodegroup == self.nodegroup_name && u.addon == self.addon_name;
        let found = updates.get(&self.update_id).filter(of_target);
        let found = found
            .ok_or_else(|| not_found(format_args!("No update found for ID: {}", self.update_id)))?;
        Ok(UpdateAnswer {
            update: found.wire.clone(),
        })
    }
}

impl EksAction for ListUpdatesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<ListUpdatesResponse> {
        let updates = cx.state.eks.cluster(&self.name)?.updates.iter();
        let of_target = updates
            .filter(|(_, u)| u.nodegroup == self.nodegroup_name && u.addon == self.addon_name);
        let ids = of_target.map(|(id, _)| id);
        let (update_ids, next_token) = page(ids, self.max_results, self.next_token.as_deref())?;
        Ok(ListUpdatesResponse {
            update_ids,
            next_token,
        })
    }
}
