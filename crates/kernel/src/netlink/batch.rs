//! Several changes in one send.

use nodenet::{Addr, LinkName, Neighbour, Route, Rule};
use rustix::io::Errno;

use super::engine::{Request, Socket};
use super::{addr, link, neigh, route, rule};
use crate::{Error, Result};

/// Requests per datagram: their failures must fit the socket's receive buffer (208 KiB by default,
/// about 1 KiB each).
const PER_SEND: usize = 64;

/// Changes that are collected and then sent together. The kernel tries every one of them, in
/// order, whatever happens to the ones before: it is no transaction. Links are looked up when a
/// change is added, so they must exist by then.
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch<'a> {
    socket: &'a mut Socket,
    requests: Vec<Result<Request>>,
    /// Names that were looked up, for this batch only: a name may mean another link later.
    names: Vec<(LinkName, u32)>,
}

impl Socket {
    /// Starts a batch.
    pub fn batch(&mut self) -> Batch<'_> {
        Batch {
            socket: self,
            requests: Vec::new(),
            names: Vec::new(),
        }
    }
}

impl Batch<'_> {
    /// Adds an address to its link.
    pub fn add_addr(self, addr: &Addr) -> Self {
        self.with(
            addr::words("addr add", addr),
            Some(&addr.link),
            |words, index| addr::add(words, addr, index),
        )
    }

    /// Removes an address from its link.
    pub fn del_addr(self, addr: &Addr) -> Self {
        self.with(
            addr::words("addr del", addr),
            Some(&addr.link),
            |words, index| addr::del(words, addr, index),
        )
    }

    /// Adds a route; EEXIST when the table has one of the same destination and metric.
    pub fn add_route(self, route: &Route) -> Self {
        self.with_route("route add", route, route::add)
    }

    /// Adds a route or takes the place of the one with the same destination and metric.
    pub fn replace_route(self, route: &Route) -> Self {
        self.with_route("route replace", route, route::replace)
    }

    /// Removes exactly this route: table, destination, metric, link, gateway and type must fit.
    pub fn del_route(self, route: &Route) -> Self {
        self.with_route("route del", route, route::del)
    }

    /// Adds or replaces a permanent neighbour.
    pub fn set_neighbour(self, neighbour: &Neighbour) -> Self {
        let words = neigh::words("neigh replace", neighbour);
        self.with(words, Some(&neighbour.link), |words, index| {
            neigh::set(words, neighbour, index)
        })
    }

    /// Removes a neighbour.
    pub fn del_neighbour(self, neighbour: &Neighbour) -> Self {
        let words = neigh::words("neigh del", neighbour);
        self.with(words, Some(&neighbour.link), |words, index| {
            neigh::del(words, neighbour, index)
        })
    }

    /// Adds a rule; EEXIST when exactly this one is there.
    pub fn add_rule(self, rule: &Rule) -> Self {
        self.with(rule::words("rule add", rule), None, |words, _| {
            rule::add(words, rule)
        })
    }

    /// Removes exactly this rule.
    pub fn del_rule(self, rule: &Rule) -> Self {
        self.with(rule::words("rule del", rule), None, |words, _| {
            rule::del(words, rule)
        })
    }

    /// Sets a link administratively up or down.
    pub fn set_up(self, link: &LinkName, up: bool) -> Self {
        let words = format!("link set {link} {}", if up { "up" } else { "down" });
        self.with(words, Some(link), |words, index| {
            Ok(link::set_up(words, index, up))
        })
    }

    /// Sets a link's MTU in bytes.
    pub fn set_mtu(self, link: &LinkName, mtu: u32) -> Self {
        let words = format!("link set {link} mtu {mtu}");
        self.with(words, Some(link), |words, index| {
            Ok(link::set_mtu(words, index, mtu))
        })
    }

    /// Sends everything; the first failure, if any.
    pub fn commit(self) -> Result<()> {
        self.outcomes()?.into_iter().collect()
    }

    /// Sends everything; the outcome of each change, in the order in which they were added.
    pub fn outcomes(self) -> Result<Vec<Result<()>>> {
        let Self {
            socket, requests, ..
        } = self;
        let mut outcomes: Vec<Option<Result<()>>> = Vec::with_capacity(requests.len());
        let mut ready = Vec::with_capacity(requests.len());
        for request in requests {
            match request {
                Ok(request) => {
                    ready.push(request);
                    outcomes.push(None);
                }
                Err(error) => outcomes.push(Some(Err(error))),
            }
        }
        let mut sent = Vec::with_capacity(ready.len());
        for chunk in ready.chunks_mut(PER_SEND) {
            sent.extend(socket.exchange(chunk)?);
        }
        let mut sent = sent.into_iter();
        Ok(outcomes
            .into_iter()
            .map(|o| o.or_else(|| sent.next()).unwrap_or(Ok(())))
            .collect())
    }

    fn with_route(
        self,
        verb: &str,
        route: &Route,
        encode: fn(String, &Route, Option<u32>) -> Result<Request>,
    ) -> Self {
        self.with(route::words(verb, route), route.link(), |words, index| {
            encode(words, route, route.link().map(|_| index))
        })
    }

    fn with(
        mut self,
        words: String,
        link: Option<&LinkName>,
        encode: impl FnOnce(String, u32) -> Result<Request>,
    ) -> Self {
        let index = link.map_or(Ok(0), |name| self.index(name, &words));
        self.requests
            .push(index.and_then(|index| encode(words, index)));
        self
    }

    fn index(&mut self, name: &LinkName, words: &str) -> Result<u32> {
        if let Some((_, index)) = self.names.iter().find(|(known, _)| known == name) {
            return Ok(*index);
        }
        let index = self
            .socket
            .index(name)
            .map_err(|errno| no_link(name, words, errno))?;
        self.names.push((name.clone(), index));
        Ok(index)
    }
}

/// The error for a link that a request needs.
pub(super) fn no_link(name: &LinkName, words: &str, errno: Errno) -> Error {
    match errno {
        Errno::NODEV | Errno::NXIO => Error::NoLink {
            name: name.clone(),
            request: words.to_owned(),
        },
        errno => Error::Refused {
            request: words.to_owned(),
            errno,
            detail: None,
        },
    }
}
