//! What the embedded EC2 knows: one record per resource, owned by [`State`].
//!
//! Invariants, held by the property test in `tests/properties.rs`: an address of a VPC belongs to at
//! most one interface; a pool's taken addresses are exactly those of its interfaces (plus AWS's own);
//! device indexes of an instance are unique; no record names a resource that is gone, except where EC2
//! keeps such names too (routes turn `blackhole`, group rules of peered VPCs turn stale).

mod check;
mod enis;
mod records;
mod state;

pub(crate) use enis::{NewEni, Wanted};
pub(crate) use records::*;
pub use state::{Config, Quotas, State, Timing};
