//! What instance metadata says: a tree of texts, made from the records of one instance.
//!
//! Directories list their entries, one a line, subdirectories with a slash behind them. A key that
//! does not apply is absent (404), never empty: agents depend on the difference. Branch interfaces
//! are not shown; their trunk is. Source: EC2 user guide, "Instance metadata categories".

use std::collections::BTreeMap;
use std::fmt::Display;

use jiff::Timestamp;

use crate::ids::InstanceId;
use crate::store::{AttachStatus, Eni, EniKind, Holder, Instance, State};

/// Texts by their path below `/latest/`.
pub(super) struct Tree(BTreeMap<String, String>);

impl Tree {
    /// What a GET of `path` answers. `foo` and `foo/` are the same.
    pub(super) fn get(&self, path: &str) -> Option<String> {
        let path = path.trim_matches('/');
        if let Some(text) = self.0.get(path) {
            return Some(text.clone());
        }
        let directory = if path.is_empty() {
            String::new()
        } else {
            format!("{path}/")
        };
        let mut entries: Vec<String> = Vec::new();
        for key in self.0.range(directory.clone()..).map(|(key, _)| key) {
            let Some(rest) = key.strip_prefix(&directory) else {
                break;
            };
            let entry = match rest.split_once('/') {
                Some((name, _)) => format!("{name}/"),
                None => rest.to_owned(),
            };
            if entries.last() != Some(&entry) {
                entries.push(entry);
            }
        }
        (!entries.is_empty()).then(|| entries.join("\n"))
    }

    fn put(&mut self, path: impl Display, text: impl Display) {
        self.0.insert(path.to_string(), text.to_string());
    }

    fn put_some(&mut self, path: impl Display, text: Option<impl Display>) {
        if let Some(text) = text {
            self.put(path, text);
        }
    }

    fn put_lines<T: Display>(&mut self, path: impl Display, items: impl IntoIterator<Item = T>) {
        let lines: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
        if !lines.is_empty() {
            self.put(path, lines.join("\n"));
        }
    }
}

/// The interfaces that the instance has now, with device index and card.
fn attached<'s>(
    state: &'s State,
    instance: &'s Instance,
) -> impl Iterator<Item = (crate::ids::EniId, &'s Eni, u32, u32)> {
    instance.enis.values().filter_map(|id| {
        let eni = state.enis.get(id)?;
        let attachment = eni.attachment.as_ref()?;
        match (attachment.status, &attachment.holder) {
            (AttachStatus::Attached, Holder::Instance { device, card, .. }) => {
                Some((*id, eni, *device, *card))
            }
            _ => None,
        }
    })
}

fn public_of(state: &State, id: crate::ids::EniId, eni: &Eni) -> Option<std::net::Ipv4Addr> {
    let here = |a: &&crate::store::Address| {
        a.association
            .is_some_and(|x| x.eni == id && x.private_ip == eni.primary)
    };
    state
        .addresses
        .values()
        .find(here)
        .map(|a| a.public_ip)
        .or(eni.auto_public)
}

/// Everything that metadata says about an instance, credentials and user data aside.
pub(super) fn tree(state: &State, id: InstanceId, instance: &Instance) -> Tree {
    let mut tree = Tree(BTreeMap::new());
    let region = &state.config.region;
    let m = "meta-data";
    let primary = attached(state, instance).find(|(_, _, device, _)| *device == 0);
    tree.put(format_args!("{m}/ami-id"), &instance.image);
    tree.put(format_args!("{m}/ami-launch-index"), instance.launch_index);
    tree.put(format_args!("{m}/instance-action"), "none");
    tree.put(format_args!("{m}/instance-id"), id);
    tree.put(format_args!("{m}/instance-life-cycle"), "on-demand");
    tree.put(format_args!("{m}/instance-type"), &instance.instance_type);
    tree.put(format_args!("{m}/profile"), "default-hvm");
    tree.put(format_args!("{m}/reservation-id"), instance.launch);
    tree.put(format_args!("{m}/services/domain"), "amazonaws.com");
    tree.put(format_args!("{m}/services/partition"), "aws");
    let zone = state.zone_name(instance.zone);
    tree.put(format_args!("{m}/placement/availability-zone"), &zone);
    tree.put(
        format_args!("{m}/placement/availability-zone-id"),
        state.zone_id(instance.zone),
    );
    tree.put(format_args!("{m}/placement/region"), region);
    if let Some((eni_id, eni, ..)) = primary {
        let name = state.private_dns(eni.primary);
        tree.put(format_args!("{m}/hostname"), &name);
        tree.put(format_args!("{m}/local-hostname"), &name);
        tree.put(format_args!("{m}/local-ipv4"), eni.primary);
        tree.put(format_args!("{m}/mac"), eni.mac);
        let groups = eni
            .groups
            .iter()
            .filter_map(|g| state.groups.get(g))
            .map(|g| &g.name);
        tree.put_lines(format_args!("{m}/security-groups"), groups);
        let public = public_of(state, eni_id, eni);
        tree.put_some(format_args!("{m}/public-ipv4"), public);
        tree.put_some(
            format_args!("{m}/public-hostname"),
            public.map(|ip| state.public_dns(ip)),
        );
    }
    for (eni_id, eni, device, card) in attached(state, instance) {
        interface(&mut tree, state, eni_id, eni, device, card);
    }
    if instance.metadata.tags {
        for (key, value) in state.tags_of(id).into_iter().flatten() {
            tree.put(format_args!("{m}/tags/instance/{key}"), value);
        }
    }
    tree.put(
        "dynamic/instance-identity/document",
        document(state, id, instance),
    );
    tree.put_some("user-data", instance.user_data.as_ref());
    tree
}

