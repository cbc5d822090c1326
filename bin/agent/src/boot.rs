//! Who this node is: instance metadata, the type's limits, the primary interface's link.
//!
//! Repeated until it works; each failure is the reason that `STATUS` and refused ADDs give. The
//! calls end by themselves within seconds, so the cause is named within seconds too.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ec2::imds::Imds;
use ipam::NodeFacts;
use ipnet::Ipv4Net;
use nodenet::NodeSettings;
use settings::Settings;
use tokio::sync::mpsc;
use vpc::facts::{Mac, SubnetId};

use crate::cloud::Cloud;
use crate::limits;
use crate::links::Links;
use crate::metadata::{self, Metadata};
use crate::owner::Message;
use crate::translate::{Place, Translator};

const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The node, and the hands that work on it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) facts: NodeFacts,
    pub(crate) region: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) subnet: (SubnetId, Ipv4Net),
    pub(crate) vpc_cidrs: Vec<Ipv4Net>,
    pub(crate) cloud: Cloud,
    pub(crate) metadata: Metadata,
    pub(crate) links: Links,
}

/// Finds out who the node is, says so, then watches instance metadata.
pub(crate) async fn run(
    imds: Imds,
    ec2: ec2::Client,
    settings: Settings,
    to: mpsc::Sender<Message>,
) {
    let mut pause = Duration::from_millis(250);
    loop {
        match identify(&imds, &ec2, &settings).await {
            Ok(node) => {
                let metadata = node.metadata.clone();
                if to.send(Message::Booted(Box::new(node))).await.is_err() {
                    return;
                }
                break metadata::watch(metadata, &to).await;
            }
            Err(error) => {
                let reason = format!("{error:#}");
                tracing::warn!(%reason, "the node is not known yet");
                if to.send(Message::Unknown(reason)).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn identify(imds: &Imds, ec2: &ec2::Client, settings: &Settings) -> anyhow::Result<Node> {
    let identity = imds.identity().await?;
    let mac = imds.primary_mac().await?;
    let interface = imds
        .interface(&mac)
        .await?
        .with_context(|| format!("instance metadata does not show its primary interface {mac}"))?;
    let subnet: SubnetId = interface.subnet_id.parse()?;
    let cidr = interface
        .subnet_cidr
        .with_context(|| format!("instance metadata has no IPv4 block of {subnet}"))?;
    let address = interface
        .addresses
        .first()
        .copied()
        .with_context(|| format!("instance metadata shows no address of {}", interface.id))?;
    let kind = limits::of(ec2, &identity.instance_type).await?;
    let limits = kind.limits;
    let facts = NodeFacts {
        instance: identity.instance_id.parse()?,
        subnet: subnet.clone(),
        prefixes: kind.prefixes,
        limits,
    };
    let settings_of_net = NodeSettings::try_from(&settings.network)?;
    let link: Mac = mac.parse()?;
    let links = Links::find(settings_of_net, interface.id.clone(), link, address, cidr)?;
    links.set_up_node().context("the node's own rules")?;
    let cloud = Cloud {
        blocks: Arc::default(),
        ec2: ec2.clone(),
        translator: Translator {
            instance: facts.instance.clone(),
            tags: settings.tags.clone(),
            place: Place {
                vpc: interface.vpc_id.parse()?,
                zone: identity.availability_zone,
                subnet: subnet.clone(),
            },
        },
    };
    tracing::info!(
        instance = %facts.instance, instance_type = %identity.instance_type, %subnet,
        interfaces = limits.interfaces, addresses = limits.ipv4_per_interface, "the node is known"
    );
    Ok(Node {
        facts,
        region: identity.region,
        address,
        subnet: (subnet, cidr),
        vpc_cidrs: interface.vpc_cidrs,
        cloud,
        metadata: Metadata::new(imds.clone(), mac),
        links,
    })
}
