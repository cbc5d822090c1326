//! The free room of a subnet: single addresses, and aligned `/28`s for prefixes.
//!
//! EC2 keeps the first four addresses of a subnet and the last. A delegated prefix is an aligned
//! `/28` of which nothing is taken, so a subnet can have hundreds of free addresses and room for no
//! prefix at all. Source: VPC user guide, "Subnet sizing"; EC2 user guide, "Assigning prefixes".

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::facts::{SubnetId, World};

/// Addresses in a delegated prefix.
pub const PREFIX_SIZE: u32 = 16;
/// The first addresses of a subnet that EC2 keeps; it also keeps the last one.
pub const RESERVED_FIRST: u32 = 4;

/// The room of one subnet, as far as the interfaces in it tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Free addresses.
    pub free: u32,
    /// Aligned `/28`s of which every address is free.
    pub blocks: u32,
}

impl Room {
    /// Free addresses outside of the free blocks.
    pub fn loose(&self) -> u32 {
        self.free.saturating_sub(self.blocks * PREFIX_SIZE)
    }

    /// Takes up to `count` single addresses, those outside of free blocks first: how many there were.
    pub fn take_addresses(&mut self, count: u32) -> u32 {
        let taken = count.min(self.free);
        let broken = taken
            .saturating_sub(self.loose())
            .div_ceil(PREFIX_SIZE)
            .min(self.blocks);
        self.free -= taken;
        self.blocks -= broken;
        taken
    }

    /// Takes up to `count` blocks: how many there were.
    pub fn take_blocks(&mut self, count: u32) -> u32 {
        let taken = count.min(self.blocks);
        self.blocks -= taken;
        self.free -= taken * PREFIX_SIZE;
        taken
    }
}

impl World {
    /// The room of a subnet by its interfaces. Where EC2 counts fewer free addresses than they leave
    /// (a shared subnet has interfaces of other accounts), its number holds; which of the blocks are
    /// taken then is not known, and as many are assumed to be free as can be.
    pub fn room(&self, subnet: &SubnetId) -> Option<Room> {
        let subnet = self.subnets.get(subnet)?;
        let mut taken = Taken::new(subnet.cidr);
        for eni in self.enis.values().filter(|e| e.subnet == subnet.id) {
            eni.networks().for_each(|net| taken.take(net));
        }
        let mut room = taken.room();
        if let Some(available) = subnet.available {
            room.free = room.free.min(available);
            room.blocks = room.blocks.min(room.free / PREFIX_SIZE);
        }
        Some(room)
    }
}

/// Which addresses of a range are taken: one word per aligned `/28`, one bit per address.
struct Taken {
    cidr: Ipv4Net,
    words: Vec<u16>,
}

impl Taken {
    fn new(cidr: Ipv4Net) -> Self {
        let size = 1_u64 << (32 - u32::from(cidr.prefix_len()));
        let words = size.div_ceil(u64::from(PREFIX_SIZE));
        let mut taken = Self {
            cidr,
            words: vec![0; usize::try_from(words).unwrap_or(usize::MAX)],
        };
        let first = u32::from(cidr.network());
        for address in
            (first..first.saturating_add(RESERVED_FIRST)).chain([cidr.broadcast().into()])
        {
            taken.take(Ipv4Net::from(Ipv4Addr::from(address)));
        }
        if size < u64::from(PREFIX_SIZE) {
            // EC2 makes no such subnet; what lies outside of it is not its to give.
            taken.words[0] |= u16::MAX << size;
        }
        taken
    }

    fn take(&mut self, net: Ipv4Net) {
        let first = u32::from(self.cidr.network());
        for address in net.network().into()..=u32::from(net.broadcast()) {
            if !self.cidr.contains(&Ipv4Addr::from(address)) {
                continue;
            }
            let offset = address - first;
            let word = usize::try_from(offset / PREFIX_SIZE).unwrap_or(usize::MAX);
            self.words[word] |= 1 << (offset % PREFIX_SIZE);
        }
    }

    fn room(&self) -> Room {
        let free = self.words.iter().map(|w| w.count_zeros()).sum();
        let blocks = self.words.iter().filter(|w| **w == 0).count();
        Room {
            free,
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(cidr: &str, taken: &[&str]) -> Room {
        let mut all = Taken::new(cidr.parse().unwrap());
        for net in taken {
            all.take(net.parse().unwrap());
        }
        all.room()
    }

    #[test]
    fn ec2_keeps_five_addresses_of_a_subnet() {
        assert_eq!(
            room("10.0.1.0/28", &[]),
            Room {
                free: 11,
                blocks: 0
            }
        );
        assert_eq!(
            room("10.0.1.0/24", &[]),
            Room {
                free: 251,
                blocks: 14
            },
            "neither the first nor the last /28 is whole"
        );
        assert_eq!(room("10.0.1.0/29", &[]), Room { free: 3, blocks: 0 });
    }

    #[test]
    fn one_address_in_each_block_leaves_room_for_no_prefix() {
        let each: Vec<String> = (0..16)
            .map(|b| format!("10.0.1.{}/32", b * 16 + 7))
            .collect();
        let each: Vec<&str> = each.iter().map(String::as_str).collect();
        assert_eq!(
            room("10.0.1.0/24", &each),
            Room {
                free: 235,
                blocks: 0
            }
        );
        assert_eq!(
            room("10.0.1.0/24", &["10.0.1.16/28", "10.0.1.33/32"]),
            Room {
                free: 234,
                blocks: 12
            }
        );
    }

    #[test]
    fn single_addresses_come_from_broken_blocks_first() {
        let mut room = room("10.0.1.0/24", &[]);
        assert_eq!(room.loose(), 27);
        assert_eq!(room.take_addresses(27), 27);
        assert_eq!(room.blocks, 14);
        assert_eq!(room.take_addresses(1), 1);
        assert_eq!((room.blocks, room.loose()), (13, 15));
        assert_eq!(room.take_blocks(20), 13);
        assert_eq!((room.free, room.take_addresses(99)), (15, 15));
    }
}
