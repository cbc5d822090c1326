//! Describe answers to [`vpc::facts::World`]: total, and closed on doubt.
//!
//! One function per kind of object. Whatever decides about packets either becomes a fact or an error that names the
//! object and the member; nothing is left out silently, for a dropped deny would widen what is allowed, and a
//! dropped allow would explain the wrong thing. The lab's packet plane converts the server's own store by the same
//! functions, so tool and packets cannot read one answer in two ways.

mod network;
mod read;
mod rules;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};
use vpc::facts::{Kind, PrefixListId, Tags, Unread, World};

use crate::types as t;

pub use network::*;
pub use read::{ReadError, Scope, read_answers, read_world};
pub use rules::*;

/// An answer that cannot be represented as facts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the members are the object, its member and the text in it"
)]
pub enum FactError {
    #[error("{object} has no {member} in EC2's answer")]
    Missing {
        object: String,
        member: &'static str,
    },
    #[error("{object}: {member} is '{value}': {problem}")]
    Malformed {
        object: String,
        member: &'static str,
        value: String,
        problem: String,
    },
}

/// Describe answers of one account and region, pages merged; of a live account, a file or the lab's own store.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "each is the list of the action of that name")]
pub struct Answers {
    pub account: String,
    pub region: String,
    pub vpcs: Vec<t::Vpc>,
    pub subnets: Vec<t::Subnet>,
    pub network_interfaces: Vec<t::NetworkInterface>,
    pub security_groups: Vec<t::SecurityGroup>,
    pub security_group_rules: Vec<t::SecurityGroupRule>,
    pub network_acls: Vec<t::NetworkAcl>,
    pub route_tables: Vec<t::RouteTable>,
    pub prefix_lists: Vec<t::ManagedPrefixList>,
    /// Entries of each list, or why they could not be read. A list without either is unread.
    pub prefix_list_entries: BTreeMap<String, Result<Vec<t::PrefixListEntry>, Unread>>,
    pub internet_gateways: Vec<t::InternetGateway>,
    pub nat_gateways: Vec<t::NatGateway>,
    pub peerings: Vec<t::VpcPeeringConnection>,
    pub instances: Vec<t::Instance>,
    pub launch_template_versions: Vec<t::LaunchTemplateVersion>,
    pub trunk_associations: Vec<t::TrunkInterfaceAssociation>,
    /// Kinds that could not be read, and why.
    pub unread: BTreeMap<Kind, Unread>,
}

/// Everything that was answered, as facts.
pub fn world(answers: &Answers) -> Result<World, FactError> {
    let trunks = trunk_associations(&answers.trunk_associations)?;
    let rule_ids = RuleIds::read(&answers.security_group_rules)?;
    let enis = answers.network_interfaces.iter().map(|e| eni(e, &trunks));
    let groups = answers
        .security_groups
        .iter()
        .map(|g| security_group(g, &rule_ids));
    Ok(World {
        account: answers.account.clone(),
        region: answers.region.clone(),
        vpcs: index(answers.vpcs.iter().map(self::vpc), |v| v.id.clone())?,
        subnets: index(answers.subnets.iter().map(subnet), |s| s.id.clone())?,
        enis: index(enis, |e| e.id.clone())?,
        groups: index(groups, |g| g.id.clone())?,
        acls: index(answers.network_acls.iter().map(network_acl), |a| {
            a.id.clone()
        })?,
        route_tables: index(answers.route_tables.iter().map(route_table), |r| {
            r.id.clone()
        })?,
        prefix_lists: prefix_lists(answers)?,
        internet_gateways: index(
            answers.internet_gateways.iter().map(internet_gateway),
            |i| i.id.clone(),
        )?,
        nat_gateways: index(answers.nat_gateways.iter().map(nat_gateway), |n| {
            n.id.clone()
        })?,
        peerings: index(answers.peerings.iter().map(peering), |p| p.id.clone())?,
        instances: index(answers.instances.iter().map(instance), |i| i.id.clone())?,
        launch_templates: launch_templates(&answers.launch_template_versions)?,
        unread: answers.unread.clone(),
    })
}

