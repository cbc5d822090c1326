//! [`State`]: all records, the indexes over them, and what happens by itself as time passes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::records::*;
use crate::addrs::Placement;
use crate::error::ApiResult;
use crate::filter::Tags;
use crate::idempotency::Remembered;
use crate::ids::*;
use crate::rng::Rng;

/// What a fresh EC2 starts with.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The account that owns every resource, 12 digits.
    pub account: String,
    /// The region, such as `us-west-2`.
    pub region: String,
    /// Letters of the availability zones.
    pub zones: String,
    /// Seed of ids, MACs and random addresses.
    pub seed: u64,
    /// How free addresses are chosen.
    pub placement: Placement,
    /// Where public addresses come from.
    pub public: Vec<Ipv4Net>,
    /// Account quotas.
    pub quotas: Quotas,
    /// How long transitions take.
    pub timing: Timing,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            account: "111122223333".into(),
            region: "us-west-2".into(),
            zones: "abcd".into(),
            seed: 1,
            placement: Placement::default(),
            // RFC 5737's documentation ranges, which nothing on the machine routes.
            public: ["203.0.113.0/24", "198.51.100.0/24"]
                .iter()
                .map(|net| {
                    net.parse()
                        .expect("the ranges are literals of this program")
                })
                .collect(),
            quotas: Quotas::default(),
            timing: Timing::default(),
        }
    }
}

/// Account quotas. Defaults are AWS's where the reference names one, else those of an account that
/// had them raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quotas {
    /// VPCs per region.
    pub vpcs: usize,
    /// CIDR blocks per VPC.
    pub cidrs_per_vpc: usize,
    /// Security groups per region.
    pub groups: usize,
    /// Rules per group and direction, IPv4 and IPv6 counted apart.
    pub rules_per_group: usize,
    /// Groups per interface.
    pub groups_per_interface: usize,
    /// Interfaces per region.
    pub interfaces: usize,
    /// Static routes per table.
    pub routes_per_table: usize,
    /// Entries per network ACL and direction.
    pub entries_per_acl: usize,
    /// Elastic IP addresses per region.
    pub addresses: usize,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            vpcs: 100,
            cidrs_per_vpc: 5,
            groups: 2500,
            rules_per_group: 60,
            groups_per_interface: 5,
            interfaces: 5000,
            routes_per_table: 500,
            entries_per_acl: 20,
            addresses: 100,
        }
    }
}

/// How long transitions take, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timing {
    /// Interface `attaching` → `attached`.
    pub attach: u64,
    /// Interface `detaching` → `detached`.
    pub detach: u64,
    /// How long Describe still shows a `detached` attachment: clients wait to see it.
    pub detached_shown: u64,
    /// Instance `pending` → `running`.
    pub launch: u64,
    /// Instance `stopping` → `stopped` and `shutting-down` → `terminated`.
    pub stop: u64,
    /// How long Describe still shows what is `terminated` or `deleted`.
    pub gone_shown: u64,
    /// NAT gateway `pending` → `available` and `deleting` → `deleted`.
    pub nat: u64,
}

impl Timing {
    /// Transitions at once; what has ended stays visible as long as clients need to see it.
    pub const INSTANT: Self = Self {
        attach: 0,
        detach: 0,
        detached_shown: 1_000,
        launch: 0,
        stop: 0,
        gone_shown: 60_000,
        nat: 0,
    };
    /// Near AWS's figures (reference, section 6).
    pub const AWS_LIKE: Self = Self {
        attach: 2_000,
        detach: 3_000,
        detached_shown: 5_000,
        launch: 8_000,
        stop: 10_000,
        gone_shown: 3_600_000,
        nat: 60_000,
    };
}

impl Default for Timing {
    fn default() -> Self {
        Self::INSTANT
    }
}

