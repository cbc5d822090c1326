//! VPCs, subnets, interfaces, routes, gateways, peerings, instances and launch templates.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;
use vpc::facts::*;

use super::{FactError, Of, tags};
use crate::types as t;

/// The tags by which the VPC resource controller marks branch interfaces. They carry no association id.
const TRUNK_TAG: &str = "vpcresources.k8s.aws/trunk-eni-id";
const VLAN_TAG: &str = "vpcresources.k8s.aws/vlan-id";

/// A VPC.
pub fn vpc(vpc: &t::Vpc) -> Result<Vpc, FactError> {
    let of = Of::id("DescribeVpcs", &vpc.vpc_id)?;
    let primary = of.net4("cidrBlock", &vpc.cidr_block)?;
    let mut cidrs = vec![primary];
    for block in &vpc.cidr_block_association_set {
        let state = block
            .cidr_block_state
            .as_ref()
            .and_then(|s| s.state.as_deref());
        let cidr = of.net4("cidrBlockAssociationSet.cidrBlock", &block.cidr_block)?;
        if is_associated(&of, state)? && cidr != primary {
            cidrs.push(cidr);
        }
    }
    let mut cidrs6 = Vec::new();
    for block in &vpc.ipv6_cidr_block_association_set {
        let state = block
            .ipv6_cidr_block_state
            .as_ref()
            .and_then(|s| s.state.as_deref());
        if is_associated(&of, state)? {
            cidrs6.push(of.net6("ipv6CidrBlock", &block.ipv6_cidr_block)?);
        }
    }
    Ok(Vpc {
        id: of.parse("vpcId", of.0)?,
        owner: vpc.owner_id.clone().unwrap_or_default(),
        cidrs,
        cidrs6,
        tags: tags(&vpc.tags),
    })
}

/// Whether an association is in force; None: EC2 reports a state only where there is more than one.
fn is_associated(of: &Of<'_>, state: Option<&str>) -> Result<bool, FactError> {
    match state {
        None | Some("associated" | "associating") => Ok(true),
        Some("disassociating" | "disassociated" | "failing" | "failed") => Ok(false),
        Some(other) => Err(of.malformed("association state", other, "not known")),
    }
}

/// A subnet.
pub fn subnet(subnet: &t::Subnet) -> Result<Subnet, FactError> {
    let of = Of::id("DescribeSubnets", &subnet.subnet_id)?;
    let mut cidrs6 = Vec::new();
    for block in &subnet.ipv6_cidr_block_association_set {
        let state = block
            .ipv6_cidr_block_state
            .as_ref()
            .and_then(|s| s.state.as_deref());
        if is_associated(&of, state)? {
            cidrs6.push(of.net6("ipv6CidrBlock", &block.ipv6_cidr_block)?);
        }
    }
    let available = subnet.available_ip_address_count;
    Ok(Subnet {
        id: of.parse("subnetId", of.0)?,
        vpc: of.parsed("vpcId", &subnet.vpc_id)?,
        cidr: of.net4("cidrBlock", &subnet.cidr_block)?,
        cidrs6,
        zone: subnet.availability_zone.clone().unwrap_or_default(),
        available: available
            .map(|n| of.number("availableIpAddressCount", n))
            .transpose()?,
        tags: tags(&subnet.tags),
    })
}

/// Trunk associations by branch interface.
pub fn trunk_associations(
    answers: &[t::TrunkInterfaceAssociation],
) -> Result<BTreeMap<EniId, TrunkAssociation>, FactError> {
    let mut branches = BTreeMap::new();
    for answer in answers {
        let of = Of::id("DescribeTrunkInterfaceAssociations", &answer.association_id)?;
        let association = TrunkAssociation {
            id: Some(of.parse("associationId", of.0)?),
            trunk: of.parsed("trunkInterfaceId", &answer.trunk_interface_id)?,
            vlan: of.number("vlanId", *of.need("vlanId", &answer.vlan_id)?)?,
        };
        branches.insert(
            of.parsed("branchInterfaceId", &answer.branch_interface_id)?,
            association,
        );
    }
    Ok(branches)
}

