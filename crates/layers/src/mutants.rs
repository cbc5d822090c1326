//! Planted faults: what the tests that compare the model with packets must catch.
//!
//! A test that never failed proves nothing. With the cargo feature `mutants` a test plants one
//! [`Mutant`] in this thread and demands that the comparison goes red; without the feature
//! [`mutated!`](crate::mutated) is the constant `false` and no code remains.

/// One way in which the model could be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A layer's default action is the opposite.
    DefaultFlipped,
    /// The last port of a range does not match.
    PortRangeOffByOne,
    /// Sources are matched as destinations and the other way round.
    SourceAndDestinationSwapped,
    /// The last rule that matches decides.
    LastMatchWins,
    /// The last rule of each layer is not evaluated.
    LastRuleForgotten,
    /// A named set matches every address.
    SetIgnored,
    /// An ICMP rule matches every code.
    IcmpCodeIgnored,
    /// A network is one bit wider.
    PrefixLengthOffByOne,
    /// Protocol -1 does not include ICMP.
    AllProtocolsMissIcmp,
    /// A packet's answer is not evaluated by network ACLs.
    AclReplyIgnored,
    /// Network ACLs are evaluated inside a subnet too.
    AclInsideSubnet,
    /// The source address is not checked.
    SourceCheckSkipped,
    /// A route whose target is gone still carries packets.
    BlackholeIgnored,
    /// The shortest prefix that matches is the route.
    ShortestPrefixWins,
    /// A peering carries packets to VPCs behind the peer.
    PeeringTransitive,
    /// A reference to a group of a peered VPC matches nothing.
    PeerGroupMissed,
    /// Every allowed flow counts as tracked.
    UntrackedForgotten,
    /// ACL entries are evaluated in descending order of their numbers.
    AclOrderReversed,
    /// The security groups of the sender are not evaluated.
    GroupEgressSkipped,
    /// The prefixes of an interface are not its addresses.
    PrefixesNotOwned,
}

impl Mutant {
    /// All of them.
    pub const ALL: &[Mutant] = &[
        Mutant::DefaultFlipped,
        Mutant::PortRangeOffByOne,
        Mutant::SourceAndDestinationSwapped,
        Mutant::LastMatchWins,
        Mutant::LastRuleForgotten,
        Mutant::SetIgnored,
        Mutant::IcmpCodeIgnored,
        Mutant::PrefixLengthOffByOne,
        Mutant::AllProtocolsMissIcmp,
        Mutant::AclReplyIgnored,
        Mutant::AclInsideSubnet,
        Mutant::SourceCheckSkipped,
        Mutant::BlackholeIgnored,
        Mutant::ShortestPrefixWins,
        Mutant::PeeringTransitive,
        Mutant::PeerGroupMissed,
        Mutant::UntrackedForgotten,
        Mutant::AclOrderReversed,
        Mutant::GroupEgressSkipped,
        Mutant::PrefixesNotOwned,
    ];
}

#[cfg(feature = "mutants")]
mod planted {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Removes the mutant when dropped.
    #[derive(Debug)]
    pub struct Planted(());

    impl Drop for Planted {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }

    /// Makes this thread's model wrong in one way until the guard is dropped.
    #[must_use = "the mutant is removed when this is dropped"]
    pub fn plant(mutant: Mutant) -> Planted {
        PLANTED.set(Some(mutant));
        Planted(())
    }

    /// Whether this mutant is planted in this thread.
    pub fn is_planted(mutant: Mutant) -> bool {
        PLANTED.get() == Some(mutant)
    }
}

#[cfg(feature = "mutants")]
pub use planted::{Planted, is_planted, plant};

/// Whether a [`Mutant`] is planted in this thread: `mutated!(DefaultFlipped)`.
#[cfg(feature = "mutants")]
#[macro_export]
macro_rules! mutated {
    ($mutant:ident) => {
        $crate::mutants::is_planted($crate::mutants::Mutant::$mutant)
    };
}

/// Whether a [`Mutant`] is planted in this thread; the feature is off, so never.
#[cfg(not(feature = "mutants"))]
#[macro_export]
macro_rules! mutated {
    ($mutant:ident) => {
        false
    };
}
