//! How many interfaces and addresses an instance type may have, and whether it takes prefixes: from the table in the binary, and
//! for a type that is newer than it from EC2.

use ec2::types::{DescribeInstanceTypesRequest, InstanceTypeInfo};
use ipam::Limits;

/// What is to be known of an instance type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) limits: Limits,
    /// It takes /28 prefixes: Nitro or bare metal.
    pub(crate) prefixes: bool,
}

/// One line per type: name, interfaces of the primary card, IPv4 addresses per interface, and
/// `prefixes` where it takes them.
const TABLE: &str = include_str!(concat!(env!("OUT_DIR"), "/limits.txt"));

/// The limits of a type that the table has.
pub(crate) fn known(instance_type: &str) -> Option<Kind> {
    TABLE.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.next()? == instance_type).then_some(())?;
        let interfaces = fields.next()?.parse().ok()?;
        let ipv4_per_interface = fields.next()?.parse().ok()?;
        Some(Kind {
            limits: Limits {
                interfaces,
                ipv4_per_interface,
            },
            prefixes: fields.next().is_some(),
        })
    })
}

/// The limits of any type; asks EC2 (`ec2:DescribeInstanceTypes`) for one that the table lacks.
pub(crate) async fn of(ec2: &ec2::Client, instance_type: &str) -> anyhow::Result<Kind> {
    if let Some(kind) = known(instance_type) {
        return Ok(kind);
    }
    tracing::info!(instance_type, "type is not in the table, asking EC2");
    ask(ec2, instance_type).await
}

/// The limits that EC2 tells.
pub(crate) async fn ask(ec2: &ec2::Client, instance_type: &str) -> anyhow::Result<Kind> {
    let request = DescribeInstanceTypesRequest {
        instance_types: vec![instance_type.to_owned()],
        ..Default::default()
    };
    let answer = ec2.call(request).await?;
    let info = answer.instance_types.first();
    info.and_then(from_info).ok_or_else(|| {
        anyhow::anyhow!(
            "instance type {instance_type} is not in the table, and EC2's DescribeInstanceTypes \
             does not say how many interfaces and addresses it may have"
        )
    })
}

fn from_info(info: &InstanceTypeInfo) -> Option<Kind> {
    let prefixes = info.bare_metal == Some(true) || info.hypervisor.as_deref() == Some("nitro");
    let info = info.network_info.as_ref()?;
    let default = info.default_network_card_index.unwrap_or(0);
    let card = info
        .network_cards
        .iter()
        .find(|c| c.network_card_index == Some(default));
    let on_card = card.and_then(|card| card.maximum_network_interfaces);
    let limits = Limits {
        interfaces: u32::try_from(on_card.or(info.maximum_network_interfaces)?).ok()?,
        ipv4_per_interface: u32::try_from(info.ipv4_addresses_per_interface?).ok()?,
    };
    Some(Kind { limits, prefixes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_articles_instance() {
        let Kind { limits, prefixes } = known("t3.medium").unwrap();
        assert!(prefixes && !known("t2.medium").unwrap().prefixes);
        assert_eq!(
            (limits.interfaces, limits.ipv4_per_interface, limits.slots()),
            (3, 6, 5)
        );
        assert_eq!(known("t3.mediu"), None);
        assert_eq!(known("x99.huge"), None);
    }
}
