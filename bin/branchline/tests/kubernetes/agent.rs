//! The pages of a node's agent, as somebody forwarded them: what they say is up to the test.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::cloud::Machine;

/// Serves these pages until the test's process ends; says where.
pub(crate) fn serve(pages: BTreeMap<&'static str, Value>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut reader = BufReader::new(stream.try_clone().expect("the same connection"));
            let mut line = String::new();
            // A client that has asked nothing wants nothing.
            if reader.read_line(&mut line).is_err() {
                continue;
            }
            let mut header = String::new();
            while reader.read_line(&mut header).is_ok_and(|n| n > 2) {
                header.clear();
            }
            let path = line.split(' ').nth(1).unwrap_or_default();
            let (status, body) = match pages.get(path) {
                Some(page) => ("200 OK", page.to_string()),
                None => ("404 Not Found", String::new()),
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    url
}

/// An agent that believes what EC2 says: pods `dev/api-7c9-N` have the addresses in order.
pub(crate) fn pages(
    machine: &Machine,
    workload: &str,
    pods: usize,
) -> BTreeMap<&'static str, Value> {
    let mut number = 0;
    let mut enis = json!({});
    let mut interfaces = Vec::new();
    for (device, (id, addresses)) in machine.enis.iter().enumerate() {
        let mut cidrs = json!({});
        for address in addresses {
            let mut used = json!({});
            if number < pods {
                used[address.to_string()] = json!({
                    "Address": address.to_string(),
                    "IPAMKey": {"networkName": "aws-cni", "containerID": format!("c{number}"), "ifName": "eth0"},
                    "IPAMMetadata": {"k8sPodNamespace": "dev", "k8sPodName": format!("{workload}-7c9-{number}")},
                    "AssignedTime": "2026-01-01T00:00:00Z", "UnassignedTime": "0001-01-01T00:00:00Z",
                });
            }
            cidrs[format!("{address}/32")] = json!({"IPAddresses": used});
            number += 1;
        }
        enis[id] = json!({"ID": id, "IsPrimary": device == 0, "DeviceNumber": device, "AvailableIPv4Cidrs": cidrs});
        interfaces.push(json!({"id": id, "device": device, "stage": "Ready"}));
    }
    let state = json!({
        "agent": "branchline 0.1.0", "instance": machine.instance, "ready": true, "reason": "",
        "group_sync": {"enabled": true, "groups_at_start": [], "pending": {}},
        "interfaces": interfaces,
    });
    [
        (
            "/v1/enis",
            json!({"0": {"TotalIPs": number, "AssignedIPs": pods, "ENIs": enis}}),
        ),
        ("/state", state),
    ]
    .into()
}
