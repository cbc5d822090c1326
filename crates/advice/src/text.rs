//! An answer as one screen of text: the verdict, the number that proves it, the split, the cause,
//! the fixes. Who is in a hurry may stop after line 2.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use reach::ask::{Answer, Placement, Split, Verdict};
use reach::blast::{Blast, Change};
use reach::facts::Inputs;
use reach::node::NodeStep;
use reach::place::Over;
use reach::trace::Outcome;
use vpc::facts::{Direction, EniId};

use crate::advise::Advice;
use crate::fix::Fix;
use crate::name;
use crate::page::{self, BAD, BOLD, GOOD, WARN, paint};

/// The most interfaces that are listed; the rest is counted.
const ROWS: usize = 24;

/// Renders an answer. Colours are ANSI sequences: the caller strips them for what is no terminal.
pub fn render(inputs: &Inputs, answer: &Answer, advice: &Advice) -> Result<String, fmt::Error> {
    let mut out = String::new();
    header(&mut out, answer)?;
    if let Some(what_if) = &advice.what_if {
        for edit in &what_if.edits {
            writeln!(out, "\n  if {edit}")?;
        }
        radius(&mut out, inputs, &what_if.blast, "     ")?;
        for line in &what_if.connections {
            writeln!(out, "     {line}")?;
        }
    }
    page::unknown(&mut out, &answer.unknown)?;
    endpoints(&mut out, inputs, answer)?;
    if let Some(split) = &answer.split {
        separates(&mut out, split)?;
    }
    table(&mut out, inputs, answer)?;
    decides(&mut out, inputs, answer)?;
    for finding in &advice.findings {
        page::finding(&mut out, finding, usize::MAX)?;
    }
    for line in &inputs.contradictions {
        writeln!(out, "\n{}: {line}", paint(WARN, "sources disagree"))?;
    }
    suspects(&mut out, advice)?;
    for line in &advice.open_connections {
        writeln!(out, "\n  Open connections: {line}")?;
    }
    help(&mut out, inputs, &advice.fixes)?;
    Ok(out)
}

fn header(out: &mut String, answer: &Answer) -> fmt::Result {
    let (style, word) = match answer.verdict {
        Verdict::Always => (GOOD, "ALWAYS"),
        Verdict::Sometimes => (WARN, "SOMETIMES"),
        Verdict::Never => (BAD, "NEVER"),
        Verdict::Unknown => (WARN, "UNKNOWN"),
    };
    let (question, to) = (&answer.question, &answer.destination);
    writeln!(
        out,
        "{}{}{} → {} ({}) {}",
        paint(style, word),
        " ".repeat(11 - word.len()),
        question.source,
        to.label,
        to.address,
        question.service
    )?;
    writeln!(out, "{}{}", " ".repeat(11), proof(answer))
}

/// What stands between the senders and the endpoints, and what each endpoint answers.
fn endpoints(out: &mut String, inputs: &Inputs, answer: &Answer) -> fmt::Result {
    let to = &answer.destination;
    let Some(via) = &to.via else {
        return Ok(());
    };
    let count = to.targets.len();
    let ready = match via.not_ready {
        0 => format!("{count} ready endpoints"),
        n => format!("{count} ready endpoints ({n} more are not ready)"),
    };
    let place = if via.local {
        ", those of the sender's node only"
    } else {
        ""
    };
    match via.cluster_ip {
        Some(address) => writeln!(
            out,
            "\n  kube-proxy rewrites {address} {} on the sender's node to one of {ready}{place}   k8s: {}",
            via.port, via.service
        )?,
        None => writeln!(
            out,
            "\n  The name leads to one of {ready} directly: the Service is headless   k8s: {}",
            via.service
        )?,
    }
    let mut table = page::columns(&[
        "endpoint",
        "",
        "its ENI",
        "its security groups",
        "works from",
        "",
    ]);
    for (index, target) in to.targets.iter().enumerate().take(ROWS) {
        let at = || answer.running.iter().filter_map(|p| p.endpoints.get(index));
        let (works, all) = (at().filter(|o| o.works()).count(), at().count());
        let unsure = at().any(|o| matches!(o, Outcome::Unknown { .. }));
        let eni = target.eni.as_ref().and_then(|id| inputs.world.enis.get(id));
        table.add_row([
            format!("{} {}", target.address, target.service),
            target.label.clone(),
            eni.map_or_else(
                || "not known".to_owned(),
                |e| name::eni(&inputs.world, &e.id),
            ),
            eni.map(|e| name::groups(&inputs.world, &e.groups).join(" "))
                .unwrap_or_default(),
            format!("{works}/{all}"),
            mark(works == all, unsure).to_owned(),
        ]);
    }
    if count > ROWS {
        table.add_row([format!("… {} more endpoints", count - ROWS)]);
    }
    page::table(out, &table)
}

