//! The versions of the CNI specification that the plugin speaks.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// A released version of the CNI specification, in the order of their release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpecVersion {
    /// 0.1.0: `ip4` and `ip6` in the result.
    V0_1_0,
    /// 0.2.0: VERSION.
    V0_2_0,
    /// 0.3.0: `interfaces` and `ips` in the result.
    V0_3_0,
    /// 0.3.1: plugin lists.
    V0_3_1,
    /// 0.4.0: CHECK; DEL receives `prevResult`. What the installed conflist names.
    V0_4_0,
    /// 1.0.0: no `version` in the result's `ips`.
    V1_0_0,
    /// 1.1.0: GC, STATUS, MTU and route attributes in the result.
    V1_1_0,
}

impl SpecVersion {
    /// All versions, oldest first.
    pub const ALL: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    /// The newest version, used where a request does not tell its own.
    pub const LATEST: Self = Self::V1_1_0;

    /// The version as the wire writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SpecVersion {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let known = Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text);
        known.ok_or_else(|| Error::UnknownVersion {
            version: text.to_owned(),
        })
    }
}
