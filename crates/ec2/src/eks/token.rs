//! Tokens of clusters, as `aws eks get-token` prints them: `k8s-aws-v1.` and, in base64url, the URL of a signed
//! sts:GetCallerIdentity. Whoever holds the URL can ask STS who signed it; nobody can make one without the secret.
//! The cluster's name is a signed header, `x-k8s-aws-id`: it is not in the token, only in the signature, so a token for
//! one cluster is worth nothing to another.
//!
//! Source: aws-iam-authenticator, README and pkg/token; AWS CLI, customizations/eks/get_token.py.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4::SigningParams;
use aws_smithy_types::base64;
use jiff::{SignedDuration, Timestamp};

/// What every token starts with.
pub const PREFIX: &str = "k8s-aws-v1.";
/// The signed header that carries the cluster's name.
pub const CLUSTER_HEADER: &str = "x-k8s-aws-id";
/// How long a token is good, whatever its `X-Amz-Expires` says: STS takes the signature so long.
pub const LIFETIME: SignedDuration = SignedDuration::from_mins(15);
/// How far the signer's clock may be ahead.
pub const SKEW: SignedDuration = SignedDuration::from_mins(5);
/// Longer tokens are not read.
const LONGEST: usize = 16 << 10;
/// What the AWS CLI writes as `X-Amz-Expires`.
const EXPIRES: Duration = Duration::from_secs(60);

/// Why a token is refused. Each says the fact and what to look at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the members are named for what they are")]
pub enum TokenError {
    #[error(
        "the token does not start with {PREFIX}: is it a service account's token, or of another provider?"
    )]
    Prefix,
    #[error("the token is longer than {LONGEST} bytes")]
    TooLong,
    #[error("the token is not base64url after {PREFIX}: was it cut off?")]
    Encoding,
    #[error("the token is not a URL after {PREFIX}: {why}")]
    Url { why: &'static str },
    #[error("the token's URL has no {name}: was it made by aws eks get-token?")]
    Missing { name: &'static str },
    #[error("the token's URL has {name} twice")]
    Twice { name: String },
    #[error("the token's {name} is '{value}', not {expected}")]
    Malformed {
        name: &'static str,
        value: String,
        expected: &'static str,
    },
    #[error("the token asks for {action} of {service}, not for GetCallerIdentity of sts")]
    OtherAction { action: String, service: String },
    #[error("the token does not sign the header {CLUSTER_HEADER}: it is bound to no cluster")]
    ClusterNotSigned,
    #[error(
        "the token was signed at {signed} and expired at {expired}; it is {now} now: get a new one, and compare the clocks"
    )]
    Expired {
        signed: Timestamp,
        expired: Timestamp,
        now: Timestamp,
    },
    #[error(
        "the token was signed at {signed}, which is in the future; it is {now} now: compare the clocks"
    )]
    NotYetValid { signed: Timestamp, now: Timestamp },
    #[error(
        "the access key {access_key} is not known: of which account are the caller's credentials?"
    )]
    UnknownAccessKey { access_key: String },
    #[error(
        "the credentials {access_key} of {arn} expired at {expired}: fetch new ones from instance metadata"
    )]
    CredentialsExpired {
        access_key: String,
        arn: String,
        expired: Timestamp,
    },
    #[error(
        "the session token that comes with {access_key} is not the one that was given out with it"
    )]
    SessionToken { access_key: String },
    #[error(
        "the signature with {access_key} is not right for cluster {cluster}: is the secret the key's own?"
    )]
    Signature { access_key: String, cluster: String },
    #[error(
        "the token was made for cluster {made_for}, not for {cluster}: does the kubeconfig's context fit?"
    )]
    OtherCluster { made_for: String, cluster: String },
    #[error("there is no cluster {cluster}")]
    UnknownCluster { cluster: String },
    #[error(
        "the access entry wants the private DNS name of instance '{session}', which does not exist: was it terminated?"
    )]
    NoInstance { session: String },
    #[error("the caller's ARN {arn} is of no known form")]
    Principal { arn: String },
}

/// A token, read but not yet believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The access key that it says it was signed with.
    pub access_key: String,
    /// When it says it was signed.
    pub signed: Timestamp,
    /// The region of the scope.
    pub region: String,
    /// The session token that comes with temporary credentials.
    pub session_token: Option<String>,
    /// The URL without the signature's parameters: what is signed again.
    base: String,
    expires: Duration,
    signature: String,
}

/// Parameters that the signer adds itself.
const SIGNERS: [&str; 7] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
];

