//! Names and numbers in the kernel for objects of the VPC.
//!
//! The problem: a link's name has 15 characters, a route table 32 bits, and EC2's ids are longer. Invariant: the
//! same set of objects always gets the same names, so that what a crashed process left behind is recognised.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use nodenet::LinkName;
use vpc::facts::{EniId, Mac, PcxId, RtbId, VpcId};

/// The next hop of every route through a link of the fabric. It is answered by a permanent neighbour, so the
/// router never asks an instance for its addresses: the mapping service of a VPC.
pub const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);

/// Services of every VPC at link-local addresses: metadata, DNS, time, and the EC2 endpoint of the lab.
pub const SERVICES: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 169, 253),
    Ipv4Addr::new(169, 254, 169, 123),
    Ipv4Addr::new(169, 254, 169, 249),
];

/// Set in a packet's mark when sender and receiver are in one subnet: no route table, no ACL.
pub const SAME_SUBNET: u32 = 1 << 31;
/// Set in a packet's mark while groups are evaluated: the rule that matched is tracked.
pub const TRACKED: u32 = 1 << 30;
/// The bits of a packet's mark that name the route table of the sender's subnet.
pub const TABLE_MASK: u32 = TRACKED - 1;

/// Link names keep the last 14 characters of an id: 56 of the 68 random bits of a real one.
fn link(letter: char, id: &str) -> LinkName {
    let random = id.split_once('-').map_or(id, |(_, rest)| rest);
    let skip = random.len().saturating_sub(14);
    fixed(format!("{letter}{}", &random[skip..]))
}

fn fixed(name: impl Into<String>) -> LinkName {
    LinkName::new(name)
        .expect("ids are letters, digits and dashes, and the name is at most 15 long")
}

/// The router's end towards the internet.
pub fn igw() -> LinkName {
    fixed("igw")
}

/// The link of a NAT gateway.
pub fn eth0() -> LinkName {
    fixed("eth0")
}

/// The router's port of an interface.
pub fn port(eni: &EniId) -> LinkName {
    link('p', eni.as_str())
}

/// Both ends of a peering.
pub fn peering(pcx: &PcxId) -> LinkName {
    link('x', pcx.as_str())
}

/// The internet's end towards a VPC.
pub fn uplink(vpc: &VpcId) -> LinkName {
    link('v', vpc.as_str())
}

/// An Ethernet address for an end of a link that no interface owns.
pub fn mac(place: &str, link: &str) -> Mac {
    let [a, b, c, d] = fnv(&format!("{place}/{link}")).to_be_bytes();
    Mac([0x06, 0xb1, a, b, c, d])
}

/// An object's id in nft's alphabet.
pub fn word(id: impl AsRef<str>) -> String {
    id.as_ref()
        .replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

/// A kernel route table for each route table of a VPC: by hash, so that a table's number does not depend on how
/// many others there are, and probed, so that no two share one.
pub fn tables<'a>(ids: impl IntoIterator<Item = &'a RtbId>) -> BTreeMap<RtbId, u32> {
    let mut taken = BTreeSet::new();
    let sorted: BTreeSet<&RtbId> = ids.into_iter().collect();
    sorted
        .into_iter()
        .map(|id| {
            // Below 2^10 the kernel and people have tables of their own.
            let mut number = (fnv(id.as_str()) & TABLE_MASK).max(1 << 10);
            while !taken.insert(number) {
                number = ((number + 1) & TABLE_MASK).max(1 << 10);
            }
            (id.clone(), number)
        })
        .collect()
}

/// A chain's name that the kernel takes: long ones end in a hash of the rest.
pub fn short(name: String) -> String {
    const KEPT: usize = 90;
    match name.get(..KEPT) {
        Some(start) => format!("{start}_{:08x}", fnv(&name)),
        None => name,
    }
}

/// The VPC's router in a subnet: base plus one.
pub fn router_address(cidr: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(cidr.network()).saturating_add(1))
}

/// FNV-1a: stable over releases, unlike the standard library's hasher.
pub fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_fit_and_keep_the_random_end() {
        let eni: EniId = "eni-0123456789abcdef0".parse().unwrap();
        assert_eq!(port(&eni).as_str(), "p3456789abcdef0");
        assert_eq!(port(&"eni-a".parse().unwrap()).as_str(), "pa");
    }

    #[test]
    fn tables_are_distinct_and_do_not_depend_on_order() {
        let ids: Vec<RtbId> = (0..2000)
            .map(|n| format!("rtb-{n}").parse().unwrap())
            .collect();
        let tables_a = tables(&ids);
        let tables_b = tables(ids.iter().rev());
        assert_eq!(tables_a, tables_b);
        let distinct: BTreeSet<_> = tables_a.values().collect();
        assert_eq!(distinct.len(), ids.len());
        assert!(
            tables_a
                .values()
                .all(|n| *n >= 1024 && n & !TABLE_MASK == 0)
        );
    }
}