/// A network interface of any kind.
pub fn eni(
    eni: &t::NetworkInterface,
    trunks: &BTreeMap<EniId, TrunkAssociation>,
) -> Result<Eni, FactError> {
    let of = Of::id("DescribeNetworkInterfaces", &eni.network_interface_id)?;
    let id: EniId = of.parse("networkInterfaceId", of.0)?;
    let tags = tags(&eni.tag_set);
    let mut addresses: Vec<EniAddress> = eni
        .private_ip_addresses
        .iter()
        .map(|a| address(&of, a))
        .collect::<Result<_, _>>()?;
    addresses.sort_by_key(|address| !address.primary);
    let prefixes = eni
        .ipv4_prefixes
        .iter()
        .map(|p| of.net4("ipv4Prefix", &p.ipv4_prefix));
    let prefixes6 = eni
        .ipv6_prefixes
        .iter()
        .map(|p| of.net6("ipv6Prefix", &p.ipv6_prefix));
    let addresses6 = eni
        .ipv6_addresses
        .iter()
        .map(|a| of.parsed("ipv6Address", &a.ipv6_address));
    let groups = eni
        .groups
        .iter()
        .map(|g| of.parsed("groupSet.groupId", &g.group_id));
    Ok(Eni {
        subnet: of.parsed("subnetId", &eni.subnet_id)?,
        vpc: of.parsed("vpcId", &eni.vpc_id)?,
        mac: of.parsed("macAddress", &eni.mac_address)?,
        addresses,
        prefixes: prefixes.collect::<Result<_, _>>()?,
        addresses6: addresses6.collect::<Result<_, _>>()?,
        prefixes6: prefixes6.collect::<Result<_, _>>()?,
        groups: groups.collect::<Result<_, _>>()?,
        source_dest_check: *of.need("sourceDestCheck", &eni.source_dest_check)?,
        kind: match of.need("interfaceType", &eni.interface_type)?.as_str() {
            "interface" => EniKind::Interface,
            "trunk" => EniKind::Trunk,
            "branch" => EniKind::Branch,
            "nat_gateway" | "natGateway" => EniKind::NatGateway,
            other => EniKind::Other(other.to_owned()),
        },
        status: eni_status(&of, &eni.status)?,
        attachment: eni
            .attachment
            .as_ref()
            .map(|a| attachment(&of, a))
            .transpose()?
            .flatten(),
        trunk: trunks.get(&id).cloned().or_else(|| trunk_by_tags(&tags)),
        description: eni.description.clone().unwrap_or_default(),
        id,
        tags,
    })
}

fn address(
    of: &Of<'_>,
    address: &t::NetworkInterfacePrivateIpAddress,
) -> Result<EniAddress, FactError> {
    let public = match address.association.as_ref() {
        Some(association) if association.public_ip.is_some() => Some(PublicAddress {
            address: of.parsed("publicIp", &association.public_ip)?,
            allocation: of.parse_some("allocationId", &association.allocation_id)?,
        }),
        // Carrier and customer-owned addresses are of networks that are not modelled.
        _ => None,
    };
    Ok(EniAddress {
        address: of.parsed("privateIpAddress", &address.private_ip_address)?,
        primary: *of.need("privateIpAddressesSet.primary", &address.primary)?,
        public,
    })
}

fn eni_status(of: &Of<'_>, status: &Option<String>) -> Result<EniStatus, FactError> {
    Ok(match of.need("status", status)?.as_str() {
        "pending" => EniStatus::Pending,
        "available" => EniStatus::Available,
        "attaching" => EniStatus::Attaching,
        "in-use" => EniStatus::InUse,
        "detaching" => EniStatus::Detaching,
        "associated" => EniStatus::Associated,
        other => return Err(of.malformed("status", other, "not known")),
    })
}

/// None: detached already; EC2 shows that for a moment before it drops the element.
fn attachment(
    of: &Of<'_>,
    attachment: &t::NetworkInterfaceAttachment,
) -> Result<Option<Attachment>, FactError> {
    if attachment.status.as_deref() == Some("detached") {
        return Ok(None);
    }
    let device_index = *of.need("attachment.deviceIndex", &attachment.device_index)?;
    let card = attachment.network_card_index.unwrap_or(0);
    Ok(Some(Attachment {
        id: of
            .need("attachment.attachmentId", &attachment.attachment_id)?
            .clone(),
        instance: of.parse_some("attachment.instanceId", &attachment.instance_id)?,
        owner: attachment.instance_owner_id.clone().unwrap_or_default(),
        device_index: of.number("attachment.deviceIndex", device_index)?,
        network_card: of.number("attachment.networkCardIndex", card)?,
        delete_on_termination: attachment.delete_on_termination.unwrap_or(false),
    }))
}

