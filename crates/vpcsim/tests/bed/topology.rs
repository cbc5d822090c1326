//! Worlds in a few words, for tests.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use vpc::facts::*;

/// The `n`th address of a network.
pub fn nth(net: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(net.network()) + n)
}

/// A network from text.
pub fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

/// A world under construction.
#[derive(Default)]
pub struct Builder {
    pub world: World,
}

impl Builder {
    /// A VPC with its main route table `rtb-<name>`, which has the local route, and default ACL `acl-<name>`.
    pub fn vpc(&mut self, name: &str, cidr: &str) -> &mut Self {
        let vpc: VpcId = id(&format!("vpc-{name}"));
        let facts = Vpc {
            id: vpc.clone(),
            owner: String::new(),
            cidrs: vec![net(cidr)],
            cidrs6: Vec::new(),
            tags: Tags::new(),
        };
        self.world.vpcs.insert(vpc.clone(), facts);
        self.table(name, name);
        let rtb: RtbId = id(&format!("rtb-{name}"));
        self.world.route_tables.get_mut(&rtb).unwrap().main = true;
        self.acl(name, name, allow_all());
        self
    }

    /// A route table `rtb-<name>` with the local route of its VPC.
    pub fn table(&mut self, name: &str, vpc: &str) -> &mut Self {
        let table: RtbId = id(&format!("rtb-{name}"));
        let vpc: VpcId = id(&format!("vpc-{vpc}"));
        let local = Route {
            destination: Destination::Cidr(self.world.vpcs[&vpc].cidrs[0]),
            target: Target::Local,
            state: RouteState::Active,
            origin: RouteOrigin::CreateRouteTable,
        };
        let facts = RouteTable {
            id: table.clone(),
            vpc,
            main: false,
            subnets: Default::default(),
            edges: Default::default(),
            routes: vec![local],
            tags: Tags::new(),
        };
        self.world.route_tables.insert(table, facts);
        self
    }

    /// A route in table `rtb-<table>`.
    pub fn route(&mut self, table: &str, to: &str, target: Target, state: RouteState) -> &mut Self {
        let table: RtbId = id(&format!("rtb-{table}"));
        let destination = match to.parse() {
            Ok(list) => Destination::PrefixList(list),
            Err(_) => Destination::Cidr(net(to)),
        };
        let route = Route {
            destination,
            target,
            state,
            origin: RouteOrigin::CreateRoute,
        };
        self.world
            .route_tables
            .get_mut(&table)
            .unwrap()
            .routes
            .push(route);
        self
    }

    /// A network ACL `acl-<name>`.
    pub fn acl(&mut self, name: &str, vpc: &str, entries: Vec<AclEntry>) -> &mut Self {
        let acl: AclId = id(&format!("acl-{name}"));
        let facts = NetworkAcl {
            id: acl.clone(),
            vpc: id(&format!("vpc-{vpc}")),
            default: name == vpc,
            subnets: Default::default(),
            entries,
            tags: Tags::new(),
        };
        self.world.acls.insert(acl, facts);
        self
    }

    /// A subnet `subnet-<name>` with an ACL, and a route table when it is not the main one.
    pub fn subnet(
        &mut self,
        name: &str,
        vpc: &str,
        cidr: &str,
        acl: &str,
        table: &str,
    ) -> &mut Self {
        let subnet: SubnetId = id(&format!("subnet-{name}"));
        let facts = Subnet {
            id: subnet.clone(),
            vpc: id(&format!("vpc-{vpc}")),
            cidr: net(cidr),
            cidrs6: Vec::new(),
            zone: "us-west-2a".into(),
            available: None,
            tags: Tags::new(),
        };
        self.world.subnets.insert(subnet.clone(), facts);
        let acl: AclId = id(&format!("acl-{acl}"));
        self.world
            .acls
            .get_mut(&acl)
            .unwrap()
            .subnets
            .insert(subnet.clone());
        if table != vpc {
            let table: RtbId = id(&format!("rtb-{table}"));
            self.world
                .route_tables
                .get_mut(&table)
                .unwrap()
                .subnets
                .insert(subnet);
        }
        self
    }

