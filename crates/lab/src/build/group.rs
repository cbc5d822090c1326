//! Security groups and their rules.

use ec2::types::{
    AuthorizeSecurityGroupEgressRequest, AuthorizeSecurityGroupIngressRequest,
    CreateSecurityGroupRequest, DescribeSecurityGroupsRequest, Filter, IpPermission, IpRange,
    PrefixListId, RevokeSecurityGroupEgressRequest, UserIdGroupPair,
};

use super::{Builder, id, named, said};
use crate::error::Error;
use crate::topology::{Group, Peer, Proto, Rule};

impl Builder<'_> {
    /// All groups first: rules name groups in any order.
    pub(super) async fn groups(&mut self) -> Result<(), Error> {
        for vpc in &self.topology.vpcs {
            for group in &vpc.groups {
                let name = &group.name.value;
                let request = CreateSecurityGroupRequest {
                    group_name: Some(name.clone()),
                    description: Some(group.description.clone().unwrap_or_else(|| name.clone())),
                    vpc_id: id(&self.vpcs, &vpc.name.value),
                    tag_specifications: named("security-group", name),
                    ..Default::default()
                };
                let made = self.call(name, request).await?.group_id;
                self.groups
                    .insert(name.clone(), said(made, name, "groupId")?);
            }
        }
        for group in self.topology.vpcs.iter().flat_map(|v| &v.groups) {
            self.rules(group).await?;
        }
        Ok(())
    }

    async fn rules(&self, group: &Group) -> Result<(), Error> {
        let name = &group.name.value;
        let group_id = id(&self.groups, name);
        let permissions = |rules: Vec<&Rule>| {
            rules
                .into_iter()
                .map(|r| self.permission(name, r))
                .collect()
        };
        let ingress: Vec<_> = permissions(group.ingress.iter().map(|r| &r.value).collect());
        if !ingress.is_empty() {
            let request = AuthorizeSecurityGroupIngressRequest {
                group_id: group_id.clone(),
                ip_permissions: ingress,
                ..Default::default()
            };
            self.call(name, request).await?;
        }
        // Left out means what EC2 gives every new group: everything may leave.
        let Some(egress) = &group.egress else {
            return Ok(());
        };
        let everything = IpPermission {
            ip_protocol: Some("-1".to_owned()),
            ip_ranges: vec![range("0.0.0.0/0")],
            ..Default::default()
        };
        let request = RevokeSecurityGroupEgressRequest {
            group_id: group_id.clone(),
            ip_permissions: vec![everything],
            ..Default::default()
        };
        self.call(name, request).await?;
        let egress: Vec<_> = permissions(egress.iter().map(|r| &r.value).collect());
        if !egress.is_empty() {
            let request = AuthorizeSecurityGroupEgressRequest {
                group_id,
                ip_permissions: egress,
                ..Default::default()
            };
            self.call(name, request).await?;
        }
        Ok(())
    }

    fn permission(&self, own: &str, rule: &Rule) -> IpPermission {
        let (protocol, from, to) = protocol(&rule.proto);
        let mut permission = IpPermission {
            ip_protocol: Some(protocol),
            from_port: from,
            to_port: to,
            ..Default::default()
        };
        let pair = |name: &str| UserIdGroupPair {
            group_id: id(&self.groups, name),
            ..Default::default()
        };
        match &rule.peer {
            Peer::Cidr(net) => permission.ip_ranges.push(range(&net.to_string())),
            Peer::Group(name) => permission.user_id_group_pairs.push(pair(name)),
            Peer::Own => permission.user_id_group_pairs.push(pair(own)),
            Peer::PrefixList(name) => permission.prefix_list_ids.push(PrefixListId {
                prefix_list_id: id(&self.prefix_lists, name),
                ..Default::default()
            }),
        }
        permission
    }

    /// Ids of groups by name; `default` is the VPC's own.
    pub(super) async fn group_ids(
        &self,
        vpc: &str,
        names: impl Iterator<Item = &String>,
    ) -> Result<Vec<String>, Error> {
        let mut ids = Vec::new();
        for name in names {
            if name != "default" {
                ids.extend(id(&self.groups, name));
                continue;
            }
            let filter = |name: &str, value: Option<String>| Filter {
                name: Some(name.to_owned()),
                values: value.into_iter().collect(),
            };
            let request = DescribeSecurityGroupsRequest {
                filters: vec![
                    filter("vpc-id", id(&self.vpcs, vpc)),
                    filter("group-name", Some("default".to_owned())),
                ],
                ..Default::default()
            };
            let found = self.call("group default", request).await?.security_groups;
            let found = found.into_iter().next().and_then(|g| g.group_id);
            ids.push(said(found, "group default", "groupId")?);
        }
        Ok(ids)
    }
}

fn range(cidr: &str) -> IpRange {
    IpRange {
        cidr_ip: Some(cidr.to_owned()),
        ..Default::default()
    }
}

/// EC2's protocol, and its two numbers: ports, or ICMP type and code with -1 for any.
pub(super) fn protocol(proto: &Proto) -> (String, Option<i32>, Option<i32>) {
    let any = |n: Option<u8>| Some(n.map_or(-1, i32::from));
    match proto {
        Proto::All => ("-1".to_owned(), None, None),
        Proto::Tcp(r) => ("tcp".to_owned(), Some(r.from.into()), Some(r.to.into())),
        Proto::Udp(r) => ("udp".to_owned(), Some(r.from.into()), Some(r.to.into())),
        Proto::Icmp { kind, code } => ("icmp".to_owned(), any(*kind), any(*code)),
        Proto::Other(number) => (number.to_string(), None, None),
    }
}
