//! Our runtime-less client against a real gRPC server on a unix socket, and against peers that
//! misbehave.
#![cfg(all(feature = "tonic", feature = "unary"))]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cni::rpc::backend::cni_backend_server::{CniBackend, CniBackendServer};
use cni::rpc::backend::{
    AddNetworkReply, AddNetworkRequest, DelNetworkReply, DelNetworkRequest, IpAllocationMetadata,
};
use cni::rpc::health::health_server::HealthServer;
use cni::rpc::health::{
    AlwaysServing, HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
};
use cni::rpc::unary::{CallError, Channel, GrpcCode};
use cni::rpc::{ADD_NETWORK, DEL_NETWORK, HEALTH_CHECK, UNKNOWN_POD};
use tonic::{Request, Response, Status};

/// Echoes the pod's name; refuses every DEL as upstream refuses an unknown pod.
struct Backend;

#[tonic::async_trait]
impl CniBackend for Backend {
    async fn add_network(
        &self,
        request: Request<AddNetworkRequest>,
    ) -> Result<Response<AddNetworkReply>, Status> {
        let request = request.into_inner();
        let one = IpAllocationMetadata {
            ipv4_addr: request.k8s_pod_name,
            ..Default::default()
        };
        let count = request.container_id.parse().unwrap_or(1);
        let many = vec![one; count];
        Ok(Response::new(AddNetworkReply {
            success: true,
            ip_allocation_metadata: many,
            ..AddNetworkReply::default()
        }))
    }

    async fn del_network(
        &self,
        _: Request<DelNetworkRequest>,
    ) -> Result<Response<DelNetworkReply>, Status> {
        Err(Status::unknown(format!(
            "{UNKNOWN_POD}: 100 % \u{2013} \u{e4}"
        )))
    }
}

struct Server {
    directory: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let entered = runtime.enter();
        let listener = tokio::net::UnixListener::bind(directory.path().join("s")).expect("bind");
        drop(entered);
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(CniBackendServer::new(Backend))
                .add_service(HealthServer::new(AlwaysServing))
                .serve_with_incoming(incoming),
        );
        Self {
            directory,
            _runtime: runtime,
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }
}

/// For what comes.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// For what does not come.
fn at_once() -> Instant {
    Instant::now() + Duration::from_millis(100)
}

fn add(name: &str, container_id: &str) -> AddNetworkRequest {
    AddNetworkRequest {
        k8s_pod_name: name.to_owned(),
        container_id: container_id.to_owned(),
        ..AddNetworkRequest::default()
    }
}

#[test]
fn several_calls_on_one_connection() {
    let server = Server::start();
    let mut channel = Channel::connect(&server.socket(), soon()).expect("connects");
    for name in ["a", "b", "c"] {
        let reply: AddNetworkReply = channel
            .call(ADD_NETWORK, &add(name, ""), soon())
            .expect("answers");
        assert_eq!(reply.ip_allocation_metadata[0].ipv4_addr, name);
    }
    let request = HealthCheckRequest {
        service: cni::rpc::HEALTH_SERVICE.to_owned(),
    };
    let health: HealthCheckResponse = channel
        .call(HEALTH_CHECK, &request, soon())
        .expect("answers");
    assert_eq!(health.status(), ServingStatus::Serving);
}

#[test]
fn a_reply_larger_than_every_window_arrives_whole() {
    let server = Server::start();
    let mut channel = Channel::connect(&server.socket(), soon()).expect("connects");
    let request = add("10.0.0.1 and some more text to fill it", "20000");
    let reply: AddNetworkReply = channel
        .call(ADD_NETWORK, &request, soon())
        .expect("answers");
    assert_eq!(reply.ip_allocation_metadata.len(), 20_000);
}

#[test]
fn a_request_larger_than_every_window_arrives_whole() {
    let server = Server::start();
    let mut channel = Channel::connect(&server.socket(), soon()).expect("connects");
    let name = "x".repeat(1_000_000);
    let reply: AddNetworkReply = channel
        .call(ADD_NETWORK, &add(&name, ""), soon())
        .expect("answers");
    assert_eq!(reply.ip_allocation_metadata[0].ipv4_addr, name);
}

#[test]
fn an_error_status_comes_with_its_code_and_words() {
    let server = Server::start();
    let mut channel = Channel::connect(&server.socket(), soon()).expect("connects");
    let error = channel
        .call::<_, DelNetworkReply>(DEL_NETWORK, &DelNetworkRequest::default(), soon())
        .expect_err("the pod is unknown");
    let CallError::Status { code, message, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(code.to_string(), "UNKNOWN");
    assert_eq!(message, format!("{UNKNOWN_POD}: 100 % \u{2013} \u{e4}"));
}

#[test]
fn a_method_that_the_daemon_lacks_is_unimplemented() {
    let server = Server::start();
    let mut channel = Channel::connect(&server.socket(), soon()).expect("connects");
    let error = channel
        .call::<_, ()>(cni::rpc::NODE_STATUS, &(), soon())
        .expect_err("this server is upstream's");
    assert!(
        matches!(
            error,
            CallError::Status {
                code: GrpcCode::UNIMPLEMENTED,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn nobody_listening_names_the_socket() {
    let nowhere = Path::new("/nonexistent/ipamd.sock");
    let error = Channel::connect(nowhere, soon())
        .err()
        .expect("nobody is there");
    assert!(matches!(error, CallError::Connect { .. }));
    assert!(
        error.to_string().contains("/nonexistent/ipamd.sock"),
        "{error}"
    );
    assert!(error.is_transient());
}

/// A peer that accepts one connection and then does as told.
fn peer(act: impl FnOnce(std::os::unix::net::UnixStream) + Send + 'static) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let listener = UnixListener::bind(directory.path().join("s")).expect("bind");
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client comes");
        act(stream);
    });
    directory
}

/// Connects in good time, so that the deadline is the call's alone.
fn call_peer(directory: &tempfile::TempDir, deadline: impl Fn() -> Instant) -> CallError {
    let socket = directory.path().join("s");
    let mut channel = Channel::connect(&socket, soon()).expect("it listens");
    let deadline = deadline();
    let answer = channel.call::<_, AddNetworkReply>(ADD_NETWORK, &add("a", ""), deadline);
    answer.expect_err("no answer")
}

#[test]
fn a_daemon_that_never_answers_is_given_up_at_the_deadline() {
    // The peer reads until the client goes, and never writes.
    let silent = peer(|mut stream| {
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let error = call_peer(&silent, at_once);
    assert!(matches!(error, CallError::Timeout { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("did not answer /rpc.CNIBackend/AddNetwork"),
        "{error}"
    );
}

#[test]
fn a_daemon_that_never_accepts_is_given_up_at_the_deadline() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let _listener = UnixListener::bind(directory.path().join("s")).expect("bind");
    let error = call_peer(&directory, at_once);
    assert!(matches!(error, CallError::Timeout { .. }), "{error}");
}

#[test]
fn a_daemon_that_closes_or_talks_nonsense_is_an_error_at_once() {
    let closing = peer(|mut stream| {
        let _ = stream.read(&mut [0; 16]);
    });
    let error = call_peer(&closing, soon);
    assert!(
        matches!(error, CallError::Broken { .. } | CallError::Closed { .. }),
        "{error}"
    );
    let nonsense = peer(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let error = call_peer(&nonsense, soon);
    assert!(
        matches!(error, CallError::Broken { .. } | CallError::Closed { .. }),
        "{error}"
    );
}
