//! An address daemon and a policy daemon for tests: real gRPC over unix sockets, real state.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use cni::rpc::backend::cni_backend_server::{CniBackend, CniBackendServer};
use cni::rpc::backend::np_backend_server::{NpBackend, NpBackendServer};
use cni::rpc::backend::*;
use cni::rpc::health::AlwaysServing;
use cni::rpc::health::health_server::HealthServer;
use cni::rpc::node::node_server::{Node, NodeServer};
use cni::rpc::node::{
    Allocation, AttachmentKey, GetAllocationReply, ListAllocationsReply, StatusReply,
};
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

type Key = (String, String, String);

/// What the daemons know and how they behave; tests change it as they go.
#[derive(Default)]
pub(crate) struct State {
    /// Addresses that can be given, with their table, last one first.
    pub(crate) free: Vec<(Ipv4Addr, i32)>,
    /// What is given, by container, interface and network.
    pub(crate) given: BTreeMap<Key, Allocation>,
    /// `NetworkPolicyMode` of replies.
    pub(crate) policy_mode: String,
    /// Sent instead of the reply of an ADD.
    pub(crate) add_reply: Option<AddNetworkReply>,
    /// Sent instead of the reply of a DEL.
    pub(crate) del_reply: Option<DelNetworkReply>,
    /// The answer of Node/Status.
    pub(crate) status: StatusReply,
    /// What the policy daemon answers.
    pub(crate) policy_success: bool,
    /// Calls that came in, in order: `AddNetwork`, `DelNetwork PodDeleted` …
    pub(crate) calls: Vec<String>,
}

impl State {
    fn key(network: &str, container: &str, interface: &str) -> Key {
        (
            container.to_owned(),
            interface.to_owned(),
            network.to_owned(),
        )
    }

    fn give(&mut self, request: &AddNetworkRequest) -> Option<Allocation> {
        let key = Self::key(
            &request.network_name,
            &request.container_id,
            &request.if_name,
        );
        if let Some(given) = self.given.get(&key) {
            return Some(given.clone());
        }
        let (address, table) = self.free.pop()?;
        let allocation = Allocation {
            key: Some(AttachmentKey {
                container_id: request.container_id.clone(),
                if_name: request.if_name.clone(),
                network_name: request.network_name.clone(),
            }),
            k8s_pod_name: request.k8s_pod_name.clone(),
            k8s_pod_namespace: request.k8s_pod_namespace.clone(),
            k8s_pod_uid: request.k8s_pod_uid.clone(),
            ipv4_addr: address.to_string(),
            ipv6_addr: String::new(),
            device_number: (table - 1) % 253,
            route_table_id: table,
        };
        self.given.insert(key, allocation.clone());
        Some(allocation)
    }
}

fn metadata(of: &Allocation) -> IpAllocationMetadata {
    IpAllocationMetadata {
        ipv4_addr: of.ipv4_addr.clone(),
        ipv6_addr: String::new(),
        device_number: of.device_number,
        route_table_id: of.route_table_id,
    }
}

#[derive(Clone)]
struct Daemon(Arc<Mutex<State>>);

impl Daemon {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .lock()
            .expect("no test panics while it holds the state")
    }
}

#[tonic::async_trait]
impl CniBackend for Daemon {
    async fn add_network(
        &self,
        request: Request<AddNetworkRequest>,
    ) -> Result<Response<AddNetworkReply>, Status> {
        let mut state = self.state();
        state.calls.push("AddNetwork".to_owned());
        if let Some(reply) = &state.add_reply {
            return Ok(Response::new(reply.clone()));
        }
        let reply = match state.give(request.get_ref()) {
            Some(given) => AddNetworkReply {
                success: true,
                ip_allocation_metadata: vec![metadata(&given)],
                network_policy_mode: state.policy_mode.clone(),
                ..AddNetworkReply::default()
            },
            None => AddNetworkReply {
                failure: Some(Failure {
                    kind: FailureKind::LimitReached.into(),
                    reason: "subnet subnet-1 has no free address".to_owned(),
                    cni_code: 0,
                }),
                ..AddNetworkReply::default()
            },
        };
        Ok(Response::new(reply))
    }

    async fn del_network(
        &self,
        request: Request<DelNetworkRequest>,
    ) -> Result<Response<DelNetworkReply>, Status> {
        let request = request.into_inner();
        let mut state = self.state();
        state.calls.push(format!("DelNetwork {}", request.reason));
        if let Some(reply) = &state.del_reply {
            return Ok(Response::new(reply.clone()));
        }
        let key = State::key(
            &request.network_name,
            &request.container_id,
            &request.if_name,
        );
        let Some(given) = state.given.remove(&key) else {
            return Err(Status::unknown(cni::rpc::UNKNOWN_POD));
        };
        let address = given.ipv4_addr.parse().expect("we gave it");
        state.free.insert(0, (address, given.route_table_id));
        Ok(Response::new(DelNetworkReply {
            success: true,
            ip_allocation_metadata: vec![metadata(&given)],
            network_policy_mode: state.policy_mode.clone(),
            ..DelNetworkReply::default()
        }))
    }
}

