//! `branchline status node/X`: what is really there on a node?

use advice::status::{Verdict, render, status};
use clap::Args;
use reach::noun::Noun;

use crate::read::{FAILS, HOLDS, Sources, UNKNOWN};

/// What is really there on a node: declared, believed by its agent, real.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  branchline status node/ip-10-0-1-11 --node ip-10-0-1-11=http://127.0.0.1:61679
  branchline status node/ip-10-0-1-11 --snapshot incident.json -o json

Declared is what the agent's pod was started with, believed what the agent says (its introspection,
on the node's loopback address, port 61679: forward it), real what EC2 lists and which pods
Kubernetes has there. With our agent also: what the next pod would get, who waits for what, back-offs,
denied actions, repairs, leases, the checkpoint.

Exit codes:
  0 all three are the same   1 they differ   2 wrong usage
  3 one of them could not be read   5 the tool failed")]
pub(crate) struct StatusArgs {
    /// The node: node/NAME, by its short name, Kubernetes' name, its instance or its Name tag.
    node: String,
    #[command(flatten)]
    sources: Sources,
}

pub(crate) async fn run(args: StatusArgs) -> anyhow::Result<u8> {
    let name = match args.node.parse::<Noun>()? {
        Noun::Node(name) => name,
        other => {
            anstream::eprintln!("error: {other} is not a node: status node/NAME");
            return Ok(crate::read::USAGE);
        }
    };
    let inputs = args.sources.read().await?;
    let found = status(&inputs, &name)?;
    args.sources.print(&found, render)?;
    Ok(match found.verdict {
        Verdict::Equal => HOLDS,
        Verdict::Differs => FAILS,
        Verdict::Unknown => UNKNOWN,
    })
}
