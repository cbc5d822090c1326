//! The table of address sets that rules refer to by name.

use std::collections::BTreeMap;
use std::fmt;

use flowset::RangeSet;

/// The name of a set: the id of what it holds (`sg-…` for a group's members, `pl-…` for a prefix
/// list), so that it is stable and one set is shared by all rules that name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetName(pub String);

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<T: Into<String>> From<T> for SetName {
    fn from(name: T) -> Self {
        SetName(name.into())
    }
}

/// Address sets by name. A name that is not here is *unknown*, not empty: see [`crate::Decided`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sets {
    sets: BTreeMap<SetName, RangeSet<u32>>,
}

impl Sets {
    /// A table without sets.
    pub fn new() -> Self {
        Self::default()
    }

    /// The addresses of a set; `None` when the set is not known.
    pub fn get(&self, name: &SetName) -> Option<&RangeSet<u32>> {
        self.sets.get(name)
    }

    /// Puts a set into the table, in the place of one of the same name.
    pub fn insert(&mut self, name: SetName, addresses: RangeSet<u32>) {
        self.sets.insert(name, addresses);
    }

    /// Whether the set is known.
    pub fn contains(&self, name: &SetName) -> bool {
        self.sets.contains_key(name)
    }

    /// All sets by name.
    pub fn iter(&self) -> impl Iterator<Item = (&SetName, &RangeSet<u32>)> {
        self.sets.iter()
    }
}

impl FromIterator<(SetName, RangeSet<u32>)> for Sets {
    fn from_iter<I: IntoIterator<Item = (SetName, RangeSet<u32>)>>(iter: I) -> Self {
        Sets {
            sets: iter.into_iter().collect(),
        }
    }
}