    /// A group `sg-<name>`; its rules are given as `ingress`, `egress` and what follows.
    pub fn group(&mut self, name: &str, vpc: &str, rules: Vec<GroupRule>) -> &mut Self {
        let group: SgId = id(&format!("sg-{name}"));
        let facts = SecurityGroup {
            id: group.clone(),
            vpc: id(&format!("vpc-{vpc}")),
            name: name.into(),
            owner: String::new(),
            description: String::new(),
            rules,
            tags: Tags::new(),
        };
        self.world.groups.insert(group, facts);
        self
    }

    /// An attached interface `eni-<name>` with one address.
    pub fn eni(&mut self, name: &str, subnet: &str, address: &str, groups: &[&str]) -> &mut Eni {
        let eni: EniId = id(&format!("eni-{name}"));
        let subnet: SubnetId = id(&format!("subnet-{subnet}"));
        let number = u32::try_from(self.world.enis.len()).unwrap().to_be_bytes();
        let address = EniAddress {
            address: address.parse().unwrap(),
            primary: true,
            public: None,
        };
        let facts = Eni {
            id: eni.clone(),
            vpc: self.world.subnets[&subnet].vpc.clone(),
            subnet,
            mac: Mac([2, 0, number[0], number[1], number[2], number[3]]),
            addresses: vec![address],
            prefixes: Vec::new(),
            addresses6: Vec::new(),
            prefixes6: Vec::new(),
            groups: groups.iter().map(|g| id(&format!("sg-{g}"))).collect(),
            source_dest_check: true,
            kind: EniKind::Interface,
            status: EniStatus::InUse,
            attachment: Some(Attachment {
                id: format!("eni-attach-{name}"),
                instance: Some(id(&format!("i-{name}"))),
                owner: String::new(),
                device_index: 0,
                network_card: 0,
                delete_on_termination: true,
            }),
            trunk: None,
            description: String::new(),
            tags: Tags::new(),
        };
        self.world.enis.insert(eni.clone(), facts);
        self.world.enis.get_mut(&eni).unwrap()
    }

    /// A peering `pcx-<name>`.
    pub fn peering(&mut self, name: &str, a: &str, b: &str, status: PeeringStatus) -> &mut Self {
        let side = |vpc: &str| {
            let vpc: VpcId = id(&format!("vpc-{vpc}"));
            let cidrs = self.world.vpcs[&vpc].cidrs.clone();
            PeeringSide {
                vpc,
                owner: String::new(),
                region: String::new(),
                cidrs,
            }
        };
        let peering = Peering {
            id: id(&format!("pcx-{name}")),
            status,
            requester: side(a),
            accepter: side(b),
            tags: Tags::new(),
        };
        self.world.peerings.insert(peering.id.clone(), peering);
        self
    }

    /// An internet gateway `igw-<vpc>`.
    pub fn igw(&mut self, vpc: &str) -> &mut Self {
        let gateway = InternetGateway {
            id: id(&format!("igw-{vpc}")),
            vpc: Some(id(&format!("vpc-{vpc}"))),
            tags: Tags::new(),
        };
        self.world
            .internet_gateways
            .insert(gateway.id.clone(), gateway);
        self
    }

    /// A NAT gateway `nat-<name>` with its interface `eni-<name>`; public when it has a public address.
    pub fn nat(
        &mut self,
        name: &str,
        subnet: &str,
        private: &str,
        public: Option<&str>,
    ) -> &mut Self {
        let eni = self.eni(name, subnet, private, &[]);
        eni.kind = EniKind::NatGateway;
        eni.source_dest_check = false;
        eni.addresses[0].public = public.map(public_address);
        let (eni, subnet, vpc) = (eni.id.clone(), eni.subnet.clone(), eni.vpc.clone());
        let address = NatAddress {
            eni,
            private: private.parse().unwrap(),
            public: public.map(|address| address.parse().unwrap()),
        };
        let gateway = NatGateway {
            id: id(&format!("nat-{name}")),
            vpc,
            subnet,
            public: public.is_some(),
            state: NatState::Available,
            addresses: vec![address],
            tags: Tags::new(),
        };
        self.world.nat_gateways.insert(gateway.id.clone(), gateway);
        self
    }

