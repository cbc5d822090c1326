//! Samples, what is said about them, and the row that is printed.

use std::fmt::Write as _;
use std::time::Duration;

/// Times of the same thing, in the order in which they were taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(pub(crate) Vec<Duration>);

impl Samples {
    fn at(&self, percent: usize) -> Option<Duration> {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted
            .get(sorted.len().saturating_sub(1) * percent / 100)
            .copied()
    }

    pub(crate) fn median(&self) -> Duration {
        self.at(50).unwrap_or_default()
    }

    /// The 99th percentile; with fewer than 100 samples, the slowest.
    pub(crate) fn p99(&self) -> Duration {
        let percent = if self.0.len() < 100 { 100 } else { 99 };
        self.at(percent).unwrap_or_default()
    }

    /// How far the run can be trusted: half the range of the medians of ten consecutive batches (of
    /// the samples themselves when they are few), as a share of the median.
    pub(crate) fn noise(&self) -> f64 {
        let batch = if self.0.len() < 50 {
            1
        } else {
            self.0.len() / 10
        };
        let medians = self
            .0
            .chunks_exact(batch)
            .map(|c| Self(c.to_vec()).median());
        let (least, most) = medians.fold((Duration::MAX, Duration::ZERO), |(l, m), x| {
            (l.min(x), m.max(x))
        });
        most.saturating_sub(least).as_secs_f64() / 2.0 / self.median().as_secs_f64().max(1e-9)
    }

    /// Sample by sample, as when one thing is done after the other.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| *a + *b).collect())
    }
}

/// What a figure is held against.
pub(crate) enum Goal<'a> {
    /// The limit measured in the same run, and how much more than it is fine.
    Times(&'a Samples, f64),
    /// A time that is fine, absolutely.
    AtMost(Duration),
    /// Nothing: it is a limit itself, or has a goal of its own in words.
    None,
}

/// Prints the heading of the table.
pub(crate) fn heading() {
    println!(
        "{:46} {:>10} {:>10} {:>7} {:>8} {:>9}",
        "what", "p50", "p99", "noise", "x floor", "goal"
    );
}

/// Prints a section's name.
pub(crate) fn section(name: &str) {
    println!("\n{name}");
}

/// Prints a row of times.
pub(crate) fn row(what: &str, samples: &Samples, goal: Goal<'_>) {
    let (p50, p99) = (samples.median(), samples.p99());
    let mut line = format!(
        "{what:46} {:>10} {:>10} {:>7}",
        time(p50),
        time(p99),
        format!("±{:.0} %", samples.noise() * 100.0)
    );
    let met = |met: bool| if met { "" } else { "  MISSED" };
    // Writing to a String cannot fail.
    let _ = match goal {
        Goal::Times(floor, most) => {
            let ratio = p50.as_secs_f64() / floor.median().as_secs_f64().max(1e-9);
            let times = format!("{ratio:.2}");
            write!(
                line,
                " {times:>8} {:>9}{}",
                format!("≤ {most}x"),
                met(ratio <= most)
            )
        }
        Goal::AtMost(most) => write!(
            line,
            " {:>8} {:>9}{}",
            "",
            format!("≤ {}", time(most)),
            met(p50 <= most)
        ),
        Goal::None => Ok(()),
    };
    println!("{}", line.trim_end());
}

/// Prints a row that is no time, with its goal in words.
pub(crate) fn fact(what: &str, value: &str, goal: &str, met: bool) {
    let missed = if met { "" } else { "  MISSED" };
    println!(
        "{what:46} {value:>10} {:>10} {:>7} {:>8} {goal:>9}{missed}",
        "", "", ""
    );
}

/// A time with three digits.
pub(crate) fn time(t: Duration) -> String {
    let us = t.as_secs_f64() * 1e6;
    match us {
        _ if us < 10.0 => format!("{us:.2} µs"),
        _ if us < 1e3 => format!("{us:.0} µs"),
        _ if us < 1e4 => format!("{:.2} ms", us / 1e3),
        _ if us < 1e5 => format!("{:.1} ms", us / 1e3),
        _ if us < 1e6 => format!("{:.0} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_slowest_and_spread() {
        let ms = |list: &[u64]| Samples(list.iter().map(|n| Duration::from_millis(*n)).collect());
        let few = ms(&[30, 10, 20]);
        assert_eq!(few.median(), Duration::from_millis(20));
        assert_eq!(few.p99(), Duration::from_millis(30));
        assert!((few.noise() - 0.5).abs() < 1e-9);
        let many = ms(&(1..=1000).collect::<Vec<_>>());
        assert_eq!(many.p99(), Duration::from_millis(990));
        assert_eq!(few.plus(&few).median(), Duration::from_millis(40));
    }

    #[test]
    fn three_digits() {
        let text: Vec<String> = [0.0000015, 0.00034, 0.0108, 0.7, 2.5]
            .map(|s| time(Duration::from_secs_f64(s)))
            .into();
        assert_eq!(text, ["1.50 µs", "340 µs", "10.8 ms", "700 ms", "2.50 s"]);
    }
}
