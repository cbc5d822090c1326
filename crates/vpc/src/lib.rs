//! VPC facts (subnets, ENIs, security groups, network ACLs, routes, gateways, peering) to layers and next hops.

pub mod facts;
mod ids;
pub mod world;
