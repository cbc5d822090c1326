//! Instances as answers show them, and the filters on them.

use std::net::Ipv4Addr;

use ec2::types::*;

use super::{Field, eni_view, one, opt, s, tag, yes};
use crate::ids::*;
use crate::store::{self, Holder, MetadataOptions, PRIMARY, State};

pub(super) const FIELDS: &[Field<InstanceId, store::Instance>] = &[
    ("instance-id", |_, id, _| one(id)),
    ("instance-type", |_, _, i| one(&i.instance_type)),
    ("instance-state-name", |_, _, i| one(i.state.code().1)),
    ("instance-state-code", |_, _, i| one(i.state.code().0)),
    ("image-id", |_, _, i| one(&i.image)),
    ("vpc-id", |_, _, i| one(i.vpc)),
    ("subnet-id", |_, _, i| one(i.subnet)),
    ("availability-zone", |s, _, i| one(s.zone_name(i.zone))),
    ("key-name", |_, _, i| opt(i.key_name.as_ref())),
    ("private-ip-address", |_, _, i| opt(i.private_ip)),
    ("private-dns-name", |s, _, i| {
        opt(i.private_ip.map(|ip| s.private_dns(ip)))
    }),
    ("ip-address", |s, _, i| opt(public_ip(s, i))),
    ("reservation-id", |_, _, i| one(i.launch)),
    ("launch-index", |_, _, i| one(i.launch_index)),
    ("launch-time", |_, _, i| one(format!("{:.3}", i.launched))),
    ("owner-id", |s, _, _| one(&s.config.account)),
    ("architecture", |_, _, i| {
        one(architecture(&i.instance_type))
    }),
    ("tenancy", |_, _, _| one("default")),
    ("iam-instance-profile.arn", |s, _, i| {
        opt(i.profile.as_ref().map(|p| profile_arn(s, p)))
    }),
    ("metadata-options.http-tokens", |_, _, i| {
        one(if i.metadata.tokens_required {
            "required"
        } else {
            "optional"
        })
    }),
    ("source-dest-check", |_, _, i| yes(i.source_dest_check)),
    ("instance.group-id", |s, _, i| {
        groups(s, i).map(|g| g.to_string()).collect()
    }),
    ("group-id", |s, _, i| {
        groups(s, i).map(|g| g.to_string()).collect()
    }),
    ("instance.group-name", |s, _, i| {
        groups(s, i).map(|g| s.groups[&g].name.clone()).collect()
    }),
    ("network-interface.network-interface-id", |_, _, i| {
        i.enis.values().map(ToString::to_string).collect()
    }),
    ("network-interface.subnet-id", |s, _, i| {
        i.enis
            .values()
            .map(|e| s.enis[e].subnet.to_string())
            .collect()
    }),
    ("network-interface.vpc-id", |_, _, i| one(i.vpc)),
    ("network-interface.group-id", |s, _, i| {
        i.enis
            .values()
            .flat_map(|e| &s.enis[e].groups)
            .map(ToString::to_string)
            .collect()
    }),
    ("network-interface.mac-address", |s, _, i| {
        i.enis.values().map(|e| s.enis[e].mac.to_string()).collect()
    }),
    (
        "network-interface.addresses.private-ip-address",
        |s, _, i| {
            let enis = i.enis.values().map(|e| &s.enis[e]);
            enis.flat_map(|e| e.addresses())
                .map(|a| a.to_string())
                .collect()
        },
    ),
];

fn groups(state: &State, instance: &store::Instance) -> std::vec::IntoIter<GroupId> {
    let primary = instance
        .enis
        .get(&PRIMARY)
        .and_then(|eni| state.enis.get(eni));
    primary
        .map(|eni| eni.groups.clone())
        .unwrap_or_default()
        .into_iter()
}

fn public_ip(state: &State, instance: &store::Instance) -> Option<Ipv4Addr> {
    let id = *instance.enis.get(&PRIMARY)?;
    let eni = state.enis.get(&id)?;
    let on_primary = |a: &&store::Address| {
        a.association
            .is_some_and(|x| x.eni == id && x.private_ip == eni.primary)
    };
    state
        .addresses
        .values()
        .find(on_primary)
        .map(|a| a.public_ip)
        .or(eni.auto_public)
}

/// The processor architecture: Graviton types have a `g` behind the family's generation.
fn architecture(kind: &str) -> &'static str {
    let family = kind.split('.').next().unwrap_or("");
    let after_digit = family.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let attributes = after_digit.trim_start_matches(|c: char| c.is_ascii_digit());
    let arm = family == "a1" || attributes.contains('g') && !family.starts_with('g');
    if arm || matches!(family, "g5g") {
        "arm64"
    } else {
        "x86_64"
    }
}

fn profile_arn(state: &State, profile: &str) -> String {
    format!(
        "arn:aws:iam::{}:instance-profile/{profile}",
        state.config.account
    )
}

pub(super) fn state_of(instance: &store::Instance) -> Option<InstanceState> {
    let (code, name) = instance.state.code();
    Some(InstanceState {
        code: Some(code),
        name: s(name),
    })
}

pub(super) fn metadata(options: &MetadataOptions) -> InstanceMetadataOptionsResponse {
    let switch = |on| s(if on { "enabled" } else { "disabled" });
    InstanceMetadataOptionsResponse {
        state: s("applied"),
        http_tokens: s(if options.tokens_required {
            "required"
        } else {
            "optional"
        }),
        http_put_response_hop_limit: Some(options.hop_limit.into()),
        http_endpoint: switch(options.enabled),
        http_protocol_ipv6: s("disabled"),
        instance_metadata_tags: switch(options.tags),
    }
}

