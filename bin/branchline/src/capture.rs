//! `branchline capture POD [DST]`: where on the node a pod's packets pass, and ready tcpdump commands.

mod filters;
mod ways;

use std::net::Ipv4Addr;

use clap::Args;
use nodenet::layout::{self, PodName};
use reach::Inputs;
use reach::facts::Node;
use reach::noun::{Noun, parse_destination};
use reach::resolve::{Sender, Senders, senders};
use serde::Serialize;
use vpc::facts::Eni;

use crate::read::{HOLDS, Output, Sources, UNKNOWN};
use filters::Filters;
use ways::{Command, Ways};

/// Where on the node do a pod's packets pass? Prints ready tcpdump commands; runs none.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  branchline capture dev/deploy/api                        one of its pods
  branchline capture dev/deploy/api rds/orders:5432 --all  only packets to and from the database
  branchline capture dev/pod/api-7c9-x dev/svc/web -c 10

Commands use the node's own tcpdump: by SSM, by kubectl debug, in a lab by branchline lab.

Exit codes:
  0 every name is known   2 wrong usage   3 a name is unknown   5 the tool failed")]
pub(crate) struct CaptureArgs {
    /// A pod, or a workload, Service or node with pods.
    what: String,
    /// Only packets to and from there; the port may be left out.
    destination: Option<String>,
    /// Every pod, not only the first.
    #[arg(long)]
    all: bool,
    /// End after this many packets.
    #[arg(short, long, value_name = "N")]
    count: Option<u32>,
    /// The image that kubectl debug runs; it needs chroot only.
    #[arg(long, default_value = "busybox")]
    image: String,
    #[command(flatten)]
    sources: Sources,
}

#[derive(Debug, Serialize)]
struct Document {
    schema: &'static str,
    pods: Vec<Place>,
    /// Pods that match and are not shown.
    more: usize,
    unknown: Vec<String>,
}

/// Where a pod's packets pass.
#[derive(Debug, Serialize)]
struct Place {
    pod: String,
    address: Ipv4Addr,
    node: String,
    instance: String,
    /// On its node's network: no veth, and packets carry the node's address.
    host_network: bool,
    /// The host end of its veth.
    veth: Option<Point>,
    /// The interface that owns its address.
    eni: Option<EniPoint>,
    notes: Vec<String>,
}

/// A link of the node to listen at.
#[derive(Debug, Serialize)]
struct Point {
    link: String,
    filter: String,
    commands: Vec<Command>,
}

/// What the link is called is the image's choice (eth1, ens6): commands find it by its MAC.
#[derive(Debug, Serialize)]
struct EniPoint {
    id: String,
    device: Option<u32>,
    mac: String,
    filter: String,
    commands: Vec<Command>,
}

pub(crate) async fn run(args: CaptureArgs) -> anyhow::Result<u8> {
    let noun: Noun = args.what.parse()?;
    let to = args.destination.as_deref().map(parse_destination);
    let to = to.transpose()?;
    let inputs = args.sources.read().await?;
    let found = senders(&inputs, &noun)?;
    let to = to.map(|(noun, port)| Filters::to(&inputs, &noun, port));
    let filters = to.transpose()?.unwrap_or_default();
    let document = document(&inputs, &args, &noun, found, &filters)?;
    match args.sources.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&document)?),
        Output::Text => print(&document),
    }
    Ok(match document.unknown.is_empty() {
        true => HOLDS,
        false => UNKNOWN,
    })
}

fn document(
    inputs: &Inputs,
    args: &CaptureArgs,
    noun: &Noun,
    found: Senders,
    filters: &Filters,
) -> anyhow::Result<Document> {
    let shown = if args.all { found.running.len() } else { 1 };
    let mut document = Document {
        schema: "branchline/capture/v1",
        more: found.running.len().saturating_sub(shown),
        pods: Vec::new(),
        unknown: found.unknown,
    };
    document.unknown.extend(filters.unknown.clone());
    if found.running.is_empty() && document.unknown.is_empty() {
        anyhow::bail!("{noun} has no running pod with an address");
    }
    for sender in found.running.iter().take(shown) {
        let place = place(inputs, args, noun, sender, filters, &mut document.unknown)?;
        document.pods.extend(place);
    }
    Ok(document)
}