    /// A prefix list `pl-<name>`.
    pub fn prefix_list(&mut self, name: &str, entries: Vec<Ipv4Net>) -> &mut Self {
        let list = PrefixList {
            id: id(&format!("pl-{name}")),
            name: name.into(),
            entries,
            entries6: Vec::new(),
            max_entries: None,
            unread: None,
        };
        self.world.prefix_lists.insert(list.id.clone(), list);
        self
    }
}

/// A target by id: `pcx-ab`.
pub fn through(text: &str) -> Target {
    match text.split_once('-').map(|(kind, _)| kind) {
        Some("pcx") => Target::Pcx(id(text)),
        Some("igw") => Target::Igw(id(text)),
        Some("nat") => Target::Nat(id(text)),
        _ => Target::Unmodelled {
            kind: "transit gateway".into(),
            id: text.into(),
        },
    }
}

/// `tcp/22`, `udp/1-100`, `icmp`, `icmp/8`, `all`.
pub fn protocol(text: &str) -> Protocol {
    let (name, rest) = text.split_once('/').unwrap_or((text, ""));
    let ports = || {
        let (from, to) = rest.split_once('-').unwrap_or((rest, rest));
        match rest {
            "" => Ports {
                from: 0,
                to: u16::MAX,
            },
            _ => Ports {
                from: from.parse().unwrap(),
                to: to.parse().unwrap(),
            },
        }
    };
    match name {
        "all" => Protocol::All,
        "tcp" => Protocol::Tcp(ports()),
        "udp" => Protocol::Udp(ports()),
        "icmp" => Protocol::Icmp {
            kind: rest.parse().ok(),
            code: None,
        },
        other => panic!("{other} is not a protocol of these tests"),
    }
}

/// `10.0.0.0/8`, `sg-a`, `pl-a`.
pub fn peer(text: &str) -> RulePeer {
    if text.starts_with("sg-") {
        RulePeer::Group {
            id: id(text),
            vpc: None,
            peering: None,
        }
    } else if text.starts_with("pl-") {
        RulePeer::PrefixList(id(text))
    } else {
        RulePeer::Cidr4(net(text))
    }
}

/// A rule for packets to an interface.
pub fn ingress(what: &str, from: &str) -> GroupRule {
    rule(Direction::Ingress, protocol(what), peer(from))
}

/// A rule for packets from an interface.
pub fn egress(what: &str, to: &str) -> GroupRule {
    rule(Direction::Egress, protocol(what), peer(to))
}

/// A rule of a group.
pub fn rule(direction: Direction, protocol: Protocol, peer: RulePeer) -> GroupRule {
    GroupRule {
        id: None,
        direction,
        protocol,
        peer,
        description: String::new(),
    }
}

/// An entry of an ACL.
pub fn entry(number: u16, direction: Direction, what: &str, cidr: &str, allow: bool) -> AclEntry {
    AclEntry {
        number,
        direction,
        protocol: protocol(what),
        cidr: AclCidr::V4(net(cidr)),
        allow,
    }
}

/// The entries of a default ACL.
pub fn allow_all() -> Vec<AclEntry> {
    [Direction::Ingress, Direction::Egress]
        .map(|d| entry(100, d, "all", "0.0.0.0/0", true))
        .into()
}

/// An Elastic IP address.
pub fn public_address(text: &str) -> PublicAddress {
    PublicAddress {
        address: text.parse().unwrap(),
        allocation: None,
    }
}
