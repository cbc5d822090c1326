//! What the knobs do to a call before and after it is done, whatever the protocol: counts, throttling, denials,
//! latency, faults.

use std::time::Duration;

use jiff::Timestamp;

use super::knobs::Fault;
use super::sim::{Core, Sim};
use crate::actions::Caller;
use crate::error::{ApiError, ApiResult};

/// Errors of the knobs in the words of a service.
pub(crate) struct Dialect {
    /// The bucket is empty.
    pub(crate) throttled: fn() -> ApiError,
    /// A denial matches caller and action.
    pub(crate) denied: fn(&Caller, &str) -> ApiError,
    /// A fault's error, which is written as EC2's.
    pub(crate) injected: fn(ApiError) -> ApiError,
}

impl Core {
    /// What becomes of a call before it is done: its error, or its latency and the fault that strikes it.
    pub(super) fn admit(
        &mut self,
        caller: &Caller,
        action: &'static str,
        reads: bool,
        dialect: &Dialect,
        now: Timestamp,
    ) -> ApiResult<(u64, Option<Fault>)> {
        let calls = self.calls.entry(caller.arn.clone()).or_default();
        *calls.entry(action).or_default() += 1;
        if let Some(bucket) = self.knobs.bucket(action, reads)
            && !self.buckets.take(&caller.account, action, bucket, now)
        {
            return Err((dialect.throttled)());
        }
        if self.knobs.denies(caller, action) {
            return Err((dialect.denied)(caller, action));
        }
        let fault = self.knobs.strike(action, now, &mut self.rng);
        Ok((self.knobs.latency_ms(action), fault))
    }
}

/// Does a call as the knobs allow. `action` is EC2's bare name, or `eks:CreateCluster`.
pub(crate) async fn guarded<T>(
    sim: &Sim,
    caller: &Caller,
    action: &'static str,
    reads: bool,
    dialect: &Dialect,
    perform: impl AsyncFnOnce() -> ApiResult<T>,
) -> ApiResult<T> {
    let admitted = sim.core().admit(caller, action, reads, dialect, Sim::now());
    let (latency, fault) = admitted?;
    if latency > 0 {
        tokio::time::sleep(Duration::from_millis(latency)).await;
    }
    let Some(fault) = fault else {
        return perform().await;
    };
    if fault.after {
        // The caller hears of the fault, whatever came of the call.
        let done = perform().await;
        tracing::debug!(action, ok = done.is_ok(), "done before an injected fault");
    }
    if fault.hang_ms > 0 {
        tokio::time::sleep(Duration::from_millis(fault.hang_ms)).await;
    }
    Err((dialect.injected)(fault.error()))
}
