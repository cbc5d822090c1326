//! CNI specification types and error codes; the RPC between the plugin and the node's daemons.

pub mod rpc;
