//! Desired network state to namespaces, veths, routes and nft rules.
