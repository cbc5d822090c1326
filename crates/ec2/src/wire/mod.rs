//! Encoding and decoding of EC2 Query requests and XML answers, written once over tables.
//!
//! Each generated struct is a [`Shape`]: a static table of its members ([`Field`]: the names in a request and in an
//! answer) and access to member *i* as a [`Node`]. [`form`] and [`xml`] walk these; no code is generated per
//! operation. Decoding is total: bytes are a value or an error that names the parameter or element, never a panic.
//!
//! Protocol: `POST /` with `Action`, `Version` and flattened lists (`Filter.1.Value.2`); answers are XML with
//! `<item>` lists and without a result wrapper.

pub mod form;
pub mod xml;

use std::any::Any;
use std::fmt;

use jiff::Timestamp;

pub use form::RequestError;
pub use xml::{ErrorResponse, XmlError};

/// The API version that the model describes.
pub const VERSION: &str = "2016-11-15";
/// The namespace of answers.
pub const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

/// Structures and lists deeper than this are not EC2's (the model's deepest request has 6): refused before they
/// can exhaust the stack.
pub(crate) const MAX_DEPTH: usize = 32;

/// A structure's name and members.
#[derive(Debug)]
pub struct ShapeInfo {
    /// The model's name of the structure.
    pub name: &'static str,
    /// The members, sorted by name.
    pub fields: &'static [Field],
}

/// A member of a structure.
#[derive(Debug)]
pub struct Field {
    /// The model's name (`NetworkInterfaceIds`), also the key in `aws … --output json`.
    pub name: &'static str,
    /// The name in a request (`NetworkInterfaceId`).
    pub query: &'static str,
    /// The name in an answer (`networkInterfaceId`).
    pub xml: &'static str,
    /// The name of a list's elements in an answer.
    pub item: &'static str,
    /// The allowed values of a closed enumeration; empty: anything.
    pub values: &'static [&'static str],
    /// A request without it is refused.
    pub required: bool,
    /// An idempotency token, filled in by the client where the caller gave none.
    pub token: bool,
    /// An empty list writes no element.
    pub sparse: bool,
}

/// A structure of the model. [`Any`], so that an answer of unknown type can be had back as what it is.
pub trait Shape: Node + Any + fmt::Debug + Send + Sync {
    /// Its name and members.
    fn info(&self) -> &'static ShapeInfo;
    /// Member `index` of [`ShapeInfo::fields`]. Panics when there is none such.
    fn field(&self, index: usize) -> &dyn Node;
    /// Member `index` of [`ShapeInfo::fields`], to be set. Panics when there is none such.
    fn field_mut(&mut self, index: usize) -> &mut dyn Node;
}

/// A value of the model: a structure, a list, a scalar, or nothing.
pub trait Node {
    /// What it holds.
    fn get(&self) -> NodeRef<'_>;
    /// Where to write it; an absent value becomes a default one first.
    fn slot(&mut self) -> NodeMut<'_>;
}

