//! ADD: an address, the wiring, the policies, the result; whatever fails takes back all before it.

use std::net::Ipv4Addr;
use std::path::Path;

use cni::rpc::backend::AddNetworkReply;
use cni::{Attachment, CniResult, Interface, IpConfig, NetConf, Route, SpecVersion, rpc};
use ipnet::{IpNet, Ipv4Net};
use kernel::pod::Macs;
use nodenet::{LinkName, PodPair, PodWiring};

use crate::daemon::{self, AddressDaemon, Lease, Released};
use crate::failure::Failure;
use crate::log::Log;
use crate::settings::Settings;
use crate::wire::{self, Namespaces};

/// A veth pair that has no address yet.
struct Pair {
    ends: PodPair,
    macs: Macs,
}

/// One interface that was made.
struct Made {
    lease: Lease,
    wiring: PodWiring,
    macs: Macs,
}

pub(crate) fn run(
    conf: &NetConf,
    settings: &Settings,
    attachment: &Attachment,
    netns: &Path,
    log: &mut Log,
) -> Result<Vec<u8>, Failure> {
    let mut namespaces = Namespaces::open(netns)?;
    // Before an address is asked for: a second ADD of the same attachment would be given the first
    // one's address, and would release it when it fails.
    refuse_existing(&mut namespaces, &attachment.if_name, netns)?;
    let mut daemon =
        AddressDaemon::connect(settings).map_err(|call| Failure::Daemon(Box::new(call)))?;
    let asked = daemon.ask(conf, attachment, netns);
    // What needs no address is done while the daemon looks for one.
    log.flush();
    let pair = make_pair(&mut namespaces, conf, attachment, 0);
    let reply = match asked.answer() {
        Ok(reply) => reply,
        Err(failure) => return Err(without_address(&mut namespaces, pair.ok(), failure)),
    };
    log.info(&format!(
        "address daemon gave {:?}",
        reply.ip_allocation_metadata
    ));
    let made =
        pair.and_then(|pair| set_up(conf, settings, attachment, &mut namespaces, &reply, pair));
    match made {
        Ok(made) => Ok(result(conf, attachment, netns, &made)),
        Err(failure) => {
            log.error(&format!(
                "taking everything back: {}",
                failure.with_causes()
            ));
            give_back(&mut daemon, conf, attachment, log);
            Err(failure)
        }
    }
}

fn refuse_existing(
    namespaces: &mut Namespaces,
    name: &LinkName,
    netns: &Path,
) -> Result<(), Failure> {
    let failed = Failure::kernel(format!("look for {name} in the pod's network namespace"));
    match namespaces.pod.link(name).map_err(failed)? {
        None => Ok(()),
        Some(_) => Err(Failure::InterfaceExists {
            name: name.clone(),
            netns: netns.to_owned(),
        }),
    }
}

fn make_pair(
    namespaces: &mut Namespaces,
    conf: &NetConf,
    attachment: &Attachment,
    index: u8,
) -> Result<Pair, Failure> {
    let macs = Macs::random().map_err(Failure::kernel("choose MAC addresses"))?;
    let ends = wire::pair(conf, attachment, index);
    kernel::pod::make_pair(&mut namespaces.host, &namespaces.pod_ns, &ends, macs)
        .map_err(cannot_set_up(&ends.host))?;
    Ok(Pair { ends, macs })
}

fn cannot_set_up(link: &LinkName) -> impl FnOnce(kernel::Error) -> Failure {
    Failure::kernel(format!("set up {link} for the pod"))
}

/// Takes a pair back that no address came for.
fn without_address(namespaces: &mut Namespaces, pair: Option<Pair>, failure: Failure) -> Failure {
    let undo = |pair: Pair| kernel::pod::unmake_pair(&mut namespaces.host, &pair.ends.host).err();
    failure.with_undone(pair.and_then(undo).into_iter().collect())
}

fn leases(reply: &AddNetworkReply) -> Result<Vec<Lease>, Failure> {
    if reply.pod_vlan_id != 0 {
        let what = format!("security groups for pods (VLAN {})", reply.pod_vlan_id);
        return Err(Failure::NotBuilt { what });
    }
    if reply.ip_allocation_metadata.is_empty() {
        return Err(Failure::Answer {
            reason: "success, but no address".to_owned(),
        });
    }
    reply
        .ip_allocation_metadata
        .iter()
        .map(Lease::new)
        .collect()
}

/// All or nothing: wires every interface, the first with the pair that is there, and has the
/// policies enforced.
fn set_up(
    conf: &NetConf,
    settings: &Settings,
    attachment: &Attachment,
    namespaces: &mut Namespaces,
    reply: &AddNetworkReply,
    first: Pair,
) -> Result<Vec<Made>, Failure> {
    let leases = match leases(reply) {
        Ok(leases) => leases,
        Err(failure) => return Err(without_address(namespaces, Some(first), failure)),
    };
    let mut first = Some(first);
    let mut made = Vec::with_capacity(leases.len());
    let done = (0..).zip(leases).try_for_each(|(index, lease)| {
        let Pair { ends, macs } = match first.take() {
            Some(pair) => pair,
            None => make_pair(namespaces, conf, attachment, index)?,
        };
        let wiring = wire::wiring(conf, attachment, &lease, index);
        let Namespaces { pod, host, .. } = &mut *namespaces;
        kernel::pod::wire(host, pod, &wiring, macs).map_err(cannot_set_up(&ends.host))?;
        made.push(Made {
            lease,
            wiring,
            macs,
        });
        Ok(())
    });
    let mode = reply.network_policy_mode.as_str();
    let done = done.and_then(|()| match mode {
        "" => Ok(()),
        mode => daemon::enforce_policies(settings, attachment, mode, made.len()),
    });
    match done {
        Ok(()) => Ok(made),
        Err(failure) => Err(unwind(namespaces, &made, failure)),
    }
}

