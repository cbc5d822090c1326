//! Describe filters: AND between filters, OR between values, `*` and `?` as wildcards, a backslash
//! to quote them, `tag:KEY` and `tag-key` on everything that has tags.
//!
//! A resource answers for its own filter names; a name that it does not know is an error, never a
//! filter that matches nothing. Source: EC2 user guide, "Filter output".

use std::collections::BTreeMap;

use crate::error::{ApiError, ApiResult};

/// Tags of one resource.
pub(crate) type Tags = BTreeMap<String, String>;

/// One filter of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    /// The filter's name.
    pub(crate) name: String,
    /// Values, any of which may match.
    pub(crate) values: Vec<String>,
}

/// Whether a resource passes `filters`. `values` gives the resource's values for a filter name,
/// `None` when the resource has no such filter.
///
/// # Errors
/// `InvalidParameterValue` for a filter that the resource does not have.
pub(crate) fn matches(
    filters: &[Filter],
    tags: Option<&Tags>,
    mut values: impl FnMut(&str) -> Option<Vec<String>>,
) -> ApiResult<bool> {
    let mut pass = true;
    // All names are looked at before the answer, so that an unknown one is reported even when
    // another filter does not match.
    for filter in filters {
        let own = match filter.name.strip_prefix("tag:") {
            Some(key) => tags.and_then(|t| t.get(key)).into_iter().cloned().collect(),
            None if filter.name == "tag-key" => {
                tags.into_iter().flat_map(|t| t.keys().cloned()).collect()
            }
            None if filter.name == "tag-value" => {
                tags.into_iter().flat_map(|t| t.values().cloned()).collect()
            }
            None => values(&filter.name).ok_or_else(|| unknown(&filter.name))?,
        };
        pass &= own
            .iter()
            .any(|v| filter.values.iter().any(|p| wildcard(p, v)));
    }
    Ok(pass)
}

/// The answer to a filter that a resource does not have.
pub(crate) fn unknown(name: &str) -> ApiError {
    ApiError::value(format_args!("The filter '{name}' is invalid"))
}

/// Whether `text` matches `pattern` with `*`, `?` and backslash quoting.
pub(crate) fn wildcard(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let (literal, width) = match pattern.get(p) {
            Some('\\') if p + 1 < pattern.len() => (Some(pattern[p + 1]), 2),
            Some('*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some('?') => (Some(text[t]), 1),
            Some(c) => (Some(*c), 1),
            None => (None, 0),
        };
        if literal == Some(text[t]) {
            p += width;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            // Let the last star swallow one character more.
            star = Some((star_p, star_t + 1));
            p = star_p + 1;
            t = star_t + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("a*", "a", true),
            ("*", "", true),
            ("a*c", "abcbc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*-k8s-*", "aws-k8s-branch", true),
            ("a\\*c", "a*c", true),
            ("a\\*c", "abc", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(
                wildcard(pattern, text),
                expected,
                "{pattern} against {text}"
            );
        }
    }

    #[test]
    fn and_between_filters_or_between_values() {
        let filter = |name: &str, values: &[&str]| Filter {
            name: name.into(),
            values: values.iter().map(|v| (*v).into()).collect(),
        };
        let tags = Tags::from([("Name".to_owned(), "web".to_owned())]);
        let own = |name: &str| (name == "status").then(|| vec!["available".to_owned()]);
        let check = |filters: &[Filter]| matches(filters, Some(&tags), own);
        assert_eq!(
            check(&[filter("status", &["in-use", "available"])]),
            Ok(true)
        );
        let both = [
            filter("status", &["available"]),
            filter("tag:Name", &["db"]),
        ];
        assert_eq!(check(&both), Ok(false));
        assert_eq!(check(&[filter("tag-key", &["Na*"])]), Ok(true));
        assert_eq!(
            check(&[filter("colour", &["red"])]).unwrap_err().code,
            "InvalidParameterValue"
        );
        let hidden = [filter("status", &["gone"]), filter("colour", &["red"])];
        assert!(
            check(&hidden).is_err(),
            "an unknown filter is reported behind one that fails"
        );
    }
}
