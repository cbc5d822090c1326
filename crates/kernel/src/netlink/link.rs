//! Links: look-up, creation with both ends directly where they belong, settings.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
    LinkMessage, MacVlanMode,
};
use nodenet::{Link, LinkKind, LinkName, Mac};
use rustix::io::Errno;

use super::batch::no_link;
use super::engine::{Request, Socket};
use crate::{Error, NetNs, Result};

/// One end of a pair, or one new link: where it is created and how.
#[derive(Debug, Clone, Copy)]
pub struct LinkEnd<'a> {
    /// The namespace that it is created in; `None` is the socket's. Nothing is ever moved between
    /// namespaces: that waits for an RCU grace period (16 ms measured).
    pub ns: Option<&'a NetNs>,
    /// Its name.
    pub name: &'a LinkName,
    /// Its Ethernet address; the kernel chooses one without. An address that was given is marked
    /// as set by the user, so that udev leaves it alone.
    pub mac: Option<Mac>,
    /// Its MTU in bytes; the kernel's 1500 without.
    pub mtu: Option<u32>,
    /// Created administratively up. Not for the second end of a veth pair: the kernel brings it
    /// up before it knows its peer and would answer ENOTCONN (veth_open).
    pub up: bool,
}

impl<'a> LinkEnd<'a> {
    /// An end in the socket's own namespace, down, everything else as the kernel chooses.
    pub fn new(name: &'a LinkName) -> Self {
        Self {
            ns: None,
            name,
            mac: None,
            mtu: None,
            up: false,
        }
    }

    /// In another namespace.
    #[must_use]
    pub fn in_ns(self, ns: &'a NetNs) -> Self {
        Self {
            ns: Some(ns),
            ..self
        }
    }

    /// With this Ethernet address.
    #[must_use]
    pub fn mac(self, mac: Mac) -> Self {
        Self {
            mac: Some(mac),
            ..self
        }
    }

    /// With this MTU in bytes.
    #[must_use]
    pub fn mtu(self, mtu: u32) -> Self {
        Self {
            mtu: Some(mtu),
            ..self
        }
    }

    /// Created administratively up (not for the second end of a veth pair).
    #[must_use]
    pub fn up(self) -> Self {
        Self { up: true, ..self }
    }

    fn message(&self) -> LinkMessage {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(self.name.as_str().to_owned()));
        if let Some(ns) = self.ns {
            message
                .attributes
                .push(LinkAttribute::NetNsFd(ns.as_fd().as_raw_fd()));
        }
        if let Some(mac) = self.mac {
            message
                .attributes
                .push(LinkAttribute::Address(mac.0.to_vec()));
        }
        if let Some(mtu) = self.mtu {
            message.attributes.push(LinkAttribute::Mtu(mtu));
        }
        if self.up {
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
        }
        message
    }
}

/// A link as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// Its number in its namespace.
    pub index: u32,
    /// What the model knows of a link.
    pub link: Link,
    /// Number of the other end (veth) or of the link below (macvlan, vlan), possibly in another
    /// namespace.
    pub peer: Option<u32>,
    /// It can send: the other end is up.
    pub carrier: bool,
    /// The Ethernet address that the hardware has, whatever it was set to since; virtual links
    /// have none.
    pub permanent: Option<Mac>,
}

