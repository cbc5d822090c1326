//! VPC facts (subnets, ENIs, security groups, network ACLs, routes, gateways, peering) to layers and next hops.
//!
//! [`facts`] is what EC2 says; [`mod@layers`] and [`routes`] compile it, once, into the form that the
//! model and the lab's packets share; [`path`] walks packets through it in the order AWS documents.

pub mod effect;
pub mod facts;
mod ids;
pub mod layers;
mod need;
pub mod network;
mod parse;
pub mod path;
pub mod routes;
pub mod space;
mod text;
mod walk;
pub mod world;

pub use effect::{ConnectionEffect, open_connection_effect};
pub use need::Need;
pub use network::Network;
pub use parse::BadText;
pub use path::{
    DropReason, Endpoint, Hop, Leg, Origin, Outcome, Part, Permit, Stage, Trace, trace,
};
