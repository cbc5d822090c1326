//! Credentials and region by AWS's chain: the process's environment decides, so each case is a process of its own.

use std::process::Stdio;

use ec2::Client;
use ec2::types::{DescribeVpcsRequest, DescribeVpcsResult};
use ec2::wire::xml;

use crate::server::{Asked, Reply, Server};

const CHILD: &str = "BRANCHLINE_TEST_CHAIN";

/// What each child runs; by itself it does nothing.
#[tokio::test]
async fn child() {
    if std::env::var_os(CHILD).is_some() {
        let client = Client::from_env().unwrap();
        client.call(DescribeVpcsRequest::default()).await.unwrap();
    }
}

/// Runs `child` with nothing but these variables, and returns how its request was signed.
async fn signed_with(server: &Server, variables: &[(&str, String)]) -> String {
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "chain::child", "--nocapture"])
        .env_clear()
        .env(CHILD, "1")
        .env("HOME", "/nonexistent")
        .env("AWS_ENDPOINT_URL_EC2", server.url())
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null());
    let output = child.output().await.unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let asked = server.asked();
    let request = asked.iter().rfind(|asked| asked.path == "/").unwrap();
    let authorization = request.headers["authorization"].to_str().unwrap();
    let (scope, _) = authorization.split_once(',').unwrap();
    let parts: Vec<&str> = scope.split('/').collect();
    format!(
        "{} {}",
        parts[0].replace("AWS4-HMAC-SHA256 Credential=", ""),
        parts[2]
    )
}

fn role(key: &str) -> Reply {
    let text = format!(
        r#"{{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"{key}","SecretAccessKey":"s","Token":"t",
            "LastUpdated":"2026-01-01T00:00:00Z","Expiration":"2099-01-01T00:00:00Z"}}"#
    );
    Reply::Answer(200, text)
}

/// EC2, instance metadata and the pod identity agent in one.
fn aws(_number: usize, asked: &Asked) -> Reply {
    let text = |text: &str| Reply::Answer(200, text.to_owned());
    match asked.path.as_str() {
        "/" => {
            let answer = DescribeVpcsResult::default();
            Reply::Answer(200, xml::encode_output::<DescribeVpcsRequest>(&answer, "r"))
        }
        "/latest/api/token" => Reply::Answer(200, "token".into()),
        "/latest/meta-data/placement/region" => text("eu-west-1"),
        "/latest/meta-data/iam/security-credentials/" => text("node-role"),
        "/latest/meta-data/iam/security-credentials/node-role" => role("INSTANCE"),
        "/v1/credentials" if asked.headers["authorization"] == "pod-token" => role("POD"),
        _ => Reply::Answer(404, String::new()),
    }
}

#[tokio::test]
async fn the_environment_comes_first() {
    let server = Server::start(aws).await;
    let variables = [
        ("AWS_ACCESS_KEY_ID", "ENVIRONMENT".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "s".to_owned()),
        ("AWS_REGION", "us-west-2".to_owned()),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url()),
    ];
    assert_eq!(
        signed_with(&server, &variables).await,
        "ENVIRONMENT us-west-2"
    );
    assert_eq!(server.asked().len(), 1, "nobody else is asked");
}

#[tokio::test]
async fn a_node_finds_its_role_and_region_in_instance_metadata() {
    let server = Server::start(aws).await;
    let variables = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url())];
    assert_eq!(signed_with(&server, &variables).await, "INSTANCE eu-west-1");
}

#[tokio::test]
async fn a_pod_finds_its_identity() {
    let server = Server::start(aws).await;
    let variables = [
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            format!("{}/v1/credentials", server.url()),
        ),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod-token".to_owned()),
        ("AWS_DEFAULT_REGION", "us-east-2".to_owned()),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url()),
    ];
    assert_eq!(signed_with(&server, &variables).await, "POD us-east-2");
}
