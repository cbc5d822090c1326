//! What must hold, by name, and how a run says that it does not.

use std::fmt;

/// A promise of the pool and its shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Invariant {
    /// Every interface and address that EC2 shows as ours is in service or on its way out.
    Leak,
    /// An address is one pod's, and on an interface of this node.
    DoubleUse,
    /// A pod gets an address or a reason within its patience.
    Stuck,
    /// A refusal names a ceiling that is really reached.
    Reason,
    /// The warm targets are met where EC2 allows.
    Targets,
    /// A request is answered once, and as recorded.
    Answered,
    /// A released address rests, restarts included.
    Cooldown,
    /// Nobody else's interface is used, changed or removed.
    Foreign,
    /// An interface goes only if EC2 showed it as ours after that was decided.
    Unconfirmed,
    /// Nothing is taken from under a pod.
    UnderPod,
    /// What the pool believes is what is recorded.
    Recorded,
    /// A cordoned node keeps its interfaces.
    Cordon,
    /// Every interface carries the primary's groups, a new one before pods get it.
    Groups,
    /// The same thing is not asked for twice at once.
    Doubled,
    /// A wake-up lies ahead.
    Wake,
    /// Prefixes and single addresses are asked for as configured.
    Mode,
    /// Nothing panics.
    Panic,
}

/// A promise that was broken.
#[derive(Debug, Clone)]
pub(crate) struct Broken {
    pub(crate) invariant: Invariant,
    pub(crate) text: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.text)
    }
}

pub(crate) type Check = Result<(), Broken>;

/// Fails with an invariant's name and a text unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $invariant:ident, $($text:tt)+) => {
        if !$condition {
            return Err($crate::broken::Broken {
                invariant: $crate::broken::Invariant::$invariant,
                text: format!($($text)+),
            });
        }
    };
}
pub(crate) use ensure;
