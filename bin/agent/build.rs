//! Cuts the table of instance limits down to what the agent looks up: interfaces of the primary
//! card, addresses per interface, prefixes or not. 25 kB of text in the binary instead of a parsed document on
//! the heap: the agent's memory is charged to every node.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

const TABLE: &str = "../../crates/ec2/data/instance-limits.json";

fn main() {
    println!("cargo::rerun-if-changed={TABLE}");
    let text = fs::read_to_string(TABLE).expect("the table is in the repository");
    let table: serde_json::Value = serde_json::from_str(&text).expect("the table is JSON");
    let types = table.as_object().expect("the table is an object by type");
    let mut lines = String::new();
    for (name, limits) in types {
        let number = |value: &serde_json::Value| value.as_u64().expect("a limit is a number");
        let card = &limits["defaultNetworkCard"];
        let cards = limits["networkCards"]
            .as_array()
            .expect("a type lists its cards");
        let on_card = cards.iter().find(|c| c["index"] == *card).map_or_else(
            || number(&limits["interfaces"]),
            |card| number(&card["interfaces"]),
        );
        let addresses = number(&limits["ipv4PerInterface"]);
        let nitro = limits["hypervisor"] == "nitro" || limits["bareMetal"] == true;
        let prefixes = if nitro { " prefixes" } else { "" };
        writeln!(lines, "{name} {on_card} {addresses}{prefixes}")
            .expect("writing to text cannot fail");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("limits.txt"), lines).expect("the output directory is writable");
}
