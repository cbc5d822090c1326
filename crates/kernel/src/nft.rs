//! nftables rule sets as text: applied in one transaction, read back as JSON.
//!
//! `nft -f -` takes a whole text as one transaction of the kernel: either all of it is in force or
//! nothing. It is an exec of about 20 ms, so it is never on the path of a pod's ADD. Two texts of
//! the same table: begin with `add table T; delete table T;` to replace it atomically.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use netlink_packet_core::NLM_F_DUMP;
use netlink_sys::protocols::NETLINK_NETFILTER;
use serde::Deserialize;

use crate::netlink::{Attributes, Channel, Reply, Request};
use crate::{Error, NetNs, Result};

/// What `nft` lists, by sort of object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ruleset {
    /// Tables.
    pub tables: Vec<Table>,
    /// Chains of all tables.
    pub chains: Vec<Chain>,
    /// Rules of all chains, in order.
    pub rules: Vec<Rule>,
    /// Named sets, maps and everything else, as JSON, with the name of the sort.
    pub others: Vec<(String, serde_json::Value)>,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Table {
    /// `ip`, `inet`, …
    pub family: String,
    /// Name.
    pub name: String,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Chain {
    /// Family of its table.
    pub family: String,
    /// Name of its table.
    pub table: String,
    /// Name.
    pub name: String,
    /// `filter`, `nat`, `route` for base chains.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Where the kernel calls it.
    pub hook: Option<String>,
    /// Its priority there.
    pub prio: Option<i32>,
    /// What happens to a packet that no rule decides.
    pub policy: Option<String>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Rule {
    /// Family of its table.
    pub family: String,
    /// Name of its table.
    pub table: String,
    /// Name of its chain.
    pub chain: String,
    /// Number by which it can be deleted.
    pub handle: u64,
    /// Comment, where we put the rule's provenance.
    pub comment: Option<String>,
    /// Matches and statements.
    #[serde(default)]
    pub expr: Vec<serde_json::Value>,
}

/// A chain's place, without what is in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainName {
    /// Name of its table.
    pub table: String,
    /// Its own name.
    pub chain: String,
}

/// The IPv4 chains of the calling thread's namespace. Asked of the kernel itself: an agent's image
/// need not hold `nft`. What `iptables-nft` made is among them, what `iptables-legacy` made is not.
pub fn chains() -> Result<Vec<ChainName>> {
    let mut channel = Channel::open(NETLINK_NETFILTER)?;
    let list = Request::raw("list nft chains".to_owned(), GET_CHAIN, NLM_F_DUMP, &IPV4);
    let replies = channel.dump("nft chains", &list)?;
    let name = |reply: &Reply| {
        let text = |wanted: u16| {
            let value = Attributes(reply.payload.get(IPV4.len()..)?)
                .find_map(|(kind, value, _)| (kind == wanted).then_some(value))?;
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            Some(String::from_utf8_lossy(text).into_owned())
        };
        Some(ChainName {
            table: text(CHAIN_TABLE)?,
            chain: text(CHAIN_NAME)?,
        })
    };
    Ok(replies.iter().filter_map(name).collect())
}

/// NFNL_SUBSYS_NFTABLES and NFT_MSG_GETCHAIN; attributes of a chain (nf_tables.h).
const GET_CHAIN: u16 = (10 << 8) | 4;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
/// `struct nfgenmsg`: family AF_INET, version 0, resource 0.
const IPV4: [u8; 4] = [2, 0, 0, 0];

/// Applies a text in a namespace, all of it or nothing.
pub fn apply(ns: &NetNs, text: &str) -> Result<()> {
    let output = nft(ns, &["-f", "-"], text)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let line = line_of(&message);
    let offending = line
        .and_then(|n| text.lines().nth(n.checked_sub(1)?))
        .unwrap_or("");
    Err(Error::NftRefused {
        line: line.unwrap_or(0),
        text: offending.trim().to_owned(),
        message,
    })
}

/// Everything that nft has in a namespace.
pub fn list(ns: &NetNs) -> Result<Ruleset> {
    read(ns, &["-j", "list", "ruleset"])
}

/// One table; `None` when there is none of this name.
pub fn list_table(ns: &NetNs, family: &str, name: &str) -> Result<Option<Ruleset>> {
    let tables = read(ns, &["-j", "list", "tables"])?.tables;
    match tables.iter().any(|t| t.family == family && t.name == name) {
        true => read(ns, &["-j", "list", "table", family, name]).map(Some),
        false => Ok(None),
    }
}

fn read(ns: &NetNs, args: &[&str]) -> Result<Ruleset> {
    let output = nft(ns, args, "")?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::NftRefused {
            line: 0,
            text: args.join(" "),
            message,
        });
    }
    decode(&output.stdout).map_err(|source| Error::NftOutput {
        args: args.join(" "),
        source,
    })
}

/// The outer form: a list of objects with one key each, which names the sort.
#[derive(Deserialize)]
struct Listing {
    nftables: Vec<serde_json::Map<String, serde_json::Value>>,
}

fn decode(json: &[u8]) -> std::result::Result<Ruleset, serde_json::Error> {
    let listing: Listing = serde_json::from_slice(json)?;
    let mut ruleset = Ruleset::default();
    for (sort, value) in listing.nftables.into_iter().flatten() {
        match sort.as_str() {
            "metainfo" => {}
            "table" => ruleset.tables.push(serde_json::from_value(value)?),
            "chain" => ruleset.chains.push(serde_json::from_value(value)?),
            "rule" => ruleset.rules.push(serde_json::from_value(value)?),
            _ => ruleset.others.push((sort, value)),
        }
    }
    Ok(ruleset)
}

/// Runs nft in a namespace: the child belongs to the namespace of the thread that starts it.
fn nft(ns: &NetNs, args: &[&str], input: &str) -> Result<Output> {
    ns.run(|| run(args, input))?
        .map_err(|source| Error::NftStart { source })
}

fn run(args: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let written = child
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    match written {
        // It gave up before the end of the text; its own words say why.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e),
        _ => Ok(output),
    }
}

/// The line number in `/dev/stdin:3:5-10: Error: …`.
fn line_of(message: &str) -> Option<usize> {
    let (_, rest) = message
        .lines()
        .find(|l| l.contains(": Error:"))?
        .split_once(':')?;
    rest.split(':').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_sorted_into_its_objects() {
        let json = br#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "inet", "name": "x", "handle": 1}},
            {"chain": {"family": "inet", "table": "x", "name": "in", "handle": 1, "type": "filter",
                       "hook": "input", "prio": -10, "policy": "accept"}},
            {"set": {"family": "inet", "name": "s", "table": "x", "type": "ipv4_addr"}},
            {"rule": {"family": "inet", "table": "x", "chain": "in", "handle": 4,
                      "comment": "sg-1", "expr": [{"drop": null}]}}]}"#;
        let ruleset = decode(json).unwrap();
        assert_eq!(
            ruleset.tables,
            [Table {
                family: "inet".into(),
                name: "x".into()
            }]
        );
        assert_eq!(ruleset.chains[0].prio, Some(-10));
        assert_eq!(ruleset.rules[0].comment.as_deref(), Some("sg-1"));
        assert_eq!(ruleset.others[0].0, "set");
        assert!(decode(b"{}").is_err());
    }

    #[test]
    fn the_line_of_an_error_is_found() {
        let message = "/dev/stdin:12:3-7: Error: syntax error, unexpected string\nfoo\n^^^";
        assert_eq!(line_of(message), Some(12));
        assert_eq!(line_of("Error: Could not process rule"), None);
    }
}
