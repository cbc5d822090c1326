//! What an instance type allows: interfaces, addresses per interface, branch interfaces, cards.
//!
//! EC2 tells interfaces and addresses (DescribeInstanceTypes); trunks and branch interfaces it tells
//! nobody. Source: `data/instance-limits.json`, see NOTICE.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;

/// The network limits of one instance type.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TypeLimits {
    /// Interfaces over all network cards, the primary one included.
    pub interfaces: u32,
    /// IPv4 slots of one interface: its primary address, secondary addresses and /28 prefixes.
    pub ipv4_per_interface: u32,
    /// Whether the type takes a trunk interface.
    pub trunking: bool,
    /// Branch interfaces that one instance can have.
    pub branch_interfaces: u32,
    /// The card that carries the primary interface.
    pub default_network_card: u32,
    /// `nitro`, `xen`, or empty on bare metal.
    pub hypervisor: String,
    /// Whether the type is bare metal.
    pub bare_metal: bool,
    /// The cards.
    pub network_cards: Vec<CardLimits>,
}

/// One network card of an instance type.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardLimits {
    /// The card's index.
    pub index: u32,
    /// Interfaces that the card takes.
    pub interfaces: u32,
}

impl TypeLimits {
    /// Interfaces that card `index` takes; `None` when the type has no such card.
    pub fn card(&self, index: u32) -> Option<u32> {
        self.network_cards
            .iter()
            .find(|c| c.index == index)
            .map(|c| c.interfaces)
    }
}

/// All instance types, by name.
pub fn all() -> &'static BTreeMap<String, TypeLimits> {
    static TABLE: OnceLock<BTreeMap<String, TypeLimits>> = OnceLock::new();
    TABLE.get_or_init(|| {
        serde_json::from_str(include_str!("../data/instance-limits.json"))
            .expect("the table is part of the program and a test reads it")
    })
}

/// The limits of `instance_type`, if EC2 knows it.
pub fn of(instance_type: &str) -> Option<&'static TypeLimits> {
    all().get(instance_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_readable() {
        let t3 = of("t3.medium").unwrap();
        assert_eq!(
            (t3.interfaces, t3.ipv4_per_interface, t3.trunking),
            (3, 6, false)
        );
        let m5 = of("m5.large").unwrap();
        assert_eq!(
            (m5.interfaces, m5.ipv4_per_interface, m5.branch_interfaces),
            (3, 10, 9)
        );
        assert_eq!(of("p4d.24xlarge").unwrap().card(3), Some(15));
        assert_eq!(of("p4d.24xlarge").unwrap().card(4), None);
        assert!(of("m5.huge").is_none());
    }
}
