//! Parse, wire, run.

mod bundle;
mod capacity;
mod capture;
mod doctor;
mod drift;
mod explain;
mod lab;
mod ping;
mod probe;
mod read;
mod save;
mod status;
mod whois;
mod why;

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Pod networking on a cloud VPC: ask, predict, prove.
///
/// Also installed as kubectl-branchline: `kubectl branchline why dev/deploy/api rds/orders:5432`.
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
    Capture(capture::CaptureArgs),
    Status(status::StatusArgs),
    Drift(drift::DriftArgs),
    Capacity(capacity::CapacityArgs),
    Doctor(doctor::DoctorArgs),
    Snapshot(save::SnapshotArgs),
    Bundle(bundle::BundleArgs),
    Explain(explain::ExplainArgs),
    Lab(lab::LabArgs),
    #[command(hide = true)]
    Probe(probe::ProbeArgs),
}

/// kubectl runs `kubectl-branchline` for `kubectl branchline`: help and errors then say so.
fn parse() -> Cli {
    let name = std::env::args_os().next().unwrap_or_default();
    let plugin = Path::new(&name)
        .file_name()
        .is_some_and(|n| n == "kubectl-branchline");
    let mut command = Cli::command();
    if plugin {
        command = command.bin_name("kubectl branchline");
    }
    Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
}

fn main() -> ExitCode {
    match parse().command {
        Command::Why(args) => read::finish(why::run(args)),
        Command::Ping(args) => read::finish(ping::run(args)),
        Command::WhoIs(args) => read::finish(whois::run(args)),
        Command::Capture(args) => read::finish(capture::run(args)),
        Command::Status(args) => read::finish(status::run(args)),
        Command::Drift(args) => read::finish(drift::run(args)),
        Command::Capacity(args) => read::finish(capacity::run(args)),
        Command::Doctor(args) => read::finish(doctor::run(args)),
        Command::Snapshot(args) => read::finish(save::run(args)),
        Command::Bundle(args) => read::finish(bundle::run(args)),
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
