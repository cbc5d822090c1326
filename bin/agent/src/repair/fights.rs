//! Who changes the same thing again and again: not repaired without end, and said aloud.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ipam::Millis;

/// An object that was repaired more often than this …
const MOST: usize = 5;
/// … within this time is fought over.
const WITHIN: Duration = Duration::from_secs(60);
/// The first pause then; each further repair doubles it …
const FIRST: Duration = Duration::from_secs(10);
/// … up to this one.
const LONGEST: Duration = Duration::from_secs(300);
/// After so long in peace an object's past is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// The repairs of each object.
#[derive(Debug, Default)]
pub(crate) struct Fights(BTreeMap<String, Fight>);

#[derive(Debug, Default)]
struct Fight {
    /// The last repairs, oldest first; not more than [`MOST`].
    times: VecDeque<Millis>,
    pauses: u32,
    until: Millis,
}

impl Fights {
    /// Until when an object is left alone; `None`: it may be repaired.
    pub(crate) fn paused(&self, object: &str, now: Millis) -> Option<Millis> {
        let until = self.0.get(object)?.until;
        (until > now).then_some(until)
    }

    /// An object was repaired. Returns the pause if that was once too often.
    pub(crate) fn repaired(&mut self, object: &str, now: Millis) -> Option<Duration> {
        let fight = self.0.entry(object.to_owned()).or_default();
        let first = fight.times.front().copied();
        fight.times.push_back(now);
        if fight.times.len() <= MOST {
            return None;
        }
        fight.times.pop_front();
        let fought = first.is_some_and(|first| now.since(first) < WITHIN);
        // During pauses repairs are rarer than that; it still is the same fight.
        if !fought && fight.pauses == 0 {
            return None;
        }
        let pause = FIRST.saturating_mul(1 << fight.pauses.min(8)).min(LONGEST);
        fight.pauses += 1;
        fight.until = now.after(pause);
        Some(pause)
    }

    /// Forgets what has been in peace for long.
    pub(crate) fn forget(&mut self, now: Millis) {
        self.0.retain(|_, fight| {
            let last = fight.times.back().copied().unwrap_or_default();
            now.since(last) < FORGOTTEN
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_repairs_a_minute_are_fine_and_the_sixth_is_a_fight() {
        let mut fights = Fights::default();
        let at = |seconds: u64| Millis(seconds * 1000);
        for i in 0..5 {
            assert_eq!(fights.repaired("rule", at(i)), None);
        }
        assert_eq!(fights.paused("rule", at(5)), None);
        assert_eq!(fights.repaired("rule", at(5)), Some(FIRST));
        assert_eq!(fights.paused("rule", at(6)), Some(at(15)));
        assert_eq!(fights.paused("another", at(6)), None);
        // It goes on: the pauses grow, up to the longest.
        let mut now = at(15);
        for _ in 0..8 {
            let pause = fights.repaired("rule", now).unwrap();
            now = now.after(pause);
        }
        assert_eq!(fights.repaired("rule", now), Some(LONGEST));
        // Peace.
        now = now.after(FORGOTTEN);
        fights.forget(now);
        assert_eq!(fights.repaired("rule", now), None);
    }

    #[test]
    fn rare_repairs_are_no_fight() {
        let mut fights = Fights::default();
        for i in 0..100 {
            assert_eq!(fights.repaired("rule", Millis(i * 13_000)), None);
            fights.forget(Millis(i * 13_000));
        }
    }
}
