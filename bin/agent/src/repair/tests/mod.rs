//! What happens to a node, done with the commands that other programs issue, on a real kernel.

mod facts;
mod node;

use std::time::Duration;

use kernel::{Change, sysctl};
use node::{Node, on_a_node};

use super::{Repairer, SAFETY_NET};
use crate::owner::Message;

/// Does something to the node and lets the repairer work: afterwards everything must be as before,
/// foreign things included, and exactly these kinds must have been repaired.
fn undone(node: &mut Node, kinds: &[&str], drift: &[&str]) {
    let before = node.state();
    for line in drift {
        node.ip(line);
    }
    assert_ne!(node.state(), before, "{drift:?} changes nothing");
    assert!(node.settle() > 0, "{drift:?} was not seen");
    assert_eq!(node.state(), before, "after {drift:?}");
    assert_eq!(node.repaired(), kinds, "after {drift:?}");
    assert!(
        node.findings.failing.is_empty(),
        "{:?}",
        node.findings.failing
    );
    node.findings.repairs.clear();
    for i in 0..3 {
        assert!(node.pod_is_served(i), "pod {i} after {drift:?}");
    }
}

#[test]
fn flushed_rules_and_routes_are_put_back() {
    on_a_node(|node| {
        undone(node, &["rule"], &["rule del pref 1024 fwmark 0x80/0x80"]);
        undone(node, &["rule"], &["rule del pref 32765 from 10.0.1.20"]);
        undone(node, &["route"], &["route flush table 2"]);
        undone(node, &["route"], &["route del 10.0.0.100"]);
        let wrong = "route replace default via 10.0.0.1 dev eth0 table 2";
        undone(node, &["route"], &[wrong]);
        let connected = "route add 10.0.1.0/24 dev eth1 proto kernel scope link src 10.0.1.20";
        undone(node, &["route"], &[connected]);
        let contradiction = "rule add pref 1536 from 10.0.1.106 lookup 3";
        undone(node, &["rule"], &[contradiction]);
        let pods = ["10.0.0.100", "10.0.1.105", "10.0.1.106"];
        let mut lines: Vec<String> = pods
            .iter()
            .map(|pod| format!("rule del pref 512 to {pod}"))
            .collect();
        lines.push("rule del pref 1536 from 10.0.1.105 lookup 2".to_owned());
        lines.push("rule del pref 1536 from 10.0.1.106 lookup 2".to_owned());
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        undone(node, &["rule"], &lines);
    });
}

#[test]
fn a_flush_of_all_rules_brings_ours_back_and_nobody_elses() {
    on_a_node(|node| {
        let before = node.ip("-4 rule show");
        node.ip("rule flush");
        node.settle();
        let after = node.ip("-4 rule show");
        assert!(!after.is_empty() && after.lines().all(|line| before.contains(line)));
        // 3 pods, 2 of them on the other interface, marked packets, the interface's own.
        assert_eq!(node.findings.repairs["rule"], 7);
        let recent = &node.findings.repairs().recent;
        assert_eq!(recent.len(), 1, "one line for all: {recent:?}");
        assert!(recent[0].what.ends_with("and 6 more"), "{recent:?}");
        for foreign in ["30200:", "10001:", "9:", "32766:"] {
            assert!(!after.contains(&format!("\n{foreign}")), "{after}");
        }
    });
}

#[test]
fn interfaces_that_are_changed_are_put_right() {
    on_a_node(|node| {
        let link_and_routes = ["link", "route"];
        undone(node, &link_and_routes, &["link set eth1 down"]);
        undone(node, &["mtu"], &["link set eth1 mtu 1400"]);
        // systemd-networkd and NetworkManager flush the addresses of links that they take.
        undone(node, &["address", "route"], &["-4 addr flush dev eth1"]);
        undone(
            node,
            &["address", "route"],
            &["addr add 10.0.1.77/24 dev eth1"],
        );
        // NetworkManager's cloned-mac-address, systemd's MACAddressPolicy.
        let mac = "link set eth1 address 02:00:00:00:00:99";
        undone(node, &["mac"], &[mac]);
        undone(
            node,
            &["link", "mac", "mtu", "route"],
            &["link set eth1 down mtu 1400", mac],
        );
    });
}

