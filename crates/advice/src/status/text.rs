//! The answer for people.

use std::fmt::{self, Write};

use cni::introspect::State;

use crate::page::{self, BOLD, GOOD, WARN, number};

use super::{Status, Verdict};

/// The most rows of a table, and lines of a list.
const ROWS: usize = 60;
const RECENT: usize = 5;

/// Renders for people; colours are ANSI sequences.
pub fn render(status: &Status) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let verdict = match status.verdict {
        Verdict::Equal => (GOOD, "EQUAL"),
        Verdict::Differs => (WARN, "DIFFERS"),
        Verdict::Unknown => (WARN, "UNKNOWN"),
    };
    let count = status.differences.len() + status.groups.len();
    page::verdict(
        &mut out,
        verdict,
        format_args!(
            "node/{} ({}, {}, {}): {count} differences between declared, believed and real",
            status.node, status.instance, status.instance_type, status.state
        ),
    )?;
    agent(&mut out, status)?;
    page::unknown(&mut out, &status.unknown)?;
    interfaces(&mut out, status)?;
    addresses(&mut out, status)?;
    if let Some(ceiling) = &status.ceiling {
        writeln!(out, "\n  {BOLD}Ceiling{BOLD:#}    {ceiling}")?;
    }
    if let Some(told) = &status.told {
        self::told(&mut out, told)?;
    }
    differences(&mut out, status)?;
    Ok(out)
}

fn agent(out: &mut String, status: &Status) -> fmt::Result {
    let name = status.agent.as_deref().unwrap_or("no agent known");
    let ready = match &status.told {
        None => String::new(),
        Some(told) if told.ready => format!(", ready{}", since(&told.started)),
        Some(told) => format!(", NOT READY: {}", told.reason),
    };
    writeln!(out, "  agent {name}{ready}")?;
    // The defaults are the same everywhere; JSON has them.
    let told = status.declared.iter().filter(|(name, value)| {
        settings::variable(name).is_none_or(|row| !row.default.eq_ignore_ascii_case(value))
    });
    let pairs: Vec<String> = told.map(|(k, v)| format!("{k}={v}")).collect();
    if !pairs.is_empty() {
        writeln!(out, "  declared {}", pairs.join(" "))?;
    }
    Ok(())
}

fn since(at: &str) -> String {
    match at.is_empty() {
        true => String::new(),
        false => format!(", runs since {at}"),
    }
}

fn interfaces(out: &mut String, status: &Status) -> fmt::Result {
    let mut table = page::columns(&[
        "ENI", "", "subnet", "groups", "", "EC2", "agent", "used", "resting", "free", "",
    ]);
    for eni in &status.interfaces {
        let differs = eni.believed.is_some() && eni.believed != eni.real;
        let stage = [eni.stage.as_deref(), eni.trouble.as_deref()];
        let stage: Vec<&str> = stage.into_iter().flatten().collect();
        table.add_row([
            eni.id.clone(),
            eni.device.clone(),
            eni.subnet.clone().unwrap_or_else(|| "–".to_owned()),
            eni.groups.join(" "),
            if eni.groups_equal || eni.subnet.is_none() {
                ""
            } else {
                "≠"
            }
            .to_owned(),
            number(eni.real),
            format!(
                "{}{}",
                number(eni.believed),
                if differs { " ≠" } else { "" }
            ),
            eni.used.to_string(),
            eni.resting.to_string(),
            eni.free().to_string(),
            stage.join(": "),
        ]);
    }
    page::table(out, &table)
}

fn addresses(out: &mut String, status: &Status) -> fmt::Result {
    let mut table = page::columns(&["address", "pod", "EC2", "Kubernetes", "agent"]);
    let mark = |says: Option<bool>| match says {
        Some(true) => "✔",
        Some(false) => "✘ ≠",
        None => "?",
    };
    // Those that somebody denies come first.
    let mut rows: Vec<_> = status.addresses.iter().collect();
    rows.sort_by_key(|a| a.eni.is_some() && a.kubernetes != Some(false) && a.agent != Some(false));
    for one in rows.iter().take(ROWS) {
        table.add_row([
            one.address.to_string(),
            one.pod.clone(),
            one.eni.clone().unwrap_or_else(|| "✘ ≠".to_owned()),
            mark(one.kubernetes).to_owned(),
            mark(one.agent).to_owned(),
        ]);
    }
    if status.addresses.len() > ROWS {
        table.add_row([format!("… {} more", status.addresses.len() - ROWS)]);
    }
    page::table(out, &table)
}

