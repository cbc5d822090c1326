//! Why a question cannot be answered: what would have to be known.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::facts::{EniId, Kind, NatId, World};

/// What is missing for an answer. An answer that lacks something is UNKNOWN, never a guess.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// A kind of objects could not be read.
    #[error("{object} could not be read: {action} failed ({reason})")]
    Unread {
        /// What was needed, as `sg-0a1b`.
        object: String,
        /// The IAM action to allow, as `ec2:DescribeSecurityGroups`.
        action: String,
        /// The failure as AWS worded it.
        reason: String,
    },
    /// An object is referred to and was not among what was read.
    #[error("{object}: not among the {kind} that were read (another account or region?)")]
    Absent {
        /// Its id, or what it is.
        object: String,
        /// The kind it should have been among.
        kind: Kind,
    },
    /// The packets go through something that is not modelled.
    #[error("{id} ({kind}) is not modelled")]
    Unmodelled {
        /// What it is, as `transit gateway`.
        kind: String,
        /// Its id.
        id: String,
    },
    /// The packets go through an interface that forwards them.
    #[error(
        "the packets are handed to {eni}, which is not their destination: what its host does with them is not known"
    )]
    Middlebox {
        /// The interface.
        eni: EniId,
    },
    /// The answer differs with the source port or address that a NAT gateway picks.
    #[error("the answer depends on the source port or address that {nat} picks")]
    NatChoice {
        /// The gateway.
        nat: NatId,
    },
}

impl World {
    /// What to ask for when an object is not in this world: permission to read its kind if that was
    /// denied, else the object itself.
    pub fn need(&self, kind: Kind, object: impl fmt::Display) -> Need {
        let object = object.to_string();
        match self.unread(kind) {
            Some(u) => Need::Unread {
                object,
                action: u.action.clone(),
                reason: u.reason.clone(),
            },
            None => Need::Absent { object, kind },
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Vpcs => "VPCs",
            Kind::Subnets => "subnets",
            Kind::Enis => "network interfaces",
            Kind::Groups => "security groups",
            Kind::GroupRules => "security group rules",
            Kind::Acls => "network ACLs",
            Kind::RouteTables => "route tables",
            Kind::PrefixLists => "prefix lists",
            Kind::InternetGateways => "internet gateways",
            Kind::NatGateways => "NAT gateways",
            Kind::Peerings => "peering connections",
            Kind::Instances => "instances",
            Kind::LaunchTemplates => "launch templates",
            Kind::TrunkAssociations => "trunk associations",
        })
    }
}
