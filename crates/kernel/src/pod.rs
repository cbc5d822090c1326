//! Wiring one pod: what a CNI ADD, DEL and CHECK do to the kernel.
//!
//! The fast path of the product. Per interface it is: one request that makes the veth pair with
//! the pod's end already in the pod's namespace, three settings, the host end up ([`make_pair`], for
//! which no address is needed); then one batch on the host side, one on the pod's side ([`wire`]).
//! No lists, no waiting, nothing is ever moved between namespaces. What fails is taken back in
//! reverse order, so that a failed ADD leaves nothing.

use std::thread;

use nodenet::{HostSide, LinkName, Mac, NodeNet, PodPair, PodSide, PodWiring};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::netlink::{LinkEnd, Socket};
use crate::{Error, NetNs, Result, node, sysctl};

/// Ethernet addresses of both ends of a pod's veth pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Macs {
    /// The node's end; what the pod's gateway resolves to.
    pub host: Mac,
    /// The pod's end.
    pub pod: Mac,
}

impl Macs {
    /// Two random unicast, locally administered addresses. 46 random bits: a clash with another
    /// veth of the node does no harm, since each pair is a network of its own.
    pub fn random() -> Result<Self> {
        let mut bytes = [0u8; 12];
        let failed = |errno: rustix::io::Errno| Error::Random {
            source: errno.into(),
        };
        if getrandom(&mut bytes, GetRandomFlags::empty()).map_err(failed)? != bytes.len() {
            return Err(failed(rustix::io::Errno::AGAIN));
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        Ok(Self {
            host: Mac::local_from([a, b, c, d, e, f]),
            pod: Mac::local_from([g, h, i, j, k, l]),
        })
    }
}

/// Wires one interface of a pod. `host` is a socket in the node's namespace, in which the calling
/// thread must be as well (settings under /proc/sys/net follow the thread).
///
/// A host link of the pod's name is left over from an earlier pod of the same name and is deleted
/// first. A link of the pod's name that exists in the pod's namespace is an error (EEXIST). When
/// anything fails, everything that was made is taken back.
pub fn add(host: &mut Socket, pod_ns: &NetNs, wiring: &PodWiring, macs: Macs) -> Result<()> {
    thread::scope(|scope| {
        // A socket in the pod's namespace needs a thread there; it starts while the pair is made.
        let opening = thread::Builder::new()
            .name("pod-netns".to_owned())
            .spawn_scoped(scope, || {
                pod_ns.enter_for_good().and_then(|()| Socket::open())
            })
            .map_err(|source| Error::Thread {
                ns: pod_ns.id(),
                source,
            })?;
        make_pair(host, pod_ns, &wiring.pair(), macs)?;
        let pod = opening
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match pod {
            Ok(mut pod) => wire(host, &mut pod, wiring, macs),
            Err(error) => or_take_back(Err(error), host, &wiring.host),
        }
    })
}

/// Makes the veth pair of one interface, the pod's end in `pod_ns`, both ends up. All of [`add`]
/// that needs no address, for a caller that still waits for one; [`wire`] does the rest,
/// [`unmake_pair`] takes it back.
///
/// A host link of the pair's name is left over from an earlier pod of the same name and is deleted
/// first. EEXIST when the pod's namespace has a link of the name; then nothing is left.
pub fn make_pair(host: &mut Socket, pod_ns: &NetNs, pair: &PodPair, macs: Macs) -> Result<()> {
    let in_pod = LinkEnd::new(&pair.pod)
        .in_ns(pod_ns)
        .mac(macs.pod)
        .mtu(pair.mtu)
        .up();
    let on_host = LinkEnd::new(&pair.host).mac(macs.host).mtu(pair.mtu);
    match host.add_veth(&in_pod, &on_host) {
        // The kernel may take a gone pod's link away at any moment, also between two of our
        // requests: not being there any more is no reason to give up. If it is the pod's own end
        // that exists, the second attempt says so.
        Err(error) if error.is_exists() => {
            unmake_pair(host, &pair.host)?;
            host.add_veth(&in_pod, &on_host)?;
        }
        other => other?,
    }
    let up = write_sysctls(&pair.sysctls).and_then(|()| host.set_up(&pair.host, true));
    or_else_undo(up, || unmake_pair(host, &pair.host))
}

/// Deletes a pair by its host end; one that is not there is fine.
pub fn unmake_pair(host: &mut Socket, end: &LinkName) -> Result<()> {
    match host.del_link(end) {
        Err(error) if error.is_absent() => Ok(()),
        other => other,
    }
}

/// Gives a pair that [`make_pair`] made with these `macs` the pod's address, routes and rules.
/// `pod` is a socket in the pod's namespace. When anything fails, everything is taken back, the pair
/// included.
pub fn wire(host: &mut Socket, pod: &mut Socket, wiring: &PodWiring, macs: Macs) -> Result<()> {
    let wired = wire_host(host, &wiring.host).and_then(|()| wire_pod(pod, &wiring.pod, macs.host));
    or_take_back(wired, host, &wiring.host)
}

/// Takes away what the node has for one interface of a pod: rules and route. The veth goes with
/// the pod's namespace. Objects that are not there are fine, so it can be repeated.
pub fn del(host: &mut Socket, side: &HostSide) -> Result<()> {
    let batch = side
        .rules()
        .fold(host.batch(), |batch, rule| batch.del_rule(rule));
    absent_is_fine(batch.del_route(&side.route).outcomes()?)?;
    // Very old versions made one rule per CIDR of the VPC: more than one can match.
    if let Some(rule) = &side.from_pod {
        while match host.del_rule(rule) {
            Err(error) if error.is_absent() => false,
            other => other.map(|()| true)?,
        } {}
    }
    Ok(())
}

/// What of a pod's wiring is missing or different, one line each; none when all is as it must be.
/// `host` is a socket in the node's namespace.
pub fn check(host: &mut Socket, pod_ns: &NetNs, wiring: &PodWiring) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    let host_mac = match host.link(&wiring.host.link)? {
        None => {
            missing.push(format!("node: link {}", wiring.host.link));
            None
        }
        Some(state) if !state.link.up => {
            missing.push(format!("node: link {} is down", wiring.host.link));
            state.link.mac
        }
        Some(state) => state.link.mac,
    };
    let rules = host.rules()?;
    let wanted = wiring.host.rules().filter(|rule| !rules.contains(rule));
    missing.extend(wanted.map(|rule| format!("node: rule {rule}")));
    if !host
        .routes_of(wiring.host.route.table)?
        .contains(&wiring.host.route)
    {
        missing.push(format!("node: route {}", wiring.host.route));
    }
    let have = node::read_with(&mut Socket::open_in(pod_ns)?)?;
    missing.extend(missing_in_pod(&wiring.pod, wiring.mtu, host_mac, &have));
    Ok(missing)
}

