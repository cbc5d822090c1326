//! Managed prefix lists, with their versions.

use std::collections::BTreeMap;

use ec2::types::*;

use super::route_table::routed_to_list;
use super::{Action, Context, Field, Query, one, parse, required, s, tag, unmodelled};
use crate::error::{ApiError, ApiResult};
use crate::ids::PrefixListId;
use crate::page::Sizes;
use crate::store::{self, Peer, State};

type Entries = BTreeMap<String, Option<String>>;

const FIELDS: &[Field<PrefixListId, store::PrefixList>] = &[
    ("prefix-list-id", |_, id, _| one(id)),
    ("prefix-list-name", |_, _, l| one(&l.name)),
    ("owner-id", |s, _, _| one(&s.config.account)),
];

fn view(state: &State, id: PrefixListId, status: &str) -> ManagedPrefixList {
    let list = &state.prefix_lists[&id];
    ManagedPrefixList {
        prefix_list_id: s(id),
        prefix_list_name: s(&list.name),
        prefix_list_arn: s(state.arn("prefix-list", id)),
        address_family: s(if list.ipv6 { "IPv6" } else { "IPv4" }),
        max_entries: Some(list.max_entries),
        owner_id: s(&state.config.account),
        state: s(status),
        version: Some(list.versions.len() as i64),
        tags: tag::list(state.tags_of(id)),
        ..Default::default()
    }
}

/// An entry in canonical form.
fn entry(text: &str, ipv6: bool) -> ApiResult<String> {
    Ok(match ipv6 {
        false => super::vpc::cidr(text, "cidr")?.to_string(),
        true => parse::<ipnet::Ipv6Net>(text, "cidr", "an IPv6 CIDR")?
            .trunc()
            .to_string(),
    })
}

fn add(entries: &mut Entries, new: &[AddPrefixListEntry], ipv6: bool) -> ApiResult<()> {
    for e in new {
        let cidr = entry(required(&e.cidr, "cidr")?, ipv6)?;
        entries.insert(cidr, e.description.clone());
    }
    Ok(())
}

fn check_size(entries: &Entries, max_entries: i32) -> ApiResult<()> {
    if entries.len() as i64 > i64::from(max_entries) {
        return Err(ApiError::new(
            "PrefixListMaxEntriesExceeded",
            format_args!("You have exceeded the maximum number of entries: {max_entries}."),
        ));
    }
    Ok(())
}

impl Action for CreateManagedPrefixListRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<CreateManagedPrefixListResult> {
        let tags = tag::of_spec(&self.tag_specifications, "prefix-list")?;
        let name = required(&self.prefix_list_name, "prefixListName")?;
        let max_entries = self
            .max_entries
            .ok_or_else(|| ApiError::missing("maxEntries"))?;
        if !(1..=1000).contains(&max_entries) {
            return Err(ApiError::bad_value(
                "maxEntries",
                max_entries,
                "Expecting 1 to 1000.",
            ));
        }
        let ipv6 = match required(&self.address_family, "addressFamily")? {
            "IPv4" => false,
            "IPv6" => true,
            other => {
                return Err(ApiError::bad_value(
                    "addressFamily",
                    other,
                    "Expecting IPv4 or IPv6.",
                ));
            }
        };
        if name.starts_with("com.amazonaws") {
            return Err(ApiError::value(
                "Prefix list names starting with 'com.amazonaws' are reserved.",
            ));
        }
        let mut entries = Entries::new();
        add(&mut entries, &self.entries, ipv6)?;
        check_size(&entries, max_entries)?;
        let id: PrefixListId = cx.state.fresh();
        let list = store::PrefixList {
            name: name.to_owned(),
            ipv6,
            max_entries,
            versions: vec![entries],
        };
        cx.state.prefix_lists.insert(id, list);
        tag::put(cx.state, id, tags);
        let prefix_list = Some(view(cx.state, id, "create-in-progress"));
        Ok(CreateManagedPrefixListResult { prefix_list })
    }
}

impl Action for ModifyManagedPrefixListRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<ModifyManagedPrefixListResult> {
        unmodelled(&[(
            self.ipam_prefix_list_resolver_sync_enabled.is_some(),
            "IpamPrefixListResolverSyncEnabled",
        )])?;
        let text = required(&self.prefix_list_id, "prefixListId")?;
        let (id, list) = cx.state.prefix_lists.find(text)?;
        let edits = !self.add_entries.is_empty() || !self.remove_entries.is_empty();
        let current = list.versions.len() as i64;
        match self.current_version {
            None if edits => return Err(ApiError::missing("currentVersion")),
            Some(version) if version != current => {
                return Err(ApiError::new(
                    "PrefixListVersionMismatch",
                    format_args!(
                        "The current version of the prefix list is {current}, not {version}."
                    ),
                ));
            }
            _ => {}
        }
        let mut entries = list.current().clone();
        for e in &self.remove_entries {
            let cidr = entry(required(&e.cidr, "cidr")?, list.ipv6)?;
            if entries.remove(&cidr).is_none() {
                return Err(ApiError::value(format_args!(
                    "The prefix list {id} has no entry {cidr}."
                )));
            }
        }
        add(&mut entries, &self.add_entries, list.ipv6)?;
        let max_entries = self.max_entries.unwrap_or(list.max_entries);
        check_size(&entries, max_entries)?;
        if let Some(list) = cx.state.prefix_lists.get_mut(&id) {
            list.max_entries = max_entries;
            if let Some(name) = &self.prefix_list_name {
                list.name.clone_from(name);
            }
            if edits {
                list.versions.push(entries);
            }
        }
        let prefix_list = Some(view(cx.state, id, "modify-in-progress"));
        Ok(ModifyManagedPrefixListResult { prefix_list })
    }
}

impl Action for DeleteManagedPrefixListRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DeleteManagedPrefixListResult> {
        let text = required(&self.prefix_list_id, "prefixListId")?;
        let (id, _) = cx.state.prefix_lists.find(text)?;
        let mut rules = cx.state.groups.values().flat_map(|g| g.rules.values());
        if rules.any(|r| r.peer == Peer::List(id)) || routed_to_list(cx.state, id) {
            return Err(ApiError::new(
                "DependencyViolation",
                format_args!("The prefix list '{id}' is referenced and cannot be deleted."),
            ));
        }
        let prefix_list = Some(view(cx.state, id, "delete-in-progress"));
        cx.state.prefix_lists.remove(&id);
        cx.state.drop_tags(id);
        Ok(DeleteManagedPrefixListResult { prefix_list })
    }
}

impl Action for DescribeManagedPrefixListsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeManagedPrefixListsResult> {
        let query = Query::new(&self.prefix_list_ids, &self.filters).sizes(Sizes(1, 100));
        let query = query.paged(self.max_results, &self.next_token);
        let (ids, next_token) = query.select(cx, &cx.state.prefix_lists, FIELDS)?;
        let view = |id| view(cx.state, id, "create-complete");
        let prefix_lists = ids.into_iter().map(view).collect();
        Ok(DescribeManagedPrefixListsResult {
            prefix_lists,
            next_token,
        })
    }
}

impl Action for DescribePrefixListsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribePrefixListsResult> {
        let query = Query::new(&self.prefix_list_ids, &self.filters);
        let query = query.paged(self.max_results, &self.next_token);
        let (ids, next_token) = query.select(cx, &cx.state.prefix_lists, FIELDS)?;
        let view = |id: PrefixListId| {
            let list = &cx.state.prefix_lists[&id];
            PrefixList {
                prefix_list_id: s(id),
                prefix_list_name: s(&list.name),
                cidrs: list.current().keys().cloned().collect(),
            }
        };
        Ok(DescribePrefixListsResult {
            prefix_lists: ids.into_iter().map(view).collect(),
            next_token,
        })
    }
}

impl Action for GetManagedPrefixListEntriesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<GetManagedPrefixListEntriesResult> {
        let text = required(&self.prefix_list_id, "prefixListId")?;
        let (_, list) = cx.state.prefix_lists.find(text)?;
        let version = self.target_version.unwrap_or(list.versions.len() as i64);
        let entries = usize::try_from(version - 1)
            .ok()
            .and_then(|at| list.versions.get(at));
        let entries = entries.ok_or_else(|| {
            ApiError::bad_value(
                "targetVersion",
                version,
                "The prefix list has no such version.",
            )
        })?;
        let entry = |(cidr, description): (&String, &Option<String>)| PrefixListEntry {
            cidr: s(cidr),
            description: description.clone(),
        };
        let all: Vec<PrefixListEntry> = entries.iter().map(entry).collect();
        let query = Query::new(&[], &[]).sizes(Sizes(1, 100));
        let query = query.paged(self.max_results, &self.next_token);
        let (entries, next_token) = query.page(all, |e| e.cidr.clone().unwrap_or_default())?;
        Ok(GetManagedPrefixListEntriesResult {
            entries,
            next_token,
        })
    }
}
