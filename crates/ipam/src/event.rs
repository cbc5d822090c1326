//! What can happen to the pool.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use vpc::facts::{EniId, Mac, SgId, SubnetId};

use crate::effect::OpId;
use crate::subnets::SubnetView;
use crate::types::{
    Allocation, AttachmentId, Blocks, Key, Millis, NodeFacts, Pod, Ticket, addresses_of,
};

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time passed; answers a `WakeAt`.
    Tick,
    /// The checkpoint was read: addresses in use, and when others were released. Before `Node`.
    Recovered {
        /// Addresses in use; no address twice.
        allocations: Vec<Allocation>,
        /// When an address that now is free was released.
        released: BTreeMap<Ipv4Addr, Millis>,
        /// When an address was about to go back to EC2.
        returned: BTreeMap<Ipv4Addr, Millis>,
    },
    /// A pod whose lease was lost (with a checkpoint, say) was found on the node, by the address that
    /// leads to its link; or its name was. Nothing happens when the address is another pod's here.
    Found(Allocation),
    /// The node is not known yet, and why; for the refusals and `/state`.
    Unknown {
        /// The fact and the likely cause.
        reason: String,
    },
    /// The node is known.
    Node(NodeFacts),
    /// A pod wants an address.
    Add {
        /// Answered exactly once.
        ticket: Ticket,
        /// The attachment.
        key: Key,
        /// The pod.
        pod: Pod,
    },
    /// A pod's attachment is gone.
    Delete {
        /// Answered exactly once, in the same step.
        ticket: Ticket,
        /// The attachment.
        key: Key,
    },
    /// An effect that carried an `OpId` was done, or failed.
    Answered {
        /// Which.
        op: OpId,
        /// How it went.
        result: Result<Answer, Failure>,
    },
    /// Instance metadata was read. It may lag; it never decides, it only makes the pool ask EC2.
    Imds(BTreeMap<EniId, ImdsEni>),
    /// Whether the node is cordoned so that its interfaces stay as they are: none is created or
    /// removed; what was begun is finished, and addresses on them still come and go.
    Cordoned(bool),
    /// EC2, asked at the start without doing anything (DryRun), denies these actions: one failure
    /// each, of the kind `Denied`. What needs them is not tried before a back-off, and says so.
    Denied(Vec<Failure>),
    /// The agent ends: nothing new is started, waiting pods are refused.
    Drain,
}

/// One interface as instance metadata shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImdsEni {
    /// Its security groups, sorted.
    pub groups: Vec<SgId>,
}

/// The answer of a call that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An interface was created.
    Created(EniView),
    /// An interface was attached.
    Attached(AttachmentId),
    /// Addresses or prefixes were added: the new ones only.
    Assigned(Blocks),
    /// The subnets of the node's zone.
    Subnets(Vec<SubnetView>),
    /// The primary interface's groups as instance metadata shows them, sorted.
    Groups(Vec<SgId>),
    /// What EC2 shows.
    Shown(View),
    /// Done; nothing to say.
    Done,
}

/// What EC2 shows about this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Interfaces attached to this instance, those of other cards included; with those asked for
    /// as leftovers.
    pub enis: Vec<EniView>,
}

/// One interface as EC2 shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EniView {
    /// Its id.
    pub id: EniId,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its subnet.
    pub subnet: SubnetId,
    /// Its primary address.
    pub primary: Ipv4Addr,
    /// Its other single addresses.
    pub secondary: Vec<Ipv4Addr>,
    /// Its delegated prefixes, /28 each.
    pub prefixes: Vec<Ipv4Net>,
    /// Its security groups, sorted.
    pub groups: Vec<SgId>,
    /// Its attachment to this instance; `None`: it is attached to nothing.
    pub attachment: Option<Attached>,
    /// It carries our tag with this instance's id: we created it.
    pub ours: bool,
    /// It must not be touched, and why.
    pub hands_off: Option<HandsOff>,
}

impl EniView {
    /// Its addresses for pods: single ones, and those of its prefixes.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        let single = self.secondary.iter().copied();
        single.chain(self.prefixes.iter().copied().flat_map(addresses_of))
    }
}

/// Why an interface is not the pool's to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandsOff {
    /// It has the tag `node.k8s.amazonaws.com/no_manage=true`.
    Tagged,
    /// Its kind holds no pods: `trunk`, `efa-only`, …
    Kind(String),
    /// It is on this network card; pods use card 0. It does not count against that card's limit.
    Card(u32),
    /// It has not the tag of this instance, and `MANAGE_UNTAGGED_ENI` is false. The pool finds
    /// this out; the shell never says it.
    Untagged,
}

impl std::fmt::Display for HandsOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tagged => f.write_str("tagged node.k8s.amazonaws.com/no_manage=true"),
            Self::Kind(kind) => write!(f, "of the type {kind}, which holds no pods"),
            Self::Card(card) => write!(
                f,
                "on network card {card}; pods use card 0 (ENABLE_MULTI_NIC is not built)"
            ),
            Self::Untagged => {
                f.write_str("without this instance's tag, and MANAGE_UNTAGGED_ENI is false")
            }
        }
    }
}

/// An interface's attachment to this instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The attachment.
    pub id: AttachmentId,
    /// Its device index.
    pub device: u32,
    /// It goes away with the instance.
    pub delete_on_termination: bool,
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{action}: {message}")]
pub struct Failure {
    /// The EC2 action, or the step in the kernel.
    pub action: &'static str,
    /// What is to be concluded from it.
    pub kind: FailureKind,
    /// EC2's code and message, or the kernel's.
    pub message: String,
}

/// What is to be concluded from a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    /// The subnet has too few free addresses. Nothing was done.
    SubnetFull,
    /// The subnet has no free /28 in one piece, though it may have single addresses. Nothing was
    /// done.
    NoPrefix,
    /// The instance has as many interfaces as its type may. Nothing was done.
    InstanceEniLimit,
    /// The account has as many interfaces as it may. Nothing was done.
    AccountEniLimit,
    /// The interface has as many addresses as it may. Nothing was done.
    AddressLimit,
    /// Too many calls. Nothing was done.
    Throttled,
    /// The credentials do not allow the action. Nothing was done.
    Denied,
    /// The object is not there.
    NotFound,
    /// The object is in another state: attached, in use, index taken. Ask EC2.
    Conflict,
    /// No answer, or an internal error: it may have been done or not. Ask EC2.
    Unclear,
    /// Refused for another reason. Nothing was done.
    Rejected,
}
