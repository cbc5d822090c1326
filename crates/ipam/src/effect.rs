//! What the pool asks its shell to do.

use std::net::Ipv4Addr;
use std::time::Duration;

use vpc::facts::{EniId, Mac, SgId, SubnetId};

use crate::event::Failure;
use crate::types::{
    Allocation, AttachmentId, Blocks, ClientToken, EniLimitBy, Key, Lease, Millis, Ticket, Want,
};

/// Names a call; its answer carries it back. Later calls have greater numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Do it, concurrently with everything else, and answer with `Event::Answered` exactly once.
    Call(OpId, Call),
    /// Must survive a kill of the process before the effects after it are done.
    Record(Record),
    /// Answers a waiting request.
    Reply(Ticket, Reply),
    /// Step again (`Event::Tick`) at this time at the latest; replaces an earlier one.
    WakeAt(Millis),
}

/// A call to EC2 or the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// CreateNetworkInterface with addresses or prefixes for pods and the agent's tags.
    CreateEni {
        /// The same token with the same parameters is the same interface.
        token: ClientToken,
        /// When it was decided on: it is written on the interface, and a repetition must be equal.
        at: Millis,
        /// Where.
        subnet: SubnetId,
        /// With which groups.
        groups: Vec<SgId>,
        /// What it carries for pods, at least one.
        want: Want,
    },
    /// AttachNetworkInterface to this instance, card 0.
    AttachEni {
        /// Which.
        eni: EniId,
        /// At this device index.
        device: u32,
    },
    /// ModifyNetworkInterfaceAttribute: the interface goes away with the instance.
    SetDeleteOnTermination {
        /// Which.
        eni: EniId,
        /// Its attachment.
        attachment: AttachmentId,
    },
    /// AssignPrivateIpAddresses.
    Assign {
        /// To which.
        eni: EniId,
        /// How many more.
        want: Want,
    },
    /// UnassignPrivateIpAddresses.
    Unassign {
        /// From which.
        eni: EniId,
        /// Which ones.
        blocks: Blocks,
    },
    /// DetachNetworkInterface.
    DetachEni {
        /// Which.
        eni: EniId,
        /// Its attachment.
        attachment: AttachmentId,
    },
    /// DeleteNetworkInterface.
    DeleteEni {
        /// Which.
        eni: EniId,
    },
    /// ModifyNetworkInterfaceAttribute: its security groups.
    SetGroups {
        /// Which.
        eni: EniId,
        /// All its groups from now on.
        groups: Vec<SgId>,
    },
    /// DescribeNetworkInterfaces of those attached to this instance.
    Show {
        /// With those that carry this instance's tag and are attached to nothing.
        leftovers: bool,
    },
    /// DescribeSubnets of the node's VPC and zone.
    ShowSubnets,
    /// The primary interface's security groups in instance metadata, which costs no EC2 call.
    PrimaryGroups,
    /// The kernel's side of a secondary interface: link up, address, table, rule.
    SetUp {
        /// Which.
        eni: EniId,
        /// Finds the link.
        mac: Mac,
        /// Its device index, which gives its routing table.
        device: u32,
        /// Its primary address.
        primary: Ipv4Addr,
        /// Its subnet.
        subnet: SubnetId,
    },
}

impl Call {
    /// The EC2 action, or what else is asked; for logs, metrics and reasons.
    pub fn action(&self) -> &'static str {
        match self {
            Self::CreateEni { .. } => "CreateNetworkInterface",
            Self::AttachEni { .. } => "AttachNetworkInterface",
            Self::SetDeleteOnTermination { .. } | Self::SetGroups { .. } => {
                "ModifyNetworkInterfaceAttribute"
            }
            Self::Assign { .. } => "AssignPrivateIpAddresses",
            Self::Unassign { .. } => "UnassignPrivateIpAddresses",
            Self::DetachEni { .. } => "DetachNetworkInterface",
            Self::DeleteEni { .. } => "DeleteNetworkInterface",
            Self::Show { .. } => "DescribeNetworkInterfaces",
            Self::ShowSubnets => "DescribeSubnets",
            Self::PrimaryGroups => "instance metadata",
            Self::SetUp { .. } => "interface set-up",
        }
    }
}

