//! What a node does to a packet: compile, trace and diff of a node's links, addresses, routes and rules.
