//! Which URL is the service: an override (the lab, an interface endpoint, a test), or the region's public one.

use std::fmt;

use http::Uri;

use crate::error::Error;

/// A URL that requests are sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint(Uri);

impl Endpoint {
    pub(crate) fn parse(origin: &'static str, text: &str) -> Result<Self, Error> {
        let wrong = || Error::Endpoint {
            origin,
            value: text.to_owned(),
        };
        let uri: Uri = text.trim().parse().map_err(|_| wrong())?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        if !is_http || uri.host().is_none_or(str::is_empty) || uri.query().is_some() {
            return Err(wrong());
        }
        Ok(Self(uri))
    }

    /// The first of `variables` that is set.
    pub(crate) fn from_env(
        variables: &[&'static str],
        read: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, Error> {
        for &variable in variables {
            if let Some(url) = read(variable).filter(|url| !url.trim().is_empty()) {
                return Self::parse(variable, &url).map(Some);
            }
        }
        Ok(None)
    }

    /// `https://ec2.us-west-2.amazonaws.com`; China's partition has a domain of its own.
    pub(crate) fn public(service: &str, region: &str) -> Result<Self, Error> {
        let suffix = if region.starts_with("cn-") {
            "amazonaws.com.cn"
        } else {
            "amazonaws.com"
        };
        Self::parse(
            "the region's endpoint",
            &format!("https://{service}.{region}.{suffix}"),
        )
    }

    /// The URL of `path` (with its query) below this one; an empty path is this one.
    pub(crate) fn join(&self, path: &str) -> String {
        match path {
            "" => self.0.to_string(),
            path => format!("{self}{path}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_string().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_variable_wins() {
        let env = |set: &'static [(&str, &str)]| {
            let read = |name: &str| {
                set.iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| (*v).to_owned())
            };
            Endpoint::from_env(super::super::service::EC2.variables, read)
                .map(|e| e.map(|e| e.to_string()))
        };
        assert_eq!(env(&[]).unwrap(), None);
        let all = env(&[
            ("AWS_EC2_ENDPOINT", "http://c"),
            ("AWS_ENDPOINT_URL", "http://b"),
            ("AWS_ENDPOINT_URL_EC2", "http://a:8080/"),
        ]);
        assert_eq!(all.unwrap().as_deref(), Some("http://a:8080"));
        let unset = env(&[
            ("AWS_ENDPOINT_URL_EC2", ""),
            ("AWS_EC2_ENDPOINT", "http://c"),
        ]);
        assert_eq!(unset.unwrap().as_deref(), Some("http://c"));
        let wrong = env(&[("AWS_ENDPOINT_URL", "ec2.local:443")]).unwrap_err();
        assert!(
            wrong
                .to_string()
                .starts_with("AWS_ENDPOINT_URL is 'ec2.local:443'"),
            "{wrong}"
        );
    }

    #[test]
    fn regions_have_public_endpoints() {
        let public = |region| Endpoint::public("ec2", region).map(|e| e.to_string());
        assert_eq!(
            public("us-west-2").unwrap(),
            "https://ec2.us-west-2.amazonaws.com"
        );
        assert_eq!(
            public("cn-north-1").unwrap(),
            "https://ec2.cn-north-1.amazonaws.com.cn"
        );
        assert!(public("us west").is_err());
    }
}
