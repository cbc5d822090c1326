//! The text form of Prometheus, version 0.0.4.
//!
//! Written by hand: the client library appends `_total` to counters, and dashboards know upstream's
//! names without it.

use std::fmt::{Display, Write as _};
use std::time::Duration;

/// A page of metrics.
#[derive(Debug, Default)]
pub(super) struct Page(pub(super) String);

impl Page {
    /// Begins a family; its samples follow.
    pub(super) fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to text cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A sample.
    pub(super) fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        let mut separator = '{';
        for (label, text) in labels {
            self.0.push(separator);
            let _ = write!(self.0, "{label}=\"");
            escape(&mut self.0, text);
            self.0.push('"');
            separator = ',';
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// A family of one sample without labels.
    pub(super) fn value(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.line(name, &[], value);
    }

    /// A family with one label.
    pub(super) fn by<L: AsRef<str>, V: Display>(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        label: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) {
        self.head(name, kind, help);
        for (text, value) in samples {
            self.line(name, &[(label, text.as_ref())], value);
        }
    }

    /// The samples of a histogram.
    pub(super) fn histogram(&mut self, name: &str, labels: &[(&str, &str)], of: &Histogram) {
        let bucket = format!("{name}_bucket");
        for (bound, count) in of.bounds.iter().zip(&of.counts) {
            let bound = bound.to_string();
            self.line(&bucket, &[labels, &[("le", &bound)]].concat(), count);
        }
        self.line(&bucket, &[labels, &[("le", "+Inf")]].concat(), of.count);
        self.line(&format!("{name}_sum"), labels, of.sum);
        self.line(&format!("{name}_count"), labels, of.count);
    }
}

fn escape(page: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => page.push_str("\\\\"),
            '"' => page.push_str("\\\""),
            '\n' => page.push_str("\\n"),
            c => page.push(c),
        }
    }
}

/// Times of something, by upper bounds in seconds.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    bounds: &'static [f64],
    /// Times up to each bound.
    counts: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len()],
            count: 0,
            sum: 0.0,
        }
    }

    pub(super) fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        for (bound, count) in self.bounds.iter().zip(&mut self.counts) {
            *count += u64::from(seconds <= *bound);
        }
        self.count += 1;
        self.sum += seconds;
    }
}
