//! sts:GetCallerIdentity, the one call of STS that clients make at their EC2 endpoint here.
//! Source: STS API reference, version 2011-06-15.

use crate::actions::Caller;
use crate::error::ApiError;

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

fn text(value: &str) -> String {
    value
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The answer to GetCallerIdentity.
pub(super) fn caller_identity(caller: &Caller, request_id: &str) -> String {
    let Caller {
        account,
        arn,
        access_key,
    } = caller;
    let user = if access_key.is_empty() {
        account
    } else {
        access_key
    };
    format!(
        "<GetCallerIdentityResponse xmlns=\"{NAMESPACE}\"><GetCallerIdentityResult><Arn>{}</Arn>\
         <UserId>{}</UserId><Account>{}</Account></GetCallerIdentityResult><ResponseMetadata>\
         <RequestId>{request_id}</RequestId></ResponseMetadata></GetCallerIdentityResponse>",
        text(arn),
        text(user),
        text(account),
    )
}

/// An error in STS's form.
pub(super) fn error(error: &ApiError, request_id: &str) -> String {
    format!(
        "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>Sender</Type><Code>{}</Code><Message>{}\
         </Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>",
        text(&error.code),
        text(&error.message),
    )
}
