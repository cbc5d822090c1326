//! One record per resource kind. Names follow EC2's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::{Ipv4Net, Ipv6Net};
use jiff::Timestamp;

use crate::addrs::{Pool, ReservationKind};
use crate::ids::*;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Vpc {
    pub(crate) cidrs: Vec<(VpcCidrId, Ipv4Net)>, // the first one is the primary
    pub(crate) is_default: bool,
    pub(crate) tenancy: String,
    pub(crate) dhcp_options: DhcpOptionsId,
    pub(crate) dns_support: bool,
    pub(crate) dns_hostnames: bool,
    pub(crate) usage_metrics: bool,
    pub(crate) main_route_table: RouteTableId,
    pub(crate) default_acl: AclId,
    pub(crate) default_group: GroupId,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Subnet {
    pub(crate) vpc: VpcId,
    pub(crate) zone: Zone,
    pub(crate) pool: Pool,
    pub(crate) map_public_ip: bool,
    /// Explicit association; without one the VPC's main table is used.
    pub(crate) route_table: Option<(RouteAssociationId, RouteTableId)>,
    pub(crate) acl: (AclAssociationId, AclId),
}

/// An availability zone by its position in the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Zone(pub(crate) u8);

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CidrReservation {
    pub(crate) subnet: SubnetId,
    pub(crate) cidr: Ipv4Net,
    pub(crate) kind: ReservationKind,
    pub(crate) description: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RouteTable {
    pub(crate) vpc: VpcId,
    /// The id of the main association when this is the VPC's main table.
    pub(crate) main: Option<RouteAssociationId>,
    /// Static routes; the local ones follow from the VPC's CIDRs.
    pub(crate) routes: BTreeMap<Destination, Target>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Destination {
    V4(Ipv4Net),
    V6(Ipv6Net),
    List(PrefixListId),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(net) => net.fmt(f),
            Self::V6(net) => net.fmt(f),
            Self::List(id) => id.fmt(f),
        }
    }
}

/// Where a route leads. Its state (active or blackhole) follows from whether the target exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Internet(InternetGatewayId),
    Nat(NatGatewayId),
    Eni(EniId),
    Peering(PeeringId),
    /// A target that is not modelled, by its parameter and id (transit gateways, endpoints …).
    Other {
        parameter: &'static str,
        id: String,
    },
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct InternetGateway {
    pub(crate) vpc: Option<VpcId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NatState {
    Pending,
    Available,
    Deleting,
    Deleted,
}

impl NatState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Available => "available",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NatGateway {
    pub(crate) vpc: VpcId,
    pub(crate) subnet: SubnetId,
    pub(crate) eni: EniId,
    pub(crate) private_ip: Ipv4Addr,
    /// Allocation and public address; `None` for a private gateway.
    pub(crate) elastic: Option<(AllocationId, Ipv4Addr)>,
    pub(crate) state: NatState,
    pub(crate) created: Timestamp,
    pub(crate) deleted: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Address {
    pub(crate) public_ip: Ipv4Addr,
    pub(crate) association: Option<AddressAssociation>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AddressAssociation {
    pub(crate) id: AddressAssociationId,
    pub(crate) eni: EniId,
    pub(crate) private_ip: Ipv4Addr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeeringState {
    PendingAcceptance,
    Active,
    Rejected,
    Deleted,
}

impl PeeringState {
    pub(crate) fn code(self) -> (&'static str, &'static str) {
        match self {
            Self::PendingAcceptance => ("pending-acceptance", "Pending Acceptance"),
            Self::Active => ("active", "Active"),
            Self::Rejected => ("rejected", "Rejected"),
            Self::Deleted => ("deleted", "Deleted"),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Peering {
    pub(crate) requester: VpcId,
    pub(crate) accepter: VpcId,
    pub(crate) state: PeeringState,
    /// CIDRs of requester and accepter, kept because a VPC may go before its peering record.
    pub(crate) cidrs: (Vec<Ipv4Net>, Vec<Ipv4Net>),
}

impl Peering {
    pub(crate) fn joins(&self, a: VpcId, b: VpcId) -> bool {
        (self.requester, self.accepter) == (a, b) || (self.requester, self.accepter) == (b, a)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Acl {
    pub(crate) vpc: VpcId,
    pub(crate) is_default: bool,
    /// By direction (false: inbound) and rule number.
    pub(crate) entries: BTreeMap<(bool, u16), AclEntry>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AclEntry {
    pub(crate) allow: bool,
    pub(crate) protocol: Protocol,
    pub(crate) cidr: AclCidr,
    pub(crate) ports: Option<(i32, i32)>,
    pub(crate) icmp: Option<(i32, i32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AclCidr {
    V4(Ipv4Net),
    V6(Ipv6Net),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PrefixList {
    pub(crate) name: String,
    pub(crate) ipv6: bool,
    pub(crate) max_entries: i32,
    /// Entries of every version, the newest last; version 1 is the first.
    pub(crate) versions: Vec<BTreeMap<String, Option<String>>>,
}

impl PrefixList {
    pub(crate) fn current(&self) -> &BTreeMap<String, Option<String>> {
        self.versions
            .last()
            .expect("a prefix list is created with its first version")
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group {
    pub(crate) vpc: VpcId,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) rules: BTreeMap<GroupRuleId, GroupRule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupRule {
    pub(crate) egress: bool,
    pub(crate) protocol: Protocol,
    /// First and last port, or ICMP type and code; `None` where the protocol has neither.
    pub(crate) ports: Option<(i32, i32)>,
    pub(crate) peer: Peer,
    pub(crate) description: Option<String>,
}

impl GroupRule {
    /// Whether both allow the same packets: EC2 refuses the second as a duplicate.
    pub(crate) fn same(&self, other: &Self) -> bool {
        (self.egress, self.protocol, self.ports, self.peer)
            == (other.egress, other.protocol, other.ports, other.peer)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    V4(Ipv4Net),
    V6(Ipv6Net),
    Group {
        id: GroupId,
        vpc: VpcId,
        peering: Option<PeeringId>,
    },
    List(PrefixListId),
}

/// An IP protocol as EC2 writes it: `-1` (all), `tcp`, `udp`, `icmp`, `icmpv6` or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Protocol(pub(crate) i16);

impl Protocol {
    pub(crate) const ALL: Self = Self(-1);

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(Self(match text.to_ascii_lowercase().as_str() {
            "-1" | "all" => -1,
            "icmp" => 1,
            "tcp" => 6,
            "udp" => 17,
            "icmpv6" => 58,
            number => number.parse::<u8>().ok()?.into(),
        }))
    }

    pub(crate) fn has_ports(self) -> bool {
        matches!(self.0, 6 | 17)
    }

    pub(crate) fn is_icmp(self) -> bool {
        matches!(self.0, 1 | 58)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("icmp"),
            6 => f.write_str("tcp"),
            17 => f.write_str("udp"),
            58 => f.write_str("icmpv6"),
            number => write!(f, "{number}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EniKind {
    Interface,
    Trunk,
    Efa,
    EfaOnly,
    NatGateway,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Eni {
    pub(crate) kind: EniKind,
    pub(crate) vpc: VpcId,
    pub(crate) subnet: SubnetId,
    pub(crate) mac: Mac,
    pub(crate) description: String,
    pub(crate) groups: Vec<GroupId>,
    pub(crate) primary: Ipv4Addr,
    /// Secondary addresses in the order in which they were assigned.
    pub(crate) secondary: Vec<Ipv4Addr>,
    pub(crate) prefixes: Vec<Ipv4Net>,
    /// A public address that came with the launch of an instance.
    pub(crate) auto_public: Option<Ipv4Addr>,
    pub(crate) source_dest_check: bool,
    pub(crate) tracking: Tracking,
    pub(crate) attachment: Option<Attachment>,
    /// Set when an AWS service owns the interface.
    pub(crate) requester: Option<String>,
}

impl Eni {
    /// IPv4 slots in use: every address and every prefix takes one.
    pub(crate) fn slots(&self) -> u32 {
        (1 + self.secondary.len() + self.prefixes.len()) as u32
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        std::iter::once(self.primary).chain(self.secondary.iter().copied())
    }

    /// The attachment that still holds the interface: one that has ended is only shown.
    pub(crate) fn held(&self) -> Option<&Attachment> {
        self.attachment
            .as_ref()
            .filter(|a| a.status != AttachStatus::Detached)
    }

    /// The instance that holds the interface, and its device index.
    pub(crate) fn instance(&self) -> Option<(InstanceId, u32)> {
        match self.held()?.holder {
            Holder::Instance {
                instance, device, ..
            } => Some((instance, device)),
            Holder::Managed { .. } => None,
        }
    }
}

/// Card and device index of an instance's primary interface.
pub(crate) const PRIMARY: (u32, u32) = (0, 0);

/// Connection tracking timeouts in seconds; `None` is EC2's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tracking {
    pub(crate) tcp_established: Option<i32>,
    pub(crate) udp: Option<i32>,
    pub(crate) udp_stream: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Attachment {
    pub(crate) id: AttachmentId,
    pub(crate) holder: Holder,
    pub(crate) status: AttachStatus,
    pub(crate) since: Timestamp,
    pub(crate) delete_on_termination: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Holder {
    Instance {
        instance: InstanceId,
        device: u32,
        card: u32,
    },
    /// A host that is no instance: a database, a load balancer, a control plane.
    Managed {
        /// The host as the fabric knows it.
        host: String,
        /// The interface's number in that host; 0 is its primary one.
        device: u32,
        /// The service or account that EC2 shows as the attachment's owner.
        owner: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttachStatus {
    Attaching,
    Attached,
    Detaching,
    Detached,
}

impl AttachStatus {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Detaching => "detaching",
            Self::Detached => "detached",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TrunkAssociation {
    pub(crate) trunk: EniId,
    pub(crate) branch: EniId,
    pub(crate) vlan: i32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Permission {
    pub(crate) eni: EniId,
    pub(crate) account: Option<String>,
    pub(crate) service: Option<String>,
    pub(crate) kind: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InstanceState {
    Pending,
    Running,
    ShuttingDown,
    Terminated,
    Stopping,
    Stopped,
}

impl InstanceState {
    pub(crate) fn code(self) -> (i32, &'static str) {
        match self {
            Self::Pending => (0, "pending"),
            Self::Running => (16, "running"),
            Self::ShuttingDown => (32, "shutting-down"),
            Self::Terminated => (48, "terminated"),
            Self::Stopping => (64, "stopping"),
            Self::Stopped => (80, "stopped"),
        }
    }

    /// Whether the instance is on its way out or gone.
    pub(crate) fn ends(self) -> bool {
        matches!(self, Self::ShuttingDown | Self::Terminated)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Instance {
    pub(crate) launch: LaunchId,
    pub(crate) launch_index: i32,
    pub(crate) instance_type: String,
    pub(crate) image: String,
    pub(crate) vpc: VpcId,
    pub(crate) subnet: SubnetId,
    pub(crate) zone: Zone,
    pub(crate) state: InstanceState,
    pub(crate) launched: Timestamp,
    /// Interfaces by card and device index, which each card counts by itself; those being detached
    /// still count.
    pub(crate) enis: BTreeMap<(u32, u32), EniId>,
    pub(crate) key_name: Option<String>,
    pub(crate) profile: Option<String>,
    pub(crate) user_data: Option<String>,
    pub(crate) metadata: MetadataOptions,
    pub(crate) disable_termination: bool,
    pub(crate) source_dest_check: bool,
    /// Private address of device 0, kept after termination took the interface.
    pub(crate) private_ip: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MetadataOptions {
    pub(crate) tokens_required: bool,
    pub(crate) hop_limit: u8,
    pub(crate) enabled: bool,
    pub(crate) tags: bool,
}

impl Default for MetadataOptions {
    fn default() -> Self {
        Self {
            tokens_required: true,
            hop_limit: 1,
            enabled: true,
            tags: false,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template {
    pub(crate) name: String,
    pub(crate) created: Timestamp,
    pub(crate) created_by: String,
    pub(crate) default_version: i64,
    pub(crate) versions: BTreeMap<i64, TemplateVersion>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TemplateVersion {
    pub(crate) description: Option<String>,
    pub(crate) created: Timestamp,
    pub(crate) created_by: String,
    pub(crate) data: ec2::types::RequestLaunchTemplateData,
}

/// A transition that happens by itself at a given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    Attached(AttachmentId),
    Detached(AttachmentId),
    AttachmentGone(AttachmentId),
    NatAvailable(NatGatewayId),
    NatDeleted(NatGatewayId),
    NatGone(NatGatewayId),
    Running(InstanceId),
    Stopped(InstanceId),
    Terminated(InstanceId),
    InstanceGone(InstanceId),
    PeeringGone(PeeringId),
}

/// Transitions to come, by time.
pub(crate) type Agenda = BTreeSet<(Timestamp, u64, Change)>;
