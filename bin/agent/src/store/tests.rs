use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use ipam::{Allocation, Millis, Pod};

use super::recover::{modified, since_epoch};
use super::*;

fn allocation(container: &str, last: u8) -> Allocation {
    let key = Key {
        network: "aws-cni".into(),
        container: container.into(),
        ifname: "eth0".into(),
    };
    let pod = Pod {
        namespace: "ns".into(),
        name: "pod".into(),
        uid: "u".into(),
    };
    let since = Millis(1_700_000_000_000);
    Allocation {
        key,
        pod,
        address: Ipv4Addr::new(10, 0, 1, last),
        since,
    }
}

fn open(dir: &tempfile::TempDir) -> Result<(Store, Recovered), Error> {
    Store::open(&dir.path().join("ipam.json"))
}

fn pool() -> Pool {
    Pool::new(ipam::Config::new(&settings::Settings::default(), 1))
}

/// A pool that holds these leases.
fn pool_with(allocations: Vec<Allocation>) -> Pool {
    let mut pool = pool();
    let recovered = ipam::Event::Recovered {
        allocations,
        released: Default::default(),
        returned: Default::default(),
    };
    ipam::step(&mut pool, recovered, Millis(1_700_000_000_000));
    pool
}

fn containers(found: &Recovered) -> Vec<&str> {
    let keys = found.allocations.keys();
    keys.map(|key| key.container.as_str()).collect()
}

const UPSTREAM: &str = r#"{"version":"vpc-cni-ipam/1","allocations":[{"networkName":"aws-cni",
    "containerID":"c1","ifName":"eth0","ipv4":"10.0.1.5","allocationTimestamp":1700000000000000000,
    "metadata":{"k8sPodNamespace":"ns","k8sPodName":"pod","interfacesCount":1}}]}"#;

#[test]
fn upstreams_checkpoint_is_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("ipam.json"), UPSTREAM).unwrap();
    let (_, found) = open(&dir).unwrap();
    let mut expected = allocation("c1", 5);
    expected.pod.uid.clear();
    assert_eq!(found.told(), "checkpoint");
    assert_eq!(
        found.allocations.into_values().collect::<Vec<_>>(),
        [expected]
    );
}

#[test]
fn what_another_agent_wrote_last_is_told_from_ours() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ipam.json");
    let found = open(&dir).unwrap().1;
    assert_eq!(
        (found.unwatched_until, found.told().as_str()),
        (None, "nothing")
    );
    fs::write(&path, UPSTREAM).unwrap();
    let (mut store, found) = open(&dir).unwrap();
    let written = modified(&path).and_then(since_epoch);
    assert!(written.is_some());
    assert_eq!(found.unwatched_until, written);
    store.checkpoint(&pool()).unwrap();
    assert_eq!(open(&dir).unwrap().1.unwatched_until, None);
}

#[test]
fn changes_survive_without_a_checkpoint_and_a_torn_last_line_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("ipam.json"), UPSTREAM).unwrap();
    let (mut store, found) = open(&dir).unwrap();
    let first = found.allocations.into_keys().next().unwrap();
    store.append(&Record::Leased(allocation("c2", 6))).unwrap();
    let address = Ipv4Addr::new(10, 0, 1, 5);
    let at = Millis(7);
    let key = first;
    store
        .append(&Record::Released { key, address, at })
        .unwrap();
    let addresses = vec![Ipv4Addr::new(10, 0, 1, 9)];
    store.append(&Record::Returning { addresses, at }).unwrap();
    store.journal.write_all(br#"{"leased":{"netw"#).unwrap();
    drop(store);
    let (mut store, found) = open(&dir).unwrap();
    assert_eq!(containers(&found), ["c2"]);
    assert_eq!(found.released, [(address, at)].into());
    assert_eq!(found.returned, [(Ipv4Addr::new(10, 0, 1, 9), at)].into());
    // … nor does the next kill, with lines behind the place where it was torn.
    store.append(&Record::Leased(allocation("c3", 7))).unwrap();
    let (_, found) = open(&dir).unwrap();
    assert_eq!(containers(&found), ["c2", "c3"]);
    assert_eq!(found.broken, []);
}

