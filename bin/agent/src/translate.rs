//! The pool's calls as EC2 requests, and EC2's answers as the pool understands them: pure, no socket and no clock.
//!
//! `cloud` makes the requests; the simulation in `tests/simulation` makes the same ones to the embedded EC2 in
//! virtual time, so that what is simulated is what runs. Public for that test alone.
//!
//! An answer without a member that the pool needs is an error that names interface and member; nothing is ever
//! left out of a view instead, since what a view lacks counts as gone.

use std::net::Ipv4Addr;

use ec2::types as t;
use ipam::{
    Answer, Attached, AttachmentId, Blocks, Call, EniView, Failure, FailureKind, HandsOff, Millis,
    SubnetUse, SubnetView, View, Want,
};
use ipnet::Ipv4Net;
use jiff::Timestamp;
use settings::EniTags;
use vpc::facts::{EniId, InstanceId, SgId, SubnetId, VpcId};

const INSTANCE_TAG: &str = "node.k8s.amazonaws.com/instance_id";
const CREATED_TAG: &str = "node.k8s.amazonaws.com/createdAt";
const CLUSTER_TAG: &str = "cluster.k8s.amazonaws.com/name";
const OWNER_TAG: &str = "eks:eni:owner";
const HANDS_OFF_TAG: &str = "node.k8s.amazonaws.com/no_manage";
/// Link-local: in no subnet, so EC2 neither assigns nor unassigns it.
const NO_ADDRESS: &str = "169.254.0.1";

/// Who calls, and what it writes on what it creates.
#[derive(Debug, Clone)]
pub struct Translator {
    /// The agent's instance.
    pub instance: InstanceId,
    /// Tags of new interfaces.
    pub tags: EniTags,
    /// Where the instance is.
    pub place: Place,
}

/// Where an instance is; its subnets are found by this.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its VPC.
    pub vpc: VpcId,
    /// Its zone's name, such as `us-west-2a`.
    pub zone: String,
    /// The primary interface's subnet.
    pub subnet: SubnetId,
}

/// A request to EC2.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are EC2's actions")]
pub enum Request {
    Create(Box<t::CreateNetworkInterfaceRequest>),
    Attach(Box<t::AttachNetworkInterfaceRequest>),
    Modify(Box<t::ModifyNetworkInterfaceAttributeRequest>),
    Assign(Box<t::AssignPrivateIpAddressesRequest>),
    Unassign(Box<t::UnassignPrivateIpAddressesRequest>),
    Detach(Box<t::DetachNetworkInterfaceRequest>),
    Delete(Box<t::DeleteNetworkInterfaceRequest>),
    /// All its pages.
    Describe(Box<t::DescribeNetworkInterfacesRequest>),
    /// All its pages.
    Subnets(Box<t::DescribeSubnetsRequest>),
}

/// EC2's answer to a [`Request`].
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are EC2's answers")]
pub enum Response {
    Created(Box<t::CreateNetworkInterfaceResult>),
    Attached(Box<t::AttachNetworkInterfaceResult>),
    Assigned(Box<t::AssignPrivateIpAddressesResult>),
    Described(Box<t::DescribeNetworkInterfacesResult>),
    Subnets(Box<t::DescribeSubnetsResult>),
    Done,
}

