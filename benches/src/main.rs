//! `branchline-bench`: the figures of docs/figures.md. Needs root; `make bench` runs all of it.
//!
//! Nothing here fails because something is slow: a goal that is missed is printed as such. What
//! fails is what does not work.

mod agent;
mod enis;
mod figure;
mod lab;
mod labs;
mod moments;
mod node;
mod runtime;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::labs::Paths;

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Everything, one after the other.
    All(Where),
    /// CNI ADD and DEL with warm addresses, 15 and 30 ADDs at once.
    Cni(Where),
    /// ADDs that must attach an interface.
    Attach(Where),
    /// Bringing a lab up.
    Up(Where),
    /// The agent when nothing happens.
    Idle(Where),
    /// The agent of a node with 110 pods: EC2 calls, memory, idle time, repair, start.
    Full(Where),
    /// 30 ADDs at once while 100 pods come and go; memory over a month of pods.
    Churn(Where),
    /// `why`, the whole command.
    Command(Where),
    /// `why` over 15, 100 and 1,000 pods, what is computed.
    Why,
    /// Network interfaces up to 500.
    Enis,
    /// Inside a node of a lab.
    #[command(subcommand, hide = true)]
    Node(Inside),
}

#[derive(Debug, Args)]
struct Where {
    /// The directory of the release binaries.
    #[arg(long, env = "BRANCHLINE_BIN")]
    bin: PathBuf,
    /// A static program that does nothing.
    #[arg(long, env = "BRANCHLINE_FLOOR")]
    floor: PathBuf,
    /// The repository.
    #[arg(long, default_value = ".")]
    root: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Inside {
    OneByOne { floor: PathBuf },
    AtOnce { floor: PathBuf },
    Grow { count: u32, ec2_ms: u64 },
    Fill { count: u32 },
    FillBy { count: u32, at_once: u32 },
    AgentCommand,
    Adopt { command: String, pods: usize },
    Repair,
    Churn,
    Pass { count: u32 },
}

impl From<Where> for Paths {
    fn from(at: Where) -> Self {
        Self {
            bin: at.bin,
            floor: at.floor,
            root: at.root,
        }
    }
}

fn main() -> ExitCode {
    match measure(Arguments::parse().part) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(part: Part) -> anyhow::Result<()> {
    if let Part::Node(inside) = part {
        return match inside {
            Inside::OneByOne { floor } => node::one_by_one(&floor),
            Inside::AtOnce { floor } => node::at_once(&floor),
            Inside::Fill { count } => node::fill(count),
            Inside::FillBy { count, at_once } => moments::fill_by(count, at_once),
            Inside::AgentCommand => moments::agent_command(),
            Inside::Adopt { command, pods } => moments::adopt(&command, pods),
            Inside::Repair => moments::repair(),
            Inside::Churn => moments::churn(),
            Inside::Pass { count } => moments::pass(count),
            Inside::Grow { count, ec2_ms } => node::grow(count, Duration::from_millis(ec2_ms)),
        };
    }
    figure::heading();
    match part {
        Part::All(at) => all(&at.into()),
        Part::Cni(at) => labs::cni(&at.into()),
        Part::Attach(at) => labs::attach(&at.into()),
        Part::Up(at) => labs::up(&at.into()),
        Part::Idle(at) => labs::idle(&at.into()),
        Part::Full(at) => agent::full(&at.into()),
        Part::Churn(at) => agent::churn(&at.into()),
        Part::Command(at) => labs::command(&at.into()),
        Part::Why => why::run(),
        Part::Enis => enis::run(),
        Part::Node(_) => Ok(()),
    }
}

/// Every part, although one before it did not work; the first that did not is the error.
fn all(paths: &Paths) -> anyhow::Result<()> {
    let parts: [&dyn Fn() -> anyhow::Result<()>; 9] = [
        &|| labs::cni(paths),
        &|| labs::attach(paths),
        &|| agent::churn(paths),
        &|| agent::full(paths),
        &|| labs::up(paths),
        &|| enis::run(),
        &|| why::run(),
        &|| labs::command(paths),
        &|| labs::idle(paths),
    ];
    let mut outcome = Ok(());
    for part in parts {
        let done = part();
        if let Err(error) = &done {
            println!("not measured: {error:#}");
        }
        outcome = outcome.and(done);
    }
    outcome
}
