//! `branchline-agent`: parse, wire, run.

use std::process::ExitCode;

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
    /// Lists the variables: name, default, rule, effect.
    Variables,
}

fn main() -> ExitCode {
    match Args::parse().part {
        Part::Addresses => branchline_agent::addresses(std::env::vars_os()),
        Part::Variables => branchline_agent::print_variables(),
    }
}
