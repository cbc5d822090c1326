//! JSON as Go reads it: upstream's configuration parser matches keys without regard to case, lets
//! the last of several spellings win, and treats `null` as absent. Configurations in the field rely
//! on it, so the plugin reads them the same way.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::Error;

/// The members of a JSON object in the order of the text, duplicates included.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    /// The path to this object, for error messages: empty for the document.
    path: String,
    members: Vec<(String, Value)>,
}

impl Object {
    /// Parses a document that must be one object.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let members: Members =
            serde_json::from_slice(bytes).map_err(|source| Error::NotJson { source })?;
        Ok(Self {
            path: String::new(),
            members: members.0,
        })
    }

    fn of(path: String, value: &Value) -> Result<Self, Error> {
        match value {
            Value::Object(map) => {
                let members = map.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                Ok(Self { path, members })
            }
            other => Err(wrong(path, "an object", other)),
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The value of `key`, whatever its case; the last one wins; `null` counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        let set = |(name, value): &&(String, Value)| !value.is_null() && folds_to(name, key);
        self.members.iter().rev().find(set).map(|(_, value)| value)
    }

    /// A string, `None` when absent.
    pub(crate) fn text(&self, key: &str) -> Result<Option<String>, Error> {
        self.get(key)
            .map(|value| self.as_text(key, value))
            .transpose()
    }

    fn as_text(&self, key: &str, value: &Value) -> Result<String, Error> {
        match value {
            Value::String(text) => Ok(text.clone()),
            other => Err(wrong(self.path_of(key), "a string", other)),
        }
    }

    /// A non-negative integer, `None` when absent.
    pub(crate) fn number<T: TryFrom<u64>>(&self, key: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let number = value.as_u64().and_then(|number| T::try_from(number).ok());
        number
            .map(Some)
            .ok_or_else(|| wrong(self.path_of(key), "a small whole number", value))
    }

    /// A nested object, `None` when absent.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>, Error> {
        self.get(key)
            .map(|value| Self::of(self.path_of(key), value))
            .transpose()
    }

    /// A list of objects, empty when absent.
    pub(crate) fn objects(&self, key: &str) -> Result<Vec<Self>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(Vec::new());
        };
        let Value::Array(items) = value else {
            return Err(wrong(self.path_of(key), "a list", value));
        };
        let path = self.path_of(key);
        let each = items.iter().enumerate();
        each.map(|(at, item)| Self::of(format!("{path}[{at}]"), item))
            .collect()
    }

    /// A list of strings, empty when absent.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<String>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(Vec::new());
        };
        let Value::Array(items) = value else {
            return Err(wrong(self.path_of(key), "a list", value));
        };
        items.iter().map(|item| self.as_text(key, item)).collect()
    }

    /// An address, `None` when absent or empty.
    pub(crate) fn address(&self, key: &str) -> Result<Option<IpAddr>, Error> {
        let text = self.text(key)?.filter(|text| !text.is_empty());
        text.map(|text| self.parse_value(key, &text, "an IP address"))
            .transpose()
    }

    /// An address with a prefix length; host bits are kept.
    pub(crate) fn prefix(&self, key: &str) -> Result<IpNet, Error> {
        let text = self.text(key)?.unwrap_or_default();
        self.parse_value(key, &text, "an address in CIDR form")
    }

    fn parse_value<T: std::str::FromStr>(
        &self,
        key: &str,
        text: &str,
        expected: &'static str,
    ) -> Result<T, Error> {
        let failed = |_| self.value_error(key, text, expected);
        text.parse().map_err(failed)
    }

    /// The error for a value of the right type that is not acceptable.
    pub(crate) fn value_error(&self, key: &str, text: &str, expected: &'static str) -> Error {
        Error::Value {
            key: self.path_of(key),
            value: text.to_owned(),
            expected,
        }
    }
}

fn wrong(key: String, expected: &'static str, found: &Value) -> Error {
    let found = match found {
        Value::Null => "null".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        scalar => scalar.to_string(),
    };
    Error::WrongType {
        key,
        expected,
        found,
    }
}

/// Go's folding: equal after mapping each character to upper and then to lower case.
fn folds_to(name: &str, key: &str) -> bool {
    let fold = |text: &str| -> Vec<char> {
        text.chars()
            .flat_map(char::to_uppercase)
            .flat_map(char::to_lowercase)
            .collect()
    };
    name.eq_ignore_ascii_case(key) || (!name.is_ascii() && fold(name) == fold(key))
}

struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(InOrder)
    }
}

/// JSON indented by four spaces without a final newline, as Go's CNI library prints.
pub(crate) fn pretty(value: &impl serde::Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut to = serde_json::Serializer::with_formatter(&mut out, indent);
    value
        .serialize(&mut to)
        .expect("strings, numbers and lists always serialise into memory");
    out
}