fn place(
    inputs: &Inputs,
    args: &CaptureArgs,
    noun: &Noun,
    sender: &Sender,
    filters: &Filters,
    unknown: &mut Vec<String>,
) -> anyhow::Result<Option<Place>> {
    let Some(pod) = &sender.pod else {
        return Err(reach::Error::WrongSide {
            noun: noun.to_string(),
            role: "a pod",
            why: "no pod that is known has the address: name a pod, a workload or a node",
        }
        .into());
    };
    let known = |name: &String| inputs.nodes.get_key_value(name);
    let Some((_, node)) = sender.node.as_ref().and_then(known) else {
        unknown.push(format!("{}: the node it runs on was not read", pod.label()));
        return Ok(None);
    };
    let eni = sender.eni.as_ref().and_then(|id| inputs.world.enis.get(id));
    let by = Ways {
        live: &args.sources.live,
        node,
        image: &args.image,
        count: args.count,
        lab: std::env::var_os("BRANCHLINE_EXEC").is_some(),
    };
    let mut place = Place {
        pod: pod.label(),
        address: sender.address,
        node: node.name.clone(),
        instance: node.instance.to_string(),
        host_network: sender.host,
        veth: None,
        eni: None,
        notes: Vec::new(),
    };
    if eni.is_none() {
        unknown.push(format!(
            "the interfaces of {}: EC2 lists {} on no ENI of {} (a pod with security groups of its own?)",
            place.pod, sender.address, node.name
        ));
    } else if !sender.host {
        match veth(node, &PodName::new(&pod.namespace, &pod.name)) {
            Ok(link) => {
                let filter = filters.at_pod(sender.address);
                place.veth = Some(Point {
                    commands: by.commands(&link, &filter)?,
                    link,
                    filter,
                });
            }
            Err(why) => unknown.push(format!("the veth of {}: {why}", place.pod)),
        }
    }
    if let Some(eni) = eni {
        place.notes = filters.notes(inputs, node, eni);
        let outside = filters.outside(inputs, eni);
        let filter = filters.at_eni(sender.address, outside);
        place.eni = Some(EniPoint {
            id: eni.id.to_string(),
            device: eni.attachment.as_ref().map(|a| a.device_index),
            mac: eni.mac.to_string(),
            commands: by.commands(&link_of(eni), &filter)?,
            filter,
        });
    }
    Ok(Some(place))
}

/// The host end of a pod's veth, by the prefix that the node's agent is told.
fn veth(node: &Node, pod: &PodName) -> Result<String, String> {
    let settings = match (&node.settings, &node.unclear) {
        (Some(settings), _) => settings,
        (None, Some(why)) => return Err(why.clone()),
        (None, None) => {
            return Err(format!(
                "AWS_VPC_K8S_CNI_VETHPREFIX of the agent on {} was not read: it is read from the cluster (--kubeconfig)",
                node.name
            ));
        }
    };
    let link = layout::host_veth(&settings.veth_prefix, pod, 0).to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match link.chars().all(plain) {
        true => Ok(link),
        // What is pasted into a shell must mean itself there.
        false => Err(format!("its name {link:?} is no plain word of a shell")),
    }
}

/// An ENI's link on its node, as a shell finds it.
fn link_of(eni: &Eni) -> String {
    format!(
        "$(grep -l {} /sys/class/net/*/address | cut -d/ -f5)",
        eni.mac
    )
}

fn print(document: &Document) {
    for place in &document.pods {
        anstream::println!(
            "{}  {} on {} ({})",
            place.pod,
            place.address,
            place.node,
            place.instance
        );
        for note in &place.notes {
            anstream::println!("  note  {note}");
        }
        if place.host_network {
            anstream::println!(
                "  no veth: it is on the node's network, and its address is the node's"
            );
        }
        if let Some(veth) = &place.veth {
            anstream::println!("\n  veth {}: what the pod sends and gets", veth.link);
            lines(&veth.commands);
        }
        if let Some(eni) = &place.eni {
            let device = match eni.device {
                Some(0) => "primary".to_owned(),
                Some(n) => format!("device {n}"),
                None => "not attached".to_owned(),
            };
            anstream::println!(
                "\n  {} {device}, {}: what leaves the node for the VPC and comes back",
                eni.id,
                eni.mac
            );
            lines(&eni.commands);
        }
        anstream::println!();
    }
    if document.more > 0 {
        anstream::println!("{} more pods match: --all", document.more);
    }
    for need in &document.unknown {
        anstream::println!("UNKNOWN  {need}");
    }
}

fn lines(commands: &[Command]) {
    for command in commands {
        anstream::println!("    {}", command.command);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node whose agent has these settings, or was not read.
    pub(super) fn node(settings: Option<nodenet::NodeSettings>) -> Node {
        Node {
            name: "ip-10-0-1-11".into(),
            instance: "i-0123456789abcdef0".parse().expect("an id"),
            kubernetes: Some("ip-10-0-1-11.us-west-2.compute.internal".into()),
            pods: Vec::new(),
            host_pods: Vec::new(),
            settings,
            unclear: None,
            groups: reach::facts::GroupSync::Unknown,
            agent: "upstream".into(),
            runs_otherwise: Vec::new(),
            packs: false,
            told: None,
            silent: None,
        }
    }

    #[test]
    fn the_veth_has_upstreams_name_and_the_nodes_prefix() {
        let pod = PodName::new("kube-system", "coredns-57ff979f67-qqbdh");
        let with = |prefix: &str| {
            let veth_prefix = prefix.parse().expect("a prefix");
            let settings = nodenet::NodeSettings {
                veth_prefix,
                ..Default::default()
            };
            veth(&node(Some(settings)), &pod)
        };
        assert_eq!(with("eni").as_deref(), Ok("enib5faff8a083"));
        assert_eq!(with("ab").as_deref(), Ok("abb5faff8a083"));
        // What would run as a command in the user's shell is not printed.
        assert!(with("$(w)").is_err());
        let unread = veth(&node(None), &pod).expect_err("the prefix is not known");
        assert!(unread.contains("VETHPREFIX"), "{unread}");
    }
}
