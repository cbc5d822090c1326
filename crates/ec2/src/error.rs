//! What can go wrong between a caller and EC2, EKS or STS.
//!
//! Each message states the fact, the object (action, endpoint) and the likely cause where it is known.

use std::time::Duration;

use crate::client::retry::{Failure, classify};
use crate::client::transport::SendError;
use crate::wire::{ErrorResponse, XmlError};

/// A failed call. Variants by what failed, so that a caller can tell "the answer is no" from "there is no answer".
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the members are named for what they are")]
pub enum Error {
    /// EC2 answered with an error that is about the request.
    #[error("{action}: {code}: {message}")]
    Api {
        action: &'static str,
        code: String,
        message: String,
        request_id: String,
        status: u16,
    },

    /// EC2 answered that the caller may not: the IAM policy lacks [`Error::iam_action`].
    #[error(
        "{action}: {code}: {message} (the IAM policy must allow {})",
        iam(action)
    )]
    Denied {
        action: &'static str,
        code: String,
        message: String,
        request_id: String,
    },

    /// Calls of this action come too fast for the account, or for our own bucket.
    #[error(
        "{action}: throttled ({code}) after {attempts} attempts: \
         who else calls {} with this account in this region?",
        service(action)
    )]
    Throttled {
        action: &'static str,
        code: String,
        attempts: u32,
    },

    /// No answer in time. When `sent`, EC2 may have done it.
    #[error("{action}: no answer from {endpoint} within {waited:?} ({attempts} attempts){}", outcome(action, *.sent))]
    Timeout {
        action: &'static str,
        endpoint: String,
        waited: Duration,
        attempts: u32,
        sent: bool,
    },

    /// No connection, or one that broke. When `sent`, EC2 may have done it.
    #[error("{action}: cannot reach {endpoint}: {source}: {}{}", source.likely_cause(), outcome(action, *.sent))]
    Unreachable {
        action: &'static str,
        endpoint: String,
        sent: bool,
        #[source]
        source: SendError,
    },

    /// EC2 (or what stands before it) fails: status 5xx to the last attempt.
    #[error("{action}: {endpoint} answers {status} {code}: {message} ({attempts} attempts)")]
    Unavailable {
        action: &'static str,
        endpoint: String,
        status: u16,
        code: String,
        message: String,
        attempts: u32,
    },

    /// No credentials to sign with.
    #[error(
        "no AWS credentials: {source}: looked at the environment, the profile, the pod's identity and instance \
         metadata; in a pod, does the instance's metadata hop limit allow 2?"
    )]
    Credentials {
        #[source]
        source: aws_credential_types::provider::error::CredentialsError,
    },

    /// No region is configured anywhere.
    #[error(
        "no AWS region: set AWS_REGION, or a region in the profile, or run where instance metadata can be reached"
    )]
    Region,

    /// An endpoint that is no URL.
    #[error("{origin} is '{value}', not a URL such as https://ec2.us-west-2.amazonaws.com")]
    Endpoint { origin: &'static str, value: String },

    /// The request could not be signed.
    #[error(
        "{action}: cannot be signed: do the credentials contain characters that fit no header?"
    )]
    Signing {
        action: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// An answer that is not the service's.
    #[error(
        "{action}: {endpoint} answers {status} with something that is not {}'s {}: {source}; it starts {start:?}: is it a proxy or another service?",
        service(action),
        source.form()
    )]
    Decode {
        action: &'static str,
        endpoint: String,
        status: u16,
        start: String,
        #[source]
        source: Box<DecodeError>,
    },

    /// The same page twice: reading on would never end.
    #[error("{action}: the endpoint answered the same NextToken twice")]
    EndlessPages { action: &'static str },
}

