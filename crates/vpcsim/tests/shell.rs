//! The shell on real sockets: our own signed client against the API, instance metadata by source
//! address, versions for a fabric. The VPC lies in 127.0.0.0/8, whose every address is this
//! machine's: a socket bound to an interface's address is that interface, without namespaces.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test fail it by panicking"
)]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use ec2::Credentials;
use ec2::imds::{Imds, ImdsError};
use ec2::types::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use vpcsim::knobs::{ImdsHang, Knobs};
use vpcsim::{Caller, Config, Sim};

fn some(text: impl ToString) -> Option<String> {
    Some(text.to_string())
}

struct Lab {
    sim: Sim,
    vpc: vpc::facts::VpcId,
    subnet: String,
    instance: String,
    address: Ipv4Addr,
}

/// A VPC with one instance in it.
async fn lab() -> Lab {
    let sim = Sim::new(Config::default());
    let request = CreateVpcRequest {
        cidr_block: some("127.77.0.0/16"),
        ..Default::default()
    };
    let vpc = sim
        .call(&request)
        .await
        .unwrap()
        .vpc
        .unwrap()
        .vpc_id
        .unwrap();
    let request = CreateSubnetRequest {
        vpc_id: some(&vpc),
        cidr_block: some("127.77.1.0/24"),
        ..Default::default()
    };
    let subnet = sim
        .call(&request)
        .await
        .unwrap()
        .subnet
        .unwrap()
        .subnet_id
        .unwrap();
    let request = RunInstancesRequest {
        image_id: some("ami-1"),
        instance_type: some("t3.medium"),
        subnet_id: some(&subnet),
        min_count: Some(1),
        max_count: Some(1),
        iam_instance_profile: Some(IamInstanceProfileSpecification {
            name: some("node-role"),
            arn: None,
        }),
        ..Default::default()
    };
    let instance = sim.call(&request).await.unwrap().instances.remove(0);
    Lab {
        vpc: vpc.parse().unwrap(),
        subnet,
        instance: instance.instance_id.unwrap(),
        address: instance.private_ip_address.unwrap().parse().unwrap(),
        sim,
    }
}

async fn imds(lab: &Lab) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let (sim, vpc) = (lab.sim.clone(), lab.vpc.clone());
    tokio::spawn(async move { sim.serve_imds(listener, vpc).await });
    at
}

