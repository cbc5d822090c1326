//! The pool's calls, made to EC2; EC2's answers, as the pool understands them.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use ec2::types as t;
use ipam::{Answer, Attached, AttachmentId, Call, EniView, Failure, FailureKind, View};
use ipnet::Ipv4Net;
use jiff::Timestamp;
use settings::EniTags;
use vpc::facts::{EniId, InstanceId, SgId, SubnetId};

const INSTANCE_TAG: &str = "node.k8s.amazonaws.com/instance_id";
const CREATED_TAG: &str = "node.k8s.amazonaws.com/createdAt";
const CLUSTER_TAG: &str = "cluster.k8s.amazonaws.com/name";
const OWNER_TAG: &str = "eks:eni:owner";
const HANDS_OFF_TAG: &str = "node.k8s.amazonaws.com/no_manage";

/// EC2, as the agent of one instance uses it.
#[derive(Debug, Clone)]
pub(crate) struct Cloud {
    pub(crate) ec2: ec2::Client,
    pub(crate) instance: InstanceId,
    pub(crate) tags: EniTags,
}

impl Cloud {
    /// Makes a call; the kernel's side of interfaces is not made here.
    pub(crate) async fn call(&self, call: &Call) -> Result<Answer, Failure> {
        let action = call.action();
        let result = match call {
            Call::CreateEni {
                token,
                subnet,
                groups,
                count,
            } => self.create(&token.0, subnet.as_str(), groups, *count).await,
            Call::AttachEni { eni, device } => self.attach(eni, *device).await,
            Call::SetDeleteOnTermination { eni, attachment } => {
                let changes = t::NetworkInterfaceAttachmentChanges {
                    attachment_id: Some(attachment.0.clone()),
                    delete_on_termination: Some(true),
                    ..Default::default()
                };
                self.modify(eni, |request| request.attachment = Some(changes))
                    .await
            }
            Call::SetGroups { eni, groups } => {
                self.modify(eni, |request| request.groups = texts(groups))
                    .await
            }
            Call::Assign { eni, count } => self.assign(eni, *count).await,
            Call::Unassign { eni, addresses } => self.unassign(eni, addresses).await,
            Call::DetachEni { attachment, .. } => {
                let request = t::DetachNetworkInterfaceRequest {
                    attachment_id: Some(attachment.0.clone()),
                    ..Default::default()
                };
                self.ec2
                    .call(request)
                    .await
                    .map(|_| Answer::Done)
                    .map_err(anyhow::Error::from)
            }
            Call::DeleteEni { eni } => {
                let request = t::DeleteNetworkInterfaceRequest {
                    network_interface_id: Some(eni.to_string()),
                    ..Default::default()
                };
                self.ec2
                    .call(request)
                    .await
                    .map(|_| Answer::Done)
                    .map_err(anyhow::Error::from)
            }
            Call::Show { leftovers } => self.show(*leftovers).await,
            Call::SetUp { .. } => Err(anyhow::anyhow!("the kernel is not EC2's")),
        };
        result.map_err(|error| failure(action, &error))
    }

    async fn create(
        &self,
        token: &str,
        subnet: &str,
        groups: &[SgId],
        count: u32,
    ) -> anyhow::Result<Answer> {
        let request = t::CreateNetworkInterfaceRequest {
            client_token: Some(token.to_owned()),
            description: Some(format!("aws-K8S-{}", self.instance)),
            groups: texts(groups),
            subnet_id: Some(subnet.to_owned()),
            secondary_private_ip_address_count: Some(i32::try_from(count)?),
            tag_specifications: vec![t::TagSpecification {
                resource_type: Some("network-interface".to_owned()),
                tags: self.tags(),
            }],
            ..Default::default()
        };
        let answer = self.ec2.call(request).await?;
        let created = answer
            .network_interface
            .context("the answer has no interface")?;
        let mut view = view(&created, &self.instance)?;
        view.ours = true;
        Ok(Answer::Created(view))
    }

    fn tags(&self) -> Vec<t::Tag> {
        let mut tags = vec![
            tag(INSTANCE_TAG, self.instance.as_str()),
            tag(CREATED_TAG, &format!("{:.0}", Timestamp::now())),
        ];
        if let Some(cluster) = &self.tags.cluster {
            tags.push(tag(CLUSTER_TAG, cluster));
            tags.push(tag(OWNER_TAG, "amazon-vpc-cni"));
        }
        tags.extend(
            self.tags
                .additional
                .iter()
                .map(|(key, value)| tag(key, value)),
        );
        tags
    }

