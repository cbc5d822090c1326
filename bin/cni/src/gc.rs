//! GC: frees what belongs to attachments that the runtime no longer lists.
//!
//! The daemon's list is the truth about what is assigned. Per attachment the kernel's objects go
//! first and the address last: what is interrupted in between is found by the next GC. Errors are
//! collected, the rest goes on.

use std::net::Ipv4Addr;

use cni::rpc::node::Allocation;
use cni::{NetConf, ValidAttachment};
use kernel::Socket;
use nodenet::{PodName, TableId, layout};

use crate::daemon::AddressDaemon;
use crate::del::{absent_is_fine, remove_rules};
use crate::failure::Failure;
use crate::log::Log;
use crate::settings::Settings;

pub(crate) fn run(conf: &NetConf, settings: &Settings, log: &mut Log) -> Result<Vec<u8>, Failure> {
    let valid = conf
        .valid_attachments
        .as_deref()
        .ok_or(Failure::GcWithoutList)?;
    let failed = |call| Failure::Daemon(Box::new(call));
    let mut daemon = AddressDaemon::connect(settings).map_err(failed)?;
    let all = daemon.allocations().map_err(failed)?;
    let mut host = Socket::open().map_err(Failure::kernel("open a netlink socket"))?;
    let mut errors = Vec::new();
    for stale in all
        .iter()
        .filter(|allocation| is_stale(allocation, &conf.name, valid))
    {
        match free(&mut daemon, &mut host, conf, stale) {
            Ok(()) => log.info(&format!("freed {}", name_of(stale))),
            Err(failure) => errors.push(format!("{}: {}", name_of(stale), failure.with_causes())),
        }
    }
    if errors.is_empty() {
        Ok(Vec::new())
    } else {
        Err(Failure::Gc { errors })
    }
}

/// Of this network and not listed. Allocations of other networks have lists of their own.
fn is_stale(allocation: &Allocation, network: &str, valid: &[ValidAttachment]) -> bool {
    let Some(key) = &allocation.key else {
        return false;
    };
    let listed = |valid: &ValidAttachment| {
        valid.container_id == key.container_id && valid.if_name == key.if_name
    };
    key.network_name == network && !valid.iter().any(listed)
}

fn free(
    daemon: &mut AddressDaemon<'_>,
    host: &mut Socket,
    conf: &NetConf,
    stale: &Allocation,
) -> Result<(), Failure> {
    let address: Ipv4Addr = stale.ipv4_addr.parse().map_err(|_| Failure::Answer {
        reason: format!("{:?} is not an IPv4 address", stale.ipv4_addr),
    })?;
    // The link stays: a pod of the same name may live in another container with that link.
    let pod = PodName::new(&stale.k8s_pod_namespace, &stale.k8s_pod_name);
    let link = layout::host_veth(&conf.veth_prefix, &pod, 0);
    let route = nodenet::Route::direct(TableId::MAIN, nodenet::host(address), link);
    remove_rules(host, address)
        .and_then(|()| absent_is_fine(host.del_route(&route)))
        .map_err(Failure::kernel(format!(
            "take away rules and route of {address}"
        )))?;
    daemon
        .del_allocation(stale)
        .map(|_| ())
        .map_err(crate::daemon::DelError::into_failure)
}

fn name_of(allocation: &Allocation) -> String {
    let key = allocation.key.clone().unwrap_or_default();
    format!(
        "{} of {}/{} (container {}, {})",
        allocation.ipv4_addr,
        allocation.k8s_pod_namespace,
        allocation.k8s_pod_name,
        key.container_id,
        key.if_name
    )
}
