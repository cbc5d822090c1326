//! The packet plane in the kernel: wiring, changes under open connections, clean-up.

mod bed;

use bed::probe::Probe;
use bed::topology::*;
use bed::{Bed, can_run};
use flowset::Packet;
use vpc::facts::*;

fn two_hosts() -> Builder {
    let mut b = Builder::default();
    b.vpc("a", "10.0.0.0/16");
    b.subnet("a1", "a", "10.0.1.0/24", "a", "a")
        .subnet("a2", "a", "10.0.2.0/24", "a", "a");
    b.group(
        "all",
        "a",
        vec![egress("all", "0.0.0.0/0"), ingress("all", "sg-all")],
    );
    b.group(
        "web",
        "a",
        vec![
            ingress("tcp/80", "10.0.0.0/16"),
            ingress("icmp/8", "10.0.0.0/16"),
        ],
    );
    b.eni("x", "a1", "10.0.1.10", &["all"]);
    b.eni("y", "a1", "10.0.1.11", &["web"]);
    b.eni("z", "a2", "10.0.2.10", &["web"]);
    b
}

fn tcp(from: &str, src: &str, sport: u16, dst: &str, dport: u16) -> (EniId, Probe) {
    let packet = Packet::tcp(src.parse().unwrap(), sport, dst.parse().unwrap(), dport);
    (
        from.parse().unwrap(),
        Probe {
            packet,
            spoofed: false,
        },
    )
}

fn ping(from: &str, src: &str, dst: &str) -> (EniId, Probe) {
    let packet = Packet::ping(src.parse().unwrap(), dst.parse().unwrap());
    (
        from.parse().unwrap(),
        Probe {
            packet,
            spoofed: false,
        },
    )
}

#[test]
fn hosts_reach_what_their_groups_allow() {
    if !can_run() {
        return;
    }
    let bed = Bed::new(two_hosts().world);
    let seen = bed.ask(&[
        tcp("eni-x", "10.0.1.10", 40000, "10.0.1.11", 80),
        tcp("eni-x", "10.0.1.10", 40001, "10.0.1.11", 22),
        tcp("eni-x", "10.0.1.10", 40002, "10.0.2.10", 80),
        ping("eni-x", "10.0.1.10", "10.0.2.10"),
        tcp("eni-y", "10.0.1.11", 40003, "10.0.2.10", 80),
    ]);
    let answered: Vec<bool> = seen.iter().map(|s| s.answered).collect();
    assert_eq!(answered, [true, false, true, true, false]);
}
