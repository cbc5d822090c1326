//! When a failed attempt is repeated, and after how long.
//!
//! Throttling and failed connections are always repeated: nothing has happened. An attempt whose outcome is unknown
//! (timeout, broken connection, status 500) is repeated only where a second one does no harm: it reads, it is
//! protected by an idempotency token, or doing it twice is an error or the same as once. Repeating an
//! AssignPrivateIpAddresses blindly would leak addresses; its caller must look first
//! ([`Error::outcome_unknown`](crate::Error::outcome_unknown)).

use std::time::Duration;

use crate::types::Operation;
use crate::wire::{NodeRef, Shape};

/// How often and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all, at least 1.
    pub attempts: u32,
    /// The longest first pause; each further one is at most twice as long.
    pub base: Duration,
    /// The longest pause of all.
    pub cap: Duration,
    /// How long one attempt may take.
    pub attempt_timeout: Duration,
    /// How long a call may take with all its attempts and pauses.
    pub budget: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 8,
            base: Duration::from_millis(200),
            cap: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(10),
            budget: Duration::from_secs(45),
        }
    }
}

impl Retry {
    /// The pause after attempt `attempt` (from 1): anything between nothing and the bound, so that a thousand nodes
    /// that failed together do not come back together. `dice` is uniform in 0..=u64::MAX.
    pub(crate) fn pause(&self, attempt: u32, dice: u64) -> Duration {
        let doubled = self
            .base
            .saturating_mul(1u32.checked_shl(attempt - 1).unwrap_or(u32::MAX));
        doubled.min(self.cap).mul_f64(dice as f64 / u64::MAX as f64)
    }
}

/// What a failed attempt means for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing was done, ask later.
    Throttled,
    /// Nothing was done: no connection, or EC2 said 503.
    NotDone,
    /// It may have been done.
    Unknown,
    /// The credentials have expired: new ones help.
    Expired,
    /// The answer is final.
    Final,
}

const THROTTLED: [&str; 8] = [
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "TooManyRequestsException",
    "EC2ThrottledException",
];
const EXPIRED: [&str; 3] = ["ExpiredToken", "ExpiredTokenException", "RequestExpired"];

/// What an error answer means.
pub(crate) fn classify(status: u16, code: &str) -> Failure {
    match (status, code) {
        _ if THROTTLED.contains(&code) => Failure::Throttled,
        _ if EXPIRED.contains(&code) => Failure::Expired,
        (429, _) => Failure::Throttled,
        (502..=503, _) | (_, "Unavailable" | "ServiceUnavailable") => Failure::NotDone,
        (500.., _) | (_, "InternalError" | "InternalFailure") => Failure::Unknown,
        _ => Failure::Final,
    }
}

/// Whether doing this twice may do something twice.
pub(crate) fn repeat_harms<O: Operation>(request: &O) -> bool {
    let makes_more = ["Create", "Allocate", "Assign", "Run"]
        .iter()
        .any(|verb| O::NAME.starts_with(verb));
    // Tags have keys, permissions are named by what they permit: the second one finds the first.
    let same_again = ["CreateTags", "CreateNetworkInterfacePermission"].contains(&O::NAME);
    makes_more && !same_again && !has_token(request)
}

fn has_token(request: &dyn Shape) -> bool {
    let fields = request.info().fields.iter().enumerate();
    fields
        .filter(|(_, field)| field.token)
        .any(|(index, _)| !matches!(request.field(index).get(), NodeRef::Absent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::*;

    #[test]
    fn pauses_grow_and_are_capped() {
        let retry = Retry::default();
        let longest = |attempt| retry.pause(attempt, u64::MAX).as_millis();
        assert_eq!([1, 2, 3, 6, 40].map(longest), [200, 400, 800, 5000, 5000]);
        assert_eq!(retry.pause(3, 0), Duration::ZERO);
    }

    #[test]
    fn answers_are_classified() {
        let cases = [
            (503, "RequestLimitExceeded", Failure::Throttled),
            (400, "Throttling", Failure::Throttled),
            (429, "", Failure::Throttled),
            (503, "Unavailable", Failure::NotDone),
            (502, "", Failure::NotDone),
            (500, "InternalError", Failure::Unknown),
            (504, "", Failure::Unknown),
            (400, "RequestExpired", Failure::Expired),
            (400, "InvalidParameterValue", Failure::Final),
            (403, "UnauthorizedOperation", Failure::Final),
        ];
        for (status, code, expected) in cases {
            assert_eq!(classify(status, code), expected, "{status} {code}");
        }
    }

    #[test]
    fn only_what_would_be_doubled_is_not_repeated() {
        assert!(repeat_harms(&AssignPrivateIpAddressesRequest::default()));
        assert!(repeat_harms(&AllocateAddressRequest::default()));
        assert!(repeat_harms(&CreateNetworkInterfaceRequest::default()));
        let client_token = Some("t".to_owned());
        assert!(!repeat_harms(&CreateNetworkInterfaceRequest {
            client_token,
            ..Default::default()
        }));
        assert!(!repeat_harms(&CreateTagsRequest::default()));
        assert!(!repeat_harms(&AttachNetworkInterfaceRequest::default()));
        assert!(!repeat_harms(&DescribeVpcsRequest::default()));
    }
}
