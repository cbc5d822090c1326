//! Attempts of EC2 calls, counted where they are made.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ec2::client::Attempt;

use super::page::Page;

/// Error codes come from outside: so many pairs of action and code have a series of their own.
const MOST: usize = 128;
const OTHER: &str = "other";
const LONGEST_CODE: usize = 64;

/// Shared with the client, which tells of each attempt.
#[derive(Debug, Clone, Default)]
pub(crate) struct Api(Arc<Mutex<BTreeMap<(&'static str, String), Series>>>);

#[derive(Debug, Clone, Copy, Default)]
struct Series {
    count: u64,
    millis: f64,
}

impl Api {
    pub(crate) fn saw(&self, attempt: &Attempt) {
        // What EC2 answers to a dry run that it would do is no error.
        let code = attempt
            .code
            .as_deref()
            .filter(|code| *code != "DryRunOperation");
        let code = code.map(word).unwrap_or_default();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = all.len() >= MOST;
        let key = match (attempt.action, code) {
            key if all.contains_key(&key) || !full => key,
            (action, code) if code.is_empty() => (action, code),
            (action, _) => (action, OTHER.to_owned()),
        };
        let series = all.entry(key).or_default();
        series.count += 1;
        series.millis += attempt.took.as_secs_f64() * 1000.0;
    }

    /// Upstream's families.
    pub(super) fn lines(&self, page: &mut Page) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut actions: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for ((action, code), series) in all.iter() {
            let (requests, errors) = actions.entry(action).or_default();
            *requests += series.count;
            *errors += if code.is_empty() { 0 } else { series.count };
        }
        page.by(
            (
                "awscni_ec2api_req_count",
                "counter",
                "EC2 requests by action, repetitions included",
            ),
            "fn",
            actions.iter().map(|(action, (n, _))| (action, n)),
        );
        page.by(
            (
                "awscni_ec2api_error_count",
                "counter",
                "EC2 requests that failed, by action",
            ),
            "fn",
            actions.iter().map(|(action, (_, n))| (action, n)),
        );
        let name = "awscni_aws_api_error_count";
        page.head(name, "counter", "EC2 requests that failed, by EC2's code");
        for ((action, code), series) in all.iter().filter(|((_, code), _)| !code.is_empty()) {
            page.line(name, &[("api", action), ("error", code)], series.count);
        }
        let name = "awscni_aws_api_latency_ms";
        page.head(name, "summary", "Time of EC2 requests, in milliseconds");
        for ((action, code), series) in all.iter() {
            let (failed, status) = match code.as_str() {
                "" => ("false", "200"),
                code => ("true", code),
            };
            let labels = [("api", *action), ("error", failed), ("status", status)];
            page.line(&format!("{name}_sum"), &labels, series.millis);
            page.line(&format!("{name}_count"), &labels, series.count);
        }
    }
}

/// A code as a label: what does not look like one of EC2's is none.
fn word(code: &str) -> String {
    let like = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_word = !code.is_empty() && code.len() <= LONGEST_CODE && code.chars().all(like);
    if is_word { code } else { OTHER }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn attempt(action: &'static str, code: Option<String>) -> Attempt {
        Attempt {
            action,
            number: 1,
            status: Some(400),
            code,
            took: Duration::from_millis(2),
        }
    }

    #[test]
    fn codes_from_outside_make_a_bounded_number_of_series() {
        let api = Api::default();
        api.saw(&attempt("DescribeSubnets", Some("a\"b\n".to_owned())));
        for n in 0..1000 {
            api.saw(&attempt("DescribeSubnets", Some(format!("Code{n}"))));
            api.saw(&attempt("AttachNetworkInterface", None));
        }
        let mut page = Page::default();
        api.lines(&mut page);
        let series = page.0.lines().filter(|l| !l.starts_with('#')).count();
        assert!(series <= 4 * MOST, "{series}");
        assert!(
            page.0
                .contains("awscni_ec2api_req_count{fn=\"DescribeSubnets\"} 1001\n")
        );
        assert!(
            page.0
                .contains("awscni_ec2api_error_count{fn=\"AttachNetworkInterface\"} 0\n")
        );
        assert!(page.0.contains("error=\"other\""));
    }
}
