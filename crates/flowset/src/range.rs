//! Sets of numbers as sorted, disjoint, non-adjacent inclusive ranges.
//!
//! Invariant: `ranges[i].1 + 1 < ranges[i + 1].0`, so equal sets have equal representations and
//! derived equality is set equality.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// A number type with a smallest and a largest value: `u8`, `u16`, `u32`.
pub trait Bound: Copy + Ord + fmt::Debug + fmt::Display {
    /// The smallest value.
    const MIN: Self;
    /// The largest value.
    const MAX: Self;
    /// The next value, `None` after [`Bound::MAX`].
    fn succ(self) -> Option<Self>;
    /// The value before, `None` before [`Bound::MIN`].
    fn pred(self) -> Option<Self>;
    /// The value as `u64`, for counting.
    fn to_u64(self) -> u64;
}

macro_rules! bounds {
    ($($t:ty)*) => {$(
        impl Bound for $t {
            const MIN: Self = <$t>::MIN;
            const MAX: Self = <$t>::MAX;
            fn succ(self) -> Option<Self> {
                self.checked_add(1)
            }
            fn pred(self) -> Option<Self> {
                self.checked_sub(1)
            }
            fn to_u64(self) -> u64 {
                u64::from(self)
            }
        }
    )*};
}

bounds! { u8 u16 u32 }

/// A set of numbers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RangeSet<T> {
    ranges: Vec<(T, T)>,
}

impl<T: Bound> RangeSet<T> {
    /// The set without members.
    pub fn empty() -> Self {
        RangeSet { ranges: Vec::new() }
    }

    /// The set of all numbers.
    pub fn full() -> Self {
        RangeSet {
            ranges: vec![(T::MIN, T::MAX)],
        }
    }

    /// The set of one number.
    pub fn single(value: T) -> Self {
        RangeSet {
            ranges: vec![(value, value)],
        }
    }

    /// The numbers from `first` to `last`, both included; empty when `last < first`.
    pub fn range(first: T, last: T) -> Self {
        if last < first {
            Self::empty()
        } else {
            RangeSet {
                ranges: vec![(first, last)],
            }
        }
    }

    /// The ranges, sorted, disjoint and not adjacent.
    pub fn ranges(&self) -> &[(T, T)] {
        &self.ranges
    }

    /// Whether the set has no members.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether the set has all numbers.
    pub fn is_full(&self) -> bool {
        self.ranges == [(T::MIN, T::MAX)]
    }

    /// How many numbers are in the set.
    pub fn count(&self) -> u64 {
        self.ranges
            .iter()
            .map(|(a, b)| b.to_u64() - a.to_u64() + 1)
            .sum()
    }

    /// Whether a number is in the set.
    pub fn contains(&self, value: T) -> bool {
        let at = self.ranges.partition_point(|r| r.1 < value);
        self.ranges.get(at).is_some_and(|r| r.0 <= value)
    }

    /// The smallest number in the set.
    pub fn sample(&self) -> Option<T> {
        self.ranges.first().map(|r| r.0)
    }

    /// The smallest number in the set that is not below `floor`.
    pub fn sample_from(&self, floor: T) -> Option<T> {
        let at = self.ranges.partition_point(|r| r.1 < floor);
        self.ranges.get(at).map(|r| r.0.max(floor))
    }

