//! Parse, wire, run.

mod explain;
mod lab;
mod ping;
mod probe;
mod read;
mod whois;
mod why;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Pod networking on a cloud VPC: ask, predict, prove.
#[derive(Debug, Parser)]
#[command(name = "branchline", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Why(why::WhyArgs),
    Ping(ping::PingArgs),
    WhoIs(whois::WhoIsArgs),
    Explain(explain::ExplainArgs),
    Lab(lab::LabArgs),
    #[command(hide = true)]
    Probe(probe::ProbeArgs),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Why(args) => read::finish(why::run(args)),
        Command::Ping(args) => read::finish(ping::run(args)),
        Command::WhoIs(args) => read::finish(whois::run(args)),
        Command::Explain(args) => read::finish(explain::run(args)),
        Command::Probe(args) => read::finish(probe::run(args)),
        // Some of its commands become the first process of a node or a pod: no thread may exist.
        Command::Lab(args) => lab::run(args).unwrap_or_else(|error| {
            anstream::eprintln!("error: {error:#}");
            let usage = error
                .chain()
                .any(|e| e.is::<::lab::topology::TopologyError>());
            ExitCode::from(if usage { read::USAGE } else { read::BROKEN })
        }),
    }
}