/// Tags are anybody's text: a malformed one tells nothing about the interface, and is not an error.
fn trunk_by_tags(tags: &Tags) -> Option<TrunkAssociation> {
    let trunk = tags.get(TRUNK_TAG)?.parse().ok()?;
    let vlan = tags.get(VLAN_TAG)?.parse().ok()?;
    Some(TrunkAssociation {
        id: None,
        trunk,
        vlan,
    })
}

/// A route table with its routes and associations.
pub fn route_table(table: &t::RouteTable) -> Result<RouteTable, FactError> {
    let of = Of::id("DescribeRouteTables", &table.route_table_id)?;
    let mut facts = RouteTable {
        id: of.parse("routeTableId", of.0)?,
        vpc: of.parsed("vpcId", &table.vpc_id)?,
        main: false,
        subnets: BTreeSet::new(),
        edges: BTreeSet::new(),
        routes: table
            .routes
            .iter()
            .map(|r| route(of.0, r))
            .collect::<Result<_, _>>()?,
        tags: tags(&table.tags),
    };
    for association in &table.associations {
        let state = association
            .association_state
            .as_ref()
            .and_then(|s| s.state.as_deref());
        if !is_associated(&of, state)? {
            continue;
        }
        if association.main == Some(true) {
            facts.main = true;
        } else if let Some(gateway) = &association.gateway_id {
            facts.edges.insert(gateway.clone());
        } else {
            facts
                .subnets
                .insert(of.parsed("associationSet.subnetId", &association.subnet_id)?);
        }
    }
    Ok(facts)
}

fn route(table: &str, route: &t::Route) -> Result<Route, FactError> {
    let texts = [
        &route.destination_cidr_block,
        &route.destination_ipv6_cidr_block,
        &route.destination_prefix_list_id,
    ];
    let text = texts
        .into_iter()
        .flatten()
        .next()
        .map_or("?", String::as_str);
    let name = format!("{table} route to {text}");
    let of = Of(&name);
    let destination = if route.destination_cidr_block.is_some() {
        Destination::Cidr(of.net4("destinationCidrBlock", &route.destination_cidr_block)?)
    } else if route.destination_ipv6_cidr_block.is_some() {
        Destination::Cidr6(of.net6(
            "destinationIpv6CidrBlock",
            &route.destination_ipv6_cidr_block,
        )?)
    } else {
        Destination::PrefixList(of.parsed("destination", &route.destination_prefix_list_id)?)
    };
    let state = match of.need("state", &route.state)?.as_str() {
        "active" => RouteState::Active,
        "blackhole" => RouteState::Blackhole,
        other => return Err(of.malformed("state", other, "not known")),
    };
    Ok(Route {
        destination,
        target: target(&of, route, state)?,
        state,
        origin: match of.need("origin", &route.origin)?.as_str() {
            "CreateRouteTable" => RouteOrigin::CreateRouteTable,
            "CreateRoute" => RouteOrigin::CreateRoute,
            "EnableVgwRoutePropagation" | "Advertisement" => RouteOrigin::Propagated,
            other => return Err(of.malformed("origin", other, "not known")),
        },
    })
}

fn target(of: &Of<'_>, route: &t::Route, state: RouteState) -> Result<Target, FactError> {
    if let Some(gateway) = &route.gateway_id {
        return gateway_target(of, gateway);
    }
    if let Some(nat) = of.parse_some("natGatewayId", &route.nat_gateway_id)? {
        return Ok(Target::Nat(nat));
    }
    if let Some(peering) =
        of.parse_some("vpcPeeringConnectionId", &route.vpc_peering_connection_id)?
    {
        return Ok(Target::Pcx(peering));
    }
    // A route to an instance names its interface too: that is where packets go.
    if let Some(eni) = of.parse_some("networkInterfaceId", &route.network_interface_id)? {
        return Ok(Target::Eni(eni));
    }
    if let Some(instance) = of.parse_some("instanceId", &route.instance_id)? {
        return Ok(Target::Instance(instance));
    }
    let others = [
        ("transit gateway", &route.transit_gateway_id),
        (
            "egress-only internet gateway",
            &route.egress_only_internet_gateway_id,
        ),
        ("local gateway", &route.local_gateway_id),
        ("carrier gateway", &route.carrier_gateway_id),
        ("core network", &route.core_network_arn),
        ("database network", &route.odb_network_arn),
    ];
    for (kind, id) in others {
        if let Some(id) = id {
            return Ok(Target::Unmodelled {
                kind: kind.to_owned(),
                id: id.clone(),
            });
        }
    }
    match state {
        RouteState::Blackhole => Ok(Target::Unmodelled {
            kind: "deleted target".to_owned(),
            id: "-".to_owned(),
        }),
        RouteState::Active => Err(FactError::Missing {
            object: of.0.to_owned(),
            member: "target (of a known kind)",
        }),
    }
}

