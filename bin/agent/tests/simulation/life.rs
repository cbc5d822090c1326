//! Kills, starts, stalls, and what a start's clock shows.

use std::collections::BTreeMap;

use ipam::{Config, Event, Millis, Pool};

use crate::broken::Check;
use crate::mutants::Mutant;
use crate::world::World;

impl World {
    /// The process stands still: EC2 and time do not.
    pub(crate) fn stall(&mut self, ms: u64) {
        self.stalled = self.now + ms;
        self.coverage.saw("stalled");
    }

    /// Killed and started again: calls in flight end as they like, nobody hears of it; what was
    /// recorded is all that is known.
    pub(crate) fn restart(&mut self) -> Check {
        for (_, flight) in std::mem::take(&mut self.flights) {
            if flight.result.is_some() {
                self.coverage.saw("killed after a call");
                continue;
            }
            self.coverage.saw("killed before a call");
            if !flight.requests.is_empty() && self.rng.chance(50) {
                let late = *self.rng.pick(&[0, 100, 2_000]);
                self.ghosts.push((flight.at + late, flight.requests));
            }
        }
        self.ledger.forget_waiting();
        self.decided.clear();
        self.confirmed.clear();
        self.words = Default::default();
        self.wake = None;
        self.stalled = 0;
        self.now += *self.rng.pick(&[0, 0, 500, 3_000, 40_000]);
        self.set_clock();
        let mut config = self.config.clone();
        config.seed = self.rng.next();
        let mut released = self.ledger.released.clone();
        // It was another agent, which records only what is in use, and when it last changed that.
        // What it gave back to EC2 is taken to have gone long ago.
        if self.rng.chance(30) {
            self.coverage.saw("took over from another agent");
            config.unwatched_until = released.values().max().copied();
            released.clear();
        }
        if self.mutant == Some(Mutant::RestForgottenAtRestart) {
            released.clear();
            config.unwatched_until = None;
        }
        self.start(config, released)
    }

    /// The wall clock of a start may be any; from then on it only counts.
    fn set_clock(&mut self) {
        if !self.rng.chance(20) {
            return;
        }
        let ahead = self.rng.chance(50);
        let by = *self.rng.pick(&[5_000, 60_000, 3_600_000]);
        if ahead {
            self.coverage.saw("restarted with a clock ahead");
            self.skew += by;
            return;
        }
        self.coverage.saw("restarted with a clock behind");
        self.skew -= by;
        // Times that lie ahead count from now on.
        let clock = self.clock();
        for at in self.ledger.released.values_mut() {
            *at = (*at).min(clock);
        }
    }

    pub(crate) fn start(
        &mut self,
        config: Config,
        released: BTreeMap<std::net::Ipv4Addr, Millis>,
    ) -> Check {
        self.pool = Pool::new(config);
        self.feed(Event::Recovered {
            allocations: self.ledger.allocations.values().cloned().collect(),
            released,
            returned: self.ledger.returned.clone(),
        })?;
        self.cordon(self.cordoned)?;
        if self.rng.chance(20) {
            self.feed(Event::Unknown {
                reason: "instance metadata hangs".to_owned(),
            })?;
        }
        self.feed(Event::Node(self.node.clone()))
    }
}