#[tonic::async_trait]
impl Node for Daemon {
    async fn status(&self, _: Request<()>) -> Result<Response<StatusReply>, Status> {
        Ok(Response::new(self.state().status.clone()))
    }

    async fn list_allocations(
        &self,
        _: Request<()>,
    ) -> Result<Response<ListAllocationsReply>, Status> {
        let allocations = self.state().given.values().cloned().collect();
        Ok(Response::new(ListAllocationsReply { allocations }))
    }

    async fn get_allocation(
        &self,
        request: Request<AttachmentKey>,
    ) -> Result<Response<GetAllocationReply>, Status> {
        let key = request.into_inner();
        let key = State::key(&key.network_name, &key.container_id, &key.if_name);
        let allocation = self.state().given.get(&key).cloned();
        Ok(Response::new(GetAllocationReply { allocation }))
    }
}

#[tonic::async_trait]
impl NpBackend for Daemon {
    async fn enforce_np_to_pod(
        &self,
        request: Request<EnforceNpRequest>,
    ) -> Result<Response<EnforceNpReply>, Status> {
        let request = request.into_inner();
        let mut state = self.state();
        let words = format!(
            "EnforceNpToPod {} {}",
            request.network_policy_mode, request.interface_count
        );
        state.calls.push(words);
        Ok(Response::new(EnforceNpReply {
            success: state.policy_success,
        }))
    }

    async fn delete_pod_np(
        &self,
        _: Request<DeleteNpRequest>,
    ) -> Result<Response<DeleteNpReply>, Status> {
        self.state().calls.push("DeletePodNp".to_owned());
        Ok(Response::new(DeleteNpReply { success: true }))
    }
}

/// The daemons of one node, on sockets in a directory of their own.
pub(crate) struct Agent {
    state: Arc<Mutex<State>>,
    directory: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    stop: Vec<oneshot::Sender<()>>,
}

impl Agent {
    /// Both daemons, ours: ready, with the addresses 10.9.1.1 to 10.9.1.40 of the primary ENI.
    pub(crate) fn start() -> Self {
        let mut agent = Self::nobody();
        agent.start_addresses(true);
        agent.start_policy();
        agent
    }

    /// Upstream's address daemon: it lacks our service.
    pub(crate) fn start_as_upstream() -> Self {
        let mut agent = Self::nobody();
        agent.start_addresses(false);
        agent
    }

    /// Sockets on which nobody listens.
    pub(crate) fn nobody() -> Self {
        let state = State {
            free: (1..=40)
                .rev()
                .map(|n| (Ipv4Addr::new(10, 9, 1, n), 254))
                .collect(),
            status: StatusReply {
                ready: true,
                ..StatusReply::default()
            },
            policy_success: true,
            ..State::default()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        Self {
            state: Arc::new(Mutex::new(state)),
            directory: tempfile::tempdir().expect("a temporary directory"),
            runtime,
            stop: Vec::new(),
        }
    }

    pub(crate) fn start_addresses(&mut self, ours: bool) {
        let daemon = Daemon(Arc::clone(&self.state));
        let node = ours.then(|| NodeServer::new(daemon.clone()));
        let router = Server::builder()
            .add_service(CniBackendServer::new(daemon))
            .add_service(HealthServer::new(AlwaysServing))
            .add_optional_service(node);
        self.serve(router, &self.ipamd());
    }

    pub(crate) fn start_policy(&mut self) {
        let daemon = Daemon(Arc::clone(&self.state));
        let router = Server::builder().add_service(NpBackendServer::new(daemon));
        self.serve(router, &self.npa());
    }

    fn serve(&mut self, router: tonic::transport::server::Router, at: &Path) {
        let _entered = self.runtime.enter();
        let listener = tokio::net::UnixListener::bind(at).expect("bind");
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        let (stop, stopped) = oneshot::channel::<()>();
        self.stop.push(stop);
        self.runtime
            .spawn(router.serve_with_incoming_shutdown(incoming, async {
                let _ = stopped.await;
            }));
    }

    /// Ends the daemons, as `kill` would; the state stays.
    pub(crate) fn kill(&mut self) {
        self.stop.clear();
        for socket in [self.ipamd(), self.npa()] {
            let _ = std::fs::remove_file(socket);
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no test panics while it holds the state")
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    pub(crate) fn ipamd(&self) -> PathBuf {
        self.directory.path().join("ipamd.sock")
    }

    pub(crate) fn npa(&self) -> PathBuf {
        self.directory.path().join("npa.sock")
    }
}
