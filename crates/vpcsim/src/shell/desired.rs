//! What the network should be, for the fabric: the same facts that the tool reads from the EC2 API,
//! made by the same conversion from our own Describe answers.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ec2::facts::{Answers, FactError};
use ec2::types::*;
use jiff::Timestamp;
use vpc::facts::{EniId, World};

use crate::actions::{self, Action, Caller};
use crate::error::ApiResult;
use crate::store::{AttachStatus, EniKind, Holder, State};

/// The network at one version.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// Grows with every change.
    pub version: u64,
    /// The facts.
    pub world: World,
    /// Interfaces that hosts hold now, those of NAT gateways left out.
    pub attachments: BTreeMap<EniId, Attached>,
    /// Names that the VPCs' DNS knows.
    pub names: BTreeMap<String, Vec<Ipv4Addr>>,
}

/// What holds an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The instance's id, or the name given to [`super::Sim::attach_managed`].
    pub host: String,
    /// The device index; 0 is the primary interface.
    pub device: u32,
}

/// Everything that Describe answers, unfiltered.
pub(super) fn answers(state: &mut State, now: Timestamp) -> ApiResult<Answers> {
    let caller = Caller::root(&state.config.account);
    fn ask<A: Action>(
        state: &mut State,
        caller: &Caller,
        request: A,
        now: Timestamp,
    ) -> ApiResult<A::Output> {
        actions::call(state, caller, &request, now)
    }
    macro_rules! all {
        ($request:ident $member:ident) => {
            ask(state, &caller, $request::default(), now)?.$member
        };
    }
    let mut answers = Answers {
        account: state.config.account.clone(),
        region: state.config.region.clone(),
        vpcs: all!(DescribeVpcsRequest vpcs),
        subnets: all!(DescribeSubnetsRequest subnets),
        network_interfaces: all!(DescribeNetworkInterfacesRequest network_interfaces),
        security_groups: all!(DescribeSecurityGroupsRequest security_groups),
        security_group_rules: all!(DescribeSecurityGroupRulesRequest security_group_rules),
        network_acls: all!(DescribeNetworkAclsRequest network_acls),
        route_tables: all!(DescribeRouteTablesRequest route_tables),
        prefix_lists: all!(DescribeManagedPrefixListsRequest prefix_lists),
        internet_gateways: all!(DescribeInternetGatewaysRequest internet_gateways),
        nat_gateways: all!(DescribeNatGatewaysRequest nat_gateways),
        peerings: all!(DescribeVpcPeeringConnectionsRequest vpc_peering_connections),
        trunk_associations: all!(DescribeTrunkInterfaceAssociationsRequest interface_associations),
        ..Answers::default()
    };
    let reservations = all!(DescribeInstancesRequest reservations);
    answers.instances = reservations.into_iter().flat_map(|r| r.instances).collect();
    for list in &answers.prefix_lists {
        let Some(id) = list.prefix_list_id.clone() else {
            continue;
        };
        let request = GetManagedPrefixListEntriesRequest {
            prefix_list_id: Some(id.clone()),
            ..Default::default()
        };
        let entries = ask(state, &caller, request, now)?.entries;
        answers.prefix_list_entries.insert(id, Ok(entries));
    }
    let request = DescribeLaunchTemplateVersionsRequest {
        versions: vec!["$Latest".into(), "$Default".into()],
        ..Default::default()
    };
    answers.launch_template_versions = ask(state, &caller, request, now)?.launch_template_versions;
    Ok(answers)
}

/// Interfaces that hosts hold.
pub(super) fn attachments(state: &State) -> Result<BTreeMap<EniId, Attached>, FactError> {
    let mut attached = BTreeMap::new();
    for (id, eni) in state
        .enis
        .iter()
        .filter(|(_, e)| e.kind != EniKind::NatGateway)
    {
        let Some(attachment) = eni.attachment.as_ref() else {
            continue;
        };
        if attachment.status != AttachStatus::Attached {
            continue;
        }
        let (host, device) = match &attachment.holder {
            Holder::Instance {
                instance, device, ..
            } => (instance.to_string(), *device),
            Holder::Managed { host, device, .. } => (host.clone(), *device),
        };
        let id = id.to_string();
        let eni_id: EniId = id
            .parse()
            .map_err(|e: vpc::facts::BadId| FactError::Malformed {
                object: id.clone(),
                member: "NetworkInterfaceId",
                value: id.clone(),
                problem: e.to_string(),
            })?;
        attached.insert(eni_id, Attached { host, device });
    }
    Ok(attached)
}

/// Private names of interfaces.
pub(super) fn names(state: &State) -> BTreeMap<String, Vec<Ipv4Addr>> {
    let mut names: BTreeMap<String, Vec<Ipv4Addr>> = BTreeMap::new();
    for eni in state.enis.values() {
        names
            .entry(state.private_dns(eni.primary))
            .or_default()
            .push(eni.primary);
    }
    names
}