/// An answer that cannot be read as the service's.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// EC2 and STS answer in XML.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// The same, where serde reads it.
    #[error(transparent)]
    Document(#[from] quick_xml::DeError),
    /// EKS answers in JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl DecodeError {
    fn form(&self) -> &'static str {
        match self {
            Self::Xml(_) | Self::Document(_) => "XML",
            Self::Json(_) => "JSON",
        }
    }
}

/// EC2's actions go by their bare names, those of other services by the IAM action: `eks:ListClusters`.
fn service(action: &str) -> String {
    action
        .split_once(':')
        .map_or_else(|| "EC2".into(), |(service, _)| service.to_uppercase())
}

fn iam(action: &str) -> String {
    match action.contains(':') {
        true => action.to_owned(),
        false => format!("ec2:{action}"),
    }
}

fn outcome(action: &str, sent: bool) -> String {
    match sent {
        true => format!(
            "; it was sent, so {} may have carried it out",
            service(action)
        ),
        false => String::new(),
    }
}

/// Codes for "you may not", all of which an IAM policy (or an organization's) causes.
const DENIALS: [&str; 4] = [
    "UnauthorizedOperation",
    "AccessDenied",
    "AccessDeniedException",
    "Client.UnauthorizedOperation",
];

impl Error {
    /// What the client makes of a service's error, after so many attempts: for whoever plays the service in the
    /// same process.
    pub fn of_answer(
        action: &'static str,
        endpoint: &str,
        status: u16,
        answer: ErrorResponse,
        attempts: u32,
    ) -> Self {
        let ErrorResponse { code, message, .. } = &answer;
        match classify(status, code) {
            Failure::Throttled => Self::Throttled {
                action,
                code: code.clone(),
                attempts,
            },
            Failure::NotDone | Failure::Unknown => Self::Unavailable {
                action,
                endpoint: endpoint.to_owned(),
                status,
                code: code.clone(),
                message: message.clone(),
                attempts,
            },
            Failure::Expired | Failure::Final => Self::from_answer(action, status, answer),
        }
    }

    fn from_answer(action: &'static str, status: u16, answer: ErrorResponse) -> Self {
        let ErrorResponse {
            code,
            message,
            request_id,
        } = answer;
        if DENIALS.contains(&code.as_str()) {
            Self::Denied {
                action,
                code,
                message,
                request_id,
            }
        } else {
            Self::Api {
                action,
                code,
                message,
                request_id,
                status,
            }
        }
    }

    /// EC2's error code, where EC2 answered with one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Api { code, .. }
            | Self::Denied { code, .. }
            | Self::Throttled { code, .. }
            | Self::Unavailable { code, .. } => Some(code),
            _ => None,
        }
    }

    /// The action that failed: EC2's by its name, others as `eks:ListClusters`.
    pub fn action(&self) -> Option<&'static str> {
        match self {
            Self::Api { action, .. }
            | Self::Denied { action, .. }
            | Self::Throttled { action, .. }
            | Self::Timeout { action, .. }
            | Self::Unreachable { action, .. }
            | Self::Unavailable { action, .. }
            | Self::Signing { action, .. }
            | Self::Decode { action, .. }
            | Self::EndlessPages { action } => Some(action),
            Self::Credentials { .. } | Self::Region | Self::Endpoint { .. } => None,
        }
    }

    /// The IAM action that the call needs, `ec2:DescribeVpcs`.
    pub fn iam_action(&self) -> Option<String> {
        self.action().map(iam)
    }

    /// The object that the request names does not exist (any more).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { code, .. } if code.ends_with(".NotFound")
            || code == "NatGatewayNotFound"
            || code == "ResourceNotFoundException")
    }

    /// The caller may not do this.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Denied { .. })
    }

    /// EC2 may have carried out the request although no answer came: describe before you repeat it.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Timeout { sent, .. } | Self::Unreachable { sent, .. } => *sent,
            Self::Unavailable { status, .. } => *status != 503,
            Self::Decode { status, .. } => *status < 400,
            _ => false,
        }
    }
}