/// What our agent says of itself.
fn told(out: &mut String, told: &State) -> fmt::Result {
    let pool = &told.pool;
    writeln!(
        out,
        "\n  {BOLD}Pool{BOLD:#}       {} of {} interfaces; {} addresses: {} with pods, {} resting, {} free, {} coming; the targets ask for {} more, {} fewer",
        pool.interfaces,
        pool.interfaces_max,
        pool.total,
        pool.assigned,
        pool.resting,
        pool.available,
        pool.coming,
        pool.short,
        pool.over
    )?;
    match &told.obstacle {
        None => writeln!(out, "  {BOLD}Next pod{BOLD:#}   gets an address")?,
        Some(why) => writeln!(
            out,
            "  {BOLD}Next pod{BOLD:#}   {WARN}gets none{WARN:#}: {} ({})",
            why.message, why.code
        )?,
    }
    for pod in told.waiting.iter().take(ROWS) {
        writeln!(
            out,
            "  waits      {} for {} s: {} ({})",
            pod.pod, pod.seconds, pod.reason.message, pod.reason.code
        )?;
    }
    for off in &told.backoffs {
        writeln!(
            out,
            "  back-off   {}: {} failures, again in {} s: {} ({})",
            off.what, off.failures, off.seconds, off.message, off.code
        )?;
    }
    for denied in &told.denied {
        writeln!(
            out,
            "  denied     {} since {}: {}; without it {}",
            denied.action, denied.at, denied.message, denied.without
        )?;
    }
    if !told.group_sync.enabled {
        writeln!(out, "  groups     group sync is off")?;
    }
    for (eni, why) in &told.group_sync.pending {
        let why = if why.is_empty() {
            "not confirmed yet"
        } else {
            why
        };
        writeln!(out, "  groups     {eni}: {why}")?;
    }
    history(out, told)
}

fn history(out: &mut String, told: &State) -> fmt::Result {
    let repairs = &told.repairs;
    if !repairs.counts.is_empty() {
        let counts = repairs.counts.iter().map(|(kind, n)| format!("{n} {kind}"));
        let counts: Vec<String> = counts.collect();
        writeln!(out, "  {BOLD}Repairs{BOLD:#}    {}", counts.join(", "))?;
    }
    for repair in repairs.recent.iter().take(RECENT) {
        writeln!(
            out,
            "             {} {}: {}",
            repair.at, repair.kind, repair.what
        )?;
    }
    let leases = &told.leases;
    if !leases.compared.is_empty() || leases.released > 0 {
        writeln!(
            out,
            "  {BOLD}Leases{BOLD:#}     compared {}; {} taken back since the start",
            match leases.compared.is_empty() {
                true => "never",
                false => &leases.compared,
            },
            leases.released
        )?;
    }
    for lease in leases.recent.iter().take(RECENT) {
        writeln!(
            out,
            "             {} {} of {}: {}",
            lease.at, lease.address, lease.pod, lease.why
        )?;
    }
    if !leases.trouble.is_empty() {
        writeln!(
            out,
            "             {WARN}not compared{WARN:#}: {}",
            leases.trouble
        )?;
    }
    let checkpoint = &told.checkpoint;
    if !checkpoint.path.is_empty() {
        let written = match checkpoint.written.is_empty() {
            true => "not written since the start".to_owned(),
            false => format!("written {}", checkpoint.written),
        };
        writeln!(
            out,
            "  {BOLD}Checkpoint{BOLD:#} {}: {written}; this start found {}",
            checkpoint.path,
            match checkpoint.found.is_empty() {
                true => "nothing that is told",
                false => &checkpoint.found,
            }
        )?;
        if !checkpoint.trouble.is_empty() {
            writeln!(
                out,
                "             {WARN}{} writes failed{WARN:#}: {}",
                checkpoint.errors, checkpoint.trouble
            )?;
        }
    }
    Ok(())
}

fn differences(out: &mut String, status: &Status) -> fmt::Result {
    for difference in &status.differences {
        let code = difference.code.map(|c| format!("[{c}]"));
        writeln!(
            out,
            "\n{WARN}differs{}{WARN:#}: {BOLD}{}{BOLD:#}",
            code.unwrap_or_default(),
            difference.title
        )?;
        for line in &difference.lines {
            writeln!(out, "  │  {line}")?;
        }
        if let Some(help) = &difference.help {
            writeln!(out, "  = help: {help}")?;
        }
    }
    for finding in &status.groups {
        page::group_finding(out, "differs", finding)?;
    }
    Ok(())
}
