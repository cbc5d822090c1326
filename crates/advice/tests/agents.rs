//! What agents believe against what EC2 and Kubernetes say: `drift` and `status` on the cluster of the
//! story, whose agents answer as they would, and then not quite.

use std::collections::BTreeMap;

use advice::drift::{Drift, What, drift};
use advice::{drift as drifting, status};
use cni::introspect::{self as say, Enis, State};
use kube_view::facts::ObjectName;
use reach::facts::{GroupSync, Inputs, Told};
use vpc::facts::{EniId, EniStatus};

const NODE: &str = "ip-10-0-0-6";
const AT: &str = "2026-11-21T12:00:00Z";

/// The fixture, with agents that believe exactly what is so.
fn inputs() -> Inputs {
    let mut inputs: Inputs =
        serde_json::from_str(include_str!("cluster.json")).expect("the fixture is an Inputs");
    let names: Vec<String> = inputs.nodes.keys().cloned().collect();
    for name in names {
        let told = believing(&inputs, &name);
        let node = inputs.nodes.get_mut(&name).expect("it is there");
        node.groups = GroupSync::On {
            pending: Default::default(),
        };
        node.told = Some(Box::new(told));
    }
    inputs
}

fn believing(inputs: &Inputs, node: &str) -> Told {
    let node = &inputs.nodes[node];
    let attached = inputs.world.enis_of(&node.instance);
    let mut pool = say::Pool::default();
    let mut interfaces = Vec::new();
    for (device, eni) in attached.into_iter().enumerate() {
        let mut cidrs = BTreeMap::new();
        for address in eni.addresses.iter().filter(|a| !a.primary) {
            let text = address.address.to_string();
            let pod = node.pods.iter().find(|p| p.address == address.address);
            let one = |pod: &reach::facts::Pod| say::Address {
                address: text.clone(),
                ipam_metadata: say::Metadata {
                    k8s_pod_namespace: pod.namespace.clone(),
                    k8s_pod_name: pod.name.clone(),
                },
                assigned_time: AT.to_owned(),
                unassigned_time: say::NEVER.to_owned(),
                ..Default::default()
            };
            let range = say::Cidr {
                ip_addresses: pod.map(|p| (text.clone(), one(p))).into_iter().collect(),
                ..Default::default()
            };
            cidrs.insert(format!("{text}/32"), range);
        }
        pool.total_ips += cidrs.len();
        pool.enis.insert(
            eni.id.to_string(),
            say::Eni {
                id: eni.id.to_string(),
                is_primary: device == 0,
                device_number: i64::try_from(device).expect("few"),
                available_ipv4_cidrs: cidrs,
                ..Default::default()
            },
        );
        interfaces.push(say::Interface {
            id: eni.id.to_string(),
            device: u32::try_from(device).ok(),
            stage: "Ready".to_owned(),
            groups: eni.groups.iter().map(ToString::to_string).collect(),
            ..Default::default()
        });
    }
    pool.assigned_ips = node.pods.len();
    let count = |n: usize| u32::try_from(n).expect("few");
    let state = State {
        agent: "branchline 0.1.0".to_owned(),
        instance: node.instance.to_string(),
        ready: true,
        group_sync: say::GroupSync {
            enabled: true,
            ..Default::default()
        },
        pool: say::Numbers {
            interfaces: count(interfaces.len()),
            interfaces_max: 3,
            total: count(pool.total_ips),
            assigned: count(pool.assigned_ips),
            available: count(pool.total_ips - pool.assigned_ips),
            ..Default::default()
        },
        checkpoint: say::Checkpoint {
            path: "/var/run/aws-node/ipam.json".to_owned(),
            written: AT.to_owned(),
            found: "checkpoint".to_owned(),
            ..Default::default()
        },
        interfaces,
        ..Default::default()
    };
    Told {
        at: AT.to_owned(),
        enis: Enis([("0".to_owned(), pool)].into()),
        state: Some(state),
    }
}

fn told<'a>(inputs: &'a mut Inputs, node: &str) -> &'a mut Told {
    let node = inputs.nodes.get_mut(node).expect("it is there");
    node.told.as_mut().expect("its agent was asked")
}

fn state<'a>(inputs: &'a mut Inputs, node: &str) -> &'a mut State {
    told(inputs, node).state.as_mut().expect("ours")
}

