//! `branchline why SRC DST`: can it, always, and what decides?

use std::collections::BTreeSet;

use advice::advise::WhatIf;
use anyhow::Context;
use clap::Args;
use reach::Inputs;
use reach::ask::{Answer, Question, Verdict, ask};
use reach::blast::blast;
use reach::edit::{self, Edit};
use reach::noun::{Noun, Service, parse_destination};
use reach::place::{Over, parse_over};

use crate::read::{FAILS, HOLDS, Output, Sources, UNKNOWN};

/// Can SRC reach DST, from everywhere it runs or may run? What decides it?
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  branchline why dev/deploy/api rds/orders:5432
  branchline why dev/deploy/api dev/svc/web:80
  branchline why dev/deploy/api apiserver
  branchline why node/ip-10-0-1-11 rds/orders:5432
  branchline why pod/default/api-1 10.0.21.40:53/udp
  branchline why node/ip-10-0-1-11 rds/orders:5432 --over next-node
  branchline why node/ip-10-0-1-11 rds/orders:5432 --if 'sg/add_sg ingress += tcp/5432 from sg/nodes'

Sources and destinations:
  [NAMESPACE/]deploy/NAME, also sts, ds, job and svc  [NAMESPACE/]pod/NAME  node/NAME  rds/NAME
  eni/ID  apiserver  an IPv4 address;
  a destination has a port: :5432, :53/udp or :icmp. Names may be shortened where that is unique.

Exit codes:
  0 always   1 sometimes or never   2 wrong usage   3 unknown   5 the tool failed")]
pub(crate) struct WhyArgs {
    /// Who sends.
    source: String,
    /// Where to, with a port.
    destination: String,
    /// Which places: running, next-eni, next-node or all, separated by commas.
    #[arg(long, default_value = "all", value_name = "PLACES")]
    over: String,
    /// Answer as if this edit had been made; repeatable. Nothing is written.
    #[arg(long = "if", value_name = "EDIT")]
    edits: Vec<String>,
    #[command(flatten)]
    sources: Sources,
}

pub(crate) async fn run(args: WhyArgs) -> anyhow::Result<u8> {
    let asked = Asked::parse(&args.source, &args.destination, parse_over(&args.over)?)?;
    let before = args.sources.read().await?;
    let question = asked.question(&before)?;
    let (inputs, what_if) = edited(&before, &question, &args.edits)?;
    let answer = ask(&inputs, &question)?;
    let advice = advice::advise(&inputs, &answer, what_if)?;
    match args.sources.output {
        Output::Text => {
            let text =
                advice::text::render(&inputs, &answer, &advice).context("render the answer")?;
            anstream::print!("{text}");
        }
        Output::Json => {
            let document = advice::json::document(&inputs, &answer, &advice);
            println!("{}", serde_json::to_string_pretty(&document)?);
        }
    }
    Ok(exit(answer.verdict))
}

/// A question as it was asked: the port of a Service may be left out, and is then looked up.
pub(crate) struct Asked {
    source: Noun,
    destination: Noun,
    service: Option<Service>,
    over: BTreeSet<Over>,
}

impl Asked {
    /// Parses the two sides of a question.
    pub(crate) fn parse(
        source: &str,
        destination: &str,
        over: BTreeSet<Over>,
    ) -> Result<Self, reach::Error> {
        let source: Noun = source.parse()?;
        let (destination, service) = parse_destination(destination)?;
        let named = matches!(destination, Noun::Service { .. } | Noun::ApiServer);
        if service.is_none() && !named {
            return Err(reach::Error::NoPort {
                destination: destination.to_string(),
            });
        }
        Ok(Self {
            source,
            destination,
            service,
            over,
        })
    }

    /// The question, to what was read.
    pub(crate) fn question(self, inputs: &Inputs) -> Result<Question, reach::Error> {
        let service = reach::target::service_of(inputs, &self.destination, self.service)?;
        Ok(Question {
            source: self.source,
            destination: self.destination,
            service,
            over: self.over,
        })
    }
}

fn exit(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Always => HOLDS,
        Verdict::Sometimes | Verdict::Never => FAILS,
        Verdict::Unknown => UNKNOWN,
    }
}

/// Applies what-if edits to a copy, and says what else they change.
fn edited(
    before: &Inputs,
    question: &Question,
    texts: &[String],
) -> anyhow::Result<(Inputs, Option<WhatIf>)> {
    let mut inputs = before.clone();
    if texts.is_empty() {
        return Ok((inputs, None));
    }
    let mut edits: Vec<Edit> = Vec::new();
    for text in texts {
        let edit = edit::parse(&inputs, text)?;
        edit.apply(&mut inputs)?;
        edits.push(edit);
    }
    let was = ask(before, question)?;
    let what_if = WhatIf {
        blast: blast(before, &inputs),
        connections: connections(before, &inputs, &was),
        edits,
    };
    Ok((inputs, Some(what_if)))
}

/// What the edits do to connections that are open now, in one line per kind of effect.
fn connections(before: &Inputs, after: &Inputs, was: &Answer) -> Vec<String> {
    use vpc::ConnectionEffect as Effect;
    let (mut live_on, mut breaks) = (0, 0);
    for place in was.running.iter().filter(|p| p.outcome.works()) {
        let (Some(eni), Some(address)) = (&place.eni, place.address) else {
            continue;
        };
        let flows = reach::trace::flows(address, was.destination.address, was.question.service);
        let Some(packet) = flows.witness() else {
            continue;
        };
        match vpc::open_connection_effect(&before.world, &after.world, &eni.into(), &packet) {
            Effect::LivesOn { .. } => live_on += 1,
            Effect::Breaks { .. } => breaks += 1,
            Effect::Continues | Effect::NotOpen | Effect::Unknown { .. } => {}
        }
    }
    let mut lines = Vec::new();
    if live_on > 0 {
        lines.push(format!(
            "open connections of {live_on} pods live on (tracked), new ones are refused"
        ));
    }
    if breaks > 0 {
        lines.push(format!("open connections of {breaks} pods break at once"));
    }
    lines
}
