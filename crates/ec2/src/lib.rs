//! EC2 Query, EKS and instance metadata: generated wire types, encode and decode, the signed client.
//!
//! * [`types`] are the operations' inputs and outputs, generated from the published service model;
//! * [`wire`] encodes and decodes them, for a client and for a server;
//! * [`client`] signs, sends and repeats: `client.call(DescribeVpcsRequest::default()).await`;
//! * [`imds`] reads instance metadata;
//! * [`limits`] is what each instance type allows;
//! * [`eks`] is the same for EKS and STS;
//! * [`facts`] turns Describe answers into [`vpc::facts::World`].

pub mod client;
pub mod eks;
mod error;
pub mod facts;
pub mod imds;
pub mod limits;
pub mod types;
pub mod wire;

pub use aws_credential_types::Credentials;
pub use client::Client;
pub use error::{DecodeError, Error};
pub use types::{AnyRequest, Operation, Paged};
pub use wire::RequestError;
