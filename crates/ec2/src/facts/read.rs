//! Reading a world from a live EC2 API: every Describe at once, all pages, filtered by VPC where EC2 can.
//!
//! A kind that may not be read (or that the endpoint does not know, or that is throttled away) is a fact,
//! [`World::unread`]: answers that need it are UNKNOWN and name the IAM action. Only what makes every answer
//! worthless (no credentials, no endpoint) is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::JoinSet;
use vpc::facts::{Kind, PeeringStatus, Unread, VpcId, World};

use super::{Answers, FactError, peering, world};
use crate::client::Client;
use crate::error::Error;
use crate::types::{self as t, Paged};

/// What to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// These VPCs and those that are peered with them; empty: all of the account and region.
    pub vpcs: BTreeSet<VpcId>,
}

/// A world could not be read at all.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// EC2 cannot be asked.
    #[error(transparent)]
    Ec2(#[from] Error),
    /// EC2 answered something that cannot be represented; guessing could call closed what is open.
    #[error("EC2's answer cannot be understood")]
    Fact(#[from] FactError),
}

/// Reads the facts of a scope.
pub async fn read_world(client: &Client, scope: &Scope) -> Result<World, ReadError> {
    Ok(world(&read_answers(client, scope).await?)?)
}

/// Reads the Describe answers of a scope.
pub async fn read_answers(client: &Client, scope: &Scope) -> Result<Answers, ReadError> {
    let reader = Reader {
        client,
        unread: Mutex::default(),
    };
    let peerings = t::DescribeVpcPeeringConnectionsRequest::default();
    let peerings = reader.read(Kind::Peerings, peerings).await?;
    let peerings = peerings.vpc_peering_connections;
    let vpcs = with_peers(scope, &peerings)?;
    let mut answers = reader.describe(&vpcs).await?;
    answers.peerings = touching(peerings, &vpcs);
    reader.prefix_lists(&mut answers).await?;
    reader.template_versions_in_use(&mut answers).await?;
    answers.region = client.region().await?.to_owned();
    answers.unread = std::mem::take(&mut *reader.unread());
    Ok(answers)
}

/// The VPCs of the scope and the other sides of their active peerings.
fn with_peers(
    scope: &Scope,
    peerings: &[t::VpcPeeringConnection],
) -> Result<BTreeSet<VpcId>, FactError> {
    let mut vpcs = scope.vpcs.clone();
    for answer in peerings {
        let peering = peering(answer)?;
        let (a, b) = (peering.requester.vpc, peering.accepter.vpc);
        let touches = scope.vpcs.contains(&a) || scope.vpcs.contains(&b);
        if touches && peering.status == PeeringStatus::Active {
            vpcs.extend([a, b]);
        }
    }
    Ok(vpcs)
}

fn touching(
    peerings: Vec<t::VpcPeeringConnection>,
    vpcs: &BTreeSet<VpcId>,
) -> Vec<t::VpcPeeringConnection> {
    let is_in = |side: &Option<t::VpcPeeringConnectionVpcInfo>| {
        let id = side.as_ref().and_then(|side| side.vpc_id.as_deref());
        vpcs.is_empty() || vpcs.iter().any(|vpc| Some(vpc.as_str()) == id)
    };
    let keep =
        |p: &t::VpcPeeringConnection| is_in(&p.requester_vpc_info) || is_in(&p.accepter_vpc_info);
    peerings.into_iter().filter(keep).collect()
}

/// A filter on VPCs; none when all are read.
fn by_vpc(name: &str, vpcs: &BTreeSet<VpcId>) -> Vec<t::Filter> {
    if vpcs.is_empty() {
        return Vec::new();
    }
    let values = vpcs.iter().map(|vpc| vpc.to_string()).collect();
    vec![t::Filter {
        name: Some(name.to_owned()),
        values,
    }]
}

struct Reader<'a> {
    client: &'a Client,
    unread: Mutex<BTreeMap<Kind, Unread>>,
}

