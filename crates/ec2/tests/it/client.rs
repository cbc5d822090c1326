//! The client against a real HTTP server on loopback: signature, retries, throttling, silence, pages, credentials.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::server::{Asked, Reply, Server};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use ec2::client::{Limits, Rate, Retry};
use ec2::types::*;
use ec2::wire::{ErrorResponse, xml};
use ec2::{Client, Credentials, Error};

fn quick() -> Retry {
    Retry {
        attempts: 4,
        base: Duration::from_millis(1),
        cap: Duration::from_millis(2),
        ..Retry::default()
    }
}

fn credentials() -> Credentials {
    Credentials::new(
        "AKIDEXAMPLE",
        "secret",
        Some("session".into()),
        None,
        "test",
    )
}

fn builder(server: &Server) -> ec2::client::Builder {
    Client::builder()
        .region("us-west-2")
        .endpoint(server.url())
        .credentials(credentials())
        .retry(quick())
}

fn client(server: &Server) -> Client {
    builder(server).build().unwrap()
}

fn error(status: u16, code: &str) -> Reply {
    let message = format!("about {code}");
    let error = ErrorResponse {
        code: code.into(),
        message,
        request_id: "r-1".into(),
    };
    Reply::Answer(status, xml::encode_error(&error))
}

fn vpcs(ids: &[&str], next_token: Option<&str>) -> Reply {
    let vpcs = ids.iter().map(|id| Vpc {
        vpc_id: Some((*id).into()),
        ..Default::default()
    });
    let answer = DescribeVpcsResult {
        vpcs: vpcs.collect(),
        next_token: next_token.map(str::to_owned),
    };
    Reply::Answer(
        200,
        xml::encode_output::<DescribeVpcsRequest>(&answer, "r-1"),
    )
}

/// Re-signs what arrived, with the host that arrived.
fn signature(asked: &Asked) -> String {
    let header = |name: &str| asked.headers[name].to_str().unwrap();
    let date: String = header("x-amz-date").to_owned();
    let time = jiff::fmt::strtime::parse("%Y%m%dT%H%M%SZ", &date).unwrap();
    let time = time
        .to_datetime()
        .unwrap()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .unwrap();
    let identity = credentials().into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region("us-west-2")
        .name("ec2")
        .time(SystemTime::from(time.timestamp()))
        .settings(SigningSettings::default())
        .build()
        .unwrap()
        .into();
    let url = format!("http://{}{}", header("host"), asked.path);
    let headers = [("content-type", header("content-type"))];
    let body = SignableBody::Bytes(&asked.body);
    let request =
        SignableRequest::new(asked.method.as_str(), url, headers.into_iter(), body).unwrap();
    sign(request, &params).unwrap().into_parts().1
}

#[tokio::test]
async fn a_call_is_posted_and_signed() {
    let server = Server::start(|_, _| vpcs(&["vpc-1"], None)).await;
    let request = DescribeVpcsRequest {
        vpc_ids: vec!["vpc-1".into()],
        ..Default::default()
    };
    let answer = client(&server).call(request).await.unwrap();
    assert_eq!(answer.vpcs[0].vpc_id.as_deref(), Some("vpc-1"));
    let asked = &server.asked()[0];
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/"));
    assert_eq!(asked.form()["VpcId.1"], "vpc-1");
    assert_eq!(asked.headers["x-amz-security-token"], "session");
    let authorization = asked.headers["authorization"].to_str().unwrap();
    assert!(
        authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"),
        "{authorization}"
    );
    assert!(
        authorization.contains("/us-west-2/ec2/aws4_request"),
        "{authorization}"
    );
    assert!(
        authorization.ends_with(&format!("Signature={}", signature(asked))),
        "{authorization}"
    );
}

