//! `branchline snapshot -o FILE`: everything that answers need, in one file.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::read::{HOLDS, Live};

/// Save everything that answers need to one file, without secrets.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  branchline snapshot -o incident.json
  branchline why dev/deploy/api rds/orders:5432 --snapshot incident.json

The file holds identifiers, addresses, rules, labels and the address agent's own variables; no other
variables, no annotations, no Secrets. Answers from it are those of the moment it was taken.")]
pub(crate) struct SnapshotArgs {
    /// The file; - is standard output.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    live: Live,
}

pub(crate) async fn run(args: SnapshotArgs) -> anyhow::Result<u8> {
    let (inputs, _) = args.live.read_all().await?;
    snapshot::file::save(&args.output, &inputs)?;
    if args.output != Path::new("-") {
        let pods: usize = inputs
            .nodes
            .values()
            .map(|n| n.pods.len() + n.host_pods.len())
            .sum();
        anstream::eprintln!(
            "{}: {} ENIs, {} nodes, {pods} running pods",
            args.output.display(),
            inputs.world.enis.len(),
            inputs.nodes.len()
        );
        let cluster = inputs.kubernetes.iter().flat_map(|c| c.unread.values());
        let cluster = cluster.map(|u| (u.right.clone(), u.reason.clone()));
        let aws = inputs.world.unread.values();
        for (right, reason) in aws
            .map(|u| (u.action.clone(), u.reason.clone()))
            .chain(cluster)
        {
            anstream::eprintln!("not read: {right}: {reason}");
        }
    }
    Ok(HOLDS)
}
