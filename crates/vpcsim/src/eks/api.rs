//! EKS over HTTP: REST and JSON, on every path that is not EC2's.

use axum::response::{IntoResponse, Response};
use ec2::eks::AnyRequest;
use http::{HeaderMap, Method, StatusCode, Uri, header};
use serde_json::{Value, json};

use super::actions;
use crate::actions::Caller;
use crate::error::{ApiError, ApiResult};
use crate::shell::{Dialect, Signed, Sim, guarded, request_id};

/// The answer to one request.
pub(crate) async fn answer(
    sim: &Sim,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    let request_id = request_id(sim);
    let path_and_query = uri.path_and_query().map_or("/", |p| p.as_str());
    let signed = Signed {
        method: method.as_str(),
        uri: path_and_query,
        headers,
        body,
    };
    let request = AnyRequest::decode(method.as_str(), uri.path(), uri.query().unwrap_or(""), body);
    let action = request.as_ref().map_or("", |r| r.route().action);
    let outcome = match (sim.caller(&signed).map_err(of_signature), &request) {
        (Err(error), _) => Err(error),
        (Ok(_), Err(error)) => Err(ApiError::new(error.code(), error)),
        (Ok(caller), Ok(request)) => perform(sim, &caller, request).await,
    };
    let reply = match outcome {
        Ok(answer) => reply(200, &answer, &request_id, None),
        Err(error) => {
            let document = error_document(&error, request.as_ref().ok());
            reply(error.status(), &document, &request_id, Some(&error.code))
        }
    };
    tracing::debug!(status = reply.status().as_u16(), %request_id, action, "eks");
    reply
}

async fn perform(sim: &Sim, caller: &Caller, request: &AnyRequest) -> ApiResult<Value> {
    let route = request.route();
    let reads = actions::reads(route.method);
    guarded(sim, caller, route.iam, reads, &EKS, async || {
        let now = Sim::now();
        if reads {
            return sim.read(now, |core| {
                actions::apply(&mut core.state, caller, request, now)
            });
        }
        let (answer, version) = sim.mutate(now, |core| {
            actions::apply(&mut core.state, caller, request, now)
        })?;
        sim.wait_applied(version).await;
        Ok(answer)
    })
    .await
}

/// Errors of the knobs in EKS's words.
static EKS: Dialect = Dialect {
    throttled: || ApiError::new("ThrottlingException", "Too Many Requests"),
    denied: |caller, action| {
        ApiError::new(
            "AccessDeniedException",
            format_args!(
                "User: {} is not authorized to perform: {action} because no identity-based policy allows the {action} \
                 action",
                caller.arn
            ),
        )
    },
    injected: |error| match error.code.as_ref() {
        "InternalError" => ApiError::new("ServerException", error.message),
        "RequestLimitExceeded" => ApiError::new("ThrottlingException", "Too Many Requests"),
        _ => error,
    },
};

fn of_signature(error: ApiError) -> ApiError {
    let code = match error.code.as_ref() {
        "SignatureDoesNotMatch" => "InvalidSignatureException",
        "AuthFailure" => "UnrecognizedClientException",
        _ => return error,
    };
    ApiError::new(code, error.message)
}

fn error_document(error: &ApiError, request: Option<&AnyRequest>) -> Value {
    let mut document = json!({"message": error.message});
    if !error.code.ends_with("Exception") {
        document["code"] = error.code.as_ref().into();
    }
    // EKS repeats the names that the request has.
    let names = request.and_then(AnyRequest::names);
    for (name, value) in names.into_iter().flatten() {
        document[name] = value.into();
    }
    document
}

fn reply(status: u16, document: &Value, request_id: &str, error: Option<&str>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        document.to_string(),
    )
        .into_response();
    let set = [
        ("x-amzn-requestid", Some(request_id)),
        ("x-amzn-errortype", error),
    ];
    for (name, value) in set {
        if let Some(Ok(value)) = value.map(http::HeaderValue::from_str) {
            reply.headers_mut().insert(name, value);
        }
    }
    reply
}