/// The number that proves the verdict.
fn proof(answer: &Answer) -> String {
    let mut parts = Vec::new();
    if answer.question.over.contains(&Over::Running) {
        let k = answer.running.iter().filter(|p| p.outcome.works()).count();
        let noun = match answer.running.iter().any(|p| p.node.is_some()) {
            true => "running pods",
            false => "senders",
        };
        parts.push(format!("{k} of {} {noun}", answer.running.len()));
        let partly = |p: &&Placement| matches!(p.outcome, Outcome::Partly { .. });
        let some = answer.running.iter().filter(partly).count();
        if some > 0 && answer.destination.via.is_some() {
            parts.push(format!("{some} reach some of the endpoints and not others"));
        }
    }
    for place in &answer.future {
        let part = match &place.outcome {
            Outcome::Works { .. } => format!("{0} of {0} on {1}", place.weight, place.label),
            Outcome::Blocked { .. } => format!("0 of {} on {}", place.weight, place.label),
            Outcome::Partly { .. } => format!("it depends on {}", place.label),
            Outcome::Unknown { .. } => format!("unknown on {}", place.label),
            Outcome::NoEndpoint { why } | Outcome::Impossible { why } => {
                format!("{}: {why}", place.label)
            }
        };
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    parts.join("; ")
}

fn separates(out: &mut String, split: &Split) -> fmt::Result {
    let scores: Vec<String> = split
        .scores
        .iter()
        .map(|s| {
            format!(
                "{}: {} ({:.2})",
                s.attribute,
                if s.score > 0.999 { "yes" } else { "no" },
                s.score
            )
        })
        .collect();
    let what = match split.attribute {
        Some("ENI") => "the ENI that owns the pod's address".to_owned(),
        Some("endpoint") => "which endpoint kube-proxy picks".to_owned(),
        Some("endpoint's ENI") => "the ENI that owns the endpoint's address".to_owned(),
        Some(attribute) => format!("the {attribute}"),
        None => "no single attribute".to_owned(),
    };
    writeln!(
        out,
        "\n  What separates them: {}   ({})",
        paint(BOLD, what),
        scores.join(" · ")
    )
}

/// What the places of one line of the table share: node, device index, interface.
type Row = (Option<String>, Option<u32>, Option<EniId>);

fn table(out: &mut String, inputs: &Inputs, answer: &Answer) -> fmt::Result {
    let mut table = page::columns(&[
        "ENI",
        "",
        "node",
        "its security groups",
        "pods",
        "works",
        "",
    ]);
    let mut by_eni: BTreeMap<Row, Vec<&Placement>> = BTreeMap::new();
    for place in &answer.running {
        let key = (place.node.clone(), place.device, place.eni.clone());
        by_eni.entry(key).or_default().push(place);
    }
    let all = by_eni.len();
    for ((node, _, id), places) in by_eni.into_iter().take(ROWS) {
        let eni = id.as_ref().and_then(|id| inputs.world.enis.get(id));
        let works = places.iter().filter(|p| p.outcome.works()).count();
        let unsure = places
            .iter()
            .any(|p| matches!(p.outcome, Outcome::Unknown { .. } | Outcome::Partly { .. }));
        table.add_row([
            id.map_or_else(|| "no ENI by EC2's word".to_owned(), |id| id.to_string()),
            eni.map(name::device).unwrap_or_default(),
            node.unwrap_or_default(),
            groups(inputs, places[0]),
            places.len().to_string(),
            format!("{works}/{}", places.len()),
            mark(works == places.len(), unsure).to_owned(),
        ]);
    }
    if all > ROWS {
        table.add_row([format!("… {} more ENIs", all - ROWS)]);
    }
    let mut future_rows: Vec<(Vec<&str>, [String; 6])> = Vec::new();
    for place in &answer.future {
        let (words, count, glyph) = future(inputs, place);
        let source = place.source.as_deref().unwrap_or_default();
        let row = [
            place.label.clone(),
            source.to_owned(),
            words,
            String::new(),
            count,
            glyph.to_owned(),
        ];
        let node = place.node.as_deref().unwrap_or("?");
        match future_rows.iter_mut().find(|(_, known)| *known == row) {
            Some((nodes, _)) => nodes.push(node),
            None => future_rows.push((vec![node], row)),
        }
    }
    for (nodes, [label, source, words, none, count, glyph]) in future_rows {
        let label = match (label.as_str(), nodes.as_slice()) {
            ("the next ENI", [node]) => format!("{label} on {node}"),
            ("the next ENI", nodes) => format!("{label} on each of {} nodes", nodes.len()),
            _ => label,
        };
        table.add_row([label, String::new(), source, words, none, count, glyph]);
    }
    page::table(out, &table)
}

fn groups(inputs: &Inputs, place: &Placement) -> String {
    name::groups(&inputs.world, &place.groups).join(" ")
}

fn future(inputs: &Inputs, place: &Placement) -> (String, String, &'static str) {
    match &place.outcome {
        Outcome::Impossible { why } => (why.clone(), String::new(), ""),
        Outcome::NoEndpoint { why } => (why.clone(), String::new(), mark(false, false)),
        Outcome::Unknown { need } => (
            format!("not known: {need}"),
            String::new(),
            mark(false, true),
        ),
        outcome => {
            let works = if outcome.works() { place.weight } else { 0 };
            let count = format!("{works}/{}", place.weight);
            (groups(inputs, place), count, mark(outcome.works(), false))
        }
    }
}

fn mark(works: bool, unsure: bool) -> &'static str {
    match (unsure, works) {
        (true, _) => "?",
        (false, true) => "✔",
        (false, false) => "✘",
    }
}