fn interface(state: &State, id: EniId) -> InstanceNetworkInterface {
    let eni = &state.enis[&id];
    let full = eni_view::interface(state, id);
    let association = |a: Option<NetworkInterfaceAssociation>| {
        a.map(|a| InstanceNetworkInterfaceAssociation {
            ip_owner_id: a.ip_owner_id,
            public_dns_name: a.public_dns_name,
            public_ip: a.public_ip,
            ..Default::default()
        })
    };
    let address = |a: NetworkInterfacePrivateIpAddress| InstancePrivateIpAddress {
        association: association(a.association),
        primary: a.primary,
        private_dns_name: a.private_dns_name,
        private_ip_address: a.private_ip_address,
    };
    let attachment = |a: NetworkInterfaceAttachment| InstanceNetworkInterfaceAttachment {
        attach_time: a.attach_time,
        attachment_id: a.attachment_id,
        delete_on_termination: a.delete_on_termination,
        device_index: a.device_index,
        network_card_index: a.network_card_index,
        status: a.status,
        ..Default::default()
    };
    let tracking = |t: ConnectionTrackingConfiguration| ConnectionTrackingSpecificationResponse {
        tcp_established_timeout: t.tcp_established_timeout,
        udp_stream_timeout: t.udp_stream_timeout,
        udp_timeout: t.udp_timeout,
    };
    InstanceNetworkInterface {
        association: association(full.association),
        attachment: full.attachment.map(attachment),
        connection_tracking_configuration: full.connection_tracking_configuration.map(tracking),
        description: full.description,
        groups: full.groups,
        interface_type: s(eni_view::kind(state, id, eni)),
        ipv4_prefixes: full
            .ipv4_prefixes
            .into_iter()
            .map(|p| InstanceIpv4Prefix {
                ipv4_prefix: p.ipv4_prefix,
            })
            .collect(),
        mac_address: full.mac_address,
        network_interface_id: full.network_interface_id,
        owner_id: full.owner_id,
        private_dns_name: full.private_dns_name,
        private_ip_address: full.private_ip_address,
        private_ip_addresses: full.private_ip_addresses.into_iter().map(address).collect(),
        source_dest_check: full.source_dest_check,
        status: full.status,
        subnet_id: full.subnet_id,
        vpc_id: full.vpc_id,
        ..Default::default()
    }
}

/// Interfaces that still exist and are still held by the instance.
fn held(state: &State, id: InstanceId, instance: &store::Instance) -> Vec<EniId> {
    let own = |eni: &store::Eni| matches!(eni.held().map(|a| &a.holder), Some(Holder::Instance { instance, .. }) if *instance == id);
    instance
        .enis
        .values()
        .copied()
        .filter(|e| state.enis.get(e).is_some_and(own))
        .collect()
}

pub(super) fn instance(state: &State, id: InstanceId) -> Instance {
    let instance = &state.instances[&id];
    let zone = state.zone_name(instance.zone);
    let gone = instance.state == store::InstanceState::Terminated;
    let public = public_ip(state, instance);
    let ip = instance.private_ip.filter(|_| !gone);
    let dns_hostnames = state
        .vpcs
        .get(&instance.vpc)
        .is_some_and(|v| v.dns_hostnames);
    Instance {
        instance_id: s(id),
        image_id: s(&instance.image),
        instance_type: s(&instance.instance_type),
        state: state_of(instance),
        launch_time: Some(instance.launched),
        ami_launch_index: Some(instance.launch_index),
        key_name: instance.key_name.clone(),
        private_ip_address: ip.map(|ip| ip.to_string()),
        private_dns_name: s(ip.map(|ip| state.private_dns(ip)).unwrap_or_default()),
        public_ip_address: public.map(|ip| ip.to_string()),
        public_dns_name: s(public
            .filter(|_| dns_hostnames)
            .map(|ip| state.public_dns(ip))
            .unwrap_or_default()),
        subnet_id: (!gone).then(|| instance.subnet.to_string()),
        vpc_id: (!gone).then(|| instance.vpc.to_string()),
        placement: Some(Placement {
            availability_zone: s(zone),
            availability_zone_id: s(state.zone_id(instance.zone)),
            group_name: s(""),
            tenancy: s("default"),
            ..Default::default()
        }),
        monitoring: Some(Monitoring {
            state: s("disabled"),
            ..Default::default()
        }),
        architecture: s(architecture(&instance.instance_type)),
        // EC2 says this of Nitro instances too.
        hypervisor: s("xen"),
        virtualization_type: s("hvm"),
        root_device_type: s("ebs"),
        root_device_name: s("/dev/xvda"),
        ena_support: Some(true),
        ebs_optimized: Some(false),
        platform_details: s("Linux/UNIX"),
        usage_operation: s("RunInstances"),
        source_dest_check: Some(instance.source_dest_check),
        iam_instance_profile: instance.profile.as_ref().map(|p| IamInstanceProfile {
            arn: s(profile_arn(state, p)),
            id: s("AIPAEXAMPLEEXAMPLEAAA"),
        }),
        metadata_options: Some(metadata(&instance.metadata)),
        security_groups: eni_view::groups(state, &groups(state, instance).collect::<Vec<_>>()),
        network_interfaces: held(state, id, instance)
            .into_iter()
            .map(|eni| interface(state, eni))
            .collect(),
        tags: tag::list(state.tags_of(id)),
        ..Default::default()
    }
}