#[tokio::test]
async fn throttling_and_server_failures_are_repeated_with_the_same_token() {
    let server = Server::start(|number, _| match number {
        0 => error(503, "RequestLimitExceeded"),
        1 => error(500, "InternalError"),
        2 => Reply::Close,
        _ => {
            let answer = CreateNetworkInterfaceResult::default();
            let body = xml::encode_output::<CreateNetworkInterfaceRequest>(&answer, "r");
            Reply::Answer(200, body)
        }
    })
    .await;
    let codes = Arc::new(Mutex::new(Vec::new()));
    let seen = codes.clone();
    let client = builder(&server)
        .observer(move |attempt| {
            seen.lock()
                .unwrap()
                .push((attempt.number, attempt.code.clone().unwrap_or_default()));
        })
        .limits(Limits {
            mutating: Rate {
                burst: 50.0,
                per_second: 1000.0,
            },
            ..Limits::default()
        })
        .build()
        .unwrap();
    let request = CreateNetworkInterfaceRequest {
        subnet_id: Some("subnet-1".into()),
        ..Default::default()
    };
    client.call(request).await.unwrap();
    let tokens: Vec<String> = server
        .asked()
        .iter()
        .map(|asked| asked.form()["ClientToken"].clone())
        .collect();
    assert_eq!(tokens.len(), 4);
    assert!(
        tokens
            .iter()
            .all(|token| token == &tokens[0] && token.len() == 32),
        "{tokens:?}"
    );
    let codes = codes.lock().unwrap();
    let codes: Vec<(u32, &str)> = codes.iter().map(|(n, code)| (*n, code.as_str())).collect();
    assert_eq!(
        codes,
        [
            (1, "RequestLimitExceeded"),
            (2, "InternalError"),
            (3, "Unreachable"),
            (4, "")
        ]
    );
}

#[tokio::test]
async fn what_would_be_done_twice_is_not_repeated() {
    let assign = AssignPrivateIpAddressesRequest {
        network_interface_id: Some("eni-1".into()),
        secondary_private_ip_address_count: Some(1),
        ..Default::default()
    };
    for lost in [true, false] {
        let server = Server::start(move |_, _| match lost {
            true => Reply::Close,
            false => error(500, "InternalError"),
        })
        .await;
        let failed = client(&server).call(assign.clone()).await.unwrap_err();
        assert!(failed.outcome_unknown(), "{failed}");
        assert_eq!(server.asked().len(), 1, "{failed}");
    }
    let server = Server::start(|number, _| match number {
        0 => error(503, "Unavailable"),
        1 => error(503, "RequestLimitExceeded"),
        _ => error(400, "PrivateIpAddressLimitExceeded"),
    })
    .await;
    let failed = client(&server).call(assign).await.unwrap_err();
    assert_eq!(failed.code(), Some("PrivateIpAddressLimitExceeded"));
    assert_eq!(
        server.asked().len(),
        3,
        "nothing was done by the first two: they are repeated"
    );
}