#[test]
fn a_renamed_interface_is_followed() {
    on_a_node(|node| {
        node.ip("link set eth1 name ens6");
        assert!(node.settle() > 0);
        assert_eq!(node.repaired(), ["rename"]);
        let after = node.state();
        node.settle();
        assert_eq!(node.findings.repairs["rename"], 1, "told once");
        node.findings.repairs.clear();
        // What is broken afterwards is put right by the new name.
        undone(node, &["route"], &["route flush table 2"]);
        undone(node, &["link", "route"], &["link set ens6 down"]);
        node.ip("link set ens6 address 02:00:00:00:00:98");
        node.ip("link set ens6 name enp9");
        node.settle();
        assert_eq!(node.repaired(), ["mac", "rename"]);
        let renamed = after.iter().map(|line| line.replace("ens6", "enp9"));
        let mut renamed: Vec<String> = renamed.collect();
        renamed.sort();
        assert_eq!(node.state(), renamed);
    });
}

#[test]
fn pods_veths_that_are_changed_are_put_right() {
    on_a_node(|node| {
        let veth = node.veth(1);
        // MACAddressPolicy=persistent: the pod's permanent neighbour entry leads nowhere.
        let before = node.state();
        node.ip(&format!("link set {veth} address 7a:00:00:00:00:01"));
        assert!(node.pod_is_cut_off(1), "a pod without its gateway");
        node.settle();
        assert_eq!((node.state(), node.repaired()), (before, vec!["mac"]));
        assert!(node.pod_is_served(1));
        node.findings.repairs.clear();

        let line = |words: &str| format!("link set {veth} {words}");
        undone(node, &["link", "route"], &[&line("down")]);
        undone(node, &["mtu"], &[&line("mtu 1280")]);
        // A udev rule that renames veths. Before Linux 6.2 the link has to be down for that.
        let name = [
            line("down"),
            line("name veth7"),
            "link set veth7 up".to_owned(),
        ];
        let name: Vec<&str> = name.iter().map(String::as_str).collect();
        undone(node, &["rename", "route"], &name);
        let address = node.address(1);
        let planted =
            format!("neigh replace {address} lladdr 02:00:00:00:99:99 dev {veth} nud permanent");
        undone(node, &["neighbour"], &[&planted]);
    });
}

#[test]
fn the_source_check_of_the_primary_interface_is_put_right() {
    on_a_node(|node| {
        let key = "ipv4/conf/eth0/rp_filter";
        sysctl::write_here(key, "1").unwrap();
        assert!(node.settle() > 0);
        assert_eq!(sysctl::read_here(key).unwrap().as_deref(), Some("2"));
        assert_eq!(node.repaired(), ["sysctl"]);
        // Those of a pod's veth are seen at the next look that has time.
        let key = format!("ipv6/conf/{}/accept_ra", node.veth(0));
        if sysctl::write_here_if_present(&key, "2").unwrap() {
            node.after(SAFETY_NET);
            node.look();
            assert_eq!(sysctl::read_here(&key).unwrap().as_deref(), Some("0"));
            assert_eq!(node.findings.repairs["sysctl"], 2);
            // What is written for all links is the node's to decide.
            sysctl::write_here("ipv6/conf/all/forwarding", "1").unwrap();
            node.after(SAFETY_NET);
            node.look();
            assert_eq!(node.findings.repairs["sysctl"], 2);
            assert!(node.findings.failing.is_empty());
        }
    });
}

#[test]
fn what_others_do_wakes_nobody_and_stays() {
    on_a_node(|node| {
        for line in [
            "rule add pref 30201 from 10.0.0.12 lookup 30201",
            "rule del pref 220",
            "route add default via 10.0.0.1 dev eth0 table 30201",
            "route del 10.0.0.200",
            "route add 10.60.0.0/16 via 10.0.0.1 dev eth0",
            "link set docker0 mtu 1400",
            "link set calib5faff8a083 down",
            "addr add 10.0.0.12/32 dev eth0",
            "neigh replace 10.0.0.77 lladdr 02:00:00:00:77:77 dev eth0 nud permanent",
            "rule add pref 1536 from 10.0.9.8 lookup 2",
        ] {
            node.ip(line);
            assert_eq!(node.settle(), 0, "{line} is nobody's business here");
        }
        let before = node.state();
        node.after(SAFETY_NET);
        assert!(node.is_due());
        node.look();
        assert_eq!(node.state(), before);
        assert_eq!(node.repaired(), [""; 0]);
    });
}

