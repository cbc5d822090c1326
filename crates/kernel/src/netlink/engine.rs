//! Sending requests and collecting what comes back.

use std::io;
use std::os::fd::AsFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, Parseable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{SocketAddr, protocols::NETLINK_ROUTE};
use nodenet::LinkName;
use rustix::io::Errno;

use crate::{Error, NetNs, Result};

/// Bytes of a netlink message's header.
const HEADER: usize = 16;
/// Room for one datagram of the kernel: dumps come in pieces of at most 32 KiB.
const RECEIVE: usize = 64 * 1024;
/// How often an interrupted list is read again.
const DUMP_ATTEMPTS: u32 = 64;
/// NLMSGERR_ATTR_MSG: the kernel's explanation of an error.
const EXT_ACK_MESSAGE: u16 = 1;

/// A blocking rtnetlink socket in one network namespace.
#[derive(Debug)]
pub struct Socket {
    channel: Channel,
}

/// A netlink socket of any protocol that keeps requests and answers together.
pub(crate) struct Channel {
    socket: netlink_sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.socket.fmt(f)
    }
}

/// A request that has its bytes, and the words for its failure.
pub(crate) struct Request {
    /// What is asked for, as `ip` would say it.
    pub(crate) words: String,
    /// The message with its header; sequence number and flags are filled in when it is sent.
    bytes: Vec<u8>,
}

impl Request {
    /// Encodes a request. `flags` are those of its kind (NLM_F_CREATE …).
    pub(crate) fn new(words: String, message: RouteNetlinkMessage, flags: u16) -> Self {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        Self::aligned(words, bytes)
    }

    /// A request of a protocol that has no types here; `payload` follows the netlink header.
    pub(crate) fn raw(words: String, kind: u16, flags: u16, payload: &[u8]) -> Self {
        let length = HEADER + payload.len();
        let mut bytes = vec![0; length];
        bytes[HEADER..].copy_from_slice(payload);
        let mut packet = NetlinkBuffer::new(&mut bytes);
        packet.set_length(length as u32);
        packet.set_message_type(kind);
        packet.set_flags(NLM_F_REQUEST | flags);
        Self::aligned(words, bytes)
    }

    /// The next message of a batch starts at a multiple of 4 bytes.
    fn aligned(words: String, mut bytes: Vec<u8>) -> Self {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Self { words, bytes }
    }

    fn stamp(&mut self, sequence: u32, more_flags: u16) {
        let mut packet = NetlinkBuffer::new(&mut self.bytes);
        let flags = packet.flags() | more_flags;
        packet.set_flags(flags);
        packet.set_sequence_number(sequence);
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn refused(&self, errno: Errno, detail: Option<String>) -> Error {
        Error::Refused {
            request: self.words.clone(),
            errno,
            detail,
        }
    }
}

/// One message of the kernel, cut out of a datagram.
pub(crate) struct Reply {
    pub(super) header: NetlinkHeader,
    /// What follows the netlink header.
    pub(crate) payload: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let channel = Channel::open(NETLINK_ROUTE)?;
        // List requests are checked strictly, so that filters by table and link are honoured.
        let strict = channel.socket.set_netlink_get_strict_chk(true);
        strict.map_err(|source| failed("open", source))?;
        Ok(Self { channel })
    }

    /// Opens a socket in a namespace; it may then be used from any thread.
    pub fn open_in(ns: &NetNs) -> Result<Self> {
        ns.run(Self::open)?
    }

    /// The number of a link in this namespace; one ioctl, no message.
    pub(crate) fn index(&self, link: &LinkName) -> std::result::Result<u32, Errno> {
        rustix::net::netdevice::name_to_index(self.channel.socket.as_fd(), link.as_str())
    }

    /// The name of a link in this namespace.
    pub(crate) fn name_of(&self, index: u32) -> std::result::Result<String, Errno> {
        rustix::net::netdevice::index_to_name(self.channel.socket.as_fd(), index)
    }

