//! Random actions keep the state sound: no address twice in a VPC, free counts right, device indexes
//! unique, limits kept, no dangling references; a call that fails has changed nothing; what is
//! answered can be described and becomes facts.

use std::cell::Cell;
use std::collections::BTreeMap;

use ec2::types::*;
use ec2::wire::Shape;
use ec2::{AnyRequest, facts};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use vpcsim::{Caller, Config, State, Timing, addrs::Placement, apply, call};

/// One step: which action, and numbers that choose its parameters.
type Step = (u8, [u8; 4]);

/// Interfaces of one type that nothing holds.
fn of_type(enis: &[NetworkInterface], kind: &str) -> Vec<String> {
    let free = enis
        .iter()
        .filter(|e| kind == "trunk" || e.status.as_deref() == Some("available"));
    let own = free.filter(|e| e.interface_type.as_deref() == Some(kind));
    own.filter_map(|e| e.network_interface_id.clone()).collect()
}

fn attachments(enis: &[NetworkInterface]) -> Vec<String> {
    enis.iter()
        .filter_map(|e| e.attachment.as_ref()?.attachment_id.clone())
        .collect()
}

struct Run {
    state: State,
    caller: Caller,
    now: Timestamp,
}

fn some(text: impl ToString) -> Option<String> {
    Some(text.to_string())
}

fn pick<T: Clone>(items: &[T], by: u8) -> Option<T> {
    (!items.is_empty()).then(|| items[by as usize % items.len()].clone())
}

impl Run {
    fn new(placement: Placement) -> Self {
        let timing = Timing {
            attach: 50,
            detach: 50,
            detached_shown: 40,
            ..Timing::INSTANT
        };
        let config = Config {
            placement,
            timing,
            ..Config::default()
        };
        let caller = Caller::root(&config.account);
        Self {
            state: State::new(config),
            caller,
            now: Timestamp::UNIX_EPOCH,
        }
    }

    fn ask<A: vpcsim::Action>(&mut self, request: A) -> A::Output {
        call(&mut self.state, &self.caller, &request, self.now).expect("a Describe call answers")
    }

    /// Makes a VPC with two small subnets, groups and two instances.
    fn build(&mut self) {
        let vpc = self.ask(CreateVpcRequest {
            cidr_block: some("10.0.0.0/16"),
            ..Default::default()
        });
        let vpc = vpc.vpc.and_then(|v| v.vpc_id);
        for (cidr, zone) in [("10.0.1.0/26", "us-west-2a"), ("10.0.2.0/24", "us-west-2b")] {
            self.ask(CreateSubnetRequest {
                vpc_id: vpc.clone(),
                cidr_block: some(cidr),
                availability_zone: some(zone),
                ..Default::default()
            });
        }
        for name in ["nodes", "pods", "db"] {
            self.ask(CreateSecurityGroupRequest {
                group_name: some(name),
                description: some(name),
                vpc_id: vpc.clone(),
                ..Default::default()
            });
        }
    }

    fn enis(&mut self) -> Vec<NetworkInterface> {
        self.ask(DescribeNetworkInterfacesRequest::default())
            .network_interfaces
    }

    fn instances(&mut self) -> Vec<String> {
        let answer = self.ask(DescribeInstancesRequest::default());
        answer
            .reservations
            .into_iter()
            .flat_map(|r| r.instances)
            .filter_map(|i| i.instance_id)
            .collect()
    }

    fn subnets(&mut self) -> Vec<String> {
        let answer = self.ask(DescribeSubnetsRequest::default());
        answer
            .subnets
            .into_iter()
            .filter_map(|s| s.subnet_id)
            .collect()
    }

    fn groups(&mut self) -> Vec<String> {
        let answer = self.ask(DescribeSecurityGroupsRequest::default());
        answer
            .security_groups
            .into_iter()
            .filter_map(|g| g.group_id)
            .collect()
    }

