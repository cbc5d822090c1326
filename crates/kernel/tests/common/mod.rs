//! What the kernel tests share: they need root, work only in namespaces that they make, and say
//! so loudly when they cannot run.

#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod node;

use kernel::{NetNs, Socket};
use nodenet::LinkName;

/// Whether this process may make namespaces. Without root a test fails in CI and is skipped
/// elsewhere.
pub(crate) fn may_run(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{test} needs root, and CI is set"
    );
    eprintln!("SKIPPED {test}: needs root (it makes network namespaces)");
    false
}

pub(crate) fn name(text: &str) -> LinkName {
    LinkName::new(text).unwrap()
}

/// A namespace of the test's own, with a socket in it and `lo` up.
pub(crate) fn namespace() -> (NetNs, Socket) {
    let ns = NetNs::create().unwrap();
    let mut socket = Socket::open_in(&ns).unwrap();
    socket.set_up(&LinkName::loopback(), true).unwrap();
    (ns, socket)
}
