//! Random worlds, seeded: three VPCs in a row of peerings, with every kind of rule and route that the model knows.

use std::net::Ipv4Addr;

use flowset::Packet;
use ipnet::Ipv4Net;
use vpc::facts::*;

use super::probe::{PORTS, Probe};
use super::topology::*;

/// SplitMix64 (Steele, Lea, Flood 2014): the same seed gives the same worlds on every machine.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    /// True in `n` of ten cases.
    pub fn tenths(&mut self, n: usize) -> bool {
        self.below(10) < n
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at + 1));
        }
    }
}

/// Name, second byte of its addresses, number of subnets, hosts per subnet.
const VPCS: [(&str, u8, u8, u8); 3] = [("a", 0, 3, 3), ("b", 1, 2, 2), ("c", 2, 1, 2)];
const GROUPS: u8 = 4;

/// A world.
pub fn world(rng: &mut Rng) -> World {
    let mut b = Builder::default();
    for (vpc, byte, ..) in VPCS {
        b.vpc(vpc, &format!("10.{byte}.0.0/16"));
    }
    peerings(rng, &mut b);
    for list in ["one", "two"] {
        let entries = (0..3).map(|_| host_net(rng, &[32, 24, 28])).collect();
        b.prefix_list(list, entries);
    }
    for (vpc, byte, subnets, hosts) in VPCS {
        for group in 0..GROUPS {
            let rules = group_rules(rng, vpc);
            b.group(&format!("{vpc}{group}"), vpc, rules);
        }
        for subnet in 1..=subnets {
            let name = format!("{vpc}{subnet}");
            let acl = if rng.tenths(5) {
                vpc.to_owned()
            } else {
                custom_acl(rng, &mut b, vpc, &name)
            };
            b.table(&name, vpc);
            b.subnet(&name, vpc, &format!("10.{byte}.{subnet}.0/24"), &acl, &name);
            routes(rng, &mut b, vpc, &name);
            for host in 0..hosts {
                interface(rng, &mut b, vpc, byte, subnet, host);
            }
        }
    }
    b.world
}

/// a – b – c, so that a and c are two peerings apart; the direct one is gone.
fn peerings(rng: &mut Rng, b: &mut Builder) {
    b.peering("ab", "a", "b", PeeringStatus::Active);
    b.peering("bc", "b", "c", PeeringStatus::Active);
    let status = rng.pick(&[PeeringStatus::Deleted, PeeringStatus::PendingAcceptance]);
    b.peering("ac", "a", "c", status);
}

fn routes(rng: &mut Rng, b: &mut Builder, vpc: &str, table: &str) {
    let active = RouteState::Active;
    // Not every subnet has every route; some lead to a VPC behind the peer.
    let candidates: &[(&str, &str)] = match vpc {
        "a" => &[("10.1.0.0/16", "pcx-ab"), ("10.2.0.0/16", "pcx-ab")],
        "b" => &[("10.0.0.0/16", "pcx-ab"), ("10.2.0.0/16", "pcx-bc")],
        _ => &[("10.1.0.0/16", "pcx-bc"), ("10.0.0.0/16", "pcx-bc")],
    };
    for (to, target) in candidates {
        if rng.tenths(8) {
            b.route(table, to, through(target), active);
        }
    }
    // A more specific route whose target is gone.
    if rng.tenths(5) {
        let other = VPCS.iter().find(|(name, ..)| *name != vpc).unwrap();
        let subnet = 1 + rng.below(usize::from(other.2));
        let to = format!("10.{}.{subnet}.0/24", other.1);
        b.route(table, &to, through("pcx-gone"), RouteState::Blackhole);
    }
    if rng.tenths(3) {
        b.route(
            table,
            "0.0.0.0/0",
            through("nat-gone"),
            RouteState::Blackhole,
        );
    }
}

fn custom_acl(rng: &mut Rng, b: &mut Builder, vpc: &str, name: &str) -> String {
    let mut entries = Vec::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        for number in 1..=3 {
            let protocol = some_protocol(rng);
            let cidr = AclCidr::V4(host_net(rng, &[32, 24, 24, 16]));
            let allow = rng.tenths(3);
            entries.push(AclEntry {
                number: number * 10,
                direction,
                protocol,
                cidr,
                allow,
            });
        }
        // Answers go to ephemeral ports; some ACLs forget them.
        if rng.tenths(7) {
            entries.push(entry(90, direction, "tcp/1024-65535", "0.0.0.0/0", true));
        }
        if rng.tenths(8) {
            entries.push(entry(100, direction, "all", "0.0.0.0/0", true));
        }
    }
    rng.shuffle(&mut entries);
    b.acl(name, vpc, entries);
    name.to_owned()
}

fn some_protocol(rng: &mut Rng) -> Protocol {
    let ports = |rng: &mut Rng| match rng.below(4) {
        0 => Ports {
            from: 0,
            to: u16::MAX,
        },
        1 => Ports { from: 80, to: 443 },
        2 => Ports {
            from: 8000,
            to: 8080,
        },
        _ => {
            let port = rng.pick(&PORTS);
            Ports {
                from: port,
                to: port,
            }
        }
    };
    match rng.below(9) {
        0 | 1 => Protocol::All,
        2..=4 => Protocol::Tcp(ports(rng)),
        5 | 6 => Protocol::Udp(ports(rng)),
        7 => Protocol::Icmp {
            kind: Some(rng.pick(&[8, 13])),
            code: Some(0).filter(|_| rng.tenths(5)),
        },
        _ => Protocol::Icmp {
            kind: Some(rng.pick(&[8, 13])),
            code: None,
        },
    }
}

