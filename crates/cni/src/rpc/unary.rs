//! A blocking gRPC client for unary calls over a unix socket, without a runtime.
//!
//! The plugin lives for a millisecond and makes one or two calls, one after the other, so it needs
//! neither threads nor a reactor: the HTTP/2 state machine of the `h2` crate is polled by hand, and
//! `poll(2)` on the one socket is the only thing ever waited for. Every wait ends at the deadline
//! the caller gives, which the server is told, too (`grpc-timeout`).
//! What it costs against a tonic channel: docs/decisions/003-plugin-rpc.md.

use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::{Connection, SendRequest};
use http::{HeaderMap, Method, Request, Version};
use prost::Message;
use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens at the socket, or it cannot be reached.
    #[error("cannot connect to {}: is the daemon running?", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The daemon listens but did not answer in time.
    #[error("{} did not answer {method} within {waited:?}: is the daemon stuck?", socket.display())]
    Timeout {
        /// The socket.
        socket: PathBuf,
        /// `/package.Service/Method`.
        method: &'static str,
        /// How long was waited.
        waited: Duration,
    },
    /// The connection broke or the peer does not speak HTTP/2.
    #[error("connection to {} broke during {method}", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// `/package.Service/Method`.
        method: &'static str,
        /// What broke.
        #[source]
        source: h2::Error,
    },
    /// The daemon closed the connection before it answered.
    #[error("{} closed the connection before it answered {method}", socket.display())]
    Closed {
        /// The socket.
        socket: PathBuf,
        /// `/package.Service/Method`.
        method: &'static str,
    },
    /// The daemon answered with an error.
    #[error("{} answered {method} with {code}: {message}", socket.display())]
    Status {
        /// The socket.
        socket: PathBuf,
        /// `/package.Service/Method`.
        method: &'static str,
        /// What sort of error.
        code: GrpcCode,
        /// The daemon's words.
        message: String,
    },
    /// The answer is not the message it should be.
    #[error("the answer of {} to {method} is malformed: {reason}", socket.display())]
    Malformed {
        /// The socket.
        socket: PathBuf,
        /// `/package.Service/Method`.
        method: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl CallError {
    /// Whether the same call may well succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Broken { .. }
            | Self::Closed { .. } => true,
            Self::Status { code, .. } => code.is_transient(),
            Self::Malformed { .. } => false,
        }
    }
}

/// The status of a gRPC answer, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcCode(pub u32);

impl GrpcCode {
    /// The call succeeded.
    pub const OK: Self = Self(0);
    /// The server does not have the method.
    pub const UNIMPLEMENTED: Self = Self(12);

    /// CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, UNAVAILABLE.
    fn is_transient(self) -> bool {
        matches!(self.0, 1 | 4 | 8 | 10 | 14)
    }
}

impl std::fmt::Display for GrpcCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const NAMES: [&str; 17] = [
            "OK",
            "CANCELLED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        ];
        let name = usize::try_from(self.0)
            .ok()
            .and_then(|code| NAMES.get(code));
        match name {
            Some(name) => f.write_str(name),
            None => write!(f, "code {}", self.0),
        }
    }
}

/// One connection to a daemon.
pub struct Channel {
    socket: PathBuf,
    requests: SendRequest<Bytes>,
    connection: Connection<Socket, Bytes>,
    waker: Arc<Flag>,
    stream: Arc<Stream>,
}

impl Channel {
    /// Connects by `deadline`. HTTP/2's opening is only queued here and goes out with the first
    /// request.
    pub fn connect(socket: &Path, deadline: Instant) -> Result<Self, CallError> {
        let failed = |source| CallError::Connect {
            socket: socket.to_owned(),
            source,
        };
        let stream = Arc::new(Stream::new(connect(socket, deadline).map_err(failed)?));
        let waker = Arc::new(Flag::default());
        let mut builder = h2::client::Builder::new();
        builder.enable_push(false).max_concurrent_reset_streams(0);
        let io = Socket(Arc::clone(&stream));
        let task = Waker::from(Arc::clone(&waker));
        let mut opening = pin!(builder.handshake(io));
        match opening.as_mut().poll(&mut Context::from_waker(&task)) {
            Poll::Ready(Ok((requests, connection))) => Ok(Self {
                socket: socket.to_owned(),
                requests,
                connection,
                waker,
                stream,
            }),
            Poll::Ready(Err(error)) => Err(failed(io::Error::other(error))),
            // The opening is 24 bytes and SETTINGS: it always fits a fresh socket's buffer.
            Poll::Pending => Err(failed(io::ErrorKind::WouldBlock.into())),
        }
    }