/// Failures that every further call would share.
fn is_fatal(error: &Error) -> bool {
    const REJECTED: [&str; 3] = [
        "AuthFailure",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
    ];
    match error {
        Error::Credentials { .. }
        | Error::Region
        | Error::Endpoint { .. }
        | Error::Unreachable { .. }
        | Error::Signing { .. }
        | Error::Decode { .. } => true,
        Error::Api { code, .. } => REJECTED.contains(&code.as_str()),
        Error::Denied { .. }
        | Error::Throttled { .. }
        | Error::Timeout { .. }
        | Error::Unavailable { .. }
        | Error::EndlessPages { .. } => false,
    }
}

fn unread(kind: Kind, error: &Error) -> Unread {
    Unread {
        action: error
            .iam_action()
            .unwrap_or_else(|| kind.action().to_owned()),
        reason: error.to_string(),
    }
}

impl Reader<'_> {
    fn unread(&self) -> MutexGuard<'_, BTreeMap<Kind, Unread>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All pages of an answer; or an empty one, and a note of what is missing.
    async fn read<O: Paged>(&self, kind: Kind, request: O) -> Result<O::Output, Error> {
        match self.client.call_all(request).await {
            Ok(answer) => Ok(answer),
            Err(error) if is_fatal(&error) => Err(error),
            Err(error) => {
                self.unread().insert(kind, unread(kind, &error));
                Ok(O::Output::default())
            }
        }
    }

    /// Everything that needs no other answer first, at once. The page sizes are EC2's largest.
    async fn describe(&self, vpcs: &BTreeSet<VpcId>) -> Result<Answers, Error> {
        let filters = || by_vpc("vpc-id", vpcs);
        let max_results = Some(1000);
        let (
            vpcs,
            subnets,
            enis,
            groups,
            rules,
            acls,
            tables,
            igws,
            nats,
            instances,
            trunks,
            templates,
        ) = tokio::try_join!(
            self.read(
                Kind::Vpcs,
                t::DescribeVpcsRequest {
                    filters: filters(),
                    max_results,
                    ..Default::default()
                }
            ),
            self.read(
                Kind::Subnets,
                t::DescribeSubnetsRequest {
                    filters: filters(),
                    max_results,
                    ..Default::default()
                }
            ),
            self.read(
                Kind::Enis,
                t::DescribeNetworkInterfacesRequest {
                    filters: filters(),
                    max_results,
                    ..Default::default()
                }
            ),
            self.read(
                Kind::Groups,
                t::DescribeSecurityGroupsRequest {
                    filters: filters(),
                    max_results,
                    ..Default::default()
                }
            ),
            // No filter on a VPC here: what belongs to other groups is not used.
            self.read(
                Kind::GroupRules,
                t::DescribeSecurityGroupRulesRequest {
                    max_results,
                    ..Default::default()
                }
            ),
            self.read(
                Kind::Acls,
                t::DescribeNetworkAclsRequest {
                    filters: filters(),
                    max_results,
                    ..Default::default()
                }
            ),
            self.read(
                Kind::RouteTables,
                t::DescribeRouteTablesRequest {
                    filters: filters(),
                    max_results: Some(100),
                    ..Default::default()
                }
            ),
            self.read(
                Kind::InternetGateways,
                t::DescribeInternetGatewaysRequest {
                    filters: by_vpc("attachment.vpc-id", vpcs),
                    max_results,
                    ..Default::default()
                }
            ),
            self.read(
                Kind::NatGateways,
                t::DescribeNatGatewaysRequest {
                    filter: filters(),
                    max_results,
                    ..Default::default()
                }
            ),
            self.read(
                Kind::Instances,
                t::DescribeInstancesRequest {
                    filters: filters(),
                    max_results,
                    ..Default::default()
                }
            ),
            self.read(
                Kind::TrunkAssociations,
                t::DescribeTrunkInterfaceAssociationsRequest {
                    max_results: Some(255),
                    ..Default::default()
                }
            ),
            self.read(
                Kind::LaunchTemplates,
                t::DescribeLaunchTemplateVersionsRequest {
                    versions: vec!["$Default".to_owned(), "$Latest".to_owned()],
                    max_results: Some(200),
                    ..Default::default()
                }
            ),
        )?;
        // A reservation belongs to the account that asks; a VPC may be shared by another.
        let owners = instances.reservations.iter().map(|r| &r.owner_id);
        let owner = owners
            .chain(vpcs.vpcs.iter().map(|v| &v.owner_id))
            .flatten()
            .next();
        Ok(Answers {
            account: owner.cloned().unwrap_or_default(),
            vpcs: vpcs.vpcs,
            subnets: subnets.subnets,
            network_interfaces: enis.network_interfaces,
            security_groups: groups.security_groups,
            security_group_rules: rules.security_group_rules,
            network_acls: acls.network_acls,
            route_tables: tables.route_tables,
            internet_gateways: igws.internet_gateways,
            nat_gateways: nats.nat_gateways,
            instances: instances
                .reservations
                .into_iter()
                .flat_map(|r| r.instances)
                .collect(),
            trunk_associations: trunks.interface_associations,
            launch_template_versions: templates.launch_template_versions,
            ..Answers::default()
        })
    }

    /// The prefix lists that a rule or route names, with their entries.
    async fn prefix_lists(&self, answers: &mut Answers) -> Result<(), Error> {
        let ids = named_prefix_lists(answers);
        if ids.is_empty() {
            return Ok(());
        }
        let request = t::DescribeManagedPrefixListsRequest {
            // EC2 refuses a list of ids together with MaxResults.
            prefix_list_ids: ids.iter().cloned().collect(),
            ..Default::default()
        };
        answers.prefix_lists = self.read(Kind::PrefixLists, request).await?.prefix_lists;
        let mut reads = JoinSet::new();
        for id in ids {
            let client = self.client.clone();
            let request = t::GetManagedPrefixListEntriesRequest {
                prefix_list_id: Some(id.clone()),
                max_results: Some(100),
                ..Default::default()
            };
            reads.spawn(async move { (id, client.call_all(request).await) });
        }
        for (id, entries) in reads.join_all().await {
            let entries = match entries {
                Ok(entries) => Ok(entries.entries),
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) => Err(unread(Kind::PrefixLists, &error)),
            };
            answers.prefix_list_entries.insert(id, entries);
        }
        Ok(())
    }

    /// The versions from which running instances were launched, where they are neither default nor latest.
    async fn template_versions_in_use(&self, answers: &mut Answers) -> Result<(), Error> {
        if self.unread().contains_key(&Kind::LaunchTemplates) {
            return Ok(());
        }
        for (template, versions) in versions_in_use(answers) {
            let request = t::DescribeLaunchTemplateVersionsRequest {
                launch_template_id: Some(template),
                versions: versions.into_iter().collect(),
                ..Default::default()
            };
            match self.client.call_all(request).await {
                // The template is deleted, its instances live on.
                Err(error) if error.is_not_found() => {}
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) => {
                    let kind = Kind::LaunchTemplates;
                    self.unread().insert(kind, unread(kind, &error));
                }
                Ok(page) => answers
                    .launch_template_versions
                    .extend(page.launch_template_versions),
            }
        }
        Ok(())
    }
}

