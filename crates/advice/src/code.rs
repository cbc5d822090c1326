//! The catalogue of findings. A code is for ever: its meaning never changes.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A finding's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// Settings live only in the DaemonSet.
    Bl0108,
    /// ENIs of one node disagree on security groups.
    Bl0301,
    /// Node ENIs differ from the launch template.
    Bl0302,
    /// No more pods fit.
    Bl0501,
    /// kubelet takes more pods than there can be addresses.
    Bl0502,
    /// Free addresses, and no whole `/28`.
    Bl0503,
}

/// No finding has this code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no finding {text:?}; known: {}", Code::ALL.map(|c| c.to_string()).join(", "))]
pub struct UnknownCode {
    /// The text as given.
    pub text: String,
}

impl Code {
    /// All codes.
    pub const ALL: [Code; 6] = [
        Code::Bl0108,
        Code::Bl0301,
        Code::Bl0302,
        Code::Bl0501,
        Code::Bl0502,
        Code::Bl0503,
    ];

    /// One line.
    pub fn title(self) -> &'static str {
        match self {
            Code::Bl0108 => "settings live only in the DaemonSet",
            Code::Bl0301 => "the ENIs of one node do not carry the same security groups",
            Code::Bl0302 => "a node's ENIs differ from its launch template",
            Code::Bl0501 => "the first ceiling of capacity is reached",
            Code::Bl0502 => "max-pods is larger than the addresses that the node can have",
            Code::Bl0503 => "/28 prefixes do not fit into the subnet",
        }
    }

    /// The page that `branchline explain` prints, Markdown.
    pub fn page(self) -> &'static str {
        match self {
            Code::Bl0108 => include_str!("../../../docs/findings/BL0108.md"),
            Code::Bl0301 => include_str!("../../../docs/findings/BL0301.md"),
            Code::Bl0302 => include_str!("../../../docs/findings/BL0302.md"),
            Code::Bl0501 => include_str!("../../../docs/findings/BL0501.md"),
            Code::Bl0502 => include_str!("../../../docs/findings/BL0502.md"),
            Code::Bl0503 => include_str!("../../../docs/findings/BL0503.md"),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Code::Bl0108 => "BL0108",
            Code::Bl0301 => "BL0301",
            Code::Bl0302 => "BL0302",
            Code::Bl0501 => "BL0501",
            Code::Bl0502 => "BL0502",
            Code::Bl0503 => "BL0503",
        })
    }
}

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        Code::ALL
            .into_iter()
            .find(|c| c.to_string().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownCode {
                text: text.to_owned(),
            })
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_page_about_itself() {
        for code in Code::ALL {
            assert!(
                code.page()
                    .starts_with(&format!("# {code}: {}", code.title()))
            );
            assert_eq!(code.to_string().to_lowercase().parse(), Ok(code));
        }
        assert!("BL9999".parse::<Code>().is_err());
    }
}
