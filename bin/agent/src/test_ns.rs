//! A network namespace for a test, as the node that the agent runs on.

use kernel::NetNs;

/// Runs a test on a thread in a namespace of its own, or says that it cannot.
pub(crate) fn in_a_namespace(test: impl FnOnce() + Send) {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("CI").is_none(),
            "needs root, and CI is set"
        );
        eprintln!("SKIPPED: needs root (it makes network namespaces)");
        return;
    }
    NetNs::create().unwrap().run(test).unwrap();
}
