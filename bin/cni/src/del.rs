//! DEL: gives the address back and takes away what the node had for it.
//!
//! It succeeds whatever is missing: the daemon, the namespace, `prevResult`, all of it. Without the
//! daemon's word the addresses come from `prevResult` (upstream's form or the specification's) or
//! from the pod's own interface, and nothing is touched that by now belongs to another pod.
//!
//! The veth pair is left to the kernel, which removes it with the pod's namespace in the
//! background: to delete it here would wait for RCU grace periods (10 to 25 ms measured, against
//! 0.003 ms for rules and route), and the runtime removes the namespace right after.

use std::net::Ipv4Addr;
use std::path::Path;

use cni::deleted::Deleted;
use cni::rpc::backend::DelNetworkReply;
use cni::{Attachment, CniResult, NetConf, rpc};
use ipnet::IpNet;
use kernel::Socket;
use kernel::netlink::RouteQuery;
use nodenet::layout::{self, priority};
use nodenet::{LinkName, Rule, TableId, Target};

use crate::add::DUMMY;
use crate::daemon::{self, AddressDaemon, DelError, Lease, Released};
use crate::failure::Failure;
use crate::log::Log;
use crate::settings::Settings;
use crate::wire::{self, Namespaces};

pub(crate) fn run(
    conf: &NetConf,
    settings: &Settings,
    attachment: &Attachment,
    netns: Option<&Path>,
    log: &mut Log,
) -> Result<Vec<u8>, Failure> {
    refuse_branch_pod(conf, attachment)?;
    let daemon = AddressDaemon::connect(settings).map_err(DelError::NoAnswer);
    let mut host = None;
    let answer = daemon.and_then(|mut daemon| {
        let releasing = daemon.release(conf, attachment, rpc::REASON_POD_DELETED);
        // Done while the daemon works.
        log.flush();
        host = Some(open_host());
        releasing.answer()
    });
    match answer {
        Ok(Released::Reply(reply)) => {
            take_away(
                &mut host.unwrap_or_else(open_host)?,
                conf,
                attachment,
                &reply,
            )?;
            forget_policies(settings, attachment, &reply, log);
        }
        Ok(Released::UnknownPod) => {
            log.info("the address daemon does not know this attachment: nothing to release");
        }
        Err(DelError::Refused(failure)) => return Err(failure),
        // No error: runtimes need not repeat a DEL, and a failed one keeps them from cleaning up.
        // The daemon takes the address back when it is there again.
        Err(DelError::NoAnswer(call)) => {
            log.error(&format!("{call}; cleaning up without it"));
            without_daemon(conf, attachment, netns, log)?;
            leave_note(conf, settings, attachment, log);
        }
    }
    Ok(Vec::new())
}

/// A pod on a branch interface has VLAN device and rules that this version does not take away;
/// to succeed would be to leak them.
fn refuse_branch_pod(conf: &NetConf, attachment: &Attachment) -> Result<(), Failure> {
    let dummy = format!("{DUMMY}{}", layout::pod_hash(&attachment.pod.pod_name(), 0));
    let result = conf.prev_result.as_ref().map(|before| &before.parsed);
    let interfaces = result
        .map(|result| result.interfaces.as_slice())
        .unwrap_or_default();
    let vlan = interfaces.iter().find(|interface| interface.name == dummy);
    match vlan.and_then(|interface| interface.mac.as_deref()) {
        None | Some("0") => Ok(()),
        Some(vlan) => Err(Failure::NotBuilt {
            what: format!("security groups for pods (VLAN {vlan})"),
        }),
    }
}

/// For the daemon that comes next: what this attachment has is free. After the clean-up, so that the
/// address is taken back no earlier than its rules are.
fn leave_note(conf: &NetConf, settings: &Settings, attachment: &Attachment, log: &mut Log) {
    let deleted = Deleted {
        network_name: conf.name.clone(),
        container_id: attachment.container_id.to_string(),
        if_name: attachment.if_name.to_string(),
    };
    if let Err(error) = deleted.leave(&settings.ipamd_socket) {
        // It finds out by itself when it misses the pod's link, only later.
        log.warn(&format!(
            "the address daemon will not hear of this DEL: {}: {error}",
            cni::deleted::folder(&settings.ipamd_socket).display()
        ));
    }
}

fn take_away(
    host: &mut Socket,
    conf: &NetConf,
    attachment: &Attachment,
    reply: &DelNetworkReply,
) -> Result<(), Failure> {
    if reply.pod_vlan_id != 0 {
        let what = format!("security groups for pods (VLAN {})", reply.pod_vlan_id);
        return Err(Failure::NotBuilt { what });
    }
    for (index, metadata) in (0..).zip(&reply.ip_allocation_metadata) {
        let lease = Lease::new(metadata)?;
        let side = wire::wiring(conf, attachment, &lease, index).host;
        kernel::pod::del(host, &side).map_err(Failure::kernel(format!(
            "take away rules and route of {}",
            lease.address
        )))?;
    }
    Ok(())
}

