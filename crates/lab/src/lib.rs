//! A VPC and its nodes on one Linux machine: topologies, nodes, pods, life cycle.

pub mod topology;