/// An answer that is not as EC2 documents it.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A member that every such answer has.
    #[error("EC2's answer has no {0}")]
    Missing(&'static str),
    /// A member that is not what it should be.
    #[error("EC2's answer has {member} {value:?}, which is not {expected}")]
    Malformed {
        /// Its name.
        member: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Something about one interface.
    #[error("interface {eni}: {source}")]
    Interface {
        /// Which.
        eni: EniId,
        /// What.
        source: Box<Unreadable>,
    },
    /// Another action's answer.
    #[error("the answer is that of another action")]
    OtherAction,
}

impl Translator {
    /// The requests that make up a call, one after the other; none for what is the kernel's or instance metadata's.
    pub fn requests(&self, call: &Call) -> Vec<Request> {
        let request = match call {
            Call::CreateEni {
                token,
                at,
                subnet,
                groups,
                want,
            } => Request::Create(Box::new(t::CreateNetworkInterfaceRequest {
                client_token: Some(token.0.clone()),
                description: Some(format!("aws-K8S-{}", self.instance)),
                groups: texts(groups),
                subnet_id: Some(subnet.to_string()),
                secondary_private_ip_address_count: singles(*want),
                ipv4_prefix_count: prefixes(*want),
                tag_specifications: vec![t::TagSpecification {
                    resource_type: Some("network-interface".to_owned()),
                    tags: self.new_tags(*at),
                }],
                ..Default::default()
            })),
            Call::AttachEni { eni, device } => {
                Request::Attach(Box::new(t::AttachNetworkInterfaceRequest {
                    device_index: Some(number(*device)),
                    instance_id: Some(self.instance.to_string()),
                    network_card_index: Some(0),
                    network_interface_id: Some(eni.to_string()),
                    ..Default::default()
                }))
            }
            Call::SetDeleteOnTermination { eni, attachment } => {
                let changes = t::NetworkInterfaceAttachmentChanges {
                    attachment_id: Some(attachment.0.clone()),
                    delete_on_termination: Some(true),
                    ..Default::default()
                };
                Request::Modify(Box::new(t::ModifyNetworkInterfaceAttributeRequest {
                    network_interface_id: Some(eni.to_string()),
                    attachment: Some(changes),
                    ..Default::default()
                }))
            }
            Call::SetGroups { eni, groups } => {
                Request::Modify(Box::new(t::ModifyNetworkInterfaceAttributeRequest {
                    network_interface_id: Some(eni.to_string()),
                    groups: texts(groups),
                    ..Default::default()
                }))
            }
            Call::Assign { eni, want } => {
                Request::Assign(Box::new(t::AssignPrivateIpAddressesRequest {
                    network_interface_id: Some(eni.to_string()),
                    secondary_private_ip_address_count: singles(*want),
                    ipv4_prefix_count: prefixes(*want),
                    ..Default::default()
                }))
            }
            Call::Unassign { eni, blocks } => {
                let mut request = t::UnassignPrivateIpAddressesRequest {
                    network_interface_id: Some(eni.to_string()),
                    ..Default::default()
                };
                match blocks {
                    Blocks::Addresses(all) => request.private_ip_addresses = texts(all),
                    Blocks::Prefixes(all) => request.ipv4_prefixes = texts(all),
                }
                Request::Unassign(Box::new(request))
            }
            Call::DetachEni { attachment, .. } => {
                Request::Detach(Box::new(t::DetachNetworkInterfaceRequest {
                    attachment_id: Some(attachment.0.clone()),
                    ..Default::default()
                }))
            }
            Call::DeleteEni { eni } => {
                Request::Delete(Box::new(t::DeleteNetworkInterfaceRequest {
                    network_interface_id: Some(eni.to_string()),
                    ..Default::default()
                }))
            }
            Call::Show { leftovers } => {
                let here = filter("attachment.instance-id", self.instance.as_str());
                let mut requests = Vec::new();
                if *leftovers {
                    // First: what is attached between the two answers is in both, not in none.
                    let ours = filter(&format!("tag:{INSTANCE_TAG}"), self.instance.as_str());
                    requests.push(describe(vec![ours, filter("status", "available")]));
                }
                requests.push(describe(vec![here]));
                return requests;
            }
            Call::ShowSubnets => Request::Subnets(Box::new(t::DescribeSubnetsRequest {
                filters: vec![
                    filter("vpc-id", self.place.vpc.as_str()),
                    filter("availability-zone", &self.place.zone),
                ],
                ..Default::default()
            })),
            Call::SetUp { .. } | Call::PrimaryGroups => return Vec::new(),
        };
        vec![request]
    }

    /// The answer to a call, from EC2's answers to its requests.
    ///
    /// # Errors
    /// An answer is not as documented: whatever was asked for may have been done.
    pub fn answer(&self, call: &Call, responses: Vec<Response>) -> Result<Answer, Failure> {
        self.read(call, responses).map_err(|error| Failure {
            action: call.action(),
            kind: FailureKind::Unclear,
            message: error.to_string(),
        })
    }

    fn read(&self, call: &Call, mut responses: Vec<Response>) -> Result<Answer, Unreadable> {
        if let Call::Show { .. } = call {
            return self.shown(responses);
        }
        match (call, responses.pop()) {
            (Call::CreateEni { .. }, Some(Response::Created(answer))) => {
                let created = answer.network_interface;
                let created = created.ok_or(Unreadable::Missing("NetworkInterface"))?;
                let mut view = self.view(&created)?;
                view.ours = true;
                Ok(Answer::Created(view))
            }
            (Call::AttachEni { .. }, Some(Response::Attached(answer))) => {
                let id = answer.attachment_id;
                let id = id.ok_or(Unreadable::Missing("AttachmentId"))?;
                Ok(Answer::Attached(AttachmentId(id)))
            }
            (Call::Assign { want, .. }, Some(Response::Assigned(answer))) => {
                let blocks = match want {
                    Want::Addresses(_) => {
                        let new = answer.assigned_private_ip_addresses.iter();
                        let new = new.map(|a| address(a.private_ip_address.as_deref()));
                        Blocks::Addresses(some(new, "AssignedPrivateIpAddresses")?)
                    }
                    Want::Prefixes(_) => {
                        let new = answer.assigned_ipv4_prefixes.iter();
                        let new = new.map(|p| prefix(p.ipv4_prefix.as_deref()));
                        Blocks::Prefixes(some(new, "AssignedIpv4Prefixes")?)
                    }
                };
                Ok(Answer::Assigned(blocks))
            }
            (Call::ShowSubnets, Some(Response::Subnets(answer))) => {
                let subnets = answer.subnets.iter().map(|subnet| self.subnet(subnet));
                Ok(Answer::Subnets(some(subnets, "Subnets")?))
            }
            (
                Call::SetDeleteOnTermination { .. }
                | Call::SetGroups { .. }
                | Call::Unassign { .. }
                | Call::DetachEni { .. }
                | Call::DeleteEni { .. },
                Some(Response::Done),
            ) => Ok(Answer::Done),
            _ => Err(Unreadable::OtherAction),
        }
    }

    /// What is attached now, which was asked last, and what was attached to nothing before.
    fn shown(&self, responses: Vec<Response>) -> Result<Answer, Unreadable> {
        let mut enis: Vec<EniView> = Vec::new();
        for response in responses.into_iter().rev() {
            let Response::Described(page) = response else {
                return Err(Unreadable::OtherAction);
            };
            for eni in &page.network_interfaces {
                let view = self.view(eni)?;
                if !enis.iter().any(|known| known.id == view.id) {
                    enis.push(view);
                }
            }
        }
        Ok(Answer::Shown(View { enis }))
    }

    /// An interface as the pool sees it.
    ///
    /// # Errors
    /// A member is missing.
    pub fn view(&self, eni: &t::NetworkInterface) -> Result<EniView, Unreadable> {
        let id: EniId = parse(
            eni.network_interface_id.as_deref(),
            "NetworkInterfaceId",
            "an interface's id",
        )?;
        self.view_of(eni, id.clone())
            .map_err(|source| Unreadable::Interface {
                eni: id,
                source: Box::new(source),
            })
    }

    fn view_of(&self, eni: &t::NetworkInterface, id: EniId) -> Result<EniView, Unreadable> {
        let has_tag = |key: &str, value: &str| {
            let mut tags = eni.tag_set.iter();
            tags.any(|t| t.key.as_deref() == Some(key) && t.value.as_deref() == Some(value))
        };
        let primary = address(eni.private_ip_address.as_deref())?;
        let all: Result<Vec<Ipv4Addr>, _> = eni
            .private_ip_addresses
            .iter()
            .map(|a| address(a.private_ip_address.as_deref()))
            .collect();
        let mut groups: Vec<SgId> = eni
            .groups
            .iter()
            .map(|g| parse(g.group_id.as_deref(), "GroupId", "a security group's id"))
            .collect::<Result<_, _>>()?;
        groups.sort();
        let attachment = match &eni.attachment {
            Some(attachment) => self.attached(attachment)?,
            None => None,
        };
        let all_prefixes: Result<Vec<Ipv4Net>, _> = eni
            .ipv4_prefixes
            .iter()
            .map(|p| prefix(p.ipv4_prefix.as_deref()))
            .collect();
        let kind = eni.interface_type.as_deref().unwrap_or("interface");
        // Interfaces of other cards have addresses of their own; the pool uses card 0.
        let card = eni.attachment.as_ref().and_then(|a| a.network_card_index);
        let card = card.and_then(|card| u32::try_from(card).ok()).unwrap_or(0);
        let hands_off = if card != 0 {
            Some(HandsOff::Card(card))
        } else if has_tag(HANDS_OFF_TAG, "true") {
            Some(HandsOff::Tagged)
        } else if matches!(kind, "interface" | "efa") {
            None
        } else {
            Some(HandsOff::Kind(kind.to_owned()))
        };
        Ok(EniView {
            id,
            mac: parse(eni.mac_address.as_deref(), "MacAddress", "a MAC address")?,
            subnet: parse(eni.subnet_id.as_deref(), "SubnetId", "a subnet's id")?,
            primary,
            // By the address, not by the member `Primary` alone: a pod must never get this one.
            secondary: all?.into_iter().filter(|a| *a != primary).collect(),
            prefixes: all_prefixes?,
            groups,
            attachment,
            ours: has_tag(INSTANCE_TAG, self.instance.as_str()),
            hands_off,
        })
    }

    /// The attachment, if it is to this instance and stands.
    fn attached(
        &self,
        attachment: &t::NetworkInterfaceAttachment,
    ) -> Result<Option<Attached>, Unreadable> {
        let status = required(attachment.status.as_deref(), "Attachment.Status")?;
        let here = attachment.instance_id.as_deref() == Some(self.instance.as_str());
        if !here || !matches!(status, "attached" | "attaching") {
            return Ok(None);
        }
        let device = attachment
            .device_index
            .and_then(|device| u32::try_from(device).ok())
            .ok_or(Unreadable::Missing("Attachment.DeviceIndex"))?;
        let id = required(attachment.attachment_id.as_deref(), "AttachmentId")?;
        Ok(Some(Attached {
            id: AttachmentId(id.to_owned()),
            device,
            // Absent is not set: setting it once too often costs a call.
            delete_on_termination: attachment.delete_on_termination.unwrap_or(false),
        }))
    }

    fn subnet(&self, subnet: &t::Subnet) -> Result<SubnetView, Unreadable> {
        let id: SubnetId = parse(subnet.subnet_id.as_deref(), "SubnetId", "a subnet's id")?;
        let tags = subnet.tags.iter();
        let tags = tags.filter_map(|t| Some((t.key.as_deref()?, t.value.as_deref().unwrap_or(""))));
        let primary = id == self.place.subnet;
        let free = subnet.available_ip_address_count;
        Ok(SubnetView {
            cidr: parse(subnet.cidr_block.as_deref(), "CidrBlock", "an IPv4 block")?,
            free: free
                .and_then(|free| u32::try_from(free).ok())
                .ok_or(Unreadable::Missing("AvailableIpAddressCount"))?,
            usage: SubnetUse::judge(tags, primary, self.tags.cluster.as_deref()),
            id,
        })
    }

    fn new_tags(&self, at: Millis) -> Vec<t::Tag> {
        let at = i64::try_from(at.0).ok();
        let at = at.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let at = at.unwrap_or(Timestamp::UNIX_EPOCH);
        let mut tags = vec![
            tag(INSTANCE_TAG, self.instance.as_str()),
            tag(CREATED_TAG, &format!("{at:.0}")),
        ];
        if let Some(cluster) = &self.tags.cluster {
            tags.push(tag(CLUSTER_TAG, cluster));
            tags.push(tag(OWNER_TAG, "amazon-vpc-cni"));
        }
        tags.extend(
            self.tags
                .additional
                .iter()
                .map(|(key, value)| tag(key, value)),
        );
        tags
    }
}

impl Request {
    /// The same as a dry run, where the action knows one: EC2 says whether it would do it, and does
    /// nothing.
    pub fn dry(mut self) -> Option<Self> {
        let dry_run = match &mut self {
            Self::Create(r) => &mut r.dry_run,
            Self::Attach(r) => &mut r.dry_run,
            Self::Modify(r) => &mut r.dry_run,
            // These two know no DryRun: they name an address that EC2 refuses to whoever may ask.
            Self::Assign(r) => {
                r.secondary_private_ip_address_count = None;
                r.ipv4_prefix_count = None;
                r.private_ip_addresses = vec![NO_ADDRESS.to_owned()];
                return Some(self);
            }
            Self::Unassign(r) => {
                r.ipv4_prefixes = Vec::new();
                r.private_ip_addresses = vec![NO_ADDRESS.to_owned()];
                return Some(self);
            }
            Self::Detach(r) => &mut r.dry_run,
            Self::Delete(r) => &mut r.dry_run,
            Self::Describe(r) => &mut r.dry_run,
            Self::Subnets(r) => &mut r.dry_run,
        };
        *dry_run = Some(true);
        Some(self)
    }

    /// The action's name.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Create(_) => "CreateNetworkInterface",
            Self::Attach(_) => "AttachNetworkInterface",
            Self::Modify(_) => "ModifyNetworkInterfaceAttribute",
            Self::Assign(_) => "AssignPrivateIpAddresses",
            Self::Unassign(_) => "UnassignPrivateIpAddresses",
            Self::Detach(_) => "DetachNetworkInterface",
            Self::Delete(_) => "DeleteNetworkInterface",
            Self::Describe(_) => "DescribeNetworkInterfaces",
            Self::Subnets(_) => "DescribeSubnets",
        }
    }
}