/// A value to be read.
#[expect(missing_docs, reason = "the variants are the model's types")]
pub enum NodeRef<'a> {
    Absent,
    Text(&'a str),
    Bool(bool),
    Integer(i32),
    Long(i64),
    Double(f64),
    Time(Timestamp),
    Blob(&'a [u8]),
    Struct(&'a dyn Shape),
    List(&'a dyn List),
}

/// A place to be written.
#[expect(missing_docs, reason = "the variants are the model's types")]
pub enum NodeMut<'a> {
    Text(&'a mut String),
    Bool(&'a mut bool),
    Integer(&'a mut i32),
    Long(&'a mut i64),
    Double(&'a mut f64),
    Time(&'a mut Timestamp),
    Blob(&'a mut Vec<u8>),
    Struct(&'a mut dyn Shape),
    List(&'a mut dyn List),
}

/// A list of the model.
pub trait List {
    /// How many elements it has.
    fn count(&self) -> usize;
    /// Element `index`; [`NodeRef::Absent`] past the end.
    fn element(&self, index: usize) -> NodeRef<'_>;
    /// Appends a default element and returns its place.
    fn grow(&mut self) -> NodeMut<'_>;
    /// Removes every element.
    fn clear_list(&mut self);
}

/// Binary data: base64 on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

macro_rules! scalars {
    ($($type:ty => $variant:ident, $read:expr, $write:expr;)*) => {$(
        impl Node for $type {
            fn get(&self) -> NodeRef<'_> {
                NodeRef::$variant(($read)(self))
            }
            fn slot(&mut self) -> NodeMut<'_> {
                NodeMut::$variant(($write)(self))
            }
        }
    )*};
}

scalars! {
    String => Text, String::as_str, std::convert::identity;
    bool => Bool, |v: &bool| *v, std::convert::identity;
    i32 => Integer, |v: &i32| *v, std::convert::identity;
    i64 => Long, |v: &i64| *v, std::convert::identity;
    f64 => Double, |v: &f64| *v, std::convert::identity;
    Timestamp => Time, |v: &Timestamp| *v, std::convert::identity;
}

impl Node for Blob {
    fn get(&self) -> NodeRef<'_> {
        NodeRef::Blob(&self.0)
    }
    fn slot(&mut self) -> NodeMut<'_> {
        NodeMut::Blob(&mut self.0)
    }
}

impl<T: Node + Default> Node for Option<T> {
    fn get(&self) -> NodeRef<'_> {
        self.as_ref().map_or(NodeRef::Absent, T::get)
    }
    fn slot(&mut self) -> NodeMut<'_> {
        self.get_or_insert_default().slot()
    }
}

impl<T: Node + Default> Node for Vec<T> {
    fn get(&self) -> NodeRef<'_> {
        NodeRef::List(self)
    }
    fn slot(&mut self) -> NodeMut<'_> {
        NodeMut::List(self)
    }
}

impl<T: Node + Default> List for Vec<T> {
    fn count(&self) -> usize {
        self.len()
    }
    fn element(&self, index: usize) -> NodeRef<'_> {
        <[T]>::get(self, index).map_or(NodeRef::Absent, T::get)
    }
    fn grow(&mut self) -> NodeMut<'_> {
        self.push(T::default());
        self.last_mut().expect("an element was pushed").slot()
    }
    fn clear_list(&mut self) {
        self.clear();
    }
}

impl NodeRef<'_> {
    /// The scalar's text on the wire; None for structures, lists and nothing.
    pub fn to_text(&self) -> Option<String> {
        Some(match self {
            NodeRef::Absent | NodeRef::Struct(_) | NodeRef::List(_) => return None,
            NodeRef::Text(v) => (*v).to_owned(),
            NodeRef::Bool(v) => v.to_string(),
            NodeRef::Integer(v) => v.to_string(),
            NodeRef::Long(v) => v.to_string(),
            NodeRef::Double(v) => v.to_string(),
            NodeRef::Time(v) => format!("{v:.3}"),
            NodeRef::Blob(v) => base64(v),
        })
    }
}

impl NodeMut<'_> {
    /// Parses a scalar's text; Err: what was expected.
    pub(crate) fn parse(self, text: &str) -> Result<(), &'static str> {
        fn into<T: std::str::FromStr>(
            place: &mut T,
            text: &str,
            expected: &'static str,
        ) -> Result<(), &'static str> {
            *place = text.parse().map_err(|_| expected)?;
            Ok(())
        }
        match self {
            NodeMut::Text(place) => {
                text.clone_into(place);
                Ok(())
            }
            NodeMut::Bool(place) => {
                *place = match text {
                    _ if text.eq_ignore_ascii_case("true") => true,
                    _ if text.eq_ignore_ascii_case("false") => false,
                    _ => return Err("true or false"),
                };
                Ok(())
            }
            NodeMut::Integer(place) => into(place, text, "a 32 bit integer"),
            NodeMut::Long(place) => into(place, text, "a 64 bit integer"),
            NodeMut::Double(place) => into(place, text, "a number"),
            NodeMut::Time(place) => into(place, text, "a time such as 2026-01-01T00:00:00.000Z"),
            NodeMut::Blob(place) => {
                *place = unbase64(text).ok_or("base64")?;
                Ok(())
            }
            NodeMut::Struct(_) => Err("a structure"),
            NodeMut::List(_) => Err("a list"),
        }
    }
}

