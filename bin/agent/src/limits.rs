//! How many interfaces and addresses an instance type may have: from the table in the binary, and
//! for a type that is newer than it from EC2.

use ec2::types::{DescribeInstanceTypesRequest, NetworkInfo};
use ipam::Limits;

/// One line per type: name, interfaces of the primary card, IPv4 addresses per interface.
const TABLE: &str = include_str!(concat!(env!("OUT_DIR"), "/limits.txt"));

/// The limits of a type that the table has.
pub(crate) fn known(instance_type: &str) -> Option<Limits> {
    TABLE.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.next()? == instance_type).then_some(())?;
        let interfaces = fields.next()?.parse().ok()?;
        let ipv4_per_interface = fields.next()?.parse().ok()?;
        Some(Limits {
            interfaces,
            ipv4_per_interface,
        })
    })
}

/// The limits of any type; asks EC2 (`ec2:DescribeInstanceTypes`) for one that the table lacks.
pub(crate) async fn of(ec2: &ec2::Client, instance_type: &str) -> anyhow::Result<Limits> {
    if let Some(limits) = known(instance_type) {
        return Ok(limits);
    }
    tracing::info!(instance_type, "type is not in the table, asking EC2");
    ask(ec2, instance_type).await
}

/// The limits that EC2 tells.
pub(crate) async fn ask(ec2: &ec2::Client, instance_type: &str) -> anyhow::Result<Limits> {
    let request = DescribeInstanceTypesRequest {
        instance_types: vec![instance_type.to_owned()],
        ..Default::default()
    };
    let answer = ec2.call(request).await?;
    let info = answer
        .instance_types
        .into_iter()
        .find_map(|info| info.network_info);
    info.as_ref().and_then(from_info).ok_or_else(|| {
        anyhow::anyhow!(
            "instance type {instance_type} is not in the table, and EC2's DescribeInstanceTypes \
             does not say how many interfaces and addresses it may have"
        )
    })
}

fn from_info(info: &NetworkInfo) -> Option<Limits> {
    let default = info.default_network_card_index.unwrap_or(0);
    let card = info
        .network_cards
        .iter()
        .find(|c| c.network_card_index == Some(default));
    let on_card = card.and_then(|card| card.maximum_network_interfaces);
    Some(Limits {
        interfaces: u32::try_from(on_card.or(info.maximum_network_interfaces)?).ok()?,
        ipv4_per_interface: u32::try_from(info.ipv4_addresses_per_interface?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_articles_instance() {
        let limits = known("t3.medium").unwrap();
        assert_eq!(
            (limits.interfaces, limits.ipv4_per_interface, limits.slots()),
            (3, 6, 5)
        );
        assert_eq!(known("t3.mediu"), None);
        assert_eq!(known("x99.huge"), None);
    }
}
