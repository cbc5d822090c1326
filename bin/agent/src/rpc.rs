//! Upstream's RPC on its socket, each call one message to the owner of the pool.
//!
//! Served from the first moment: a call that comes before the node is known is answered with the
//! reason, never with a refused connection. `ClientVersion` is not compared (upstream compares for
//! equality, which breaks every mixed pair during a rollout).

use std::net::Ipv4Addr;

use cni::rpc::backend::cni_backend_server::CniBackend;
use cni::rpc::backend::config_server_backend_server::ConfigServerBackend;
use cni::rpc::backend::{
    AddNetworkReply, AddNetworkRequest, DelNetworkReply, DelNetworkRequest, Failure, FailureKind,
    IpAllocationMetadata, NetworkPolicyAgentConfigReply,
};
use cni::rpc::node::node_server::Node;
use cni::rpc::node::{
    Allocation, AttachmentKey, GetAllocationReply, ListAllocationsReply, StatusReply,
};
use ipam::{Key, Lease, Pod, Refusal, Reply};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use crate::owner::{Message, NodeView, Readiness};

/// The answers' source: a handle on the owner.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    pub(crate) owner: mpsc::Sender<Message>,
    pub(crate) policy_mode: &'static str,
    pub(crate) external_snat: bool,
}

/// What an ADD or DEL was answered, or that it could not be recorded.
pub(crate) type Answer = Result<Reply, String>;

impl Backend {
    async fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, Status> {
        let (answer, wait) = oneshot::channel();
        let gone = || Status::unavailable("the agent is shutting down");
        self.owner.send(message(answer)).await.map_err(|_| gone())?;
        wait.await.map_err(|_| gone())
    }
}

#[tonic::async_trait]
impl CniBackend for Backend {
    async fn add_network(
        &self,
        request: Request<AddNetworkRequest>,
    ) -> Result<Response<AddNetworkReply>, Status> {
        let r = request.into_inner();
        let mut reply = AddNetworkReply {
            use_external_snat: self.external_snat,
            network_policy_mode: self.policy_mode.to_owned(),
            ..Default::default()
        };
        if r.requires_multi_nic_attachment {
            reply.failure = Some(Failure {
                kind: FailureKind::InvalidRequest.into(),
                reason: "pods on several network cards are not built yet".to_owned(),
                cni_code: 0,
            });
            return Ok(Response::new(reply));
        }
        let key = key(r.network_name, r.container_id, r.if_name)?;
        let pod = Pod {
            namespace: r.k8s_pod_namespace,
            name: r.k8s_pod_name,
            uid: r.k8s_pod_uid,
        };
        let (answer, cidrs) = self.ask(|to| Message::Add { key, pod, to }).await?;
        match answer {
            Ok(Reply::Leased(lease) | Reply::Released(lease)) => {
                reply.success = true;
                reply.ip_allocation_metadata = vec![metadata(&lease)];
                reply.vpc_v4_cidrs = cidrs;
            }
            Ok(Reply::Refused(refusal)) => reply.failure = Some(failure(&refusal)),
            Err(reason) => reply.failure = Some(internal(reason)),
        }
        Ok(Response::new(reply))
    }

    async fn del_network(
        &self,
        request: Request<DelNetworkRequest>,
    ) -> Result<Response<DelNetworkReply>, Status> {
        let r = request.into_inner();
        let key = key(r.network_name, r.container_id, r.if_name)?;
        let reason = r.reason;
        let mut reply = DelNetworkReply {
            network_policy_mode: self.policy_mode.to_owned(),
            ..Default::default()
        };
        match self.ask(|to| Message::Delete { key, reason, to }).await? {
            Ok(Reply::Leased(lease) | Reply::Released(lease)) => {
                reply.success = true;
                reply.ip_allocation_metadata = vec![metadata(&lease)];
            }
            // Upstream's plugin looks for these words and then succeeds.
            Ok(Reply::Refused(Refusal::UnknownPod { .. })) => {
                return Err(Status::unknown(cni::rpc::UNKNOWN_POD));
            }
            Ok(Reply::Refused(refusal)) => reply.failure = Some(failure(&refusal)),
            Err(reason) => reply.failure = Some(internal(reason)),
        }
        Ok(Response::new(reply))
    }
}

#[tonic::async_trait]
impl ConfigServerBackend for Backend {
    async fn get_network_policy_configs(
        &self,
        _: Request<()>,
    ) -> Result<Response<NetworkPolicyAgentConfigReply>, Status> {
        let node: Option<NodeView> = self.ask(Message::Node).await?;
        let node = node.ok_or_else(|| Status::unavailable("the node is not known yet"))?;
        Ok(Response::new(NetworkPolicyAgentConfigReply {
            network_policy_mode: self.policy_mode.to_owned(),
            multi_nic_enabled: false,
            node_ipv4: node.address.to_string(),
            node_ipv6: String::new(),
            instance_id: node.instance,
            region: node.region,
        }))
    }
}