/// Takes back what was made, the last first. What cannot be taken back is told with the failure
/// that began it.
fn unwind(namespaces: &mut Namespaces, made: &[Made], failure: Failure) -> Failure {
    let undo = |made: &Made| kernel::pod::take_back(&mut namespaces.host, &made.wiring.host).err();
    failure.with_undone(made.iter().rev().filter_map(undo).collect())
}

fn give_back(
    daemon: &mut AddressDaemon<'_>,
    conf: &NetConf,
    attachment: &Attachment,
    log: &mut Log,
) {
    match daemon.del(conf, attachment, rpc::REASON_SETUP_FAILED) {
        Ok(Released::Reply(_) | Released::UnknownPod) => {}
        // The runtime calls DEL after a failed ADD, which asks again.
        Err(error) => log.error(&format!(
            "the address was not given back: {}",
            error.into_failure().with_causes()
        )),
    }
}

fn result(conf: &NetConf, attachment: &Attachment, netns: &Path, made: &[Made]) -> Vec<u8> {
    let ours = if conf.version >= SpecVersion::V1_0_0 {
        as_specified(netns, made)
    } else {
        as_upstream(attachment, netns, made)
    };
    match &conf.prev_result {
        None => ours.to_json(conf.version),
        // We are not the first of the chain: what came before us stays.
        Some(before) => {
            let mut both = before.parsed.clone();
            both.append(ours);
            both.to_json(conf.version)
        }
    }
}

/// Upstream's result: no MAC addresses but the table in `mac`, and a last interface that does not
/// exist, whose `mac` is the VLAN (0: none) and whose `sandbox` is the device number. Upstream's
/// DEL depends on every part of it.
fn as_upstream(attachment: &Attachment, netns: &Path, made: &[Made]) -> CniResult {
    let mut result = CniResult::default();
    for Made { lease, wiring, .. } in made {
        result.interfaces.push(named(&wiring.host.link));
        result.interfaces.push(Interface {
            mac: Some(lease.route_table_id.to_string()),
            sandbox: Some(netns.to_string_lossy().into_owned()),
            ..named(&wiring.pod.link)
        });
        result.ips.push(IpConfig {
            interface: Some(result.interfaces.len() - 1),
            address: host_prefix(lease.address),
            gateway: None,
        });
    }
    let hash = nodenet::layout::pod_hash(&attachment.pod.pod_name(), 0);
    result.interfaces.push(Interface {
        name: format!("{DUMMY}{hash}"),
        mac: Some("0".to_owned()),
        sandbox: made
            .first()
            .map(|made| made.lease.device_number.to_string()),
        ..Interface::default()
    });
    result
}

/// What the name of upstream's interface that does not exist begins with.
pub(crate) const DUMMY: &str = "dummy";

/// The specification's result: what was made.
fn as_specified(netns: &Path, made: &[Made]) -> CniResult {
    let mut result = CniResult::default();
    for Made {
        lease,
        wiring,
        macs,
    } in made
    {
        result.interfaces.push(Interface {
            mac: Some(macs.host.to_string()),
            mtu: Some(wiring.mtu),
            ..named(&wiring.host.link)
        });
        result.interfaces.push(Interface {
            mac: Some(macs.pod.to_string()),
            mtu: Some(wiring.mtu),
            sandbox: Some(netns.to_string_lossy().into_owned()),
            ..named(&wiring.pod.link)
        });
        let gateway = wiring.pod.gateway.into();
        result.ips.push(IpConfig {
            interface: Some(result.interfaces.len() - 1),
            address: host_prefix(lease.address),
            gateway: Some(gateway),
        });
        let table = wiring.pod.routes[0].table;
        let table = (table != nodenet::TableId::MAIN).then_some(table.0);
        let to_gateway = Route {
            scope: Some(SCOPE_LINK),
            table,
            ..Route::new(host_prefix(wiring.pod.gateway), None)
        };
        let default = IpNet::V4(Ipv4Net::default());
        result.routes.push(to_gateway);
        result.routes.push(Route {
            table,
            ..Route::new(default, Some(gateway))
        });
    }
    result
}

/// RT_SCOPE_LINK (linux/rtnetlink.h).
const SCOPE_LINK: u32 = 253;

fn named(link: &LinkName) -> Interface {
    Interface {
        name: link.to_string(),
        ..Interface::default()
    }
}

fn host_prefix(address: Ipv4Addr) -> IpNet {
    IpNet::V4(nodenet::host(address))
}