/// Everything the embedded EC2 knows. Changed only by [`crate::apply`] and [`State::tick`].
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    pub(crate) vpcs: Table<VpcId, Vpc>,
    pub(crate) subnets: Table<SubnetId, Subnet>,
    pub(crate) reservations: Table<ReservationId, CidrReservation>,
    pub(crate) route_tables: Table<RouteTableId, RouteTable>,
    pub(crate) internet_gateways: Table<InternetGatewayId, InternetGateway>,
    pub(crate) nat_gateways: Table<NatGatewayId, NatGateway>,
    pub(crate) addresses: Table<AllocationId, Address>,
    pub(crate) peerings: Table<PeeringId, Peering>,
    pub(crate) acls: Table<AclId, Acl>,
    pub(crate) prefix_lists: Table<PrefixListId, PrefixList>,
    pub(crate) groups: Table<GroupId, Group>,
    pub(crate) enis: Table<EniId, Eni>,
    pub(crate) permissions: Table<PermissionId, Permission>,
    pub(crate) trunk_associations: Table<TrunkAssociationId, TrunkAssociation>,
    pub(crate) instances: Table<InstanceId, Instance>,
    pub(crate) templates: Table<TemplateId, Template>,
    pub(crate) eks: crate::eks::Store,
    pub(crate) dhcp_options: DhcpOptionsId,
    pub(crate) tags: BTreeMap<String, Tags>,
    pub(crate) agenda: Agenda,
    pub(crate) remembered: BTreeMap<(String, String, String), Remembered>,
    // Indexes, so that no call looks at every interface to find one.
    pub(crate) by_address: BTreeMap<(VpcId, Ipv4Addr), EniId>,
    pub(crate) by_prefix: BTreeMap<(VpcId, Ipv4Addr), EniId>,
    pub(crate) by_attachment: BTreeMap<AttachmentId, EniId>,
    pub(crate) by_branch: BTreeMap<EniId, TrunkAssociationId>,
    pub(crate) by_trunk: BTreeMap<EniId, BTreeMap<i32, TrunkAssociationId>>,
    pub(crate) public_in_use: BTreeMap<Ipv4Addr, Option<AllocationId>>,
    sequence: u64,
}

