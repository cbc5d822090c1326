//! Findings (BL codes), ranked fixes, explain pages, rendering.
//!
//! `reach` says what is so; this crate says what it means: which known fault it is, which suspicions
//! it refutes, what could be done about it and what that would change besides. Every proposed fix is
//! an edit that was tried on the model: its verdict and its blast radius are computed, not promised.

pub mod advise;
pub mod capacity;
pub mod code;
pub mod command;
mod compare;
pub mod drift;
pub mod finding;
pub mod fix;
pub mod json;
pub mod name;
mod page;
pub mod ruled_out;
pub mod status;
pub mod text;

pub use advise::{Advice, advise};
pub use code::Code;