impl std::str::FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.len() > LONGEST {
            return Err(TokenError::TooLong);
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let url = from_base64url(encoded).ok_or(TokenError::Encoding)?;
        let url = String::from_utf8(url).map_err(|_| TokenError::Url {
            why: "it is not text",
        })?;
        let (base, query) = url.split_once('?').ok_or(TokenError::Url {
            why: "it has no query string",
        })?;
        let uri: http::Uri = base.parse().map_err(|_| TokenError::Url {
            why: "it cannot be parsed",
        })?;
        if !matches!(uri.scheme_str(), Some("http" | "https"))
            || uri.host().is_none_or(str::is_empty)
        {
            return Err(TokenError::Url {
                why: "it is not of http or https",
            });
        }
        if !matches!(uri.path(), "" | "/") {
            return Err(TokenError::Url {
                why: "its path is not /",
            });
        }
        Self::from_query(base, query)
    }
}

fn take(query: &[(String, String)], name: &'static str) -> Result<String, TokenError> {
    let value = query
        .iter()
        .find(|(n, _)| n == name)
        .map(|(_, value)| value.clone());
    value.ok_or(TokenError::Missing { name })
}

impl Token {
    fn from_query(base: &str, query: &str) -> Result<Self, TokenError> {
        let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        for (at, (name, _)) in pairs.iter().enumerate() {
            if pairs[..at]
                .iter()
                .any(|(earlier, _)| earlier.eq_ignore_ascii_case(name))
            {
                return Err(TokenError::Twice { name: name.clone() });
            }
        }
        let malformed = |name, value: &str, expected| TokenError::Malformed {
            name,
            value: value.to_owned(),
            expected,
        };
        let algorithm = take(&pairs, "X-Amz-Algorithm")?;
        if algorithm != "AWS4-HMAC-SHA256" {
            return Err(malformed("X-Amz-Algorithm", &algorithm, "AWS4-HMAC-SHA256"));
        }
        let credential = take(&pairs, "X-Amz-Credential")?;
        let scope: Vec<&str> = credential.split('/').collect();
        let [access_key, date, region, service, "aws4_request"] = scope[..] else {
            return Err(malformed(
                "X-Amz-Credential",
                &credential,
                "KEY/DATE/REGION/SERVICE/aws4_request",
            ));
        };
        let action = take(&pairs, "Action")?;
        if (action.as_str(), service) != ("GetCallerIdentity", "sts") {
            return Err(TokenError::OtherAction {
                action,
                service: service.to_owned(),
            });
        }
        let written = take(&pairs, "X-Amz-Date")?;
        let signed = time(&written).filter(|_| written.starts_with(date));
        let signed = signed.ok_or_else(|| {
            malformed(
                "X-Amz-Date",
                &written,
                "a time such as 20260102T030405Z on the scope's day",
            )
        })?;
        let expires = take(&pairs, "X-Amz-Expires")?;
        let seconds = expires
            .parse::<u64>()
            .ok()
            .filter(|s| (1..=900).contains(s));
        let seconds =
            seconds.ok_or_else(|| malformed("X-Amz-Expires", &expires, "1 to 900 seconds"))?;
        let headers = take(&pairs, "X-Amz-SignedHeaders")?;
        if !headers.split(';').any(|h| h == CLUSTER_HEADER) {
            return Err(TokenError::ClusterNotSigned);
        }
        if headers.split(';').count() != 2 || !headers.split(';').any(|h| h == "host") {
            return Err(malformed(
                "X-Amz-SignedHeaders",
                &headers,
                "host;x-k8s-aws-id",
            ));
        }
        let mut rest = form_urlencoded::Serializer::new(String::new());
        rest.extend_pairs(pairs.iter().filter(|(n, _)| !SIGNERS.contains(&n.as_str())));
        Ok(Self {
            access_key: access_key.to_owned(),
            signed,
            region: region.to_owned(),
            session_token: take(&pairs, "X-Amz-Security-Token").ok(),
            base: format!("{}/?{}", base.trim_end_matches('/'), rest.finish()),
            expires: Duration::from_secs(seconds),
            signature: take(&pairs, "X-Amz-Signature")?,
        })
    }

    /// When the token ends.
    pub fn expires(&self) -> Timestamp {
        self.signed.checked_add(LIFETIME).unwrap_or(Timestamp::MAX)
    }