fn pool<'a>(inputs: &'a mut Inputs, node: &str) -> &'a mut say::Pool {
    told(inputs, node).enis.0.get_mut("0").expect("a card")
}

/// What differs beside what the fixture's own story is about: its DaemonSet's controller, and a group
/// that was attached by hand.
fn kinds(drift: &Drift) -> Vec<What> {
    let all = drift.differences.iter().map(|d| d.what);
    all.filter(|w| *w != What::NotObserved).collect()
}

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[test]
fn agents_that_are_right_are_no_drift() {
    let found = drift(&inputs(), None);
    assert_eq!(kinds(&found), []);
    assert_eq!((found.told, found.nodes), (2, 2));
    // Agents that were not asked are said to be.
    let mut quiet = inputs();
    quiet.nodes.values_mut().for_each(|n| n.told = None);
    let found = drift(&quiet, None);
    assert!(
        found.not_checked.iter().any(|l| l.contains("2 nodes")),
        "{:?}",
        found.not_checked
    );
}

#[test]
fn addresses_that_ec2_took_and_that_the_agent_does_not_know() {
    let mut inputs = inputs();
    // EC2 does not list a pod's address any more, and lists one more.
    let id = pool(&mut inputs, NODE)
        .enis
        .keys()
        .next()
        .expect("one")
        .clone();
    let eni = inputs
        .world
        .enis
        .get_mut(&id.parse::<EniId>().expect("an id"))
        .expect("it is there");
    let gone = eni.addresses.pop().expect("an address");
    let mut other = gone.clone();
    other.address = "10.0.9.9".parse().expect("an address");
    eni.addresses.push(other);
    let found = drift(&inputs, None);
    assert_eq!(kinds(&found), [What::LostAddress, What::UnknownAddress]);
    let text = plain(&drifting::render(&found).expect("text"));
    assert!(
        text.contains(&format!(
            "{} on {id}: EC2 does not list it; dev/api-7c9-",
            gone.address
        )),
        "{text}"
    );
    assert!(text.contains("10.0.9.9 on "), "{text}");
    // What is on its way is no difference.
    state(&mut inputs, NODE).pool.coming = 1;
    assert_eq!(kinds(&drift(&inputs, None)), [What::LostAddress]);
    // An interface that somebody detached.
    let eni = inputs
        .world
        .enis
        .get_mut(&id.parse::<EniId>().expect("an id"));
    eni.expect("it is there").attachment = None;
    let found = drift(&inputs, None);
    assert!(
        found
            .differences
            .iter()
            .any(|d| d.lines.iter().any(|l| l.contains(&id)))
    );
}

#[test]
fn a_lost_del_and_a_pod_that_the_agent_does_not_know() {
    let mut inputs = inputs();
    let cluster = inputs.kubernetes.as_mut().expect("a cluster");
    cluster.pods.remove(&ObjectName::new("dev", "api-7c9-0"));
    let node = inputs.nodes.get_mut(NODE).expect("it is there");
    node.pods.retain(|p| p.name != "api-7c9-0");
    let found = drift(&inputs, None);
    assert_eq!(kinds(&found), [What::Leases]);
    assert_eq!(
        found.differences[0].lines,
        ["10.0.0.7: the agent keeps it for dev/api-7c9-0, which Kubernetes does not know"]
    );
    for eni in pool(&mut inputs, NODE).enis.values_mut() {
        for range in eni.available_ipv4_cidrs.values_mut() {
            range.ip_addresses.retain(|a, _| a != "10.0.0.8");
        }
    }
    let found = drift(&inputs, None);
    assert_eq!(
        found.differences[0].lines.len(),
        2,
        "{:?}",
        found.differences
    );
}

#[test]
fn an_address_that_the_agent_keeps_in_doubt() {
    let mut inputs = inputs();
    let doubtful = &mut state(&mut inputs, NODE).leases.doubtful;
    doubtful.insert(
        "10.0.0.7".to_owned(),
        "its link is there without a route".to_owned(),
    );
    let found = drift(&inputs, None);
    assert_eq!(kinds(&found), [What::Leases]);
    assert!(found.differences[0].lines[0].ends_with("in doubt: its link is there without a route"));
}

