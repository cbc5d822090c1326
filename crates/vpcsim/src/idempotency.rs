//! ClientToken: a repeated create answers what the first one answered and makes nothing new.
//!
//! The token names (account, action, token). The same token with other parameters is an error.
//! Source: EC2 API reference, "Ensuring idempotency". AWS forgets tokens after a time that depends on
//! the action; here it is 24 hours.

use std::fmt;
use std::sync::Arc;

use ec2::AnyRequest;
use ec2::wire::{NodeRef, Shape, member};
use jiff::{SignedDuration, Timestamp};

use crate::error::{ApiError, ApiResult};
use crate::store::State;

const REMEMBERED: SignedDuration = SignedDuration::from_hours(24);

/// An answer that a token stands for.
#[derive(Clone)]
pub(crate) struct Remembered {
    request: AnyRequest,
    answer: Arc<dyn Shape>,
    at: Timestamp,
}

impl PartialEq for Remembered {
    fn eq(&self, other: &Self) -> bool {
        self.request == other.request && self.at == other.at
    }
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remembered")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// (account, action, token), if the request carries a token.
pub(crate) fn key(account: &str, request: &AnyRequest) -> Option<(String, String, String)> {
    match member(request.shape(), "ClientToken")? {
        NodeRef::Text(token) if !token.is_empty() => Some((
            account.to_owned(),
            request.action().to_owned(),
            token.to_owned(),
        )),
        _ => None,
    }
}

/// What was answered to this token before.
///
/// # Errors
/// `IdempotentParameterMismatch` when the earlier request had other parameters.
pub(crate) fn recall(
    state: &State,
    key: &(String, String, String),
    request: &AnyRequest,
    now: Timestamp,
) -> ApiResult<Option<Arc<dyn Shape>>> {
    let Some(known) = state.remembered.get(key) else {
        return Ok(None);
    };
    if now.duration_since(known.at) > REMEMBERED {
        return Ok(None);
    }
    if known.request != *request {
        return Err(ApiError::new(
            "IdempotentParameterMismatch",
            format_args!(
                "The request uses the same client token as a previous, but non-identical request: {}",
                key.2
            ),
        ));
    }
    Ok(Some(Arc::clone(&known.answer)))
}

/// Remembers an answer, and forgets those that are too old.
pub(crate) fn remember(
    state: &mut State,
    key: (String, String, String),
    request: &AnyRequest,
    answer: &Arc<dyn Shape>,
    now: Timestamp,
) {
    // Looked through only now and then, so that a call stays cheap however many are remembered.
    if state.remembered.len() % 512 == 511 {
        state
            .remembered
            .retain(|_, r| now.duration_since(r.at) <= REMEMBERED);
    }
    let answer = Arc::clone(answer);
    state.remembered.insert(
        key,
        Remembered {
            request: request.clone(),
            answer,
            at: now,
        },
    );
}
