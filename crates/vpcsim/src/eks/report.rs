//! What the lab tells: a control plane is there or is not, an add-on is installed or is not.

use ec2::eks::{Certificate, ErrorDetail, Issue};
use jiff::Timestamp;

use super::addon;
use crate::error::ApiResult;
use crate::store::State;

/// `InternalFailure` is the code of EKS for what is not the user's fault.
fn issue(message: &str) -> Issue {
    Issue {
        code: "InternalFailure".into(),
        message: message.to_owned(),
        resource_ids: Vec::new(),
    }
}

pub(super) fn active(
    state: &mut State,
    name: &str,
    endpoint: &str,
    ca_pem_base64: &str,
) -> ApiResult<()> {
    let wire = &mut state.eks.cluster_mut(name)?.wire;
    wire.status = "ACTIVE".into();
    wire.endpoint = Some(endpoint.to_owned());
    wire.certificate_authority = Certificate {
        data: Some(ca_pem_base64.to_owned()),
    };
    wire.health.issues.clear();
    Ok(())
}

pub(super) fn failed(state: &mut State, name: &str, why: &str) -> ApiResult<()> {
    let wire = &mut state.eks.cluster_mut(name)?.wire;
    wire.status = "FAILED".into();
    wire.health.issues = vec![issue(why)];
    Ok(())
}

pub(super) fn addon(
    state: &mut State,
    cluster: &str,
    name: &str,
    generation: u64,
    outcome: Result<(), String>,
    now: Timestamp,
) -> ApiResult<()> {
    let record = state.eks.cluster_mut(cluster)?;
    let addon = record
        .addons
        .get_mut(name)
        .ok_or_else(|| addon::no_addon(cluster, name))?;
    if addon.generation != generation {
        return Ok(());
    }
    let created = addon.wire.status.starts_with("CREAT");
    addon.wire.modified_at = Some(now);
    addon.wire.status = match (&outcome, created) {
        (Ok(()), _) => "ACTIVE",
        (Err(_), true) => "CREATE_FAILED",
        (Err(_), false) => "UPDATE_FAILED",
    }
    .to_owned();
    addon.wire.health.issues = outcome
        .as_ref()
        .err()
        .map(|why| issue(why))
        .into_iter()
        .collect();
    let Some(update) = addon
        .update
        .take()
        .and_then(|id| record.updates.get_mut(&id))
    else {
        return Ok(());
    };
    match outcome {
        Ok(()) => update.wire.status = "Successful".into(),
        Err(error_message) => {
            update.wire.status = "Failed".into();
            let error_code = "Unknown".to_owned();
            update.wire.errors.push(ErrorDetail {
                error_code,
                error_message,
                resource_ids: Vec::new(),
            });
        }
    }
    Ok(())
}