#[test]
fn a_journal_from_before_a_stay_with_upstream_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&dir).unwrap();
    store.append(&Record::Leased(allocation("c2", 6))).unwrap();
    drop(store);
    let past = SystemTime::now() - Duration::from_secs(60);
    let touch = |name, at| {
        let file = File::options().write(true).open(dir.path().join(name));
        file.unwrap().set_modified(at).unwrap();
    };
    fs::write(dir.path().join("ipam.json"), UPSTREAM).unwrap();
    touch("ipam.journal", past);
    let (mut store, found) = open(&dir).unwrap();
    assert_eq!(containers(&found), ["c1"]);
    // Nor is it taken up with what this start adds.
    store.append(&Record::Leased(allocation("c3", 7))).unwrap();
    assert_eq!(containers(&open(&dir).unwrap().1), ["c1", "c3"]);
}

#[test]
fn a_clock_that_was_turned_back_loses_no_lease_and_no_rest() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&dir).unwrap();
    store
        .checkpoint(&pool_with(vec![allocation("c1", 5)]))
        .unwrap();
    let ahead = SystemTime::now() + Duration::from_secs(3600);
    let file = File::options()
        .write(true)
        .open(dir.path().join("ipam.json"));
    file.unwrap().set_modified(ahead).unwrap();
    store.append(&Record::Leased(allocation("c2", 6))).unwrap();
    let later = Millis(1_800_000_000_000);
    let gone = Ipv4Addr::new(10, 0, 1, 7);
    let (key, address) = (allocation("c9", 7).key, gone);
    let at = later;
    store
        .append(&Record::Released { key, address, at })
        .unwrap();
    let (_, mut found) = open(&dir).unwrap();
    assert_eq!(containers(&found), ["c1", "c2"]);
    let now = Millis(1_600_000_000_000);
    found.clamp(now);
    assert_eq!(found.released, [(gone, now)].into());
    assert!(found.allocations.values().all(|held| held.since == now));
}

/// Each is no checkpoint any more; what it is called, and what is left of it.
#[test]
fn a_checkpoint_that_cannot_be_used_is_kept_beside_and_told() {
    let twice = UPSTREAM.replace("]}", ",");
    let second = UPSTREAM.split_once('[').unwrap().1.replace("c1", "c2");
    for (text, says) in [
        ("{".to_owned(), "is not of the form vpc-cni-ipam/1: EOF"),
        (UPSTREAM[..100].to_owned(), "is not of the form"),
        (String::new(), "is empty"),
        ("\0\0\0\0".to_owned(), "is not of the form"),
        (
            UPSTREAM.replace("ipam/1", "ipam/2"),
            "has version \"vpc-cni-ipam/2\"",
        ),
        (
            r#"{"version":"vpc-cni-ipam/2","allocations":{}}"#.to_owned(),
            "has version \"vpc-cni-ipam/2\"",
        ),
        (
            twice + &second,
            "10.0.1.5 is in use by aws-cni/c1/eth0 and by aws-cni/c2/eth0",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ipam.json"), &text).unwrap();
        // A start that is killed before it has written another finds the same.
        for n in 1..=5 {
            let (_, found) = open(&dir).unwrap();
            let told = found.told();
            assert!(
                told.contains(says) && told.starts_with("rebuilt: "),
                "{text}: {told}"
            );
            assert!(found.allocations.is_empty(), "{text}");
            let kept = dir.path().join(format!("ipam.json.broken-{n}"));
            assert_eq!(fs::read_to_string(kept).unwrap(), text);
        }
        assert!(
            !dir.path().join("ipam.json.broken-2").exists(),
            "three are kept"
        );
        let (mut store, _) = open(&dir).unwrap();
        store.checkpoint(&pool()).unwrap();
        assert_eq!(open(&dir).unwrap().1.told(), "checkpoint");
    }
}

#[test]
fn a_directory_in_a_files_place_is_put_aside() {
    for name in ["ipam.json", "ipam.branchline.json", "ipam.journal"] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(name)).unwrap();
        let (mut store, found) = open(&dir).unwrap();
        assert!(
            found.told().contains("cannot be read: Is a directory"),
            "{}",
            found.told()
        );
        assert!(dir.path().join(format!("{name}.broken-1")).is_dir());
        store.append(&Record::Leased(allocation("c2", 6))).unwrap();
        store.checkpoint(&pool()).unwrap();
        assert_eq!(open(&dir).unwrap().1.broken, []);
    }
}

#[test]
fn a_file_without_rights_is_read_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ipam.json");
    fs::write(&path, UPSTREAM).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    // Root reads it; who may not has it put aside. The next checkpoint is readable again.
    let (mut store, _) = open(&dir).unwrap();
    store.checkpoint(&pool()).unwrap();
    assert_eq!(open(&dir).unwrap().1.broken, []);
}

