//! Launch templates as answers show them.
//!
//! What a request writes and what an answer shows are different structures with the same members.
//! The members that shape a launch here are converted; [`overlay`] makes a version from an older one.

use ec2::types::*;
use ec2::wire::{NodeRef, Shape};

use super::{s, tag, template};
use crate::ids::*;
use crate::store::State;

pub(super) fn template(state: &State, id: TemplateId) -> LaunchTemplate {
    let template = &state.templates[&id];
    LaunchTemplate {
        launch_template_id: s(id),
        launch_template_name: s(&template.name),
        create_time: Some(template.created),
        created_by: s(&template.created_by),
        default_version_number: Some(template.default_version),
        latest_version_number: Some(template::latest(template)),
        tags: tag::list(state.tags_of(id)),
        ..Default::default()
    }
}

pub(super) fn version(state: &State, id: TemplateId, number: i64) -> LaunchTemplateVersion {
    let template = &state.templates[&id];
    let version = &template.versions[&number];
    LaunchTemplateVersion {
        launch_template_id: s(id),
        launch_template_name: s(&template.name),
        version_number: Some(number),
        version_description: version.description.clone(),
        create_time: Some(version.created),
        created_by: s(&version.created_by),
        default_version: Some(number == template.default_version),
        launch_template_data: Some(data(&version.data)),
        ..Default::default()
    }
}

fn data(data: &RequestLaunchTemplateData) -> ResponseLaunchTemplateData {
    let data = data.clone();
    ResponseLaunchTemplateData {
        image_id: data.image_id,
        instance_type: data.instance_type,
        key_name: data.key_name,
        user_data: data.user_data,
        disable_api_termination: data.disable_api_termination,
        disable_api_stop: data.disable_api_stop,
        ebs_optimized: data.ebs_optimized,
        security_group_ids: data.security_group_ids,
        security_groups: data.security_groups,
        network_interfaces: data.network_interfaces.into_iter().map(interface).collect(),
        iam_instance_profile: data.iam_instance_profile.map(|p| {
            LaunchTemplateIamInstanceProfileSpecification {
                arn: p.arn,
                name: p.name,
            }
        }),
        metadata_options: data
            .metadata_options
            .map(|o| LaunchTemplateInstanceMetadataOptions {
                state: s("applied"),
                http_tokens: o.http_tokens,
                http_put_response_hop_limit: o.http_put_response_hop_limit,
                http_endpoint: o.http_endpoint,
                http_protocol_ipv6: o.http_protocol_ipv6,
                instance_metadata_tags: o.instance_metadata_tags,
            }),
        tag_specifications: data
            .tag_specifications
            .into_iter()
            .map(|t| LaunchTemplateTagSpecification {
                resource_type: t.resource_type,
                tags: t.tags,
            })
            .collect(),
        ..Default::default()
    }
}

fn interface(
    spec: LaunchTemplateInstanceNetworkInterfaceSpecificationRequest,
) -> LaunchTemplateInstanceNetworkInterfaceSpecification {
    LaunchTemplateInstanceNetworkInterfaceSpecification {
        associate_public_ip_address: spec.associate_public_ip_address,
        connection_tracking_specification: spec.connection_tracking_specification.map(|t| {
            ConnectionTrackingSpecification {
                tcp_established_timeout: t.tcp_established_timeout,
                udp_stream_timeout: t.udp_stream_timeout,
                udp_timeout: t.udp_timeout,
            }
        }),
        delete_on_termination: spec.delete_on_termination,
        description: spec.description,
        device_index: spec.device_index,
        groups: spec.groups,
        interface_type: spec.interface_type,
        ipv4_prefix_count: spec.ipv4_prefix_count,
        ipv4_prefixes: spec
            .ipv4_prefixes
            .into_iter()
            .map(|p| Ipv4PrefixSpecificationResponse {
                ipv4_prefix: p.ipv4_prefix,
            })
            .collect(),
        network_card_index: spec.network_card_index,
        network_interface_id: spec.network_interface_id,
        private_ip_address: spec.private_ip_address,
        private_ip_addresses: spec.private_ip_addresses,
        secondary_private_ip_address_count: spec.secondary_private_ip_address_count,
        subnet_id: spec.subnet_id,
        ..Default::default()
    }
}

/// A new version: `new` where it says something, `base` elsewhere.
pub(super) fn overlay(
    base: RequestLaunchTemplateData,
    new: RequestLaunchTemplateData,
) -> RequestLaunchTemplateData {
    let silent = |name: &str| {
        let at = new
            .info()
            .fields
            .iter()
            .position(|field| field.name == name);
        at.is_none_or(|at| match new.field(at).get() {
            NodeRef::Absent => true,
            NodeRef::List(list) => list.count() == 0,
            _ => false,
        })
    };
    let mut merged = new.clone();
    macro_rules! take {
        ($($name:literal $member:ident)*) => {$(
            if silent($name) {
                merged.$member = base.$member;
            }
        )*};
    }
    take! {
        "ImageId" image_id "InstanceType" instance_type "KeyName" key_name "UserData" user_data
        "DisableApiTermination" disable_api_termination "DisableApiStop" disable_api_stop
        "EbsOptimized" ebs_optimized "SecurityGroupIds" security_group_ids
        "SecurityGroups" security_groups "NetworkInterfaces" network_interfaces
        "IamInstanceProfile" iam_instance_profile "MetadataOptions" metadata_options
        "TagSpecifications" tag_specifications
    }
    merged
}