fn gateway_target(of: &Of<'_>, gateway: &str) -> Result<Target, FactError> {
    if gateway == "local" {
        return Ok(Target::Local);
    }
    let kind = match gateway.split_once('-').map_or("", |(prefix, _)| prefix) {
        "igw" => return Ok(Target::Igw(of.parse("gatewayId", gateway)?)),
        "vgw" => "virtual private gateway",
        "vpce" => "VPC endpoint",
        _ => "gateway",
    };
    Ok(Target::Unmodelled {
        kind: kind.to_owned(),
        id: gateway.to_owned(),
    })
}

/// An internet gateway.
pub fn internet_gateway(gateway: &t::InternetGateway) -> Result<InternetGateway, FactError> {
    let of = Of::id("DescribeInternetGateways", &gateway.internet_gateway_id)?;
    let attached = |a: &&t::InternetGatewayAttachment| {
        !matches!(a.state.as_deref(), Some("detached" | "detaching"))
    };
    let attachment = gateway.attachments.iter().find(attached);
    Ok(InternetGateway {
        id: of.parse("internetGatewayId", of.0)?,
        vpc: attachment
            .map(|a| of.parsed("attachmentSet.vpcId", &a.vpc_id))
            .transpose()?,
        tags: tags(&gateway.tags),
    })
}

/// A NAT gateway.
pub fn nat_gateway(gateway: &t::NatGateway) -> Result<NatGateway, FactError> {
    let of = Of::id("DescribeNatGateways", &gateway.nat_gateway_id)?;
    let state = match of.need("state", &gateway.state)?.as_str() {
        "pending" => NatState::Pending,
        "failed" => NatState::Failed,
        "available" => NatState::Available,
        "deleting" => NatState::Deleting,
        "deleted" => NatState::Deleted,
        other => return Err(of.malformed("state", other, "not known")),
    };
    let mut parts: Vec<_> = gateway.nat_gateway_addresses.iter().collect();
    parts.sort_by_key(|address| address.is_primary != Some(true));
    // One that does not run has addresses without an interface: they carry nothing.
    let runs = state == NatState::Available;
    let addresses = parts
        .into_iter()
        .filter(|a| runs || (a.network_interface_id.is_some() && a.private_ip.is_some()))
        .map(|a| {
            Ok(NatAddress {
                eni: of.parsed("networkInterfaceId", &a.network_interface_id)?,
                private: of.parsed("privateIp", &a.private_ip)?,
                public: of.parse_some("publicIp", &a.public_ip)?,
            })
        })
        .collect::<Result<_, FactError>>()?;
    Ok(NatGateway {
        id: of.parse("natGatewayId", of.0)?,
        vpc: of.parsed("vpcId", &gateway.vpc_id)?,
        subnet: of.parsed("subnetId", &gateway.subnet_id)?,
        public: match gateway.connectivity_type.as_deref() {
            // Before 2021 there were only public ones.
            None | Some("public") => true,
            Some("private") => false,
            Some(other) => return Err(of.malformed("connectivityType", other, "not known")),
        },
        state,
        addresses,
        tags: tags(&gateway.tags),
    })
}

/// A peering connection.
pub fn peering(peering: &t::VpcPeeringConnection) -> Result<Peering, FactError> {
    let of = Of::id(
        "DescribeVpcPeeringConnections",
        &peering.vpc_peering_connection_id,
    )?;
    let status = of.need("status", &peering.status)?;
    let status = match of.need("status.code", &status.code)?.as_str() {
        "initiating-request" => PeeringStatus::InitiatingRequest,
        "pending-acceptance" => PeeringStatus::PendingAcceptance,
        "provisioning" => PeeringStatus::Provisioning,
        "active" => PeeringStatus::Active,
        "failed" => PeeringStatus::Failed,
        "expired" => PeeringStatus::Expired,
        "rejected" => PeeringStatus::Rejected,
        "deleting" => PeeringStatus::Deleting,
        "deleted" => PeeringStatus::Deleted,
        other => return Err(of.malformed("status.code", other, "not known")),
    };
    let requester = of.need("requesterVpcInfo", &peering.requester_vpc_info)?;
    let accepter = of.need("accepterVpcInfo", &peering.accepter_vpc_info)?;
    Ok(Peering {
        id: of.parse("vpcPeeringConnectionId", of.0)?,
        status,
        requester: peering_side(&of, requester)?,
        accepter: peering_side(&of, accepter)?,
        tags: tags(&peering.tags),
    })
}

