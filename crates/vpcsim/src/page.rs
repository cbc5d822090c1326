//! Pages of Describe answers. The token names the last item of the page, so a page continues at the
//! right place although items came and went meanwhile. The last page has no token: an empty one
//! makes some clients ask for ever.

use crate::error::{ApiError, ApiResult};

/// The page sizes that an action accepts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes(pub(crate) i32, pub(crate) i32);

/// 5 to 1000, for most actions.
pub(crate) const USUAL: Sizes = Sizes(5, 1000);

/// The part of `items` (in key order) that a request asks for, and the token of the next page.
///
/// # Errors
/// `InvalidParameterValue` for a page size outside of `sizes` or a token that we did not give.
pub(crate) fn page<T>(
    items: Vec<T>,
    key: impl Fn(&T) -> String,
    max_results: Option<i32>,
    token: Option<&str>,
    sizes: Sizes,
) -> ApiResult<(Vec<T>, Option<String>)> {
    let Sizes(min, max) = sizes;
    if let Some(wanted) = max_results
        && !(min..=max).contains(&wanted)
    {
        let why = format!("Expecting a value between {min} and {max}");
        return Err(ApiError::bad_value("maxResults", wanted, why));
    }
    let after = token.map(decode).transpose()?;
    let mut rest: Vec<T> = match after {
        Some(after) => items.into_iter().filter(|item| key(item) > after).collect(),
        None => items,
    };
    let size = max_results.unwrap_or(max) as usize;
    // Without MaxResults everything is answered at once, unless a token shows that paging is on.
    if (max_results.is_none() && token.is_none()) || rest.len() <= size {
        return Ok((rest, None));
    }
    rest.truncate(size);
    let next = rest.last().map(|last| encode(&key(last)));
    Ok((rest, next))
}

/// `InvalidParameterCombination` when ids and a page size come together.
///
/// # Errors
/// That one.
pub(crate) fn ids_or_pages<T>(
    ids: &[T],
    parameter: &str,
    max_results: Option<i32>,
) -> ApiResult<()> {
    if ids.is_empty() || max_results.is_none() {
        return Ok(());
    }
    Err(ApiError::combination(format_args!(
        "The parameter {parameter} cannot be used with the parameter maxResults"
    )))
}

fn encode(key: &str) -> String {
    let mut token = String::from("v1");
    for byte in key.bytes() {
        token.push_str(&format!("{:02x}", byte ^ 0x5a));
    }
    token
}

fn decode(token: &str) -> ApiResult<String> {
    let invalid = || ApiError::bad_value("nextToken", token, "The token is not one of ours.");
    let digits = token
        .strip_prefix("v1")
        .filter(|d| d.is_ascii())
        .ok_or_else(invalid)?;
    let bytes: Option<Vec<u8>> = (0..digits.len())
        .step_by(2)
        .map(|i| {
            digits
                .get(i..i + 2)
                .and_then(|d| u8::from_str_radix(d, 16).ok())
        })
        .map(|byte| byte.map(|b| b ^ 0x5a))
        .collect();
    bytes
        .and_then(|b| String::from_utf8(b).ok())
        .ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items() -> Vec<String> {
        (0..12).map(|i| format!("eni-{i:02}")).collect()
    }

    #[test]
    fn pages_cover_everything_once_and_the_last_has_no_token() {
        let (mut seen, mut token, mut pages) = (Vec::new(), None::<String>, 0);
        loop {
            let asked = page(items(), Clone::clone, Some(5), token.as_deref(), USUAL);
            let (part, next) = asked.unwrap();
            seen.extend(part);
            pages += 1;
            token = next;
            if token.is_none() {
                break;
            }
        }
        assert_eq!((seen, pages), (items(), 3));
    }

    #[test]
    fn bad_sizes_and_tokens_are_errors() {
        for size in [4, 1001, 0, -1] {
            assert!(page(items(), Clone::clone, Some(size), None, USUAL).is_err());
        }
        for token in ["", "v1zz", "v1é0", "x", "v1a"] {
            assert!(
                page(items(), Clone::clone, Some(5), Some(token), USUAL).is_err(),
                "{token}"
            );
        }
    }
}
