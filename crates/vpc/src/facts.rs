//! What is known about a VPC: plain data in EC2's own terms, nothing derived, nothing decided.
//!
//! One [`World`] holds everything that was read. Relations are stored once, where EC2 reports them
//! (a route table lists its subnets, an interface its groups); the other direction is a method in
//! [`crate::world`]. What could *not* be read is a fact too: [`World::unread`] names the IAM action
//! that was denied, and every answer that would have needed it is UNKNOWN, never a guess.
//!
//! IPv6 facts are kept so that nothing is lost, and are reported as not modelled.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

mod rules;
mod ways;

pub use crate::ids::*;
pub use rules::*;
pub use ways::*;

/// Tags by key.
pub type Tags = BTreeMap<String, String>;

/// Everything known about the VPCs of one account and region.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct World {
    /// The account that was read, 12 digits; empty when unknown.
    pub account: String,
    /// The region that was read, as `us-west-2`; empty when unknown.
    pub region: String,
    /// VPCs, those of peers too as far as they could be read.
    pub vpcs: BTreeMap<VpcId, Vpc>,
    /// Subnets.
    pub subnets: BTreeMap<SubnetId, Subnet>,
    /// Network interfaces of every kind.
    pub enis: BTreeMap<EniId, Eni>,
    /// Security groups.
    pub groups: BTreeMap<SgId, SecurityGroup>,
    /// Network ACLs.
    pub acls: BTreeMap<AclId, NetworkAcl>,
    /// Route tables.
    pub route_tables: BTreeMap<RtbId, RouteTable>,
    /// Managed prefix lists with their entries.
    pub prefix_lists: BTreeMap<PrefixListId, PrefixList>,
    /// Internet gateways.
    pub internet_gateways: BTreeMap<IgwId, InternetGateway>,
    /// NAT gateways.
    pub nat_gateways: BTreeMap<NatId, NatGateway>,
    /// VPC peering connections.
    pub peerings: BTreeMap<PcxId, Peering>,
    /// Instances.
    pub instances: BTreeMap<InstanceId, Instance>,
    /// Launch templates with the versions that were read.
    pub launch_templates: BTreeMap<LaunchTemplateId, LaunchTemplate>,
    /// Kinds of objects that could not be read, and why.
    pub unread: BTreeMap<Kind, Unread>,
}

/// The kinds of objects in a [`World`], each read by one EC2 action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// [`World::vpcs`]
    Vpcs,
    /// [`World::subnets`]
    Subnets,
    /// [`World::enis`]
    Enis,
    /// [`World::groups`]
    Groups,
    /// Ids of security group rules; without them rules are named by their text.
    GroupRules,
    /// [`World::acls`]
    Acls,
    /// [`World::route_tables`]
    RouteTables,
    /// [`World::prefix_lists`], and their entries
    PrefixLists,
    /// [`World::internet_gateways`]
    InternetGateways,
    /// [`World::nat_gateways`]
    NatGateways,
    /// [`World::peerings`]
    Peerings,
    /// [`World::instances`]
    Instances,
    /// [`World::launch_templates`]
    LaunchTemplates,
    /// Trunk associations; without them a branch interface is known by its tags only.
    TrunkAssociations,
}

impl Kind {
    /// The IAM action that reads objects of this kind, as it is written in a policy.
    pub fn action(self) -> &'static str {
        match self {
            Kind::Vpcs => "ec2:DescribeVpcs",
            Kind::Subnets => "ec2:DescribeSubnets",
            Kind::Enis => "ec2:DescribeNetworkInterfaces",
            Kind::Groups => "ec2:DescribeSecurityGroups",
            Kind::GroupRules => "ec2:DescribeSecurityGroupRules",
            Kind::Acls => "ec2:DescribeNetworkAcls",
            Kind::RouteTables => "ec2:DescribeRouteTables",
            Kind::PrefixLists => "ec2:GetManagedPrefixListEntries",
            Kind::InternetGateways => "ec2:DescribeInternetGateways",
            Kind::NatGateways => "ec2:DescribeNatGateways",
            Kind::Peerings => "ec2:DescribeVpcPeeringConnections",
            Kind::Instances => "ec2:DescribeInstances",
            Kind::LaunchTemplates => "ec2:DescribeLaunchTemplateVersions",
            Kind::TrunkAssociations => "ec2:DescribeTrunkInterfaceAssociations",
        }
    }
}

/// Why a kind of objects is missing from a [`World`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// The IAM action that failed, as `ec2:DescribeNetworkAcls`.
    pub action: String,
    /// The failure as AWS worded it, as `UnauthorizedOperation: You are not authorized …`.
    pub reason: String,
}

/// A VPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vpc {
    /// Its id.
    pub id: VpcId,
    /// The account that owns it.
    #[serde(default)]
    pub owner: String,
    /// All associated IPv4 ranges, the primary first.
    pub cidrs: Vec<Ipv4Net>,
    /// All associated IPv6 ranges (kept, not modelled).
    #[serde(default)]
    pub cidrs6: Vec<Ipv6Net>,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
}