    /// Whether the token is of this time.
    ///
    /// # Errors
    /// [`TokenError::Expired`], [`TokenError::NotYetValid`].
    pub fn check_time(&self, now: Timestamp) -> Result<(), TokenError> {
        let (signed, expired) = (self.signed, self.expires());
        if now > expired {
            return Err(TokenError::Expired {
                signed,
                expired,
                now,
            });
        }
        if signed.duration_since(now) > SKEW {
            return Err(TokenError::NotYetValid { signed, now });
        }
        Ok(())
    }

    /// Whether the token was signed with `credentials` for `cluster`: it is signed again, and compared.
    ///
    /// # Errors
    /// [`TokenError::SessionToken`], [`TokenError::Signature`].
    pub fn check_signature(
        &self,
        credentials: &Credentials,
        cluster: &str,
    ) -> Result<(), TokenError> {
        let access_key = || self.access_key.clone();
        if credentials.session_token() != self.session_token.as_deref() {
            return Err(TokenError::SessionToken {
                access_key: access_key(),
            });
        }
        let (expected, _) = presign(
            &self.base,
            credentials,
            &self.region,
            cluster,
            self.signed,
            self.expires,
        )
        .map_err(|_| TokenError::Signature {
            access_key: access_key(),
            cluster: cluster.to_owned(),
        })?;
        // No secret can be found by the time that this comparison takes: what it compares with is a digest.
        match credentials.access_key_id() == self.access_key && expected == self.signature {
            true => Ok(()),
            false => Err(TokenError::Signature {
                access_key: access_key(),
                cluster: cluster.to_owned(),
            }),
        }
    }
}

type SignError = Box<dyn std::error::Error + Send + Sync>;

/// The signature, and the parameters that go into the URL.
fn presign(
    url: &str,
    credentials: &Credentials,
    region: &str,
    cluster: &str,
    at: Timestamp,
    expires: Duration,
) -> Result<(String, Vec<(String, String)>), SignError> {
    let identity = credentials.clone().into();
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(expires);
    let params = SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("sts")
        .time(SystemTime::from(at))
        .settings(settings)
        .build()?
        .into();
    let headers = [(CLUSTER_HEADER, cluster)].into_iter();
    let signable = SignableRequest::new("GET", url, headers, SignableBody::Bytes(b""))?;
    let output = sign(signable, &params)?;
    let signature = output.signature().to_owned();
    let (instructions, _) = output.into_parts();
    let query = instructions.params().iter();
    Ok((
        signature,
        query
            .map(|(n, v)| ((*n).to_owned(), v.to_string()))
            .collect(),
    ))
}

/// A token for `cluster`, as `aws eks get-token` makes it. `endpoint` is the URL of STS, which is a part of the
/// signature: `https://sts.us-west-2.amazonaws.com`.
///
/// # Errors
/// Credentials or a cluster's name that fit no header.
pub fn make(
    credentials: &Credentials,
    region: &str,
    endpoint: &str,
    cluster: &str,
    now: Timestamp,
) -> Result<String, SignError> {
    let base = format!(
        "{}/?Action=GetCallerIdentity&Version=2011-06-15",
        endpoint.trim_end_matches('/')
    );
    let (_, params) = presign(&base, credentials, region, cluster, now, EXPIRES)?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(params);
    let url = format!("{base}&{}", query.finish());
    let text = base64::encode(url).replace('+', "-").replace('/', "_");
    Ok(format!("{PREFIX}{}", text.trim_end_matches('=')))
}

fn from_base64url(text: &str) -> Option<Vec<u8>> {
    if text.contains(['+', '/']) {
        return None;
    }
    let text = text.trim_end_matches('=');
    let mut text = text.replace('-', "+").replace('_', "/");
    text.extend(std::iter::repeat_n('=', (4 - text.len() % 4) % 4));
    base64::decode(text).ok()
}

