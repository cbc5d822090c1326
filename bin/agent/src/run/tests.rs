//! The agent against instance metadata on a real socket that hangs: at its start, and later.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use ec2::imds::ImdsError;
use ec2::types as t;
use ipam::{Key, Lease, Pod, Refusal, Reply};
use kernel::{LinkEnd, NetNs, Socket};
use nodenet::{Addr, LinkName};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use vpcsim::Sim;
use vpcsim::knobs::{ImdsHang, Knobs};

use super::*;
use crate::owner::{Message, Readiness};
use crate::test_ns::in_a_namespace;

/// Far longer than the agent's pauses between two attempts.
const LIMIT: Duration = Duration::from_secs(120);

/// Owner and boot, as [`serve`] starts them.
struct Agent {
    owner: mpsc::Sender<Message>,
    running: JoinHandle<()>,
    _files: tempfile::TempDir,
}

impl Agent {
    fn start(imds: SocketAddr, api: SocketAddr) -> Self {
        let files = tempfile::tempdir().unwrap();
        let folder = files.path().display().to_string();
        // Two addresses in store: they fit on the primary interface, so no other one is attached.
        let variables: [(&str, &str); 5] = [
            ("WARM_IP_TARGET", "2"),
            ("MINIMUM_IP_TARGET", "2"),
            ("HOST_CNI_BIN_PATH", &folder),
            ("HOST_CNI_CONFDIR_PATH", &folder),
            ("AWS_VPC_CNI_IPAMD_SOCKET", &format!("{folder}/ipamd.sock")),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = Settings::from_env(variables).unwrap().settings;
        let (store, found) = Store::open(&files.path().join("ipam.json")).unwrap();
        let (to_owner, messages) = mpsc::channel(256);
        let mut owner = Owner::new(
            Pool::new(Config::new(&settings, 1)),
            store,
            settings.clone(),
            Metrics::default(),
            Ledger::new(VethPrefix::new("eni").unwrap()),
            to_owner.clone(),
        );
        owner.recover(found);
        let ec2 = ec2::Client::builder()
            .region("us-west-2")
            .endpoint(format!("http://{api}"))
            .credentials(ec2::Credentials::new("AKID", "secret", None, None, "test"))
            .build()
            .unwrap();
        tokio::spawn(boot::run(reader(imds), ec2, settings, to_owner.clone()));
        Self {
            owner: to_owner,
            running: tokio::spawn(owner.run(messages, std::future::pending())),
            _files: files,
        }
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> T {
        let (to, answer) = oneshot::channel();
        self.owner.send(message(to)).await.unwrap();
        answer.await.unwrap()
    }

    /// Why the agent is not Ready, as soon as the answer to that is one that is waited for.
    async fn reason(&self, awaited: impl Fn(Option<&str>) -> bool) -> Option<String> {
        let limit = Instant::now() + LIMIT;
        loop {
            let Readiness { reason, .. } = self.ask(Message::Status).await;
            if awaited(reason.as_deref()) {
                return reason;
            }
            assert!(Instant::now() < limit, "it stays at {reason:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn add(&self, pod: &str) -> Reply {
        let add = |to| Message::Add {
            key: key(pod),
            pod: Pod {
                namespace: "shop".into(),
                name: pod.into(),
                uid: String::new(),
            },
            to,
        };
        self.ask(add).await.0.unwrap()
    }

    async fn leased(&self, pod: &str) -> Lease {
        match self.add(pod).await {
            Reply::Leased(lease) => lease,
            other => panic!("{pod}: {other:?}"),
        }
    }

    async fn delete(&self, pod: &str) -> Reply {
        let delete = |to| Message::Delete {
            key: key(pod),
            reason: "PodDeleted".into(),
            to,
        };
        self.ask(delete).await.unwrap()
    }
}

fn key(pod: &str) -> Key {
    Key {
        network: "aws-cni".into(),
        container: pod.into(),
        ifname: "eth0".into(),
    }
}

fn reader(at: SocketAddr) -> Imds {
    Imds::new(&format!("http://{at}")).unwrap()
}

fn turn(sim: &Sim, imds_hang: Option<ImdsHang>) {
    sim.set_knobs(Knobs {
        imds_hang,
        ..Knobs::default()
    });
}

fn listen_at(address: Ipv4Addr) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

fn serve_imds(sim: &Sim, address: Ipv4Addr, vpc: &str) -> SocketAddr {
    let (listener, at) = listen_at(address);
    let (sim, vpc) = (sim.clone(), vpc.parse().unwrap());
    tokio::spawn(async move { sim.serve_imds(listener, vpc).await });
    at
}

#[tokio::test]
async fn metadata_that_hangs_at_the_start_leaves_the_agent_alive_and_not_ready() {
    for hang in [ImdsHang::Silent, ImdsHang::Head] {
        let sim = Sim::new(vpcsim::Config::default());
        turn(&sim, Some(hang));
        let imds = serve_imds(&sim, Ipv4Addr::LOCALHOST, "vpc-0a1");
        // EC2 is not asked before metadata has answered.
        let agent = Agent::start(imds, imds);
        let says = |part: String| move |reason: Option<&str>| reason.unwrap().contains(&part);
        let part = format!("instance metadata at http://{imds}: no token within ");
        let reason = agent.reason(says(part)).await.unwrap();
        assert!(reason.contains("HttpPutResponseHopLimit"), "{reason}");
        let Reply::Refused(Refusal::NotReady { reason }) = agent.add("api").await else {
            panic!("a pod is served without metadata ({hang:?})");
        };
        assert!(reason.contains("instance metadata at "), "{reason}");

        // The agent asks again and again: what metadata says when it hangs no more is the next reason.
        turn(&sim, None);
        let part = format!("instance metadata at http://{imds} answers 404 to api/token");
        agent.reason(says(part)).await;
        assert!(!agent.running.is_finished());
    }
}

/// An instance of the embedded EC2, and its primary interface's link in this namespace.
struct Node {
    sim: Sim,
    vpc: String,
    address: Ipv4Addr,
    _far: NetNs,
}

impl Node {
    async fn new() -> Self {
        let sim = Sim::new(vpcsim::Config::default());
        let vpc = t::CreateVpcRequest {
            cidr_block: Some("10.0.0.0/16".into()),
            ..Default::default()
        };
        let vpc = sim.call(&vpc).await.unwrap().vpc.unwrap().vpc_id.unwrap();
        let subnet = t::CreateSubnetRequest {
            vpc_id: Some(vpc.clone()),
            cidr_block: Some("10.0.1.0/24".into()),
            ..Default::default()
        };
        let subnet = sim.call(&subnet).await.unwrap().subnet.unwrap().subnet_id;
        let run = t::RunInstancesRequest {
            image_id: Some("ami-0123456789abcdef0".into()),
            instance_type: Some("t3.medium".into()),
            min_count: Some(1),
            max_count: Some(1),
            subnet_id: subnet,
            ..Default::default()
        };
        sim.call(&run).await.unwrap();
        let every = t::DescribeNetworkInterfacesRequest::default();
        let mut enis = sim.call(&every).await.unwrap().network_interfaces;
        let eni = enis.remove(0);
        let address: Ipv4Addr = eni.private_ip_address.unwrap().parse().unwrap();
        let far = plug(&eni.mac_address.unwrap(), address);
        Self {
            sim,
            vpc,
            address,
            _far: far,
        }
    }

    fn start(&self) -> (Agent, SocketAddr) {
        // From the interface's own address, requests for metadata are the instance's.
        let imds = serve_imds(&self.sim, self.address, &self.vpc);
        let (listener, api) = listen_at(Ipv4Addr::LOCALHOST);
        let sim = self.sim.clone();
        tokio::spawn(async move { sim.serve_api(listener, false).await });
        (Agent::start(imds, api), imds)
    }
}

/// The link `eth0` with this MAC and address; its other end lies in the namespace that is returned.
fn plug(mac: &str, address: Ipv4Addr) -> NetNs {
    let far = NetNs::create().unwrap();
    let (eth0, there) = (
        LinkName::new("eth0").unwrap(),
        LinkName::new("far0").unwrap(),
    );
    let mut socket = Socket::open().unwrap();
    socket.set_up(&LinkName::loopback(), true).unwrap();
    let end = LinkEnd::new(&eth0).mac(mac.parse().unwrap());
    let other = LinkEnd::new(&there).in_ns(&far);
    socket.add_veth(&end, &other).unwrap();
    let mut socket_there = Socket::open_in(&far).unwrap();
    socket_there.set_up(&there, true).unwrap();
    socket.set_up(&eth0, true).unwrap();
    let net = format!("{address}/24").parse().unwrap();
    socket.add_addr(&Addr::new(eth0, net)).unwrap();
    far
}

#[test]
fn metadata_that_hangs_later_leaves_pods_served() {
    in_a_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(served_while_metadata_hangs());
    });
}

async fn served_while_metadata_hangs() {
    let node = Node::new().await;
    let (agent, imds) = node.start();
    agent.reason(|reason| reason.is_none()).await;
    let first = agent.leased("first").await;
    for hang in [ImdsHang::Silent, ImdsHang::Head] {
        turn(&node.sim, Some(hang));
        let hangs = reader(imds).instance_id().await.unwrap_err();
        assert!(matches!(hangs, ImdsError::NoToken { .. }), "{hangs}");

        // Who runs keeps the address, who comes gets one, who goes gives it back.
        let (_, held) = agent
            .ask(|to| Message::Get {
                key: key("first"),
                to,
            })
            .await
            .unwrap();
        assert_eq!(held, first);
        let other = agent.leased("other").await;
        assert_ne!(other.address, first.address);
        assert_eq!(agent.delete("other").await, Reply::Released(other));
        let Readiness { reason, .. } = agent.ask(Message::Status).await;
        assert_eq!(reason, None, "{hang:?}");
    }
    assert!(!agent.running.is_finished());
}
