//! sts:GetCallerIdentity: who a caller is. Source: STS API reference, version 2011-06-15.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response};
use quick_xml::escape::escape;
use serde::Deserialize;

use crate::client::{self, Call, Inner, Service};
use crate::error::{DecodeError, Error};
use crate::wire::{ErrorResponse, XmlError};

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
const ACTION: &str = "sts:GetCallerIdentity";
const BODY: &str = "Action=GetCallerIdentity&Version=2011-06-15";

/// Who a caller is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CallerIdentity {
    /// `arn:aws:iam::ACCOUNT:user/NAME`, or `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`.
    pub arn: String,
    /// `AIDA…` of a user, `AROA…:SESSION` of a role, the account of its root user.
    pub user_id: String,
    /// The account, 12 digits.
    pub account: String,
}

/// An ARN that names no caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{arn}' is no caller: expected arn:aws:iam::ACCOUNT:… or arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION"
)]
pub struct ParseIdentityError {
    /// The text.
    pub arn: String,
}

impl CallerIdentity {
    /// The session's name, where the caller is a role: on an EC2 instance the instance's id.
    pub fn session(&self) -> Option<&str> {
        let (_, rest) = self.arn.split_once(":assumed-role/")?;
        rest.rsplit_once('/').map(|(_, session)| session)
    }

    /// The user, or the role behind a session: what access entries name.
    ///
    /// # Errors
    /// The ARN is of no known form.
    pub fn principal_arn(&self) -> Result<String, ParseIdentityError> {
        let wrong = || ParseIdentityError {
            arn: self.arn.clone(),
        };
        let parts: Vec<&str> = self.arn.splitn(6, ':').collect();
        match parts[..] {
            ["arn", _, "iam", "", account, rest] if !account.is_empty() && !rest.is_empty() => {
                Ok(self.arn.clone())
            }
            ["arn", partition, "sts", "", account, rest] => {
                let role = rest.strip_prefix("assumed-role/").ok_or_else(wrong)?;
                let (role, _) = role.rsplit_once('/').ok_or_else(wrong)?;
                Ok(format!("arn:{partition}:iam::{account}:role/{role}"))
            }
            _ => Err(wrong()),
        }
    }

    /// The answer as a server writes it.
    pub fn to_xml(&self, request_id: &str) -> String {
        let Self {
            arn,
            user_id,
            account,
        } = self;
        format!(
            "<GetCallerIdentityResponse xmlns=\"{NAMESPACE}\"><GetCallerIdentityResult><Arn>{}</Arn>\
             <UserId>{}</UserId><Account>{}</Account></GetCallerIdentityResult><ResponseMetadata>\
             <RequestId>{}</RequestId></ResponseMetadata></GetCallerIdentityResponse>",
            escape(arn.as_str()),
            escape(user_id.as_str()),
            escape(account.as_str()),
            escape(request_id),
        )
    }
}

/// An error as a server of STS writes it.
pub fn error_to_xml(error: &ErrorResponse) -> String {
    format!(
        "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>Sender</Type><Code>{}</Code><Message>{}\
         </Message></Error><RequestId>{}</RequestId></ErrorResponse>",
        escape(error.code.as_str()),
        escape(error.message.as_str()),
        escape(error.request_id.as_str()),
    )
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    get_caller_identity_result: CallerIdentity,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    error: RefusalError,
    #[serde(default)]
    request_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RefusalError {
    code: String,
    #[serde(default)]
    message: String,
}

fn text(body: &[u8]) -> Result<&str, XmlError> {
    str::from_utf8(body).map_err(|source| XmlError::Encoding {
        position: source.valid_up_to(),
        source,
    })
}

fn decode(body: &[u8]) -> Result<CallerIdentity, DecodeError> {
    let answer: Answer = quick_xml::de::from_str(text(body)?)?;
    Ok(answer.get_caller_identity_result)
}

fn decode_error(answer: &Response<Bytes>) -> Result<ErrorResponse, DecodeError> {
    let refusal: Refusal = quick_xml::de::from_str(text(answer.body())?)?;
    Ok(ErrorResponse {
        code: refusal.error.code,
        message: refusal.error.message,
        request_id: refusal.request_id,
    })
}

static STS: Service = Service {
    name: "sts",
    variables: &["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"],
    decode_error,
};

/// A client for STS.
#[derive(Clone)]
pub struct Sts {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Sts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sts")
    }
}

impl client::Builder {
    /// A client for STS with these settings. Reads AWS_ENDPOINT_URL_STS, then AWS_ENDPOINT_URL where no endpoint is
    /// set.
    ///
    /// # Errors
    /// An endpoint that is no URL.
    pub fn build_sts(self) -> Result<Sts, Error> {
        Ok(Sts {
            inner: self.connect(&STS)?,
        })
    }
}

impl Sts {
    /// Who the client's credentials belong to.
    ///
    /// # Errors
    /// As [`crate::Client::call`].
    pub async fn caller_identity(&self) -> Result<CallerIdentity, Error> {
        let call = Call {
            action: ACTION,
            read_only: true,
            repeat_harms: false,
            method: Method::POST,
            path: String::new(),
            content_type: client::CONTENT_TYPE,
            body: Bytes::from_static(BODY.as_bytes()),
        };
        let answer = Box::pin(self.inner.attempts(&call)).await?;
        match decode(&answer.body) {
            Ok(identity) => Ok(identity),
            Err(source) => Err(self
                .inner
                .undecodable(ACTION, answer.status, &answer.body, source)
                .await),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(arn: &str) -> CallerIdentity {
        CallerIdentity {
            arn: arn.into(),
            user_id: "AIDA&<".into(),
            account: "111122223333".into(),
        }
    }

    #[test]
    fn answers_go_round() {
        let user = identity("arn:aws:iam::111122223333:user/a&b<c");
        assert_eq!(decode(user.to_xml("r").as_bytes()).unwrap(), user);
        let error = ErrorResponse {
            code: "AuthFailure".into(),
            message: "a < b".into(),
            request_id: "r".into(),
        };
        let answer = Response::new(Bytes::from(error_to_xml(&error)));
        assert_eq!(decode_error(&answer).unwrap(), error);
        assert!(decode(b"<html>").is_err());
    }

    #[test]
    fn a_session_belongs_to_its_role() {
        let session = identity("arn:aws:sts::111122223333:assumed-role/node/i-0abc");
        assert_eq!(session.session(), Some("i-0abc"));
        assert_eq!(
            session.principal_arn().unwrap(),
            "arn:aws:iam::111122223333:role/node"
        );
        let user = identity("arn:aws:iam::111122223333:user/path/me");
        assert_eq!(
            (user.session(), user.principal_arn().unwrap()),
            (None, user.arn.clone())
        );
        for wrong in [
            "",
            "arn:aws:sts::1:assumed-role/x",
            "arn:aws:s3:::bucket",
            "me",
        ] {
            assert!(identity(wrong).principal_arn().is_err(), "{wrong}");
        }
    }
}
