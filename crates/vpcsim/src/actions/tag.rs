//! Tags: CreateTags, DeleteTags, DescribeTags, and TagSpecifications of create calls.

use ec2::types::*;

use super::describe::{self, Query};
use super::{Action, Context, required};
use crate::error::{ApiError, ApiResult};
use crate::filter::{self, Tags};
use crate::ids::*;
use crate::store::State;

/// Tags of one resource at most. Source: EC2 user guide, "Tag restrictions".
const MAX_TAGS: usize = 50;

/// The resource's tags, as answers list them.
pub(crate) fn list(tags: Option<&Tags>) -> Vec<Tag> {
    let tag = |(k, v): (&String, &String)| Tag {
        key: Some(k.clone()),
        value: Some(v.clone()),
    };
    tags.into_iter().flatten().map(tag).collect()
}

/// Checks tags of a request.
pub(crate) fn check(tags: &[Tag]) -> ApiResult<Tags> {
    let mut checked = Tags::new();
    for tag in tags {
        let key = required(&tag.key, "Tag.Key")?;
        let value = tag.value.clone().unwrap_or_default();
        if key.is_empty() || key.chars().count() > 127 {
            return Err(ApiError::value("Tag keys are 1 to 127 characters long."));
        }
        if value.chars().count() > 255 {
            return Err(ApiError::value(
                "Tag values are at most 255 characters long.",
            ));
        }
        if key.starts_with("aws:") {
            return Err(ApiError::value(
                "Tag keys starting with 'aws:' are reserved for internal use",
            ));
        }
        if checked.insert(key.to_owned(), value).is_some() {
            return Err(ApiError::value(format_args!(
                "Duplicate tag key '{key}' specified."
            )));
        }
    }
    if checked.len() > MAX_TAGS {
        return Err(too_many());
    }
    Ok(checked)
}

fn too_many() -> ApiError {
    ApiError::new(
        "TagLimitExceeded",
        format_args!("The maximum number of tags is {MAX_TAGS}."),
    )
}

/// The tags that a create call gives to resources of `kinds`; other kinds are an error.
pub(crate) fn of_specs(specs: &[TagSpecification], kinds: &[&str]) -> ApiResult<Vec<Tags>> {
    for spec in specs {
        let kind = required(&spec.resource_type, "TagSpecification.ResourceType")?;
        if !kinds.contains(&kind) {
            return Err(ApiError::value(format_args!(
                "'{kind}' is not a valid taggable resource type for this operation."
            )));
        }
    }
    kinds
        .iter()
        .map(|kind| {
            let of_kind = specs
                .iter()
                .filter(|s| s.resource_type.as_deref() == Some(*kind));
            check(
                &of_kind
                    .flat_map(|s| s.tags.iter().cloned())
                    .collect::<Vec<_>>(),
            )
        })
        .collect()
}

/// [`of_specs`] for calls that make one kind.
pub(crate) fn of_spec(specs: &[TagSpecification], kind: &str) -> ApiResult<Tags> {
    Ok(of_specs(specs, &[kind])?.pop().unwrap_or_default())
}

/// Gives a new resource its tags.
pub(crate) fn put(state: &mut State, id: impl ToString, tags: Tags) {
    if !tags.is_empty() {
        state.tags.insert(id.to_string(), tags);
    }
}

