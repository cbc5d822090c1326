//! EC2 Query over HTTP: POST with a form, or GET with a query string.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use ec2::AnyRequest;
use ec2::wire::{ErrorResponse, xml};
use http::{HeaderMap, Method, StatusCode, Uri, header};

use super::auth::{self, Signed};
use super::knobs::Fault;
use super::sim::{ServeError, Sim};
use super::{admin, sts};
use crate::actions::{self, Caller};
use crate::error::{ApiError, ApiResult};

/// Larger bodies are refused; EC2's own limit is not published.
const MAX_BODY: usize = 4 << 20;

impl Sim {
    /// Serves the EC2 API on `listener`, until the task that awaits this is dropped. With `admin`,
    /// the knobs too: only for a listener that no node can reach.
    ///
    /// # Errors
    /// The runtime cannot use the listener.
    pub async fn serve_api(&self, listener: TcpListener, admin: bool) -> Result<(), ServeError> {
        let address = listener
            .local_addr()
            .map_or_else(|e| e.to_string(), |a| a.to_string());
        let failed = |source| ServeError::Listener {
            address: address.clone(),
            source,
        };
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        axum::serve(listener, self.api_router(admin))
            .await
            .map_err(failed)
    }

    /// The EC2 API as a router.
    pub fn api_router(&self, admin: bool) -> Router {
        let router = Router::new().route("/", any(answer));
        let router = if admin {
            router.merge(admin::router())
        } else {
            router
        };
        router
            .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
            .with_state(self.clone())
    }
}

async fn answer(
    Extract(sim): Extract<Sim>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    // On a task of its own: what was asked for is done although the client hangs up, as on AWS.
    let task = tokio::spawn(async move { respond(&sim, &method, &uri, &headers, &body).await });
    task.await.unwrap_or_else(|_| {
        let error = ApiError::new("InternalError", "An internal error has occurred");
        reply(error.status(), error_xml(&error, "0"))
    })
}

fn reply(status: u16, body: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (
        status,
        [(header::CONTENT_TYPE, "text/xml;charset=UTF-8")],
        body,
    )
        .into_response()
}

fn error_xml(error: &ApiError, request_id: &str) -> String {
    xml::encode_error(&ErrorResponse {
        code: error.code.to_string(),
        message: error.message.clone(),
        request_id: request_id.to_owned(),
    })
}

async fn respond(
    sim: &Sim,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    let request_id = request_id(sim);
    let query = uri.query().unwrap_or("");
    let form = match *method {
        Method::GET => query.as_bytes(),
        _ if body.is_empty() => query.as_bytes(),
        _ => body,
    };
    let action = form_urlencoded::parse(form).find(|(name, _)| name == "Action");
    let is_sts = action
        .as_ref()
        .is_some_and(|(_, action)| action == "GetCallerIdentity");
    let (account, strict, principals) = {
        let core = sim.core();
        let account = core.state.config().account.clone();
        (
            account,
            core.knobs.strict_signatures,
            core.principals.clone(),
        )
    };
    let uri = uri.path_and_query().map_or("/", |p| p.as_str());
    let signed = Signed {
        method: method.as_str(),
        uri,
        headers,
        body,
    };
    let caller = auth::caller(&signed, &principals, &account, strict);
    let (status, text) = match caller {
        Ok(caller) if is_sts => (200, sts::caller_identity(&caller, &request_id)),
        Err(error) if is_sts => (error.status(), sts::error(&error, &request_id)),
        Ok(caller) => match execute(sim, &caller, form).await {
            Ok((action, output)) => (200, xml::encode(action, output.as_ref(), &request_id)),
            Err(error) => (error.status(), error_xml(&error, &request_id)),
        },
        Err(error) => (error.status(), error_xml(&error, &request_id)),
    };
    tracing::debug!(status, %request_id, action = action.as_ref().map(|(_, a)| a.as_ref()), "ec2");
    reply(status, text)
}

fn request_id(sim: &Sim) -> String {
    let (a, b) = {
        let mut core = sim.core();
        (core.rng.next_u64(), core.rng.next_u64())
    };
    let (time, rest) = ((a >> 32) as u32, (a & 0xffff_ffff) as u32);
    format!(
        "{time:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        rest >> 16,
        rest & 0xffff,
        b >> 48,
        b & 0xffff_ffff_ffff
    )
}

/// What the knobs do to a call before it is done.
fn admit(sim: &Sim, caller: &Caller, request: &AnyRequest) -> ApiResult<(u64, Option<Fault>)> {
    let (action, now) = (request.action(), Sim::now());
    let reads = reads(action);
    let mut core = sim.core();
    let core = &mut *core;
    let calls = core.calls.entry(caller.arn.clone()).or_default();
    *calls.entry(action).or_default() += 1;
    if let Some(bucket) = core.knobs.bucket(action, reads)
        && !core.buckets.take(&caller.account, action, bucket, now)
    {
        return Err(ApiError::new(
            "RequestLimitExceeded",
            "Request limit exceeded.",
        ));
    }
    core.knobs.authorize(caller, action)?;
    let fault = core.knobs.strike(action, now, &mut core.rng);
    Ok((core.knobs.latency_ms(action), fault))
}

/// Whether an action changes nothing.
fn reads(action: &str) -> bool {
    action.starts_with("Describe") || action.starts_with("Get")
}

type Answer = (&'static str, Arc<dyn ec2::wire::Shape>);

async fn execute(sim: &Sim, caller: &Caller, form: &[u8]) -> ApiResult<Answer> {
    let request = AnyRequest::decode(form).map_err(|error| ApiError::new(error.code(), &error))?;
    let action = request.action();
    let (latency, fault) = admit(sim, caller, &request)?;
    if latency > 0 {
        tokio::time::sleep(Duration::from_millis(latency)).await;
    }
    match fault {
        None => Ok((action, perform(sim, caller, &request).await?)),
        Some(fault) => {
            if fault.after {
                // The caller hears of the fault, whatever came of the call.
                let done = perform(sim, caller, &request).await;
                tracing::debug!(action, ok = done.is_ok(), "done before an injected fault");
            }
            if fault.hang_ms > 0 {
                tokio::time::sleep(Duration::from_millis(fault.hang_ms)).await;
            }
            Err(fault.error())
        }
    }
}

async fn perform(
    sim: &Sim,
    caller: &Caller,
    request: &AnyRequest,
) -> ApiResult<Arc<dyn ec2::wire::Shape>> {
    let now = Sim::now();
    if reads(request.action()) || request.is_dry_run() {
        // A view that lags is a copy, worked on outside of the lock.
        let old = sim.read(now, |core| core.view(now, core.knobs.describe_lag_ms));
        return match old {
            Some(old) => actions::apply(&mut (*old).clone(), caller, request, now),
            None => sim.read(now, |core| {
                actions::apply(&mut core.state, caller, request, now)
            }),
        };
    }
    let (answer, version) = sim.mutate(now, |core| {
        actions::apply(&mut core.state, caller, request, now)
    })?;
    sim.wait_applied(version).await;
    Ok(answer)
}
