//! Turns `model/ec2.trim.json` into Rust types.
//!
//! Built, not checked in: the model is the only source, so types and model cannot drift apart and a reviewer
//! reads this file instead of 25,000 lines. What is generated per shape is small on purpose: a plain struct, a static
//! table of its members and an index into them. All encoding and decoding is ordinary code in `src/wire`,
//! written once over those tables; 1,271 shapes then cost seconds, not minutes, to compile.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, error::Error, fs};

use serde_json::{Map, Value};

/// Enumerations above this size grow monthly (instance types, resource types): the model is always behind,
/// so a request with a value that is not listed is left to the server's own judgement.
const LARGEST_CLOSED_ENUM: usize = 64;

/// Answers that carry only the attribute that was asked for. Elsewhere EC2 writes an empty `<xSet/>` for an
/// empty list; here that would read as a second attribute.
const SPARSE: [&str; 2] = [
    "DescribeNetworkInterfaceAttributeResult",
    "InstanceAttribute",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=model/ec2.trim.json");
    println!("cargo::rerun-if-changed=build.rs");
    let model: Value = serde_json::from_str(&fs::read_to_string("model/ec2.trim.json")?)?;
    let model = Model {
        shapes: object(&model, "shapes")?,
        operations: object(&model, "ops")?,
    };
    let mut out = String::new();
    for (name, shape) in model.shapes {
        if text(shape, "t")? == "structure" {
            model.structure(&mut out, name, shape)?;
        }
    }
    let mut operations = BTreeMap::new();
    for (name, operation) in model.operations {
        operations.insert(name.as_str(), Operation::read(&model, operation)?);
    }
    for (name, operation) in &operations {
        operation.write(&mut out, name)?;
    }
    any_request(&mut out, &operations)?;
    let dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(dir.join("types.rs"), out)?;
    Ok(())
}

struct Model<'a> {
    shapes: &'a Map<String, Value>,
    operations: &'a Map<String, Value>,
}

struct Member {
    rust: String,
    rust_type: String,
    table: String,
    is_list: bool,
}