    /// Sends one request that has no other answer than success or failure.
    pub(crate) fn execute(&mut self, request: Request) -> Result<()> {
        let mut outcomes = self.exchange(&mut [request])?;
        outcomes.pop().unwrap_or(Ok(()))
    }

    /// Sends requests in one datagram and returns the outcome of each ([`Channel::exchange`]).
    pub(crate) fn exchange(&mut self, requests: &mut [Request]) -> Result<Vec<Result<()>>> {
        self.channel.exchange(requests)
    }

    /// Sends one request that is answered by one object.
    pub(crate) fn get(&mut self, request: Request) -> Result<RouteNetlinkMessage> {
        let reply = self.channel.get(&request)?;
        decode(&request, &reply)
    }

    /// Reads a whole list, again and again until the kernel could write it down undisturbed.
    pub(crate) fn dump(
        &mut self,
        what: &'static str,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        let request = Request::new(format!("list {what}"), message.clone(), NLM_F_DUMP);
        let list = self.channel.dump(what, &request)?;
        list.iter().map(|reply| decode(&request, reply)).collect()
    }
}

impl Channel {
    /// Opens a socket of a netlink protocol in the namespace of the calling thread.
    pub(crate) fn open(protocol: isize) -> Result<Self> {
        let socket = connected(protocol).map_err(|source| failed("open", source))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(RECEIVE),
        })
    }

    /// Sends requests in one datagram and returns the outcome of each, in order. The kernel works
    /// through all of them whatever happens to the first ones.
    pub(crate) fn exchange(&mut self, requests: &mut [Request]) -> Result<Vec<Result<()>>> {
        let Some(last) = requests.len().checked_sub(1) else {
            return Ok(Vec::new());
        };
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(requests.len() as u32);
        let mut datagram = Vec::with_capacity(requests.iter().map(Request::len).sum());
        for (i, request) in requests.iter_mut().enumerate() {
            let flags = if i == last { NLM_F_ACK } else { 0 };
            request.stamp(first.wrapping_add(i as u32), flags);
            datagram.extend_from_slice(&request.bytes);
        }
        self.send(&datagram)?;

        let mut outcomes: Vec<Result<()>> = requests.iter().map(|_| Ok(())).collect();
        let mut waiting = true;
        while waiting {
            self.receive(|reply| {
                let i = reply.header.sequence_number.wrapping_sub(first) as usize;
                if i > last || reply.header.message_type != NLMSG_ERROR {
                    return; // the rest of an exchange that was given up, or an echo
                }
                if let Some((errno, detail)) = error_of(&reply) {
                    outcomes[i] = Err(requests[i].refused(errno, detail));
                }
                waiting &= i != last;
            })?;
        }
        Ok(outcomes)
    }

    /// Sends one request that is answered by one object.
    fn get(&mut self, request: &Request) -> Result<Reply> {
        let sequence = self.start(request)?;
        let mut answer = None;
        while answer.is_none() {
            self.receive(|reply| {
                if reply.header.sequence_number == sequence && answer.is_none() {
                    answer = Some(reply);
                }
            })?;
        }
        match answer {
            Some(reply) if reply.header.message_type != NLMSG_ERROR => Ok(reply),
            other => {
                let error = other
                    .as_ref()
                    .and_then(error_of)
                    .unwrap_or((Errno::NODATA, None));
                Err(request.refused(error.0, error.1))
            }
        }
    }

    /// Reads a whole list, again and again until the kernel could write it down undisturbed.
    pub(crate) fn dump(&mut self, what: &'static str, request: &Request) -> Result<Vec<Reply>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(list) = self.dump_once(request)? {
                return Ok(list);
            }
        }
        Err(Error::Interrupted {
            what,
            attempts: DUMP_ATTEMPTS,
        })
    }

    fn dump_once(&mut self, request: &Request) -> Result<Option<Vec<Reply>>> {
        let sequence = self.start(request)?;
        let (mut list, mut interrupted, mut done) = (Vec::new(), false, None);
        while done.is_none() {
            self.receive(|reply| {
                if reply.header.sequence_number != sequence {
                    return;
                }
                interrupted |= reply.header.flags & NLM_F_DUMP_INTR != 0;
                match reply.header.message_type {
                    NLMSG_DONE | NLMSG_ERROR => done = Some(error_of(&reply)),
                    _ => list.push(reply),
                }
            })?;
        }
        match done.flatten() {
            // The table that was asked for does not exist: an empty list.
            Some((Errno::NOENT, _)) => Ok(Some(Vec::new())),
            Some((Errno::INTR, _)) => Ok(None),
            Some((errno, detail)) => Err(request.refused(errno, detail)),
            None if interrupted => Ok(None),
            None => Ok(Some(list)),
        }
    }

    /// Sends one request under a number of its own.
    fn start(&mut self, request: &Request) -> Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = request.bytes.clone();
        NetlinkBuffer::new(&mut bytes).set_sequence_number(self.sequence);
        self.send(&bytes)?;
        Ok(self.sequence)
    }

    fn send(&self, datagram: &[u8]) -> Result<()> {
        loop {
            match self.socket.send(datagram, 0) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(failed("send", source)),
            }
        }
    }

    /// Receives one datagram and hands its messages to `each`.
    fn receive(&mut self, mut each: impl FnMut(Reply)) -> Result<()> {
        self.buffer.clear();
        while let Err(source) = self.socket.recv(&mut self.buffer, 0) {
            if source.kind() != io::ErrorKind::Interrupted {
                return Err(failed("receive", source));
            }
        }
        messages(&self.buffer, &mut each)
    }
}

