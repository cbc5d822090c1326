//! Every call of the pool against the embedded EC2: done, throttled, denied, unanswered, and the
//! ceilings that EC2 itself knows. The pool's side of each failure is in tests/simulation.

use std::net::TcpListener;
use std::time::Duration;

use crate::translate::Place;
use ec2::client::Retry;
use ec2::types as t;
use ipam::{AttachmentId, ClientToken, EniView};
use vpc::facts::{EniId, SgId};
use vpcsim::knobs::{Deny, Fault, Knobs};
use vpcsim::{Config, Sim};

use super::*;

/// How long a call waits for an answer that comes.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it waits for one that does not.
const IMPATIENCE: Duration = Duration::from_millis(300);

struct Bed {
    sim: Sim,
    endpoint: String,
    cloud: Cloud,
    subnet: SubnetId,
    groups: Vec<SgId>,
}

/// A client that asks once.
fn client(endpoint: &str, patience: Duration) -> ec2::Client {
    let credentials = ec2::Credentials::new("AKIAEXAMPLE", "secret", None, None, "test");
    ec2::Client::builder()
        .endpoint(endpoint)
        .region("us-west-2")
        .credentials(credentials)
        .retry(Retry {
            attempts: 1,
            attempt_timeout: patience,
            budget: patience,
            ..Retry::default()
        })
        .build()
        .unwrap()
}