impl Model<'_> {
    fn shape(&self, name: &str) -> Result<&Value, Box<dyn Error>> {
        self.shapes
            .get(name)
            .ok_or_else(|| format!("shape {name} is not in the model").into())
    }

    fn structure(&self, out: &mut String, name: &str, shape: &Value) -> Result<(), Box<dyn Error>> {
        let members = self.members(name, shape)?;
        writeln!(out, "/// `{name}` of the EC2 model.")?;
        writeln!(out, "#[derive(Clone, Default)]\npub struct {name} {{")?;
        for member in &members {
            writeln!(out, "    pub {}: {},", member.rust, member.rust_type)?;
        }
        writeln!(out, "}}\nimpl Shape for {name} {{")?;
        writeln!(out, "    fn info(&self) -> &'static ShapeInfo {{")?;
        writeln!(
            out,
            "        static INFO: ShapeInfo = ShapeInfo {{ name: \"{name}\", fields: &["
        )?;
        for member in &members {
            writeln!(out, "            {},", member.table)?;
        }
        writeln!(out, "        ] }};\n        &INFO\n    }}")?;
        for (signature, borrow) in [
            ("field(&self, index: usize) -> &dyn Node", "&"),
            (
                "field_mut(&mut self, index: usize) -> &mut dyn Node",
                "&mut ",
            ),
        ] {
            writeln!(out, "    fn {signature} {{\n        match index {{")?;
            for (index, member) in members.iter().enumerate() {
                writeln!(out, "            {index} => {borrow}self.{},", member.rust)?;
            }
            writeln!(
                out,
                "            _ => no_such_field(\"{name}\", index),\n        }}\n    }}"
            )?;
        }
        writeln!(out, "}}\nshape_impls!({name});\n")?;
        Ok(())
    }

    fn members(&self, owner: &str, shape: &Value) -> Result<Vec<Member>, Box<dyn Error>> {
        let required: Vec<&str> = shape["req"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let mut members = Vec::new();
        for (name, member) in object(shape, "m")? {
            let target_name = text(member, "s")?;
            let target = self.shape(target_name)?;
            let is_list = text(target, "t")? == "list";
            let (element_name, item) = if is_list {
                (text(target, "e")?, text(target, "x")?)
            } else {
                (target_name, "item")
            };
            let element = self.shape(element_name)?;
            let scalar = match text(element, "t")? {
                "structure" => element_name,
                "string" => "String",
                "integer" => "i32",
                "long" => "i64",
                "double" => "f64",
                "boolean" => "bool",
                "timestamp" => "Timestamp",
                "blob" => "Blob",
                other => {
                    return Err(format!("{owner}.{name}: type {other} is not known here").into());
                }
            };
            let wrapper = if is_list { "Vec" } else { "Option" };
            let mut values: Vec<&str> = element["enum"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            if values.len() > LARGEST_CLOSED_ENUM {
                values.clear();
            }
            members.push(Member {
                rust: field_name(name),
                rust_type: format!("{wrapper}<{scalar}>"),
                table: format!(
                    "Field {{ name: {name:?}, query: {:?}, xml: {:?}, item: {item:?}, values: &{values:?}, \
                     required: {}, token: {}, sparse: {} }}",
                    text(member, "q")?,
                    text(member, "x")?,
                    required.contains(&name.as_str()),
                    name == "ClientToken" || member["idem"].as_bool().unwrap_or(false),
                    SPARSE.contains(&owner),
                ),
                is_list,
            });
        }
        Ok(members)
    }
}

struct Operation {
    input: String,
    output: String,
    /// The lists that a further page adds to; None: the operation has no pages.
    paged: Option<Vec<String>>,
}

impl Operation {
    fn read(model: &Model<'_>, operation: &Value) -> Result<Self, Box<dyn Error>> {
        let input = text(operation, "i")?.to_owned();
        let Some(output) = operation["o"].as_str().map(str::to_owned) else {
            return Ok(Self {
                input,
                output: "Done".into(),
                paged: None,
            });
        };
        let has_token = |shape: &Value| !shape["m"]["NextToken"].is_null();
        let output_shape = model.shape(&output)?;
        let paged = if has_token(model.shape(&input)?) && has_token(output_shape) {
            let lists = model
                .members(&output, output_shape)?
                .into_iter()
                .filter(|m| m.is_list);
            Some(lists.map(|m| m.rust).collect())
        } else {
            None
        };
        Ok(Self {
            input,
            output,
            paged,
        })
    }

    fn write(&self, out: &mut String, name: &str) -> Result<(), Box<dyn Error>> {
        let Self {
            input,
            output,
            paged,
        } = self;
        let read_only = ["Describe", "Get", "List", "Search"]
            .iter()
            .any(|verb| name.starts_with(verb));
        writeln!(
            out,
            "impl Operation for {input} {{\n    type Output = {output};\n    const NAME: &'static str = {name:?};\n    \
             const READ_ONLY: bool = {read_only};\n}}"
        )?;
        if let Some(lists) = paged {
            writeln!(out, "impl Paged for {input} {{")?;
            writeln!(
                out,
                "    fn set_next_token(&mut self, token: String) {{ self.next_token = Some(token); }}"
            )?;
            writeln!(
                out,
                "    fn next_token(page: &{output}) -> Option<&str> {{ page.next_token.as_deref() }}"
            )?;
            writeln!(out, "    fn merge(all: &mut {output}, page: {output}) {{")?;
            for list in lists {
                writeln!(out, "        all.{list}.extend(page.{list});")?;
            }
            writeln!(out, "        all.next_token = page.next_token;\n    }}\n}}")?;
        }
        Ok(())
    }
}

fn any_request(
    out: &mut String,
    operations: &BTreeMap<&str, Operation>,
) -> Result<(), Box<dyn Error>> {
    writeln!(
        out,
        "/// A decoded request of any modelled operation; the variant is the action's name."
    )?;
    writeln!(
        out,
        "#[derive(Clone, Debug, PartialEq)]\npub enum AnyRequest {{"
    )?;
    for (name, operation) in operations {
        writeln!(out, "    {name}(Box<{}>),", operation.input)?;
    }
    writeln!(out, "}}\nimpl AnyRequest {{")?;
    writeln!(out, "    /// Names of all modelled operations, sorted.")?;
    writeln!(
        out,
        "    pub const ACTIONS: [&str; {}] = [",
        operations.len()
    )?;
    for name in operations.keys() {
        writeln!(out, "        {name:?},")?;
    }
    writeln!(out, "    ];")?;
    writeln!(
        out,
        "    /// An empty request for an action; None: the model has no such action."
    )?;
    writeln!(
        out,
        "    pub fn empty(action: &str) -> Option<Self> {{\n        Some(match action {{"
    )?;
    for name in operations.keys() {
        writeln!(out, "            {name:?} => Self::{name}(Box::default()),")?;
    }
    writeln!(out, "            _ => return None,\n        }})\n    }}")?;
    let arms = |out: &mut String, signature: &str, value: &dyn Fn(&str, &Operation) -> String| {
        writeln!(out, "    {signature} {{\n        match self {{")?;
        for (name, operation) in operations {
            writeln!(out, "            {},", value(name, operation))?;
        }
        writeln!(out, "        }}\n    }}")
    };
    writeln!(out, "    /// The action's name.")?;
    arms(out, "pub fn action(&self) -> &'static str", &|n, _| {
        format!("Self::{n}(_) => {n:?}")
    })?;
    writeln!(out, "    /// The request's members.")?;
    arms(out, "pub fn shape(&self) -> &dyn Shape", &|n, _| {
        format!("Self::{n}(r) => r.as_ref()")
    })?;
    writeln!(out, "    /// The request's members, to be filled.")?;
    arms(
        out,
        "pub fn shape_mut(&mut self) -> &mut dyn Shape",
        &|n, _| format!("Self::{n}(r) => r.as_mut()"),
    )?;
    writeln!(
        out,
        "    /// An empty answer to this request, e.g. to decode into."
    )?;
    arms(
        out,
        "pub fn empty_output(&self) -> Box<dyn Shape>",
        &|n, o| format!("Self::{n}(_) => Box::<{}>::default()", o.output),
    )?;
    writeln!(out, "}}")?;
    Ok(())
}

/// `Ipv4Prefixes` -> `ipv4_prefixes`, `EnableResourceNameDnsAAAARecord` -> `enable_resource_name_dns_aaaa_record`.
fn field_name(member: &str) -> String {
    let letters: Vec<char> = member.chars().collect();
    let mut name = String::new();
    for (i, letter) in letters.iter().enumerate() {
        let after_word = i > 0 && !letters[i - 1].is_uppercase();
        let ends_acronym = i > 0 && letters.get(i + 1).is_some_and(|next| next.is_lowercase());
        if letter.is_uppercase() && (after_word || ends_acronym) {
            name.push('_');
        }
        name.extend(letter.to_lowercase());
    }
    match name.as_str() {
        "type" | "return" => name + "_",
        _ => name,
    }
}

fn object<'a>(value: &'a Value, key: &str) -> Result<&'a Map<String, Value>, Box<dyn Error>> {
    value[key]
        .as_object()
        .ok_or_else(|| format!("{key} is not an object in {value:.200}").into())
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str, Box<dyn Error>> {
    value[key]
        .as_str()
        .ok_or_else(|| format!("{key} is not text in {value:.200}").into())
}
