//! `branchline capacity`: how many pods fit, and what binds first?

use advice::capacity::{Verdict, Wish, capacity, render};
use clap::Args;

use crate::read::{FAILS, HOLDS, Sources, UNKNOWN};

/// How many pods fit, and which of four ceilings is reached first.
///
/// The ceilings: kubelet's max-pods, interfaces × addresses of the instance type (MAX_ENI, prefix
/// delegation), branch interfaces, and the free addresses of the subnets (with prefixes: free /28s).
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  branchline capacity
  branchline capacity --cluster dev --add 'deploy/web x30'
  branchline capacity --add 'shop/deploy/api x20 sgp' --add 'deploy/web x30'
  branchline capacity --snapshot incident.json -o json

--add NAME xCOUNT [sgp] asks whether that many more pods would fit, and how many more nodes they need
where they do not; sgp: each has a branch interface (security groups for pods). The name is yours.

Exit codes:
  0 there is room, or what is to be added fits, and nothing was found (BL0501, BL0502, BL0503)
  1 no room, it does not fit, or something was found   2 wrong usage
  3 something needed could not be read   5 the tool failed")]
pub(crate) struct CapacityArgs {
    /// Would these pods fit? NAME xCOUNT [sgp]; repeatable, in this order.
    #[arg(long = "add", value_name = "PODS")]
    add: Vec<Wish>,
    #[command(flatten)]
    sources: Sources,
}

pub(crate) async fn run(args: CapacityArgs) -> anyhow::Result<u8> {
    let inputs = args.sources.read().await?;
    let found = capacity(&inputs, &args.add);
    args.sources.print(&found, render)?;
    Ok(match found.verdict {
        Verdict::Unknown => UNKNOWN,
        Verdict::Full | Verdict::DoesNotFit => FAILS,
        Verdict::Room | Verdict::Fits if found.findings.is_empty() => HOLDS,
        Verdict::Room | Verdict::Fits => FAILS,
    })
}