async fn bed(instance_type: &str, cidr: &str) -> Bed {
    let sim = Sim::new(Config::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let api = sim.clone();
    tokio::spawn(async move { api.serve_api(listener, true).await });
    let ec2 = client(&endpoint, PATIENCE);
    let vpc = t::CreateVpcRequest {
        cidr_block: Some("10.0.0.0/16".into()),
        ..Default::default()
    };
    let vpc = ec2.call(vpc).await.unwrap().vpc.unwrap().vpc_id;
    let subnet = t::CreateSubnetRequest {
        vpc_id: vpc.clone(),
        cidr_block: Some(cidr.into()),
        ..Default::default()
    };
    let subnet = ec2.call(subnet).await.unwrap().subnet.unwrap().subnet_id;
    let run = t::RunInstancesRequest {
        image_id: Some("ami-0123456789abcdef0".into()),
        instance_type: Some(instance_type.into()),
        min_count: Some(1),
        max_count: Some(1),
        subnet_id: subnet.clone(),
        ..Default::default()
    };
    let instance = ec2.call(run).await.unwrap().instances.remove(0);
    let groups = instance
        .security_groups
        .iter()
        .map(|g| g.group_id.clone().unwrap());
    let groups = groups.map(|g| g.parse().unwrap()).collect();
    let instance = instance.instance_id.unwrap().parse().unwrap();
    let cloud = Cloud {
        blocks: Arc::default(),
        ec2,
        translator: Translator {
            instance,
            tags: settings::EniTags::default(),
            place: Place {
                vpc: vpc.unwrap().parse().unwrap(),
                zone: "us-west-2a".into(),
                subnet: subnet.clone().unwrap().parse().unwrap(),
            },
        },
    };
    Bed {
        sim,
        endpoint,
        cloud,
        subnet: subnet.unwrap().parse().unwrap(),
        groups,
    }
}

impl Bed {
    async fn call(&self, call: Call) -> Result<Answer, Failure> {
        self.cloud.call(&call).await
    }

    fn create_call(&self, token: &str, count: u32) -> Call {
        Call::CreateEni {
            token: ClientToken(token.into()),
            at: ipam::Millis(1_700_000_000_000),
            subnet: self.subnet.clone(),
            groups: self.groups.clone(),
            want: ipam::Want::Addresses(count),
        }
    }

    async fn create(&self, token: &str) -> EniView {
        match self.call(self.create_call(token, 1)).await.unwrap() {
            Answer::Created(view) => view,
            other => panic!("{other:?}"),
        }
    }

    async fn attach(&self, eni: &EniId, device: u32) -> AttachmentId {
        match self
            .call(Call::AttachEni {
                eni: eni.clone(),
                device,
            })
            .await
            .unwrap()
        {
            Answer::Attached(id) => id,
            other => panic!("{other:?}"),
        }
    }

    async fn shown(&self, leftovers: bool) -> Vec<EniView> {
        match self.call(Call::Show { leftovers }).await.unwrap() {
            Answer::Shown(view) => view.enis,
            other => panic!("{other:?}"),
        }
    }

    async fn kind(&self, call: Call) -> FailureKind {
        self.call(call).await.unwrap_err().kind
    }
}

#[tokio::test]
async fn an_interface_lives_and_dies_as_the_pool_asks() {
    let bed = bed("t3.medium", "10.0.1.0/24").await;
    let new = bed.create("a").await;
    assert_eq!(
        bed.create("a").await.id,
        new.id,
        "the token makes it the same interface"
    );
    assert!(new.ours && new.attachment.is_none() && new.secondary.len() == 1);
    assert_eq!(bed.shown(false).await.len(), 1);
    assert_eq!(
        bed.shown(true).await.len(),
        2,
        "a leftover is found by its tag"
    );

    let attachment = bed.attach(&new.id, 1).await;
    let protect = Call::SetDeleteOnTermination {
        eni: new.id.clone(),
        attachment: attachment.clone(),
    };
    assert_eq!(bed.call(protect).await.unwrap(), Answer::Done);
    let Answer::Assigned(ipam::Blocks::Addresses(more)) = bed
        .call(Call::Assign {
            eni: new.id.clone(),
            want: ipam::Want::Addresses(2),
        })
        .await
        .unwrap()
    else {
        panic!("no addresses");
    };
    let mut seen = bed.shown(false).await;
    let seen = seen.remove(seen.iter().position(|eni| eni.id == new.id).unwrap());
    assert!(more.iter().all(|address| seen.secondary.contains(address)) && more.len() == 2);
    assert!(seen.ours && seen.attachment.unwrap().delete_on_termination);

    let unassign = Call::Unassign {
        eni: new.id.clone(),
        blocks: ipam::Blocks::Addresses(more),
    };
    assert_eq!(bed.call(unassign.clone()).await.unwrap(), Answer::Done);
    assert_eq!(
        bed.kind(unassign).await,
        FailureKind::NotFound,
        "they are gone already"
    );
    let delete = Call::DeleteEni {
        eni: new.id.clone(),
    };
    assert_eq!(
        bed.kind(delete.clone()).await,
        FailureKind::Conflict,
        "it is attached"
    );
    let detach = Call::DetachEni {
        eni: new.id.clone(),
        attachment,
    };
    assert_eq!(bed.call(detach).await.unwrap(), Answer::Done);
    assert_eq!(bed.call(delete.clone()).await.unwrap(), Answer::Done);
    assert_eq!(bed.kind(delete).await, FailureKind::NotFound);
}

#[tokio::test]
async fn every_call_can_be_throttled_denied_and_left_without_an_answer() {
    let mut bed = bed("t3.medium", "10.0.1.0/24").await;
    let new = bed.create("a").await;
    let attachment = bed.attach(&new.id, 1).await;
    let eni = new.id;
    let calls = [
        bed.create_call("b", 1),
        Call::AttachEni {
            eni: eni.clone(),
            device: 2,
        },
        Call::SetDeleteOnTermination {
            eni: eni.clone(),
            attachment: attachment.clone(),
        },
        Call::Assign {
            eni: eni.clone(),
            want: ipam::Want::Addresses(1),
        },
        Call::Unassign {
            eni: eni.clone(),
            blocks: ipam::Blocks::Addresses(new.secondary),
        },
        Call::DetachEni {
            eni: eni.clone(),
            attachment,
        },
        Call::DeleteEni { eni: eni.clone() },
        Call::SetGroups {
            eni,
            groups: bed.groups.clone(),
        },
        Call::Show { leftovers: true },
    ];
    let fault = |code: &str, hang_ms| Fault {
        action: "*".into(),
        code: code.into(),
        message: String::new(),
        count: None,
        probability: 1.0,
        from: None,
        until: None,
        hang_ms,
        after: false,
    };
    let deny = Deny {
        principal: "*".into(),
        action: "*".into(),
    };
    let weathers = [
        (
            vec![fault("RequestLimitExceeded", 0)],
            vec![],
            PATIENCE,
            FailureKind::Throttled,
        ),
        (vec![], vec![deny], PATIENCE, FailureKind::Denied),
        (
            vec![fault("InternalError", 0)],
            vec![],
            PATIENCE,
            FailureKind::Unclear,
        ),
        (
            vec![fault("InternalError", 3_600_000)],
            vec![],
            IMPATIENCE,
            FailureKind::Unclear,
        ),
    ];
    for (faults, denies, patience, kind) in weathers {
        bed.cloud.ec2 = client(&bed.endpoint, patience);
        bed.sim.set_knobs(Knobs {
            faults,
            denies,
            ..Knobs::default()
        });
        for call in &calls {
            let failure = bed.call(call.clone()).await.unwrap_err();
            assert_eq!(failure.kind, kind, "{call:?}: {failure}");
            assert_eq!(failure.action, call.action());
            if kind == FailureKind::Denied {
                let permission = format!("ec2:{}", call.action());
                assert!(failure.to_string().contains(&permission), "{failure}");
            }
        }
    }
}

#[tokio::test]
async fn each_ceiling_has_its_own_kind() {
    // /28: 16 addresses, 5 of them AWS's, 1 the instance's.
    let bed = bed("t3.medium", "10.0.1.0/28").await;
    let primary = bed.shown(false).await.remove(0).id;
    let too_many = Call::Assign {
        eni: primary.clone(),
        want: ipam::Want::Addresses(6),
    };
    assert_eq!(bed.kind(too_many).await, FailureKind::AddressLimit);
    assert_eq!(
        bed.kind(bed.create_call("x", 14)).await,
        FailureKind::SubnetFull
    );
    let (a, b, c) = (
        bed.create("a").await.id,
        bed.create("b").await.id,
        bed.create("c").await.id,
    );
    bed.attach(&a, 1).await;
    let taken = Call::AttachEni {
        eni: b.clone(),
        device: 1,
    };
    assert_eq!(bed.kind(taken).await, FailureKind::Conflict);
    let again = Call::AttachEni { eni: a, device: 2 };
    assert_eq!(bed.kind(again).await, FailureKind::Conflict);
    bed.attach(&b, 2).await;
    let fourth = Call::AttachEni { eni: c, device: 3 };
    assert_eq!(bed.kind(fourth).await, FailureKind::InstanceEniLimit);
}

#[tokio::test]
async fn a_type_that_the_table_lacks_is_asked_for() {
    let bed = bed("t3.medium", "10.0.1.0/24").await;
    let asked = crate::limits::ask(&bed.cloud.ec2, "m5.large")
        .await
        .unwrap();
    assert_eq!(Some(asked), crate::limits::known("m5.large"));
    assert!(crate::limits::of(&bed.cloud.ec2, "x99.huge").await.is_err());
}

#[tokio::test]
async fn what_would_be_denied_is_told_by_dry_runs_that_do_nothing() {
    let bed = bed("t3.medium", "10.0.1.0/24").await;
    let new = bed.create("a").await;
    let attachment = bed.attach(&new.id, 1).await;
    let eni = new.id.clone();
    let calls = [
        bed.create_call("probe", 1),
        Call::SetGroups {
            eni: eni.clone(),
            groups: bed.groups.clone(),
        },
        Call::DetachEni {
            eni: eni.clone(),
            attachment,
        },
        Call::DeleteEni { eni },
    ];
    let before = bed.shown(true).await;
    assert!(bed.cloud.denied(&calls).await.is_empty());
    let deny = ["CreateNetworkInterface", "DeleteNetworkInterface"].map(|action| Deny {
        principal: "*".into(),
        action: format!("ec2:{action}"),
    });
    bed.sim.set_knobs(Knobs {
        denies: deny.to_vec(),
        ..Knobs::default()
    });
    let denied = bed.cloud.denied(&calls).await;
    let actions: Vec<_> = denied.iter().map(|failure| failure.action).collect();
    assert_eq!(
        actions,
        ["CreateNetworkInterface", "DeleteNetworkInterface"]
    );
    assert!(denied.iter().all(|f| f.kind == FailureKind::Denied));
    assert_eq!(bed.shown(true).await, before, "a dry run does nothing");
}

#[tokio::test]
async fn prefixes_come_and_go_and_a_fragmented_subnet_is_named() {
    // /27: one aligned /28 is free, and only one.
    let bed = bed("t3.medium", "10.0.1.0/27").await;
    let eni = bed.shown(false).await.remove(0).id;
    let assign = Call::Assign {
        eni: eni.clone(),
        want: ipam::Want::Prefixes(1),
    };
    // Its last address is AWS's: no /28 of a /27 is whole but the middle of larger ones.
    assert_eq!(bed.kind(assign).await, FailureKind::NoPrefix);
    let create = Call::CreateEni {
        token: ClientToken("p".into()),
        at: ipam::Millis(0),
        subnet: bed.subnet.clone(),
        groups: bed.groups.clone(),
        want: ipam::Want::Prefixes(1),
    };
    assert_eq!(bed.kind(create).await, FailureKind::NoPrefix);

    let bed = self::bed("t3.medium", "10.0.2.0/26").await;
    let eni = bed.shown(false).await.remove(0).id;
    let assign = Call::Assign {
        eni: eni.clone(),
        want: ipam::Want::Prefixes(2),
    };
    let Answer::Assigned(blocks) = bed.call(assign).await.unwrap() else {
        panic!("no prefixes");
    };
    assert_eq!(blocks.addresses().len(), 32);
    let shown = bed.shown(false).await.remove(0);
    assert_eq!(ipam::Blocks::Prefixes(shown.prefixes), blocks);
    assert_eq!(
        bed.call(Call::Unassign { eni, blocks }).await.unwrap(),
        Answer::Done
    );
    assert!(bed.shown(false).await.remove(0).prefixes.is_empty());
}

#[tokio::test]
async fn denied_actions_are_found_by_probes_that_change_nothing() {
    let bed = bed("t3.medium", "10.0.1.0/24").await;
    let eni = bed.shown(false).await.remove(0);
    let assign = Call::Assign {
        eni: eni.id.clone(),
        want: ipam::Want::Addresses(1),
    };
    let calls = [
        bed.create_call("probe", 1),
        assign,
        Call::DeleteEni {
            eni: eni.id.clone(),
        },
        Call::SetGroups {
            eni: eni.id.clone(),
            groups: bed.groups.clone(),
        },
    ];
    assert_eq!(bed.cloud.denied(&calls).await, []);
    let deny = |action: &str| Deny {
        principal: "*".into(),
        action: action.into(),
    };
    bed.sim.set_knobs(Knobs {
        denies: vec![
            deny("CreateNetworkInterface"),
            deny("AssignPrivateIpAddresses"),
        ],
        ..Knobs::default()
    });
    let denied = bed.cloud.denied(&calls).await;
    let actions: Vec<&str> = denied.iter().map(|failure| failure.action).collect();
    assert_eq!(
        actions,
        ["CreateNetworkInterface", "AssignPrivateIpAddresses"]
    );
    assert!(
        denied
            .iter()
            .all(|failure| failure.kind == FailureKind::Denied)
    );
    bed.sim.set_knobs(Knobs::default());
    assert_eq!(bed.shown(true).await, [eni], "nothing was done");
}

#[tokio::test]
async fn subnets_of_the_zone_are_shown_with_their_use() {
    let bed = bed("t3.medium", "10.0.1.0/24").await;
    let Answer::Subnets(subnets) = bed.call(Call::ShowSubnets).await.unwrap() else {
        panic!("no subnets");
    };
    assert_eq!(subnets.len(), 1);
    assert_eq!(
        (subnets[0].id.clone(), subnets[0].free),
        (bed.subnet.clone(), 250)
    );
    assert_eq!(subnets[0].usage, ipam::SubnetUse::Pods);
    // Their blocks are known from then on, whatever is denied.
    bed.sim.set_knobs(Knobs {
        denies: vec![Deny {
            principal: "*".into(),
            action: "*".into(),
        }],
        ..Knobs::default()
    });
    let block = bed.cloud.subnet_cidr(&bed.subnet).await.unwrap();
    assert_eq!(block, subnets[0].cidr);
}

#[test]
fn an_answer_without_a_member_names_it_and_drops_nothing() {
    let translator = Translator {
        instance: "i-1".parse().unwrap(),
        tags: settings::EniTags::default(),
        place: Place {
            vpc: "vpc-1".parse().unwrap(),
            zone: "us-west-2a".into(),
            subnet: "subnet-1".parse().unwrap(),
        },
    };
    let whole = t::NetworkInterface {
        network_interface_id: Some("eni-1".into()),
        mac_address: Some("02:00:00:00:00:01".into()),
        subnet_id: Some("subnet-1".into()),
        private_ip_address: Some("10.0.0.4".into()),
        attachment: Some(t::NetworkInterfaceAttachment {
            attachment_id: Some("eni-attach-1".into()),
            instance_id: Some("i-1".into()),
            device_index: Some(0),
            network_card_index: Some(1),
            status: Some("attached".into()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let card = translator.view(&whole).unwrap().hands_off;
    assert_eq!(
        card,
        Some(ipam::HandsOff::Card(1)),
        "shown, with the reason"
    );
    let without = |cut: fn(&mut t::NetworkInterface), member: &str| {
        let mut eni = whole.clone();
        cut(&mut eni);
        let answer = t::DescribeNetworkInterfacesResult {
            network_interfaces: vec![whole.clone(), eni],
            ..Default::default()
        };
        let call = Call::Show { leftovers: false };
        let responses = vec![Response::Described(Box::new(answer))];
        let failure = translator.answer(&call, responses).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unclear);
        assert!(failure.message.contains(member), "{failure}");
    };
    without(|eni| eni.network_interface_id = None, "NetworkInterfaceId");
    without(
        |eni| eni.mac_address = None,
        "interface eni-1: EC2's answer has no MacAddress",
    );
    without(|eni| eni.subnet_id = None, "SubnetId");
    without(|eni| eni.private_ip_address = None, "PrivateIpAddress");
    without(|eni| eni.private_ip_address = Some("ten".into()), "ten");
    without(
        |eni| eni.attachment.as_mut().unwrap().device_index = None,
        "Attachment.DeviceIndex",
    );
    without(
        |eni| eni.attachment.as_mut().unwrap().status = None,
        "Attachment.Status",
    );
    without(
        |eni| eni.attachment.as_mut().unwrap().attachment_id = None,
        "AttachmentId",
    );
}