/// What decides where something is blocked, once per reason.
fn decides(out: &mut String, inputs: &Inputs, answer: &Answer) -> fmt::Result {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let asked = if answer.running.is_empty() {
        &answer.future
    } else {
        &answer.running
    };
    for place in asked {
        let line = match &place.outcome {
            Outcome::Blocked {
                reason,
                leg,
                at,
                rule,
            } => {
                let what = match leg {
                    vpc::path::Leg::Forward => "packets",
                    vpc::path::Leg::Reply => "answers",
                };
                let rule = rule.as_ref().map(|r| format!(" [{r}]")).unwrap_or_default();
                let at = name::object(&inputs.world, at);
                format!("{what} are dropped at {at}: {reason}{rule}")
            }
            Outcome::Partly { blocked, why } => format!("{why}, for {blocked}"),
            Outcome::NoEndpoint { why } => format!("rejected on the sender's node: {why}"),
            Outcome::Works { .. } => match &place.path.node {
                Some(NodeStep::Local { because }) => format!("never leave the node: {because}"),
                _ => continue,
            },
            _ => continue,
        };
        *seen.entry(line).or_default() += place.weight as usize;
    }
    if !seen.is_empty() {
        writeln!(out)?;
    }
    for (line, count) in seen {
        writeln!(out, "  {count:>4} × {line}")?;
    }
    Ok(())
}

fn suspects(out: &mut String, advice: &Advice) -> fmt::Result {
    let title = match (advice.ruled_out.is_empty(), advice.not_checked.is_empty()) {
        (true, true) => return Ok(()),
        (true, false) => "Nothing ruled out",
        (false, _) => "Ruled out",
    };
    writeln!(out, "\n  {}", paint(BOLD, title))?;
    for suspect in &advice.ruled_out {
        writeln!(out, "    {}: {}", suspect.hypothesis, suspect.because)?;
    }
    for suspect in &advice.not_checked {
        writeln!(out, "    not checked: {suspect}")?;
    }
    Ok(())
}

fn help(out: &mut String, inputs: &Inputs, fixes: &[Fix]) -> fmt::Result {
    if fixes.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n{}: smallest blast radius first, each tried on the model",
        paint(GOOD, "help")
    )?;
    for (index, fix) in fixes.iter().enumerate() {
        let next = match fix.next_node {
            Some(true) => ", and on the next node",
            Some(false) => ", but not on the next node",
            None => "",
        };
        writeln!(out, "  {}  {}", index + 1, paint(BOLD, &fix.title))?;
        writeln!(
            out,
            "       → {} of {} running pods{next}",
            fix.works, fix.of
        )?;
        if fix.nodes_to_replace > 0 {
            writeln!(out, "       replaces: {} node(s)", fix.nodes_to_replace)?;
        }
        radius(out, inputs, &fix.blast, "       ")?;
        for edit in fix.edits.iter().take(1).filter(|_| fix.edits.len() == 1) {
            writeln!(out, "       try: --if '{edit}'")?;
        }
        for command in &fix.commands {
            writeln!(out, "       $ {command}")?;
        }
    }
    Ok(())
}

fn radius(out: &mut String, inputs: &Inputs, blast: &Blast, indent: &str) -> fmt::Result {
    for change in &blast.opens {
        writeln!(out, "{indent}opens: {}", effect(inputs, change))?;
    }
    for change in &blast.closes {
        writeln!(out, "{indent}closes: {}", effect(inputs, change))?;
    }
    for need in &blast.unknown {
        writeln!(out, "{indent}not known: {need}")?;
    }
    if blast.is_empty() {
        writeln!(out, "{indent}opens and closes nothing")?;
    }
    Ok(())
}

fn effect(inputs: &Inputs, change: &Change) -> String {
    let first = change
        .on
        .first()
        .map(|id| name::eni(&inputs.world, id))
        .unwrap_or_default();
    let on = match (
        change.on.len(),
        change.nodes.primary,
        change.nodes.secondary,
    ) {
        (1, 1, 0) => format!("{first} (a node's primary ENI)"),
        (1, 0, 1) => format!("{first} (a node's secondary ENI)"),
        (1, ..) => first,
        (n, 0, 0) => format!("{first} and {} more ENIs", n - 1),
        (n, primary, secondary) => {
            format!("{n} ENIs (of nodes: {primary} primary, {secondary} secondary)")
        }
    };
    let (word, side) = match change.direction {
        Direction::Ingress => ("into", "from"),
        Direction::Egress => ("out of", "to"),
    };
    let remote = match change.remote_enis {
        0 => format!("{} addresses that no known ENI has", change.addresses),
        enis => format!(
            "{} addresses of {enis} ENIs ({} pods)",
            change.addresses, change.remote_pods
        ),
    };
    format!(
        "{} {word} {on}, {side} {remote}",
        change.services.join(", ")
    )
}
