//! Tokens: who they let in, and the name of each reason why one is refused.

use std::net::TcpListener;

use ec2::Credentials;
use ec2::eks::token::{self, TokenError};
use ec2::eks::*;
use ec2::types::DescribeInstancesRequest;
use jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{api, builder, lab, some};

const STS: &str = "https://sts.us-west-2.amazonaws.com";

#[tokio::test]
async fn tokens_are_refused_by_name() {
    let lab = lab().await;
    lab.cluster("dev").await;
    lab.cluster("prod").await;
    let me = lab.user("me");
    let eks = lab.sim.eks();
    let now = Timestamp::now();
    let make = |by: &Credentials, cluster: &str, at: Timestamp| {
        token::make(by, "us-west-2", STS, cluster, at).unwrap()
    };
    let good = make(&me, "dev", now);
    assert_eq!(
        eks.authenticate(&good, "dev").unwrap().arn,
        "arn:aws:iam::111122223333:user/me"
    );

    let refused = |token: &str, cluster: &str| eks.authenticate(token, cluster).unwrap_err();
    let other = TokenError::OtherCluster {
        made_for: "dev".into(),
        cluster: "prod".into(),
    };
    assert_eq!(refused(&good, "prod"), other);
    assert_eq!(
        refused(&good, "nope"),
        TokenError::UnknownCluster {
            cluster: "nope".into()
        }
    );
    let old = make(&me, "dev", now - SignedDuration::from_mins(16));
    assert!(matches!(refused(&old, "dev"), TokenError::Expired { .. }));
    let early = make(&me, "dev", now + SignedDuration::from_mins(6));
    assert!(matches!(
        refused(&early, "dev"),
        TokenError::NotYetValid { .. }
    ));
    let unknown = Credentials::new("AKIDX", "secret", None, None, "test");
    let error = TokenError::UnknownAccessKey {
        access_key: "AKIDX".into(),
    };
    assert_eq!(refused(&make(&unknown, "dev", now), "dev"), error);
    let wrong = Credentials::new("AKIDME", "guess", None, None, "test");
    assert!(matches!(
        refused(&make(&wrong, "dev", now), "dev"),
        TokenError::Signature { .. }
    ));
    let session = Credentials::new("AKIDME", "secret", some("x"), None, "test");
    assert!(matches!(
        refused(&make(&session, "dev", now), "dev"),
        TokenError::SessionToken { .. }
    ));
    assert_eq!(refused("eyJ", "dev"), TokenError::Prefix);
}

/// One request of an instance to its metadata.
async fn metadata(
    from: std::net::IpAddr,
    to: std::net::SocketAddr,
    method: &str,
    path: &str,
    header: (&str, &str),
) -> String {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{}: {}\r\n\r\n",
        header.0, header.1
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[tokio::test]
async fn a_node_is_let_in_with_the_credentials_of_its_instance() {
    let lab = lab().await;
    lab.cluster("dev").await;
    lab.nodegroup(1).await;
    let instance = lab.view()[0].nodegroups[0].instances[0].to_string();
    let request = DescribeInstancesRequest {
        instance_ids: vec![instance.clone()],
        ..Default::default()
    };
    let described = lab
        .sim
        .call(&request)
        .await
        .unwrap()
        .reservations
        .remove(0)
        .instances
        .remove(0);
    let address: std::net::IpAddr = described.private_ip_address.unwrap().parse().unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let (sim, vpc) = (lab.sim.clone(), lab.vpc.parse().unwrap());
    tokio::spawn(async move { sim.serve_imds(listener, vpc).await });
    let ttl = ("x-aws-ec2-metadata-token-ttl-seconds", "60");
    let session = metadata(address, at, "PUT", "/latest/api/token", ttl).await;
    let path = "/latest/meta-data/iam/security-credentials/node";
    let document = metadata(
        address,
        at,
        "GET",
        path,
        ("x-aws-ec2-metadata-token", &session),
    )
    .await;
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    let text = |name: &str| document[name].as_str().unwrap().to_owned();
    let credentials = Credentials::new(
        text("AccessKeyId"),
        text("SecretAccessKey"),
        Some(text("Token")),
        None,
        "imds",
    );

    let identity = builder(&api(&lab.sim).await, credentials.clone())
        .build_sts()
        .unwrap()
        .caller_identity()
        .await
        .unwrap();
    assert_eq!(
        identity.arn,
        format!("arn:aws:sts::111122223333:assumed-role/node/{instance}")
    );
    assert_eq!(identity.session(), Some(instance.as_str()));
    let token = token::make(&credentials, "us-west-2", STS, "dev", Timestamp::now()).unwrap();
    let eks = lab.sim.eks();
    let caller = eks.authenticate(&token, "dev").unwrap();
    assert_eq!(caller, identity);
    let user = eks.user(&caller, "dev").unwrap().unwrap();
    let name = described.private_dns_name.unwrap();
    assert_eq!(
        (user.username, user.groups),
        (
            format!("system:node:{name}"),
            vec!["system:nodes".to_owned()]
        )
    );

    // Without its session token the key is worth nothing.
    let bare = Credentials::new(
        text("AccessKeyId"),
        text("SecretAccessKey"),
        None,
        None,
        "imds",
    );
    let token = token::make(&bare, "us-west-2", STS, "dev", Timestamp::now()).unwrap();
    assert!(matches!(
        eks.authenticate(&token, "dev"),
        Err(TokenError::SessionToken { .. })
    ));
    // A caller that no entry names is nobody.
    let stranger = CallerIdentity {
        arn: "arn:aws:iam::111122223333:user/x".into(),
        ..caller.clone()
    };
    assert_eq!(eks.user(&stranger, "dev").unwrap(), None);
    let gone = CallerIdentity {
        arn: caller.arn.replace("i-", "i-9"),
        ..caller
    };
    assert!(matches!(
        eks.user(&gone, "dev"),
        Err(TokenError::NoInstance { .. })
    ));
}
