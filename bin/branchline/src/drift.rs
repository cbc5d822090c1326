//! `branchline drift`: declared, DaemonSet, nodes, ENIs.

use clap::Args;

use crate::read::{FAILS, HOLDS, Sources, UNKNOWN};

/// What is declared, what the DaemonSet says, what each node runs, and who attached a group by hand.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Compares
  the EKS add-on's configuration with the DaemonSet's variables (BL0108);
  the DaemonSet's variables and images with those of each node's agent pod;
  each pod's variables with what its agent says it runs with (--node NODE=URL);
  the agents' addresses, leases and interfaces with those of EC2 and of Kubernetes (--node NODE=URL);
  the agents' interfaces in EC2 with the instances they should be on (leaked ones);
  the security groups of each node's ENIs with each other and with the launch template (BL0301, BL0302).
It also names an agent whose pod is not Ready, and what an agent could not put right in the kernel.

Examples:
  branchline drift
  branchline drift --cluster dev --node ip-10-0-1-11=http://127.0.0.1:61679 -o json
  branchline drift --snapshot incident.json

Exit codes:
  0 no drift   1 drift   2 wrong usage   3 something needed could not be read   5 the tool failed")]
pub(crate) struct DriftArgs {
    #[command(flatten)]
    sources: Sources,
}

pub(crate) async fn run(args: DriftArgs) -> anyhow::Result<u8> {
    let (inputs, eks) = args.sources.read_all().await?;
    let drift = advice::drift::drift(&inputs, eks.as_deref());
    args.sources.print(&drift, advice::drift::render)?;
    Ok(match (drift.is_empty(), drift.unknown.is_empty()) {
        (false, _) => FAILS,
        (true, false) => UNKNOWN,
        (true, true) => HOLDS,
    })
}
