//! An edit as the commands that make it real. They are printed, never run.

use reach::edit::Edit;
use reach::facts::Inputs;
use vpc::facts::{Direction, Protocol, RulePeer, SgId};

/// The commands of one edit, for a shell with the AWS CLI.
pub fn commands(inputs: &Inputs, edit: &Edit) -> Vec<String> {
    match edit {
        Edit::Rule {
            group,
            direction,
            add,
            protocol,
            peer,
        } => {
            let verb = if *add { "authorize" } else { "revoke" };
            let side = match direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            };
            vec![format!(
                "aws ec2 {verb}-security-group-{side} --group-id {group} --ip-permissions '{}'",
                permission(protocol, peer)
            )]
        }
        Edit::EniGroups { eni, add, group } => {
            let mut groups = inputs
                .world
                .enis
                .get(eni)
                .map(|e| e.groups.clone())
                .unwrap_or_default();
            match add {
                true => groups.insert(group.clone()),
                false => groups.remove(group),
            };
            vec![format!(
                "aws ec2 modify-network-interface-attribute --network-interface-id {eni} --groups {}",
                ids(groups.iter())
            )]
        }
        Edit::TemplateGroups {
            template,
            add,
            group,
        } => {
            let version = inputs.world.launch_templates.get(template);
            let number = version.map_or(1, |t| t.default_version);
            let current = version.and_then(|t| t.versions.get(&number));
            let mut groups = current
                .map(|v| {
                    v.interfaces
                        .first()
                        .map_or(&v.groups, |i| &i.groups)
                        .clone()
                })
                .unwrap_or_default();
            match add {
                true => groups.insert(group.clone()),
                false => groups.remove(group),
            };
            let quoted: Vec<String> = groups.iter().map(|g| format!("\"{g}\"")).collect();
            let list = quoted.join(",");
            let data = match current.is_some_and(|v| !v.interfaces.is_empty()) {
                true => {
                    format!("{{\"NetworkInterfaces\":[{{\"DeviceIndex\":0,\"Groups\":[{list}]}}]}}")
                }
                false => format!("{{\"SecurityGroupIds\":[{list}]}}"),
            };
            vec![
                format!(
                    "aws ec2 create-launch-template-version --launch-template-id {template} \
                     --source-version {number} --launch-template-data '{data}'"
                ),
                "then update the node group to the new version: its nodes are replaced".to_owned(),
            ]
        }
        Edit::GroupSyncOn { node } => vec![format!(
            "switch group sync on for the agent of {node} (upstream: version 1.7.2 or later)"
        )],
    }
}

fn ids<'a>(groups: impl Iterator<Item = &'a SgId>) -> String {
    groups.map(SgId::as_str).collect::<Vec<_>>().join(" ")
}

/// The shorthand of `--ip-permissions`.
fn permission(protocol: &Protocol, peer: &RulePeer) -> String {
    let with_ports =
        |name: &str, from: i32, to: i32| format!("IpProtocol={name},FromPort={from},ToPort={to}");
    let icmp = |v: &Option<u8>| v.map_or(-1, i32::from);
    let what = match protocol {
        Protocol::All => "IpProtocol=-1".to_owned(),
        Protocol::Tcp(p) => with_ports("tcp", p.from.into(), p.to.into()),
        Protocol::Udp(p) => with_ports("udp", p.from.into(), p.to.into()),
        Protocol::Icmp { kind, code } => with_ports("icmp", icmp(kind), icmp(code)),
        Protocol::Icmp6 { kind, code } => with_ports("icmpv6", icmp(kind), icmp(code)),
        Protocol::Number(n) => format!("IpProtocol={n}"),
    };
    let peer = match peer {
        RulePeer::Cidr4(net) => format!("IpRanges=[{{CidrIp={net}}}]"),
        RulePeer::Cidr6(net) => format!("Ipv6Ranges=[{{CidrIpv6={net}}}]"),
        RulePeer::PrefixList(list) => format!("PrefixListIds=[{{PrefixListId={list}}}]"),
        RulePeer::Group { id, .. } => format!("UserIdGroupPairs=[{{GroupId={id}}}]"),
    };
    format!("{what},{peer}")
}