    async fn attach(&self, eni: &EniId, device: u32) -> anyhow::Result<Answer> {
        let request = t::AttachNetworkInterfaceRequest {
            device_index: Some(i32::try_from(device)?),
            instance_id: Some(self.instance.to_string()),
            network_card_index: Some(0),
            network_interface_id: Some(eni.to_string()),
            ..Default::default()
        };
        let answer = self.ec2.call(request).await?;
        let id = answer
            .attachment_id
            .context("the answer has no AttachmentId")?;
        Ok(Answer::Attached(AttachmentId(id)))
    }

    async fn modify(
        &self,
        eni: &EniId,
        change: impl FnOnce(&mut t::ModifyNetworkInterfaceAttributeRequest),
    ) -> anyhow::Result<Answer> {
        let mut request = t::ModifyNetworkInterfaceAttributeRequest {
            network_interface_id: Some(eni.to_string()),
            ..Default::default()
        };
        change(&mut request);
        self.ec2.call(request).await?;
        Ok(Answer::Done)
    }

    async fn assign(&self, eni: &EniId, count: u32) -> anyhow::Result<Answer> {
        let request = t::AssignPrivateIpAddressesRequest {
            network_interface_id: Some(eni.to_string()),
            secondary_private_ip_address_count: Some(i32::try_from(count)?),
            ..Default::default()
        };
        let answer = self.ec2.call(request).await?;
        let new = answer.assigned_private_ip_addresses.iter();
        let addresses: anyhow::Result<Vec<Ipv4Addr>> = new
            .map(|a| address(a.private_ip_address.as_deref()))
            .collect();
        Ok(Answer::Assigned(addresses?))
    }