fn index<K: Ord, V>(
    objects: impl Iterator<Item = Result<V, FactError>>,
    key: impl Fn(&V) -> K,
) -> Result<BTreeMap<K, V>, FactError> {
    objects
        .map(|object| object.map(|object| (key(&object), object)))
        .collect()
}

/// An entry of [`Answers::prefix_list_entries`] that is not there: nobody asked for it.
fn prefix_lists(
    answers: &Answers,
) -> Result<BTreeMap<PrefixListId, vpc::facts::PrefixList>, FactError> {
    let lists = answers.prefix_lists.iter().map(|list| {
        let id = list.prefix_list_id.as_deref().unwrap_or_default();
        let entries = answers
            .prefix_list_entries
            .get(id)
            .map(|entries| match entries {
                Ok(entries) => Ok(entries.as_slice()),
                Err(unread) => Err(unread.clone()),
            });
        let unasked = || Unread {
            action: Kind::PrefixLists.action().to_owned(),
            reason: "its entries were not read".to_owned(),
        };
        prefix_list(list, entries.unwrap_or_else(|| Err(unasked())))
    });
    index(lists, |list| list.id.clone())
}

/// An object being converted: names it in errors.
struct Of<'a>(&'a str);

impl<'a> Of<'a> {
    /// The object, named by its id, which must be there.
    fn id(kind: &str, id: &'a Option<String>) -> Result<Self, FactError> {
        match id {
            Some(id) => Ok(Self(id)),
            None => Err(FactError::Missing {
                object: format!("an object of {kind}"),
                member: "id",
            }),
        }
    }

    fn need<'b, T>(&self, member: &'static str, value: &'b Option<T>) -> Result<&'b T, FactError> {
        value.as_ref().ok_or_else(|| FactError::Missing {
            object: self.0.to_owned(),
            member,
        })
    }

    fn malformed(
        &self,
        member: &'static str,
        value: impl Display,
        problem: impl Display,
    ) -> FactError {
        FactError::Malformed {
            object: self.0.to_owned(),
            member,
            value: value.to_string(),
            problem: problem.to_string(),
        }
    }

    fn parse<T: FromStr<Err: Display>>(
        &self,
        member: &'static str,
        text: &str,
    ) -> Result<T, FactError> {
        text.parse()
            .map_err(|problem| self.malformed(member, text, problem))
    }

    fn parsed<T: FromStr<Err: Display>>(
        &self,
        member: &'static str,
        text: &Option<String>,
    ) -> Result<T, FactError> {
        self.parse(member, self.need(member, text)?)
    }

    fn parse_some<T: FromStr<Err: Display>>(
        &self,
        member: &'static str,
        text: &Option<String>,
    ) -> Result<Option<T>, FactError> {
        text.as_deref()
            .filter(|text| !text.is_empty())
            .map(|text| self.parse(member, text))
            .transpose()
    }

    /// EC2 ignores the host bits of a range: `10.0.0.5/24` is `10.0.0.0/24`.
    fn net4(&self, member: &'static str, text: &Option<String>) -> Result<Ipv4Net, FactError> {
        Ok(self.parsed::<Ipv4Net>(member, text)?.trunc())
    }

    fn net6(&self, member: &'static str, text: &Option<String>) -> Result<Ipv6Net, FactError> {
        Ok(self.parsed::<Ipv6Net>(member, text)?.trunc())
    }

    /// A number of EC2's signed type in one of ours.
    fn number<N: TryFrom<i64>>(
        &self,
        member: &'static str,
        value: impl Into<i64> + Copy,
    ) -> Result<N, FactError> {
        let value = value.into();
        N::try_from(value).map_err(|_| self.malformed(member, value, "out of range"))
    }
}

fn tags(tags: &[t::Tag]) -> Tags {
    let pair = |tag: &t::Tag| {
        (
            tag.key.clone().unwrap_or_default(),
            tag.value.clone().unwrap_or_default(),
        )
    };
    tags.iter().map(pair).collect()
}
