//! Resource ids: one type per kind, each with the error codes and the wording that EC2 uses for it.
//!
//! EC2 ids are a prefix and 17 hexadecimal digits. Ours start with a 0 digit, as nearly all of
//! AWS's do, so an id is 64 bits and `Copy`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};

use crate::error::{ApiError, ApiResult};

/// What all id types share.
pub(crate) trait ResourceId: Copy + Ord + fmt::Display + fmt::Debug {
    /// The text before the digits, with its dash.
    const PREFIX: &'static str;
    /// Error code for a well-formed id that names nothing.
    const NOT_FOUND: &'static str;
    /// Error code for a text that is no id of this kind.
    const MALFORMED: &'static str;
    /// EC2's name for the kind inside messages.
    const NOUN: &'static str;
    /// The id with these 64 bits.
    fn from_bits(bits: u64) -> Self;

    /// Reads an id. `Ok(None)`: a well-formed id that we never hand out.
    ///
    /// # Errors
    /// `…Malformed` when `text` is no id of this kind.
    fn parse(text: &str) -> ApiResult<Option<Self>> {
        let digits = text
            .strip_prefix(Self::PREFIX)
            .filter(|d| d.len() == 8 || d.len() == 17)
            .filter(|d| d.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
            .ok_or_else(|| {
                let expected = Self::PREFIX;
                ApiError::new(
                    Self::MALFORMED,
                    format_args!("Invalid id: \"{text}\" (expecting \"{expected}...\")"),
                )
            })?;
        if digits.len() == 8 || !digits.starts_with('0') {
            return Ok(None);
        }
        Ok(u64::from_str_radix(&digits[1..], 16)
            .ok()
            .map(Self::from_bits))
    }

    /// The answer for an id of this kind that names nothing.
    fn not_found(text: impl fmt::Display) -> ApiError {
        let noun = Self::NOUN;
        ApiError::new(
            Self::NOT_FOUND,
            format_args!("The {noun} '{text}' does not exist"),
        )
    }
}

macro_rules! ids {
    ($($name:ident $prefix:literal $not_found:literal $malformed:literal $noun:literal)*) => {$(
        #[doc = concat!("The id of a resource whose ids start with `", $prefix, "`.")]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) struct $name(u64);

        impl ResourceId for $name {
            const PREFIX: &'static str = $prefix;
            const NOT_FOUND: &'static str = $not_found;
            const MALFORMED: &'static str = $malformed;
            const NOUN: &'static str = $noun;
            fn from_bits(bits: u64) -> Self {
                Self(bits)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "0{:016x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = ApiError;
            fn from_str(text: &str) -> ApiResult<Self> {
                Self::parse(text)?.ok_or_else(|| Self::not_found(text))
            }
        }
    )*};
}

ids! {
    VpcId "vpc-" "InvalidVpcID.NotFound" "InvalidVpcID.Malformed" "vpc ID"
    VpcCidrId "vpc-cidr-assoc-" "InvalidVpcCidrBlockAssociationID.NotFound" "InvalidVpcCidrBlockAssociationID.Malformed" "vpc CIDR block association ID"
    DhcpOptionsId "dopt-" "InvalidDhcpOptionsID.NotFound" "InvalidDhcpOptionsId.Malformed" "dhcpOptions ID"
    SubnetId "subnet-" "InvalidSubnetID.NotFound" "InvalidSubnetID.Malformed" "subnet ID"
    ReservationId "scr-" "InvalidSubnetCidrReservationID.NotFound" "InvalidSubnetCidrReservationID.Malformed" "subnet CIDR reservation ID"
    RouteTableId "rtb-" "InvalidRouteTableID.NotFound" "InvalidRouteTableId.Malformed" "routeTable ID"
    RouteAssociationId "rtbassoc-" "InvalidAssociationID.NotFound" "InvalidAssociationID.Malformed" "association ID"
    InternetGatewayId "igw-" "InvalidInternetGatewayID.NotFound" "InvalidInternetGatewayId.Malformed" "internetGateway ID"
    NatGatewayId "nat-" "NatGatewayNotFound" "NatGatewayMalformed" "natGateway ID"
    AllocationId "eipalloc-" "InvalidAllocationID.NotFound" "InvalidAllocationID.Malformed" "allocation ID"
    AddressAssociationId "eipassoc-" "InvalidAssociationID.NotFound" "InvalidAssociationID.Malformed" "association ID"
    PeeringId "pcx-" "InvalidVpcPeeringConnectionID.NotFound" "InvalidVpcPeeringConnectionId.Malformed" "vpcPeeringConnection ID"
    AclId "acl-" "InvalidNetworkAclID.NotFound" "InvalidNetworkAclId.Malformed" "networkAcl ID"
    AclAssociationId "aclassoc-" "InvalidAssociationID.NotFound" "InvalidAssociationID.Malformed" "association ID"
    PrefixListId "pl-" "InvalidPrefixListID.NotFound" "InvalidPrefixListId.Malformed" "prefix list ID"
    GroupId "sg-" "InvalidGroup.NotFound" "InvalidGroupId.Malformed" "security group"
    GroupRuleId "sgr-" "InvalidSecurityGroupRuleId.NotFound" "InvalidSecurityGroupRuleId.Malformed" "security group rule ID"
    EniId "eni-" "InvalidNetworkInterfaceID.NotFound" "InvalidNetworkInterfaceId.Malformed" "networkInterface ID"
    AttachmentId "eni-attach-" "InvalidAttachmentID.NotFound" "InvalidAttachmentID.Malformed" "networkInterface attachment ID"
    PermissionId "eni-perm-" "InvalidPermissionID.NotFound" "InvalidPermissionID.Malformed" "networkInterface permission ID"
    TrunkAssociationId "trunk-assoc-" "InvalidAssociationID.NotFound" "InvalidAssociationID.Malformed" "trunk interface association ID"
    InstanceId "i-" "InvalidInstanceID.NotFound" "InvalidInstanceID.Malformed" "instance ID"
    LaunchId "r-" "InvalidReservationID.NotFound" "InvalidReservationID.Malformed" "reservation ID"
    TemplateId "lt-" "InvalidLaunchTemplateId.NotFound" "InvalidLaunchTemplateId.Malformed" "launch template ID"
}

/// Resources of one kind by id, in id order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table<K: Ord, V>(BTreeMap<K, V>);

impl<K: Ord, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, V> Deref for Table<K, V> {
    type Target = BTreeMap<K, V>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<K: Ord, V> DerefMut for Table<K, V> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<K: ResourceId, V> Table<K, V> {
    /// The resource that a request names.
    ///
    /// # Errors
    /// `…Malformed` or `…NotFound` of this kind.
    pub(crate) fn find(&self, text: &str) -> ApiResult<(K, &V)> {
        let id = K::parse(text)?.ok_or_else(|| K::not_found(text))?;
        self.0
            .get(&id)
            .map(|v| (id, v))
            .ok_or_else(|| K::not_found(text))
    }

    /// Like [`Table::find`], to change the resource.
    ///
    /// # Errors
    /// `…Malformed` or `…NotFound` of this kind.
    pub(crate) fn find_mut(&mut self, text: &str) -> ApiResult<(K, &mut V)> {
        let id = K::parse(text)?.ok_or_else(|| K::not_found(text))?;
        self.0
            .get_mut(&id)
            .map(|v| (id, v))
            .ok_or_else(|| K::not_found(text))
    }

    /// The ids that a Describe call lists, all of which must exist.
    ///
    /// # Errors
    /// The error of the first id that is malformed or names nothing.
    pub(crate) fn find_all<'t>(
        &self,
        texts: impl IntoIterator<Item = &'t String>,
    ) -> ApiResult<Vec<K>> {
        texts
            .into_iter()
            .map(|t| self.find(t).map(|(id, _)| id))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_and_parse() {
        let id = EniId::from_bits(0xabc);
        assert_eq!(id.to_string(), "eni-00000000000000abc");
        assert_eq!(EniId::parse(&id.to_string()), Ok(Some(id)));
        assert_eq!(EniId::parse("eni-12345678"), Ok(None));
        let malformed = EniId::parse("sg-12345678").unwrap_err();
        assert_eq!(malformed.code, "InvalidNetworkInterfaceId.Malformed");
        assert_eq!(
            malformed.message,
            "Invalid id: \"sg-12345678\" (expecting \"eni-...\")"
        );
        assert!(EniId::parse("eni-0ABCDEF0123456789").is_err());
    }

    #[test]
    fn the_message_quotes_the_interface() {
        let error = "eni-12345678".parse::<EniId>().unwrap_err();
        assert_eq!(
            error.message,
            "The networkInterface ID 'eni-12345678' does not exist"
        );
    }
}
