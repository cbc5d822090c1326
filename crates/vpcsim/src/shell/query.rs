//! The API's server. EC2 and STS Query are on `/`: POST with a form, or GET with a query string. Every other path is
//! EKS's.

use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use ec2::AnyRequest;
use ec2::eks::error_to_xml;
use ec2::wire::{ErrorResponse, xml};
use http::{HeaderMap, Method, StatusCode, Uri, header};

use super::admin;
use super::admit::{Dialect, guarded};
use super::auth::Signed;
use super::sim::{ServeError, Sim, serving};
use crate::actions::{self, Caller};
use crate::eks;
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
        let (listener, failed) = serving(listener)?;
        axum::serve(listener, self.api_router(admin))
            .await
            .map_err(failed)
    }

    /// The EC2 API as a router.
    pub fn api_router(&self, admin: bool) -> Router {
        let router = Router::new().route("/", any(answer)).fallback(rest);
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

/// EKS, whose actions are paths.
async fn rest(
    Extract(sim): Extract<Sim>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = async move { eks::answer(&sim, &method, &uri, &headers, &body).await };
    tokio::spawn(answer).await.unwrap_or_else(|_| {
        let document = r#"{"message":"An internal error has occurred"}"#;
        let kind = [
            ("x-amzn-errortype", "ServerException"),
            ("content-type", "application/json"),
        ];
        (StatusCode::INTERNAL_SERVER_ERROR, kind, document).into_response()
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
    xml::encode_error(&error_response(error, request_id))
}

fn error_response(error: &ApiError, request_id: &str) -> ErrorResponse {
    ErrorResponse {
        code: error.code.to_string(),
        message: error.message.clone(),
        request_id: request_id.to_owned(),
    }
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
    let uri = uri.path_and_query().map_or("/", |p| p.as_str());
    let signed = Signed {
        method: method.as_str(),
        uri,
        headers,
        body,
    };
    let caller = sim.caller(&signed);
    let (status, text) = match caller {
        Ok(caller) if is_sts => (200, caller.identity().to_xml(&request_id)),
        Err(error) if is_sts => (
            error.status(),
            error_to_xml(&error_response(&error, &request_id)),
        ),
        Ok(caller) => match execute(sim, &caller, form).await {
            Ok((action, output)) => (200, xml::encode(action, output.as_ref(), &request_id)),
            Err(error) => (error.status(), error_xml(&error, &request_id)),
        },
        Err(error) => (error.status(), error_xml(&error, &request_id)),
    };
    tracing::debug!(status, %request_id, action = action.as_ref().map(|(_, a)| a.as_ref()), "ec2");
    reply(status, text)
}

/// An id for one request, as AWS writes them.
pub(crate) fn request_id(sim: &Sim) -> String {
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

/// Errors of the knobs in EC2's words.
pub(super) static EC2: Dialect = Dialect {
    throttled: || ApiError::new("RequestLimitExceeded", "Request limit exceeded."),
    denied: |caller, action| {
        let arn = &caller.arn;
        ApiError::new(
            "UnauthorizedOperation",
            format_args!(
                "You are not authorized to perform this operation. User: {arn} is not authorized to \
                 perform: ec2:{action} because no identity-based policy allows the ec2:{action} action"
            ),
        )
    },
    injected: |error| error,
};

/// Whether an action changes nothing.
pub(super) fn reads(action: &str) -> bool {
    action.starts_with("Describe") || action.starts_with("Get")
}

type Answer = (&'static str, Arc<dyn ec2::wire::Shape>);

async fn execute(sim: &Sim, caller: &Caller, form: &[u8]) -> ApiResult<Answer> {
    let request = AnyRequest::decode(form).map_err(|error| ApiError::new(error.code(), &error))?;
    let action = request.action();
    let perform = async || perform(sim, caller, &request).await;
    let output = guarded(sim, caller, action, reads(action), &EC2, perform).await?;
    Ok((action, output))
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
