//! Identifiers of VPC objects: checked once where text enters, trusted everywhere else.
//!
//! Each id is a newtype over the text EC2 prints (`eni-0123456789abcdef0`). Parsing checks the
//! prefix and the alphabet, not the length: AWS has used 8 and 17 hexadecimal digits, and tests and
//! topology files use speaking ids such as `sg-nodes`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the id of {kind}: expected {prefix}… with letters, digits and '-'")]
pub struct BadId {
    /// The text as given.
    pub text: String,
    /// What was asked for, with its article, as `a subnet`.
    pub kind: &'static str,
    /// The prefix that such an id has, with the dash.
    pub prefix: &'static str,
}

fn check(text: &str, prefix: &'static str, kind: &'static str) -> Result<(), BadId> {
    let rest = text.strip_prefix(prefix).unwrap_or("");
    let fine = rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if rest.is_empty() || !fine {
        return Err(BadId {
            text: text.to_owned(),
            kind,
            prefix,
        });
    }
    Ok(())
}

macro_rules! ids {
    ($($name:ident $prefix:literal $kind:literal;)*) => {$(
        #[doc = concat!("The id of ", $kind, " (`", $prefix, "…`).")]
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The prefix every id of this kind has, with the dash.
            pub const PREFIX: &'static str = $prefix;

            /// The id as EC2 prints it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                check(text, $prefix, $kind)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                check(&text, $prefix, $kind)?;
                Ok(Self(text.into()))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.into()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    )*};
}

ids! {
    VpcId "vpc-" "a VPC";
    SubnetId "subnet-" "a subnet";
    EniId "eni-" "a network interface";
    SgId "sg-" "a security group";
    SgRuleId "sgr-" "a security group rule";
    AclId "acl-" "a network ACL";
    RtbId "rtb-" "a route table";
    IgwId "igw-" "an internet gateway";
    NatId "nat-" "a NAT gateway";
    PcxId "pcx-" "a VPC peering connection";
    PrefixListId "pl-" "a prefix list";
    InstanceId "i-" "an instance";
    LaunchTemplateId "lt-" "a launch template";
    AllocationId "eipalloc-" "an Elastic IP address";
    TrunkAssociationId "trunk-assoc-" "a trunk association";
}

/// An Ethernet address, printed as EC2 does: `02:1b:44:11:3a:b7`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// A text that is not an Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address: expected six hexadecimal bytes as in 02:1b:44:11:3a:b7")]
pub struct BadMac(pub String);

impl FromStr for Mac {
    type Err = BadMac;
    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(text.to_owned());
        let mut mac = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            Err(bad())
        } else {
            Ok(Mac(mac))
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = BadMac;
    fn try_from(text: String) -> Result<Self, BadMac> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_by_prefix_and_alphabet() {
        assert_eq!("eni-0a1b".parse::<EniId>().unwrap().to_string(), "eni-0a1b");
        assert!("sg-nodes".parse::<SgId>().is_ok());
        for bad in [
            "",
            "eni",
            "eni-",
            "sg-0a1b",
            "eni-0a 1b",
            "eni-0a'1b",
            "ENI-0a1b",
        ] {
            let error = bad.parse::<EniId>().unwrap_err();
            assert!(error.to_string().contains("a network interface"), "{error}");
        }
    }

    #[test]
    fn ids_travel_through_json_as_text_and_are_checked_there_too() {
        let id: SubnetId = serde_json::from_str("\"subnet-1\"").unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"subnet-1\"");
        assert!(serde_json::from_str::<SubnetId>("\"vpc-1\"").is_err());
    }

    #[test]
    fn mac_round_trips_and_rejects_other_shapes() {
        let mac: Mac = "02:1b:44:11:3a:b7".parse().unwrap();
        assert_eq!(mac.to_string(), "02:1b:44:11:3a:b7");
        for bad in [
            "",
            "02:1b:44:11:3a",
            "02:1b:44:11:3a:b7:00",
            "2:1b:44:11:3a:b7",
            "+2:1b:44:11:3a:b7",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