#[test]
fn a_pod_that_is_being_made_is_its_plugins_business() {
    on_a_node(|node| {
        node.renew(2);
        node.ip("rule del pref 1536 from 10.0.1.106 lookup 2");
        let broken = node.state();
        assert_eq!(node.settle(), 0);
        node.look();
        assert_eq!(node.state(), broken, "too young");
        // What was removed while it was young is put back as soon as it is not.
        node.ip("rule del pref 512 to 10.0.1.106");
        node.after(Duration::from_millis(300));
        assert_eq!(node.repairer.due(), node.settled(2));
        node.now = node.settled(2);
        node.look();
        assert_eq!(node.findings.repairs["rule"], 2);
    });
}

#[test]
fn each_young_pod_is_looked_after_in_its_time() {
    on_a_node(|node| {
        let before = node.state();
        node.renew(1);
        node.after(Duration::from_millis(1500));
        node.renew(2);
        node.ip("rule del pref 512 to 10.0.1.105");
        node.ip("rule del pref 512 to 10.0.1.106");
        node.after(Duration::from_millis(50));
        for (pod, rules) in [(1, 1), (2, 2)] {
            node.now = node.repairer.due();
            assert_eq!(node.now, node.settled(pod));
            node.look();
            assert_eq!(node.findings.repairs["rule"], rules);
        }
        assert_eq!(node.state(), before);

        // At the start nobody has told what happened to a young pod before.
        node.renew(1);
        node.ip("rule del pref 512 to 10.0.1.105");
        node.repairer = Repairer::new(true);
        node.look();
        node.now = node.repairer.due();
        assert_eq!(node.now, node.settled(1));
        node.look();
        assert_eq!(node.state(), before);
    });
}

#[test]
fn only_what_is_left_of_rested_addresses_is_removed() {
    on_a_node(|node| {
        let before = node.state();
        // 10.0.1.150 is free and has rested; 10.0.1.151 is nobody that the pool knows.
        node.ip("rule add pref 512 to 10.0.1.150 lookup main");
        node.ip("rule add pref 1536 from 10.0.1.150 lookup 2");
        node.after(SAFETY_NET);
        node.look();
        assert_eq!(node.state(), before);
        assert_eq!(node.findings.repairs["rule"], 2);
        node.ip("rule add pref 1536 from 10.0.1.151 lookup 2");
        let before = node.state();
        node.after(SAFETY_NET);
        node.look();
        assert_eq!(node.state(), before);

        // A released pod whose veth is there: its plugin has not come to it, or never will. Rules
        // and route of an address that leads to a link are left, and told.
        let pod = node.facts.pods.remove(2);
        node.facts.idle.insert(0, pod.pod.address);
        node.after(SAFETY_NET);
        node.look();
        assert_eq!(node.state(), before);
        let told: Vec<_> = node.findings.failing.keys().collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("route 10.0.1.106"), "{told:?}");
        assert_eq!(node.findings.repairs["rule"], 2);
    });
}

#[test]
fn the_rule_of_an_interface_that_was_given_back_goes_with_it() {
    on_a_node(|node| {
        node.ip("rule add pref 32765 from 10.0.2.20 lookup 3");
        let eni = node.facts.enis.remove(1);
        node.facts.pods.truncate(1);
        node.ip(&format!("link del {}", eni.link));
        node.settle();
        let rules = node.ip("-4 rule show");
        assert!(!rules.contains("from 10.0.1.20 lookup 2"), "{rules}");
        // Of this one nobody knows.
        assert!(rules.contains("from 10.0.2.20 lookup 3"), "{rules}");
        assert_eq!(node.repaired(), ["rule"]);
    });
}

#[test]
fn the_link_of_another_pod_of_the_same_name_is_left_to_it() {
    on_a_node(|node| {
        // The lease is one whose DEL was lost; the checkpoint knows nothing of the pod that came
        // after it, with the same name and so the same link.
        let veth = node.veth(2);
        node.ip("route del 10.0.1.106");
        node.ip(&format!("route add 10.0.1.107 dev {veth} scope link"));
        node.ip("rule del pref 512 to 10.0.1.106");
        let before = node.state();
        node.settle();
        assert_eq!(node.state(), before);
        let (what, why) = node.findings.failing.first_key_value().unwrap();
        assert_eq!(*what, format!("link {veth} of pod default/web-2"));
        assert!(why.contains("10.0.1.107"), "{why}");
    });
}

