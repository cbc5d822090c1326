//! The typed client: `client.call(DescribeClusterRequest { name }).await`. Signature, retries and buckets are those of
//! [`crate::Client`].

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response};
use jiff::Timestamp;

use super::requests::Operation;
use super::{token, wire};
use crate::client::{self, Call, Inner, Service};
use crate::error::{DecodeError, Error};
use crate::wire::ErrorResponse;

pub(crate) static EKS: Service = Service {
    name: "eks",
    variables: &["AWS_ENDPOINT_URL_EKS", "AWS_ENDPOINT_URL"],
    decode_error,
};

/// A client for EKS in one region. Clones share connections, credentials and buckets.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("eks::Client")
    }
}

impl client::Builder {
    /// A client for EKS with these settings. Reads AWS_ENDPOINT_URL_EKS, then AWS_ENDPOINT_URL where no endpoint is set.
    ///
    /// # Errors
    /// An endpoint that is no URL.
    pub fn build_eks(self) -> Result<Client, Error> {
        Ok(Client {
            inner: self.connect(&EKS)?,
        })
    }
}

impl Client {
    /// A client with everything from AWS's usual places.
    ///
    /// # Errors
    /// An endpoint of the environment that is no URL.
    pub fn from_env() -> Result<Self, Error> {
        client::Builder::default().build_eks()
    }

    /// The region that calls go to.
    ///
    /// # Errors
    /// No region is configured anywhere.
    pub async fn region(&self) -> Result<&str, Error> {
        self.inner.region().await
    }

    /// A token for a cluster, as `aws eks get-token` makes it; nothing is sent.
    ///
    /// # Errors
    /// No credentials, no region, or a name that fits no header.
    pub async fn token(&self, cluster: &str, now: Timestamp) -> Result<String, Error> {
        let (credentials, region, sts) = self.inner.sts().await?;
        token::make(&credentials, &region, &sts, cluster, now).map_err(|source| Error::Signing {
            action: "sts:GetCallerIdentity",
            source,
        })
    }

    /// Calls EKS. An idempotency token that the caller left out is filled in and kept over all attempts.
    ///
    /// # Errors
    /// As [`crate::Client::call`]; actions are named `eks:DescribeCluster`.
    pub async fn call<O: Operation>(&self, mut request: O) -> Result<O::Output, Error> {
        let route = O::ROUTE;
        request.fill_token(client::token);
        let encoded = wire::encode(&request).map_err(|e| Error::Signing {
            action: route.iam,
            source: e.into(),
        })?;
        let call = Call {
            action: route.iam,
            read_only: route.method == "GET",
            // What EKS makes has a name or a token: the second request finds the first one's.
            repeat_harms: false,
            method: Method::from_bytes(encoded.method.as_bytes()).unwrap_or(Method::POST),
            path: encoded.path,
            content_type: "application/json",
            body: encoded.body.into(),
        };
        let answer = Box::pin(self.inner.attempts(&call)).await?;
        match serde_json::from_slice(&answer.body) {
            Ok(output) => Ok(output),
            Err(source) => Err(self
                .inner
                .undecodable(route.iam, answer.status, &answer.body, source.into())
                .await),
        }
    }
}

/// `X-Amzn-ErrorType: ResourceNotFoundException:http://…` and `{"message": "…"}`; some services put the code into
/// `__type` or `code` of the body.
fn decode_error(answer: &Response<Bytes>) -> Result<ErrorResponse, DecodeError> {
    let body: serde_json::Value = serde_json::from_slice(answer.body())?;
    let header = |name: &str| {
        answer
            .headers()
            .get(name)
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned)
    };
    let member = |name: &str| body.get(name).and_then(|v| v.as_str()).map(str::to_owned);
    let code = header("x-amzn-errortype")
        .or_else(|| member("__type"))
        .or_else(|| member("code"));
    let code = code.unwrap_or_default();
    let code = code.split(':').next().unwrap_or_default();
    let code = code.rsplit('#').next().unwrap_or_default().to_owned();
    Ok(ErrorResponse {
        code,
        message: member("message")
            .or_else(|| member("Message"))
            .unwrap_or_default(),
        request_id: header("x-amzn-requestid").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_their_code_in_header_or_body() {
        let read = |kind: Option<&str>, body: &'static str| {
            let mut answer = Response::builder().status(404);
            if let Some(kind) = kind {
                answer = answer
                    .header("x-amzn-ErrorType", kind)
                    .header("x-amzn-RequestId", "r-1");
            }
            decode_error(&answer.body(Bytes::from(body)).unwrap())
        };
        let error = read(
            Some("ResourceNotFoundException:http://x/"),
            r#"{"message":"No cluster"}"#,
        )
        .unwrap();
        assert_eq!(
            (error.code.as_str(), error.message.as_str()),
            ("ResourceNotFoundException", "No cluster")
        );
        assert_eq!(error.request_id, "r-1");
        let error = read(
            None,
            r##"{"__type":"com.amazon#AccessDeniedException","Message":"no"}"##,
        )
        .unwrap();
        assert_eq!(
            (error.code.as_str(), error.message.as_str()),
            ("AccessDeniedException", "no")
        );
        assert!(read(None, "<html>").is_err());
    }
}
