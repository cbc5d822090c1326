//! What can be wrong with the text or the facts that this crate is given.

use std::net::Ipv4Addr;

use crate::name::TableId;

/// Everything this crate can refuse. It has no other failures: it never touches the kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a name that the kernel would take for a link.
    #[error("{name:?} is not a link name: 1 to 15 bytes without '/', ':' or white space")]
    LinkName {
        /// The text that was given.
        name: String,
    },
    /// Not an Ethernet address.
    #[error("{text:?} is not a MAC address such as 02:00:00:00:00:01")]
    Mac {
        /// The text that was given.
        text: String,
    },
    /// Not a routing table.
    #[error("{text:?} is not a routing table: main, local, default or a number above 0")]
    Table {
        /// The text that was given.
        text: String,
    },
    /// A line of `ip rule` or `ip route` form that we do not understand.
    #[error("{line:?}: {reason}")]
    Line {
        /// The whole line.
        line: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Upstream refuses longer prefixes: 4 + 11 digits is the kernel's limit.
    #[error(
        "veth prefix {prefix:?}: at most 4 characters and not eth, lo or vlan (AWS_VPC_K8S_CNI_VETHPREFIX)"
    )]
    VethPrefix {
        /// The prefix that was given.
        prefix: String,
    },
    /// Two ENIs of the facts would share one routing table.
    #[error("two ENIs of this node would use routing table {table}: same card and device index?")]
    TableTwice {
        /// The table both would use.
        table: TableId,
    },
    /// The facts name an ENI for a pod that the node does not have.
    #[error("pod {pod} at {address} is on ENI {eni}, which is not attached to this node")]
    UnknownEni {
        /// `namespace/name` of the pod.
        pod: String,
        /// The pod's address.
        address: Ipv4Addr,
        /// The ENI that the facts name.
        eni: String,
    },
    /// A node without a primary ENI has no way out and no address.
    #[error("this node has no ENI with card 0, device 0")]
    NoPrimaryEni,
}
