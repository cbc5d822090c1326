//! nft and conntrack against the running kernel.

#![allow(clippy::unwrap_used, reason = "the helpers are tests as well")]

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use common::{may_run, name, namespace};
use kernel::{NetNs, conntrack, nft};
use nodenet::Addr;

const TEXT: &str = "table inet t {
  chain in {
    type filter hook input priority 0; policy accept;
    ct state established accept comment \"known\"
    tcp dport 22 drop
  }
}
";

#[test]
fn a_text_is_applied_whole_or_not_at_all() {
    if !may_run("nft") {
        return;
    }
    let ns = NetNs::create().unwrap();
    let other = NetNs::create().unwrap();
    nft::apply(&ns, TEXT).unwrap();
    let ruleset = nft::list(&ns).unwrap();
    assert_eq!(ruleset.tables.len(), 1);
    assert_eq!(ruleset.chains[0].policy.as_deref(), Some("accept"));
    assert_eq!(ruleset.rules.len(), 2);
    assert_eq!(ruleset.rules[0].comment.as_deref(), Some("known"));
    assert_eq!(nft::list(&other).unwrap(), nft::Ruleset::default());

    let error = nft::apply(
        &ns,
        "table inet u {\n}\ntable inet t {\n  nonsense here\n}\n",
    )
    .unwrap_err();
    let kernel::Error::NftRefused { line, text, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!((*line, text.as_str()), (4, "nonsense here"));
    // A failure that only the kernel sees takes everything before it back as well.
    assert!(nft::apply(&ns, "add table inet u\nadd rule inet t absent drop\n").is_err());
    assert_eq!(nft::list(&ns).unwrap().tables.len(), 1);
    assert_eq!(nft::list_table(&ns, "inet", "u").unwrap(), None);

    nft::apply(&ns, "add table inet t\ndelete table inet t\n").unwrap();
    assert_eq!(nft::list(&ns).unwrap(), nft::Ruleset::default());
}

#[test]
fn chains_are_listed_without_the_program() {
    if !may_run("nft") {
        return;
    }
    let ns = NetNs::create().unwrap();
    assert_eq!(ns.run(nft::chains).unwrap().unwrap(), []);
    nft::apply(
        &ns,
        "table ip nat {\n chain AWS-SNAT-CHAIN-0 {\n }\n}\ntable ip6 other {\n chain c {\n }\n}\n",
    )
    .unwrap();
    let found = ns.run(nft::chains).unwrap().unwrap();
    let expected = nft::ChainName {
        table: "nat".into(),
        chain: "AWS-SNAT-CHAIN-0".into(),
    };
    assert_eq!(found, [expected]);
}

#[test]
fn connections_of_an_address_are_forgotten_and_others_kept() {
    if !may_run("conntrack") {
        return;
    }
    let (ns, mut s) = namespace();
    for addr in ["10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32"] {
        s.add_addr(&Addr::new(name("lo"), addr.parse().unwrap()))
            .unwrap();
    }
    // A rule that looks at the state is what switches connection tracking on in a namespace.
    nft::apply(&ns, TEXT).unwrap();
    let connect = |to: Ipv4Addr| {
        ns.run(move || {
            let server = TcpListener::bind((to, 0)).unwrap();
            let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            client.write_all(b"x").unwrap();
            let mut seen = [0];
            server.accept().unwrap().0.read_exact(&mut seen).unwrap();
        })
        .unwrap();
    };
    let [a, b, c] = [1, 2, 3].map(|n| Ipv4Addr::new(10, 0, 0, n));
    connect(a);
    connect(b);
    connect(b);
    assert_eq!(conntrack::forget(&ns, &[c]).unwrap(), 0);
    assert_eq!(conntrack::forget(&ns, &[b, c]).unwrap(), 2);
    assert_eq!(conntrack::forget(&ns, &[b]).unwrap(), 0);
    assert_eq!(conntrack::forget(&ns, &[a]).unwrap(), 1);
    assert_eq!(conntrack::forget(&ns, &[]).unwrap(), 0);
}
