//! The region, its zones, and the account's attributes.

use ec2::types::*;

use super::{Action, Context, describe, s};
use crate::error::{ApiError, ApiResult};
use crate::filter;
use crate::store::Zone;

impl Action for DescribeRegionsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeRegionsResult> {
        let region = &cx.state.config.region;
        if let Some(unknown) = self.region_names.iter().find(|name| *name != region) {
            return Err(ApiError::value(format_args!(
                "Invalid region provided: {unknown}"
            )));
        }
        let endpoint = format!("ec2.{region}.amazonaws.com");
        let filters = describe::read(&self.filters)?;
        let pass = filter::matches(&filters, None, |name| {
            Some(vec![match name {
                "region-name" => region.clone(),
                "endpoint" => endpoint.clone(),
                "opt-in-status" => "opt-in-not-required".to_owned(),
                _ => return None,
            }])
        })?;
        let own = Region {
            region_name: s(region),
            endpoint: s(endpoint),
            opt_in_status: s("opt-in-not-required"),
            ..Default::default()
        };
        Ok(DescribeRegionsResult {
            regions: pass.then_some(own).into_iter().collect(),
        })
    }
}

impl Action for DescribeAvailabilityZonesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeAvailabilityZonesResult> {
        let state = &*cx.state;
        let region = &state.config.region;
        let zones: Vec<(String, String)> = (0..state.config.zones.len() as u8)
            .map(|z| (state.zone_name(Zone(z)), state.zone_id(Zone(z))))
            .collect();
        let unknown = |names: &[String], known: fn(&(String, String)) -> &String| {
            names
                .iter()
                .find(|n| !zones.iter().any(|z| known(z) == *n))
                .cloned()
        };
        if let Some(name) =
            unknown(&self.zone_names, |z| &z.0).or_else(|| unknown(&self.zone_ids, |z| &z.1))
        {
            return Err(ApiError::value(format_args!(
                "Invalid availability zone: [{name}]"
            )));
        }
        let filters = describe::read(&self.filters)?;
        let mut availability_zones = Vec::new();
        for (name, id) in &zones {
            let pass = filter::matches(&filters, None, |field| {
                Some(vec![match field {
                    "zone-name" => name.clone(),
                    "zone-id" => id.clone(),
                    "region-name" => region.clone(),
                    "group-name" => format!("{region}-zg-1"),
                    "opt-in-status" => "opt-in-not-required".to_owned(),
                    "state" => "available".to_owned(),
                    "zone-type" => "availability-zone".to_owned(),
                    _ => return None,
                }])
            })?;
            let named = (self.zone_names.is_empty() || self.zone_names.contains(name))
                && (self.zone_ids.is_empty() || self.zone_ids.contains(id));
            if pass && named {
                availability_zones.push(AvailabilityZone {
                    zone_name: s(name),
                    zone_id: s(id),
                    region_name: s(region),
                    group_name: s(format!("{region}-zg-1")),
                    network_border_group: s(region),
                    opt_in_status: s("opt-in-not-required"),
                    state: s("available"),
                    zone_type: s("availability-zone"),
                    ..Default::default()
                });
            }
        }
        Ok(DescribeAvailabilityZonesResult { availability_zones })
    }
}

impl Action for DescribeAccountAttributesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeAccountAttributesResult> {
        let quotas = &cx.state.config.quotas;
        let all = [
            ("supported-platforms", "VPC".to_owned()),
            ("default-vpc", "none".to_owned()),
            ("max-instances", "1000".to_owned()),
            (
                "vpc-max-security-groups-per-interface",
                quotas.groups_per_interface.to_string(),
            ),
            ("max-elastic-ips", quotas.addresses.to_string()),
            ("vpc-max-elastic-ips", quotas.addresses.to_string()),
        ];
        let wanted = |name: &str| {
            self.attribute_names.is_empty() || self.attribute_names.iter().any(|n| n == name)
        };
        let attribute = |(name, value): (&str, String)| AccountAttribute {
            attribute_name: s(name),
            attribute_values: vec![AccountAttributeValue {
                attribute_value: Some(value),
            }],
        };
        let account_attributes = all
            .into_iter()
            .filter(|(name, _)| wanted(name))
            .map(attribute)
            .collect();
        Ok(DescribeAccountAttributesResult { account_attributes })
    }
}