impl State {
    /// An EC2 without resources.
    pub fn new(config: Config) -> Self {
        let mut rng = Rng::new(config.seed);
        let dhcp_options = DhcpOptionsId::from_bits(rng.next_u64());
        Self {
            config,
            rng,
            vpcs: Table::default(),
            subnets: Table::default(),
            reservations: Table::default(),
            route_tables: Table::default(),
            internet_gateways: Table::default(),
            nat_gateways: Table::default(),
            addresses: Table::default(),
            peerings: Table::default(),
            acls: Table::default(),
            prefix_lists: Table::default(),
            groups: Table::default(),
            enis: Table::default(),
            permissions: Table::default(),
            trunk_associations: Table::default(),
            instances: Table::default(),
            templates: Table::default(),
            eks: crate::eks::Store::default(),
            dhcp_options,
            tags: BTreeMap::new(),
            agenda: Agenda::new(),
            remembered: BTreeMap::new(),
            by_address: BTreeMap::new(),
            by_prefix: BTreeMap::new(),
            by_attachment: BTreeMap::new(),
            by_branch: BTreeMap::new(),
            by_trunk: BTreeMap::new(),
            public_in_use: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Sets how long transitions take from now on.
    pub fn set_timing(&mut self, timing: Timing) {
        self.config.timing = timing;
    }

    /// A new id.
    pub(crate) fn fresh<K: ResourceId>(&mut self) -> K {
        K::from_bits(self.rng.next_u64())
    }

    pub(crate) fn arn(&self, kind: &str, id: impl fmt::Display) -> String {
        format!(
            "arn:aws:ec2:{}:{}:{kind}/{id}",
            self.config.region, self.config.account
        )
    }

    pub(crate) fn zone_name(&self, zone: Zone) -> String {
        let letter = self.config.zones.chars().nth(zone.0.into()).unwrap_or('a');
        format!("{}{letter}", self.config.region)
    }

    /// The zone's id, which names the same place in every account: `usw2-az1`.
    pub(crate) fn zone_id(&self, zone: Zone) -> String {
        let mut parts = self.config.region.split('-');
        let (area, side, number) = (
            parts.next().unwrap_or(""),
            parts.next().unwrap_or(""),
            parts.next().unwrap_or(""),
        );
        let side: String = match side {
            "northeast" => "ne".into(),
            "northwest" => "nw".into(),
            "southeast" => "se".into(),
            "southwest" => "sw".into(),
            other => other.chars().take(1).collect(),
        };
        format!("{area}{side}{number}-az{}", zone.0 + 1)
    }

    pub(crate) fn private_dns(&self, address: Ipv4Addr) -> String {
        let [a, b, c, d] = address.octets();
        let region = &self.config.region;
        match region.as_str() {
            "us-east-1" => format!("ip-{a}-{b}-{c}-{d}.ec2.internal"),
            _ => format!("ip-{a}-{b}-{c}-{d}.{region}.compute.internal"),
        }
    }

    pub(crate) fn public_dns(&self, address: Ipv4Addr) -> String {
        let [a, b, c, d] = address.octets();
        let region = &self.config.region;
        match region.as_str() {
            "us-east-1" => format!("ec2-{a}-{b}-{c}-{d}.compute-1.amazonaws.com"),
            _ => format!("ec2-{a}-{b}-{c}-{d}.{region}.compute.amazonaws.com"),
        }
    }

    /// The interface that has `address` in `vpc`, alone or as a part of a prefix.
    pub(crate) fn eni_of_address(&self, vpc: VpcId, address: Ipv4Addr) -> Option<EniId> {
        let block = Ipv4Addr::from(address.to_bits() & !15);
        let by_prefix = || self.by_prefix.get(&(vpc, block));
        self.by_address
            .get(&(vpc, address))
            .or_else(by_prefix)
            .copied()
    }

    /// The tags of a resource.
    pub(crate) fn tags_of(&self, id: impl fmt::Display) -> Option<&Tags> {
        self.tags.get(&id.to_string())
    }

    pub(crate) fn drop_tags(&mut self, id: impl fmt::Display) {
        self.tags.remove(&id.to_string());
    }

    /// A public address that nobody has, lowest first.
    pub(crate) fn free_public(&self) -> Option<Ipv4Addr> {
        let hosts = self.config.public.iter().flat_map(Ipv4Net::hosts);
        hosts
            .into_iter()
            .find(|a| !self.public_in_use.contains_key(a))
    }

    /// Lets `change` happen `delay` milliseconds after `now`.
    pub(crate) fn schedule(&mut self, now: Timestamp, delay: u64, change: Change) {
        self.sequence += 1;
        let delay = SignedDuration::from_millis(i64::try_from(delay).unwrap_or(i64::MAX));
        let at = now.checked_add(delay).unwrap_or(Timestamp::MAX);
        self.agenda.insert((at, self.sequence, change));
    }

    /// When the next transition is due.
    pub fn next_change(&self) -> Option<Timestamp> {
        self.agenda.first().map(|(at, ..)| *at)
    }

    /// Makes every transition that is due; true when something changed.
    pub fn tick(&mut self, now: Timestamp) -> bool {
        let mut changed = false;
        while self.next_change().is_some_and(|at| at <= now) {
            let Some((at, _, change)) = self.agenda.pop_first() else {
                break;
            };
            changed |= self.make(change, at);
        }
        changed
    }

    fn make(&mut self, change: Change, at: Timestamp) -> bool {
        match change {
            Change::Attached(id) => self.set_attachment(id, AttachStatus::Attached, at),
            Change::Detached(id) => self.finish_detach(id, at),
            Change::AttachmentGone(id) => self.forget_attachment(id),
            Change::NatAvailable(id) => self.set_nat(id, NatState::Pending, NatState::Available),
            Change::NatDeleted(id) => self.finish_nat(id, at),
            Change::NatGone(id) => {
                self.drop_tags(id);
                self.nat_gateways.remove(&id).is_some()
            }
            Change::Running(id) => {
                self.set_instance(id, InstanceState::Pending, InstanceState::Running)
            }
            Change::Stopped(id) => {
                self.set_instance(id, InstanceState::Stopping, InstanceState::Stopped)
            }
            Change::Terminated(id) => self.finish_termination(id, at),
            Change::InstanceGone(id) => {
                self.drop_tags(id);
                self.instances.remove(&id).is_some()
            }
            Change::PeeringGone(id) => {
                self.drop_tags(id);
                self.peerings.remove(&id).is_some()
            }
        }
    }

    fn set_nat(&mut self, id: NatGatewayId, from: NatState, to: NatState) -> bool {
        match self.nat_gateways.get_mut(&id) {
            Some(nat) if nat.state == from => {
                nat.state = to;
                true
            }
            _ => false,
        }
    }

    fn finish_nat(&mut self, id: NatGatewayId, at: Timestamp) -> bool {
        if !self.set_nat(id, NatState::Deleting, NatState::Deleted) {
            return false;
        }
        if let Some(eni) = self.nat_gateways.get(&id).map(|nat| nat.eni) {
            self.remove_eni(eni);
        }
        self.schedule(at, self.config.timing.gone_shown, Change::NatGone(id));
        true
    }

    fn set_instance(&mut self, id: InstanceId, from: InstanceState, to: InstanceState) -> bool {
        match self.instances.get_mut(&id) {
            Some(instance) if instance.state == from => {
                instance.state = to;
                true
            }
            _ => false,
        }
    }

    /// Runs `change` on a copy: what DryRun answers without doing anything.
    pub(crate) fn dry<T>(&self, change: impl FnOnce(&mut Self) -> ApiResult<T>) -> ApiResult<T> {
        change(&mut self.clone())
    }
}