fn named_prefix_lists(answers: &Answers) -> BTreeSet<String> {
    let permissions = answers.security_groups.iter().flat_map(|group| {
        group
            .ip_permissions
            .iter()
            .chain(&group.ip_permissions_egress)
    });
    let in_rules = permissions
        .flat_map(|p| &p.prefix_list_ids)
        .flat_map(|p| &p.prefix_list_id);
    let routes = answers.route_tables.iter().flat_map(|table| &table.routes);
    let in_routes = routes.flat_map(|route| &route.destination_prefix_list_id);
    in_rules.chain(in_routes).cloned().collect()
}

fn versions_in_use(answers: &Answers) -> BTreeMap<String, BTreeSet<String>> {
    let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for instance in &answers.instances {
        let tags = super::tags(&instance.tags);
        let tag = |key: &str| tags.get(&format!("aws:ec2launchtemplate:{key}")).cloned();
        let (Some(template), Some(version)) = (tag("id"), tag("version")) else {
            continue;
        };
        let is_known = answers.launch_template_versions.iter().any(|known| {
            known.launch_template_id.as_deref() == Some(&template)
                && known.version_number.map(|n| n.to_string()).as_deref() == Some(&version)
        });
        if !is_known {
            wanted.entry(template).or_default().insert(version);
        }
    }
    wanted
}
