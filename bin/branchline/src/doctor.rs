//! `branchline doctor --rights`: which rights are there, and what the missing ones cost.

use clap::Args;
use snapshot::rights::{Right, Rights, State, System};

use crate::read::{HOLDS, Live, Output, UNKNOWN};

/// Check what the tool may read, and print the least that must be granted.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Asks the API server by SelfSubjectAccessReview and EC2 by dry runs; nothing is created or changed.

Exit codes:
  0 every answer can be given   3 something is missing   5 the tool failed")]
pub(crate) struct DoctorArgs {
    /// Check rights.
    #[arg(long, required = true)]
    rights: bool,
    #[command(flatten)]
    live: Live,
    /// How to answer.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) async fn run(args: DoctorArgs) -> anyhow::Result<u8> {
    let kube = args.live.kube().await?;
    let ec2 = args.live.ec2()?;
    let eks = args.live.eks()?;
    let named = kube
        .as_ref()
        .and_then(|k| k.eks_name())
        .map(|name| (&eks, name));
    let rights = Box::pin(snapshot::rights::check(kube.as_ref(), &ec2, named)).await?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&rights)?),
        Output::Text => print(&rights)?,
    }
    Ok(if rights.complete() { HOLDS } else { UNKNOWN })
}

fn print(rights: &Rights) -> anyhow::Result<()> {
    match (&rights.cluster, &rights.user) {
        (Some(cluster), Some(user)) => anstream::println!("Kubernetes  {cluster} as {user}"),
        (Some(cluster), None) => anstream::println!("Kubernetes  {cluster}"),
        (None, _) => anstream::println!(
            "Kubernetes  no cluster in reach: set KUBECONFIG, or --kubeconfig and --context"
        ),
    }
    section(rights, System::Kubernetes);
    anstream::println!("AWS");
    section(rights, System::Aws);
    if let Some(role) = &rights.cluster_role {
        anstream::println!(
            "\nGrant in the cluster (kubectl apply -f -):\n{}",
            serde_json::to_string_pretty(role)?
        );
        let user = rights.user.as_deref().unwrap_or("USER");
        anstream::println!(
            "\n  kubectl create clusterrolebinding branchline-read --clusterrole=branchline-read --user={user}"
        );
    }
    if let Some(policy) = &rights.iam_policy {
        anstream::println!("\nGrant in AWS:\n{}", serde_json::to_string_pretty(policy)?);
    }
    Ok(())
}

fn section(rights: &Rights, system: System) {
    for right in rights.rights.iter().filter(|r| r.system == system) {
        line(right);
    }
}

fn line(right: &Right) {
    let optional = if right.optional { " (optional)" } else { "" };
    match &right.state {
        State::Granted => anstream::println!("  ✔ {}", right.right),
        State::Missing(why) => anstream::println!(
            "  ✘ {}{optional}\n      UNKNOWN without it: {}\n      {why}",
            right.right,
            right.costs
        ),
        State::Unknown(why) => anstream::println!(
            "  ? {}{optional}\n      needed for: {}\n      {why}",
            right.right,
            right.costs
        ),
    }
}