/// Cuts a datagram into its messages.
pub(super) fn messages(datagram: &[u8], each: &mut impl FnMut(Reply)) -> Result<()> {
    let mut rest = datagram;
    while rest.len() >= HEADER {
        let malformed = |e: netlink_packet_core::DecodeError| {
            failed(
                "receive",
                io::Error::new(io::ErrorKind::InvalidData, e.to_string()),
            )
        };
        let packet = NetlinkBuffer::new_checked(rest).map_err(malformed)?;
        let header = NetlinkHeader::parse(&packet).map_err(malformed)?;
        let length = packet.length() as usize;
        each(Reply {
            header,
            payload: rest[HEADER..length].to_vec(),
        });
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

fn connected(protocol: isize) -> io::Result<netlink_sys::Socket> {
    let socket = netlink_sys::Socket::new(protocol)?;
    // Connected to the kernel: messages of other processes are refused.
    socket.connect(&SocketAddr::new(0, 0))?;
    // Errors come with an explanation, and without a copy of the request.
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    Ok(socket)
}

pub(super) fn failed(step: &'static str, source: io::Error) -> Error {
    Error::Socket { step, source }
}

fn decode(request: &Request, reply: &Reply) -> Result<RouteNetlinkMessage> {
    RouteNetlinkMessage::deserialize(&reply.header, &reply.payload).map_err(|error| Error::Decode {
        request: request.words.clone(),
        reason: error.to_string(),
    })
}

/// The error of an acknowledgement or of the end of a list; `None` is success.
fn error_of(reply: &Reply) -> Option<(Errno, Option<String>)> {
    let code = i32::from_ne_bytes(reply.payload.get(..4)?.try_into().ok()?);
    if code == 0 {
        return None;
    }
    // An acknowledgement is: error number, header of the request, explanations.
    let attributes = if reply.header.message_type == NLMSG_ERROR {
        4 + HEADER
    } else {
        4
    };
    let detail = reply.payload.get(attributes..).and_then(explanation);
    Some((Errno::from_raw_os_error(-code), detail))
}

/// Finds NLMSGERR_ATTR_MSG among the attributes that follow an error.
fn explanation(mut attributes: &[u8]) -> Option<String> {
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        let kind = u16::from_ne_bytes([attributes[2], attributes[3]]);
        let value = attributes.get(4..length)?;
        if kind == EXT_ACK_MESSAGE {
            let text = String::from_utf8_lossy(value);
            return Some(text.trim_end_matches('\0').to_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}
