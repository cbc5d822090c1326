//! Who signed a request: Signature Version 4 in the header or in the query string.
//!
//! By default the form of the signature is checked and its access key is believed, so that any
//! client works with any secret. With strict signatures the request is signed again with the secret
//! that belongs to the access key, and the signatures are compared.

use std::collections::BTreeMap;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use http::HeaderMap;
use jiff::Timestamp;

use super::sim::Sim;
use crate::actions::Caller;
use crate::error::{ApiError, ApiResult};

/// An access key that the embedded EC2 knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Principal {
    pub(crate) caller: Caller,
    pub(crate) secret: String,
    pub(crate) session_token: Option<String>,
    /// When temporary credentials end.
    pub(crate) expires: Option<Timestamp>,
}

/// Access keys by their id.
pub(crate) type Principals = BTreeMap<String, Principal>;

/// A request, as far as its signature concerns it.
pub(crate) struct Signed<'r> {
    pub(crate) method: &'r str,
    /// Path and query as they came.
    pub(crate) uri: &'r str,
    pub(crate) headers: &'r HeaderMap,
    pub(crate) body: &'r [u8],
}

/// The parts of a signature.
#[derive(Debug, PartialEq, Eq)]
struct Signature<'r> {
    access_key: &'r str,
    region: &'r str,
    service: &'r str,
    headers: Vec<&'r str>,
    signature: &'r str,
    in_query: bool,
}

fn failure(why: &str) -> ApiError {
    ApiError::new(
        "AuthFailure",
        format_args!("AWS was not able to validate the provided access credentials: {why}"),
    )
}

fn scope(credential: &str) -> ApiResult<(&str, &str, &str)> {
    let parts: Vec<&str> = credential.split('/').collect();
    match parts[..] {
        [key, _date, region, service, "aws4_request"] if !key.is_empty() => {
            Ok((key, region, service))
        }
        _ => Err(failure(
            "the credential scope is not KEY/DATE/REGION/SERVICE/aws4_request",
        )),
    }
}

fn from_header(value: &str) -> ApiResult<Signature<'_>> {
    let fields = value
        .strip_prefix("AWS4-HMAC-SHA256")
        .ok_or_else(|| failure("the algorithm is not AWS4-HMAC-SHA256"))?;
    let mut by_name = BTreeMap::new();
    for field in fields.split(',') {
        if let Some((name, value)) = field.trim().split_once('=') {
            by_name.insert(name, value);
        }
    }
    let get = |name: &str| {
        by_name
            .get(name)
            .copied()
            .ok_or_else(|| failure("a part of the signature is missing"))
    };
    let (access_key, region, service) = scope(get("Credential")?)?;
    Ok(Signature {
        access_key,
        region,
        service,
        headers: get("SignedHeaders")?.split(';').collect(),
        signature: get("Signature")?,
        in_query: false,
    })
}

impl Sim {
    /// The caller of a request, by its signature.
    ///
    /// # Errors
    /// `AuthFailure`, `SignatureDoesNotMatch`.
    pub(crate) fn caller(&self, request: &Signed<'_>) -> ApiResult<Caller> {
        let (account, strict, principals) = {
            let core = self.core();
            let account = core.state.config().account.clone();
            (
                account,
                core.knobs.strict_signatures,
                core.principals.clone(),
            )
        };
        caller(request, &principals, &account, strict)
    }
}

/// The caller of a request, by its signature.
///
/// # Errors
/// `AuthFailure` for a request that is not signed or, when strict, not by the key's secret.
pub(super) fn caller(
    request: &Signed<'_>,
    principals: &Principals,
    account: &str,
    strict: bool,
) -> ApiResult<Caller> {
    let header = request.headers.get("authorization").map(|v| v.to_str());
    let query: BTreeMap<String, String>;
    let signature = match header {
        Some(Ok(value)) => from_header(value)?,
        Some(Err(_)) => return Err(failure("the Authorization header is not text")),
        None => {
            let uri = request.uri.split_once('?').map_or("", |(_, query)| query);
            let pairs = form_urlencoded::parse(uri.as_bytes()).into_owned();
            query = pairs
                .filter(|(name, _)| name.starts_with("X-Amz-"))
                .collect();
            let get = |name: &str| query.get(name).map(String::as_str);
            let Some(credential) = get("X-Amz-Credential") else {
                return Err(failure("the request is not signed"));
            };
            let (access_key, region, service) = scope(credential)?;
            let signature = get("X-Amz-Signature")
                .ok_or_else(|| failure("a part of the signature is missing"))?;
            let headers = get("X-Amz-SignedHeaders")
                .unwrap_or("host")
                .split(';')
                .collect();
            Signature {
                access_key,
                region,
                service,
                headers,
                signature,
                in_query: true,
            }
        }
    };
    let known = principals.get(signature.access_key);
    if strict {
        let principal = known.ok_or_else(|| failure("the access key is not known"))?;
        verify(request, &signature, principal)?;
    }
    Ok(match known {
        Some(principal) => principal.caller.clone(),
        // A key that nobody made is a user of the account: any key works on a lab.
        None => Caller {
            account: account.to_owned(),
            arn: format!("arn:aws:iam::{account}:user/{}", signature.access_key),
            access_key: signature.access_key.to_owned(),
        },
    })
}

