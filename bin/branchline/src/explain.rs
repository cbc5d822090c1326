//! `branchline explain BL0301`: what a finding means.

use advice::Code;
use clap::Args;

use crate::read::HOLDS;

/// Explain a finding: what it is, how it shows, how it comes about, how to fix it.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The finding's code, as BL0301; without one, the list of all.
    code: Option<String>,
}

pub(crate) async fn run(args: ExplainArgs) -> anyhow::Result<u8> {
    match args.code {
        Some(code) => print!("{}", code.parse::<Code>()?.page()),
        None => {
            for code in Code::ALL {
                println!("{code}  {}", code.title());
            }
        }
    }
    Ok(HOLDS)
}
