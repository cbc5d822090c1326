//! Token buckets of the API, one per account and action. Source: EC2 developer guide, "Request
//! throttling".

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::knobs::Bucket;

/// The fill of every bucket that was used.
#[derive(Debug, Default)]
pub(super) struct Buckets(BTreeMap<(String, &'static str), Fill>);

#[derive(Debug, Clone, Copy)]
struct Fill {
    tokens: f64,
    at: Timestamp,
}

impl Buckets {
    /// Takes a token; false when there is none.
    pub(super) fn take(
        &mut self,
        account: &str,
        action: &'static str,
        bucket: Bucket,
        now: Timestamp,
    ) -> bool {
        let full = Fill {
            tokens: bucket.capacity,
            at: now,
        };
        let fill = self.0.entry((account.to_owned(), action)).or_insert(full);
        let seconds = now.duration_since(fill.at).as_secs_f64().max(0.0);
        fill.tokens = (fill.tokens + seconds * bucket.refill_per_second).min(bucket.capacity);
        fill.at = now;
        if fill.tokens < 1.0 {
            return false;
        }
        fill.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    #[test]
    fn empties_and_refills() {
        let mut buckets = Buckets::default();
        let bucket = Bucket {
            capacity: 3.0,
            refill_per_second: 2.0,
        };
        let start = Timestamp::UNIX_EPOCH;
        let mut take = |at: Timestamp| buckets.take("1", "CreateVpc", bucket, at);
        assert_eq!([(); 4].map(|()| take(start)), [true, true, true, false]);
        let later = start + SignedDuration::from_millis(1_000);
        assert_eq!([(); 3].map(|()| take(later)), [true, true, false]);
    }
}