    /// The request of a step, chosen among what exists now; some name what is not there.
    fn request(&mut self, (action, [a, b, c, d]): Step) -> AnyRequest {
        let enis = self.enis();
        let ids: Vec<String> = enis
            .iter()
            .filter_map(|e| e.network_interface_id.clone())
            .collect();
        let eni = pick(&ids, a).or_else(|| some("eni-0123456789abcdef0"));
        let (instances, subnets, groups) = (self.instances(), self.subnets(), self.groups());
        let own = pick(&enis, a).unwrap_or_default();
        let address = |by: u8| pick(&own.private_ip_addresses, by)?.private_ip_address;
        let count = i32::from(b % 4);
        match action % 21 {
            0 | 1 => AnyRequest::CreateNetworkInterface(Box::new(CreateNetworkInterfaceRequest {
                subnet_id: pick(&subnets, a),
                groups: pick(&groups, b).into_iter().collect(),
                secondary_private_ip_address_count: Some(i32::from(c % 4)),
                ipv4_prefix_count: Some(i32::from(d % 5 == 0)),
                interface_type: (d % 7 == 0).then(|| "trunk".into()),
                ..Default::default()
            })),
            2 => AnyRequest::CreateNetworkInterface(Box::new(CreateNetworkInterfaceRequest {
                subnet_id: pick(&subnets, a),
                private_ip_address: some(format_args!("10.0.1.{}", b % 70)),
                client_token: some(format_args!("token-{}", c % 4)),
                ..Default::default()
            })),
            3 => AnyRequest::RunInstances(Box::new(RunInstancesRequest {
                image_id: some("ami-1"),
                instance_type: some(
                    ["t3.medium", "m5.large", "m5.xlarge", "t9.none"][a as usize % 4],
                ),
                subnet_id: pick(&subnets, b),
                min_count: Some(1),
                max_count: Some(1 + i32::from(c % 2)),
                ..Default::default()
            })),
            4 | 5 | 20 => {
                AnyRequest::AttachNetworkInterface(Box::new(AttachNetworkInterfaceRequest {
                    network_interface_id: eni,
                    instance_id: pick(&instances, b),
                    device_index: Some(i32::from(c % 5)),
                    ..Default::default()
                }))
            }
            6 => AnyRequest::DetachNetworkInterface(Box::new(DetachNetworkInterfaceRequest {
                attachment_id: pick(&attachments(&enis), a),
                ..Default::default()
            })),
            7 => AnyRequest::DeleteNetworkInterface(Box::new(DeleteNetworkInterfaceRequest {
                network_interface_id: eni,
                ..Default::default()
            })),
            8 | 9 => {
                AnyRequest::AssignPrivateIpAddresses(Box::new(AssignPrivateIpAddressesRequest {
                    network_interface_id: eni,
                    secondary_private_ip_address_count: Some(count),
                    ipv4_prefix_count: Some(i32::from(c % 3 == 0)),
                    ..Default::default()
                }))
            }
            10 => AnyRequest::AssignPrivateIpAddresses(Box::new(AssignPrivateIpAddressesRequest {
                network_interface_id: pick(&ids, c),
                private_ip_addresses: address(b).into_iter().collect(),
                allow_reassignment: Some(d % 2 == 0),
                ..Default::default()
            })),
            11 | 12 => AnyRequest::UnassignPrivateIpAddresses(Box::new(
                UnassignPrivateIpAddressesRequest {
                    network_interface_id: eni,
                    private_ip_addresses: address(b).into_iter().collect(),
                    ipv4_prefixes: pick(&own.ipv4_prefixes, c)
                        .and_then(|p| p.ipv4_prefix)
                        .into_iter()
                        .collect(),
                },
            )),
            13 => AnyRequest::AssociateTrunkInterface(Box::new(AssociateTrunkInterfaceRequest {
                trunk_interface_id: pick(&of_type(&enis, "trunk"), a).or(eni),
                branch_interface_id: pick(&of_type(&enis, "interface"), b),
                vlan_id: Some(i32::from(c % 6)),
                ..Default::default()
            })),
            14 => {
                let all = self.ask(DescribeTrunkInterfaceAssociationsRequest::default());
                AnyRequest::DisassociateTrunkInterface(Box::new(
                    DisassociateTrunkInterfaceRequest {
                        association_id: pick(&all.interface_associations, a)
                            .and_then(|x| x.association_id),
                        ..Default::default()
                    },
                ))
            }
            15 => AnyRequest::TerminateInstances(Box::new(TerminateInstancesRequest {
                instance_ids: pick(&instances, a)
                    .filter(|_| b % 2 == 0)
                    .into_iter()
                    .collect(),
                ..Default::default()
            })),
            16 => AnyRequest::ModifyNetworkInterfaceAttribute(Box::new(
                ModifyNetworkInterfaceAttributeRequest {
                    network_interface_id: eni,
                    groups: groups
                        .iter()
                        .take(1 + usize::from(b % 6))
                        .cloned()
                        .collect(),
                    ..Default::default()
                },
            )),
            17 => AnyRequest::ModifyInstanceAttribute(Box::new(ModifyInstanceAttributeRequest {
                instance_id: pick(&instances, a),
                groups: pick(&groups, b).into_iter().collect(),
                ..Default::default()
            })),
            18 => AnyRequest::DeleteSecurityGroup(Box::new(DeleteSecurityGroupRequest {
                group_id: pick(&groups, a),
                ..Default::default()
            })),
            _ => AnyRequest::DeleteSubnet(Box::new(DeleteSubnetRequest {
                subnet_id: pick(&subnets, a).filter(|_| b % 3 == 0),
                ..Default::default()
            })),
        }
    }

