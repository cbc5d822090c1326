//! Builds a topology through the EC2 API.
//!
//! Nothing here reaches into the simulator: these are the calls that an operator would make, in an
//! order in which every call finds what it names, so `aws ec2 describe-*` shows all of it and every
//! lab is also a test of the API.

mod cluster;
mod group;
mod instance;
mod network;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

pub use cluster::Eks;
use ec2::Client;
use ec2::types::{Operation, Tag, TagSpecification};

use crate::error::Error;
use crate::topology::{Cluster, Topology};

/// A host's interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltHost {
    /// The interface.
    pub eni: String,
    /// Its primary address.
    pub address: Ipv4Addr,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltNode {
    /// The instance.
    pub instance: String,
    /// Its primary address.
    pub address: Ipv4Addr,
}

/// A building that has its client and its plan, and nothing built.
pub struct Building<'a>(Builder<'a>);

/// The network and the hosts of a topology, without instances.
pub struct Network<'a>(Builder<'a>);

/// Ids by names, as far as the building has come.
struct Builder<'a> {
    client: &'a Client,
    eks: &'a Eks,
    topology: &'a Topology,
    vpcs: BTreeMap<String, String>,
    gateways: BTreeMap<String, String>,
    subnets: BTreeMap<String, String>,
    groups: BTreeMap<String, String>,
    prefix_lists: BTreeMap<String, String>,
    peerings: BTreeMap<String, String>,
    nats: BTreeMap<String, String>,
    hosts: BTreeMap<String, BuiltHost>,
    /// Cluster security groups, by the clusters' names.
    cluster_groups: BTreeMap<String, String>,
}

impl<'a> Building<'a> {
    /// A building of `topology` through `client` and `eks`.
    #[must_use]
    pub fn new(client: &'a Client, eks: &'a Eks, topology: &'a Topology) -> Self {
        Self(Builder {
            client,
            eks,
            topology,
            vpcs: BTreeMap::new(),
            gateways: BTreeMap::new(),
            subnets: BTreeMap::new(),
            groups: BTreeMap::new(),
            prefix_lists: BTreeMap::new(),
            peerings: BTreeMap::new(),
            nats: BTreeMap::new(),
            hosts: BTreeMap::new(),
            cluster_groups: BTreeMap::new(),
        })
    }

    /// Builds everything but instances. `step` hears what comes next.
    ///
    /// # Errors
    /// The first call that EC2 refused.
    pub async fn network(self, step: &mut dyn FnMut(String)) -> Result<Network<'a>, Error> {
        let Self(mut builder) = self;
        let topology = builder.topology;
        step(format!("network: {}", counted(topology.vpcs.len(), "VPC")));
        builder.vpcs().await?;
        builder.peerings().await?;
        builder.prefix_lists().await?;
        let groups = topology.vpcs.iter().map(|v| v.groups.len()).sum();
        step(format!("security: {}", counted(groups, "group")));
        builder.groups().await?;
        builder.acls().await?;
        builder.nats().await?;
        builder.clusters().await?;
        builder.hosts().await?;
        builder.routes().await?;
        builder.templates().await?;
        Ok(Network(builder))
    }
}

impl Network<'_> {
    /// Interfaces of hosts, by the hosts' names.
    #[must_use]
    pub fn hosts(&self) -> &BTreeMap<String, BuiltHost> {
        &self.0.hosts
    }

    /// Launches the instances.
    ///
    /// # Errors
    /// The first call that EC2 refused.
    pub async fn instances(&self) -> Result<BTreeMap<String, BuiltNode>, Error> {
        self.0.instances().await
    }

    /// Gives a cluster that is ACTIVE its add-ons and node groups.
    ///
    /// # Errors
    /// The first call that EKS refused.
    pub async fn furnish(&self, cluster: &Cluster) -> Result<(), Error> {
        self.0.furnish(cluster).await
    }
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

impl Builder<'_> {
    async fn call<O: Operation>(&self, what: &str, request: O) -> Result<O::Output, Error> {
        let failed = |source| Error::Build {
            what: what.to_owned(),
            source: Box::new(source),
        };
        self.client.call(request).await.map_err(failed)
    }
}

/// What EC2 must have said; a server that leaves it out is not EC2.
fn said<T>(value: Option<T>, what: &str, field: &'static str) -> Result<T, Error> {
    value.ok_or_else(|| Error::LeftOut {
        what: what.to_owned(),
        field,
    })
}

/// The `Name` tag.
fn named(kind: &str, name: &str) -> Vec<TagSpecification> {
    let tag = Tag {
        key: Some("Name".to_owned()),
        value: Some(name.to_owned()),
    };
    vec![TagSpecification {
        resource_type: Some(kind.to_owned()),
        tags: vec![tag],
    }]
}

/// An id of the map; the topology was checked, so a name that is missing is a mistake of ours.
fn id(map: &BTreeMap<String, String>, name: &str) -> Option<String> {
    debug_assert!(map.contains_key(name), "{name}");
    map.get(name).cloned()
}