fn describe(filters: Vec<t::Filter>) -> Request {
    Request::Describe(Box::new(t::DescribeNetworkInterfacesRequest {
        filters,
        ..Default::default()
    }))
}

fn required<'a>(value: Option<&'a str>, name: &'static str) -> Result<&'a str, Unreadable> {
    value.ok_or(Unreadable::Missing(name))
}

fn parse<T: std::str::FromStr>(
    value: Option<&str>,
    member: &'static str,
    expected: &'static str,
) -> Result<T, Unreadable> {
    let text = required(value, member)?;
    text.parse().map_err(|_| Unreadable::Malformed {
        member,
        value: text.to_owned(),
        expected,
    })
}

fn address(text: Option<&str>) -> Result<Ipv4Addr, Unreadable> {
    parse(text, "PrivateIpAddress", "an IPv4 address")
}

fn prefix(text: Option<&str>) -> Result<Ipv4Net, Unreadable> {
    parse(text, "Ipv4Prefix", "an IPv4 prefix")
}

fn singles(want: Want) -> Option<i32> {
    match want {
        Want::Addresses(n) => Some(number(n)),
        Want::Prefixes(_) => None,
    }
}

fn prefixes(want: Want) -> Option<i32> {
    match want {
        Want::Prefixes(n) => Some(number(n)),
        Want::Addresses(_) => None,
    }
}

