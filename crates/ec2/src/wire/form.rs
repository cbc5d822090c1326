//! Query requests: `Action=CreateSubnet&Version=2016-11-15&TagSpecification.1.Tag.1.Key=Name&…`.
//!
//! Decoding is as strict as EC2: a parameter that the action does not have is an error, for a misspelt filter that
//! is ignored would answer with everything.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::types::AnyRequest;
use crate::wire::{Field, List, MAX_DEPTH, NodeMut, NodeRef, Shape, VERSION};

/// A request that cannot be understood: all are answered with status 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the members are the parameter and what was read"
)]
pub enum RequestError {
    /// The body has no `Action`.
    #[error("The request must contain the parameter Action")]
    MissingAction,
    /// The model has no such action: no EC2 action, or one that nothing here needs.
    #[error("The action {action} is not valid for this web service.")]
    InvalidAction { action: String },
    #[error("The parameter {parameter} is not recognized")]
    UnknownParameter { parameter: String },
    #[error("The request must contain the parameter {parameter}")]
    MissingParameter { parameter: String },
    #[error("Value ({value}) for parameter {parameter} is invalid. Expected {expected}.")]
    InvalidParameterValue {
        parameter: String,
        value: String,
        expected: String,
    },
}

impl RequestError {
    /// The error code that EC2 answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidAction { .. } => "InvalidAction",
            Self::UnknownParameter { .. } => "UnknownParameter",
            Self::MissingAction | Self::MissingParameter { .. } => "MissingParameter",
            Self::InvalidParameterValue { .. } => "InvalidParameterValue",
        }
    }
}

/// The body of a request, `Action` and `Version` first.
pub fn encode(action: &str, request: &dyn Shape) -> String {
    let mut out = form_urlencoded::Serializer::new(String::new());
    out.append_pair("Action", action)
        .append_pair("Version", VERSION);
    pairs(request, &mut String::new(), &mut |name, value| {
        out.append_pair(name, value);
    });
    out.finish()
}

/// Every parameter of a request with its flattened name.
fn pairs(shape: &dyn Shape, prefix: &mut String, out: &mut dyn FnMut(&str, &str)) {
    for (index, field) in shape.info().fields.iter().enumerate() {
        let length = push_name(prefix, field.query);
        node_pairs(&shape.field(index).get(), prefix, out);
        prefix.truncate(length);
    }
}

fn node_pairs(node: &NodeRef<'_>, name: &mut String, out: &mut dyn FnMut(&str, &str)) {
    match node {
        NodeRef::Struct(shape) => pairs(*shape, name, out),
        NodeRef::List(list) => {
            for index in 0..list.count() {
                let length = push_name(name, &(index + 1).to_string());
                node_pairs(&list.element(index), name, out);
                name.truncate(length);
            }
        }
        scalar => {
            if let Some(text) = scalar.to_text() {
                out(name, &text);
            }
        }
    }
}

/// Appends `.part`; returns the length before it.
fn push_name(name: &mut String, part: &str) -> usize {
    let length = name.len();
    if length > 0 {
        name.push('.');
    }
    name.push_str(part);
    length
}

impl AnyRequest {
    /// Decodes a body (or a query string) of any modelled action. Signature parameters are skipped.
    pub fn decode(body: &[u8]) -> Result<Self, RequestError> {
        let mut root = Parameters::default();
        let mut action = None;
        for (name, value) in form_urlencoded::parse(body) {
            match name.as_ref() {
                "Action" => action = Some(value.into_owned()),
                name if is_envelope(name) => {}
                name => root.insert(name, value)?,
            }
        }
        let action = action.ok_or(RequestError::MissingAction)?;
        let Some(mut request) = Self::empty(&action) else {
            return Err(RequestError::InvalidAction { action });
        };
        root.decode_struct(request.shape_mut(), "")?;
        Ok(request)
    }

    /// The caller asks only whether it would be allowed.
    pub fn is_dry_run(&self) -> bool {
        matches!(
            crate::wire::member(self.shape(), "DryRun"),
            Some(NodeRef::Bool(true))
        )
    }

    /// The idempotency token that the caller gave.
    pub fn client_token(&self) -> Option<&str> {
        match crate::wire::member(self.shape(), "ClientToken") {
            Some(NodeRef::Text(token)) if !token.is_empty() => Some(token),
            _ => None,
        }
    }
}

/// Parameters of the protocol and of query-string signatures (versions 2 and 4), no members of an action.
fn is_envelope(name: &str) -> bool {
    const NAMES: [&str; 6] = [
        "Version",
        "AWSAccessKeyId",
        "Signature",
        "SignatureMethod",
        "SignatureVersion",
        "SecurityToken",
    ];
    NAMES.contains(&name)
        || name
            .get(..6)
            .is_some_and(|start| start.eq_ignore_ascii_case("x-amz-"))
}

