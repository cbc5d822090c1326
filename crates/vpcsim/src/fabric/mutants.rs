//! Planted faults of the fabric's compiler.
//!
//! A test that never failed proves nothing: with the cargo feature `mutants`, one fault is planted in this thread
//! and the comparison of model and packets has to go red. Without the feature [`mutated`] is the constant `false`.

/// One way in which the packet plane could be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// What no rule matches passes.
    DefaultAccepts,
    /// Sources are matched as destinations and the other way round.
    SidesSwapped,
    /// The last port of a range does not match.
    PortRangeOffByOne,
    /// Rules are tried in descending order.
    OrderReversed,
    /// Untracked permits are remembered as tracked ones are.
    UntrackedTracked,
    /// An ICMP rule matches every type and code.
    IcmpTypeIgnored,
    /// Network ACLs see no replies.
    AclSkippedOnReplies,
    /// Network ACLs are evaluated inside a subnet too.
    AclInsideSubnet,
    /// Spoofed sources pass.
    SourceCheckOmitted,
    /// The groups of the sender are not evaluated.
    EgressNotConsulted,
    /// The sets of groups keep the members they had first.
    MembershipNotUpdated,
    /// Packets from a peer use this VPC's route tables.
    PeeringTransitive,
    /// A blackhole is left out: a less specific route carries its packets.
    BlackholeOmitted,
    /// Of a prefix list only the first entry counts.
    PrefixListTruncated,
}

impl Mutant {
    /// All of them.
    pub const ALL: &[Mutant] = &[
        Mutant::DefaultAccepts,
        Mutant::SidesSwapped,
        Mutant::PortRangeOffByOne,
        Mutant::OrderReversed,
        Mutant::UntrackedTracked,
        Mutant::IcmpTypeIgnored,
        Mutant::AclSkippedOnReplies,
        Mutant::AclInsideSubnet,
        Mutant::SourceCheckOmitted,
        Mutant::EgressNotConsulted,
        Mutant::MembershipNotUpdated,
        Mutant::PeeringTransitive,
        Mutant::BlackholeOmitted,
        Mutant::PrefixListTruncated,
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

    /// Makes this thread's fabric wrong in one way until the guard is dropped.
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

#[cfg(feature = "mutants")]
macro_rules! mutated {
    ($mutant:ident) => {
        $crate::fabric::mutants::is_planted($crate::fabric::mutants::Mutant::$mutant)
    };
}

#[cfg(not(feature = "mutants"))]
macro_rules! mutated {
    ($mutant:ident) => {
        false
    };
}

pub(crate) use mutated;
