//! The metadata client against a server that speaks IMDSv2.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::server::{Asked, Reply, Server};
use ec2::imds::{Imds, ImdsError};

const MAC: &str = "02:00:00:00:00:01";

fn answer(body: &str) -> Reply {
    Reply::Answer(200, body.to_owned())
}

fn missing() -> Reply {
    Reply::Answer(404, "<html>404</html>".to_owned())
}

/// One interface; tokens are `token-N`, those before `valid` are void.
fn metadata(asked: &Asked, valid: &str) -> Reply {
    if asked.method == http::Method::PUT {
        assert_eq!(asked.path, "/latest/api/token");
        assert_eq!(
            asked.headers["x-aws-ec2-metadata-token-ttl-seconds"],
            "21600"
        );
        return answer(valid);
    }
    if asked.headers["x-aws-ec2-metadata-token"] != valid {
        return Reply::Answer(401, String::new());
    }
    let path = asked.path.strip_prefix("/latest/").unwrap();
    match path {
        "meta-data/instance-id" => answer("i-1"),
        "meta-data/local-ipv4" => answer("10.0.0.4"),
        "meta-data/network/interfaces/macs" => answer("02:00:00:00:00:01/\n02:00:00:00:00:02/"),
        "dynamic/instance-identity/document" => answer(
            r#"{"accountId":"111122223333","region":"us-west-2","availabilityZone":"us-west-2a",
                "instanceId":"i-1","instanceType":"t3.medium","privateIp":"10.0.0.4","version":"2017-09-30",
                "billingProducts":null}"#,
        ),
        _ => {
            let prefix = format!("meta-data/network/interfaces/macs/{MAC}/");
            match path.strip_prefix(&prefix).unwrap_or_default() {
                "interface-id" => answer("eni-1"),
                "device-number" => answer("0"),
                "network-card-index" => answer("1"),
                "subnet-id" => answer("subnet-1"),
                "vpc-id" => answer("vpc-1"),
                "security-group-ids" => answer("sg-1\nsg-2"),
                "subnet-ipv4-cidr-block" => answer("10.0.0.0/24"),
                "vpc-ipv4-cidr-blocks" => answer("10.0.0.0/16\n100.64.0.0/16"),
                "local-ipv4s" => answer("10.0.0.4\n10.0.0.9"),
                "ipv4-prefix" => answer("10.0.0.16/28"),
                _ => missing(),
            }
        }
    }
}

#[tokio::test]
async fn values_absent_keys_and_interfaces() {
    let server = Server::start(|_, asked| metadata(asked, "token-1")).await;
    let imds = Imds::new(&server.url()).unwrap();
    assert_eq!(imds.instance_id().await.unwrap(), "i-1");
    assert_eq!(imds.local_ipv4().await.unwrap(), Some([10, 0, 0, 4].into()));
    assert_eq!(imds.ipv6().await.unwrap(), None);
    assert_eq!(imds.get("meta-data/none").await.unwrap(), None);
    assert_eq!(imds.macs().await.unwrap(), [MAC, "02:00:00:00:00:02"]);
    let identity = imds.identity().await.unwrap();
    assert_eq!(
        (identity.account_id.as_str(), identity.region.as_str()),
        ("111122223333", "us-west-2")
    );
    let interface = imds.interface(MAC).await.unwrap().unwrap();
    assert_eq!(
        (
            interface.id.as_str(),
            interface.device_index,
            interface.network_card
        ),
        ("eni-1", 0, 1)
    );
    assert_eq!(interface.groups, ["sg-1", "sg-2"]);
    assert_eq!(interface.addresses[1].to_string(), "10.0.0.9");
    assert_eq!(interface.prefixes[0].to_string(), "10.0.0.16/28");
    assert_eq!(interface.vpc_cidrs.len(), 2);
    assert!(interface.addresses6.is_empty() && interface.subnet_cidrs6.is_empty());
    assert_eq!(imds.interface("02:00:00:00:00:02").await.unwrap(), None);
    let tokens = server
        .asked()
        .iter()
        .filter(|asked| asked.method == http::Method::PUT)
        .count();
    assert_eq!(tokens, 1);
    let required = imds.instance_type().await.unwrap_err();
    assert!(matches!(required, ImdsError::Absent { .. }), "{required:?}");
}

