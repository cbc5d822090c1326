//! Which agent runs on a node, as far as its version changes how a packet or a group travels.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// How the security groups of the primary interface reach the node's other interfaces.
///
/// This is the whole difference behind "the database answers only sometimes": pods on secondary
/// interfaces carry the groups of *their* interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupSync {
    /// The groups are copied once, when the agent starts; new interfaces get that copy, existing
    /// ones are never changed. Upstream before 1.7.2; ours with `BRANCHLINE_GROUP_SYNC=false`.
    AtStart,
    /// Instance metadata is polled every 30 s and a difference is applied once; a call that fails
    /// is not repeated. Upstream from 1.7.2 on.
    OncePerChange,
    /// A difference is applied again and again until EC2 itself shows the groups. Ours.
    UntilConfirmed,
}

/// What happens when EC2 shows other groups on an interface although the primary's did not change:
/// somebody set them by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupDrift {
    /// The primary's groups are set again.
    Repair,
    /// They stay, and are reported until somebody sets them back.
    Report,
}

/// An agent and its version, written `branchline`, `vpc-cni@1.7.1` or `vpc-cni@HEAD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Engine {
    /// Our agent.
    Branchline,
    /// AWS's, by release.
    VpcCni {
        /// Major.
        major: u16,
        /// Minor.
        minor: u16,
        /// Patch.
        patch: u16,
    },
}

impl Engine {
    /// AWS's newest release that the facts here were read from.
    pub const HEAD: Self = Self::VpcCni {
        major: 1,
        minor: 23,
        patch: 1,
    };

    /// How this engine carries the primary interface's groups to the others.
    pub fn group_sync(self) -> GroupSync {
        match self {
            Self::Branchline => GroupSync::UntilConfirmed,
            Self::VpcCni {
                major,
                minor,
                patch,
            } if (major, minor, patch) < (1, 7, 2) => GroupSync::AtStart,
            Self::VpcCni { .. } => GroupSync::OncePerChange,
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Branchline => f.write_str("branchline"),
            Self::VpcCni {
                major,
                minor,
                patch,
            } => write!(f, "vpc-cni@{major}.{minor}.{patch}"),
        }
    }
}

/// Text that names no engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no engine: branchline, vpc-cni@HEAD or vpc-cni@<major>.<minor>[.<patch>]")]
pub struct NotAnEngine(pub String);

impl FromStr for Engine {
    type Err = NotAnEngine;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || NotAnEngine(text.to_owned());
        if text == "branchline" {
            return Ok(Self::Branchline);
        }
        let version = text.strip_prefix("vpc-cni@").ok_or_else(refuse)?;
        if version == "HEAD" {
            return Ok(Self::HEAD);
        }
        let numbers: Vec<u16> = version
            .trim_start_matches('v')
            .split('.')
            .map(|n| n.parse().map_err(|_| refuse()))
            .collect::<Result<_, _>>()?;
        match numbers[..] {
            [major, minor] => Ok(Self::VpcCni {
                major,
                minor,
                patch: 0,
            }),
            [major, minor, patch] => Ok(Self::VpcCni {
                major,
                minor,
                patch,
            }),
            _ => Err(refuse()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_sync_changed_with_1_7_2() {
        for (engine, sync) in [
            ("vpc-cni@1.5", GroupSync::AtStart),
            ("vpc-cni@1.7.1", GroupSync::AtStart),
            ("vpc-cni@1.7.2", GroupSync::OncePerChange),
            ("vpc-cni@v1.10.0", GroupSync::OncePerChange),
            ("vpc-cni@HEAD", GroupSync::OncePerChange),
            ("branchline", GroupSync::UntilConfirmed),
        ] {
            assert_eq!(
                engine.parse::<Engine>().unwrap().group_sync(),
                sync,
                "{engine}"
            );
        }
    }

    #[test]
    fn engines_survive_their_text_form() {
        for text in ["branchline", "vpc-cni@1.7.1"] {
            assert_eq!(text.parse::<Engine>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "cilium@1.2",
            "vpc-cni@",
            "vpc-cni@1",
            "vpc-cni@1.2.3.4",
            "vpc-cni@1.x",
        ] {
            assert!(text.parse::<Engine>().is_err(), "{text}");
        }
    }
}