/// The kind of the resource that an id names.
///
/// # Errors
/// `InvalidID` for an id of no known kind, `…NotFound` or `…Malformed` of its kind.
pub(crate) fn kind_of(state: &State, id: &str) -> ApiResult<&'static str> {
    macro_rules! kinds {
        ($($prefix:literal $table:ident $kind:literal)*) => {
            $(if id.starts_with($prefix) {
                state.$table.find(id)?;
                return Ok($kind);
            })*
        };
    }
    kinds! {
        "vpc-" vpcs "vpc"
        "subnet-" subnets "subnet"
        "scr-" reservations "subnet-cidr-reservation"
        "rtb-" route_tables "route-table"
        "igw-" internet_gateways "internet-gateway"
        "nat-" nat_gateways "natgateway"
        "eipalloc-" addresses "elastic-ip"
        "pcx-" peerings "vpc-peering-connection"
        "acl-" acls "network-acl"
        "pl-" prefix_lists "prefix-list"
        "sg-" groups "security-group"
        "eni-" enis "network-interface"
        "i-" instances "instance"
        "lt-" templates "launch-template"
    }
    if id.starts_with("sgr-") {
        let rule: GroupRuleId = id.parse()?;
        return match state.groups.values().any(|g| g.rules.contains_key(&rule)) {
            true => Ok("security-group-rule"),
            false => Err(GroupRuleId::not_found(id)),
        };
    }
    Err(ApiError::new(
        "InvalidID",
        format_args!("The ID '{id}' is not valid"),
    ))
}

fn checked_resources(state: &State, resources: &[String]) -> ApiResult<()> {
    if resources.is_empty() {
        return Err(ApiError::missing("ResourceId"));
    }
    resources
        .iter()
        .try_for_each(|id| kind_of(state, id).map(drop))
}

impl Action for CreateTagsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        checked_resources(cx.state, &self.resources)?;
        let tags = check(&self.tags)?;
        for id in &self.resources {
            let old = cx.state.tags.get(id);
            let kept = old.map_or(0, |o| o.keys().filter(|k| !tags.contains_key(*k)).count());
            if kept + tags.len() > MAX_TAGS {
                return Err(too_many());
            }
        }
        for id in &self.resources {
            cx.state
                .tags
                .entry(id.clone())
                .or_default()
                .extend(tags.clone());
        }
        Ok(Done::OK)
    }
}

impl Action for DeleteTagsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        checked_resources(cx.state, &self.resources)?;
        for id in &self.resources {
            let Some(tags) = cx.state.tags.get_mut(id) else {
                continue;
            };
            if self.tags.is_empty() {
                tags.retain(|key, _| key.starts_with("aws:"));
            }
            for tag in &self.tags {
                // A value, also an empty one, must match; without one the key decides.
                let Some(key) = &tag.key else { continue };
                let same = tag.value.as_ref().is_none_or(|v| tags.get(key) == Some(v));
                if same && !key.starts_with("aws:") {
                    tags.remove(key);
                }
            }
            if tags.is_empty() {
                cx.state.tags.remove(id);
            }
        }
        Ok(Done::OK)
    }
}

impl Action for DescribeTagsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeTagsResult> {
        let filters = describe::read(&self.filters)?;
        describe::check_names(
            &filters,
            ["key", "resource-id", "resource-type", "value"].into_iter(),
        )?;
        let mut found = Vec::new();
        for (id, tags) in &cx.state.tags {
            let kind = kind_of(cx.state, id).unwrap_or("unknown");
            for (key, value) in tags {
                let own = std::collections::BTreeMap::from([(key.clone(), value.clone())]);
                let pass = filter::matches(&filters, Some(&own), |name| {
                    Some(vec![match name {
                        "key" => key.clone(),
                        "resource-id" => id.clone(),
                        "resource-type" => kind.to_owned(),
                        "value" => value.clone(),
                        _ => return None,
                    }])
                })?;
                if pass {
                    found.push(TagDescription {
                        key: Some(key.clone()),
                        resource_id: Some(id.clone()),
                        resource_type: Some(kind.to_owned()),
                        value: Some(value.clone()),
                    });
                }
            }
        }
        let query = Query::new(&[], &[]).paged(self.max_results, &self.next_token);
        let place = |t: &TagDescription| format!("{:?} {:?}", t.resource_id, t.key);
        found.sort_by_key(place);
        let (tags, next_token) = query.page(found, place)?;
        Ok(DescribeTagsResult { tags, next_token })
    }
}
