//! Netlink, network namespaces and nft: read a node's network, apply the difference.