fn time(text: &str) -> Option<Timestamp> {
    let date = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STS: &str = "https://sts.us-west-2.amazonaws.com";

    fn now() -> Timestamp {
        "2026-11-21T10:00:00Z".parse().unwrap()
    }

    fn credentials(session: Option<&str>) -> Credentials {
        Credentials::new(
            "AKIDEXAMPLE",
            "secret",
            session.map(str::to_owned),
            None,
            "test",
        )
    }

    fn token() -> String {
        make(&credentials(None), "us-west-2", STS, "dev", now()).unwrap()
    }

    fn read(text: &str) -> Result<Token, TokenError> {
        text.parse()
    }

    /// A token whose URL was changed after it was signed.
    fn changed(from: &str, to: &str) -> Result<Token, TokenError> {
        let url = String::from_utf8(from_base64url(token().strip_prefix(PREFIX).unwrap()).unwrap())
            .unwrap();
        assert!(url.contains(from), "{url}");
        read(&format!(
            "{PREFIX}{}",
            base64::encode(url.replace(from, to))
                .replace('+', "-")
                .replace('/', "_")
        ))
    }

    #[test]
    fn a_token_is_good_for_its_cluster_and_its_key() {
        for session in [None, Some("a+session/token==")] {
            let text = make(&credentials(session), "us-west-2", STS, "dev", now()).unwrap();
            let token = read(&text).unwrap();
            assert_eq!(
                (token.access_key.as_str(), token.signed),
                ("AKIDEXAMPLE", now())
            );
            token.check_signature(&credentials(session), "dev").unwrap();
            let signature = |e: TokenError| matches!(e, TokenError::Signature { .. });
            assert!(signature(
                token
                    .check_signature(&credentials(session), "prod")
                    .unwrap_err()
            ));
            let other = Credentials::new(
                "AKIDEXAMPLE",
                "other",
                session.map(str::to_owned),
                None,
                "test",
            );
            assert!(signature(token.check_signature(&other, "dev").unwrap_err()));
            let other = token
                .check_signature(&credentials(Some("x")), "dev")
                .unwrap_err();
            assert!(matches!(other, TokenError::SessionToken { .. }));
        }
    }

    /// Made by botocore 1.43 with these very inputs: both sides of the comparison must not be wrong in the same way.
    #[test]
    fn the_signature_is_the_aws_clis() {
        let token = read(include_str!("token.botocore.txt").trim()).unwrap();
        token
            .check_signature(&credentials(Some("a+session/token==")), "dev")
            .unwrap();
        assert_eq!(token.signed, now());
    }

    #[test]
    fn a_token_lives_a_quarter_of_an_hour() {
        let token = read(&token()).unwrap();
        let after = |minutes| token.check_time(now() + SignedDuration::from_mins(minutes));
        assert_eq!((after(0), after(15), after(-5)), (Ok(()), Ok(()), Ok(())));
        assert!(matches!(after(16), Err(TokenError::Expired { .. })));
        assert!(matches!(after(-6), Err(TokenError::NotYetValid { .. })));
    }

    #[test]
    fn what_is_no_token_is_refused_by_name() {
        assert_eq!(read("eyJhbGciOi").unwrap_err(), TokenError::Prefix);
        assert_eq!(read("k8s-aws-v1.a+b/").unwrap_err(), TokenError::Encoding);
        assert_eq!(
            read(&format!("{PREFIX}{}", "a".repeat(LONGEST))).unwrap_err(),
            TokenError::TooLong
        );
        let text = token();
        assert!(read(&text[..text.len() - 40]).is_err(), "cut off");
        let error = |from: &str, to: &str| changed(from, to).unwrap_err();
        assert!(matches!(
            error("https://", "file://"),
            TokenError::Url { .. }
        ));
        assert!(matches!(error(".com/?", ".com/x?"), TokenError::Url { .. }));
        assert!(matches!(
            error("GetCallerIdentity", "AssumeRole"),
            TokenError::OtherAction { .. }
        ));
        assert!(matches!(
            error("%2Fsts%2F", "%2Fs3%2F"),
            TokenError::OtherAction { .. }
        ));
        assert_eq!(error("%3Bx-k8s-aws-id", ""), TokenError::ClusterNotSigned);
        assert!(matches!(
            error("host%3B", "a%3Bhost%3B"),
            TokenError::Malformed { .. }
        ));
        assert!(matches!(
            error("Expires=60", "Expires=86400"),
            TokenError::Malformed {
                name: "X-Amz-Expires",
                ..
            }
        ));
        assert!(matches!(
            error("Date=20261121T", "Date=20261122T"),
            TokenError::Malformed {
                name: "X-Amz-Date",
                ..
            }
        ));
        assert_eq!(
            error("X-Amz-Signature", "X-Amz-Sign"),
            TokenError::Missing {
                name: "X-Amz-Signature"
            }
        );
        assert!(matches!(
            error("Version=", "Action="),
            TokenError::Twice { .. }
        ));
        let more = changed("Version=2011-06-15", "Version=2011-06-15&More=1").unwrap();
        assert!(
            more.check_signature(&credentials(None), "dev").is_err(),
            "what is added was not signed"
        );
    }
}