#[test]
fn the_kernel_and_the_agents_pod() {
    let mut inputs = inputs();
    let repairs = &mut state(&mut inputs, NODE).repairs;
    repairs.counts.insert("rule".to_owned(), 3);
    let found = drift(&inputs, None);
    assert_eq!(kinds(&found), []);
    assert_eq!(
        found.notes,
        [format!(
            "{NODE}: the agent put right since its start: 3 rule"
        )]
    );
    let failing = &mut state(&mut inputs, NODE).repairs.failing;
    failing.insert(
        "rule 1536 from 10.0.0.9".to_owned(),
        "Operation not permitted".to_owned(),
    );
    assert_eq!(kinds(&drift(&inputs, None)), [What::Kernel]);

    let cluster = inputs.kubernetes.as_mut().expect("a cluster");
    let agent = cluster
        .pods
        .get_mut(&ObjectName::new("kube-system", "aws-node-0"));
    let agent = agent.expect("it is there");
    agent.ready = false;
    agent.trouble =
        vec!["container aws-node waits: CrashLoopBackOff, restarted 7 times".to_owned()];
    let found = drift(&inputs, None);
    assert_eq!(kinds(&found), [What::AgentTrouble, What::Kernel]);
}

#[test]
fn interfaces_that_belong_to_nobody() {
    let mut inputs = inputs();
    let mut eni = inputs.world.enis.values().next().expect("one").clone();
    eni.id = "eni-0badc0ffee".parse().expect("an id");
    eni.attachment = None;
    eni.status = EniStatus::Available;
    let tag = |suffix: &str| format!("node.k8s.amazonaws.com/{suffix}");
    eni.tags.insert(tag("instance_id"), "i-0gone".to_owned());
    eni.tags
        .insert(tag("createdAt"), "2020-01-01T00:00:00Z".to_owned());
    inputs.world.enis.insert(eni.id.clone(), eni.clone());
    let found = drift(&inputs, None);
    assert_eq!(kinds(&found), [What::LeakedInterface]);
    assert!(found.differences[0].lines[0].contains("i-0gone, which is gone"));
    // One that was made a moment ago may be on its way to a node.
    let read = inputs
        .evidence
        .iter()
        .find(|e| e.source == "aws")
        .expect("EC2 was read");
    eni.tags.insert(tag("createdAt"), read.at.clone());
    inputs.world.enis.insert(eni.id.clone(), eni);
    assert_eq!(kinds(&drift(&inputs, None)), []);
}

#[test]
fn an_agent_that_believes_it_has_synced() {
    // S3-21: the fixture's node carries add_sg on its primary interface alone.
    let mut inputs = inputs();
    let text = |inputs: &Inputs| plain(&drifting::render(&drift(inputs, None)).expect("text"));
    let knows = text(&inputs);
    assert!(
        knows.contains("BL0301") && !knows.contains("cache≠EC2"),
        "{knows}"
    );
    for interface in &mut state(&mut inputs, NODE).interfaces {
        interface.groups = vec!["sg-1".to_owned()];
    }
    let believes = text(&inputs);
    // One that knows better says what stopped it.
    let node = inputs.nodes.get_mut(NODE).expect("it is there");
    node.groups = GroupSync::On {
        pending: ["eni-1".to_owned()].into(),
    };
    let pending = &mut state(&mut inputs, NODE).group_sync.pending;
    let why = "ModifyNetworkInterfaceAttribute: UnauthorizedOperation";
    pending.insert("eni-1".to_owned(), why.to_owned());
    let stopped = text(&inputs);
    assert!(stopped.contains(&format!("eni-1 ({why})")), "{stopped}");
    assert!(
        believes.contains("the agent believes that it already synced (cache≠EC2)"),
        "{believes}"
    );
}

fn look(inputs: &Inputs) -> status::Status {
    status::status(inputs, NODE).expect("a node")
}

/// The fixture without its own story: the group is on all interfaces.
fn equal() -> Inputs {
    let mut inputs = inputs();
    let instance = inputs.nodes[NODE].instance.clone();
    let groups = inputs.world.enis_of(&instance)[1].groups.clone();
    for eni in inputs.world.enis.values_mut() {
        if eni.instance() == Some(&instance) {
            eni.groups.clone_from(&groups);
        }
    }
    inputs
}