    /// Whether every member is also in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.ranges.iter().all(|&(a, b)| {
            let at = other.ranges.partition_point(|r| r.1 < a);
            other.ranges.get(at).is_some_and(|r| r.0 <= a && b <= r.1)
        })
    }

    /// The numbers in both sets. Costs `m log n + k` for `m` ranges in the shorter operand.
    pub fn intersect(&self, other: &Self) -> Self {
        let (short, long) = if self.ranges.len() <= other.ranges.len() {
            (self, other)
        } else {
            (other, self)
        };
        let mut ranges = Vec::new();
        for &(a, b) in &short.ranges {
            let from = long.ranges.partition_point(|r| r.1 < a);
            let hits = long.ranges[from..].iter().take_while(|r| r.0 <= b);
            ranges.extend(hits.map(|&(c, d)| (a.max(c), b.min(d))));
        }
        RangeSet { ranges }
    }

    /// The numbers in either set.
    pub fn union(&self, other: &Self) -> Self {
        self.ranges.iter().chain(&other.ranges).copied().collect()
    }

    /// The numbers in this set and not in `other`.
    pub fn difference(&self, other: &Self) -> Self {
        let mut ranges = Vec::new();
        for &(a, b) in &self.ranges {
            let from = other.ranges.partition_point(|r| r.1 < a);
            let cuts = other.ranges[from..].iter().take_while(|r| r.0 <= b);
            cut(a, b, cuts, &mut ranges);
        }
        RangeSet { ranges }
    }

    /// The numbers not in this set.
    pub fn complement(&self) -> Self {
        Self::full().difference(self)
    }
}

/// Appends to `out` what is left of `first..=last` without the sorted `cuts`.
fn cut<'a, T: Bound + 'a>(
    first: T,
    last: T,
    cuts: impl Iterator<Item = &'a (T, T)>,
    out: &mut Vec<(T, T)>,
) {
    let mut next = Some(first);
    for &(c, d) in cuts {
        if let (Some(start), Some(end)) = (next, c.pred())
            && start <= end
        {
            out.push((start, end));
        }
        next = d.succ();
    }
    if let Some(start) = next.filter(|s| *s <= last) {
        out.push((start, last));
    }
}

impl<T: Bound> FromIterator<(T, T)> for RangeSet<T> {
    /// Collects inclusive ranges in any order, overlapping or not; `last < first` adds nothing.
    fn from_iter<I: IntoIterator<Item = (T, T)>>(iter: I) -> Self {
        let mut all: Vec<(T, T)> = iter.into_iter().filter(|r| r.0 <= r.1).collect();
        all.sort_unstable();
        let mut ranges: Vec<(T, T)> = Vec::with_capacity(all.len());
        for (a, b) in all {
            match ranges.last_mut() {
                Some(end) if end.1.succ().is_none_or(|next| a <= next) => end.1 = end.1.max(b),
                _ => ranges.push((a, b)),
            }
        }
        RangeSet { ranges }
    }
}

impl<T: Bound> From<T> for RangeSet<T> {
    fn from(value: T) -> Self {
        Self::single(value)
    }
}

impl From<Ipv4Addr> for RangeSet<u32> {
    fn from(address: Ipv4Addr) -> Self {
        Self::single(address.into())
    }
}

impl From<Ipv4Net> for RangeSet<u32> {
    fn from(net: Ipv4Net) -> Self {
        Self::range(net.network().into(), net.broadcast().into())
    }
}

impl FromIterator<Ipv4Net> for RangeSet<u32> {
    fn from_iter<I: IntoIterator<Item = Ipv4Net>>(iter: I) -> Self {
        iter.into_iter()
            .map(|n| (u32::from(n.network()), u32::from(n.broadcast())))
            .collect()
    }
}

impl FromIterator<Ipv4Addr> for RangeSet<u32> {
    fn from_iter<I: IntoIterator<Item = Ipv4Addr>>(iter: I) -> Self {
        iter.into_iter()
            .map(|a| (u32::from(a), u32::from(a)))
            .collect()
    }
}

impl RangeSet<u32> {
    /// Whether an address is in the set.
    pub fn has(&self, address: Ipv4Addr) -> bool {
        self.contains(address.into())
    }

    /// The set as the fewest CIDR blocks, in order.
    pub fn nets(&self) -> Vec<Ipv4Net> {
        let range = |&(a, b): &(u32, u32)| ipnet::Ipv4Subnets::new(a.into(), b.into(), 0);
        self.ranges.iter().flat_map(range).collect()
    }
}

impl<T: Bound> fmt::Debug for RangeSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.ranges.iter().map(|r| r.0..=r.1))
            .finish()
    }
}
