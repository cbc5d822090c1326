//! Fills any shape with values that differ from each other, by a seed.

use std::collections::BTreeSet;

use ec2::types::Timestamp;
use ec2::wire::{Field, NodeMut, NodeRef, Shape};

/// A small generator: which member is set, and to what, follows from the seed alone.
pub(crate) struct Filler {
    state: u64,
    /// Set every member; else about half of them.
    full: bool,
    /// Every structure that was filled.
    pub(crate) seen: BTreeSet<&'static str>,
}

impl Filler {
    pub(crate) fn new(seed: u64, full: bool) -> Self {
        Self {
            state: seed,
            full,
            seen: BTreeSet::new(),
        }
    }

    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn shape(&mut self, shape: &mut dyn Shape) {
        let info = shape.info();
        self.seen.insert(info.name);
        for (index, field) in info.fields.iter().enumerate() {
            if self.full || field.required || self.next().is_multiple_of(2) {
                self.node(shape.field_mut(index).slot(), field);
            }
        }
        // A request cannot say "a structure without members".
        if is_empty(shape) {
            let index = (self.next() % info.fields.len() as u64) as usize;
            self.node(shape.field_mut(index).slot(), &info.fields[index]);
        }
    }

    fn node(&mut self, place: NodeMut<'_>, field: &Field) {
        let dice = self.next();
        match place {
            NodeMut::Text(text) => *text = self.text(field),
            NodeMut::Bool(value) => *value = dice.is_multiple_of(2),
            NodeMut::Integer(value) => *value = dice as i32,
            NodeMut::Long(value) => *value = dice as i64,
            NodeMut::Double(value) => *value = (dice % 1_000_000) as f64 / 64.0,
            NodeMut::Time(value) => {
                *value = Timestamp::from_millisecond((dice % 4_000_000_000_000) as i64).unwrap();
            }
            NodeMut::Blob(value) => *value = dice.to_le_bytes()[..(dice % 9) as usize].to_vec(),
            NodeMut::Struct(shape) => self.shape(shape),
            NodeMut::List(list) => {
                for _ in 0..1 + dice % 12 {
                    self.node(list.grow(), field);
                }
            }
        }
    }

    fn text(&mut self, field: &Field) -> String {
        let dice = self.next();
        if !field.values.is_empty() {
            return field.values[(dice % field.values.len() as u64) as usize].to_owned();
        }
        let ends = [
            "",
            " ",
            "<&>",
            "\"'",
            "ü漢🦀",
            "a+b=%2B",
            "\r\n\t",
            "]]>",
            "&amp;",
        ];
        let end = ends[(dice % ends.len() as u64) as usize];
        format!("{end}{}-{}{end}", field.name, dice % 1000)
    }
}

fn is_empty(shape: &dyn Shape) -> bool {
    (0..shape.info().fields.len()).all(|index| match shape.field(index).get() {
        NodeRef::Absent => true,
        NodeRef::List(list) => list.count() == 0,
        _ => false,
    })
}