    async fn unassign(&self, eni: &EniId, addresses: &[Ipv4Addr]) -> anyhow::Result<Answer> {
        let request = t::UnassignPrivateIpAddressesRequest {
            network_interface_id: Some(eni.to_string()),
            private_ip_addresses: addresses.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        self.ec2.call(request).await?;
        Ok(Answer::Done)
    }

    async fn show(&self, leftovers: bool) -> anyhow::Result<Answer> {
        let instance = self.instance.as_str();
        let mut enis = self
            .describe(vec![filter("attachment.instance-id", instance)])
            .await?;
        if leftovers {
            let ours = filter(&format!("tag:{INSTANCE_TAG}"), instance);
            let unattached = self
                .describe(vec![ours, filter("status", "available")])
                .await?;
            let known: Vec<EniId> = enis.iter().map(|eni| eni.id.clone()).collect();
            enis.extend(
                unattached
                    .into_iter()
                    .filter(|eni| !known.contains(&eni.id)),
            );
        }
        Ok(Answer::Shown(View { enis }))
    }

    /// The IPv4 block of a subnet other than the primary interface's.
    pub(crate) async fn subnet_cidr(&self, subnet: &SubnetId) -> anyhow::Result<Ipv4Net> {
        let request = t::DescribeSubnetsRequest {
            subnet_ids: vec![subnet.to_string()],
            ..Default::default()
        };
        let answer = self.ec2.call(request).await?;
        let cidr = answer
            .subnets
            .first()
            .and_then(|subnet| subnet.cidr_block.as_deref());
        Ok(required(cidr, "CidrBlock")?.parse()?)
    }

    async fn describe(&self, filters: Vec<t::Filter>) -> anyhow::Result<Vec<EniView>> {
        let request = t::DescribeNetworkInterfacesRequest {
            filters,
            ..Default::default()
        };
        let answer = self.ec2.call_all(request).await?;
        // Interfaces of other cards have addresses of their own; this slice uses card 0.
        let on_card = |eni: &&t::NetworkInterface| {
            let card = eni.attachment.as_ref().and_then(|a| a.network_card_index);
            card.unwrap_or(0) == 0
        };
        let enis = answer.network_interfaces.iter().filter(on_card);
        enis.map(|eni| view(eni, &self.instance)).collect()
    }
}

fn view(eni: &t::NetworkInterface, instance: &InstanceId) -> anyhow::Result<EniView> {
    let id: EniId = required(eni.network_interface_id.as_deref(), "NetworkInterfaceId")?.parse()?;
    read_view(eni, id.clone(), instance).with_context(|| format!("interface {id}"))
}

fn read_view(
    eni: &t::NetworkInterface,
    id: EniId,
    instance: &InstanceId,
) -> anyhow::Result<EniView> {
    let has_tag = |key: &str, value: &str| {
        let mut tags = eni.tag_set.iter();
        tags.any(|t| t.key.as_deref() == Some(key) && t.value.as_deref() == Some(value))
    };
    let others = eni
        .private_ip_addresses
        .iter()
        .filter(|a| a.primary != Some(true));
    let secondary: anyhow::Result<Vec<Ipv4Addr>> = others
        .map(|a| address(a.private_ip_address.as_deref()))
        .collect();
    let groups = eni
        .groups
        .iter()
        .map(|g| required(g.group_id.as_deref(), "GroupId"));
    let mut groups: Vec<SgId> = groups
        .map(|g| Ok(g?.parse()?))
        .collect::<anyhow::Result<_>>()?;
    groups.sort();
    let kind = eni.interface_type.as_deref().unwrap_or("interface");
    Ok(EniView {
        id,
        mac: required(eni.mac_address.as_deref(), "MacAddress")?.parse()?,
        subnet: required(eni.subnet_id.as_deref(), "SubnetId")?.parse()?,
        primary: address(eni.private_ip_address.as_deref())?,
        secondary: secondary?,
        groups,
        attachment: eni
            .attachment
            .as_ref()
            .and_then(|a| attached(a, instance).transpose())
            .transpose()?,
        ours: has_tag(INSTANCE_TAG, instance.as_str()),
        hands_off: has_tag(HANDS_OFF_TAG, "true") || !matches!(kind, "interface" | "efa"),
    })
}

/// The attachment, if it is to this instance and stands.
fn attached(
    attachment: &t::NetworkInterfaceAttachment,
    instance: &InstanceId,
) -> anyhow::Result<Option<Attached>> {
    let stands = matches!(
        attachment.status.as_deref(),
        Some("attached" | "attaching") | None
    );
    if attachment.instance_id.as_deref() != Some(instance.as_str()) || !stands {
        return Ok(None);
    }
    let device = attachment.device_index.context("DeviceIndex is missing")?;
    let id = required(attachment.attachment_id.as_deref(), "AttachmentId")?;
    Ok(Some(Attached {
        id: AttachmentId(id.to_owned()),
        device: u32::try_from(device)?,
        delete_on_termination: attachment.delete_on_termination.unwrap_or(false),
    }))
}

fn required<'a>(value: Option<&'a str>, name: &'static str) -> anyhow::Result<&'a str> {
    value.with_context(|| format!("{name} is missing"))
}

fn address(text: Option<&str>) -> anyhow::Result<Ipv4Addr> {
    let text = required(text, "PrivateIpAddress")?;
    text.parse()
        .with_context(|| format!("{text:?} is not an IPv4 address"))
}

fn texts(groups: &[SgId]) -> Vec<String> {
    groups.iter().map(ToString::to_string).collect()
}

fn tag(key: &str, value: &str) -> t::Tag {
    t::Tag {
        key: Some(key.to_owned()),
        value: Some(value.to_owned()),
    }
}

fn filter(name: &str, value: &str) -> t::Filter {
    t::Filter {
        name: Some(name.to_owned()),
        values: vec![value.to_owned()],
    }
}

/// What the pool is to conclude from a failed call.
fn failure(action: &'static str, error: &anyhow::Error) -> Failure {
    let kind = match error.downcast_ref::<ec2::Error>() {
        Some(error) => kind(error),
        // EC2 answered, with something that is not as documented: it may have been done.
        None => FailureKind::Unclear,
    };
    let text = format!("{error:#}");
    let message = text
        .strip_prefix(&format!("{action}: "))
        .unwrap_or(&text)
        .to_owned();
    Failure {
        action,
        kind,
        message,
    }
}

fn kind(error: &ec2::Error) -> FailureKind {
    if error.is_denied() {
        return FailureKind::Denied;
    }
    if matches!(error, ec2::Error::Throttled { .. }) {
        return FailureKind::Throttled;
    }
    if error.outcome_unknown() {
        return FailureKind::Unclear;
    }
    if error.is_not_found() {
        return FailureKind::NotFound;
    }
    let text = error.to_string();
    match error.code().unwrap_or_default() {
        "InsufficientFreeAddressesInSubnet" | "InsufficientCidrBlocks" => FailureKind::SubnetFull,
        "AttachmentLimitExceeded" => FailureKind::InstanceEniLimit,
        "NetworkInterfaceLimitExceeded" => FailureKind::AccountEniLimit,
        "PrivateIpAddressLimitExceeded" | "InvalidInterface.IpAddressLimitExceeded" => {
            FailureKind::AddressLimit
        }
        "InvalidNetworkInterface.InUse" | "IncorrectState" => FailureKind::Conflict,
        // One code for several states; the text tells them apart.
        "InvalidParameterValue" if text.contains("in use") || text.contains("already has") => {
            FailureKind::Conflict
        }
        "InvalidParameterValue" if text.contains("not assigned") => FailureKind::NotFound,
        _ => FailureKind::Rejected,
    }
}

#[cfg(test)]
mod tests;
