//! XML answers: `<DescribeVpcsResponse xmlns="…"><requestId>…</requestId><vpcSet><item>…</item></vpcSet></…>`.
//!
//! Elements that the model does not know are skipped: EC2 adds members at any time. A member that is not set
//! writes no element at all: an empty `<nextToken/>` would send some clients round for ever.

use quick_xml::Reader;
use quick_xml::escape::{escape, resolve_predefined_entity};
use quick_xml::events::{BytesRef, Event};

use crate::types::Operation;
use crate::wire::{Field, List, MAX_DEPTH, NAMESPACE, NodeMut, NodeRef, Shape};

/// An answer that is not EC2's XML.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the members are the element and what was read")]
pub enum XmlError {
    #[error("not well-formed XML at byte {position}")]
    Syntax {
        position: u64,
        #[source]
        source: quick_xml::Error,
    },
    #[error("not UTF-8 at byte {position}")]
    Encoding {
        position: usize,
        #[source]
        source: std::str::Utf8Error,
    },
    #[error("unknown entity &{name}; at byte {position}")]
    Entity { name: String, position: u64 },
    #[error("the document ends inside of <{element}>")]
    Truncated { element: String },
    #[error("the document has no element")]
    Empty,
    #[error("elements are nested deeper than {MAX_DEPTH} at byte {position}")]
    TooDeep { position: u64 },
    #[error("<{element}> is '{value}', not {expected}")]
    Value {
        element: String,
        value: String,
        expected: &'static str,
    },
    #[error("expected <{expected}>, found <{found}>")]
    WrongRoot { expected: String, found: String },
}

/// Errors as EC2 writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorResponse {
    /// `InvalidVpcID.NotFound`
    pub code: String,
    /// Text for people.
    pub message: String,
    /// The request's id, for AWS support.
    pub request_id: String,
}

/// The answer of an action, as a document.
pub fn encode(action: &str, output: &dyn Shape, request_id: &str) -> String {
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response xmlns=\"{NAMESPACE}\"><requestId>{}</requestId>",
        text(request_id)
    );
    struct_elements(&mut out, output);
    out.push_str(&format!("</{action}Response>"));
    out
}

/// The answer of the action `O`, as a document.
pub fn encode_output<O: Operation>(output: &O::Output, request_id: &str) -> String {
    encode(O::NAME, output, request_id)
}

/// An error, as a document.
pub fn encode_error(error: &ErrorResponse) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{}</Code><Message>{}</Message></Error></Errors>\
         <RequestID>{}</RequestID></Response>",
        text(&error.code),
        text(&error.message),
        text(&error.request_id)
    )
}

fn struct_elements(out: &mut String, shape: &dyn Shape) {
    for (index, field) in shape.info().fields.iter().enumerate() {
        match shape.field(index).get() {
            NodeRef::List(list) if list.count() == 0 && field.sparse => {}
            // An empty token is none: clients that look for the element would ask for ever.
            NodeRef::Text("") if field.name == "NextToken" => {}
            NodeRef::List(list) => element(out, field.xml, |out| {
                for index in 0..list.count() {
                    node_element(out, field.item, &list.element(index));
                }
            }),
            node => node_element(out, field.xml, &node),
        }
    }
}

fn node_element(out: &mut String, name: &str, node: &NodeRef<'_>) {
    if let NodeRef::Struct(shape) = node {
        element(out, name, |out| struct_elements(out, *shape));
    } else if let Some(value) = node.to_text() {
        element(out, name, |out| out.push_str(&text(&value)));
    }
}

fn element(out: &mut String, name: &str, content: impl FnOnce(&mut String)) {
    out.extend(["<", name, ">"]);
    let before = out.len();
    content(out);
    if out.len() == before {
        out.insert(before - 1, '/');
    } else {
        out.extend(["</", name, ">"]);
    }
}

/// Escaped text. XML 1.0 cannot carry most control characters at all: they become U+FFFD; a carriage return would
/// be read as a line feed: it becomes a reference.
fn text(value: &str) -> String {
    let clean: String = value
        .chars()
        .map(|c| match c {
            '\t' | '\n' | '\r' => c,
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
            c => c,
        })
        .collect();
    escape(clean.as_str()).replace('\r', "&#13;")
}

/// Decodes the answer of the action `O`; also its request id.
pub fn decode<O: Operation>(body: &[u8]) -> Result<(O::Output, Option<String>), XmlError> {
    let mut output = O::Output::default();
    let request_id = decode_into(O::NAME, &mut output, body)?;
    Ok((output, request_id))
}

/// Decodes the answer of an action into an empty output; returns the request id.
pub fn decode_into(
    action: &str,
    output: &mut dyn Shape,
    body: &[u8],
) -> Result<Option<String>, XmlError> {
    let mut document = Document::new(body)?;
    let expected = format!("{action}Response");
    let root = document.root()?;
    if root != expected {
        return Err(XmlError::WrongRoot {
            expected,
            found: root,
        });
    }
    let mut request_id = None;
    while let Some(name) = document.child(&root)? {
        if name == "requestId" {
            request_id = Some(document.text(&name)?);
        } else {
            document.member(output, &name, 1)?;
        }
    }
    Ok(request_id)
}