/// Numbers of the pool are far below EC2's bound.
fn number(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// The elements of a list that cannot be empty.
fn some<T>(
    list: impl Iterator<Item = Result<T, Unreadable>>,
    member: &'static str,
) -> Result<Vec<T>, Unreadable> {
    let list: Vec<T> = list.collect::<Result<_, _>>()?;
    if list.is_empty() {
        return Err(Unreadable::Missing(member));
    }
    Ok(list)
}

fn texts<T: ToString>(all: &[T]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

fn tag(key: &str, value: &str) -> t::Tag {
    t::Tag {
        key: Some(key.to_owned()),
        value: Some(value.to_owned()),
    }
}

fn filter(name: &str, value: &str) -> t::Filter {
    t::Filter {
        name: Some(name.to_owned()),
        values: vec![value.to_owned()],
    }
}

/// What the pool is to conclude from a failed request.
pub fn failure(action: &'static str, error: &ec2::Error) -> Failure {
    let text = error.to_string();
    let message = text
        .strip_prefix(&format!("{action}: "))
        .unwrap_or(&text)
        .to_owned();
    Failure {
        action,
        kind: kind(error),
        message,
    }
}

fn kind(error: &ec2::Error) -> FailureKind {
    if error.is_denied() {
        return FailureKind::Denied;
    }
    if matches!(error, ec2::Error::Throttled { .. }) {
        return FailureKind::Throttled;
    }
    if error.outcome_unknown() {
        return FailureKind::Unclear;
    }
    if error.is_not_found() {
        return FailureKind::NotFound;
    }
    let text = error.to_string();
    match error.code().unwrap_or_default() {
        "InsufficientFreeAddressesInSubnet" => FailureKind::SubnetFull,
        "InsufficientCidrBlocks" => FailureKind::NoPrefix,
        // What a request for prefixes is answered where the subnet has not the room; mostly
        // CreateNetworkInterface's.
        "InvalidParameterValue" if text.contains("sufficient free Ipv4 addresses or prefixes") => {
            FailureKind::NoPrefix
        }
        "AttachmentLimitExceeded" => FailureKind::InstanceEniLimit,
        "NetworkInterfaceLimitExceeded" => FailureKind::AccountEniLimit,
        "PrivateIpAddressLimitExceeded" | "InvalidInterface.IpAddressLimitExceeded" => {
            FailureKind::AddressLimit
        }
        "InvalidNetworkInterface.InUse" | "IncorrectState" => FailureKind::Conflict,
        // One code for several states; the text tells them apart.
        "InvalidParameterValue" if text.contains("in use") || text.contains("already has") => {
            FailureKind::Conflict
        }
        "InvalidParameterValue" if text.contains("not assigned") => FailureKind::NotFound,
        _ => FailureKind::Rejected,
    }
}
