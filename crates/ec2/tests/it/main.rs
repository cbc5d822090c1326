//! The crate from outside: bytes on the wire, the clients against real HTTP servers, answers to facts.

mod chain;
mod client;
mod facts;
mod fill;
mod foreign;
mod golden;
mod imds;
mod round_trip;
mod server;