#[test]
fn a_node_on_which_all_is_equal() {
    let mut inputs = equal();
    let found = look(&inputs);
    assert_eq!(found.verdict, status::Verdict::Equal, "{found:#?}");
    let of = |e: &status::Interface| (e.real, e.believed, e.used, e.free(), e.groups_equal);
    let rows: Vec<_> = found.interfaces.iter().map(of).collect();
    assert_eq!(rows, [(Some(5), Some(5), 5, 0, true); 3]);
    assert_eq!(found.addresses.len(), 15);
    // Without its agent, or without the cluster, nobody can say so.
    let asked = inputs.nodes.get_mut(NODE).expect("it is there").told.take();
    assert!(asked.is_some());
    let found = look(&inputs);
    assert_eq!(found.verdict, status::Verdict::Unknown);
    assert!(
        found.unknown[0].starts_with("believed: "),
        "{:?}",
        found.unknown
    );
    assert!(status::status(&inputs, "nothing").is_err());
}

#[test]
fn a_node_in_trouble() {
    let mut inputs = inputs();
    for eni in pool(&mut inputs, NODE).enis.values_mut().take(1) {
        eni.available_ipv4_cidrs.pop_first();
    }
    let said = state(&mut inputs, NODE);
    said.started = "2026-11-21T11:00:00Z".to_owned();
    let full = say::Reason {
        code: "subnet-full".to_owned(),
        message: "subnet subnet-1 has no free address".to_owned(),
    };
    said.obstacle = Some(full.clone());
    said.waiting = vec![say::Waiting {
        pod: "dev/late".to_owned(),
        seconds: 12,
        reason: full.clone(),
    }];
    said.backoffs = vec![say::Backoff {
        what: "AssignPrivateIpAddresses eni-1".to_owned(),
        code: full.code,
        failures: 3,
        seconds: 40,
        message: full.message,
    }];
    said.denied = vec![say::Denied {
        action: "ec2:AttachNetworkInterface".to_owned(),
        at: AT.to_owned(),
        message: "UnauthorizedOperation".to_owned(),
        without: "no further interface".to_owned(),
    }];
    said.repairs.counts.insert("rule".to_owned(), 2);
    said.leases.compared = AT.to_owned();
    said.leases.released = 1;
    let found = look(&inputs);
    assert_eq!(found.verdict, status::Verdict::Differs);
    insta::assert_snapshot!(plain(&status::render(&found).expect("text")));
    let document = serde_json::to_value(&found).expect("JSON");
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../docs/schema/status.v1.json"))
            .expect("a schema");
    let required = schema["required"].as_array().expect("a list");
    let keys = document.as_object().expect("an object");
    assert_eq!(keys.len(), required.len());
    assert!(
        required
            .iter()
            .all(|k| keys.contains_key(k.as_str().expect("a key")))
    );
}

#[test]
fn an_address_that_rests() {
    let mut inputs = equal();
    let node = inputs.nodes.get_mut(NODE).expect("it is there");
    let last = node.pods.pop().expect("a pod");
    let cluster = inputs.kubernetes.as_mut().expect("a cluster");
    cluster
        .pods
        .remove(&ObjectName::new(&last.namespace, &last.name));
    for eni in pool(&mut inputs, NODE).enis.values_mut() {
        for range in eni.available_ipv4_cidrs.values_mut() {
            for address in range.ip_addresses.values_mut() {
                if address.address == last.address.to_string() {
                    address.ipam_metadata = say::Metadata::default();
                    address.unassigned_time = "2026-11-21T11:59:45Z".to_owned();
                }
            }
        }
    }
    let rest = |inputs: &Inputs| {
        let found = look(inputs);
        let sum = |of: fn(&status::Interface) -> u32| found.interfaces.iter().map(of).sum::<u32>();
        (
            found.verdict,
            sum(|e| e.used),
            sum(|e| e.resting),
            sum(status::Interface::free),
        )
    };
    assert_eq!(rest(&inputs), (status::Verdict::Equal, 14, 1, 0));
    told(&mut inputs, NODE).at = "2026-11-21T12:00:20Z".to_owned();
    assert_eq!(rest(&inputs), (status::Verdict::Equal, 14, 0, 1));
}
