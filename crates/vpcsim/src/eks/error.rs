//! EKS's errors: its codes, with the texts of AWS where they are known.

use std::fmt::Display;

use crate::error::ApiError;

pub(super) fn invalid(message: impl Display) -> ApiError {
    ApiError::new("InvalidParameterException", message)
}

pub(super) fn bad_request(message: impl Display) -> ApiError {
    ApiError::new("InvalidRequestException", message)
}

pub(super) fn in_use(message: impl Display) -> ApiError {
    ApiError::new("ResourceInUseException", message)
}

pub(super) fn not_found(message: impl Display) -> ApiError {
    ApiError::new("ResourceNotFoundException", message)
}

pub(super) fn no_cluster(name: &str) -> ApiError {
    not_found(format_args!("No cluster found for name: {name}."))
}

/// What is not modelled is refused by name.
pub(super) fn unsupported(what: impl Display) -> ApiError {
    ApiError::new(
        "UnsupportedOperation",
        format_args!("{what} is not built into the lab's EKS."),
    )
}

/// An error of EC2 as EKS passes it on.
pub(super) fn of_ec2(error: ApiError) -> ApiError {
    let ApiError { code, message } = error;
    invalid(format_args!(
        "{message} (Service: AmazonEC2; Status Code: 400; Error Code: {code})"
    ))
}
