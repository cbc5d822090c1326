//! What differs between the services that the client speaks to: name, endpoint, the form of errors.

use bytes::Bytes;
use http::Response;

use crate::error::DecodeError;
use crate::wire::{ErrorResponse, xml};

/// A service of AWS.
pub(crate) struct Service {
    /// The name that requests are signed for; also the first label of the public host.
    pub(crate) name: &'static str,
    /// Variables that override the endpoint, the most specific first.
    pub(crate) variables: &'static [&'static str],
    /// Reads an answer of a status that is no success.
    pub(crate) decode_error: fn(&Response<Bytes>) -> Result<ErrorResponse, DecodeError>,
}

/// EC2. The last variable is what the documentation of AWS's CNI names, and what its code ignores.
pub(crate) static EC2: Service = Service {
    name: "ec2",
    variables: &[
        "AWS_ENDPOINT_URL_EC2",
        "AWS_ENDPOINT_URL",
        "AWS_EC2_ENDPOINT",
    ],
    decode_error: |answer| Ok(xml::decode_error(answer.body())?),
};