fn group_rules(rng: &mut Rng, vpc: &str) -> Vec<GroupRule> {
    let mut rules = Vec::new();
    if rng.tenths(6) {
        rules.push(egress("all", "0.0.0.0/0"));
    } else {
        for _ in 0..3 {
            let (protocol, peer) = (some_protocol(rng), some_peer(rng, vpc));
            rules.push(rule(Direction::Egress, protocol, peer));
        }
    }
    if rng.tenths(4) {
        rules.push(ingress(
            rng.pick(&["tcp/80", "udp/5432", "tcp/8080"]),
            "0.0.0.0/0",
        ));
    }
    for _ in 0..4 {
        let (protocol, peer) = (some_protocol(rng), some_peer(rng, vpc));
        rules.push(rule(Direction::Ingress, protocol, peer));
    }
    // Enough of one shape that the compiler looks them up in one set.
    if rng.tenths(3) {
        for n in 0..10u8 {
            let port = PORTS[usize::from(n) % PORTS.len()];
            let net = format!("10.{}.{}.0/24", n % 3, 1 + n % 2);
            rules.push(ingress(&format!("tcp/{port}"), &net));
        }
    }
    rules
}

fn some_peer(rng: &mut Rng, vpc: &str) -> RulePeer {
    match rng.below(10) {
        0..=2 => RulePeer::Cidr4(host_net(rng, &[32, 24, 16, 28])),
        3 => RulePeer::Cidr4(net("10.0.0.0/8")),
        4 | 5 => peer(rng.pick(&["pl-one", "pl-two"])),
        6..=8 => peer(&format!("sg-{vpc}{}", rng.below(GROUPS.into()))),
        _ => {
            let other = rng.pick(&VPCS).0;
            peer(&format!("sg-{other}{}", rng.below(GROUPS.into())))
        }
    }
}

/// A network with hosts in it.
fn host_net(rng: &mut Rng, lengths: &[u8]) -> Ipv4Net {
    let (_, byte, subnets, hosts) = rng.pick(&VPCS);
    let subnet = 1 + rng.below(subnets.into());
    let last = 10 * (1 + rng.below(hosts.into()));
    let address = format!("10.{byte}.{subnet}.{last}").parse().unwrap();
    Ipv4Net::new(address, rng.pick(lengths)).unwrap().trunc()
}

fn interface(rng: &mut Rng, b: &mut Builder, vpc: &str, byte: u8, subnet: u8, host: u8) {
    let mut groups = Vec::new();
    for _ in 0..=rng.below(2) {
        groups.push(format!("{vpc}{}", rng.below(GROUPS.into())));
    }
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let address = format!("10.{byte}.{subnet}.{}", 10 * (1 + host));
    let eni = b.eni(
        &format!("{vpc}{subnet}h{host}"),
        &format!("{vpc}{subnet}"),
        &address,
        &groups,
    );
    eni.source_dest_check = !rng.tenths(2);
    if rng.tenths(4) {
        let address = Ipv4Addr::new(10, byte, subnet, 101 + host);
        eni.addresses.push(EniAddress {
            address,
            primary: false,
            public: None,
        });
    }
    if rng.tenths(4) {
        eni.prefixes
            .push(net(&format!("10.{byte}.{subnet}.{}/28", 128 + 16 * host)));
    }
}

/// The addresses that a bed gives an interface's host.
pub fn host_addresses(eni: &Eni) -> Vec<Ipv4Addr> {
    let own = eni.addresses.iter().map(|a| a.address);
    own.chain(eni.prefixes.iter().map(|p| nth(*p, 5))).collect()
}

/// A probe between random hosts; each has a source port of its own.
pub fn probe(rng: &mut Rng, world: &World, number: u16) -> (EniId, Probe) {
    let enis: Vec<&Eni> = world.enis.values().collect();
    let from = rng.pick(&enis);
    // A host's packets to itself never leave it.
    let others: Vec<&Eni> = enis.into_iter().filter(|eni| eni.id != from.id).collect();
    let to = rng.pick(&others);
    let (mut src, mut dst) = (
        rng.pick(&host_addresses(from)),
        rng.pick(&host_addresses(to)),
    );
    if rng.tenths(1) {
        // An address of the VPC that nobody has, or one that is in no VPC.
        dst = rng.pick(&[Ipv4Addr::new(10, 1, 1, 77), Ipv4Addr::new(192, 0, 2, 1)]);
    }
    let (port, source_port) = (rng.pick(&PORTS), 40000 + number);
    let spoofed = rng.tenths(1);
    if spoofed {
        // An address of nobody's, or of a third host's: a host refuses packets from itself.
        let nobody = Ipv4Addr::new(10, src.octets()[1], src.octets()[2], 99);
        let third = rng.pick(&others);
        src = if rng.tenths(5) || third.id == to.id {
            nobody
        } else {
            third.primary().unwrap()
        };
    }
    let packet = match rng.below(5) {
        _ if spoofed => Packet::udp(src, source_port, dst, port),
        0 | 1 => Packet::tcp(src, source_port, dst, port),
        2 => Packet::udp(src, source_port, dst, port),
        3 => Packet::icmp(src, dst, 8, u8::from(rng.tenths(3))),
        _ => Packet::icmp(src, dst, 13, 0),
    };
    (from.id.clone(), Probe { packet, spoofed })
}
