//! What every verb of the tool shares: where to read, how to answer.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context;
use clap::{Args, ValueEnum};
use reach::Inputs;
use serde::Serialize;
use snapshot::{Endpoint, Kube, KubeOptions};

/// The asked property holds.
pub(crate) const HOLDS: u8 = 0;
/// It does not hold.
pub(crate) const FAILS: u8 = 1;
/// Wrong usage or bad input.
pub(crate) const USAGE: u8 = 2;
/// Evidence is missing.
pub(crate) const UNKNOWN: u8 = 3;
/// Prediction and observation disagree.
pub(crate) const DISAGREES: u8 = 4;
/// A fault of the tool or of what it needs.
pub(crate) const BROKEN: u8 = 5;

/// How to answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs, with a published schema.
    Json,
}

/// Where to read from. Nothing is ever written.
#[derive(Debug, Args)]
pub(crate) struct Sources {
    /// Read this file of `branchline snapshot` instead of the cluster and AWS.
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) live: Live,
    /// How to answer.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// The cluster, the account and the nodes.
#[derive(Debug, Args)]
pub(crate) struct Live {
    /// The kubeconfig; else KUBECONFIG, else ~/.kube/config. Without any, nodes are read by --node.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; else the current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The cluster, by its name in the kubeconfig or at the end of its ARN.
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// A node's agent, as NODE=URL of its introspection; repeatable.
    ///
    /// The agent listens on the node's own loopback address, port 61679: forward it, with
    /// `kubectl port-forward`, SSM or ssh.
    #[arg(long = "node", value_name = "NODE=URL", env = "BRANCHLINE_NODES")]
    nodes: Vec<Endpoints>,
    /// The AWS region; else AWS_REGION, the profile, instance metadata.
    #[arg(long)]
    region: Option<String>,
    /// The profile of ~/.aws/config; else AWS_PROFILE.
    #[arg(long)]
    profile: Option<String>,
}

/// Agents, separated by commas; an empty text is none, as in an environment without nodes.
#[derive(Debug, Clone)]
struct Endpoints(Vec<Endpoint>);

impl FromStr for Endpoints {
    type Err = snapshot::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split(',').filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl Sources {
    /// Prints what was found, for people by `render` or for programs.
    pub(crate) fn print<T: Serialize>(
        &self,
        found: &T,
        render: impl FnOnce(&T) -> Result<String, fmt::Error>,
    ) -> anyhow::Result<()> {
        match self.output {
            Output::Text => anstream::print!("{}", render(found).context("render the answer")?),
            Output::Json => println!("{}", serde_json::to_string_pretty(found)?),
        }
        Ok(())
    }

    /// Reads the snapshot, or EC2, the cluster, the agents and EKS; also says EKS's name of the cluster.
    pub(crate) async fn read_all(&self) -> anyhow::Result<(Inputs, Option<String>)> {
        match &self.snapshot {
            Some(file) => Ok((snapshot::file::load(file)?, None)),
            None => self.live.read_all().await,
        }
    }

    /// Reads the snapshot, or EC2, the cluster and the agents.
    pub(crate) async fn read(&self) -> anyhow::Result<Inputs> {
        match &self.snapshot {
            Some(file) => Ok(snapshot::file::load(file)?),
            None => self.live.read().await,
        }
    }
}

impl Live {
    /// Reads EC2, the cluster and the agents.
    pub(crate) async fn read(&self) -> anyhow::Result<Inputs> {
        let client = self.ec2()?;
        let kube = self.kube().await?;
        let nodes = self.endpoints();
        // Boxed: the futures of the whole client stack nest deeper than the compiler looks.
        Ok(Box::pin(snapshot::read(&client, kube.as_ref(), &nodes)).await?)
    }

    /// Reads EC2, the cluster, the agents, and EKS where the kubeconfig says which cluster it is.
    pub(crate) async fn read_all(&self) -> anyhow::Result<(Inputs, Option<String>)> {
        let mut inputs = self.read().await?;
        let kube = self.kube().await?;
        let name = kube.as_ref().and_then(|k| k.eks_name()).map(str::to_owned);
        if let Some(name) = &name {
            snapshot::read_addon(&self.eks()?, name, &mut inputs).await;
        }
        Ok((inputs, name))
    }

    /// The client of EC2.
    pub(crate) fn ec2(&self) -> anyhow::Result<ec2::Client> {
        self.builder().build().context("configure the EC2 client")
    }

    /// The client of EKS.
    pub(crate) fn eks(&self) -> anyhow::Result<ec2::eks::Client> {
        let builder = self.builder();
        builder.build_eks().context("configure the EKS client")
    }

    fn builder(&self) -> ec2::client::Builder {
        let mut builder = ec2::Client::builder();
        if let Some(region) = &self.region {
            builder = builder.region(region);
        }
        if let Some(profile) = &self.profile {
            builder = builder.profile(profile);
        }
        builder
    }

    /// The cluster, if one is named or there is a kubeconfig. Somebody who names nodes and no cluster
    /// asks about nodes without Kubernetes: the file in the home directory is then left alone.
    pub(crate) async fn kube(&self) -> anyhow::Result<Option<Kube>> {
        let options = KubeOptions {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            cluster: self.cluster.clone(),
            profile: self.profile.clone(),
        };
        if !options.is_explicit() && !self.endpoints().is_empty() {
            return Ok(None);
        }
        Ok(snapshot::connect(&options).await?)
    }

    /// A command of kubectl against the same cluster.
    pub(crate) fn kubectl(&self, command: &str) -> String {
        let mut line = "kubectl ".to_owned();
        if let Some(file) = &self.kubeconfig {
            line.push_str(&format!("--kubeconfig {} ", file.display()));
        }
        if let Some(context) = &self.context {
            line.push_str(&format!("--context {context} "));
        }
        line + command
    }

    /// A command of the AWS CLI in the same region and profile.
    pub(crate) fn aws(&self, command: &str) -> String {
        let mut line = format!("aws {command}");
        if let Some(region) = &self.region {
            line.push_str(&format!(" --region {region}"));
        }
        if let Some(profile) = &self.profile {
            line.push_str(&format!(" --profile {profile}"));
        }
        line
    }

    /// The agents that somebody named.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.nodes.iter().flat_map(|n| n.0.clone()).collect()
    }
}

/// Runs a verb and turns its error into an exit code: questions that cannot be asked are the
/// user's (2), everything else is not (5).
pub(crate) fn finish(verb: impl Future<Output = anyhow::Result<u8>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(verb)),
        Err(error) => Err(anyhow::Error::new(error).context("start the runtime")),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            anstream::eprintln!("error: {error:#}");
            let bad_input = |e: &&(dyn std::error::Error + 'static)| {
                let file = e.downcast_ref::<snapshot::Error>();
                let not_one = matches!(file, Some(snapshot::Error::NotASnapshot { .. }));
                not_one || e.is::<reach::Error>() || e.is::<advice::code::UnknownCode>()
            };
            let usage = error.chain().any(|e| bad_input(&e));
            ExitCode::from(if usage { USAGE } else { BROKEN })
        }
    }
}
