//! The crate from outside: bytes on the wire, the clients against real HTTP servers, answers to facts.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod chain;
mod client;
mod facts;
mod fill;
mod foreign;
mod golden;
mod imds;
mod round_trip;
mod server;
mod world;
