//! `branchline bundle [FILE]`: everything that somebody who helps needs, in one redacted file.

use std::path::PathBuf;

use clap::Args;
use reach::Inputs;
use snapshot::bundle::Bundle;

use crate::read::{HOLDS, Live, UNKNOWN};

/// Save a support file: snapshot, agents' pages, logs, metrics, events, DaemonSet; redacted.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  branchline bundle
  branchline bundle incident.tar.gz --cluster dev --node ip-10-0-1-11=http://127.0.0.1:61679
  tar xzOf incident.tar.gz branchline-bundle/manifest.json

The file holds the snapshot, the answers of drift and capacity, each agent's pages (where --node says
how to reach it), the ends of the agents' logs, their metrics (by way of the API server), events about
pods' networks, the DaemonSet and versions. manifest.json lists what could not be read, why, and what
to grant. Annotations, variables that are not the stack's, and texts that look like credentials are
taken out, from logs too. Only its owner may read it; look into it before you send it on.

Exit codes:
  0 complete   2 wrong usage   3 written, but something could not be read: it is named   5 the tool failed")]
pub(crate) struct BundleArgs {
    /// The file; else branchline-CLUSTER-DATE.tar.gz here.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    live: Live,
}

pub(crate) async fn run(args: BundleArgs) -> anyhow::Result<u8> {
    let kube = args.live.kube().await?;
    // What fails is a part of the story: whoever needs this file may have no AWS or no cluster.
    let (inputs, failed) = match args.live.read_all().await {
        Ok((inputs, _)) => (inputs, None),
        Err(error) => (Inputs::default(), Some(format!("{error:#}"))),
    };
    let mut bundle = Box::pin(Bundle::collect(
        kube.as_ref(),
        &args.live.endpoints(),
        &inputs,
    ))
    .await;
    match failed {
        Some(why) => bundle.miss("EC2 and the cluster's objects", &why, None),
        None => answers(&mut bundle, &inputs)?,
    }
    let file = args.file.unwrap_or_else(|| bundle.default_name());
    bundle.write(&file)?;
    anstream::eprintln!("{}: {} files", file.display(), bundle.names().count());
    for missing in &bundle.missing {
        let grant = missing.grant.as_deref().map(|g| format!(" (needs: {g})"));
        anstream::eprintln!(
            "not in it: {}: {}{}",
            missing.what,
            missing.why,
            grant.unwrap_or_default()
        );
    }
    Ok(match bundle.missing.is_empty() {
        true => HOLDS,
        false => UNKNOWN,
    })
}

/// What the tool itself makes of it.
fn answers(bundle: &mut Bundle, inputs: &Inputs) -> anyhow::Result<()> {
    let drift = serde_json::to_value(advice::drift::drift(inputs, None))?;
    bundle.add_document("answers/drift.json", "branchline drift", drift);
    let capacity = serde_json::to_value(advice::capacity::capacity(inputs, &[]))?;
    bundle.add_document("answers/capacity.json", "branchline capacity", capacity);
    for name in inputs.nodes.keys() {
        let file = format!("answers/status-{name}.json");
        let source = format!("branchline status node/{name}");
        match advice::status::status(inputs, name) {
            Ok(status) => bundle.add_document(&file, &source, serde_json::to_value(status)?),
            Err(error) => bundle.miss(&file, &error.to_string(), None),
        }
    }
    Ok(())
}
