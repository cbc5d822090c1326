//! `branchline-agent`: parse, wire, run.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// The node agent of Branchline.
#[derive(Debug, Parser)]
#[command(name = "branchline-agent", version)]
struct Args {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Gives pods their addresses; stands where upstream's aws-node container stands. Configured
    /// by upstream's environment variables.
    Addresses,
    /// Puts the plugins on the node and sets what its kernel needs; stands where upstream's init
    /// container stands.
    Init,
    /// Asks the agent of this node whether it is alive. Exits 0 if so, 2 when nobody listens, 3
    /// without an answer, 4 when it says no, 64 when a variable is refused.
    Health {
        /// Pods must be served, too; otherwise the agent's reason is printed.
        #[arg(long)]
        ready: bool,
        /// How long to wait for the answer, in seconds.
        #[arg(long, default_value_t = 5, value_name = "SECONDS")]
        within: u64,
    },
    /// Lists the variables: name, default, rule, effect.
    Variables,
    /// Prints the metrics page of an agent that has just started: names, kinds and help texts, and
    /// the series that are there from the start.
    Metrics,
}

fn main() -> ExitCode {
    let environment = &mut std::env::vars_os();
    match Args::parse().part {
        Part::Addresses => branchline_agent::addresses(environment),
        Part::Init => branchline_agent::init(environment),
        Part::Health { ready, within } => {
            branchline_agent::health(environment, ready, Duration::from_secs(within))
        }
        Part::Variables => branchline_agent::print_variables(),
        Part::Metrics => branchline_agent::print_metrics(),
    }
}
