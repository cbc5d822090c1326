//! EKS (REST and JSON), and the call of STS that tokens of clusters are made of.
//!
//! * types: [`Cluster`], [`Nodegroup`], [`Addon`] …; inputs such as [`CreateClusterRequest`];
//! * [`Client`] signs, sends and repeats, with the settings of [`crate::client::Builder::build_eks`];
//! * [`AnyRequest::decode`] and the types are also the server's side;
//! * [`token`] makes and reads what `aws eks get-token` prints;
//! * [`CallerIdentity`] is who STS says that a caller is.

mod client;
mod requests;
mod sts;
pub mod token;
mod types;
mod unbuilt;
mod wire;

pub use client::Client;
pub use requests::*;
pub use sts::{CallerIdentity, ParseIdentityError, Sts, error_to_xml};
pub use types::*;
pub use wire::{Encoded, RequestError, encode};
