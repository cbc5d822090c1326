//! VPCs, subnets, gateways, peerings, prefix lists, routes, network ACLs.

use ec2::types::{
    AcceptVpcPeeringConnectionRequest, AddPrefixListEntry, AllocateAddressRequest,
    AssociateRouteTableRequest, AssociateVpcCidrBlockRequest, AttachInternetGatewayRequest,
    CreateInternetGatewayRequest, CreateManagedPrefixListRequest, CreateNatGatewayRequest,
    CreateNetworkAclEntryRequest, CreateNetworkAclRequest, CreateRouteRequest,
    CreateRouteTableRequest, CreateSubnetRequest, CreateVpcPeeringConnectionRequest,
    CreateVpcRequest, DescribeNetworkAclsRequest, DescribeRouteTablesRequest, Filter, IcmpTypeCode,
    PortRange, ReplaceNetworkAclAssociationRequest,
};

use super::group::protocol;
use super::{Builder, id, named, said};
use crate::error::Error;
use crate::topology::{Acl, AclAction, AclEntry, Proto, Route, Vpc};

impl Builder<'_> {
    pub(super) async fn vpcs(&mut self) -> Result<(), Error> {
        for vpc in &self.topology.vpcs {
            let name = &vpc.name.value;
            let mut cidrs = vpc.cidrs.iter().map(|c| c.value.to_string());
            let request = CreateVpcRequest {
                cidr_block: cidrs.next(),
                tag_specifications: named("vpc", name),
                ..Default::default()
            };
            let made = self.call(name, request).await?.vpc.and_then(|v| v.vpc_id);
            let vpc_id = said(made, name, "vpcId")?;
            for cidr_block in cidrs {
                let request = AssociateVpcCidrBlockRequest {
                    cidr_block: Some(cidr_block),
                    vpc_id: Some(vpc_id.clone()),
                    ..Default::default()
                };
                self.call(name, request).await?;
            }
            if vpc.internet_gateway {
                let gateway = self.internet_gateway(name, &vpc_id).await?;
                self.gateways.insert(name.clone(), gateway);
            }
            self.subnets(vpc, &vpc_id).await?;
            self.vpcs.insert(name.clone(), vpc_id);
        }
        Ok(())
    }

    async fn internet_gateway(&self, name: &str, vpc: &str) -> Result<String, Error> {
        let request = CreateInternetGatewayRequest {
            tag_specifications: named("internet-gateway", name),
            ..Default::default()
        };
        let made = self.call(name, request).await?.internet_gateway;
        let gateway = said(
            made.and_then(|g| g.internet_gateway_id),
            name,
            "internetGatewayId",
        )?;
        let request = AttachInternetGatewayRequest {
            internet_gateway_id: Some(gateway.clone()),
            vpc_id: Some(vpc.to_owned()),
            ..Default::default()
        };
        self.call(name, request).await?;
        Ok(gateway)
    }

    async fn subnets(&mut self, vpc: &Vpc, vpc_id: &str) -> Result<(), Error> {
        for subnet in &vpc.subnets {
            let name = &subnet.name.value;
            let region = &self.topology.region;
            let short = !subnet.zone.starts_with(region.as_str());
            let zone = if short {
                format!("{region}{}", subnet.zone)
            } else {
                subnet.zone.clone()
            };
            let request = CreateSubnetRequest {
                availability_zone: Some(zone),
                cidr_block: Some(subnet.cidr.value.to_string()),
                vpc_id: Some(vpc_id.to_owned()),
                tag_specifications: named("subnet", name),
                ..Default::default()
            };
            let made = self
                .call(name, request)
                .await?
                .subnet
                .and_then(|s| s.subnet_id);
            self.subnets
                .insert(name.clone(), said(made, name, "subnetId")?);
        }
        Ok(())
    }

    pub(super) async fn peerings(&mut self) -> Result<(), Error> {
        for peering in &self.topology.peerings {
            let name = &peering.name.value;
            let request = CreateVpcPeeringConnectionRequest {
                vpc_id: id(&self.vpcs, &peering.requester.value),
                peer_vpc_id: id(&self.vpcs, &peering.accepter.value),
                tag_specifications: named("vpc-peering-connection", name),
                ..Default::default()
            };
            let made = self.call(name, request).await?.vpc_peering_connection;
            let made = made.and_then(|p| p.vpc_peering_connection_id);
            let peering = said(made, name, "vpcPeeringConnectionId")?;
            let request = AcceptVpcPeeringConnectionRequest {
                vpc_peering_connection_id: Some(peering.clone()),
                ..Default::default()
            };
            self.call(name, request).await?;
            self.peerings.insert(name.clone(), peering);
        }
        Ok(())
    }

    pub(super) async fn prefix_lists(&mut self) -> Result<(), Error> {
        for list in self.topology.vpcs.iter().flat_map(|v| &v.prefix_lists) {
            let name = &list.name.value;
            let entry = |net: &ipnet::Ipv4Net| AddPrefixListEntry {
                cidr: Some(net.to_string()),
                ..Default::default()
            };
            let request = CreateManagedPrefixListRequest {
                address_family: Some("IPv4".to_owned()),
                prefix_list_name: Some(name.clone()),
                max_entries: i32::try_from(list.entries.len().max(1)).ok(),
                entries: list.entries.iter().map(entry).collect(),
                tag_specifications: named("prefix-list", name),
                ..Default::default()
            };
            let made = self.call(name, request).await?.prefix_list;
            let made = said(made.and_then(|p| p.prefix_list_id), name, "prefixListId")?;
            self.prefix_lists.insert(name.clone(), made);
        }
        Ok(())
    }

    pub(super) async fn nats(&mut self) -> Result<(), Error> {
        for nat in self.topology.vpcs.iter().flat_map(|v| &v.nat_gateways) {
            let name = &nat.name.value;
            let allocation = if nat.private {
                None
            } else {
                let request = AllocateAddressRequest {
                    domain: Some("vpc".to_owned()),
                    tag_specifications: named("elastic-ip", name),
                    ..Default::default()
                };
                let made = self.call(name, request).await?.allocation_id;
                Some(said(made, name, "allocationId")?)
            };
            let request = CreateNatGatewayRequest {
                allocation_id: allocation,
                connectivity_type: Some(if nat.private { "private" } else { "public" }.to_owned()),
                subnet_id: id(&self.subnets, &nat.subnet.value),
                tag_specifications: named("natgateway", name),
                ..Default::default()
            };
            let made = self.call(name, request).await?.nat_gateway;
            let made = said(made.and_then(|n| n.nat_gateway_id), name, "natGatewayId")?;
            self.nats.insert(name.clone(), made);
        }
        Ok(())
    }

    pub(super) async fn routes(&mut self) -> Result<(), Error> {
        for vpc in &self.topology.vpcs {
            let vpc_id = id(&self.vpcs, &vpc.name.value);
            if !vpc.main_routes.is_empty() {
                let main = self.main_table(&vpc.name.value, vpc_id.clone()).await?;
                self.fill(&main, vpc, &vpc.main_routes).await?;
            }
            for table in &vpc.route_tables {
                let name = &table.name.value;
                let request = CreateRouteTableRequest {
                    vpc_id: vpc_id.clone(),
                    tag_specifications: named("route-table", name),
                    ..Default::default()
                };
                let made = self.call(name, request).await?.route_table;
                let made = said(made.and_then(|t| t.route_table_id), name, "routeTableId")?;
                self.fill(&made, vpc, &table.routes).await?;
                for subnet in &vpc.subnets {
                    if subnet
                        .route_table
                        .as_ref()
                        .is_some_and(|t| t.value == *name)
                    {
                        let request = AssociateRouteTableRequest {
                            route_table_id: Some(made.clone()),
                            subnet_id: id(&self.subnets, &subnet.name.value),
                            ..Default::default()
                        };
                        self.call(name, request).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn main_table(&self, name: &str, vpc: Option<String>) -> Result<String, Error> {
        let request = DescribeRouteTablesRequest {
            filters: vec![
                filter("vpc-id", vpc),
                filter("association.main", Some("true".to_owned())),
            ],
            ..Default::default()
        };
        let found = self
            .call(name, request)
            .await?
            .route_tables
            .into_iter()
            .next();
        said(found.and_then(|t| t.route_table_id), name, "routeTableId")
    }

    async fn fill(&self, table: &str, vpc: &Vpc, routes: &[Route]) -> Result<(), Error> {
        for route in routes {
            let mut request = CreateRouteRequest {
                route_table_id: Some(table.to_owned()),
                destination_cidr_block: Some(route.to.to_string()),
                ..Default::default()
            };
            match route.via.value.split_once('/') {
                Some(("nat", name)) => request.nat_gateway_id = id(&self.nats, name),
                Some(("peering", name)) => {
                    request.vpc_peering_connection_id = id(&self.peerings, name);
                }
                Some((_, name)) => {
                    let host = self.hosts.get(name);
                    request.network_interface_id = host.map(|h| h.eni.clone());
                }
                None => request.gateway_id = id(&self.gateways, &vpc.name.value),
            }
            self.call(
                &format!("route {} via {}", route.to, route.via.value),
                request,
            )
            .await?;
        }
        Ok(())
    }

    pub(super) async fn acls(&mut self) -> Result<(), Error> {
        for vpc in &self.topology.vpcs {
            for acl in &vpc.acls {
                let made = self.acl(vpc, acl).await?;
                for subnet in &vpc.subnets {
                    if subnet
                        .acl
                        .as_ref()
                        .is_some_and(|a| a.value == acl.name.value)
                    {
                        let subnet = id(&self.subnets, &subnet.name.value);
                        self.use_acl(&acl.name.value, &made, subnet).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn acl(&self, vpc: &Vpc, acl: &Acl) -> Result<String, Error> {
        let name = &acl.name.value;
        let request = CreateNetworkAclRequest {
            vpc_id: id(&self.vpcs, &vpc.name.value),
            tag_specifications: named("network-acl", name),
            ..Default::default()
        };
        let made = self.call(name, request).await?.network_acl;
        let made = said(made.and_then(|a| a.network_acl_id), name, "networkAclId")?;
        for (egress, entry) in acl
            .ingress
            .iter()
            .map(|e| (false, e))
            .chain(acl.egress.iter().map(|e| (true, e)))
        {
            self.call(name, acl_entry(&made, egress, entry)).await?;
        }
        Ok(made)
    }

    async fn use_acl(&self, name: &str, acl: &str, subnet: Option<String>) -> Result<(), Error> {
        let request = DescribeNetworkAclsRequest {
            filters: vec![filter("association.subnet-id", subnet.clone())],
            ..Default::default()
        };
        let found = self.call(name, request).await?.network_acls;
        let mut associations = found.into_iter().flat_map(|a| a.associations);
        let current = associations.find(|a| a.subnet_id == subnet);
        let current = current.and_then(|a| a.network_acl_association_id);
        let request = ReplaceNetworkAclAssociationRequest {
            association_id: Some(said(current, name, "networkAclAssociationId")?),
            network_acl_id: Some(acl.to_owned()),
            ..Default::default()
        };
        self.call(name, request).await.map(drop)
    }
}

fn filter(name: &str, value: Option<String>) -> Filter {
    Filter {
        name: Some(name.to_owned()),
        values: value.into_iter().collect(),
    }
}

fn acl_entry(acl: &str, egress: bool, entry: &AclEntry) -> CreateNetworkAclEntryRequest {
    let (number, from, to) = protocol(&entry.rule.proto);
    let icmp = matches!(entry.rule.proto, Proto::Icmp { .. });
    let ports = matches!(entry.rule.proto, Proto::Tcp(_) | Proto::Udp(_));
    let action = if entry.action == AclAction::Allow {
        "allow"
    } else {
        "deny"
    };
    CreateNetworkAclEntryRequest {
        network_acl_id: Some(acl.to_owned()),
        egress: Some(egress),
        rule_number: Some(i32::from(entry.number)),
        rule_action: Some(action.to_owned()),
        // ACL entries take numbers only, where group rules take names too.
        protocol: Some(match number.as_str() {
            "tcp" => "6".to_owned(),
            "udp" => "17".to_owned(),
            "icmp" => "1".to_owned(),
            other => other.to_owned(),
        }),
        cidr_block: Some(entry.rule.peer.to_string()),
        icmp_type_code: icmp.then_some(IcmpTypeCode {
            type_: from,
            code: to,
        }),
        port_range: ports.then_some(PortRange { from, to }),
        ..Default::default()
    }
}