#[tokio::test]
async fn throttling_without_end_is_named() {
    let server = Server::start(|_, _| error(503, "RequestLimitExceeded")).await;
    let failed = client(&server)
        .call(DescribeVpcsRequest::default())
        .await
        .unwrap_err();
    assert!(
        matches!(failed, Error::Throttled { attempts: 4, .. }),
        "{failed:?}"
    );
    assert_eq!(failed.code(), Some("RequestLimitExceeded"));
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn the_own_bucket_refuses_what_the_budget_cannot_wait_for() {
    let server = Server::start(|_, _| vpcs(&[], None)).await;
    let limits = Limits {
        reading: Rate {
            burst: 1.0,
            per_second: 0.001,
        },
        ..Limits::default()
    };
    let client = builder(&server).limits(limits).build().unwrap();
    client.call(DescribeVpcsRequest::default()).await.unwrap();
    let failed = client
        .call(DescribeVpcsRequest::default())
        .await
        .unwrap_err();
    assert!(
        matches!(failed, Error::Throttled { attempts: 0, .. }),
        "{failed:?}"
    );
    client
        .clone()
        .call(DescribeSubnetsRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        server.asked().len(),
        2,
        "another action has a bucket of its own, shared by clones"
    );
}

#[tokio::test]
async fn silence_ends_with_the_budget_and_names_the_endpoint() {
    let server = Server::start(|_, _| Reply::Hang).await;
    let retry = Retry {
        attempts: 2,
        attempt_timeout: Duration::from_millis(30),
        ..quick()
    };
    let client = builder(&server).retry(retry).build().unwrap();
    let failed = client
        .call(DescribeVpcsRequest::default())
        .await
        .unwrap_err();
    assert!(
        matches!(
            failed,
            Error::Timeout {
                attempts: 2,
                sent: true,
                ..
            }
        ),
        "{failed:?}"
    );
    assert!(failed.to_string().contains(&server.url()), "{failed}");
    assert_eq!(failed.iam_action().as_deref(), Some("ec2:DescribeVpcs"));
}

#[tokio::test]
async fn nobody_listening_is_said_so() {
    let server = Server::start(|_, _| Reply::Hang).await;
    // A socket that holds its port and does not listen: nobody else can come to listen there.
    let holds = tokio::net::TcpSocket::new_v4().unwrap();
    holds.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let free = holds.local_addr().unwrap();
    let client = builder(&server)
        .endpoint(format!("http://{free}"))
        .build()
        .unwrap();
    let failed = client
        .call(DescribeVpcsRequest::default())
        .await
        .unwrap_err();
    let text = failed.to_string();
    assert!(
        matches!(failed, Error::Unreachable { sent: false, .. }),
        "{failed:?}"
    );
    assert!(text.contains("nothing listens there"), "{text}");
    assert!(text.contains(&free.to_string()), "{text}");
}

#[tokio::test]
async fn final_errors_are_not_repeated_and_tell_what_they_are() {
    let server = Server::start(|_, asked| match asked.form()["Action"].as_str() {
        "DescribeVpcs" => error(403, "UnauthorizedOperation"),
        "DeleteNetworkInterface" => error(400, "InvalidNetworkInterfaceID.NotFound"),
        "DescribeSubnets" => Reply::Answer(200, "<html>a captive portal</html>".into()),
        _ => Reply::Answer(404, "no such page".into()),
    })
    .await;
    let client = client(&server);
    let denied = client
        .call(DescribeVpcsRequest::default())
        .await
        .unwrap_err();
    assert!(denied.is_denied(), "{denied:?}");
    assert!(
        denied.to_string().contains("must allow ec2:DescribeVpcs"),
        "{denied}"
    );
    let missing = client
        .call(DeleteNetworkInterfaceRequest::default())
        .await
        .unwrap_err();
    assert!(
        missing.is_not_found() && missing.code().is_some(),
        "{missing:?}"
    );
    let portal = client
        .call(DescribeSubnetsRequest::default())
        .await
        .unwrap_err();
    assert!(portal.to_string().contains("captive portal"), "{portal}");
    let page = client.call(DeleteVpcRequest::default()).await.unwrap_err();
    assert!(
        matches!(page, Error::Decode { status: 404, .. }),
        "{page:?}"
    );
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn expired_credentials_are_read_again_once() {
    let server = Server::start(|number, _| match number {
        0 => error(400, "RequestExpired"),
        _ => vpcs(&[], None),
    })
    .await;
    client(&server)
        .call(DescribeVpcsRequest::default())
        .await
        .unwrap();
    assert_eq!(server.asked().len(), 2);
    let server = Server::start(|_, _| error(400, "RequestExpired")).await;
    let failed = client(&server)
        .call(DescribeVpcsRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        (failed.code(), server.asked().len()),
        (Some("RequestExpired"), 2)
    );
}

#[tokio::test]
async fn pages_are_merged_and_end_at_an_empty_token() {
    let server =
        Server::start(
            |_, asked| match asked.form().get("NextToken").map(String::as_str) {
                None => vpcs(&["vpc-1", "vpc-2"], Some("t1")),
                Some("t1") => vpcs(&["vpc-3"], Some("t2")),
                Some("t2") => vpcs(&[], Some("")),
                Some(other) => panic!("unexpected token {other}"),
            },
        )
        .await;
    let client = client(&server);
    let request = DescribeVpcsRequest {
        max_results: Some(5),
        ..Default::default()
    };
    let all = client.call_all(request.clone()).await.unwrap();
    let ids: Vec<&str> = all
        .vpcs
        .iter()
        .filter_map(|vpc| vpc.vpc_id.as_deref())
        .collect();
    assert_eq!(ids, ["vpc-1", "vpc-2", "vpc-3"]);
    assert!(
        server
            .asked()
            .iter()
            .all(|asked| asked.form()["MaxResults"] == "5")
    );
    let mut pages = client.pages(request);
    let first = pages.next().await.unwrap().unwrap();
    assert_eq!(first.vpcs.len(), 2);
    assert_eq!(
        server.asked().len(),
        4,
        "the next page is read when it is asked for"
    );
}

#[tokio::test]
async fn a_page_that_repeats_is_an_error() {
    let server = Server::start(|_, _| vpcs(&["vpc-1"], Some("t"))).await;
    let failed = client(&server)
        .call_all(DescribeVpcsRequest::default())
        .await
        .unwrap_err();
    assert!(
        matches!(
            failed,
            Error::EndlessPages {
                action: "DescribeVpcs"
            }
        ),
        "{failed:?}"
    );
}
