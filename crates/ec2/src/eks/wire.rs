//! Requests and answers as HTTP: which members are in the path, which in the query string, which in the body.
//! Source: the service model of EKS, protocol restJson1.

use serde_json::{Map, Value};

use super::requests::{AnyRequest, Kind, Operation, ROUTES, Route};
use super::unbuilt::NOT_BUILT;

/// A request as HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// `GET`, `POST`, `DELETE`.
    pub method: &'static str,
    /// Path and query string, percent-encoded.
    pub path: String,
    /// JSON; empty for requests without a body.
    pub body: String,
}

/// A request that is none of EKS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No action of EKS has this method and path.
    #[error("EKS has no action {method} {path}")]
    UnknownPath {
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
    /// An action of EKS that is not built.
    #[error("The action {0} is not built into the lab's EKS.")]
    NotBuilt(&'static str),
    /// A member that is not built.
    #[error("The member {member} of {action} is not built into the lab's EKS.")]
    UnknownMember {
        /// The action.
        action: &'static str,
        /// The member, from the outermost one: `resourcesVpcConfig.controlPlaneEgressMode`.
        member: String,
    },
    /// A member that EKS requires is not there.
    #[error("The member {member} of {action} is required.")]
    Missing {
        /// The action.
        action: &'static str,
        /// The member.
        member: &'static str,
    },
    /// A member of the wrong type.
    #[error("{action}: {problem}")]
    Malformed {
        /// The action.
        action: &'static str,
        /// What is wrong, with the member's name where it is known.
        problem: String,
    },
}

impl RequestError {
    /// The code that EKS answers with.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownPath { .. } => "UnknownOperationException",
            Self::NotBuilt(_) | Self::UnknownMember { .. } => "UnsupportedOperation",
            Self::Missing { .. } | Self::Malformed { .. } => "InvalidParameterException",
        }
    }
}

/// Every byte but letters, digits and `-._~` as `%XX`.
fn escape(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok()
}

