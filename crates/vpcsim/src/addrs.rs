//! The IPv4 addresses of a subnet: which are taken, and where the next address or /28 comes from.
//!
//! The first four addresses and the last belong to AWS (network, router, DNS, future use,
//! broadcast). A delegated prefix is an aligned /28 of which nothing is taken; when addresses are
//! free but no /28 is, the subnet is fragmented. Source: VPC user guide, "Subnet sizing" and EC2
//! user guide, "Assigning prefixes".

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use vpc::space::RESERVED_FIRST;

use crate::rng::Rng;

pub use vpc::space::PREFIX_SIZE;

/// Addresses of every subnet that belong to AWS: the first ones, and the last.
pub const RESERVED: u32 = RESERVED_FIRST + 1;

/// How EC2 chooses among free addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// The lowest free address: runs are easy to read.
    #[default]
    LowestFree,
    /// A seeded random free address, as on AWS.
    Random,
}

/// What a CIDR reservation keeps its range for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReservationKind {
    /// Only prefixes are placed here.
    Prefix,
    /// Only addresses that a request names are placed here.
    Explicit,
}

/// The addresses of one subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    cidr: Ipv4Net,
    taken: Vec<u16>, // one word per aligned /28, one bit per address
    free: u32,
    reservations: Vec<(Ipv4Net, ReservationKind)>,
}

/// Why no address was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not enough free addresses.
    NoAddress,
    /// No free aligned /28.
    NoPrefix,
    /// The address belongs to AWS.
    Reserved,
    /// The address is not in the subnet.
    Outside,
    /// Someone has the address.
    Taken,
}

impl Pool {
    /// The pool of `cidr`, which is between /16 and /28 long.
    pub fn new(cidr: Ipv4Net) -> Self {
        let size = 1u32 << (32 - u32::from(cidr.prefix_len().clamp(16, 28)));
        let mut pool = Self {
            cidr: cidr.trunc(),
            taken: vec![0; (size / PREFIX_SIZE) as usize],
            free: size,
            reservations: Vec::new(),
        };
        for offset in (0..RESERVED_FIRST).chain([size - 1]) {
            pool.mark(offset);
        }
        pool
    }

    /// The subnet's range.
    pub fn cidr(&self) -> Ipv4Net {
        self.cidr
    }

    /// Free addresses, as `AvailableIpAddressCount` counts them.
    pub fn free(&self) -> u32 {
        self.free
    }

    fn size(&self) -> u32 {
        self.taken.len() as u32 * PREFIX_SIZE
    }

    fn base(&self) -> u32 {
        u32::from(self.cidr.network())
    }

