//! The nft table of each namespace: where the layers of the VPC meet packets.
//!
//! Order in a router, which is AWS's (reference: VPC user guide, "how packets are evaluated"):
//!
//! | hook | priority | chain | what |
//! |---|---|---|---|
//! | prerouting | -310 | `source` | source check of interfaces; what gateways may bring in. Before tracking, so that a spoofed packet leaves no trace |
//! | prerouting | -150 | `routing` | mark = the route table of the sender's subnet, or [`SAME_SUBNET`] |
//! | prerouting | -100 | `public_in` | public to private address, from the internet |
//! | forward | -20 | `uplink` | no public address, no internet |
//! | forward | -10 | `acl` | network ACLs, stateless, on every packet that crosses a subnet's border |
//! | forward | 0 | `groups` | security groups |
//! | postrouting | 100 | `public_out` | private to public address |
//!
//! Groups are stateful per interface, but one connection tracking entry serves both ends. Its mark remembers whose
//! verdict was a tracked one: bit 0 the initiator's, bit 1 the responder's. A packet is evaluated at each end whose
//! bit is missing: so tracked connections survive the removal of their rule, and untracked ones do not.
//!
//! Services of the VPC (metadata, DNS, time) end in the router itself and meet neither ACL nor groups.

use std::collections::{BTreeMap, BTreeSet};

use layers::{Layer, SetName};
use vpc::Network;
use vpc::facts::*;

use super::mutants::mutated;
use super::names::{self, SAME_SUBNET, TRACKED};
use super::nft;
use super::plan::{Place, Plan};
use super::ruleset::{Chain, Ruleset, Set};

const FILTER_SOURCE: &str = "type filter hook prerouting priority -310; policy drop;";
const FILTER_ROUTING: &str = "type filter hook prerouting priority -150; policy accept;";
const NAT_IN: &str = "type nat hook prerouting priority -100; policy accept;";
const FILTER_UPLINK: &str = "type filter hook forward priority -20; policy accept;";
const FILTER_ACL: &str = "type filter hook forward priority -10; policy accept;";
const FILTER_GROUPS: &str = "type filter hook forward priority 0; policy drop;";
const FILTER_INPUT: &str = "type filter hook input priority 0; policy drop;";
const NAT_OUT: &str = "type nat hook postrouting priority 100; policy accept;";

/// The initiator's groups let this connection pass by a tracked rule.
const INITIATOR: u32 = 1;
/// The responder's groups did.
const RESPONDER: u32 = 2;

/// The tables of all namespaces that have one.
pub fn rulesets(world: &World, plan: &mut Plan) -> BTreeMap<Place, Ruleset> {
    let network = Network::new(world);
    let mut all = BTreeMap::new();
    let mut dropped = BTreeSet::new();
    for vpc in world.vpcs.values() {
        let mut router = Router {
            world,
            vpc,
            plan,
            place: Place::Router(vpc.id.clone()),
            network: &network,
            out: Ruleset::default(),
            used: BTreeSet::new(),
            dropped: &mut dropped,
        };
        router.compile();
        all.insert(router.place, router.out);
    }
    for nat in world.nat_gateways.values() {
        let place = Place::Nat(nat.id.clone());
        if plan.spaces.contains_key(&place)
            && let Some(address) = nat.addresses.first()
        {
            all.insert(place, nat_gateway(address));
        }
    }
    plan.dropped.extend(dropped);
    all
}

/// One router's table while it is put together.
struct Router<'a> {
    world: &'a World,
    vpc: &'a Vpc,
    plan: &'a Plan,
    place: Place,
    network: &'a Network<'a>,
    out: Ruleset,
    /// Address sets that rules name.
    used: BTreeSet<SetName>,
    /// What is not known and therefore dropped.
    dropped: &'a mut BTreeSet<String>,
}

