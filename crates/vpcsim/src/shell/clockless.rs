//! [`Clockless`]: the embedded EC2 in virtual time.
//!
//! The same state machine, knobs (faults, denials, token buckets, lagging views) and instance metadata as [`Sim`]
//! serves, but time is an argument and nothing waits: a simulation decides when a call arrives, when it is done and
//! when its answer is heard, and can so be repeated exactly.
//!
//! [`Sim`]: super::Sim

use std::any::Any;
use std::sync::Arc;

use ec2::AnyRequest;
use ec2::types::Operation;
use ec2::wire::Shape;
use jiff::Timestamp;

use super::imds_paths::tree;
use super::knobs::{Fault, Knobs};
use super::query::{EC2, reads};
use super::sim::Core;
use crate::actions::{self, Action, Caller};
use crate::error::{ApiError, ApiResult};
use crate::store::{Config, State};

/// The embedded EC2 without clock and sockets.
pub struct Clockless {
    core: Core,
}

/// A call that throttling and denials let pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// Milliseconds until it is done.
    pub latency_ms: u64,
    /// The fault that strikes it: the caller hears its error, and the call is done only if it says so.
    pub fault: Option<Fault>,
}

impl Clockless {
    /// An EC2 without resources.
    pub fn new(config: Config) -> Self {
        Self {
            core: Core::new(config),
        }
    }

    /// The knobs as they are set.
    pub fn knobs(&self) -> &Knobs {
        &self.core.knobs
    }

    /// Turns the knobs, at any time: a view that begins to lag shows what is true now until its lag is over.
    pub fn turn(&mut self, change: impl FnOnce(&mut Knobs)) {
        let mut knobs = self.core.knobs.clone();
        change(&mut knobs);
        self.core.turn(knobs);
    }

    /// What is true now.
    pub fn state(&self) -> &State {
        &self.core.state
    }

    /// Grows with every change of what is true.
    pub fn version(&self) -> u64 {
        self.core.version
    }

    /// Lets transitions happen that are due; true when something changed.
    pub fn settle(&mut self, now: Timestamp) -> bool {
        self.core.settle(now)
    }

    /// Whether a call of `action` may be done, and what strikes it.
    ///
    /// # Errors
    /// It is throttled or denied.
    pub fn admit(
        &mut self,
        caller: &Caller,
        action: &'static str,
        now: Timestamp,
    ) -> ApiResult<Admitted> {
        let (latency_ms, fault) = self.core.admit(caller, action, reads(action), &EC2, now)?;
        Ok(Admitted { latency_ms, fault })
    }

    /// Does a call that was admitted, as a client's: Describe may lag, tokens make a create idempotent.
    ///
    /// # Errors
    /// An EC2 error; nothing has changed then.
    pub fn perform<O: Operation>(
        &mut self,
        caller: &Caller,
        request: &AnyRequest,
        now: Timestamp,
    ) -> ApiResult<O::Output> {
        let core = &mut self.core;
        core.settle(now);
        let answer = if reads(request.action()) || request.is_dry_run() {
            match core.view(now, core.knobs.describe_lag_ms) {
                Some(old) => actions::apply(&mut (*old).clone(), caller, request, now),
                None => actions::apply(&mut core.state, caller, request, now),
            }
        } else {
            let answer = actions::apply(&mut core.state, caller, request, now);
            if answer.is_ok() {
                core.state.tick(now);
                core.changed(now);
            }
            answer
        };
        typed::<O>(&answer?)
    }

    /// Does a call as whoever owns the account, past all knobs and without lag: what people and other programs do,
    /// and how a test asks for the truth.
    ///
    /// # Errors
    /// An EC2 error; nothing has changed then.
    pub fn call<A: Action>(&mut self, request: &A, now: Timestamp) -> ApiResult<A::Output> {
        let core = &mut self.core;
        core.settle(now);
        let root = Caller::root(&core.state.config.account);
        let answer = actions::call(&mut core.state, &root, request, now)?;
        if !A::READ_ONLY {
            core.state.tick(now);
            core.changed(now);
        }
        Ok(answer)
    }

    /// What instance metadata of `instance` answers to `path` below `/latest/`; it may lag.
    pub fn metadata(&mut self, instance: &str, path: &str, now: Timestamp) -> Option<String> {
        let core = &mut self.core;
        core.settle(now);
        let old = core.view(now, core.knobs.imds_lag_ms());
        let state = old.as_deref().unwrap_or(&core.state);
        let (id, record) = state.instances.find(instance).ok()?;
        tree(state, id, record).get(path)
    }
}

fn typed<O: Operation>(answer: &Arc<dyn Shape>) -> ApiResult<O::Output> {
    let any: &dyn Any = answer.as_ref();
    any.downcast_ref::<O::Output>().cloned().ok_or_else(|| {
        ApiError::new(
            "InternalError",
            format_args!("{} answered with another action's answer", O::NAME),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ec2::types::*;

    #[test]
    fn a_fault_strikes_once_and_a_view_lags() {
        let mut ec2 = Clockless::new(Config::default());
        let at = |s: i64| Timestamp::from_second(1_700_000_000 + s).unwrap();
        let caller = Caller::root("111122223333");
        let vpc = CreateVpcRequest {
            cidr_block: Some("10.0.0.0/16".into()),
            ..Default::default()
        };
        ec2.turn(|knobs| knobs.describe_lag_ms = 5_000);
        ec2.call(&vpc, at(0)).unwrap();
        let shown = |ec2: &mut Clockless, at| {
            let request = AnyRequest::DescribeVpcs(Box::default());
            let answer = ec2.perform::<DescribeVpcsRequest>(&caller, &request, at);
            answer.unwrap().vpcs.len()
        };
        assert_eq!((shown(&mut ec2, at(1)), shown(&mut ec2, at(6))), (0, 1));
        let once = r#"{"action":"CreateVpc","count":1,"after":true}"#;
        ec2.turn(|knobs| knobs.faults.push(serde_json::from_str(once).unwrap()));
        let first = ec2.admit(&caller, "CreateVpc", at(7)).unwrap();
        assert!(first.fault.unwrap().after);
        assert_eq!(ec2.admit(&caller, "CreateVpc", at(7)).unwrap().fault, None);
    }
}