/// The member of a shape with this name in the model, as a node.
pub fn member<'a>(shape: &'a dyn Shape, name: &str) -> Option<NodeRef<'a>> {
    let index = shape
        .info()
        .fields
        .iter()
        .position(|field| field.name == name)?;
    Some(shape.field(index).get())
}

/// `Name { Member: value, … }` with the members that are set.
pub(crate) fn debug(shape: &dyn Shape, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let info = shape.info();
    let mut out = f.debug_struct(info.name);
    for (index, field) in info.fields.iter().enumerate() {
        let node = shape.field(index).get();
        match node {
            NodeRef::Absent => {}
            NodeRef::List(list) if list.count() == 0 => {}
            // The private key that CreateKeyPair answers must not reach a log.
            _ if field.name == "KeyMaterial" => {
                out.field(field.name, &"…");
            }
            _ => {
                out.field(field.name, &node);
            }
        }
    }
    out.finish()
}

impl fmt::Debug for NodeRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NodeRef::Absent => f.write_str("-"),
            NodeRef::Text(v) => v.fmt(f),
            NodeRef::Bool(v) => v.fmt(f),
            NodeRef::Integer(v) => v.fmt(f),
            NodeRef::Long(v) => v.fmt(f),
            NodeRef::Double(v) => v.fmt(f),
            NodeRef::Time(v) => v.fmt(f),
            NodeRef::Blob(v) => v.fmt(f),
            NodeRef::Struct(v) => v.fmt(f),
            NodeRef::List(v) => f
                .debug_list()
                .entries((0..v.count()).map(|i| v.element(i)))
                .finish(),
        }
    }
}

impl PartialEq for dyn Shape + '_ {
    fn eq(&self, other: &Self) -> bool {
        same(self, other)
    }
}

/// Equality of two values of the same shape.
pub(crate) fn same(a: &dyn Shape, b: &dyn Shape) -> bool {
    let (fields, others) = (a.info().fields, b.info().fields);
    std::ptr::eq(fields, others)
        && (0..fields.len()).all(|i| same_node(&a.field(i).get(), &b.field(i).get()))
}

fn same_node(a: &NodeRef<'_>, b: &NodeRef<'_>) -> bool {
    match (a, b) {
        (NodeRef::Absent, NodeRef::Absent) => true,
        (NodeRef::Text(a), NodeRef::Text(b)) => a == b,
        (NodeRef::Bool(a), NodeRef::Bool(b)) => a == b,
        (NodeRef::Integer(a), NodeRef::Integer(b)) => a == b,
        (NodeRef::Long(a), NodeRef::Long(b)) => a == b,
        (NodeRef::Double(a), NodeRef::Double(b)) => a == b,
        (NodeRef::Time(a), NodeRef::Time(b)) => a == b,
        (NodeRef::Blob(a), NodeRef::Blob(b)) => a == b,
        (NodeRef::Struct(a), NodeRef::Struct(b)) => same(*a, *b),
        (NodeRef::List(a), NodeRef::List(b)) => {
            a.count() == b.count()
                && (0..a.count()).all(|i| same_node(&a.element(i), &b.element(i)))
        }
        _ => false,
    }
}

/// The generated index functions are total over their table; anything else is a defect of this crate.
pub(crate) fn no_such_field(shape: &str, index: usize) -> ! {
    panic!("{shape} has no member {index}")
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit)) & 63;
            out.push(if digit <= chunk.len() {
                ALPHABET[index as usize] as char
            } else {
                '='
            });
        }
    }
    out
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if text.len() - digits.len() > 2 || digits.len() % 4 == 1 {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut word, mut bits) = (0u32, 0);
    for digit in digits.bytes() {
        let value = ALPHABET.iter().position(|letter| *letter == digit)?;
        word = (word << 6) | u32::try_from(value).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits) as u8);
            word &= (1 << bits) - 1;
        }
    }
    Some(out)
}