impl Router<'_> {
    fn compile(&mut self) {
        self.declare();
        self.base_chains();
        for (id, (place, link)) in &self.plan.plugged {
            if let Some(eni) = self.world.enis.get(id).filter(|_| *place == self.place) {
                self.interface(eni, &quoted(link));
            }
        }
        for peering in self.world.peerings.values() {
            self.peering(peering);
        }
        if self.has_uplink() {
            self.uplink();
        }
        for name in std::mem::take(&mut self.used) {
            if let Some(set) = self.network.sets().get(&name) {
                let mut elements = nft::addresses(set);
                if mutated!(PrefixListTruncated) && name.0.starts_with(PrefixListId::PREFIX) {
                    elements.elements = elements.elements.into_iter().take(1).collect();
                }
                self.out.sets.insert(nft::set_name(&name), elements);
            }
        }
    }

    /// The sets and maps that every router has.
    fn declare(&mut self) {
        let declared = [
            ("sources", Set::interval("ifname . ipv4_addr")),
            ("same_subnet", Set::interval("ifname . ipv4_addr")),
            ("tables", Set::map("ifname", "mark")),
            ("ports", Set::exact("ifname")),
            ("acl_out", Set::map("ifname", "verdict")),
            ("acl_in", Set::map("ifname", "verdict")),
            ("group_out", Set::map("ifname", "verdict")),
            ("group_in", Set::map("ifname", "verdict")),
        ];
        for (name, set) in declared {
            self.out.sets.insert(name.to_owned(), set);
        }
    }

    fn base_chains(&mut self) {
        let igw = quoted(names::igw());
        let mut source = vec!["iifname \"lo\" accept".to_owned()];
        if self.has_uplink() {
            source.push(format!("iifname {igw} ip daddr @public accept"));
        }
        source.push("iifname . ip saddr @sources accept".to_owned());
        self.chain("source", base(FILTER_SOURCE, source));
        let routing = vec![
            format!("iifname . ip daddr @same_subnet meta mark set {SAME_SUBNET:#x} accept"),
            "meta mark set iifname map @tables".to_owned(),
        ];
        self.chain("routing", base(FILTER_ROUTING, routing));
        let mut acl = vec![
            "iifname vmap @acl_out".to_owned(),
            "oifname vmap @acl_in".to_owned(),
        ];
        if !mutated!(AclInsideSubnet) {
            acl.insert(0, format!("meta mark & {SAME_SUBNET:#x} != 0 accept"));
        }
        if mutated!(AclSkippedOnReplies) {
            acl.insert(0, "ct direction reply accept".to_owned());
        }
        self.chain("acl", base(FILTER_ACL, acl));
        self.group_chains();
    }

    fn group_chains(&mut self) {
        let both = INITIATOR | RESPONDER;
        let groups = vec![
            format!("ct mark & {both} == {both} accept"),
            // Errors about a connection belong to it; path MTU discovery depends on them.
            "ct state related accept".to_owned(),
            // A link that no map below names would pass unevaluated.
            "iifname != @ports drop".to_owned(),
            "oifname != @ports drop".to_owned(),
            "ct direction original goto question".to_owned(),
            "ct direction reply goto answer".to_owned(),
        ];
        self.chain("groups", base(FILTER_GROUPS, groups));
        let remember = |bit| {
            let on = format!("meta mark & {TRACKED:#x} != 0 ct mark set ct mark | {bit}");
            [on, format!("meta mark set meta mark & {:#x}", !TRACKED)]
        };
        let mut question = vec![format!(
            "ct mark & {INITIATOR} == 0 iifname vmap @group_out"
        )];
        question.extend(remember(INITIATOR));
        question.push(format!("ct mark & {RESPONDER} == 0 oifname vmap @group_in"));
        question.extend(remember(RESPONDER));
        question.push("accept".to_owned());
        self.chain(
            "question",
            Chain {
                hook: None,
                rules: question,
            },
        );
        // An answer passes by state or by a rule of its own, and never makes state.
        let answer = vec![
            format!("ct mark & {RESPONDER} == 0 iifname vmap @group_out"),
            format!("ct mark & {INITIATOR} == 0 oifname vmap @group_in"),
            "accept".to_owned(),
        ];
        self.chain(
            "answer",
            Chain {
                hook: None,
                rules: answer,
            },
        );
    }

    fn interface(&mut self, eni: &Eni, port: &str) {
        self.insert("ports", port.to_owned());
        if eni.source_dest_check && eni.kind != EniKind::NatGateway && !mutated!(SourceCheckOmitted)
        {
            for network in eni.networks() {
                self.insert("sources", format!("{port} . {}", nft::network(network)));
            }
        } else {
            self.insert("sources", format!("{port} . 0.0.0.0/0"));
        }
        if let Some(subnet) = self.world.subnets.get(&eni.subnet) {
            self.insert(
                "same_subnet",
                format!("{port} . {}", nft::network(subnet.cidr)),
            );
            if let Some(table) = self.world.route_table_of(subnet)
                && let Some(number) = self.plan.tables.get(&table.id)
            {
                self.put("tables", port, format!("{number:#x}"));
            }
            self.acl(&subnet.id, port);
        }
        self.groups(eni, port);
    }

    /// The ACL of a subnet for one of its ports; subnets with the same one share the chains.
    fn acl(&mut self, subnet: &SubnetId, port: &str) {
        let network = self.network;
        for (direction, map) in [
            (Direction::Egress, "acl_out"),
            (Direction::Ingress, "acl_in"),
        ] {
            let verdict = match (self.world.acl_of(subnet), network.acl_layers(subnet)) {
                (Some(acl), Ok(layers)) => {
                    let chain = format!("{map}_{}", names::word(&acl.id));
                    self.layer(&chain, layers.of(direction));
                    format!("jump {chain}")
                }
                (_, layers) => {
                    let need = layers
                        .err()
                        .map_or_else(String::new, |need| need.to_string());
                    self.dropped.insert(format!("{subnet}: {need}"));
                    "drop".to_owned()
                }
            };
            self.put(map, port, verdict);
        }
    }

    /// The groups of an interface; interfaces with the same list share the chains.
    fn groups(&mut self, eni: &Eni, port: &str) {
        let network = self.network;
        let list: Vec<String> = eni.groups.iter().map(names::word).collect();
        let list = list.join(".");
        for (direction, map) in [
            (Direction::Egress, "group_out"),
            (Direction::Ingress, "group_in"),
        ] {
            let verdict = match network.group_layers(eni) {
                Ok(Some(_)) if mutated!(EgressNotConsulted) && direction == Direction::Egress => {
                    "continue".to_owned()
                }
                Ok(Some(layers)) => {
                    let chain = names::short(format!("{map}_{list}"));
                    self.layer(&chain, layers.of(direction));
                    format!("jump {chain}")
                }
                Ok(None) => "continue".to_owned(),
                Err(need) => {
                    self.dropped.insert(format!("{}: {need}", eni.id));
                    "drop".to_owned()
                }
            };
            self.put(map, port, verdict);
        }
    }

    fn layer(&mut self, chain: &str, layer: &Layer) {
        if self.out.chains.contains_key(chain) {
            return;
        }
        let compiled = nft::chain(layer, self.network.sets(), &mut self.used);
        self.chain(chain, compiled);
    }

    /// The other side of a peering answers for its own addresses, and its ACLs and groups are evaluated there.
    fn peering(&mut self, peering: &Peering) {
        let Some(other) = peering.other_side(&self.vpc.id) else {
            return;
        };
        if !self
            .plan
            .cables
            .values()
            .any(|cable| cable.near.link == names::peering(&peering.id))
        {
            return;
        }
        let Some(peer) = self.world.vpcs.get(&other.vpc) else {
            return;
        };
        let port = quoted(names::peering(&peering.id));
        if mutated!(PeeringTransitive) {
            self.insert("sources", format!("{port} . 0.0.0.0/0"));
            let own = self
                .world
                .route_tables
                .values()
                .filter(|t| t.vpc == self.vpc.id);
            let table = own.max_by_key(|table| table.routes.len());
            if let Some(number) = table.and_then(|table| self.plan.tables.get(&table.id)) {
                self.put("tables", &port, format!("{number:#x}"));
            }
        } else {
            for cidr in &peer.cidrs {
                self.insert("sources", format!("{port} . {}", nft::network(*cidr)));
            }
        }
        self.gateway(&port);
    }

    /// A port of a gateway: it has no groups and no ACL of its own.
    fn gateway(&mut self, port: &str) {
        self.insert("ports", port.to_owned());
        self.put("group_out", port, "continue");
        self.put("group_in", port, "continue");
    }

    fn has_uplink(&self) -> bool {
        self.plan
            .cables
            .contains_key(&(self.place.clone(), names::igw()))
    }

    fn uplink(&mut self) {
        let igw = quoted(names::igw());
        let mut public = Set::exact("ipv4_addr");
        let mut private = Set::exact("ipv4_addr");
        let mut inwards = Set::map("ipv4_addr", "ipv4_addr");
        let mut outwards = Set::map("ipv4_addr", "ipv4_addr");
        for ((place, outside), inside) in &self.plan.public {
            if *place == self.place {
                public.insert(outside.to_string());
                private.insert(inside.to_string());
                inwards.put(outside.to_string(), inside.to_string());
                outwards.put(inside.to_string(), outside.to_string());
            }
        }
        let sets = [
            ("public", public),
            ("private", private),
            ("to_private", inwards),
            ("to_public", outwards),
        ];
        self.out
            .sets
            .extend(sets.map(|(name, set)| (name.to_owned(), set)));
        let uplink = format!("oifname {igw} ip saddr != @private drop");
        self.chain("uplink", base(FILTER_UPLINK, vec![uplink]));
        let inwards = format!("iifname {igw} dnat to ip daddr map @to_private");
        self.chain("public_in", base(NAT_IN, vec![inwards]));
        let outwards = format!("oifname {igw} snat to ip saddr map @to_public");
        self.chain("public_out", base(NAT_OUT, vec![outwards]));
        self.gateway(&igw);
    }

    fn chain(&mut self, name: &str, chain: Chain) {
        self.out.chains.insert(name.to_owned(), chain);
    }

    fn insert(&mut self, set: &str, element: String) {
        if let Some(set) = self.out.sets.get_mut(set) {
            set.insert(element);
        }
    }

    fn put(&mut self, map: &str, key: &str, value: impl Into<String>) {
        if let Some(map) = self.out.sets.get_mut(map) {
            map.put(key, value);
        }
    }
}

/// A NAT gateway: what is forwarded leaves with its address, and nothing comes in that did not go out first.
fn nat_gateway(address: &NatAddress) -> Ruleset {
    let mut out = Ruleset::default();
    let own = address.private;
    let chains = [
        (
            "translate",
            base(
                NAT_OUT,
                vec![
                    format!("ip protocol {{ tcp, udp }} snat to {own}:1024-65535"),
                    format!("ip protocol icmp snat to {own}"),
                ],
            ),
        ),
        (
            "through",
            base(
                FILTER_GROUPS,
                vec!["ip protocol { tcp, udp, icmp } accept".to_owned()],
            ),
        ),
        (
            "to_itself",
            base(
                FILTER_INPUT,
                vec![
                    "iifname \"lo\" accept".to_owned(),
                    "ct state established,related accept".to_owned(),
                ],
            ),
        ),
    ];
    out.chains
        .extend(chains.map(|(name, chain)| (name.to_owned(), chain)));
    out
}

fn quoted(link: impl std::fmt::Display) -> String {
    format!("\"{link}\"")
}

fn base(hook: &'static str, rules: Vec<String>) -> Chain {
    Chain {
        hook: Some(hook),
        rules,
    }
}
