//! EC2 Query and instance metadata: generated wire types, encode and decode, the signed client.
//!
//! * [`types`] are the operations' inputs and outputs, generated from the published service model;
//! * [`wire`] encodes and decodes them, for a client and for a server.

pub mod types;
pub mod wire;

pub use types::{AnyRequest, Operation, Paged};
pub use wire::RequestError;
