//! Reasons as words, and what the pool waits for: for metrics, conditions and people.
//!
//! The words are a contract: they are labels of metrics and fields of `/state`, so that an alert
//! and a tool can tell a full subnet from a missing right without reading sentences.

use std::time::Duration;

use vpc::facts::{EniId, SubnetId};

use crate::arithmetic;
use crate::effect::Refusal;
use crate::event::{Failure, FailureKind};
use crate::pool::{Backoff, Pool};
use crate::types::{Millis, Pod};

impl FailureKind {
    /// The word of the reason.
    pub fn word(self) -> &'static str {
        match self {
            Self::SubnetFull => "subnet-full",
            Self::NoPrefix => "no-prefix",
            Self::InstanceEniLimit => "instance-interface-limit",
            Self::AccountEniLimit => "account-interface-limit",
            Self::AddressLimit => "address-limit",
            Self::Throttled => "throttled",
            Self::Denied => "denied",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::Unclear => "no-answer",
            Self::Rejected => "rejected",
        }
    }
}

impl Refusal {
    /// All words that a refused ADD may have.
    pub const WORDS: [&'static str; 19] = [
        "not-ready",
        "draining",
        "subnet-full",
        "no-prefix",
        "no-subnet",
        "limit",
        "instance-interface-limit",
        "account-interface-limit",
        "address-limit",
        "throttled",
        "denied",
        "not-found",
        "conflict",
        "no-answer",
        "rejected",
        "interface-not-usable",
        "timed-out",
        "deleted",
        "unknown-pod",
    ];

    /// The word of the reason: of what EC2 said where EC2 is in the way.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NotReady { .. } => "not-ready",
            Self::Draining => "draining",
            Self::SubnetFull { .. } => "subnet-full",
            Self::Fragmented { .. } => "no-prefix",
            Self::NoSubnet { .. } => "no-subnet",
            Self::Limit { .. } => "limit",
            Self::Ec2 { failure } => failure.kind.word(),
            Self::NotUsable { .. } => "interface-not-usable",
            Self::TimedOut { .. } => "timed-out",
            Self::Deleted { .. } => "deleted",
            Self::UnknownPod { .. } => "unknown-pod",
        }
    }
}

/// Something that is not tried again for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The interface that it is about, if it is about one.
    pub eni: Option<EniId>,
    /// The subnet that has too little, if that is it.
    pub subnet: Option<SubnetId>,
    /// What failed last.
    pub failure: Failure,
    /// Failures in a row.
    pub failures: u32,
    /// Until it is tried again.
    pub left: Duration,
}

impl Pool {
    /// What is not tried again for a while.
    pub fn standing(&self) -> Vec<Standing> {
        let now = self.clock;
        let one = |eni: Option<&EniId>, retry: &Backoff, trouble: Option<&Failure>| {
            let failure = trouble.filter(|_| !retry.open(now))?;
            Some(Standing {
                eni: eni.cloned(),
                subnet: None,
                failure: failure.clone(),
                failures: retry.failures,
                left: retry.until.since(now),
            })
        };
        let ways = self.ways.all().map(|(subnet, way)| {
            let standing = one(None, &way.retry, way.trouble.as_ref())?;
            Some(Standing {
                subnet: subnet.cloned(),
                ..standing
            })
        });
        let questions = [
            one(None, &self.show.retry, self.show.trouble.as_ref()),
            one(None, &self.subnets.retry, self.subnets.trouble.as_ref()),
        ];
        let births = self.births.iter();
        let births = births.map(|birth| one(None, &birth.retry, birth.trouble.as_ref()));
        let lives = self.enis.values().flat_map(|eni| {
            [
                one(Some(&eni.id), &eni.retry, eni.trouble.as_ref()),
                one(
                    Some(&eni.id),
                    &eni.group_retry,
                    self.groups.trouble.as_ref(),
                ),
            ]
        });
        ways.chain(questions)
            .chain(births)
            .chain(lives)
            .flatten()
            .collect()
    }

    /// Pods without an address, and since when they wait; the longest first.
    pub fn waiting(&self) -> impl Iterator<Item = (&Pod, Millis)> {
        self.waiting
            .iter()
            .map(|waiting| (&waiting.pod, waiting.since))
    }

    /// How many addresses the warm targets ask for beyond what is there and on its way, and how
    /// many they can do without. While a subnet has no prefix to give, what single addresses can do
    /// for the targets is all that is asked.
    pub fn against_targets(&self) -> (u32, u32) {
        if self.node.is_none() {
            return (0, 0);
        }
        let (targets, stock) = self.surplus_targets();
        (
            arithmetic::short(targets, stock),
            crate::shrink::over(self, targets, stock).addresses(),
        )
    }

    /// Whose limit bounds the number of interfaces.
    pub fn bounded_by(&self) -> crate::types::EniLimitBy {
        self.allowed_interfaces().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kind after a kind: one that is new must be put here, and then its word in the list.
    fn after(kind: FailureKind) -> Option<FailureKind> {
        use FailureKind as K;
        Some(match kind {
            K::SubnetFull => K::NoPrefix,
            K::NoPrefix => K::InstanceEniLimit,
            K::InstanceEniLimit => K::AccountEniLimit,
            K::AccountEniLimit => K::AddressLimit,
            K::AddressLimit => K::Throttled,
            K::Throttled => K::Denied,
            K::Denied => K::NotFound,
            K::NotFound => K::Conflict,
            K::Conflict => K::Unclear,
            K::Unclear => K::Rejected,
            K::Rejected => return None,
        })
    }

    #[test]
    fn every_word_is_in_the_list_once() {
        let words: std::collections::BTreeSet<&str> = Refusal::WORDS.into_iter().collect();
        assert_eq!(words.len(), Refusal::WORDS.len());
        let mut kind = Some(FailureKind::SubnetFull);
        while let Some(this) = kind {
            assert!(words.contains(this.word()), "{this:?}");
            kind = after(this);
        }
    }

    #[test]
    fn a_refusal_by_ec2_has_ec2s_word() {
        let denied = Refusal::Ec2 {
            failure: Failure {
                action: "AttachNetworkInterface",
                kind: FailureKind::Denied,
                message: "UnauthorizedOperation".to_owned(),
            },
        };
        assert_eq!(
            (denied.word(), Refusal::Draining.word()),
            ("denied", "draining")
        );
    }
}