#[tokio::test]
async fn a_void_token_is_replaced_once() {
    let server = Server::start(|number, asked| match number {
        0 => metadata(asked, "token-1"),
        _ => metadata(asked, "token-2"),
    })
    .await;
    let imds = Imds::new(&server.url()).unwrap();
    assert_eq!(imds.instance_id().await.unwrap(), "i-1");
    assert_eq!(server.asked().len(), 4);
    let server = Server::start(|_, asked| match asked.method {
        http::Method::PUT => answer("token"),
        _ => Reply::Answer(401, String::new()),
    })
    .await;
    let refused = Imds::new(&server.url())
        .unwrap()
        .instance_id()
        .await
        .unwrap_err();
    assert!(
        matches!(refused, ImdsError::Status { status: 401, .. }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_dropped_token_answer_points_at_the_hop_limit() {
    let server = Server::start(|_, _| Reply::Hang).await;
    let failed = Imds::new(&server.url())
        .unwrap()
        .instance_id()
        .await
        .unwrap_err();
    assert!(
        failed.to_string().contains("HttpPutResponseHopLimit"),
        "{failed}"
    );
}

/// A connection that is taken and then says nothing, or the head of an answer and then nothing.
fn hangs(body: bool) -> Reply {
    if body { Reply::Head } else { Reply::Hang }
}

#[tokio::test]
async fn metadata_that_hangs_is_told_with_the_path_and_the_likely_cause() {
    for body in [false, true] {
        let server = Server::start(move |_, asked| match asked.method {
            http::Method::PUT => answer("token"),
            _ => hangs(body),
        })
        .await;
        let imds = Imds::new(&server.url()).unwrap();
        let failed = imds.instance_id().await.unwrap_err();
        assert!(matches!(failed, ImdsError::Timeout { .. }), "{failed:?}");
        let text = failed.to_string();
        for part in [
            &format!("instance metadata at {}", server.url()),
            "no whole answer to meta-data/instance-id within",
            "linklocal_allowance_exceeded",
            "a proxy",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}

#[tokio::test]
async fn a_reader_goes_on_when_metadata_hangs_no_more() {
    for body in [false, true] {
        let hang = Arc::new(AtomicBool::new(true));
        let hanging = hang.clone();
        let server = Server::start(move |_, asked| match hanging.load(Ordering::SeqCst) {
            true => hangs(body),
            false => metadata(asked, "token-1"),
        })
        .await;
        let imds = Imds::new(&server.url()).unwrap();
        let failed = imds.instance_id().await.unwrap_err();
        assert!(matches!(failed, ImdsError::NoToken { .. }), "{failed:?}");
        hang.store(false, Ordering::SeqCst);
        assert_eq!(imds.instance_id().await.unwrap(), "i-1");
    }
}

#[tokio::test]
async fn a_hanging_attempt_is_made_again() {
    for body in [false, true] {
        let server = Server::start(move |number, asked| match number {
            0 => hangs(body),
            _ => metadata(asked, "token-1"),
        })
        .await;
        let imds = Imds::new(&server.url()).unwrap();
        assert_eq!(imds.instance_id().await.unwrap(), "i-1");
    }
}

#[tokio::test]
async fn refusals_passing_failures_and_nonsense() {
    let server = Server::start(|_, _| Reply::Answer(403, String::new())).await;
    let failed = Imds::new(&server.url())
        .unwrap()
        .instance_id()
        .await
        .unwrap_err();
    assert!(matches!(failed, ImdsError::Disabled { .. }), "{failed:?}");
    let server = Server::start(|number, asked| match number {
        0 | 2 => Reply::Answer(503, String::new()),
        _ => metadata(asked, "token-1"),
    })
    .await;
    assert_eq!(
        Imds::new(&server.url())
            .unwrap()
            .instance_id()
            .await
            .unwrap(),
        "i-1"
    );
    let server = Server::start(|_, asked| match asked.method {
        http::Method::PUT => answer("token"),
        _ => answer("nonsense"),
    })
    .await;
    let imds = Imds::new(&server.url()).unwrap();
    for failed in [
        imds.local_ipv4().await.unwrap_err(),
        imds.identity().await.unwrap_err(),
    ] {
        assert!(matches!(failed, ImdsError::Malformed { .. }), "{failed:?}");
    }
    for wrong in ["", "169.254.169.254", "https://169.254.169.254", "http:///"] {
        assert!(Imds::new(wrong).is_err(), "{wrong}");
    }
}
