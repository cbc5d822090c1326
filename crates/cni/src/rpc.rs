//! The RPC between the plugin and the two daemons of a node: upstream's protobuf, field by field.
//!
//! During a rollout a node may run our plugin beside upstream's daemon or the reverse, so package,
//! service, method names, field numbers and types of [`backend`] are upstream's (VPC CNI v1.23) and
//! stay so; what upstream does not have is either an optional field numbered from 1000 on or a call
//! of the separate service [`node`] on the same socket.
//!
//! Both halves are here (feature `tonic`, on by default): the server traits that the agent
//! implements (`backend::cni_backend_server::CniBackend`, `backend::np_backend_server::NpBackend`,
//! `backend::config_server_backend_server::ConfigServerBackend`, `node::node_server::Node`,
//! `health::health_server::Health`), each with its `…Server` wrapper, and the matching clients.

#[cfg(feature = "unary")]
pub mod unary;

/// Where the address daemon listens (`rpc.CNIBackend`, `rpc.ConfigServerBackend`,
/// `branchline.v1.Node`, `grpc.health.v1.Health`). Mode 0660, owner root, as upstream.
pub const IPAMD_SOCKET: &str = "/var/run/aws-node/ipamd.sock";

/// Where the policy daemon listens (`rpc.NPBackend`).
pub const NPA_SOCKET: &str = "/var/run/aws-node/npa.sock";

/// Method paths, as HTTP/2 carries them.
pub const ADD_NETWORK: &str = "/rpc.CNIBackend/AddNetwork";
/// See [`ADD_NETWORK`].
pub const DEL_NETWORK: &str = "/rpc.CNIBackend/DelNetwork";
/// See [`ADD_NETWORK`].
pub const ENFORCE_NP_TO_POD: &str = "/rpc.NPBackend/EnforceNpToPod";
/// See [`ADD_NETWORK`].
pub const DELETE_POD_NP: &str = "/rpc.NPBackend/DeletePodNp";
/// See [`ADD_NETWORK`].
pub const NODE_STATUS: &str = "/branchline.v1.Node/Status";
/// See [`ADD_NETWORK`].
pub const NODE_LIST_ALLOCATIONS: &str = "/branchline.v1.Node/ListAllocations";
/// See [`ADD_NETWORK`].
pub const NODE_GET_ALLOCATION: &str = "/branchline.v1.Node/GetAllocation";
/// See [`ADD_NETWORK`].
pub const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// The version both of upstream's halves send; upstream's daemon refuses any other value.
pub const CLIENT_VERSION: &str = "";

/// Second name, beside `""`, under which upstream's daemon reports its health.
pub const HEALTH_SERVICE: &str = "grpc.health.v1.aws-node";

/// Upstream's text for a DEL of a pod that holds no address. Upstream's plugin looks for these
/// words in the error and then succeeds, so a daemon that serves it must keep them.
pub const UNKNOWN_POD: &str = "datastore: unknown pod";

/// `DelNetworkRequest.reason` of a DEL that the runtime asked for.
pub const REASON_POD_DELETED: &str = "PodDeleted";

/// `DelNetworkRequest.reason` of an ADD that failed after its address was assigned.
pub const REASON_SETUP_FAILED: &str = "SetupNSFailed";

/// `DelNetworkRequest.reason` of a GC that found the attachment gone.
pub const REASON_GARBAGE: &str = "GarbageCollected";

/// Package `rpc`: upstream's three services and their messages.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    reason = "generated; the documentation is in proto/rpc.proto"
)]
pub mod backend {
    include!(concat!(env!("OUT_DIR"), "/rpc.rs"));
}

/// Package `branchline.v1`: what CHECK, GC and STATUS need.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    reason = "generated; the documentation is in proto/node.proto"
)]
pub mod node {
    include!(concat!(env!("OUT_DIR"), "/branchline.v1.rs"));
}

/// Package `grpc.health.v1`, and an implementation for daemons that serve from their first moment.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    reason = "generated; the documentation is in proto/health.proto"
)]
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));

    #[cfg(feature = "tonic")]
    pub use super::serving::AlwaysServing;
}

#[cfg(feature = "tonic")]
mod serving {
    use std::pin::Pin;

    use tokio_stream::{Stream, StreamExt as _};
    use tonic::{Request, Response, Status};

    use super::HEALTH_SERVICE;
    use super::health::health_check_response::ServingStatus;
    use super::health::health_server::Health;
    use super::health::{HealthCheckRequest, HealthCheckResponse};

    /// Answers SERVING for `""` and [`HEALTH_SERVICE`] and NOT_FOUND for any other name, as
    /// upstream's daemon does: whether an ADD can be served is `branchline.v1.Node/Status`.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct AlwaysServing;

    impl AlwaysServing {
        fn answer(service: &str) -> Option<HealthCheckResponse> {
            let known = service.is_empty() || service == HEALTH_SERVICE;
            known.then(|| HealthCheckResponse {
                status: ServingStatus::Serving.into(),
            })
        }
    }

    #[tonic::async_trait]
    impl Health for AlwaysServing {
        async fn check(
            &self,
            request: Request<HealthCheckRequest>,
        ) -> Result<Response<HealthCheckResponse>, Status> {
            let service = request.into_inner().service;
            Self::answer(&service)
                .map(Response::new)
                .ok_or_else(|| Status::not_found(format!("unknown service {service:?}")))
        }

        type WatchStream =
            Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send + 'static>>;

        async fn watch(
            &self,
            request: Request<HealthCheckRequest>,
        ) -> Result<Response<Self::WatchStream>, Status> {
            let unknown = HealthCheckResponse {
                status: ServingStatus::ServiceUnknown.into(),
            };
            let first = Self::answer(&request.into_inner().service).unwrap_or(unknown);
            let stream = tokio_stream::once(Ok(first)).chain(tokio_stream::pending());
            Ok(Response::new(Box::pin(stream)))
        }
    }
}