    /// Everything becomes facts: no answer is one that the conversion refuses.
    fn facts(&mut self) -> Result<(), facts::FactError> {
        let reservations = self.ask(DescribeInstancesRequest::default()).reservations;
        let answers = facts::Answers {
            vpcs: self.ask(DescribeVpcsRequest::default()).vpcs,
            subnets: self.ask(DescribeSubnetsRequest::default()).subnets,
            network_interfaces: self.enis(),
            security_groups: self
                .ask(DescribeSecurityGroupsRequest::default())
                .security_groups,
            instances: reservations.into_iter().flat_map(|r| r.instances).collect(),
            trunk_associations: self
                .ask(DescribeTrunkInterfaceAssociationsRequest::default())
                .interface_associations,
            ..Default::default()
        };
        facts::world(&answers).map(drop)
    }
}

thread_local! {
    /// How often each action succeeded and failed, over all cases.
    static SEEN: Cell<BTreeMap<(&'static str, bool), u32>> = const { Cell::new(BTreeMap::new()) };
}

fn walk(placement: Placement, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut run = Run::new(placement);
    run.build();
    for step in steps {
        let request = run.request(*step);
        let before = run.state.clone();
        let answer = apply(&mut run.state, &run.caller, &request, run.now);
        let mut seen = SEEN.take();
        *seen.entry((request.action(), answer.is_ok())).or_default() += 1;
        SEEN.set(seen);
        if let Err(error) = &answer {
            prop_assert!(
                run.state == before,
                "{error} has changed the state: {request:?}"
            );
        }
        let violations = run.state.violations();
        prop_assert!(violations.is_empty(), "{violations:?} after {request:?}");
        run.now += SignedDuration::from_millis(i64::from(step.1[3]) % 80);
        run.state.tick(run.now);
        let violations = run.state.violations();
        prop_assert!(violations.is_empty(), "{violations:?} after waiting");
    }
    prop_assert_eq!(run.facts(), Ok(()));
    Ok(())
}

#[test]
fn random_actions_keep_the_state_sound() {
    let config = ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    // The same cases each time, so that the counts below are facts; PROPTEST_CASES asks for more.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let steps = proptest::collection::vec(any::<Step>(), 60..120);
    let placements = prop_oneof![Just(Placement::LowestFree), Just(Placement::Random)];
    runner
        .run(&(placements, steps), |(placement, steps)| {
            walk(placement, &steps)
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    // A property over calls that all fail would prove nothing.
    let seen = SEEN.take();
    for action in [
        "CreateNetworkInterface",
        "RunInstances",
        "AttachNetworkInterface",
        "DetachNetworkInterface",
        "DeleteNetworkInterface",
        "AssignPrivateIpAddresses",
        "UnassignPrivateIpAddresses",
        "AssociateTrunkInterface",
        "DisassociateTrunkInterface",
        "TerminateInstances",
        "ModifyNetworkInterfaceAttribute",
        "ModifyInstanceAttribute",
        "DeleteSecurityGroup",
    ] {
        for outcome in [true, false] {
            let count = seen.get(&(action, outcome)).copied().unwrap_or(0);
            let always = action == "TerminateInstances" && !outcome;
            assert!(
                count >= 3 || always,
                "{action} ok={outcome}: {count} times; {seen:?}"
            );
        }
    }
}

#[test]
fn a_seed_repeats_a_run() {
    let steps: Vec<Step> = (0..80u8).map(|n| (n, [n, n / 2, n / 3, n / 5])).collect();
    let runs = [0, 1].map(|_| {
        let mut run = Run::new(Placement::Random);
        run.build();
        let mut answers = Vec::new();
        for step in &steps {
            let request = run.request(*step);
            let answer = apply(&mut run.state, &run.caller, &request, run.now);
            answers.push(answer.map(|a: std::sync::Arc<dyn Shape>| format!("{a:?}")));
        }
        (run.state, answers)
    });
    assert!(runs[0] == runs[1]);
}