    /// One call of `method` (`/package.Service/Method`), answered by `deadline`.
    pub fn call<Q: Message, A: Message + Default>(
        &mut self,
        method: &'static str,
        request: &Q,
        deadline: Instant,
    ) -> Result<A, CallError> {
        self.begin(method, request, deadline).answer()
    }

    /// Sends what [`call`](Self::call) sends and returns at once, so that the caller has something
    /// done while the daemon thinks. What goes wrong is told by [`Pending::answer`].
    pub fn begin<Q: Message>(
        &mut self,
        method: &'static str,
        request: &Q,
        deadline: Instant,
    ) -> Pending<'_> {
        let started = Instant::now();
        let head = head(method, deadline.saturating_duration_since(started));
        let body = frame(request);
        let requests = self.requests.clone();
        let mut pending = Pending {
            exchange: Box::pin(exchange(requests, head, body)),
            outcome: None,
            channel: self,
            method,
            started,
            deadline,
        };
        pending.outcome = pending.advance();
        pending
    }

    fn read_answer<A: Message + Default>(
        &self,
        method: &'static str,
        answer: Answer,
    ) -> Result<A, CallError> {
        let malformed = |reason: String| CallError::Malformed {
            socket: self.socket.clone(),
            method,
            reason,
        };
        if answer.status != http::StatusCode::OK {
            return Err(malformed(format!("HTTP status {}", answer.status)));
        }
        let code = answer
            .grpc_status()
            .ok_or_else(|| malformed("no grpc-status".to_owned()))?;
        if code != GrpcCode::OK {
            let message = answer.grpc_message();
            return Err(CallError::Status {
                socket: self.socket.clone(),
                method,
                code,
                message,
            });
        }
        let message = unframe(&answer.body).map_err(|reason| malformed(reason.to_owned()))?;
        A::decode(message).map_err(|source| malformed(source.to_string()))
    }
}

/// A call that was sent and whose answer was not read yet.
pub struct Pending<'c> {
    exchange: Pin<Box<dyn Future<Output = Result<Answer, h2::Error>>>>,
    /// There when it came without waiting.
    outcome: Option<Result<Result<Answer, h2::Error>, Stop>>,
    channel: &'c mut Channel,
    method: &'static str,
    started: Instant,
    deadline: Instant,
}

/// Why an exchange was given up.
enum Stop {
    Deadline,
    Closed,
}

impl Pending<'_> {
    /// Waits for the answer.
    pub fn answer<A: Message + Default>(mut self) -> Result<A, CallError> {
        let outcome = self.outcome.take().unwrap_or_else(|| self.wait());
        let Self {
            channel,
            method,
            started,
            ..
        } = self;
        let socket = channel.socket.clone();
        let answer = outcome.map_err(|stop| match stop {
            Stop::Deadline => CallError::Timeout {
                socket: socket.clone(),
                method,
                waited: started.elapsed(),
            },
            Stop::Closed => CallError::Closed {
                socket: socket.clone(),
                method,
            },
        })?;
        let broken = |source| CallError::Broken {
            socket,
            method,
            source,
        };
        channel.read_answer(method, answer.map_err(broken)?)
    }

    fn wait(&mut self) -> Result<Result<Answer, h2::Error>, Stop> {
        loop {
            if !wait(&self.channel.stream, self.deadline) {
                return Err(Stop::Deadline);
            }
            if let Some(outcome) = self.advance() {
                return outcome;
            }
        }
    }

    /// Polls connection and exchange in turn until the exchange is done or the socket must be waited
    /// for.
    fn advance(&mut self) -> Option<Result<Result<Answer, h2::Error>, Stop>> {
        let task = Waker::from(Arc::clone(&self.channel.waker));
        let mut context = Context::from_waker(&task);
        let mut ended = false;
        loop {
            if let Poll::Ready(done) = self.exchange.as_mut().poll(&mut context) {
                return Some(Ok(done));
            }
            if ended {
                return Some(Err(Stop::Closed));
            }
            // A connection that has ended tells the exchange why, so ask that once more.
            ended = Pin::new(&mut self.channel.connection)
                .poll(&mut context)
                .is_ready();
            if !self.channel.waker.0.swap(false, Ordering::Relaxed) && !ended {
                return None;
            }
        }
    }
}