fn open_host() -> Result<Socket, Failure> {
    Socket::open().map_err(Failure::kernel("open a netlink socket"))
}

/// A namespace that is gone, or never was one, has nothing to remove.
fn open_namespaces(netns: Option<&Path>, log: &mut Log) -> Option<Namespaces> {
    Namespaces::open(netns?)
        .inspect_err(|failure| log.info(&format!("no pod namespace: {}", failure.with_causes())))
        .ok()
}

fn forget_policies(
    settings: &Settings,
    attachment: &Attachment,
    reply: &DelNetworkReply,
    log: &mut Log,
) {
    if reply.network_policy_mode.is_empty() {
        return;
    }
    match daemon::forget_policies(settings, attachment) {
        Ok(true) => {}
        Ok(false) => log.warn("the policy daemon could not forget the pod"),
        // It cleans up by itself when it sees the link or the pod go.
        Err(call) => log.warn(&format!("policy daemon: {call}")),
    }
}

fn without_daemon(
    conf: &NetConf,
    attachment: &Attachment,
    netns: Option<&Path>,
    log: &mut Log,
) -> Result<(), Failure> {
    let mut host = open_host()?;
    let result = conf.prev_result.as_ref().map(|before| &before.parsed);
    let mut addresses = result.map(addresses_in).unwrap_or_default();
    if addresses.is_empty() {
        addresses = open_namespaces(netns, log)
            .map(|mut namespaces| addresses_on(&mut namespaces, &attachment.if_name))
            .transpose()
            .map_err(Failure::kernel("read the pod's addresses"))?
            .unwrap_or_default();
    }
    for (index, address) in (0..).zip(addresses) {
        let link = layout::host_veth(&conf.veth_prefix, &attachment.pod.pod_name(), index);
        take_away_unless_reused(&mut host, conf, address, &link, log).map_err(Failure::kernel(
            format!("take away rules and route of {address}"),
        ))?;
    }
    Ok(())
}

/// The pod's IPv4 addresses: those of interfaces in a sandbox, or, in the results of 0.2.0 and
/// before, which have no interfaces, the one there is.
fn addresses_in(result: &CniResult) -> Vec<Ipv4Addr> {
    let in_pod = |index: Option<usize>| {
        index.is_none_or(|index| {
            result
                .interfaces
                .get(index)
                .is_some_and(|interface| interface.sandbox.is_some())
        })
    };
    let ours = result.ips.iter().filter(|ip| in_pod(ip.interface));
    ours.filter_map(|ip| v4(ip.address)).collect()
}

fn v4(net: IpNet) -> Option<Ipv4Addr> {
    match net {
        IpNet::V4(net) => Some(net.addr()),
        IpNet::V6(_) => None,
    }
}

fn addresses_on(namespaces: &mut Namespaces, link: &LinkName) -> kernel::Result<Vec<Ipv4Addr>> {
    let all = namespaces.pod.addrs()?;
    Ok(all
        .iter()
        .filter(|addr| addr.link == *link)
        .map(|addr| addr.net.addr())
        .collect())
}

/// Without the daemon nobody says that the address still was this pod's: if its route leads to the
/// veth of another pod, it is that one's now, and so are the rules.
fn take_away_unless_reused(
    host: &mut Socket,
    conf: &NetConf,
    address: Ipv4Addr,
    link: &LinkName,
    log: &mut Log,
) -> kernel::Result<()> {
    let query = RouteQuery {
        dst: address,
        src: None,
        iif: None,
        mark: 0,
    };
    if let Ok(answer) = host.route_get(&query)
        && let Target::Unicast { link: via, .. } = &answer.target
        && conf.veth_prefix.made(via)
        && via != link
    {
        log.warn(&format!(
            "{address} belongs to {via} by now and is left alone"
        ));
        return Ok(());
    }
    remove_rules(host, address)?;
    let route = nodenet::Route::direct(TableId::MAIN, nodenet::host(address), link.clone());
    absent_is_fine(host.del_route(&route))
}

/// Every rule that leads to or from a pod's address, whatever its table.
pub(crate) fn remove_rules(host: &mut Socket, address: Ipv4Addr) -> kernel::Result<()> {
    let net = nodenet::host(address);
    let ours = |rule: &Rule| match rule.priority {
        priority::TO_POD => rule.to == Some(net) && rule.from.is_none(),
        priority::FROM_POD => rule.from == Some(net),
        _ => false,
    };
    let rules = host.rules()?;
    rules
        .iter()
        .filter(|rule| ours(rule))
        .try_for_each(|rule| absent_is_fine(host.del_rule(rule)))
}

pub(crate) fn absent_is_fine(done: kernel::Result<()>) -> kernel::Result<()> {
    match done {
        Err(error) if error.is_absent() => Ok(()),
        done => done,
    }
}
