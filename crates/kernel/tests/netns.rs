//! Namespaces: identity, pins, and that the caller is never moved.

#![allow(clippy::unwrap_used, reason = "the helpers are tests as well")]

mod common;

use common::may_run;
use kernel::{NetNs, Socket, sysctl};

#[test]
fn a_pinned_namespace_is_found_again_and_leaves_nothing_behind() {
    if !may_run("pins") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node-1");
    let here = NetNs::current().unwrap().id();
    let made = NetNs::create_pinned(&path).unwrap();
    assert_ne!(made.id(), here);
    assert_eq!(NetNs::open(&path).unwrap().id(), made.id());
    assert_eq!(
        NetNs::current().unwrap().id(),
        here,
        "the caller stays where it is"
    );
    assert!(
        NetNs::create_pinned(&path).is_err(),
        "a pin is never replaced"
    );
    assert_eq!(
        NetNs::open(&path).unwrap().id(),
        made.id(),
        "and survives the attempt"
    );
    drop(made);
    assert!(
        Socket::open_in(&NetNs::open(&path).unwrap()).is_ok(),
        "it lives without a process"
    );
    NetNs::unpin(&path).unwrap();
    assert!(!path.exists());
    NetNs::unpin(&path).unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.path().to_str().unwrap()));
}

#[test]
fn a_file_that_is_no_namespace_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("empty");
    std::fs::write(&path, "").unwrap();
    let error = NetNs::open(&path).unwrap_err();
    assert!(
        matches!(error, kernel::Error::NotANamespace { .. }),
        "{error}"
    );
    let error = NetNs::open(dir.path().join("absent")).unwrap_err();
    assert!(
        matches!(error, kernel::Error::NamespaceOpen { .. }),
        "{error}"
    );
}

#[test]
fn an_interrupted_pin_is_cleaned_up() {
    if !may_run("half a pin") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("half");
    std::fs::write(&path, "").unwrap();
    NetNs::unpin(&path).unwrap();
    assert!(!path.exists());
}

#[test]
fn work_runs_inside_and_the_caller_stays_outside() {
    if !may_run("run") {
        return;
    }
    let here = NetNs::current().unwrap().id();
    let ns = NetNs::create().unwrap();
    assert_eq!(ns.run(|| NetNs::current().unwrap().id()).unwrap(), ns.id());
    assert_eq!(NetNs::current().unwrap().id(), here);
    assert_eq!(NetNs::of_process(std::process::id()).unwrap().id(), here);
    assert_eq!(ns.try_clone().unwrap().id(), ns.id());
}

#[test]
fn a_sysctl_belongs_to_its_namespace() {
    if !may_run("sysctl") {
        return;
    }
    let (a, b) = (NetNs::create().unwrap(), NetNs::create().unwrap());
    sysctl::write(&a, "ipv4/ip_forward", "1").unwrap();
    sysctl::write(&b, "ipv4/ip_forward", "0").unwrap();
    assert_eq!(sysctl::read(&a, "ipv4/ip_forward").unwrap(), "1");
    assert_eq!(sysctl::read(&b, "ipv4/ip_forward").unwrap(), "0");
    let all = [
        ("ipv4/conf/lo/rp_filter", "2"),
        ("ipv4/conf/all/rp_filter", "0"),
    ];
    sysctl::write_all(&a, &all).unwrap();
    assert_eq!(sysctl::read(&a, "ipv4/conf/lo/rp_filter").unwrap(), "2");
    assert!(sysctl::write(&a, "ipv4/no_such_thing", "1").is_err());
    assert!(sysctl::write(&a, "../kernel/hostname", "x").is_err());
    assert!(
        !a.run(|| sysctl::write_here_if_present("ipv4/no_such_thing", "1"))
            .unwrap()
            .unwrap()
    );
}