async fn connect(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// One HTTP request from `from`; gives status and body.
async fn ask(
    from: Ipv4Addr,
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, String) {
    let mut stream = connect(from, to).await;
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    stream
        .write_all((request + "\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN: &str = "x-aws-ec2-metadata-token";

async fn token(lab: &Lab, at: SocketAddr) -> String {
    let (status, token) = ask(lab.address, at, "PUT", "/latest/api/token", &[(TTL, "60")]).await;
    assert_eq!(status, 200);
    token
}

#[tokio::test]
async fn metadata_needs_a_token_and_a_known_address() {
    let lab = lab().await;
    let (at, me) = (imds(&lab).await, lab.address);
    let put =
        async |path: &str, headers: &[(&str, &str)]| ask(me, at, "PUT", path, headers).await.0;
    assert_eq!(put("/latest/api/token", &[]).await, 400);
    assert_eq!(put("/latest/api/token", &[(TTL, "0")]).await, 400);
    assert_eq!(put("/latest/api/token", &[(TTL, "21601")]).await, 400);
    assert_eq!(put("/2021-03-23/api/token", &[(TTL, "60")]).await, 403);
    assert_eq!(
        put(
            "/latest/api/token",
            &[(TTL, "60"), ("X-Forwarded-For", "1.2.3.4")]
        )
        .await,
        403
    );
    let token = token(&lab, at).await;
    let id = "/latest/meta-data/instance-id";
    assert_eq!(
        ask(me, at, "GET", id, &[(TOKEN, &token)]).await,
        (200, lab.instance.clone())
    );
    assert_eq!(ask(me, at, "GET", id, &[]).await.0, 401);
    assert_eq!(ask(me, at, "GET", id, &[(TOKEN, "other")]).await.0, 401);
    let stranger = Ipv4Addr::new(127, 77, 9, 9);
    assert_eq!(
        ask(stranger, at, "GET", id, &[(TOKEN, &token)]).await.0,
        404
    );
    let off = ModifyInstanceMetadataOptionsRequest {
        instance_id: some(&lab.instance),
        http_endpoint: some("disabled"),
        ..Default::default()
    };
    lab.sim.call(&off).await.unwrap();
    assert_eq!(ask(me, at, "GET", id, &[(TOKEN, &token)]).await.0, 403);
}

#[tokio::test]
async fn metadata_shows_what_agents_read() {
    let lab = lab().await;
    let at = imds(&lab).await;
    let token = token(&lab, at).await;
    let headers = [(TOKEN, token.as_str())];
    let get =
        async |path: &str| ask(lab.address, at, "GET", &format!("/latest/{path}"), &headers).await;
    assert_eq!(
        get("meta-data/placement/availability-zone").await.1,
        "us-west-2a"
    );
    assert_eq!(
        get("meta-data/local-ipv4/").await.1,
        lab.address.to_string()
    );
    let mac = get("meta-data/mac").await.1;
    let macs = get("meta-data/network/interfaces/macs").await.1;
    assert_eq!(macs, format!("{mac}/"));
    let own = format!("meta-data/network/interfaces/macs/{mac}");
    let fields = get(&own).await.1;
    for field in [
        "device-number",
        "interface-id",
        "local-ipv4s",
        "network-card",
        "subnet-id",
    ] {
        assert!(
            fields.lines().any(|line| line == field),
            "{field} in {fields}"
        );
    }
    assert_eq!(
        get(&format!("{own}/subnet-ipv4-cidr-block")).await.1,
        "127.77.1.0/24"
    );
    assert_eq!(get(&format!("{own}/ipv4-prefix")).await.0, 404);
    assert_eq!(get("meta-data/ipv6").await.0, 404);
    let document = get("dynamic/instance-identity/document").await.1;
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["instanceId"], lab.instance);
    assert_eq!(document["accountId"], "111122223333");
    assert_eq!(
        get("meta-data/iam/security-credentials/").await.1,
        "node-role"
    );
    let role = get("meta-data/iam/security-credentials/node-role").await.1;
    let role: serde_json::Value = serde_json::from_str(&role).unwrap();
    assert_eq!(role["Code"], "Success");
    assert!(role["AccessKeyId"].as_str().unwrap().starts_with("ASIA"));
    // Secondary addresses follow the primary, in the order in which they came.
    let enis = lab
        .sim
        .call(&DescribeNetworkInterfacesRequest::default())
        .await
        .unwrap();
    let assign = AssignPrivateIpAddressesRequest {
        network_interface_id: enis.network_interfaces[0].network_interface_id.clone(),
        secondary_private_ip_address_count: Some(2),
        ..Default::default()
    };
    lab.sim.call(&assign).await.unwrap();
    let addresses = get(&format!("{own}/local-ipv4s")).await.1;
    assert_eq!(addresses.lines().count(), 3);
    assert_eq!(addresses.lines().next().unwrap(), lab.address.to_string());
}

#[tokio::test]
async fn metadata_lags_when_told_to() {
    let lab = lab().await;
    let at = imds(&lab).await;
    lab.sim.set_knobs(Knobs {
        imds_lag_ms: Some(3_600_000),
        ..Knobs::default()
    });
    let token = token(&lab, at).await;
    let headers = [(TOKEN, token.as_str())];
    let enis = lab
        .sim
        .call(&DescribeNetworkInterfacesRequest::default())
        .await
        .unwrap();
    let eni = &enis.network_interfaces[0];
    let mac = eni.mac_address.clone().unwrap();
    let assign = AssignPrivateIpAddressesRequest {
        network_interface_id: eni.network_interface_id.clone(),
        secondary_private_ip_address_count: Some(2),
        ..Default::default()
    };
    lab.sim.call(&assign).await.unwrap();
    let path = format!("/latest/meta-data/network/interfaces/macs/{mac}/local-ipv4s");
    let seen = async || {
        ask(lab.address, at, "GET", &path, &headers)
            .await
            .1
            .lines()
            .count()
    };
    assert_eq!(seen().await, 1, "an hour behind");
    lab.sim.set_knobs(Knobs::default());
    assert_eq!(seen().await, 3);
}

/// The head of what comes back, as far as it comes: until the empty line.
async fn head(from: Ipv4Addr, to: SocketAddr, path: &str) -> String {
    let mut stream = connect(from, to).await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn metadata_hangs_when_told_to() {
    let lab = lab().await;
    let at = imds(&lab).await;
    let reader = Imds::new(&format!("http://{at}")).unwrap();
    for hang in [ImdsHang::Silent, ImdsHang::Head] {
        lab.sim.set_knobs(Knobs {
            imds_hang: Some(hang),
            ..Knobs::default()
        });
        let failed = reader.instance_id().await.unwrap_err();
        assert!(
            matches!(failed, ImdsError::NoToken { .. }),
            "{hang:?}: {failed}"
        );
    }
    let id = "/latest/meta-data/instance-id";
    let head = head(lab.address, at, id).await;
    assert!(head.starts_with("HTTP/1.1 401"), "{head}");
    assert!(head.contains("content-length: 1\r\n"), "{head}");
    lab.sim.set_knobs(Knobs::default());
    let token = token(&lab, at).await;
    let answer = ask(lab.address, at, "GET", id, &[(TOKEN, &token)]).await;
    assert_eq!(answer, (200, lab.instance.clone()));
}

async fn api(sim: &Sim) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let sim = sim.clone();
    tokio::spawn(async move { sim.serve_api(listener, true).await });
    format!("http://{at}")
}

fn client(endpoint: &str, key: &str, secret: &str) -> ec2::Client {
    let credentials = Credentials::new(key, secret, None, None, "test");
    ec2::Client::builder()
        .region("us-west-2")
        .endpoint(endpoint)
        .credentials(credentials)
        .build()
        .unwrap()
}

#[tokio::test]
async fn our_client_and_strict_signatures() {
    let lab = lab().await;
    let endpoint = api(&lab.sim).await;
    let any = client(&endpoint, "AKIDANY", "whatever");
    let vpcs = any.call(DescribeVpcsRequest::default()).await.unwrap().vpcs;
    assert_eq!(vpcs[0].vpc_id.as_deref(), Some(lab.vpc.as_str()));
    lab.sim.set_knobs(Knobs {
        strict_signatures: true,
        ..Knobs::default()
    });
    assert!(any.call(DescribeVpcsRequest::default()).await.is_err());
    let caller = Caller {
        access_key: "AKIDKNOWN".into(),
        ..Caller::root("111122223333")
    };
    lab.sim.add_access_key(caller, "right");
    let wrong = client(&endpoint, "AKIDKNOWN", "wrong");
    let error = wrong
        .call(DescribeVpcsRequest::default())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("SignatureDoesNotMatch"), "{error}");
    let right = client(&endpoint, "AKIDKNOWN", "right");
    assert!(right.call(DescribeVpcsRequest::default()).await.is_ok());
}

#[tokio::test]
async fn a_change_is_answered_when_the_packets_follow_it() {
    let lab = lab().await;
    let mut versions = lab.sim.versions();
    let before = lab.sim.desired().unwrap();
    let eni = before.attachments.iter().next().unwrap();
    assert_eq!(
        (eni.1.host.as_str(), eni.1.device),
        (lab.instance.as_str(), 0)
    );
    assert!(before.world.enis.contains_key(eni.0));
    lab.sim.applied(before.version);
    versions.mark_unchanged();
    let request = CreateNetworkInterfaceRequest {
        subnet_id: some(&lab.subnet),
        ..Default::default()
    };
    let (sim, asked) = (lab.sim.clone(), request.clone());
    let pending = tokio::spawn(async move { sim.call(&asked).await });
    versions.changed().await.unwrap();
    let version = *versions.borrow_and_update();
    assert!(
        !pending.is_finished(),
        "the fabric has not applied version {version}"
    );
    assert_eq!(lab.sim.desired().unwrap().version, version);
    lab.sim.applied(version);
    let answer = tokio::time::timeout(Duration::from_secs(10), pending)
        .await
        .unwrap();
    assert!(answer.unwrap().is_ok());
    lab.sim.fabric_gone();
    assert!(
        lab.sim.call(&request).await.is_ok(),
        "nobody waits for a fabric that is gone"
    );
}

#[tokio::test]
async fn managed_hosts_hold_interfaces() {
    let lab = lab().await;
    let request = CreateNetworkInterfaceRequest {
        subnet_id: some(&lab.subnet),
        ..Default::default()
    };
    let eni = lab
        .sim
        .call(&request)
        .await
        .unwrap()
        .network_interface
        .unwrap();
    let eni: vpc::facts::EniId = eni.network_interface_id.unwrap().parse().unwrap();
    lab.sim
        .attach_managed(&eni, "rds-orders", "amazon-rds")
        .await
        .unwrap();
    assert_eq!(
        lab.sim.desired().unwrap().attachments[&eni].host,
        "rds-orders"
    );
    let delete = DeleteNetworkInterfaceRequest {
        network_interface_id: some(&eni),
        ..Default::default()
    };
    assert_eq!(
        lab.sim.call(&delete).await.unwrap_err().code,
        "InvalidParameterValue"
    );
    assert!(
        lab.sim
            .attach_managed(&eni, "other", "amazon-rds")
            .await
            .is_err()
    );
    lab.sim.release_managed(&eni).await.unwrap();
    assert!(!lab.sim.desired().unwrap().attachments.contains_key(&eni));
    assert!(lab.sim.call(&delete).await.is_ok());
}
