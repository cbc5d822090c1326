//! The EC2 model's operations and structures.
//!
//! One struct per structure of the model, members in snake case (`Type` is `type_`, `Return` is `return_`): a list
//! is a `Vec`, everything else an `Option`. Enumerations are text: EC2 adds values at any time, and an answer with
//! a new one must still decode; requests are checked against the model's values when a server decodes them.
//! `Debug` prints only the members that are set.
//!
//! An operation is its input type: `DescribeVpcsRequest: Operation<Output = DescribeVpcsResult>`.

use crate::wire::{Blob, Field, Node, NodeMut, NodeRef, Shape, ShapeInfo, no_such_field};
pub use jiff::Timestamp;

/// An EC2 action, implemented by its input.
pub trait Operation: Shape + Clone + Default + 'static {
    /// What the action answers.
    type Output: Shape + Clone + Default + 'static;
    /// The action's name, also the IAM action's after `ec2:`.
    const NAME: &'static str;
    /// It changes nothing: Describe, Get, List, Search.
    const READ_ONLY: bool;
}

/// An action that answers in pages.
pub trait Paged: Operation {
    /// Asks for the page that the token of the previous page stands for.
    fn set_next_token(&mut self, token: String);
    /// The token of the following page. An empty token means none, as some SDKs write it.
    fn next_token(page: &Self::Output) -> Option<&str>;
    /// Adds a page's lists to those read so far.
    fn merge(all: &mut Self::Output, page: Self::Output);
}

/// The answer of an action without output: `<return>true</return>`.
#[derive(Clone, Default)]
pub struct Done {
    /// EC2 answers `true` always; None where the client did not get an element.
    pub return_: Option<bool>,
}

impl Done {
    /// `<return>true</return>`.
    pub const OK: Self = Self {
        return_: Some(true),
    };
}

impl Shape for Done {
    fn info(&self) -> &'static ShapeInfo {
        static INFO: ShapeInfo = ShapeInfo {
            name: "Done",
            fields: &[Field {
                name: "Return",
                query: "Return",
                xml: "return",
                item: "item",
                values: &[],
                required: false,
                token: false,
                sparse: false,
            }],
        };
        &INFO
    }
    fn field(&self, _index: usize) -> &dyn Node {
        &self.return_
    }
    fn field_mut(&mut self, _index: usize) -> &mut dyn Node {
        &mut self.return_
    }
}

macro_rules! shape_impls {
    ($name:ident) => {
        impl Node for $name {
            fn get(&self) -> NodeRef<'_> {
                NodeRef::Struct(self)
            }
            fn slot(&mut self) -> NodeMut<'_> {
                NodeMut::Struct(self)
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                crate::wire::debug(self, f)
            }
        }
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                crate::wire::same(self, other)
            }
        }
    };
}

shape_impls!(Done);

#[allow(
    missing_docs,
    reason = "members are documented by AWS under the same names"
)]
mod generated {
    use super::*;
    include!(concat!(env!("OUT_DIR"), "/types.rs"));
}
pub use generated::*;
