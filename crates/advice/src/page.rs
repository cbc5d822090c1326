//! What every page for people shares: colours, the line of the verdict, what is missing, tables, findings.

use std::fmt::{self, Display, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};

use crate::finding::{Finding, Section, Severity};

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default().bold();

/// The most missing facts that are listed; the rest is counted.
const NEEDS: usize = 12;

pub(crate) fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// The first line: the verdict, and the number that proves it.
pub(crate) fn verdict(
    out: &mut String,
    (style, word): (Style, &str),
    proof: impl Display,
) -> fmt::Result {
    writeln!(out, "{}  {proof}", paint(style, word))
}

/// What is missing for an answer, each on a line; too many are counted.
pub(crate) fn unknown(out: &mut String, needs: &[impl Display]) -> fmt::Result {
    if needs.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n  Not known, and needed:")?;
    for need in needs.iter().take(NEEDS) {
        writeln!(out, "    {need}")?;
    }
    if needs.len() > NEEDS {
        let more = needs.len() - NEEDS;
        writeln!(out, "    … and {more} more (-o json lists all)")?;
    }
    Ok(())
}

/// A table without rows.
pub(crate) fn columns(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    table
}

/// Writes a table; one without rows says nothing.
pub(crate) fn table(out: &mut String, table: &Table) -> fmt::Result {
    if table.row_count() == 0 {
        return Ok(());
    }
    writeln!(out)?;
    for line in table.to_string().lines() {
        writeln!(out, "   {}", line.trim_end())?;
    }
    Ok(())
}

/// A number of a table's cell; a dash where nobody said it.
pub(crate) fn number(n: Option<u32>) -> String {
    n.map_or_else(|| "–".to_owned(), |n| n.to_string())
}

/// A finding with its evidence, at most so many lines of each source.
pub(crate) fn finding(out: &mut String, finding: &Finding, lines: usize) -> fmt::Result {
    let (style, word) = match finding.severity {
        Severity::Error => (BAD, "error"),
        Severity::Warning => (WARN, "warning"),
    };
    title(out, style, word, finding)?;
    sections(out, &finding.sections, lines)?;
    writeln!(out, "  └─ branchline explain {}", finding.code)
}

/// A finding about security groups, as `drift` and `status` show it.
pub(crate) fn group_finding(out: &mut String, word: &str, finding: &Finding) -> fmt::Result {
    title(out, WARN, word, finding)?;
    sections(out, &finding.sections, usize::MAX)
}

fn title(out: &mut String, style: Style, word: &str, finding: &Finding) -> fmt::Result {
    writeln!(
        out,
        "\n{}: {}",
        paint(style, format_args!("{word}[{}]", finding.code)),
        paint(BOLD, &finding.title)
    )
}

fn sections(out: &mut String, sections: &[Section], lines: usize) -> fmt::Result {
    for (index, section) in sections.iter().enumerate() {
        let corner = if index == 0 { '┌' } else { '├' };
        writeln!(out, "  {corner}─ {}", section.source)?;
        for line in section.lines.iter().take(lines) {
            writeln!(out, "  │  {line}")?;
        }
    }
    Ok(())
}
