//! The warm targets' arithmetic (vpc-cni.md §4.4), on numbers alone.
//!
//! One departure: upstream counts a resting address as available and then has none to give; here
//! `available` never includes one, and no prefix with one counts as free.

use settings::WarmTargets;

use crate::types::{PREFIX_SIZE, Unit, Want};

/// What is asked of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Targets {
    /// The warm targets.
    pub warm: WarmTargets,
    /// What EC2 gives at a time.
    pub unit: Unit,
    /// Slots for pods on one interface: each takes an address or a prefix.
    pub slots: u32,
}

/// What the pool has, or soon has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stock {
    /// Addresses for pods, used or not.
    pub total: u32,
    /// Free, rested, and not spoken for by a waiting pod.
    pub available: u32,
    /// Pods that wait beyond what is available.
    pub waiting: u32,
    /// Prefixes with nothing but free and rested addresses.
    pub free_prefixes: u32,
}

impl Targets {
    /// The same, as far as single addresses can do it: where a subnet has no prefix to give. They
    /// stand for the warm prefixes up to what one interface carries.
    pub fn without_prefixes(self) -> Self {
        let warm = match (self.unit, self.warm.by_address()) {
            (Unit::Prefix, false) => WarmTargets {
                ip: self
                    .warm
                    .prefix
                    .saturating_mul(PREFIX_SIZE)
                    .min(self.slots)
                    .max(1),
                ..self.warm
            },
            _ => self.warm,
        };
        Self {
            warm,
            unit: Unit::Address,
            ..self
        }
    }
}

/// How many more addresses are wanted.
///
/// Counting whole interfaces, the growth fills an interface whatever the number; counting
/// addresses, it is the exact amount; prefixes are asked for whole.
pub fn short(targets: Targets, stock: Stock) -> u32 {
    let Targets { warm, unit, slots } = targets;
    let Stock {
        total,
        available,
        waiting,
        free_prefixes,
    } = stock;
    if warm.by_address() {
        let free = warm.ip.saturating_sub(available);
        let floor = warm.minimum.saturating_sub(total.saturating_add(waiting));
        return waiting.saturating_add(free.max(floor));
    }
    match unit {
        // Upstream's words: too low when nothing at all is available.
        Unit::Address if warm.eni == 0 => waiting.saturating_add(u32::from(available == 0)),
        Unit::Prefix if warm.prefix == 0 => waiting.saturating_add(u32::from(available == 0)),
        Unit::Address => {
            let target = slots.saturating_mul(warm.eni);
            waiting.saturating_add(target.saturating_sub(available))
        }
        Unit::Prefix => {
            let for_pods = waiting.div_ceil(PREFIX_SIZE);
            let left = (for_pods.saturating_mul(PREFIX_SIZE) - waiting).saturating_add(available);
            // Upstream judges by addresses and then asks for what is missing in whole prefixes.
            let more = match left < warm.prefix.saturating_mul(PREFIX_SIZE) {
                true => warm.prefix.saturating_sub(free_prefixes).max(1),
                false => 0,
            };
            for_pods.saturating_add(more).saturating_mul(PREFIX_SIZE)
        }
    }
}

/// How much free may be given back bit by bit. Counting whole interfaces: nothing.
pub fn over(targets: Targets, stock: Stock) -> Want {
    let Targets { warm, unit, .. } = targets;
    let none = Want::of(unit, 0);
    if stock.waiting > 0 {
        return none;
    }
    if warm.by_address() {
        let free = stock.available.saturating_sub(warm.ip);
        let free = free.min(stock.total.saturating_sub(warm.minimum));
        return match unit {
            Unit::Address => Want::Addresses(free),
            Unit::Prefix => Want::Prefixes(stock.free_prefixes.min(free / PREFIX_SIZE)),
        };
    }
    match unit {
        Unit::Address => none,
        // The last free addresses stay: without them the pool would be too low at once.
        Unit::Prefix if warm.prefix == 0 => {
            let most = stock.available.saturating_sub(1) / PREFIX_SIZE;
            Want::Prefixes(stock.free_prefixes.min(most))
        }
        Unit::Prefix => Want::Prefixes(stock.free_prefixes.saturating_sub(warm.prefix)),
    }
}

/// What an interface without pods has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Idle {
    /// Free addresses that count in the stock.
    pub addresses: u32,
    /// Prefixes among them.
    pub prefixes: u32,
}

/// Whether an interface without pods is one too many.
pub fn spare(targets: Targets, stock: Stock, idle: Idle) -> bool {
    let Targets { warm, unit, slots } = targets;
    if stock.waiting > 0 || short(targets, stock) > 0 {
        return false;
    }
    let left = stock.available.saturating_sub(idle.addresses);
    if warm.by_address() {
        let total = stock.total.saturating_sub(idle.addresses);
        return idle.addresses == 0 || (left >= warm.ip && total >= warm.minimum);
    }
    match unit {
        Unit::Address => {
            let keep = slots.saturating_mul(warm.eni);
            stock.available >= keep.saturating_add(slots) && left >= keep.max(1)
        }
        Unit::Prefix => {
            let keep = warm.prefix.saturating_mul(PREFIX_SIZE).max(1);
            let prefixes = stock.free_prefixes.saturating_sub(idle.prefixes);
            idle.addresses == 0 || (left >= keep && prefixes >= warm.prefix)
        }
    }
}

#[cfg(test)]
mod tests;
