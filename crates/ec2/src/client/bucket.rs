//! Token buckets per action, as EC2 keeps them per account and region: staying below them is kinder than being
//! told. A caller that must wait reserves its token first, so waiting callers go in the order they came.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// The size of a bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Calls at once, at least 1.
    pub burst: f64,
    /// Calls per second after that.
    pub per_second: f64,
}

/// The rate of each action. The defaults are EC2's published ones; accounts differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Actions that change something: 50, then 5/s.
    pub mutating: Rate,
    /// Actions that read: 100, then 20/s.
    pub reading: Rate,
    /// Exceptions by action.
    pub actions: HashMap<&'static str, Rate>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            mutating: Rate {
                burst: 50.0,
                per_second: 5.0,
            },
            reading: Rate {
                burst: 100.0,
                per_second: 20.0,
            },
            actions: HashMap::new(),
        }
    }
}

impl Limits {
    fn rate(&self, action: &str, read_only: bool) -> Rate {
        let general = if read_only {
            self.reading
        } else {
            self.mutating
        };
        self.actions.get(action).copied().unwrap_or(general)
    }
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// Negative while callers wait for tokens that they have reserved.
    tokens: f64,
    filled: Instant,
}

/// The buckets of one client.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    limits: Limits,
    buckets: HashMap<&'static str, Bucket>,
}

impl Buckets {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            buckets: HashMap::new(),
        }
    }

    fn bucket(&mut self, action: &'static str, read_only: bool, now: Instant) -> &mut Bucket {
        let rate = self.limits.rate(action, read_only);
        let bucket = self.buckets.entry(action).or_insert(Bucket {
            rate,
            tokens: rate.burst,
            filled: now,
        });
        let gained = now.saturating_duration_since(bucket.filled).as_secs_f64() * rate.per_second;
        bucket.tokens = (bucket.tokens + gained).min(rate.burst);
        bucket.filled = now;
        bucket
    }

    /// Takes a token and returns how long to wait for it; None, and takes nothing, when that is longer than `most`.
    pub(crate) fn take(
        &mut self,
        action: &'static str,
        read_only: bool,
        now: Instant,
        most: Duration,
    ) -> Option<Duration> {
        let bucket = self.bucket(action, read_only, now);
        let missing = (1.0 - bucket.tokens).max(0.0);
        let wait =
            Duration::try_from_secs_f64(missing / bucket.rate.per_second).unwrap_or(Duration::MAX);
        if wait > most {
            return None;
        }
        bucket.tokens -= 1.0;
        Some(wait)
    }

    /// EC2 said that its own bucket is empty: so is ours.
    pub(crate) fn drain(&mut self, action: &'static str, read_only: bool, now: Instant) {
        let bucket = self.bucket(action, read_only, now);
        bucket.tokens = bucket.tokens.min(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate_then_refusal() {
        let now = Instant::now();
        let rate = Rate {
            burst: 2.0,
            per_second: 4.0,
        };
        let mut buckets = Buckets::new(Limits {
            mutating: rate,
            ..Limits::default()
        });
        let mut take = |at: u64, most: u64| {
            let at = now + Duration::from_millis(at);
            buckets
                .take("CreateVpc", false, at, Duration::from_millis(most))
                .map(|d| d.as_millis())
        };
        assert_eq!(take(0, 0), Some(0));
        assert_eq!(take(0, 0), Some(0));
        assert_eq!(take(0, 1000), Some(250));
        assert_eq!(take(0, 1000), Some(500));
        assert_eq!(take(0, 700), None, "750 ms are more than the caller has");
        assert_eq!(take(250, 1000), Some(500), "a refusal takes no token");
        assert_eq!(take(60_000, 0), Some(0));
    }

    #[test]
    fn a_throttled_answer_empties_the_bucket_of_its_action_only() {
        let now = Instant::now();
        let mut buckets = Buckets::new(Limits::default());
        buckets.drain("CreateVpc", false, now);
        assert_eq!(
            buckets.take("CreateVpc", false, now, Duration::from_secs(1)),
            Some(Duration::from_millis(200))
        );
        assert_eq!(
            buckets.take("DeleteVpc", false, now, Duration::ZERO),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn a_rate_of_nothing_never_panics() {
        let rate = Rate {
            burst: 0.0,
            per_second: 0.0,
        };
        let mut buckets = Buckets::new(Limits {
            reading: rate,
            ..Limits::default()
        });
        assert_eq!(
            buckets.take("DescribeVpcs", true, Instant::now(), Duration::from_secs(9)),
            None
        );
    }
}
