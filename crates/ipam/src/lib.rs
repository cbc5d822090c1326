//! The node's address pool: interfaces and addresses planned ahead of pods, and on demand.
//!
//! An interface takes seconds to create and an instance takes few of them, so the pool holds free
//! addresses ready (the warm targets), grows at once when a pod waits, and gives back what stays
//! unused. All of it is one function without a clock, a socket or a random source:
//! [`step`] takes what happened and the time, and returns what to do. The shell does it and feeds
//! the results back; a dry run, a replay and a simulation of every EC2 fault come free.
//!
//! Invariants, held by `bin/agent/tests/simulation` over random events, the lab's EC2 and its faults:
//! * an address belongs to at most one pod, and is one that EC2 put on an interface of this node;
//! * a released address rests before its next pod and is not counted as available meanwhile;
//! * every call to EC2 is answered exactly once before the same thing is asked for again; after an
//!   unclear answer (a timeout) EC2 is asked what is true, never guessed;
//! * nothing is detached or deleted unless EC2, asked after the decision, shows it as ours;
//! * no ADD waits without end: it gets an address, or a [`Refusal`] that names the ceiling;
//! * when EC2 allows it, the warm targets are met.
//!
//! Where to look: [`Pool`] is the state, `allocate` serves pods, `grow` and `shrink` follow the
//! targets ([`arithmetic`]), `lifecycle` brings an interface up and down, `groups` keeps security
//! groups equal, `adopt` merges what EC2 shows, `subnets` says where interfaces go, `ways` what stands
//! in the way of growth and for how long. `tests/pool` has a story for each.

mod adopt;
mod allocate;
mod answers;
pub mod arithmetic;
mod effect;
mod eni;
mod event;
mod groups;
mod grow;
mod lifecycle;
mod pool;
mod shrink;
mod status;
mod subnets;
mod types;
mod view;
mod ways;

pub use effect::{Call, Effect, OpId, Record, Refusal, Reply};
pub use eni::{Eni, Foreign, Slot, SlotState, Stage};
pub use event::{Answer, Attached, EniView, Event, Failure, FailureKind, HandsOff, ImdsEni, View};
pub use pool::Pool;
pub use status::Standing;
pub use subnets::{SubnetUse, SubnetView};
pub use types::{
    Allocation, AttachmentId, Blocks, ClientToken, Config, EniLimitBy, Key, Lease, Limits, Millis,
    NodeFacts, PREFIX_SIZE, Pod, Ticket, Unit, Want, addresses_of,
};
pub use view::{Counts, GroupState};

/// One step of the pool: what happened, at what time; returns what to do, in order.
///
/// `now` never goes back: an earlier time than the last step's counts as the last step's.
pub fn step(pool: &mut Pool, event: Event, now: Millis) -> Vec<Effect> {
    let now = pool.advance(now);
    let mut effects = Vec::new();
    answers::take(pool, event, now, &mut effects);
    if pool.is_working() {
        // Before pods are served: it may bring an interface into service.
        lifecycle::drive(pool, now, &mut effects);
    }
    allocate::serve(pool, now, &mut effects);
    if pool.is_working() {
        groups::drive(pool, now, &mut effects);
        grow::plan(pool, now, &mut effects);
        // Growing may have kept an interface that was about to go.
        allocate::serve(pool, now, &mut effects);
        shrink::plan(pool, now, &mut effects);
    }
    if !pool.is_draining() {
        adopt::ask(pool, now, &mut effects);
        subnets::ask(pool, now, &mut effects);
    }
    allocate::refuse(pool, now, &mut effects);
    if let Some(at) = pool.next_wake(now) {
        effects.push(Effect::WakeAt(at));
    }
    effects
}
