//! What all Describe actions share: ids, filters, pages.

use ec2::types;

use super::Context;
use crate::error::{ApiError, ApiResult};
use crate::filter::{self, Filter};
use crate::ids::{ResourceId, Table};
use crate::page::{self, Sizes};
use crate::store::State;

/// A filter of a resource kind: its name, and the values that one resource has for it.
pub(crate) type Field<K, V> = (&'static str, fn(&State, K, &V) -> Vec<String>);

/// What a Describe request asks for.
pub(crate) struct Query<'r> {
    pub(crate) ids: &'r [String],
    pub(crate) filters: &'r [types::Filter],
    pub(crate) max_results: Option<i32>,
    pub(crate) next_token: Option<&'r str>,
    pub(crate) sizes: Sizes,
}

impl<'r> Query<'r> {
    /// A query by ids and filters.
    pub(crate) fn new(ids: &'r [String], filters: &'r [types::Filter]) -> Self {
        Self {
            ids,
            filters,
            max_results: None,
            next_token: None,
            sizes: page::USUAL,
        }
    }

    /// In pages.
    pub(crate) fn paged(mut self, max_results: Option<i32>, token: &'r Option<String>) -> Self {
        self.max_results = max_results;
        self.next_token = token.as_deref();
        self
    }

    pub(crate) fn sizes(mut self, sizes: Sizes) -> Self {
        self.sizes = sizes;
        self
    }

    /// The ids of a table that this query selects, and the next page's token.
    pub(crate) fn select<K: ResourceId, V>(
        &self,
        cx: &Context<'_>,
        table: &Table<K, V>,
        fields: &[Field<K, V>],
    ) -> ApiResult<(Vec<K>, Option<String>)> {
        page::ids_or_pages(self.ids, "the list of ids", self.max_results)?;
        let filters = read(self.filters)?;
        check_names(&filters, fields.iter().map(|(name, _)| *name))?;
        let candidates: Vec<K> = match self.ids {
            [] => table.keys().copied().collect(),
            ids => table.find_all(ids)?,
        };
        let mut selected = Vec::new();
        for id in candidates {
            let record = &table[&id];
            let values = |name: &str| {
                let field = fields.iter().find(|(n, _)| *n == name)?;
                Some(field.1(cx.state, id, record))
            };
            let tags = if filters.is_empty() {
                None
            } else {
                cx.state.tags_of(id)
            };
            if filter::matches(&filters, tags, values)? {
                selected.push(id);
            }
        }
        selected.dedup();
        self.page(selected, ToString::to_string)
    }

    /// The part of `items` that this query asks for.
    pub(crate) fn page<T>(
        &self,
        items: Vec<T>,
        key: impl Fn(&T) -> String,
    ) -> ApiResult<(Vec<T>, Option<String>)> {
        page::page(items, key, self.max_results, self.next_token, self.sizes)
    }
}

/// Reads the filters of a request.
pub(crate) fn read(filters: &[types::Filter]) -> ApiResult<Vec<Filter>> {
    filters
        .iter()
        .map(|f| {
            let name = f
                .name
                .clone()
                .ok_or_else(|| ApiError::missing("Filter.Name"))?;
            Ok(Filter {
                name,
                values: f.values.clone(),
            })
        })
        .collect()
}

/// Refuses a filter that no resource of the kind has, also when there is no resource to ask.
pub(crate) fn check_names<'n>(
    filters: &[Filter],
    known: impl Iterator<Item = &'n str> + Clone,
) -> ApiResult<()> {
    let generic = |n: &str| n.starts_with("tag:") || n == "tag-key" || n == "tag-value";
    match filters
        .iter()
        .find(|f| !generic(&f.name) && !known.clone().any(|k| k == f.name))
    {
        Some(filter) => Err(filter::unknown(&filter.name)),
        None => Ok(()),
    }
}

/// One filter value.
pub(crate) fn one(value: impl ToString) -> Vec<String> {
    vec![value.to_string()]
}

/// A filter value that may be absent.
pub(crate) fn opt(value: Option<impl ToString>) -> Vec<String> {
    value.map(|v| v.to_string()).into_iter().collect()
}

/// A filter value that is true or false.
pub(crate) fn yes(value: bool) -> Vec<String> {
    one(value)
}