fn write_sysctls(settings: &[(String, String)]) -> Result<()> {
    settings
        .iter()
        .try_for_each(|(key, value)| sysctl::write_here_if_present(key, value).map(drop))
}

fn wire_host(host: &mut Socket, side: &HostSide) -> Result<()> {
    let batch = host.batch().replace_route(&side.route);
    let outcomes = side
        .rules()
        .fold(batch, |batch, rule| batch.add_rule(rule))
        .outcomes()?;
    for (i, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            // A rule left over from an earlier pod with the address is the rule we want.
            Err(error) if i >= 1 && error.is_exists() => {}
            other => other?,
        }
    }
    Ok(())
}

fn wire_pod(pod: &mut Socket, side: &PodSide, host_mac: Mac) -> Result<()> {
    let [to_gateway, default] = &side.routes;
    let mut batch = pod
        .batch()
        // Added, not replaced as upstream does: the link is new, so a route that is there belongs
        // to another interface.
        .add_route(to_gateway)
        .add_route(default)
        .add_addr(&side.addr)
        .set_neighbour(&side.neighbour(host_mac));
    if let Some(rule) = &side.rule {
        batch = batch.add_rule(rule);
    }
    batch.commit()
}

fn or_take_back(wired: Result<()>, host: &mut Socket, side: &HostSide) -> Result<()> {
    or_else_undo(wired, || take_back(host, side))
}

fn or_else_undo(done: Result<()>, undo: impl FnOnce() -> Result<()>) -> Result<()> {
    done.map_err(|error| match undo() {
        Ok(()) => error,
        Err(second) => Error::Unwind {
            error: Box::new(error),
            second: Box::new(second),
        },
    })
}

/// Takes away all of one interface: rules first, so that no packet is sent to a link that is about
/// to go; route and addresses go with the link.
pub fn take_back(host: &mut Socket, side: &HostSide) -> Result<()> {
    let rules = del(host, side);
    unmake_pair(host, &side.link)?;
    rules
}

fn absent_is_fine(outcomes: Vec<Result<()>>) -> Result<()> {
    let failed = |o: &Result<()>| o.as_ref().is_err_and(|error| !error.is_absent());
    outcomes.into_iter().find(failed).unwrap_or(Ok(()))
}

fn missing_in_pod(side: &PodSide, mtu: u32, host_mac: Option<Mac>, have: &NodeNet) -> Vec<String> {
    let mut missing = Vec::new();
    let mut want = |there: bool, what: String| {
        if !there {
            missing.push(format!("pod: {what}"));
        }
    };
    let link = have.link(&side.link);
    want(
        link.is_some_and(|l| l.up && l.mtu == mtu),
        format!("link {} up, mtu {mtu}", side.link),
    );
    let addr = |a: &nodenet::Addr| a.link == side.link && a.net == side.addr.net;
    want(
        have.addrs.iter().any(addr),
        format!("address {}", side.addr.net),
    );
    for route in &side.routes {
        want(have.routes.contains(route), format!("route {route}"));
    }
    if let Some(rule) = &side.rule {
        want(have.rules.contains(rule), format!("rule {rule}"));
    }
    if let Some(mac) = host_mac {
        let neighbour = side.neighbour(mac);
        want(
            have.neighbours.contains(&neighbour),
            format!("neighbour {} {mac}", side.gateway),
        );
    }
    missing
}