/// `A.1.B=v` as a tree: parameters by their dotted names.
#[derive(Default)]
struct Parameters {
    value: Option<String>,
    children: BTreeMap<String, Parameters>,
}

impl Parameters {
    fn insert(&mut self, name: &str, value: Cow<'_, str>) -> Result<(), RequestError> {
        let unknown = || RequestError::UnknownParameter {
            parameter: name.to_owned(),
        };
        let mut at = self;
        for (depth, part) in name.split('.').enumerate() {
            if depth >= MAX_DEPTH || part.is_empty() {
                return Err(unknown());
            }
            at = at.children.entry(part.to_owned()).or_default();
        }
        if at.value.is_some() {
            return Err(RequestError::InvalidParameterValue {
                parameter: name.to_owned(),
                value: value.into_owned(),
                expected: "one value, the parameter is given twice".into(),
            });
        }
        at.value = Some(value.into_owned());
        Ok(())
    }

    fn decode_struct(&self, shape: &mut dyn Shape, name: &str) -> Result<(), RequestError> {
        let fields = shape.info().fields;
        for (part, child) in &self.children {
            let name = dotted(name, part);
            let Some(index) = fields.iter().position(|field| field.query == part) else {
                return Err(RequestError::UnknownParameter {
                    parameter: child.first_name(name),
                });
            };
            child.decode_node(shape.field_mut(index).slot(), &fields[index], &name)?;
        }
        for (index, field) in fields.iter().enumerate() {
            let missing = match shape.field(index).get() {
                NodeRef::Absent => true,
                NodeRef::List(list) => list.count() == 0,
                _ => false,
            };
            if field.required && missing {
                return Err(RequestError::MissingParameter {
                    parameter: dotted(name, field.query),
                });
            }
        }
        Ok(())
    }

    fn decode_node(
        &self,
        place: NodeMut<'_>,
        field: &Field,
        name: &str,
    ) -> Result<(), RequestError> {
        match place {
            NodeMut::List(list) => self.decode_list(list, field, name),
            NodeMut::Struct(shape) => {
                self.no_value(name, "a structure")?;
                self.decode_struct(shape, name)
            }
            scalar => self.decode_scalar(scalar, field, name),
        }
    }

    fn decode_list(
        &self,
        list: &mut dyn List,
        field: &Field,
        name: &str,
    ) -> Result<(), RequestError> {
        // Some clients write an empty list as `Name=`.
        self.no_value(name, "a list, Name.1, Name.2, …")?;
        let mut elements = BTreeMap::new();
        for (part, child) in &self.children {
            let position: u32 = match part.parse() {
                Ok(position) if position > 0 => position,
                _ => {
                    let parameter = child.first_name(dotted(name, part));
                    return Err(RequestError::UnknownParameter { parameter });
                }
            };
            if elements.insert(position, (part, child)).is_some() {
                let parameter = dotted(name, part);
                return Err(RequestError::UnknownParameter { parameter });
            }
        }
        for (part, child) in elements.into_values() {
            child.decode_node(list.grow(), field, &dotted(name, part))?;
        }
        Ok(())
    }

    fn decode_scalar(
        &self,
        place: NodeMut<'_>,
        field: &Field,
        name: &str,
    ) -> Result<(), RequestError> {
        let Some(value) = self.value.as_deref().filter(|_| self.children.is_empty()) else {
            return Err(RequestError::UnknownParameter {
                parameter: self.first_name(name.to_owned()),
            });
        };
        let invalid = |expected: String| RequestError::InvalidParameterValue {
            parameter: name.to_owned(),
            value: value.to_owned(),
            expected,
        };
        if !field.values.is_empty() && !field.values.contains(&value) {
            return Err(invalid(field.values.join(", ")));
        }
        place
            .parse(value)
            .map_err(|expected| invalid(expected.to_owned()))
    }

    /// A structure or list has members, not a value.
    fn no_value(&self, name: &str, expected: &str) -> Result<(), RequestError> {
        match self.value.as_deref() {
            None | Some("") => Ok(()),
            Some(value) => Err(RequestError::InvalidParameterValue {
                parameter: name.to_owned(),
                value: value.to_owned(),
                expected: expected.to_owned(),
            }),
        }
    }

    /// The full name of the first parameter at or below this one: what the caller wrote.
    fn first_name(&self, mut name: String) -> String {
        let mut at = self;
        while let (None, Some((part, child))) = (&at.value, at.children.iter().next()) {
            name = dotted(&name, part);
            at = child;
        }
        name
    }
}

fn dotted(name: &str, part: &str) -> String {
    if name.is_empty() {
        part.to_owned()
    } else {
        format!("{name}.{part}")
    }
}
