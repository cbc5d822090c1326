//! The embedded EC2: state machine, API server, instance metadata, and the fabric that carries packets.

pub mod fabric;
