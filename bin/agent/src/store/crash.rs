//! Killed at any instruction: what a start finds is what was taken last, whole.
//!
//! A kill leaves one of few things: the journal cut at any byte of its last line, and a checkpoint of
//! which the first file, both files or the emptying of the journal is missing. They are tried after
//! random changes; the seed is printed with a failure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipam::{Allocation, Event, Millis, Pod};

use super::*;

const NOW: Millis = Millis(1_700_000_000_000);
const FILES: [&str; 3] = ["ipam.json", "ipam.branchline.json", "ipam.journal"];

/// `splitmix64`.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// What must be found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model {
    leases: BTreeMap<Key, Ipv4Addr>,
    released: BTreeMap<Ipv4Addr, Millis>,
}

impl Model {
    fn take(&mut self, record: &Record) {
        match record {
            Record::Leased(lease) => {
                self.leases.insert(lease.key.clone(), lease.address);
            }
            Record::Released { key, address, at } => {
                self.leases.remove(key);
                self.released.insert(*address, *at);
            }
            Record::Returning { .. } => {}
        }
    }

    fn of(found: &Recovered) -> Self {
        let leases = found.allocations.values();
        Self {
            leases: leases
                .map(|held| (held.key.clone(), held.address))
                .collect(),
            released: found.released.clone(),
        }
    }

    /// A pool in this state; nothing in it has rested yet.
    fn pool(&self) -> Pool {
        let mut pool = Pool::new(ipam::Config::new(&settings::Settings::default(), 1));
        let allocations = self
            .leases
            .iter()
            .map(|(key, address)| lease(key, *address));
        let recovered = Event::Recovered {
            allocations: allocations.collect(),
            released: self.released.clone(),
            returned: BTreeMap::new(),
        };
        ipam::step(&mut pool, recovered, NOW);
        pool
    }
}

fn lease(key: &Key, address: Ipv4Addr) -> Allocation {
    Allocation {
        key: key.clone(),
        pod: Pod::default(),
        address,
        since: NOW,
    }
}

/// A change that the pool may make: an address has one pod at most.
fn change(model: &Model, chance: &mut Chance, n: u64) -> Record {
    let address = Ipv4Addr::new(10, 0, 1, 10 + chance.below(6) as u8);
    let holder = model.leases.iter().find(|(_, at)| **at == address);
    match holder {
        Some((key, _)) => Record::Released {
            key: key.clone(),
            address,
            at: Millis(NOW.0 - chance.below(9)),
        },
        None => {
            let key = Key {
                network: "aws-cni".into(),
                container: format!("c{n}"),
                ifname: "eth0".into(),
            };
            Record::Leased(lease(&key, address))
        }
    }
}

struct Disk(tempfile::TempDir);

impl Disk {
    fn open(&self) -> (Store, Recovered) {
        Store::open(&self.0.path().join("ipam.json")).expect("a start")
    }

    fn read(&self) -> Vec<Option<Vec<u8>>> {
        let read = |name| fs::read(self.0.path().join(name)).ok();
        FILES.into_iter().map(read).collect()
    }

    /// What a start finds in files like these.
    fn found_in(files: &[Option<Vec<u8>>]) -> Recovered {
        let disk = Self(tempfile::tempdir().expect("a directory"));
        for (name, content) in FILES.iter().zip(files) {
            if let Some(content) = content {
                fs::write(disk.0.path().join(name), content).expect("a file");
            }
        }
        disk.open().1
    }
}

#[test]
fn killed_at_any_instruction_nothing_is_lost_and_nothing_is_made_up() {
    for seed in 0..8 {
        let (mut chance, mut model) = (Chance(seed), Model::default());
        let disk = Disk(tempfile::tempdir().unwrap());
        let (mut store, _) = disk.open();
        store.checkpoint(&model.pool()).unwrap();
        for n in 0..16 {
            let (before, files) = (model.clone(), disk.read());
            if chance.below(5) == 0 {
                store.checkpoint(&model.pool()).unwrap();
                let now = disk.read();
                // The first file is there, then the second, then the journal is empty.
                for replaced in 0..=3 {
                    let mixed: Vec<_> = (0..3)
                        .map(|i| if i < replaced { &now[i] } else { &files[i] }.clone())
                        .collect();
                    let found = Disk::found_in(&mixed);
                    assert_eq!(
                        Model::of(&found),
                        model,
                        "seed {seed}, change {n}, {replaced}"
                    );
                    assert_eq!(found.broken, [], "seed {seed}, change {n}, {replaced}");
                }
                continue;
            }
            let record = change(&model, &mut chance, n);
            model.take(&record);
            store.append(&record).unwrap();
            let (old, new) = (files[2].clone().unwrap(), disk.read()[2].clone().unwrap());
            let (first, last) = (old.len(), new.len());
            let middle = first + chance.below((last - first) as u64) as usize;
            for length in [first, first + 1, middle, last - 2, last - 1, last] {
                let cut = [
                    files[0].clone(),
                    files[1].clone(),
                    Some(new[..length].to_vec()),
                ];
                let found = Disk::found_in(&cut);
                // A line is whole a byte early: what ends it is only there for the next one.
                let whole = length + 1 >= new.len();
                let want = if whole { &model } else { &before };
                assert_eq!(
                    Model::of(&found),
                    *want,
                    "seed {seed}, change {n}, {length} bytes"
                );
                assert_eq!(found.broken, [], "seed {seed}, change {n}, {length} bytes");
            }
            if chance.below(4) == 0 {
                // The next start goes on behind what the kill left.
                let end = disk.read()[2].clone().unwrap().len() as u64;
                let path = disk.0.path().join("ipam.journal");
                let file = File::options().append(true).open(path).unwrap();
                (&file)
                    .write_all(&b"{\"leased\":{\"netw"[..chance.below(16) as usize])
                    .unwrap();
                store = disk.open().0;
                assert_eq!(
                    file.metadata().unwrap().len(),
                    end,
                    "seed {seed}, change {n}"
                );
            }
        }
    }
}
