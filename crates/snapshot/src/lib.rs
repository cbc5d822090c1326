//! Reading a world: live EC2 and the nodes' introspection.
