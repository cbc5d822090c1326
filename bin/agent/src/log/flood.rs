//! Warnings that repeat: each at most once a minute, with the number of those left out.
//!
//! A full subnet or a denied action is met again with every pod and every retry. What is left out
//! is counted, told with the next line of its kind, or when its minute is over and anything is
//! written, and in a metric. Debug and info are not limited: they follow what pods do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The same line is written once in this time.
const WINDOW: Duration = Duration::from_secs(60);
/// Different lines of one place in the code, within the window: a text with a number in it is
/// another one each time.
const DIFFERENT: u32 = 10;
/// Lines that are remembered; beyond, the oldest is forgotten, which can only repeat it early.
const REMEMBERED: usize = 256;

/// The number of lines left out, for each line of a place in the code.
#[derive(Debug, Default)]
pub(super) struct Flood {
    lines: BTreeMap<(Place, String), Told>,
    places: BTreeMap<Place, Told>,
}

/// A place in the code: file and line, and the level of what it says.
pub(super) type Place = (&'static str, u32, tracing::Level);

#[derive(Debug, Clone, Copy)]
struct Told {
    since: Instant,
    /// Of a line: how often it was left out since. Of a place: how many lines were written.
    count: u32,
    /// Of a place: how many lines beyond the limit were left out.
    beyond: u32,
}

impl Told {
    fn new(since: Instant) -> Self {
        Self {
            since,
            count: 0,
            beyond: 0,
        }
    }

    fn over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= WINDOW
    }
}

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Written; so many like it were left out before.
    Written { left_out: u32 },
    /// Left out.
    LeftOut,
}

impl Flood {
    pub(super) fn pass(&mut self, place: Place, text: &str, now: Instant) -> Verdict {
        let key = (place, text.to_owned());
        let mut left_out = 0;
        if let Some(told) = self.lines.get_mut(&key) {
            if !told.over(now) {
                told.count = told.count.saturating_add(1);
                return Verdict::LeftOut;
            }
            left_out = told.count;
        }
        let here = self.places.entry(place).or_insert(Told::new(now));
        if here.over(now) {
            left_out = left_out.saturating_add(here.beyond);
            *here = Told::new(now);
        }
        if here.count >= DIFFERENT {
            here.beyond = here.beyond.saturating_add(1);
            return Verdict::LeftOut;
        }
        here.count += 1;
        self.make_room();
        self.lines.insert(key, Told::new(now));
        Verdict::Written { left_out }
    }

    /// Lines whose minute is over and that came again meanwhile: what is to be told of them.
    pub(super) fn over(&mut self, now: Instant) -> Vec<(Place, String, u32)> {
        let mut told = Vec::new();
        self.lines.retain(|(place, text), line| {
            let over = line.over(now);
            if over && line.count > 0 {
                told.push((*place, text.clone(), line.count));
            }
            !over
        });
        told
    }

    fn make_room(&mut self) {
        while self.lines.len() >= REMEMBERED {
            let oldest = self.lines.iter().min_by_key(|(_, told)| told.since);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            self.lines.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = ("owner.rs", 7, tracing::Level::WARN);

    #[test]
    fn the_same_line_is_written_once_a_minute_with_the_count() {
        let mut flood = Flood::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(
            flood.pass(PLACE, "a", at(0)),
            Verdict::Written { left_out: 0 }
        );
        for second in 1..60 {
            assert_eq!(flood.pass(PLACE, "a", at(second)), Verdict::LeftOut);
        }
        assert_eq!(
            flood.pass(("owner.rs", 8, tracing::Level::WARN), "a", at(9)),
            Verdict::Written { left_out: 0 }
        );
        assert_eq!(
            flood.pass(PLACE, "a", at(60)),
            Verdict::Written { left_out: 59 }
        );
        assert_eq!(flood.pass(PLACE, "a", at(61)), Verdict::LeftOut);
        // It ends: the last count is told with whatever is written next.
        assert_eq!(flood.over(at(119)), []);
        assert_eq!(flood.over(at(120)), [(PLACE, "a".to_owned(), 1)]);
        assert_eq!(flood.over(at(500)), []);
    }

    #[test]
    fn texts_with_numbers_in_them_are_bounded_by_their_place() {
        let mut flood = Flood::default();
        let start = Instant::now();
        let written = |flood: &mut Flood, second: u64| {
            (0..1000)
                .filter(|n| {
                    let now = start + Duration::from_secs(second);
                    flood.pass(PLACE, &format!("in {n} s"), now) != Verdict::LeftOut
                })
                .count()
        };
        assert_eq!(written(&mut flood, 0), 10);
        assert_eq!(written(&mut flood, 30), 0);
        assert_eq!(written(&mut flood, 60), 10);
        assert!(flood.lines.len() <= REMEMBERED);
        let later = start + Duration::from_secs(120);
        let next = flood.pass(PLACE, "another", later);
        assert!(
            matches!(next, Verdict::Written { left_out } if left_out >= 990),
            "{next:?}"
        );
    }
}
