//! Names of images, and what a short one stands for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::ImageError;

/// A whole name: `docker.io/library/nginx:latest`. Short forms are completed when parsed, as every
/// runtime does it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName {
    registry: String,
    repository: String,
    tag: String,
}

impl ImageName {
    /// The image `repository` with `tag` in a registry; none is Docker's.
    ///
    /// # Errors
    /// When the parts are no name.
    pub fn new(registry: Option<&str>, repository: &str, tag: &str) -> Result<Self, ImageError> {
        let registry = registry.unwrap_or(DOCKER);
        format!("{registry}/{repository}:{tag}").parse()
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

const DOCKER: &str = "docker.io";

impl FromStr for ImageName {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ImageError::Name(text.to_owned());
        let first = text.split_once('/').map(|(first, _)| first);
        let is_host = |f: &&str| f.contains(['.', ':']) || *f == "localhost";
        let (registry, rest) = match first.filter(is_host) {
            Some(host) => (host, &text[host.len() + 1..]),
            None => (DOCKER, text),
        };
        let (repository, tag) = rest.split_once(':').unwrap_or((rest, "latest"));
        let repository = match (registry, repository.contains('/')) {
            (DOCKER, false) => format!("library/{repository}"),
            _ => repository.to_owned(),
        };
        let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        let part =
            |p: &str| p.starts_with(|c: char| c.is_ascii_alphanumeric()) && p.chars().all(lower);
        let tag_fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let host_fits = |c: char| c.is_ascii_alphanumeric() || ".-:".contains(c);
        let good = registry.starts_with(|c: char| c.is_ascii_alphanumeric())
            && registry.chars().all(host_fits)
            && repository.split('/').all(part)
            && (1..=128).contains(&tag.len())
            && !tag.starts_with(['.', '-'])
            && tag.chars().all(tag_fits);
        if !good {
            return Err(wrong());
        }
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag: tag.to_owned(),
        })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!(
            "{}/{}:{}",
            self.registry, self.repository, self.tag
        ))
    }
}

impl TryFrom<String> for ImageName {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed() {
        for (text, whole) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("branchline/tools", "docker.io/branchline/tools:latest"),
            (
                "docker.io/library/nginx:latest",
                "docker.io/library/nginx:latest",
            ),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
        ] {
            assert_eq!(text.parse::<ImageName>().unwrap().to_string(), whole);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "Nginx",
            "a b",
            "nginx:",
            "../etc",
            "a//b",
            "nginx:-x",
            "x@sha256:00",
            "/a",
        ] {
            assert!(text.parse::<ImageName>().is_err(), "{text}");
        }
    }
}