/// A change that must be known after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A pod has an address.
    Leased(Allocation),
    /// It has it no more.
    Released {
        /// Whose it was.
        key: Key,
        /// The address.
        address: Ipv4Addr,
        /// Since when.
        at: Millis,
    },
    /// Addresses are about to go back to EC2, one by one or with their interface. What EC2 shows
    /// of them soon after may be old, so a restart must not take them up again.
    Returning {
        /// Which.
        addresses: Vec<Ipv4Addr>,
        /// Since when.
        at: Millis,
    },
}

/// The answer to a waiting request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To an ADD.
    Leased(Lease),
    /// To a DEL.
    Released(Lease),
    /// To either.
    Refused(Refusal),
}

/// Why a request was not served: the fact, the object, the ceiling.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The agent does not know its node or its interfaces yet.
    #[error("the agent is not ready: {reason}")]
    NotReady {
        /// What is missing.
        reason: String,
    },
    /// The agent ends.
    #[error("the agent is shutting down")]
    Draining,
    /// The subnet has no free address.
    #[error("subnet {subnet} has no free address ({failure}); tried again in {}s", retry.as_secs())]
    SubnetFull {
        /// The subnet.
        subnet: SubnetId,
        /// EC2's words.
        failure: Failure,
        /// When the pool asks EC2 again.
        retry: Duration,
    },
    /// The subnet has no /28 in one piece, and a single address cannot be taken instead.
    #[error("subnet {subnet} has no free /28 in one piece ({failure}); tried again in {}s", retry.as_secs())]
    Fragmented {
        /// The subnet.
        subnet: SubnetId,
        /// EC2's words.
        failure: Failure,
        /// When the pool asks EC2 again.
        retry: Duration,
    },
    /// No subnet of the zone may hold pods.
    #[error(
        "no free address, and no subnet of the zone is for pods: {} (tag kubernetes.io/role/cni, \
         ENABLE_SUBNET_DISCOVERY)",
        list(subnets)
    )]
    NoSubnet {
        /// The zone's subnets.
        subnets: Vec<SubnetId>,
    },
    /// Every interface is full and no other may be attached.
    #[error(
        "all {interfaces} interfaces that {by} allows are full: {assigned} of {total} addresses \
         are in use, {resting} rest after their last pod{}",
        ready_in(*next)
    )]
    Limit {
        /// Interfaces attached, those that are not ours to use included.
        interfaces: u32,
        /// Whose limit it is.
        by: EniLimitBy,
        /// Addresses for pods.
        total: u32,
        /// In use.
        assigned: u32,
        /// Resting.
        resting: u32,
        /// When the next one has rested.
        next: Option<Duration>,
    },
    /// EC2 refused what the pool needed.
    #[error("no free address, and EC2 refused more: {failure}")]
    Ec2 {
        /// What failed.
        failure: Failure,
    },
    /// An interface has addresses but the node cannot use it.
    #[error("{eni} has free addresses but is not usable on the node: {failure}")]
    NotUsable {
        /// The interface.
        eni: EniId,
        /// What failed.
        failure: Failure,
    },
    /// More addresses are on their way but did not come in time.
    #[error("no free address within {}s; still waiting for {waiting_for}", patience.as_secs())]
    TimedOut {
        /// The calls without an answer.
        waiting_for: String,
        /// How long it waited.
        patience: Duration,
    },
    /// The attachment was deleted while it waited.
    #[error("{key} was deleted while it waited for an address")]
    Deleted {
        /// The attachment.
        key: Key,
    },
    /// DEL of an attachment that has no address.
    #[error("{key} has no address here")]
    UnknownPod {
        /// The attachment.
        key: Key,
    },
}

fn list(subnets: &[SubnetId]) -> String {
    let names: Vec<&str> = subnets.iter().map(SubnetId::as_str).collect();
    names.join(", ")
}

fn ready_in(next: Option<Duration>) -> String {
    next.map_or_else(String::new, |d| {
        format!(" (the next is free in {}s)", d.as_secs() + 1)
    })
}