fn peering_side(
    of: &Of<'_>,
    side: &t::VpcPeeringConnectionVpcInfo,
) -> Result<PeeringSide, FactError> {
    let mut cidrs: Vec<Ipv4Net> = Vec::new();
    if side.cidr_block.is_some() {
        cidrs.push(of.net4("cidrBlock", &side.cidr_block)?);
    }
    for block in &side.cidr_block_set {
        let cidr = of.net4("cidrBlockSet.cidrBlock", &block.cidr_block)?;
        if !cidrs.contains(&cidr) {
            cidrs.push(cidr);
        }
    }
    Ok(PeeringSide {
        vpc: of.parsed("vpcId", &side.vpc_id)?,
        owner: side.owner_id.clone().unwrap_or_default(),
        region: side.region.clone().unwrap_or_default(),
        cidrs,
    })
}

/// An instance.
pub fn instance(instance: &t::Instance) -> Result<Instance, FactError> {
    let of = Of::id("DescribeInstances", &instance.instance_id)?;
    let state = of.need("instanceState", &instance.state)?;
    Ok(Instance {
        id: of.parse("instanceId", of.0)?,
        instance_type: of.need("instanceType", &instance.instance_type)?.clone(),
        private_dns_name: instance.private_dns_name.clone().unwrap_or_default(),
        state: of.need("instanceState.name", &state.name)?.clone(),
        subnet: of.parse_some("subnetId", &instance.subnet_id)?,
        vpc: of.parse_some("vpcId", &instance.vpc_id)?,
        tags: tags(&instance.tags),
    })
}

/// Launch templates from their versions. Versions do not carry the template's tags.
pub fn launch_templates(
    versions: &[t::LaunchTemplateVersion],
) -> Result<BTreeMap<LaunchTemplateId, LaunchTemplate>, FactError> {
    let mut templates: BTreeMap<LaunchTemplateId, LaunchTemplate> = BTreeMap::new();
    for version in versions {
        let of = Of::id(
            "DescribeLaunchTemplateVersions",
            &version.launch_template_id,
        )?;
        let id: LaunchTemplateId = of.parse("launchTemplateId", of.0)?;
        let number = of.number(
            "versionNumber",
            *of.need("versionNumber", &version.version_number)?,
        )?;
        let template = templates
            .entry(id.clone())
            .or_insert_with(|| LaunchTemplate {
                id,
                name: version.launch_template_name.clone().unwrap_or_default(),
                default_version: 0,
                latest_version: 0,
                versions: BTreeMap::new(),
                tags: Tags::new(),
            });
        template.latest_version = template.latest_version.max(number);
        if version.default_version == Some(true) {
            template.default_version = number;
        }
        let data = of.need("launchTemplateData", &version.launch_template_data)?;
        template
            .versions
            .insert(number, launch_template_version(&of, data)?);
    }
    Ok(templates)
}

fn launch_template_version(
    of: &Of<'_>,
    data: &t::ResponseLaunchTemplateData,
) -> Result<LaunchTemplateVersion, FactError> {
    let group_ids = |ids: &[String]| {
        ids.iter()
            .map(|id| of.parse("securityGroupIds", id))
            .collect::<Result<_, _>>()
    };
    let interfaces = data.network_interfaces.iter().map(|interface| {
        let index = interface.device_index.unwrap_or(0);
        Ok(LaunchTemplateInterface {
            device_index: of.number("deviceIndex", index)?,
            groups: group_ids(&interface.groups)?,
            subnet: of.parse_some("subnetId", &interface.subnet_id)?,
        })
    });
    Ok(LaunchTemplateVersion {
        instance_type: data.instance_type.clone(),
        groups: group_ids(&data.security_group_ids)?,
        interfaces: interfaces.collect::<Result<_, FactError>>()?,
    })
}
