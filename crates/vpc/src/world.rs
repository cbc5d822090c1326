//! The other directions of the relations in a [`World`], and names for people.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::facts::*;

impl World {
    /// Why objects of this kind are missing, if they could not be read.
    pub fn unread(&self, kind: Kind) -> Option<&Unread> {
        self.unread.get(&kind)
    }

    /// The route table that a subnet uses: its own or the VPC's main one.
    pub fn route_table_of(&self, subnet: &Subnet) -> Option<&RouteTable> {
        let mine = |t: &&RouteTable| t.vpc == subnet.vpc;
        let tables = || self.route_tables.values().filter(mine);
        tables()
            .find(|t| t.subnets.contains(&subnet.id))
            .or_else(|| tables().find(|t| t.main))
    }

    /// The network ACL that guards a subnet.
    pub fn acl_of(&self, subnet: &SubnetId) -> Option<&NetworkAcl> {
        self.acls.values().find(|a| a.subnets.contains(subnet))
    }

    /// The interfaces attached to an instance, by device index. Branch interfaces are not attached:
    /// see [`World::branches_of`].
    pub fn enis_of(&self, instance: &InstanceId) -> Vec<&Eni> {
        let on = |e: &Eni| e.instance() == Some(instance);
        let mut enis: Vec<&Eni> = self.enis.values().filter(|e| on(e)).collect();
        enis.sort_by_key(|e| {
            e.attachment
                .as_ref()
                .map(|a| (a.network_card, a.device_index))
        });
        enis
    }

    /// The branch interfaces that a trunk carries.
    pub fn branches_of(&self, trunk: &EniId) -> impl Iterator<Item = &Eni> {
        self.enis
            .values()
            .filter(move |e| e.trunk.as_ref().is_some_and(|t| &t.trunk == trunk))
    }

    /// The interface that owns a private address in a VPC: primary, secondary or inside a prefix.
    pub fn eni_at(&self, vpc: &VpcId, address: Ipv4Addr) -> Option<&Eni> {
        self.enis
            .values()
            .find(|e| &e.vpc == vpc && e.owns(address))
    }

    /// The subnet of a VPC that contains an address.
    pub fn subnet_at(&self, vpc: &VpcId, address: Ipv4Addr) -> Option<&Subnet> {
        self.subnets
            .values()
            .find(|s| &s.vpc == vpc && s.cidr.contains(&address))
    }
}

impl Eni {
    /// Its primary private address.
    pub fn primary(&self) -> Option<Ipv4Addr> {
        self.addresses
            .iter()
            .find(|a| a.primary)
            .or(self.addresses.first())
            .map(|a| a.address)
    }

    /// Whether an address is one of its primary, secondary or prefix addresses.
    pub fn owns(&self, address: Ipv4Addr) -> bool {
        self.addresses.iter().any(|a| a.address == address)
            || self.prefixes.iter().any(|p| p.contains(&address))
    }

    /// All its private addresses as networks: `/32` each, and its prefixes.
    pub fn networks(&self) -> impl Iterator<Item = Ipv4Net> + '_ {
        self.addresses
            .iter()
            .map(|a| Ipv4Net::from(a.address))
            .chain(self.prefixes.iter().copied())
    }

    /// The instance it is attached to.
    pub fn instance(&self) -> Option<&InstanceId> {
        self.attachment.as_ref().and_then(|a| a.instance.as_ref())
    }

    /// Whether packets can go to and from it: it is attached, or carried by a trunk.
    pub fn is_attached(&self) -> bool {
        !matches!(self.status, EniStatus::Pending | EniStatus::Available)
    }

    /// What people call it: its Name tag, else its description, else its id.
    pub fn name(&self) -> &str {
        let described = Some(self.description.as_str()).filter(|d| !d.is_empty());
        name_tag(&self.tags)
            .or(described)
            .unwrap_or(self.id.as_str())
    }
}

impl SecurityGroup {
    /// What people call it: its name and id.
    pub fn label(&self) -> String {
        format!("{} ({})", self.id, self.name)
    }
}

impl Instance {
    /// The launch template and version it was launched from, as EC2 tags them.
    pub fn launch_template(&self) -> Option<(LaunchTemplateId, u64)> {
        let id = self.tags.get("aws:ec2launchtemplate:id")?.parse().ok()?;
        let version = self
            .tags
            .get("aws:ec2launchtemplate:version")?
            .parse()
            .ok()?;
        Some((id, version))
    }
}

/// The `Name` tag, unless it is empty.
pub fn name_tag(tags: &Tags) -> Option<&str> {
    tags.get("Name")
        .map(String::as_str)
        .filter(|n| !n.is_empty())
}