/// A subnet. Its route table and ACL are found by [`World::route_table_of`] and [`World::acl_of`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Its id.
    pub id: SubnetId,
    /// The VPC it is a part of.
    pub vpc: VpcId,
    /// Its IPv4 range.
    pub cidr: Ipv4Net,
    /// Its IPv6 ranges (kept, not modelled).
    #[serde(default)]
    pub cidrs6: Vec<Ipv6Net>,
    /// Its availability zone, as `us-west-2a`.
    pub zone: String,
    /// `AvailableIpAddressCount`, when it was read.
    #[serde(default)]
    pub available: Option<u32>,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eni {
    /// Its id.
    pub id: EniId,
    /// The subnet it is in.
    pub subnet: SubnetId,
    /// The VPC it is in.
    pub vpc: VpcId,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its IPv4 addresses, the primary first.
    pub addresses: Vec<EniAddress>,
    /// Its delegated IPv4 prefixes (/28).
    #[serde(default)]
    pub prefixes: Vec<Ipv4Net>,
    /// Its IPv6 addresses (kept, not modelled).
    #[serde(default)]
    pub addresses6: Vec<Ipv6Addr>,
    /// Its delegated IPv6 prefixes (kept, not modelled).
    #[serde(default)]
    pub prefixes6: Vec<Ipv6Net>,
    /// The security groups on it.
    pub groups: BTreeSet<SgId>,
    /// Whether EC2 drops packets that are not from or to one of its own addresses.
    pub source_dest_check: bool,
    /// What it is for.
    pub kind: EniKind,
    /// EC2's `Status`.
    pub status: EniStatus,
    /// What it is attached to.
    #[serde(default)]
    pub attachment: Option<Attachment>,
    /// For a branch interface: the trunk that carries it.
    #[serde(default)]
    pub trunk: Option<TrunkAssociation>,
    /// Its description.
    #[serde(default)]
    pub description: String,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
}

/// One private IPv4 address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EniAddress {
    /// The private address.
    pub address: Ipv4Addr,
    /// Whether it is the interface's primary address.
    pub primary: bool,
    /// The public address an internet gateway exchanges it for, if any.
    #[serde(default)]
    pub public: Option<PublicAddress>,
}

/// A public address associated with a private one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicAddress {
    /// The address.
    pub address: Ipv4Addr,
    /// The Elastic IP allocation; `None` for an address that EC2 assigned at launch.
    #[serde(default)]
    pub allocation: Option<AllocationId>,
}

/// `InterfaceType` of an interface, as far as it decides anything here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EniKind {
    /// An ordinary interface.
    Interface,
    /// Carries branch interfaces.
    Trunk,
    /// Carried by a trunk. EC2 reports it as `branch` once associated.
    Branch,
    /// Belongs to a NAT gateway: no security groups apply.
    NatGateway,
    /// Any other type, by EC2's name.
    Other(String),
}

/// `Status` of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EniStatus {
    /// Being created.
    Pending,
    /// Attached to nothing.
    Available,
    /// Being attached.
    Attaching,
    /// Attached.
    InUse,
    /// Being detached.
    Detaching,
    /// Associated with a trunk.
    Associated,
}

/// What an interface is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The id of the attachment. Attachments of AWS services have other ids (`ela-attach-…`).
    pub id: String,
    /// The instance; `None` for interfaces of AWS services.
    #[serde(default)]
    pub instance: Option<InstanceId>,
    /// The account or service at the other end, as `amazon-rds`.
    #[serde(default)]
    pub owner: String,
    /// Position on the instance: 0 is the primary interface.
    pub device_index: u32,
    /// The network card.
    #[serde(default)]
    pub network_card: u32,
    /// Whether the interface goes when the instance does.
    pub delete_on_termination: bool,
}

/// How a branch interface is carried by a trunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrunkAssociation {
    /// The association's id, when it could be read (tags do not carry it).
    #[serde(default)]
    pub id: Option<TrunkAssociationId>,
    /// The trunk interface.
    pub trunk: EniId,
    /// The VLAN id on the trunk.
    pub vlan: u16,
}

/// An instance. Its interfaces are found by [`World::enis_of`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Its type, as `t3.medium`.
    pub instance_type: String,
    /// Its private DNS name, as `ip-10-0-1-11.us-west-2.compute.internal`: the node's name.
    pub private_dns_name: String,
    /// `pending`, `running`, `stopping` …
    pub state: String,
    /// The subnet of its primary interface.
    #[serde(default)]
    pub subnet: Option<SubnetId>,
    /// The VPC it is in.
    #[serde(default)]
    pub vpc: Option<VpcId>,
    /// Tags, `aws:ec2launchtemplate:id` and `:version` among them.
    #[serde(default)]
    pub tags: Tags,
}

/// A launch template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchTemplate {
    /// Its id.
    pub id: LaunchTemplateId,
    /// Its name.
    pub name: String,
    /// The version used when none is named.
    pub default_version: u64,
    /// The newest version.
    pub latest_version: u64,
    /// The versions that were read.
    pub versions: BTreeMap<u64, LaunchTemplateVersion>,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
}

/// What a launch template's version says about networking.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaunchTemplateVersion {
    /// The instance type, if it names one.
    pub instance_type: Option<String>,
    /// `SecurityGroupIds` of the template itself; exclusive with interfaces.
    pub groups: BTreeSet<SgId>,
    /// `NetworkInterfaces`.
    pub interfaces: Vec<LaunchTemplateInterface>,
}

/// One interface that a launch template creates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchTemplateInterface {
    /// Position on the instance.
    pub device_index: u32,
    /// Its groups.
    pub groups: BTreeSet<SgId>,
    /// Its subnet, if the template names one.
    #[serde(default)]
    pub subnet: Option<SubnetId>,
}
