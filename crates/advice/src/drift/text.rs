//! The answer for people.

use std::fmt::{self, Write};

use crate::page::{self, BOLD, GOOD, WARN};

use super::Drift;

/// The most nodes that are named for one difference.
const NAMED: usize = 6;

/// Renders for people; colours are ANSI sequences.
pub fn render(drift: &Drift) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let count = drift.differences.len() + drift.groups.len();
    let verdict = match (count, drift.unknown.is_empty()) {
        (0, true) => (GOOD, "NO DRIFT"),
        (0, false) => (WARN, "UNKNOWN"),
        _ => (WARN, "DRIFT"),
    };
    page::verdict(
        &mut out,
        verdict,
        format_args!(
            "{count} differences; {} nodes looked at, {} agents asked",
            drift.nodes, drift.told
        ),
    )?;
    for set in &drift.daemon_sets {
        let by = match set.managed_by.is_empty() {
            true => String::new(),
            false => format!("; {}", set.managed_by.join(", ")),
        };
        writeln!(
            out,
            "  DaemonSet {} generation {} (acted upon: {}), {}{by}   k8s: resourceVersion {}",
            set.name, set.generation, set.observed, set.image, set.version
        )?;
    }
    page::unknown(&mut out, &drift.unknown)?;
    for difference in &drift.differences {
        let code = difference
            .code
            .map(|c| format!("[{c}]"))
            .unwrap_or_default();
        let named = difference
            .objects
            .iter()
            .take(NAMED)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        let more = match difference.objects.len().saturating_sub(NAMED) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        writeln!(
            out,
            "\n{WARN}drift{code}{WARN:#}: {BOLD}{}{BOLD:#}",
            difference.title
        )?;
        writeln!(out, "  ┌─ {named}{more}")?;
        for line in &difference.lines {
            writeln!(out, "  │  {line}")?;
        }
        if let Some(help) = &difference.help {
            writeln!(out, "  = help: {help}")?;
        }
    }
    writeln!(
        out,
        "\n  {BOLD}Security groups{BOLD:#}: {}",
        drift.groups_verdict
    )?;
    for finding in &drift.groups {
        page::group_finding(&mut out, "drift", finding)?;
    }
    for line in &drift.notes {
        writeln!(out, "\n  {line}")?;
    }
    for line in &drift.not_checked {
        writeln!(out, "\n  not checked: {line}")?;
    }
    Ok(out)
}