/// Waits until the socket can go on; false at the deadline.
fn wait(stream: &Stream, deadline: Instant) -> bool {
    let writing = stream.write_blocked.load(Ordering::Relaxed);
    let events = if writing {
        PollFlags::IN | PollFlags::OUT
    } else {
        PollFlags::IN
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(timeout) = rustix::event::Timespec::try_from(left) else {
            return false;
        };
        let mut ready = [PollFd::new(&stream.socket, events)];
        match rustix::event::poll(&mut ready, Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Connects without blocking beyond the deadline: a full backlog holds `connect` up as long as
/// SO_SNDTIMEO allows.
fn connect(socket: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let address = SocketAddrUnix::new(socket)?;
    let fd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let sending = rustix::net::sockopt::Timeout::Send;
    rustix::net::sockopt::set_socket_timeout(&fd, sending, Some(left))?;
    rustix::net::connect(&fd, &address)?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(true)?;
    Ok(stream)
}

struct Answer {
    status: http::StatusCode,
    headers: HeaderMap,
    trailers: HeaderMap,
    body: Bytes,
}

impl Answer {
    /// From the trailers; from the headers of an answer that has nothing else.
    fn field(&self, name: &str) -> Option<&[u8]> {
        let field = self.trailers.get(name).or_else(|| self.headers.get(name));
        field.map(http::HeaderValue::as_bytes)
    }

    fn grpc_status(&self) -> Option<GrpcCode> {
        let text = std::str::from_utf8(self.field("grpc-status")?).ok()?;
        text.parse().ok().map(GrpcCode)
    }

    /// `grpc-message` is percent-encoded UTF-8.
    fn grpc_message(&self) -> String {
        let encoded = self.field("grpc-message").unwrap_or_default();
        let mut decoded = Vec::with_capacity(encoded.len());
        let mut rest = encoded;
        while let [first, tail @ ..] = rest {
            let escaped = match tail {
                [high, low, ..] if *first == b'%' => hex(*high).zip(hex(*low)),
                _ => None,
            };
            match escaped {
                Some((high, low)) => {
                    decoded.push(high << 4 | low);
                    rest = &tail[2..];
                }
                None => {
                    decoded.push(*first);
                    rest = tail;
                }
            }
        }
        String::from_utf8_lossy(&decoded).into_owned()
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

fn head(method: &'static str, timeout: Duration) -> Request<()> {
    Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://localhost{method}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header(
            "grpc-timeout",
            format!("{}m", timeout.as_millis().clamp(1, 99_999_999)),
        )
        .body(())
        .expect("a constant method and constant headers make a request")
}

/// gRPC's framing: not compressed, length, message.
fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(5 + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).expect("a request is far smaller than 4 GiB"));
    message
        .encode(&mut out)
        .expect("the buffer grows as needed");
    out.freeze()
}

fn unframe(body: &[u8]) -> Result<&[u8], &'static str> {
    let [flag, a, b, c, d, message @ ..] = body else {
        return Err("shorter than its frame");
    };
    if *flag != 0 {
        return Err("compressed, though nothing offered to decompress it");
    }
    let length = u32::from_be_bytes([*a, *b, *c, *d]);
    match usize::try_from(length) {
        Ok(length) if length == message.len() => Ok(message),
        _ => Err("its length is not what its frame says"),
    }
}

async fn exchange(
    mut requests: SendRequest<Bytes>,
    head: Request<()>,
    body: Bytes,
) -> Result<Answer, h2::Error> {
    let (answer, mut stream) = {
        std::future::poll_fn(|context| requests.poll_ready(context)).await?;
        requests.send_request(head, false)?
    };
    stream.send_data(body, true)?;
    let (parts, mut body) = answer.await?.into_parts();
    let bytes = read_body(&mut body).await?;
    let trailers = body.trailers().await?.unwrap_or_default();
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        trailers,
        body: bytes,
    })
}

async fn read_body(body: &mut RecvStream) -> Result<Bytes, h2::Error> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// Set when something polled can go on at once.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The socket, and whether a write waits for room in it. A read always waits.
struct Stream {
    socket: UnixStream,
    write_blocked: AtomicBool,
}

impl Stream {
    fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            write_blocked: AtomicBool::new(false),
        }
    }
}

/// The socket for h2: what would block is pending, and [`wait`] knows what to wait for.
struct Socket(Arc<Stream>);

fn or_pending<T>(done: io::Result<T>) -> Poll<io::Result<T>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = io::Read::read(&mut &self.0.socket, to.initialize_unfilled());
        or_pending(read.map(|count| to.advance(count)))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = or_pending(io::Write::write(&mut &self.0.socket, bytes));
        self.0
            .write_blocked
            .store(written.is_pending(), Ordering::Relaxed);
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        or_pending(self.0.socket.shutdown(std::net::Shutdown::Write))
    }
}