    fn at(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base() + offset)
    }

    fn offset(&self, address: Ipv4Addr) -> Option<u32> {
        self.cidr
            .contains(&address)
            .then(|| u32::from(address) - self.base())
    }

    fn is_taken(&self, offset: u32) -> bool {
        self.taken[(offset / PREFIX_SIZE) as usize] >> (offset % PREFIX_SIZE) & 1 == 1
    }

    fn mark(&mut self, offset: u32) {
        if !self.is_taken(offset) {
            self.taken[(offset / PREFIX_SIZE) as usize] |= 1 << (offset % PREFIX_SIZE);
            self.free -= 1;
        }
    }

    fn clear(&mut self, offset: u32) {
        if self.is_taken(offset) {
            self.taken[(offset / PREFIX_SIZE) as usize] &= !(1 << (offset % PREFIX_SIZE));
            self.free += 1;
        }
    }

    fn reserved_for(&self, address: Ipv4Addr) -> Option<ReservationKind> {
        self.reservations
            .iter()
            .find(|(net, _)| net.contains(&address))
            .map(|(_, kind)| *kind)
    }

    /// Whether a request may name `address`.
    ///
    /// # Errors
    /// Outside of the subnet, AWS's own, or taken.
    pub fn check(&self, address: Ipv4Addr) -> Result<(), Refusal> {
        let offset = self.offset(address).ok_or(Refusal::Outside)?;
        if offset < 4 || offset == self.size() - 1 {
            return Err(Refusal::Reserved);
        }
        if self.is_taken(offset) {
            Err(Refusal::Taken)
        } else {
            Ok(())
        }
    }

    /// Takes the address that a request names.
    ///
    /// # Errors
    /// As [`Pool::check`]; the pool is unchanged then.
    pub fn take(&mut self, address: Ipv4Addr) -> Result<(), Refusal> {
        self.check(address)?;
        let offset = self.offset(address).ok_or(Refusal::Outside)?;
        self.mark(offset);
        Ok(())
    }

    /// Whether a request may name `prefix`.
    ///
    /// # Errors
    /// Outside of the subnet (or no aligned /28), or an address of it is taken.
    pub fn check_prefix(&self, prefix: Ipv4Net) -> Result<(), Refusal> {
        let offset = self.offset(prefix.network()).ok_or(Refusal::Outside)?;
        if prefix.prefix_len() != 28 || prefix.trunc() != prefix {
            return Err(Refusal::Outside);
        }
        match self.taken[(offset / PREFIX_SIZE) as usize] {
            0 => Ok(()),
            _ => Err(Refusal::Taken),
        }
    }

    /// Takes the prefix that a request names.
    ///
    /// # Errors
    /// As [`Pool::check_prefix`]; the pool is unchanged then.
    pub fn take_prefix(&mut self, prefix: Ipv4Net) -> Result<(), Refusal> {
        self.check_prefix(prefix)?;
        let offset = self.offset(prefix.network()).ok_or(Refusal::Outside)?;
        self.taken[(offset / PREFIX_SIZE) as usize] = u16::MAX;
        self.free -= PREFIX_SIZE;
        Ok(())
    }

    /// Takes `count` addresses, all or none.
    ///
    /// # Errors
    /// [`Refusal::NoAddress`]; the pool is unchanged then.
    pub(crate) fn allocate(
        &mut self,
        count: u32,
        placement: Placement,
        rng: &mut Rng,
    ) -> Result<Vec<Ipv4Addr>, Refusal> {
        if count > self.free {
            return Err(Refusal::NoAddress);
        }
        let mut given = Vec::with_capacity(count as usize);
        let size = self.size();
        let mut offset = 0;
        while (given.len() as u32) < count {
            if placement == Placement::Random {
                offset = rng.below(u64::from(size)) as u32;
            }
            // From `offset` once around: the whole pool is looked at before the answer is "none".
            let Some(found) = (0..size)
                .map(|step| (offset + step) % size)
                .find(|o| self.placeable(*o))
            else {
                for address in given {
                    self.release(address);
                }
                return Err(Refusal::NoAddress);
            };
            self.mark(found);
            offset = found;
            given.push(self.at(found));
        }
        Ok(given)
    }

    fn placeable(&self, offset: u32) -> bool {
        !self.is_taken(offset)
            && (self.reservations.is_empty() || self.reserved_for(self.at(offset)).is_none())
    }

    /// Takes `count` aligned free /28 prefixes, all or none.
    ///
    /// # Errors
    /// [`Refusal::NoPrefix`]; the pool is unchanged then.
    pub(crate) fn allocate_prefixes(
        &mut self,
        count: u32,
        placement: Placement,
        rng: &mut Rng,
    ) -> Result<Vec<Ipv4Net>, Refusal> {
        let blocks = self.taken.len();
        let start = match placement {
            Placement::LowestFree => 0,
            Placement::Random => rng.below(blocks as u64) as usize,
        };
        // Ranges reserved for prefixes come first, then the rest but the explicit reservations.
        let mut chosen = Vec::new();
        for wanted in [Some(ReservationKind::Prefix), None] {
            let free = (0..blocks).map(|step| (start + step) % blocks).filter(|b| {
                self.taken[*b] == 0 && self.reserved_for(self.at(*b as u32 * PREFIX_SIZE)) == wanted
            });
            chosen.extend(free.take((count as usize).saturating_sub(chosen.len())));
        }
        if chosen.len() < count as usize {
            return Err(Refusal::NoPrefix);
        }
        Ok(chosen
            .into_iter()
            .map(|block| {
                self.taken[block] = u16::MAX;
                self.free -= PREFIX_SIZE;
                Ipv4Net::new_assert(self.at(block as u32 * PREFIX_SIZE), 28)
            })
            .collect())
    }

    /// Gives an address back. AWS's own addresses stay taken.
    pub fn release(&mut self, address: Ipv4Addr) {
        if let Some(offset) = self.offset(address)
            && offset >= 4
            && offset != self.size() - 1
        {
            self.clear(offset);
        }
    }

    /// Gives a prefix back.
    pub fn release_prefix(&mut self, prefix: Ipv4Net) {
        for address in prefix.network().to_bits()..=prefix.broadcast().to_bits() {
            self.release(Ipv4Addr::from(address));
        }
    }

    /// Keeps `net` for one kind of use.
    pub fn reserve(&mut self, net: Ipv4Net, kind: ReservationKind) {
        self.reservations.push((net, kind));
    }

    /// Ends the reservation of `net`.
    pub fn unreserve(&mut self, net: Ipv4Net) {
        self.reservations.retain(|(n, _)| *n != net);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cidr: &str) -> (Pool, Rng) {
        (Pool::new(cidr.parse().unwrap()), Rng::new(1))
    }

    #[test]
    fn five_addresses_belong_to_aws() {
        let (mut pool, mut rng) = pool("10.0.1.0/28");
        assert_eq!(pool.free(), 11);
        let given = pool.allocate(11, Placement::LowestFree, &mut rng).unwrap();
        assert_eq!(given[0], Ipv4Addr::new(10, 0, 1, 4));
        assert_eq!(given[10], Ipv4Addr::new(10, 0, 1, 14));
        assert_eq!(
            pool.allocate(1, Placement::Random, &mut rng),
            Err(Refusal::NoAddress)
        );
        assert_eq!(
            pool.take(Ipv4Addr::new(10, 0, 1, 15)),
            Err(Refusal::Reserved)
        );
        assert_eq!(pool.take(Ipv4Addr::new(10, 0, 2, 4)), Err(Refusal::Outside));
        assert_eq!(pool.take(Ipv4Addr::new(10, 0, 1, 4)), Err(Refusal::Taken));
        pool.release(Ipv4Addr::new(10, 0, 1, 4));
        assert_eq!(pool.take(Ipv4Addr::new(10, 0, 1, 4)), Ok(()));
    }

    #[test]
    fn prefixes_are_aligned_and_fragmentation_refuses_them() {
        let (mut pool, mut rng) = pool("10.0.1.0/26");
        let two = pool
            .allocate_prefixes(2, Placement::LowestFree, &mut rng)
            .unwrap();
        assert_eq!(
            two,
            [
                "10.0.1.16/28".parse().unwrap(),
                "10.0.1.32/28".parse().unwrap()
            ]
        );
        assert_eq!(pool.free(), 64 - 5 - 32);
        pool.release_prefix(two[0]);
        pool.take(Ipv4Addr::new(10, 0, 1, 20)).unwrap();
        let refused = pool.allocate_prefixes(1, Placement::Random, &mut rng);
        assert_eq!(refused, Err(Refusal::NoPrefix));
        assert!(pool.free() > PREFIX_SIZE);
    }

    #[test]
    fn reservations_steer() {
        let (mut pool, mut rng) = pool("10.0.1.0/26");
        pool.reserve("10.0.1.32/28".parse().unwrap(), ReservationKind::Prefix);
        let given = pool
            .allocate_prefixes(1, Placement::LowestFree, &mut rng)
            .unwrap();
        assert_eq!(given[0].to_string(), "10.0.1.32/28");
        pool.reserve("10.0.1.0/28".parse().unwrap(), ReservationKind::Explicit);
        let address = pool.allocate(1, Placement::LowestFree, &mut rng).unwrap();
        assert_eq!(address[0], Ipv4Addr::new(10, 0, 1, 16));
        assert_eq!(pool.take(Ipv4Addr::new(10, 0, 1, 4)), Ok(()));
    }

    #[test]
    fn random_placement_reaches_every_address() {
        let (mut pool, mut rng) = pool("10.0.0.0/24");
        let mut given = pool.allocate(251, Placement::Random, &mut rng).unwrap();
        given.sort();
        given.dedup();
        assert_eq!((given.len(), pool.free()), (251, 0));
    }
}