fn time(request: &Signed<'_>) -> ApiResult<SystemTime> {
    let text = request
        .headers
        .get("x-amz-date")
        .and_then(|v| v.to_str().ok());
    let text = text.ok_or_else(|| failure("the header X-Amz-Date is missing"))?;
    let date = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text)
        .and_then(|t| t.to_zoned(jiff::tz::TimeZone::UTC))
        .map_err(|_| failure("the header X-Amz-Date is not a time"))?;
    Ok(date.timestamp().into())
}

fn verify(request: &Signed<'_>, given: &Signature<'_>, principal: &Principal) -> ApiResult<()> {
    if given.in_query {
        return Err(ApiError::unsupported(
            "Strict verification of signatures in the query string",
        ));
    }
    let credentials = Credentials::new(
        &principal.caller.access_key,
        &principal.secret,
        principal.session_token.clone(),
        None,
        "vpcsim",
    );
    let identity = credentials.into();
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::Headers;
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(given.region)
        .name(given.service)
        .time(time(request)?)
        .settings(settings)
        .build()
        .map_err(|_| failure("the signature has no usable scope"))?;
    // The signer adds its own date and token headers; every other signed header is given to it.
    let own = ["x-amz-date", "x-amz-security-token", "authorization"];
    let mut headers = Vec::new();
    for name in given.headers.iter().filter(|name| !own.contains(name)) {
        let value = request.headers.get(*name).and_then(|v| v.to_str().ok());
        headers.push((
            *name,
            value.ok_or_else(|| failure("a signed header is missing"))?,
        ));
    }
    let host = request
        .headers
        .get("host")
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    let uri = format!("http://{host}{}", request.uri);
    let body = SignableBody::Bytes(request.body);
    let signable = SignableRequest::new(request.method, uri, headers.into_iter(), body)
        .map_err(|_| failure("the request cannot be signed"))?;
    let output =
        sign(signable, &params.into()).map_err(|_| failure("the request cannot be signed"))?;
    if output.signature() == given.signature {
        return Ok(());
    }
    Err(ApiError::new(
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. Check your AWS \
         Secret Access Key and signing method.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(authorization: Option<&str>, uri: &str) -> ApiResult<Caller> {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert("authorization", value.parse().unwrap());
        }
        let request = Signed {
            method: "POST",
            uri,
            headers: &headers,
            body: b"",
        };
        caller(&request, &Principals::new(), "111122223333", false)
    }

    #[test]
    fn the_scope_names_the_caller() {
        let header = "AWS4-HMAC-SHA256 Credential=AKIDX/20260101/us-west-2/ec2/aws4_request, \
                      SignedHeaders=host;x-amz-date, Signature=00";
        let caller = ask(Some(header), "/").unwrap();
        assert_eq!(caller.arn, "arn:aws:iam::111122223333:user/AKIDX");
        let uri = "/?Action=X&X-Amz-Credential=AKIDY%2F20260101%2Fus-west-2%2Fec2%2Faws4_request\
                   &X-Amz-Signature=00";
        assert_eq!(ask(None, uri).unwrap().access_key, "AKIDY");
    }

    #[test]
    fn what_is_not_signed_is_refused() {
        for (header, uri) in [
            (None, "/"),
            (Some("Basic abc"), "/"),
            (
                Some("AWS4-HMAC-SHA256 Credential=AKID, SignedHeaders=host, Signature=0"),
                "/",
            ),
            (
                Some("AWS4-HMAC-SHA256 Credential=A/1/r/ec2/aws4_request"),
                "/",
            ),
            (None, "/?X-Amz-Credential=A%2F1%2Fr%2Fec2%2Faws4_request"),
        ] {
            let error = ask(header, uri).unwrap_err();
            assert_eq!(
                (error.code.as_ref(), error.status()),
                ("AuthFailure", 401),
                "{header:?}"
            );
        }
    }
}
