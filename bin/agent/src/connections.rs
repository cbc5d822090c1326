//! Connections that conntrack remembers of an address whose pod is gone.
//!
//! An entry outlives its pod: an unanswered SYN by two minutes, longer than an address rests by
//! default. The next pod with the address would hear what was meant for the last one
//! (amazon-vpc-cni-k8s #3634). So an address's entries are forgotten late in its rest, when
//! kube-proxy and the peers have learnt that the pod is gone, and before anybody gets the address.
//! Several addresses go at once, since the kernel's table is read as a whole.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

/// Addresses at rest, and when their connections are to be forgotten.
#[derive(Debug)]
pub(crate) struct Connections {
    rest: Duration,
    due: BTreeMap<Ipv4Addr, Instant>,
}

impl Connections {
    /// `rest`: how long an address rests.
    pub(crate) fn new(rest: Duration) -> Self {
        Self {
            rest,
            due: BTreeMap::new(),
        }
    }

    /// A pod has left an address, `ago` before `now`.
    pub(crate) fn released(&mut self, address: Ipv4Addr, ago: Duration, now: Instant) {
        let after = (self.rest * 3 / 4).saturating_sub(ago);
        self.due.insert(address, now + after);
    }

    /// A pod has the address: its connections are nobody else's.
    pub(crate) fn leased(&mut self, address: Ipv4Addr) {
        self.due.remove(&address);
    }

    /// When there is something to forget.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// What is due, and what is due soon after.
    fn take(&mut self, now: Instant) -> Vec<Ipv4Addr> {
        let until = now + self.rest / 4;
        let (now, later) = std::mem::take(&mut self.due)
            .into_iter()
            .partition(|(_, at)| *at <= until);
        self.due = later;
        BTreeMap::into_keys(now).collect()
    }

    /// Forgets what is due, beside everything else: the table may be long.
    pub(crate) fn forget(&mut self) {
        let addresses = self.take(Instant::now());
        tokio::task::spawn_blocking(move || match kernel::conntrack::forget_here(&addresses) {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, ?addresses, "connections of gone pods forgotten"),
            Err(error) => tracing::warn!(
                %error,
                "connections of gone pods stay in conntrack: the next pod with such an address may hear them"
            ),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 1, last)
    }

    #[test]
    fn an_addresss_connections_go_before_its_rest_ends_and_not_once_it_is_leased() {
        let second = Duration::from_secs(1);
        let mut connections = Connections::new(30 * second);
        let begun = Instant::now();
        assert_eq!(connections.next(), None);
        connections.released(address(1), Duration::ZERO, begun);
        let now = begun + 5 * second;
        connections.released(address(2), Duration::ZERO, now);
        connections.released(address(3), Duration::ZERO, now);
        connections.leased(address(3));
        // One that was released before a restart.
        connections.released(address(4), 20 * second, now);
        let next = begun + Duration::from_millis(7_500);
        assert_eq!(connections.next(), Some(next));
        assert_eq!(connections.take(next), [address(4)]);
        // The second has begun its last quarter by then: one reading of the table does for both.
        let next = begun + Duration::from_millis(22_500);
        assert_eq!(connections.next(), Some(next));
        assert_eq!(connections.take(next), [address(1), address(2)]);
        assert_eq!(connections.next(), None);
    }
}
