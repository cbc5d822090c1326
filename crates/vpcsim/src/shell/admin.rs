//! The lab's own surface beside the API, as JSON: the knobs, the count of calls, and for clusters what the daemon does
//! in its own process ([`crate::eks::Eks`]), so that a server without a lab can be tried too.

use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use super::knobs::Knobs;
use super::sim::Sim;
use crate::error::ApiError;

pub(super) fn router() -> Router<Sim> {
    Router::new()
        .route("/_lab/knobs", get(read).put(write))
        .route("/_lab/calls", get(calls))
        .route("/_lab/clusters/{cluster}", put(report_cluster))
        .route("/_lab/clusters/{cluster}/addons/{addon}", put(report_addon))
        .route("/_lab/clusters/{cluster}/token", post(token))
}

/// How often each caller (ARN) called each action since the start, refused calls included.
async fn calls(Extract(sim): Extract<Sim>) -> impl IntoResponse {
    let calls = sim.core().calls.clone();
    Json(calls)
}

async fn read(Extract(sim): Extract<Sim>) -> Json<Knobs> {
    Json(sim.knobs())
}

/// Replaces all knobs: what the document leaves out goes back to its default.
async fn write(Extract(sim): Extract<Sim>, body: axum::body::Bytes) -> Response {
    match serde_json::from_slice::<Knobs>(&body) {
        Ok(knobs) => {
            sim.set_knobs(knobs.clone());
            Json(knobs).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

/// What became of a control plane.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
enum ClusterReport {
    /// It answers.
    Active { endpoint: String, ca: String },
    /// It does not, and why.
    Failed(String),
}

async fn report_cluster(
    Extract(sim): Extract<Sim>,
    Path(cluster): Path<String>,
    Json(report): Json<ClusterReport>,
) -> Response {
    let done = match report {
        ClusterReport::Active { endpoint, ca } => {
            sim.eks().set_cluster_active(&cluster, &endpoint, &ca)
        }
        ClusterReport::Failed(why) => sim.eks().set_cluster_failed(&cluster, &why),
    };
    done.map_or_else(refused, |()| StatusCode::NO_CONTENT.into_response())
}

/// What became of an add-on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AddonReport {
    generation: u64,
    /// Why it is not installed; absent: it is.
    failed: Option<String>,
}

async fn report_addon(
    Extract(sim): Extract<Sim>,
    Path((cluster, addon)): Path<(String, String)>,
    Json(report): Json<AddonReport>,
) -> Response {
    let outcome = report.failed.map_or(Ok(()), Err);
    let done = sim
        .eks()
        .report_addon(&cluster, &addon, report.generation, outcome);
    done.map_or_else(refused, |()| StatusCode::NO_CONTENT.into_response())
}

/// Who made a token, and who that is in the cluster.
async fn token(Extract(sim): Extract<Sim>, Path(cluster): Path<String>, token: String) -> Response {
    let eks = sim.eks();
    let caller = match eks.authenticate(token.trim(), &cluster) {
        Ok(caller) => caller,
        Err(error) => return (StatusCode::UNAUTHORIZED, format!("{error}\n")).into_response(),
    };
    match eks.user(&caller, &cluster) {
        Ok(Some(user)) => {
            Json(json!({"arn": caller.arn, "username": user.username, "groups": user.groups}))
                .into_response()
        }
        Ok(None) => (
            StatusCode::FORBIDDEN,
            format!("no access entry of {cluster} names {}\n", caller.arn),
        )
            .into_response(),
        Err(error) => (StatusCode::UNAUTHORIZED, format!("{error}\n")).into_response(),
    }
}

fn refused(error: ApiError) -> Response {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
    (status, format!("{error}\n")).into_response()
}