fn interface(
    tree: &mut Tree,
    state: &State,
    id: crate::ids::EniId,
    eni: &Eni,
    device: u32,
    card: u32,
) {
    let m = format!("meta-data/network/interfaces/macs/{}", eni.mac);
    tree.put(format_args!("{m}/device-number"), device);
    tree.put(format_args!("{m}/interface-id"), id);
    tree.put(format_args!("{m}/mac"), eni.mac);
    // The agents read `network-card`, the guide documents `network-card-index`.
    tree.put(format_args!("{m}/network-card"), card);
    tree.put(format_args!("{m}/network-card-index"), card);
    tree.put(format_args!("{m}/owner-id"), &state.config.account);
    tree.put(format_args!("{m}/subnet-id"), eni.subnet);
    tree.put(format_args!("{m}/vpc-id"), eni.vpc);
    tree.put_lines(format_args!("{m}/security-group-ids"), &eni.groups);
    let names = eni
        .groups
        .iter()
        .filter_map(|g| state.groups.get(g))
        .map(|g| &g.name);
    tree.put_lines(format_args!("{m}/security-groups"), names);
    if let Some(subnet) = state.subnets.get(&eni.subnet) {
        tree.put(
            format_args!("{m}/subnet-ipv4-cidr-block"),
            subnet.pool.cidr(),
        );
    }
    if let Some(vpc) = state.vpcs.get(&eni.vpc) {
        tree.put_some(
            format_args!("{m}/vpc-ipv4-cidr-block"),
            vpc.cidrs.first().map(|c| c.1),
        );
        tree.put_lines(
            format_args!("{m}/vpc-ipv4-cidr-blocks"),
            vpc.cidrs.iter().map(|c| c.1),
        );
    }
    if eni.kind != EniKind::EfaOnly {
        tree.put(
            format_args!("{m}/local-hostname"),
            state.private_dns(eni.primary),
        );
        tree.put_lines(format_args!("{m}/local-ipv4s"), eni.addresses());
        tree.put_lines(format_args!("{m}/ipv4-prefix"), &eni.prefixes);
    }
    for address in state.addresses.values() {
        if let Some(association) = address.association.filter(|a| a.eni == id) {
            let public = address.public_ip;
            tree.put(
                format_args!("{m}/ipv4-associations/{public}"),
                association.private_ip,
            );
        }
    }
    if let Some(public) = public_of(state, id, eni) {
        tree.put(format_args!("{m}/public-ipv4s"), public);
        tree.put(
            format_args!("{m}/public-hostname"),
            state.public_dns(public),
        );
    }
}

/// The instance identity document.
fn document(state: &State, id: InstanceId, instance: &Instance) -> String {
    let document = serde_json::json!({
        "accountId": state.config.account,
        "architecture": "x86_64",
        "availabilityZone": state.zone_name(instance.zone),
        "billingProducts": null,
        "devpayProductCodes": null,
        "marketplaceProductCodes": null,
        "imageId": instance.image,
        "instanceId": id.to_string(),
        "instanceType": instance.instance_type,
        "kernelId": null,
        "pendingTime": format!("{:.0}", instance.launched),
        "privateIp": instance.private_ip.map(|ip| ip.to_string()),
        "ramdiskId": null,
        "region": state.config.region,
        "version": "2017-09-30",
    });
    format!("{document:#}")
}

/// Credentials of a role, as the credential chain of the SDKs reads them.
pub(super) struct RoleCredentials<'c> {
    pub(super) access_key: &'c str,
    pub(super) secret: &'c str,
    pub(super) token: &'c str,
    pub(super) updated: Timestamp,
    pub(super) expires: Timestamp,
}

impl RoleCredentials<'_> {
    pub(super) fn json(&self) -> String {
        let document = serde_json::json!({
            "Code": "Success",
            "LastUpdated": format!("{:.0}", self.updated),
            "Type": "AWS-HMAC",
            "AccessKeyId": self.access_key,
            "SecretAccessKey": self.secret,
            "Token": self.token,
            "Expiration": format!("{:.0}", self.expires),
        });
        format!("{document:#}")
    }
}