/// Decodes an error document; Err: it is none (a proxy's page, say).
pub fn decode_error(body: &[u8]) -> Result<ErrorResponse, XmlError> {
    let mut document = Document::new(body)?;
    let root = document.root()?;
    if root != "Response" {
        return Err(XmlError::WrongRoot {
            expected: "Response".into(),
            found: root,
        });
    }
    let mut error = ErrorResponse::default();
    while let Some(name) = document.child(&root)? {
        match name.as_str() {
            "Errors" => document.errors(&name, &mut error)?,
            "RequestID" | "RequestId" => error.request_id = document.text(&name)?,
            _ => document.skip(&name)?,
        }
    }
    Ok(error)
}

struct Document<'a> {
    reader: Reader<&'a [u8]>,
}

impl<'a> Document<'a> {
    fn new(body: &'a [u8]) -> Result<Self, XmlError> {
        let text = str::from_utf8(body).map_err(|source| XmlError::Encoding {
            position: source.valid_up_to(),
            source,
        })?;
        let mut reader = Reader::from_str(text);
        reader.config_mut().expand_empty_elements = true;
        Ok(Self { reader })
    }

    fn next(&mut self) -> Result<Event<'a>, XmlError> {
        let position = self.reader.buffer_position();
        self.reader
            .read_event()
            .map_err(|source| XmlError::Syntax { position, source })
    }

    fn root(&mut self) -> Result<String, XmlError> {
        loop {
            match self.next()? {
                Event::Start(start) => return Ok(start.local_name().as_ref().to_owned()),
                Event::Eof => return Err(XmlError::Empty),
                _ => {}
            }
        }
    }

    /// The next child element of the open element `parent`; None at its end.
    fn child(&mut self, parent: &str) -> Result<Option<String>, XmlError> {
        loop {
            match self.next()? {
                Event::Start(start) => return Ok(Some(start.local_name().as_ref().to_owned())),
                Event::End(_) => return Ok(None),
                Event::Eof => {
                    return Err(XmlError::Truncated {
                        element: parent.to_owned(),
                    });
                }
                _ => {}
            }
        }
    }

    /// The text of the open element, to its end; elements inside of it are skipped.
    fn text(&mut self, element: &str) -> Result<String, XmlError> {
        let mut out = String::new();
        loop {
            match self.next()? {
                Event::Text(text) => out.push_str(&text),
                Event::CData(text) => out.push_str(&text),
                Event::GeneralRef(reference) => self.reference(&reference, &mut out)?,
                Event::Start(start) => {
                    let name = start.local_name().as_ref().to_owned();
                    self.skip(&name)?;
                }
                Event::End(_) => return Ok(out),
                Event::Eof => {
                    return Err(XmlError::Truncated {
                        element: element.to_owned(),
                    });
                }
                _ => {}
            }
        }
    }

    fn reference(&self, reference: &BytesRef<'_>, out: &mut String) -> Result<(), XmlError> {
        let name = reference.to_string();
        if let Ok(Some(letter)) = reference.resolve_char_ref() {
            out.push(letter);
        } else if let Some(text) = resolve_predefined_entity(&name) {
            out.push_str(text);
        } else {
            return Err(XmlError::Entity {
                name,
                position: self.reader.buffer_position(),
            });
        }
        Ok(())
    }

    /// Skips to the end of the open element.
    fn skip(&mut self, element: &str) -> Result<(), XmlError> {
        let mut open = 1;
        while open > 0 {
            match self.next()? {
                Event::Start(_) => open += 1,
                Event::End(_) => open -= 1,
                Event::Eof => {
                    return Err(XmlError::Truncated {
                        element: element.to_owned(),
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Decodes the open element `name` into the member that it is.
    fn member(&mut self, shape: &mut dyn Shape, name: &str, depth: usize) -> Result<(), XmlError> {
        let fields = shape.info().fields;
        match fields.iter().position(|field| field.xml == name) {
            Some(index) => self.node(shape.field_mut(index).slot(), &fields[index], name, depth),
            None => self.skip(name),
        }
    }

    fn node(
        &mut self,
        place: NodeMut<'_>,
        field: &Field,
        name: &str,
        depth: usize,
    ) -> Result<(), XmlError> {
        if depth > MAX_DEPTH {
            return Err(XmlError::TooDeep {
                position: self.reader.buffer_position(),
            });
        }
        match place {
            NodeMut::Struct(shape) => {
                while let Some(child) = self.child(name)? {
                    self.member(shape, &child, depth + 1)?;
                }
                Ok(())
            }
            NodeMut::List(list) => self.list(list, field, name, depth),
            scalar => {
                let value = self.text(name)?;
                scalar.parse(&value).map_err(|expected| XmlError::Value {
                    element: name.to_owned(),
                    value,
                    expected,
                })
            }
        }
    }

    fn list(
        &mut self,
        list: &mut dyn List,
        field: &Field,
        name: &str,
        depth: usize,
    ) -> Result<(), XmlError> {
        while let Some(child) = self.child(name)? {
            self.node(list.grow(), field, &child, depth + 1)?;
        }
        Ok(())
    }

    /// The first error counts: EC2 sends one.
    fn errors(&mut self, parent: &str, error: &mut ErrorResponse) -> Result<(), XmlError> {
        while let Some(name) = self.child(parent)? {
            if name != "Error" || !error.code.is_empty() {
                self.skip(&name)?;
                continue;
            }
            while let Some(name) = self.child("Error")? {
                match name.as_str() {
                    "Code" => error.code = self.text(&name)?,
                    "Message" => error.message = self.text(&name)?,
                    _ => self.skip(&name)?,
                }
            }
        }
        Ok(())
    }
}