fn label(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

/// The text of a member in path or query.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A request as HTTP.
///
/// # Errors
/// A member that JSON cannot hold; ours all can.
pub fn encode<O: Operation>(request: &O) -> Result<Encoded, serde_json::Error> {
    let route = O::ROUTE;
    let mut members = match serde_json::to_value(request)? {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    let mut path = String::new();
    for segment in route.path.split('/').skip(1) {
        path.push('/');
        match label(segment) {
            Some(name) => escape(
                &mut path,
                &members
                    .remove(name)
                    .as_ref()
                    .map_or_else(String::new, plain),
            ),
            None => path.push_str(segment),
        }
    }
    let mut separator = '?';
    for (name, _) in route.query {
        let values = match members.remove(*name) {
            None => continue,
            Some(Value::Array(values)) => values,
            Some(value) => vec![value],
        };
        for value in values {
            path.push(separator);
            separator = '&';
            path.extend([name, "="]);
            escape(&mut path, &plain(&value));
        }
    }
    let body = match route.method {
        "POST" => Value::Object(members).to_string(),
        _ => String::new(),
    };
    Ok(Encoded {
        method: route.method,
        path,
        body,
    })
}

/// The members of the path, if the path is the route's.
fn match_path(route: &str, path: &str) -> Option<Map<String, Value>> {
    let (mut expected, mut given) = (route.split('/'), path.split('/'));
    let mut members = Map::new();
    loop {
        match (expected.next(), given.next()) {
            (None, None) => return Some(members),
            (Some(expected), Some(given)) => match label(expected) {
                Some(name) if !given.is_empty() => {
                    members.insert(name.to_owned(), unescape(given)?.into());
                }
                Some(_) => return None,
                None if expected == given => {}
                None => return None,
            },
            _ => return None,
        }
    }
}

fn query_member(
    route: &'static Route,
    members: &mut Map<String, Value>,
    name: &str,
    text: &str,
) -> Result<(), RequestError> {
    let unknown = || RequestError::UnknownMember {
        action: route.action,
        member: name.to_owned(),
    };
    let (name, kind) = *route
        .query
        .iter()
        .find(|(n, _)| *n == name)
        .ok_or_else(unknown)?;
    let malformed = |expected: &str| RequestError::Malformed {
        action: route.action,
        problem: format!("{name} is '{text}', not {expected}"),
    };
    let value = match kind {
        Kind::Text => text.into(),
        Kind::Number => text
            .parse::<i32>()
            .map_err(|_| malformed("a number"))?
            .into(),
        Kind::Flag => text
            .parse::<bool>()
            .map_err(|_| malformed("true or false"))?
            .into(),
        Kind::List => {
            let list = members
                .entry(name)
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(values) = list {
                values.push(text.into());
            }
            return Ok(());
        }
    };
    members.insert(name.to_owned(), value);
    Ok(())
}

impl AnyRequest {
    /// The names that the request has of a cluster and of its parts, which errors repeat.
    pub fn names(&self) -> Option<Vec<(&'static str, String)>> {
        let members = self.members().ok()?;
        let cluster = members.get("clusterName").or_else(|| {
            match self.route().path.starts_with("/clusters") {
                true => members.get("name"),
                false => None,
            }
        });
        let parts = ["nodegroupName", "fargateProfileName", "addonName"]
            .map(|name| (name, members.get(name)));
        let all = std::iter::once(("clusterName", cluster)).chain(parts);
        Some(
            all.filter_map(|(name, value)| Some((name, value?.as_str()?.to_owned())))
                .collect(),
        )
    }

    /// Reads a request. `path` is as it came, percent-encoded; `query` is without its question mark.
    ///
    /// # Errors
    /// No action, one that is not built, or members that the action does not have.
    pub fn decode(
        method: &str,
        path: &str,
        query: &str,
        body: &[u8],
    ) -> Result<Self, RequestError> {
        let found = ROUTES.iter().filter(|r| r.method == method);
        let found = found
            .copied()
            .find_map(|r| Some((r, match_path(r.path, path)?)));
        let Some((route, labels)) = found else {
            let mut known = NOT_BUILT.iter().filter(|(_, m, _)| *m == method);
            return Err(match known.find(|(.., p)| match_path(p, path).is_some()) {
                Some((action, ..)) => RequestError::NotBuilt(action),
                None => RequestError::UnknownPath {
                    method: method.to_owned(),
                    path: path.to_owned(),
                },
            });
        };
        let action = route.action;
        let malformed = |problem: String| RequestError::Malformed { action, problem };
        let mut members = match body {
            [] => Map::new(),
            body => serde_json::from_slice(body)
                .map_err(|e| malformed(format!("the body is not a JSON object: {e}")))?,
        };
        members.retain(|_, value| !value.is_null());
        members.extend(labels);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            // A signature may be in the query string; it is no member.
            if !name.starts_with("X-Amz-") {
                query_member(route, &mut members, &name, &value)?;
            }
        }
        if let Some(member) = route.required.iter().find(|m| !members.contains_key(**m)) {
            return Err(RequestError::Missing { action, member });
        }
        let given = Value::Object(members);
        let (request, known) =
            Self::of(route, given.clone()).map_err(|e| malformed(e.to_string()))?;
        match left_out(&given, Some(&known)) {
            Some(member) => Err(RequestError::UnknownMember { action, member }),
            None => Ok(request),
        }
    }
}

/// The first member of `given` that `known` has lost: one that the type does not have.
fn left_out(given: &Value, known: Option<&Value>) -> Option<String> {
    match (given, known) {
        (Value::Null, _) => None,
        (Value::Object(given), known) => given.iter().find_map(|(name, value)| {
            let known = known.and_then(|k| k.get(name));
            if known.is_none() && says_nothing(value) {
                return None;
            }
            if known.is_none() {
                return Some(name.clone());
            }
            let inner = left_out(value, known)?;
            Some(if inner.is_empty() {
                name.clone()
            } else {
                format!("{name}.{inner}")
            })
        }),
        (Value::Array(given), Some(Value::Array(known))) => {
            let mut pairs = given.iter().zip(known);
            pairs.find_map(|(given, known)| left_out(given, Some(known)))
        }
        _ => None,
    }
}

/// What is the same as leaving it out.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.values().all(says_nothing),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    fn round(request: impl Operation + Into<AnyRequest>) -> AnyRequest {
        let encoded = encode(&request).unwrap();
        let (path, query) = encoded.path.split_once('?').unwrap_or((&encoded.path, ""));
        let decoded =
            AnyRequest::decode(encoded.method, path, query, encoded.body.as_bytes()).unwrap();
        assert_eq!(decoded, request.into());
        decoded
    }

    #[test]
    fn members_are_in_path_query_and_body() {
        let request = AssociateAccessPolicyRequest {
            cluster_name: "dev".into(),
            principal_arn: "arn:aws:iam::111122223333:role/a b/c".into(),
            policy_arn: "arn:aws:eks::aws:cluster-access-policy/AmazonEKSViewPolicy".into(),
            access_scope: Some(AccessScope {
                type_: Some("namespace".into()),
                namespaces: vec!["a".into()],
            }),
        };
        let encoded = encode(&request).unwrap();
        assert_eq!(
            encoded.path,
            "/clusters/dev/access-entries/arn%3Aaws%3Aiam%3A%3A111122223333%3Arole%2Fa%20b%2Fc/access-policies"
        );
        assert!(
            !encoded.body.contains("clusterName") && encoded.body.contains(r#""type":"namespace""#)
        );
        round(request);
        let list = ListClustersRequest {
            max_results: Some(7),
            next_token: None,
            include: vec!["all".into(), "x".into()],
        };
        assert_eq!(
            encode(&list).unwrap().path,
            "/clusters?maxResults=7&include=all&include=x"
        );
        round(list);
        round(DeleteAddonRequest {
            cluster_name: "a".into(),
            addon_name: "b".into(),
            preserve: Some(true),
        });
        // An empty configuration is a value, no configuration is none.
        round(UpdateAddonRequest {
            cluster_name: "a".into(),
            addon_name: "b".into(),
            configuration_values: Some(String::new()),
            ..Default::default()
        });
    }

    #[test]
    fn every_route_matches_its_own_path_only() {
        for route in ROUTES {
            let path = route.path.replace(['{', '}'], "");
            let matching: Vec<_> = ROUTES
                .iter()
                .filter(|r| r.method == route.method && match_path(r.path, &path).is_some())
                .collect();
            assert_eq!(matching.len(), 1, "{path}: {matching:?}");
            let unbuilt = NOT_BUILT
                .iter()
                .find(|(_, m, p)| *m == route.method && match_path(p, &path).is_some());
            assert_eq!(unbuilt, None);
        }
    }

    #[test]
    fn what_is_not_built_is_named() {
        let decode = |method, path, body: &str| {
            AnyRequest::decode(method, path, "", body.as_bytes()).unwrap_err()
        };
        assert_eq!(
            decode("POST", "/clusters/a/updates", "{}"),
            RequestError::NotBuilt("UpdateClusterVersion")
        );
        assert_eq!(
            decode("GET", "/buckets", "").code(),
            "UnknownOperationException"
        );
        let body = r#"{"name":"a","roleArn":"r","resourcesVpcConfig":{"subnetIds":["s"],"controlPlaneEgressMode":"AWS_MANAGED"}}"#;
        let error = decode("POST", "/clusters", body);
        assert_eq!(
            error,
            RequestError::UnknownMember {
                action: "CreateCluster",
                member: "resourcesVpcConfig.controlPlaneEgressMode".into()
            }
        );
        let error = decode("POST", "/clusters", r#"{"name":"a","roleArn":"r"}"#);
        assert_eq!(
            error,
            RequestError::Missing {
                action: "CreateCluster",
                member: "resourcesVpcConfig"
            }
        );
        assert!(
            decode(
                "POST",
                "/clusters",
                r#"{"name":1,"roleArn":"r","resourcesVpcConfig":{}}"#
            )
            .to_string()
            .contains("expected a string")
        );
        assert!(
            decode("POST", "/clusters", "[]")
                .to_string()
                .contains("not a JSON object")
        );
        let error = AnyRequest::decode("GET", "/clusters", "maxResults=many", b"").unwrap_err();
        assert_eq!(
            error.to_string(),
            "ListClusters: maxResults is 'many', not a number"
        );
        assert!(AnyRequest::decode("GET", "/clusters/%zz", "", b"").is_err());
    }

    #[test]
    fn nothing_said_is_nothing_unknown() {
        let body = r#"{"name":"a","roleArn":"r","resourcesVpcConfig":{"subnetIds":[]},"encryptionConfig":[],"outpostConfig":null}"#;
        let request = AnyRequest::decode("POST", "/clusters", "", body.as_bytes()).unwrap();
        assert_eq!(request.route().action, "CreateCluster");
    }

    #[test]
    fn times_are_seconds_with_a_fraction() {
        let cluster = Cluster {
            created_at: Some(jiff::Timestamp::from_millisecond(1_790_000_000_250).unwrap()),
            ..Default::default()
        };
        let text = serde_json::to_string(&cluster).unwrap();
        assert!(text.contains(r#""createdAt":1790000000.25"#), "{text}");
        assert_eq!(serde_json::from_str::<Cluster>(&text).unwrap(), cluster);
        assert_eq!(
            serde_json::from_str::<Cluster>(r#"{"newer":[1],"name":"a"}"#)
                .unwrap()
                .name,
            "a"
        );
    }
}
