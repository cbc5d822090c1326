//! What a lab can turn: latency, throttling, faults, denials, lag. `GET` and `PUT /_lab/knobs`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Timing;
use crate::error::ApiError;
use crate::filter::wildcard;
use crate::rng::Rng;

/// All knobs. A member that a document leaves out has the default of its profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Knobs {
    /// Where members that are left out come from.
    pub profile: Profile,
    /// How long transitions take.
    pub timing: Option<Timing>,
    /// Milliseconds before an action is done, by action name with wildcards; the longest name wins.
    pub latency_ms: Option<BTreeMap<String, u64>>,
    /// Token buckets of the API.
    pub throttle: Throttle,
    /// Errors that calls answer instead of their result.
    pub faults: Vec<Fault>,
    /// Who may not do what.
    pub denies: Vec<Deny>,
    /// How old the view of instance metadata is, in milliseconds.
    pub imds_lag_ms: Option<u64>,
    /// Whether instance metadata hangs, and where.
    pub imds_hang: Option<ImdsHang>,
    /// How old the view of Describe calls is, in milliseconds.
    pub describe_lag_ms: u64,
    /// How long a mutating call waits for the packets to follow it at most; 0: it does not wait.
    pub applied_timeout_ms: u64,
    /// Whether signatures are verified; otherwise any signature of the right form is taken.
    pub strict_signatures: bool,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            profile: Profile::Instant,
            timing: None,
            latency_ms: None,
            throttle: Throttle::default(),
            faults: Vec::new(),
            denies: Vec::new(),
            imds_lag_ms: None,
            imds_hang: None,
            describe_lag_ms: 0,
            applied_timeout_ms: 5_000,
            strict_signatures: false,
        }
    }
}

/// Sets of defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Everything at once.
    #[default]
    Instant,
    /// Near the figures that are public about AWS.
    AwsLike,
}

/// Where an answer of instance metadata stops. What hangs is not answered later either, when the knob is turned back:
/// the client must ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImdsHang {
    /// The connection is taken and the request is read; no byte comes back.
    Silent,
    /// The head of the answer comes, its body never.
    Head,
}

/// Token buckets per action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Throttle {
    /// Whether calls are throttled.
    pub enabled: bool,
    /// The bucket of calls that change something.
    pub mutating: Bucket,
    /// The bucket of calls that change nothing.
    pub reading: Bucket,
    /// Buckets of single actions, by name with wildcards.
    pub actions: BTreeMap<String, Bucket>,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            enabled: false,
            mutating: Bucket {
                capacity: 50.0,
                refill_per_second: 5.0,
            },
            reading: Bucket {
                capacity: 100.0,
                refill_per_second: 20.0,
            },
            actions: BTreeMap::new(),
        }
    }
}

/// A token bucket; a call takes one token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// Tokens at most.
    pub capacity: f64,
    /// Tokens that come back each second.
    pub refill_per_second: f64,
}

/// An error in place of a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The actions, with wildcards.
    pub action: String,
    /// The error's code.
    #[serde(default = "internal_error")]
    pub code: String,
    /// The error's message; empty: one that names the fault.
    #[serde(default)]
    pub message: String,
    /// How often it strikes at most; absent: without end.
    #[serde(default)]
    pub count: Option<u32>,
    /// How likely it strikes, 0 to 1.
    #[serde(default = "always")]
    pub probability: f64,
    /// It strikes from this time on.
    #[serde(default)]
    pub from: Option<Timestamp>,
    /// It strikes until this time.
    #[serde(default)]
    pub until: Option<Timestamp>,
    /// Milliseconds that the caller waits before the error; a client's time-out comes first when
    /// this is long.
    #[serde(default)]
    pub hang_ms: u64,
    /// Whether the action is done before the error is answered.
    #[serde(default)]
    pub after: bool,
}

fn internal_error() -> String {
    "InternalError".into()
}

fn always() -> f64 {
    1.0
}

impl Fault {
    /// The error that it answers.
    pub fn error(&self) -> ApiError {
        let code = self.code.clone();
        match (self.message.as_str(), code.as_str()) {
            ("", "RequestLimitExceeded") => ApiError::new(code, "Request limit exceeded."),
            ("", "InternalError") => ApiError::new(code, "An internal error has occurred"),
            ("", _) => ApiError::new(code.clone(), format_args!("{code} (injected)")),
            (message, _) => ApiError::new(code, message),
        }
    }
}

/// A denial, as an IAM policy would give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deny {
    /// Access key, role name or ARN, with wildcards; absent: everyone.
    #[serde(default = "anyone")]
    pub principal: String,
    /// The action, with wildcards: EC2's with or without `ec2:` before it, EKS's as `eks:DescribeCluster`.
    pub action: String,
}

fn anyone() -> String {
    "*".into()
}

impl Knobs {
    /// How long transitions take.
    pub fn timing(&self) -> Timing {
        self.timing.unwrap_or(match self.profile {
            Profile::Instant => Timing::INSTANT,
            Profile::AwsLike => Timing::AWS_LIKE,
        })
    }