#[test]
fn what_cannot_be_put_right_is_told() {
    on_a_node(|node| {
        // A veth that is gone takes its route along; the rules stay with the lease.
        let rules = node.ip("-4 rule show");
        node.ip(&format!("link del {}", node.veth(0)));
        node.after(Duration::from_secs(1));
        node.look();
        assert_eq!(node.ip("-4 rule show"), rules);
        node.ip("link del eth1");
        node.settle();
        let told: Vec<_> = node.findings.failing.keys().cloned().collect();
        let veth = node.veth(0);
        assert_eq!(
            told,
            [
                format!("link {veth} of pod default/web-0"),
                "link of eni-1 (02:00:00:00:00:01)".to_owned()
            ]
        );
    });
}

#[test]
fn a_fight_is_not_fought_and_said() {
    on_a_node(|node| {
        let line = "rule del pref 512 to 10.0.1.105";
        for _ in 0..6 {
            node.ip(line);
            assert!(node.settle() > 0);
        }
        assert_eq!(node.findings.repairs["rule"], 6);
        node.ip(line);
        let broken = node.state();
        node.settle();
        assert_eq!(node.state(), broken, "left alone");
        let (what, why) = node.findings.failing.first_key_value().unwrap();
        assert!(what.contains("to 10.0.1.105"), "{what}");
        assert!(why.contains("again and again"), "{why}");
        // Others are repaired as ever.
        node.ip("rule del pref 512 to 10.0.1.106");
        node.settle();
        assert_eq!(node.findings.repairs["rule"], 7);
        // And this one when its time has come, by itself.
        node.after(Duration::from_secs(10));
        assert!(node.is_due());
        node.look();
        assert_eq!(node.findings.repairs["rule"], 8);
        assert!(node.findings.failing.is_empty());
    });
}

#[test]
fn with_repair_off_everything_is_told_and_nothing_done() {
    on_a_node(|node| {
        node.repairer = Repairer::new(false);
        node.look();
        node.ip("route flush table 2");
        node.ip("link set eth1 address 02:00:00:00:00:99");
        let broken = node.state();
        node.settle();
        assert_eq!(node.state(), broken);
        assert!(node.findings.repairs.is_empty());
        assert!(!node.findings.failing.is_empty());
        let told = |why: &String| why.contains("BRANCHLINE_REPAIR");
        let mac = "link set eth1 address 02:00:00:00:00:01";
        assert!(node.findings.failing.get(mac).is_some_and(told));
        // A setting stays told when another look has a reason of its own.
        sysctl::write_here("ipv4/conf/eth0/rp_filter", "1").unwrap();
        node.settle();
        node.look();
        let setting = "net/ipv4/conf/eth0/rp_filter is 1, not 2";
        assert!(node.findings.failing.get(setting).is_some_and(told));
    });
}

#[test]
fn rules_and_routes_of_recovered_pods_are_made_at_the_start() {
    on_a_node(|node| {
        let before = node.state();
        node.ip("rule del pref 512 to 10.0.1.105");
        node.ip("rule del pref 1536 from 10.0.1.105 lookup 2");
        node.ip("route del 10.0.1.105");
        node.ip("link set eth1 down");
        // Another agent starts; it has heard nothing.
        node.repairer = Repairer::new(true);
        assert!(node.is_due());
        node.look();
        assert_eq!(node.state(), before);
        assert_eq!(node.repaired(), ["link", "route", "rule"]);
    });
}

#[test]
fn the_owner_is_told_of_a_change_within_moments() {
    on_a_node(|node| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (to, mut messages) = tokio::sync::mpsc::channel(8);
            super::watch(to);
            // It listens from its first turn on.
            tokio::task::yield_now().await;
            for table in ["77", "78"] {
                node.ip(&format!("rule add pref 77 from all lookup {table}"));
                // The node's own links may still be settling: what is told of them is not meant.
                let told = tokio::time::timeout(Duration::from_secs(10), async {
                    loop {
                        let Some(Message::Network(changes)) = messages.recv().await else {
                            panic!("the watch ended");
                        };
                        let ours =
                            |change: &Change| matches!(change, Change::Rule { gone: false, .. });
                        if changes.iter().any(ours) {
                            break;
                        }
                    }
                });
                told.await.expect("a new rule is told");
            }
        });
    });
}
