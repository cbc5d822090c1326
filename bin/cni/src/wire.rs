//! From the daemon's answer to [`PodWiring`], and the namespaces that it goes into.

use std::path::Path;

use cni::{Attachment, NetConf};
use kernel::{NetNs, Socket};
use nodenet::{PodPair, PodPort, PodWiring, TableId};

use crate::daemon::Lease;
use crate::failure::Failure;

/// Both sides of a pod: its namespace and the node's, with a netlink socket in each.
pub(crate) struct Namespaces {
    pub(crate) pod_ns: NetNs,
    pub(crate) pod: Socket,
    pub(crate) host: Socket,
}

impl Namespaces {
    /// Opens the namespace at `path`, which must not be the plugin's own. The process has one
    /// thread and does nothing else, so it visits the namespace itself instead of starting a
    /// thread for that; a visit that cannot return ends in an error that ends the process.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |source| Failure::Namespace {
            path: path.to_owned(),
            source,
        };
        let pod_ns = NetNs::open(path).map_err(failed)?;
        let own = NetNs::current().map_err(failed)?;
        if pod_ns.id() == own.id() {
            return Err(Failure::OwnNamespace {
                path: path.to_owned(),
            });
        }
        let host = Socket::open().map_err(Failure::kernel("open a netlink socket"))?;
        pod_ns.enter_for_good().map_err(failed)?;
        let pod = Socket::open();
        own.enter_for_good().map_err(failed)?;
        Ok(Self {
            pod_ns,
            pod: pod.map_err(failed)?,
            host,
        })
    }
}

/// The veth pair of a pod's interface `index`.
pub(crate) fn pair(conf: &NetConf, attachment: &Attachment, index: u8) -> PodPair {
    let pod = attachment.pod.pod_name();
    PodPair::new(
        &conf.veth_prefix,
        &pod,
        &attachment.if_name,
        index,
        conf.mtu,
    )
}

/// The wiring of a pod's interface `index`.
pub(crate) fn wiring(
    conf: &NetConf,
    attachment: &Attachment,
    lease: &Lease,
    index: u8,
) -> PodWiring {
    wiring_in(conf, attachment, lease.address, lease.table(), index)
}

/// The wiring with the table told apart, for a lease that comes from elsewhere.
pub(crate) fn wiring_in(
    conf: &NetConf,
    attachment: &Attachment,
    address: std::net::Ipv4Addr,
    table: TableId,
    index: u8,
) -> PodWiring {
    PodWiring::new(&PodPort {
        pod: attachment.pod.pod_name(),
        index,
        ifname: attachment.if_name.clone(),
        address,
        table,
        veth_prefix: conf.veth_prefix.clone(),
        mtu: conf.mtu,
    })
}