    /// Milliseconds before `action` is done.
    pub fn latency_ms(&self, action: &str) -> u64 {
        if let Some(table) = &self.latency_ms {
            return longest(table, action).copied().unwrap_or(0);
        }
        match (self.profile, action) {
            (Profile::Instant, _) => 0,
            (_, "AttachNetworkInterface") => 700,
            (_, "AssignPrivateIpAddresses" | "DetachNetworkInterface") => 500,
            (_, name) if name.starts_with("Describe") || name.starts_with("Get") => 100,
            _ => 300,
        }
    }

    /// How old the view of instance metadata is, in milliseconds.
    pub fn imds_lag_ms(&self) -> u64 {
        let of_profile = match self.profile {
            Profile::Instant => 0,
            Profile::AwsLike => 1_000,
        };
        self.imds_lag_ms.unwrap_or(of_profile)
    }

    /// The longest lag that any view has.
    pub(crate) fn longest_lag_ms(&self) -> u64 {
        self.imds_lag_ms().max(self.describe_lag_ms)
    }

    /// The bucket of `action`; `None` when calls are not throttled.
    pub(crate) fn bucket(&self, action: &str, reads: bool) -> Option<Bucket> {
        let throttle = &self.throttle;
        let general = if reads {
            throttle.reading
        } else {
            throttle.mutating
        };
        throttle.enabled.then(|| {
            longest(&throttle.actions, action)
                .copied()
                .unwrap_or(general)
        })
    }

    /// The fault that strikes this call, if any; one that is counted is used up by it.
    pub(crate) fn strike(&mut self, action: &str, now: Timestamp, rng: &mut Rng) -> Option<Fault> {
        let fault = self.faults.iter_mut().find(|f| {
            wildcard(&f.action, action)
                && f.count != Some(0)
                && f.from.is_none_or(|from| from <= now)
                && f.until.is_none_or(|until| now < until)
                && rng.chance(f.probability)
        })?;
        fault.count = fault.count.map(|n| n - 1);
        Some(fault.clone())
    }

    /// Whether a denial refuses the call, as an IAM policy would. `action` is EC2's bare name, or
    /// `eks:CreateCluster`.
    pub(crate) fn denies(&self, caller: &crate::Caller, action: &str) -> bool {
        let role = caller.arn.split('/').nth(1).unwrap_or("");
        self.denies.iter().any(|d| {
            let who = [caller.access_key.as_str(), caller.arn.as_str(), role];
            let what = d.action.strip_prefix("ec2:").unwrap_or(&d.action);
            who.iter().any(|w| wildcard(&d.principal, w)) && wildcard(what, action)
        })
    }
}

/// The entry with the longest name that matches: the most specific one.
fn longest<'t, V>(table: &'t BTreeMap<String, V>, action: &str) -> Option<&'t V> {
    let matching = table.iter().filter(|(name, _)| wildcard(name, action));
    matching
        .max_by_key(|(name, _)| name.len())
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_may_leave_everything_out() {
        let knobs: Knobs = serde_json::from_str(r#"{"profile":"aws-like"}"#).unwrap();
        assert_eq!(knobs.timing(), Timing::AWS_LIKE);
        assert_eq!(knobs.latency_ms("AttachNetworkInterface"), 700);
        assert!(serde_json::from_str::<Knobs>(r#"{"latncy":1}"#).is_err());
    }

    #[test]
    fn the_most_specific_name_wins() {
        let knobs: Knobs = serde_json::from_str(
            r#"{"latency_ms":{"*":1,"Describe*":2,"DescribeVpcs":3},
                "throttle":{"enabled":true,"actions":{"Assign*":{"capacity":2,"refill_per_second":0}}}}"#,
        )
        .unwrap();
        let latency = ["CreateVpc", "DescribeSubnets", "DescribeVpcs"].map(|a| knobs.latency_ms(a));
        assert_eq!(latency, [1, 2, 3]);
        assert_eq!(
            knobs
                .bucket("AssignPrivateIpAddresses", false)
                .unwrap()
                .capacity,
            2.0
        );
        assert_eq!(knobs.bucket("CreateVpc", false).unwrap().capacity, 50.0);
    }

    #[test]
    fn a_counted_fault_is_used_up() {
        let mut knobs: Knobs = serde_json::from_str(
            r#"{"faults":[{"action":"Attach*","code":"InternalError","count":2}]}"#,
        )
        .unwrap();
        let (now, mut rng) = (Timestamp::UNIX_EPOCH, Rng::new(1));
        let strikes = (0..4).filter(|_| {
            knobs
                .strike("AttachNetworkInterface", now, &mut rng)
                .is_some()
        });
        assert_eq!(strikes.count(), 2);
        assert!(
            knobs
                .strike("DetachNetworkInterface", now, &mut rng)
                .is_none()
        );
    }

    #[test]
    fn denials_are_for_a_principal_and_an_action() {
        let knobs: Knobs =
            serde_json::from_str(r#"{"denies":[{"principal":"node","action":"ec2:Describe*"}]}"#)
                .unwrap();
        let mut caller = crate::Caller::root("111122223333");
        assert!(!knobs.denies(&caller, "DescribeVpcs"));
        caller.arn = "arn:aws:sts::111122223333:assumed-role/node/i-1".into();
        assert!(knobs.denies(&caller, "DescribeVpcs"));
        assert!(!knobs.denies(&caller, "CreateVpc"));
        assert!(
            !knobs.denies(&caller, "eks:DescribeCluster"),
            "EKS's actions have their prefix"
        );
    }
}
