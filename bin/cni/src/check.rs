//! CHECK: the pod's network is what ADD made, and the daemon still holds its address.
//!
//! What later plugins of the chain may have changed is allowed: another MTU, another default route
//! if the result lists it, anything more.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use cni::rpc::node::Allocation;
use cni::rpc::unary::{CallError, GrpcCode};
use cni::{Attachment, CniResult, Error, NetConf};
use ipnet::IpNet;
use nodenet::{PodWiring, TableId, layout};

use crate::daemon::AddressDaemon;
use crate::failure::Failure;
use crate::settings::Settings;
use crate::wire::{self, Namespaces};

pub(crate) fn run(
    conf: &NetConf,
    settings: &Settings,
    attachment: &Attachment,
    netns: &Path,
) -> Result<Vec<u8>, Failure> {
    let before = conf.prev_result.as_ref().ok_or(Error::PrevResultMissing)?;
    let found = addresses(&before.parsed, attachment);
    if found.is_empty() {
        return Err(Failure::CheckResult {
            name: attachment.if_name.clone(),
        });
    }
    let known = allocation(conf, settings, attachment)?;
    let mut namespaces = Namespaces::open(netns)?;
    let mut problems = Vec::new();
    for (index, address, recorded) in found {
        if index == 0
            && let Known::Is(allocation) = &known
            && allocation.ipv4_addr.parse() != Ok(address)
        {
            return Err(Failure::CheckAllocation {
                address: IpAddr::V4(address),
            });
        }
        let table = known.table(index).or(recorded).unwrap_or(TableId::MAIN);
        let wiring = wire::wiring_in(conf, attachment, address, table, index);
        let wiring = allowing_changes(wiring, &before.parsed, &mut namespaces)?;
        let Namespaces { pod_ns, host, .. } = &mut namespaces;
        let missing = kernel::pod::check(host, pod_ns, &wiring)
            .map_err(Failure::kernel("compare the pod's network"))?;
        problems.extend(missing);
    }
    if problems.is_empty() {
        Ok(Vec::new())
    } else {
        Err(Failure::Check { problems })
    }
}

/// The pod's interfaces in the result, in upstream's order, each with its address and the table
/// that upstream's form records in `mac`.
fn addresses(result: &CniResult, attachment: &Attachment) -> Vec<(u8, Ipv4Addr, Option<TableId>)> {
    let mut found = Vec::new();
    for index in 0..=u8::MAX {
        let name = layout::pod_link(&attachment.if_name, index);
        let at = result
            .interfaces
            .iter()
            .position(|interface| interface.sandbox.is_some() && interface.name == name.as_str());
        let Some(at) = at else { break };
        let Some(address) = result.addresses_of(at).find_map(v4) else {
            break;
        };
        let mac = result.interfaces[at].mac.as_deref();
        let table = mac
            .and_then(|mac| mac.parse().ok())
            .map(layout::reply_table);
        found.push((index, address, table));
    }
    found
}

fn v4(net: IpNet) -> Option<Ipv4Addr> {
    match net {
        IpNet::V4(net) => Some(net.addr()),
        IpNet::V6(_) => None,
    }
}

/// What the daemon says about the attachment.
enum Known {
    Is(Allocation),
    /// Upstream's daemon cannot be asked.
    CannotSay,
}

impl Known {
    fn table(&self, index: u8) -> Option<TableId> {
        match self {
            Self::Is(allocation) if index == 0 => u32::try_from(allocation.route_table_id)
                .ok()
                .map(layout::reply_table),
            _ => None,
        }
    }
}

fn allocation(
    conf: &NetConf,
    settings: &Settings,
    attachment: &Attachment,
) -> Result<Known, Failure> {
    let asked =
        AddressDaemon::connect(settings).and_then(|mut daemon| daemon.allocation(conf, attachment));
    match asked {
        Ok(Some(allocation)) => Ok(Known::Is(allocation)),
        Ok(None) => Err(Failure::Check {
            problems: vec![format!(
                "the address daemon holds no address for container {} interface {}",
                attachment.container_id, attachment.if_name
            )],
        }),
        Err(CallError::Status {
            code: GrpcCode::UNIMPLEMENTED,
            ..
        }) => Ok(Known::CannotSay),
        Err(call) => Err(Failure::Daemon(Box::new(call))),
    }
}

/// Takes over into the expectation what a later plugin may have changed.
fn allowing_changes(
    mut wiring: PodWiring,
    result: &CniResult,
    namespaces: &mut Namespaces,
) -> Result<PodWiring, Failure> {
    let failed = Failure::kernel(format!("look for {} in the pod", wiring.pod.link));
    if let Some(state) = namespaces.pod.link(&wiring.pod.link).map_err(failed)? {
        wiring.mtu = state.link.mtu;
    }
    let ours = IpAddr::V4(wiring.pod.gateway);
    let mut defaults = result
        .routes
        .iter()
        .filter(|route| route.dst.prefix_len() == 0);
    let announced = defaults.clone().any(|route| route.gw == Some(ours));
    if defaults.any(|route| v4(route.dst).is_some()) && !announced {
        // The result has another default route: ours need not be there any more.
        wiring.pod.routes[1] = wiring.pod.routes[0].clone();
    }
    Ok(wiring)
}