impl Socket {
    /// The link of this name; `None` when there is none.
    pub fn link(&mut self, name: &LinkName) -> Result<Option<LinkState>> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.as_str().to_owned()));
        self.get_link(format!("link show {name}"), message)
    }

    /// The link of this number; `None` when there is none.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<LinkState>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.get_link(format!("link show index {index}"), message)
    }

    /// The link with this Ethernet address, or else the one whose hardware has it and that was
    /// given another. The kernel cannot be asked for one, so this reads the list of links.
    pub fn link_by_mac(&mut self, mac: Mac) -> Result<Option<LinkState>> {
        Ok(with_mac(&self.links()?, mac).cloned())
    }

    /// All links of the namespace, in the order of their numbers.
    pub fn links(&mut self) -> Result<Vec<LinkState>> {
        let mut message = LinkMessage::default();
        message.attributes.push(without_statistics());
        let list = self.dump("links", &RouteNetlinkMessage::GetLink(message))?;
        let links = list.into_iter().filter_map(|m| match m {
            RouteNetlinkMessage::NewLink(link) => Some(state("link show", &link)),
            _ => None,
        });
        links.collect()
    }

    /// Makes a veth pair, each end directly in its namespace, with names, addresses and MTU, in one
    /// request: it exists as a whole or not at all. EEXIST when a name is taken. The first end can
    /// be created up, the second is to be brought up afterwards.
    pub fn add_veth(&mut self, end: &LinkEnd<'_>, peer: &LinkEnd<'_>) -> Result<()> {
        let words = format!("link add {} type veth peer {}", end.name, peer.name);
        if peer.up {
            let reason = "the second end of a veth pair cannot be created up";
            return Err(Error::Unsupported {
                request: words,
                reason,
            });
        }
        let mut message = one_queue(end.message());
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(one_queue(peer.message())))),
        ]));
        self.execute(create(words, message))
    }

    /// Makes a macvlan in bridge mode on `parent`, which is in the socket's namespace.
    pub fn add_macvlan(&mut self, end: &LinkEnd<'_>, parent: &LinkName) -> Result<()> {
        let words = format!(
            "link add {} link {parent} type macvlan mode bridge",
            end.name
        );
        let parent = self
            .index(parent)
            .map_err(|errno| no_link(parent, &words, errno))?;
        let mut message = end.message();
        message.attributes.push(LinkAttribute::Link(parent));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::MacVlan),
            LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(
                MacVlanMode::Bridge,
            )])),
        ]));
        self.execute(create(words, message))
    }

    /// Deletes a link (and a veth's other end). ENODEV when it does not exist.
    pub fn del_link(&mut self, name: &LinkName) -> Result<()> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.as_str().to_owned()));
        self.execute(Request::new(
            format!("link del {name}"),
            RouteNetlinkMessage::DelLink(message),
            0,
        ))
    }

    /// Sets a link administratively up or down.
    pub fn set_up(&mut self, name: &LinkName, up: bool) -> Result<()> {
        self.batch().set_up(name, up).commit()
    }

    /// Sets a link's MTU in bytes.
    pub fn set_mtu(&mut self, name: &LinkName, mtu: u32) -> Result<()> {
        self.batch().set_mtu(name, mtu).commit()
    }

    /// Sets a link's Ethernet address.
    pub fn set_mac(&mut self, name: &LinkName, mac: Mac) -> Result<()> {
        self.set(
            name,
            &format!("address {mac}"),
            LinkAttribute::Address(mac.0.to_vec()),
        )
    }

    /// Gives a link another name. Kernels before 6.2 want it to be down.
    pub fn rename(&mut self, name: &LinkName, to: &LinkName) -> Result<()> {
        self.set(
            name,
            &format!("name {to}"),
            LinkAttribute::IfName(to.as_str().to_owned()),
        )
    }

    fn set(&mut self, name: &LinkName, words: &str, attribute: LinkAttribute) -> Result<()> {
        let words = format!("link set {name} {words}");
        let index = self
            .index(name)
            .map_err(|errno| no_link(name, &words, errno))?;
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(attribute);
        self.execute(Request::new(
            words,
            RouteNetlinkMessage::SetLink(message),
            0,
        ))
    }

    fn get_link(&mut self, words: String, mut message: LinkMessage) -> Result<Option<LinkState>> {
        message.attributes.push(without_statistics());
        let request = Request::new(words.clone(), RouteNetlinkMessage::GetLink(message), 0);
        match self.get(request) {
            Ok(RouteNetlinkMessage::NewLink(link)) => state(&words, &link).map(Some),
            Ok(other) => Err(Error::Decode {
                request: words,
                reason: format!("{other:?}"),
            }),
            Err(Error::Refused {
                errno: Errno::NODEV,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The link that stands for an Ethernet address ([`Socket::link_by_mac`]).
pub fn with_mac(links: &[LinkState], mac: Mac) -> Option<&LinkState> {
    let has = |l: &&LinkState| l.link.mac == Some(mac);
    let had = |l: &&LinkState| l.permanent == Some(mac);
    links.iter().find(has).or_else(|| links.iter().find(had))
}

pub(super) fn set_up(words: String, index: u32, up: bool) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = if up {
        LinkFlags::Up
    } else {
        LinkFlags::empty()
    };
    message.header.change_mask = LinkFlags::Up;
    Request::new(words, RouteNetlinkMessage::SetLink(message), 0)
}

pub(super) fn set_mtu(words: String, index: u32, mtu: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::Mtu(mtu));
    Request::new(words, RouteNetlinkMessage::SetLink(message), 0)
}

/// Asks for one queue in each direction, which is what a veth uses anyway. Without asking, the
/// kernel makes one per CPU, then takes all but one away and waits for an RCU grace period for
/// each end (veth_init_queues, netif_set_real_num_tx_queues; Linux 5.13 and later).
fn one_queue(mut message: LinkMessage) -> LinkMessage {
    message.attributes.push(LinkAttribute::NumTxQueues(1));
    message.attributes.push(LinkAttribute::NumRxQueues(1));
    message
}

fn create(words: String, message: LinkMessage) -> Request {
    Request::new(
        words,
        RouteNetlinkMessage::NewLink(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// RTEXT_FILTER_SKIP_STATS: counters are two thirds of a link's description.
fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

pub(super) fn state(words: &str, message: &LinkMessage) -> Result<LinkState> {
    let mut name = None;
    let (mut mac, mut permanent) = (None, None);
    let (mut mtu, mut peer, mut kind) = (0, None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = LinkName::new(text.as_str()).ok(),
            LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            LinkAttribute::PermAddress(bytes) => {
                permanent = bytes.as_slice().try_into().ok().map(Mac);
            }
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            LinkAttribute::Link(index) => peer = Some(*index),
            LinkAttribute::LinkInfo(info) => kind = kind_of(info),
            _ => {}
        }
    }
    let flags = message.header.flags;
    let loopback = flags.contains(LinkFlags::Loopback);
    let name = name.ok_or_else(|| Error::Decode {
        request: words.to_owned(),
        reason: format!("link {} has no usable name", message.header.index),
    })?;
    let kind = if loopback {
        LinkKind::Loopback
    } else {
        kind.unwrap_or(LinkKind::Device)
    };
    let link = Link {
        name,
        kind,
        mac: mac.filter(|_| !loopback),
        mtu,
        up: flags.contains(LinkFlags::Up),
    };
    let carrier = flags.contains(LinkFlags::LowerUp);
    Ok(LinkState {
        index: message.header.index,
        link,
        peer,
        carrier,
        permanent,
    })
}

fn kind_of(info: &[LinkInfo]) -> Option<LinkKind> {
    info.iter().find_map(|i| match i {
        LinkInfo::Kind(InfoKind::Veth) => Some(LinkKind::Veth),
        LinkInfo::Kind(kind) => Some(LinkKind::Other(kind.to_string())),
        _ => None,
    })
}
