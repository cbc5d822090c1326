//! The lab's own surface beside the API: the knobs and the count of calls, as JSON.

use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use super::knobs::Knobs;
use super::sim::Sim;

pub(super) fn router() -> Router<Sim> {
    Router::new()
        .route("/_lab/knobs", get(read).put(write))
        .route("/_lab/calls", get(calls))
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
