//! What became of one attempt, and what that means.

use bytes::Bytes;
use http::Response;
use tokio::time::Instant;

use super::retry::{Failure, classify};
use super::{Answer, Call, Place, SendError, Service};
use crate::error::Error;

/// What became of one attempt.
pub(super) enum Outcome {
    /// It was not sent: our own fault.
    Never(Error),
    /// No answer within the attempt's time.
    Silent,
    /// No connection, or it broke.
    Lost(SendError),
    /// An answer, of whatever status.
    Answer(Response<Bytes>),
}

/// What an outcome means: the answer, or the error and what it means for the next attempt.
pub(super) fn judge(
    service: &Service,
    call: &Call,
    place: &Place,
    outcome: Outcome,
    attempts: u32,
    start: Instant,
) -> Result<Answer, (Failure, Error)> {
    let (action, endpoint) = (call.action, place.endpoint.to_string());
    match outcome {
        Outcome::Never(error) => Err((Failure::Final, error)),
        Outcome::Silent => {
            let waited = start.elapsed();
            Err((
                Failure::Unknown,
                Error::Timeout {
                    action,
                    endpoint,
                    waited,
                    attempts,
                    sent: true,
                },
            ))
        }
        Outcome::Lost(source) => {
            let sent = source.sent();
            let failure = match source {
                SendError::Connect(_) => Failure::NotDone,
                SendError::Exchange(_) => Failure::Unknown,
                SendError::Roots(_) | SendError::TooLong => Failure::Final,
            };
            Err((
                failure,
                Error::Unreachable {
                    action,
                    endpoint,
                    sent,
                    source,
                },
            ))
        }
        Outcome::Answer(answer) if answer.status().is_success() => {
            let status = answer.status().as_u16();
            Ok(Answer {
                body: answer.into_body(),
                status,
            })
        }
        Outcome::Answer(answer) => Err(judge_error(service, action, endpoint, &answer, attempts)),
    }
}

fn judge_error(
    service: &Service,
    action: &'static str,
    endpoint: String,
    answer: &Response<Bytes>,
    attempts: u32,
) -> (Failure, Error) {
    let status = answer.status().as_u16();
    match (service.decode_error)(answer) {
        Ok(error) => {
            let failure = classify(status, &error.code);
            let error = Error::of_answer(action, &endpoint, status, error, attempts);
            (failure, error)
        }
        Err(source) => {
            let start = start_of(answer.body());
            let source = Box::new(source);
            (
                classify(status, ""),
                Error::Decode {
                    action,
                    endpoint,
                    status,
                    start,
                    source,
                },
            )
        }
    }
}

/// The HTTP status that an error came with.
pub(super) fn status_of(error: &Error) -> Option<u16> {
    match error {
        Error::Api { status, .. }
        | Error::Unavailable { status, .. }
        | Error::Decode { status, .. } => Some(*status),
        Error::Denied { .. } => Some(403),
        Error::Throttled { .. } => Some(503),
        _ => None,
    }
}

/// The start of an answer that is not the service's, for people to recognize it by.
pub(super) fn start_of(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned()
}