#[test]
fn a_missing_checkpoint_is_told_from_a_first_start() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, found) = open(&dir).unwrap();
    assert_eq!(found.broken, []);
    store.checkpoint(&pool()).unwrap();
    store.append(&Record::Leased(allocation("c2", 6))).unwrap();
    fs::remove_file(dir.path().join("ipam.json")).unwrap();
    let (_, found) = open(&dir).unwrap();
    assert!(
        found.told().contains("ipam.json is missing"),
        "{}",
        found.told()
    );
    assert_eq!(containers(&found), ["c2"], "what the journal has");
}

#[test]
fn what_is_whole_of_a_torn_journal_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&dir).unwrap();
    store
        .checkpoint(&pool_with(vec![allocation("c1", 5)]))
        .unwrap();
    store.append(&Record::Leased(allocation("c2", 6))).unwrap();
    store.journal.write_all(b"{\"leased\":{\"netw\n").unwrap();
    store.append(&Record::Leased(allocation("c3", 7))).unwrap();
    let (_, found) = open(&dir).unwrap();
    assert!(
        found.told().contains("ipam.journal:2: a line"),
        "{}",
        found.told()
    );
    assert_eq!(containers(&found), ["c1", "c2", "c3"]);
    assert!(dir.path().join("ipam.journal.broken-1").exists());
}

#[test]
fn a_release_that_could_not_be_written_is_known_from_the_next_pod() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&dir).unwrap();
    store.append(&Record::Leased(allocation("c1", 5))).unwrap();
    store.append(&Record::Leased(allocation("c2", 5))).unwrap();
    assert_eq!(containers(&open(&dir).unwrap().1), ["c2"]);
}

#[test]
fn an_ipv6_nodes_checkpoint_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let text = UPSTREAM.replace("ipv4", "ipv6");
    fs::write(dir.path().join("ipam.json"), text).unwrap();
    let error = open(&dir).unwrap_err();
    assert!(
        error.is_final() && error.to_string().contains("has an IPv6 address"),
        "{error}"
    );
}

#[test]
fn no_allocations_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"{"version":"vpc-cni-ipam/1","allocations":null}"#;
    fs::write(dir.path().join("ipam.json"), text).unwrap();
    let (_, found) = open(&dir).unwrap();
    assert!(found.allocations.is_empty() && found.broken.is_empty());
}

#[test]
fn a_journal_that_was_removed_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&dir).unwrap();
    fs::remove_file(dir.path().join("ipam.journal")).unwrap();
    store.checkpoint(&pool()).unwrap();
    store.append(&Record::Leased(allocation("c1", 5))).unwrap();
    assert_eq!(containers(&open(&dir).unwrap().1), ["c1"]);
}

/// What our versions have written so far, each as it lay on a node.
#[test]
fn files_of_earlier_versions_of_ours_are_read() {
    for (version, files) in [("0.1", &["json", "branchline.json", "journal"])] {
        let dir = tempfile::tempdir().unwrap();
        for extension in files {
            let name = format!(
                "{}/tests/fixtures/store-{version}/ipam.{extension}",
                env!("CARGO_MANIFEST_DIR")
            );
            fs::copy(name, dir.path().join(format!("ipam.{extension}"))).unwrap();
        }
        let (_, found) = open(&dir).unwrap();
        assert_eq!(found.told(), "checkpoint");
        assert_eq!(containers(&found), ["c1", "c3"]);
        assert_eq!(found.released.len(), 2);
        assert_eq!((found.unwatched_until, found.instance), (None, None));
    }
}

/// A version of ours from before a field reads files that have it.
#[test]
fn files_of_a_later_version_of_ours_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&dir).unwrap();
    store.belongs_to("i-1");
    store.append(&Record::Leased(allocation("c1", 5))).unwrap();
    store
        .checkpoint(&pool_with(vec![allocation("c1", 5)]))
        .unwrap();
    store.append(&Record::Leased(allocation("c2", 6))).unwrap();
    for name in ["ipam.json", "ipam.branchline.json", "ipam.journal"] {
        let path = dir.path().join(name);
        let text = fs::read_to_string(&path).unwrap();
        let later = text
            .replacen("\"version\":", "\"later\":{\"x\":[1]},\"version\":", 1)
            .replace("\"metadata\":{", "\"metadata\":{\"later\":1,");
        assert_ne!(text, later, "{name}");
        fs::write(path, later).unwrap();
    }
    let (_, found) = open(&dir).unwrap();
    assert_eq!(containers(&found), ["c1", "c2"]);
    assert_eq!(
        (found.instance.as_deref(), found.broken),
        (Some("i-1"), vec![])
    );
}
