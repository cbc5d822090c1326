//! Errors as EC2 answers them: a code that clients branch on, an HTTP status, a message that people
//! read. Codes and texts follow AWS; where AWS publishes no text, the text states the fact.

use std::borrow::Cow;
use std::fmt;

/// An EC2 error answer.
///
/// Clients branch on `code` and some parse `message` (the address agents cut the interface id out
/// of its quotes), so both are part of the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// AWS's error code, such as `InvalidSubnetID.NotFound`.
    pub code: Cow<'static, str>,
    /// The text for people.
    pub message: String,
}

impl ApiError {
    /// An error with `code` and `message`.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl fmt::Display) -> Self {
        Self {
            code: code.into(),
            message: message.to_string(),
        }
    }

    /// The HTTP status that AWS sends with this code.
    pub fn status(&self) -> u16 {
        match self.code.as_ref() {
            "UnauthorizedOperation"
            | "AccessDeniedException"
            | "UnrecognizedClientException"
            | "InvalidSignatureException" => 403,
            "AuthFailure" | "SignatureDoesNotMatch" | "InvalidClientTokenId" => 401,
            "DryRunOperation" => 412,
            "RequestLimitExceeded" | "Unavailable" | "ServiceUnavailable" => 503,
            "InternalError" | "InternalFailure" | "ServerException" => 500,
            "ResourceNotFoundException" | "NotFoundException" | "UnknownOperationException" => 404,
            "ResourceInUseException" => 409,
            "ThrottlingException" => 429,
            _ => 400,
        }
    }

    /// `InvalidParameterValue`.
    pub fn value(message: impl fmt::Display) -> Self {
        Self::new("InvalidParameterValue", message)
    }

    /// `InvalidParameterValue` in AWS's usual wording for one parameter.
    pub fn bad_value(parameter: &str, value: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::value(format_args!(
            "Value ({value}) for parameter {parameter} is invalid. {why}"
        ))
    }

    /// `InvalidParameterCombination`.
    pub fn combination(message: impl fmt::Display) -> Self {
        Self::new("InvalidParameterCombination", message)
    }

    /// `MissingParameter` for a parameter of the request.
    pub fn missing(parameter: &str) -> Self {
        Self::new(
            "MissingParameter",
            format_args!("The request must contain the parameter {parameter}"),
        )
    }

    /// `DependencyViolation`: something still uses `object`.
    pub fn dependency(kind: &str, object: impl fmt::Display) -> Self {
        Self::new(
            "DependencyViolation",
            format_args!("The {kind} '{object}' has dependencies and cannot be deleted."),
        )
    }

    /// `UnsupportedOperation`: AWS has this, the embedded EC2 does not.
    pub fn unsupported(what: impl fmt::Display) -> Self {
        Self::new(
            "UnsupportedOperation",
            format_args!("{what} is not built into the embedded EC2."),
        )
    }

    /// `OperationNotPermitted`.
    pub fn not_permitted(message: impl fmt::Display) -> Self {
        Self::new("OperationNotPermitted", message)
    }
}

/// What an action answers: a response or an EC2 error.
pub type ApiResult<T> = Result<T, ApiError>;