#[tonic::async_trait]
impl Node for Backend {
    async fn status(&self, _: Request<()>) -> Result<Response<StatusReply>, Status> {
        let Readiness {
            reason,
            installation,
        } = self.ask(Message::Status).await?;
        Ok(Response::new(StatusReply {
            ready: reason.is_none(),
            reason: reason.unwrap_or_default(),
            existing_pods_affected: false,
            installation: installation.unwrap_or_default(),
        }))
    }

    async fn list_allocations(
        &self,
        _: Request<()>,
    ) -> Result<Response<ListAllocationsReply>, Status> {
        let all: Vec<(ipam::Allocation, Lease)> = self.ask(Message::List).await?;
        let allocations = all
            .iter()
            .map(|(held, lease)| allocation(held, lease))
            .collect();
        Ok(Response::new(ListAllocationsReply { allocations }))
    }

    async fn get_allocation(
        &self,
        request: Request<AttachmentKey>,
    ) -> Result<Response<GetAllocationReply>, Status> {
        let r = request.into_inner();
        let key = key(r.network_name, r.container_id, r.if_name)?;
        let found = self.ask(|to| Message::Get { key, to }).await?;
        let allocation = found.map(|(held, lease)| allocation(&held, &lease));
        Ok(Response::new(GetAllocationReply { allocation }))
    }
}

fn key(network: String, container: String, ifname: String) -> Result<Key, Status> {
    if container.is_empty() || ifname.is_empty() {
        return Err(Status::invalid_argument(
            "ContainerID and IfName must not be empty",
        ));
    }
    Ok(Key {
        network,
        container,
        ifname,
    })
}

fn metadata(lease: &Lease) -> IpAllocationMetadata {
    let (device, table) = place(lease);
    IpAllocationMetadata {
        ipv4_addr: lease.address.to_string(),
        ipv6_addr: String::new(),
        device_number: device,
        route_table_id: table,
    }
}

/// Device index and routing table. An interface that is gone has neither; the pod's rules are
/// then found by its address in `main`.
fn place(lease: &Lease) -> (i32, i32) {
    let device = lease.device.unwrap_or(0);
    let table = nodenet::layout::eni_table(0, device).0;
    (
        i32::try_from(device).unwrap_or(i32::MAX),
        i32::try_from(table).unwrap_or(i32::MAX),
    )
}

fn allocation(held: &ipam::Allocation, lease: &Lease) -> Allocation {
    let (device_number, route_table_id) = place(lease);
    let address: Ipv4Addr = held.address;
    Allocation {
        key: Some(AttachmentKey {
            container_id: held.key.container.clone(),
            if_name: held.key.ifname.clone(),
            network_name: held.key.network.clone(),
        }),
        k8s_pod_name: held.pod.name.clone(),
        k8s_pod_namespace: held.pod.namespace.clone(),
        k8s_pod_uid: held.pod.uid.clone(),
        ipv4_addr: address.to_string(),
        ipv6_addr: String::new(),
        device_number,
        route_table_id,
    }
}

/// "Try again later": the runtime repeats by itself, and may find an address then.
const TRY_AGAIN: u32 = 11;

fn failure(refusal: &Refusal) -> Failure {
    let (kind, cni_code) = match refusal {
        Refusal::NotReady { .. } | Refusal::Draining => (FailureKind::NotReady, TRY_AGAIN),
        Refusal::TimedOut { .. } | Refusal::NotUsable { .. } => (FailureKind::PoolEmpty, TRY_AGAIN),
        Refusal::SubnetFull { .. }
        | Refusal::Fragmented { .. }
        | Refusal::NoSubnet { .. }
        | Refusal::Limit { .. } => (FailureKind::LimitReached, TRY_AGAIN),
        Refusal::Ec2 { .. } => (FailureKind::Ec2, TRY_AGAIN),
        Refusal::Deleted { .. } | Refusal::UnknownPod { .. } => (FailureKind::InvalidRequest, 0),
    };
    Failure {
        kind: kind.into(),
        reason: refusal.to_string(),
        cni_code,
    }
}

fn internal(reason: String) -> Failure {
    Failure {
        kind: FailureKind::Internal.into(),
        reason,
        // The disk may have room again by then.
        cni_code: TRY_AGAIN,
    }
}
