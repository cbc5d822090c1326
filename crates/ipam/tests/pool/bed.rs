//! A pool on a desk: a test feeds events, reads the calls, and answers them by hand.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipam::{
    Answer, Attached, AttachmentId, Blocks, Call, Config, Effect, EniView, Event, Failure,
    FailureKind, Key, Limits, Millis, NodeFacts, OpId, Pod, Pool, Record, Refusal, Reply,
    SubnetUse, SubnetView, Ticket, View, Want, step,
};
use settings::{Settings, WarmTargets};
use vpc::facts::{EniId, Mac, SgId, SubnetId};

pub(crate) const SUBNET: &str = "subnet-a";

/// The targets of a test, all off.
pub(crate) const NOTHING: WarmTargets = WarmTargets {
    eni: 0,
    ip: 0,
    minimum: 0,
    prefix: 0,
};

pub(crate) fn by_prefix(prefix: u32) -> Config {
    let mut config = config(WarmTargets { prefix, ..NOTHING });
    config.prefixes = true;
    config
}

pub(crate) fn by_address(ip: u32) -> Config {
    config(WarmTargets { ip, ..NOTHING })
}

pub(crate) fn config(warm: WarmTargets) -> Config {
    let mut config = Config::new(&Settings::default(), 1);
    config.warm = warm;
    config.discovery = false;
    config.gather = Duration::ZERO;
    config
}

pub(crate) fn id(text: &str) -> EniId {
    text.parse().unwrap()
}

pub(crate) fn subnet(text: &str) -> SubnetId {
    text.parse().unwrap()
}

pub(crate) fn sg(text: &str) -> SgId {
    text.parse().unwrap()
}

pub(crate) fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, last)
}

pub(crate) fn key(container: &str) -> Key {
    Key {
        network: "aws-cni".into(),
        container: container.into(),
        ifname: "eth0".into(),
    }
}

/// 10.0.1.`first`/28.
pub(crate) fn prefix(first: u8) -> ipnet::Ipv4Net {
    ipnet::Ipv4Net::new(ip(first), 28).unwrap()
}

/// An interface of ours as EC2 shows it, in the node's subnet, with the group `sg-a`.
pub(crate) fn eni(name: &str, device: Option<u32>) -> EniView {
    let own = name.as_bytes().last().copied().unwrap_or(0);
    EniView {
        id: id(name),
        mac: Mac([2, 0, 0, 0, 0, own]),
        subnet: subnet(SUBNET),
        primary: Ipv4Addr::new(10, 0, 0, own),
        secondary: Vec::new(),
        prefixes: Vec::new(),
        groups: vec![sg("sg-a")],
        attachment: device.map(|device| Attached {
            id: AttachmentId(format!("attach-{name}")),
            device,
            delete_on_termination: true,
        }),
        ours: device != Some(0),
        hands_off: None,
    }
}

pub(crate) fn place(name: &str, free: u32, usage: SubnetUse) -> SubnetView {
    SubnetView {
        id: subnet(name),
        cidr: "10.0.1.0/24".parse().unwrap(),
        free,
        usage,
    }
}

pub(crate) struct Bed {
    pub(crate) pool: Pool,
    pub(crate) now: Millis,
    /// Calls without an answer.
    pub(crate) calls: BTreeMap<OpId, Call>,
    pub(crate) records: Vec<Record>,
    pub(crate) replies: BTreeMap<Ticket, Reply>,
    /// Calls made so far, questions left out.
    pub(crate) changes: Vec<Call>,
    wake: Option<Millis>,
    next: u64,
}

impl Bed {
    /// A pool that knows its node: 3 interfaces with 5 slots each; EC2 was asked and has not
    /// answered yet.
    pub(crate) fn new(config: Config) -> Self {
        Self::with(config, |facts| facts)
    }

    pub(crate) fn with(config: Config, change: impl FnOnce(NodeFacts) -> NodeFacts) -> Self {
        let mut bed = Self::empty(config);
        bed.boot(change);
        bed
    }

    /// A pool that knows nothing yet.
    pub(crate) fn empty(config: Config) -> Self {
        Self {
            pool: Pool::new(config),
            now: Millis(1_700_000_000_000),
            calls: BTreeMap::new(),
            records: Vec::new(),
            replies: BTreeMap::new(),
            changes: Vec::new(),
            wake: None,
            next: 0,
        }
    }

    pub(crate) fn boot(&mut self, change: impl FnOnce(NodeFacts) -> NodeFacts) {
        let facts = NodeFacts {
            instance: "i-1".parse().unwrap(),
            subnet: subnet(SUBNET),
            prefixes: true,
            limits: Limits {
                interfaces: 3,
                ipv4_per_interface: 6,
            },
        };
        self.feed(Event::Node(change(facts)));
    }

    pub(crate) fn feed(&mut self, event: Event) {
        self.wake = None;
        for effect in step(&mut self.pool, event, self.now) {
            match effect {
                Effect::Call(op, call) => {
                    if !matches!(
                        call,
                        Call::Show { .. } | Call::ShowSubnets | Call::PrimaryGroups
                    ) {
                        self.changes.push(call.clone());
                    }
                    self.calls.insert(op, call);
                }
                Effect::Record(record) => self.records.push(record),
                Effect::Reply(ticket, reply) => {
                    assert!(
                        self.replies.insert(ticket, reply).is_none(),
                        "answered twice"
                    );
                }
                Effect::WakeAt(at) => {
                    assert!(at > self.now, "a wake-up in the past");
                    self.wake = Some(at);
                }
            }
        }
    }

    /// Time goes on, with a tick whenever the pool asked for one; EC2 is silent.
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.now.after(time);
        while let Some(at) = self.wake.filter(|at| *at <= until) {
            self.now = at;
            self.feed(Event::Tick);
        }
        self.now = until;
    }

    /// The same, with EC2 showing `enis` whenever it is asked.
    pub(crate) fn pass_showing(&mut self, time: Duration, enis: &[EniView]) {
        let until = self.now.after(time);
        loop {
            self.show(enis);
            match self.wake.filter(|at| *at <= until) {
                Some(at) => {
                    self.now = at;
                    self.feed(Event::Tick);
                }
                None => break,
            }
        }
        self.now = until;
    }

    /// EC2 answers every question what it shows.
    pub(crate) fn show(&mut self, enis: &[EniView]) {
        while let Some(op) = self.find(|call| matches!(call, Call::Show { .. })) {
            let enis = enis.to_vec();
            self.answer(op, Ok(Answer::Shown(View { enis })));
        }
    }

    /// Metadata answers which groups the primary interface has, or does not.
    pub(crate) fn metadata(&mut self, groups: Result<&[&str], FailureKind>) {
        let op = self.find(|call| matches!(call, Call::PrimaryGroups));
        let op = op.unwrap_or_else(|| panic!("metadata is not read: {:?}", self.calls));
        let groups = groups.map(|groups| groups.iter().map(|group| sg(group)).collect());
        let answer = groups.map(Answer::Groups);
        self.answer(
            op,
            answer.map_err(|kind| failure("instance metadata", kind)),
        );
    }

    pub(crate) fn show_subnets(&mut self, subnets: &[SubnetView]) {
        let op = self.find(|call| matches!(call, Call::ShowSubnets));
        let op = op.unwrap_or_else(|| panic!("subnets are not asked for: {:?}", self.calls));
        self.answer(op, Ok(Answer::Subnets(subnets.to_vec())));
    }

    pub(crate) fn find(&self, which: impl Fn(&Call) -> bool) -> Option<OpId> {
        let found = self.calls.iter().find(|(_, call)| which(call));
        found.map(|(op, _)| *op)
    }

    pub(crate) fn answer(&mut self, op: OpId, result: Result<Answer, Failure>) {
        self.calls.remove(&op).expect("the call is open");
        self.feed(Event::Answered { op, result });
    }

    /// The open Assign call, with what it asks for.
    pub(crate) fn assign(&self) -> Option<(OpId, EniId, Want)> {
        self.calls.iter().find_map(|(op, call)| match call {
            Call::Assign { eni, want } => Some((*op, eni.clone(), *want)),
            _ => None,
        })
    }

    /// EC2 gives what is asked for.
    pub(crate) fn give(&mut self, blocks: Blocks) {
        let (op, _, want) = self.assign().expect("something is asked for");
        assert_eq!(want.slots() as usize, blocks.len(), "{want:?}");
        self.answer(op, Ok(Answer::Assigned(blocks)));
    }

    pub(crate) fn give_prefixes(&mut self, firsts: &[u8]) {
        let all = firsts.iter().map(|first| prefix(*first)).collect();
        self.give(Blocks::Prefixes(all));
    }

    pub(crate) fn give_addresses(&mut self, lasts: &[u8]) {
        self.give(Blocks::Addresses(
            lasts.iter().map(|last| ip(*last)).collect(),
        ));
    }

    /// EC2 refuses the open call of this action.
    pub(crate) fn refuse(&mut self, action: &'static str, kind: FailureKind) {
        let op = self.find(|call| call.action() == action);
        let op = op.unwrap_or_else(|| panic!("{action} is not asked for: {:?}", self.calls));
        self.answer(op, Err(failure(action, kind)));
    }

    /// EC2 does the open call of this action, which answers nothing.
    pub(crate) fn done(&mut self, action: &'static str) -> Call {
        let op = self.find(|call| call.action() == action);
        let op = op.unwrap_or_else(|| panic!("{action} is not asked for: {:?}", self.calls));
        let call = self.calls[&op].clone();
        self.answer(op, Ok(Answer::Done));
        call
    }

    /// The open create, and where.
    pub(crate) fn create(&self) -> Option<(OpId, SubnetId, Want)> {
        self.calls.iter().find_map(|(op, call)| match call {
            Call::CreateEni { subnet, want, .. } => Some((*op, subnet.clone(), *want)),
            _ => None,
        })
    }

    /// EC2 creates and attaches an interface, the node sets it up; then EC2 shows it with the others.
    pub(crate) fn bring(
        &mut self,
        mut new: EniView,
        device: u32,
        others: &[EniView],
    ) -> Vec<EniView> {
        let (op, place, want) = self.create().expect("an interface is asked for");
        new.subnet = place;
        assert_eq!(
            want.addresses() as usize,
            new.addresses().count(),
            "{want:?}"
        );
        self.answer(op, Ok(Answer::Created(new.clone())));
        let attach = |call: &Call| matches!(call, Call::AttachEni { .. });
        let op = self.find(attach).expect("it is attached");
        let attachment = AttachmentId(format!("attach-{}", new.id));
        self.answer(op, Ok(Answer::Attached(attachment.clone())));
        self.done("interface set-up");
        self.done("ModifyNetworkInterfaceAttribute");
        self.metadata(Ok(&["sg-a"]));
        new.attachment = Some(Attached {
            id: attachment,
            device,
            delete_on_termination: true,
        });
        let all: Vec<EniView> = others.iter().cloned().chain([new]).collect();
        self.show(&all);
        all
    }

    /// What goes back, if anything is on its way.
    pub(crate) fn returning(&self) -> Option<Blocks> {
        self.calls.values().find_map(|call| match call {
            Call::Unassign { blocks, .. } => Some(blocks.clone()),
            _ => None,
        })
    }

    pub(crate) fn add(&mut self, container: &str) -> Ticket {
        self.add_pod(container, Pod::default())
    }

    pub(crate) fn add_pod(&mut self, container: &str, pod: Pod) -> Ticket {
        self.next += 1;
        let ticket = Ticket(self.next);
        let key = key(container);
        self.feed(Event::Add { ticket, key, pod });
        ticket
    }

    pub(crate) fn delete(&mut self, container: &str) {
        self.next += 1;
        let ticket = Ticket(self.next);
        let key = key(container);
        self.feed(Event::Delete { ticket, key });
    }

    /// The address that a request got.
    pub(crate) fn leased(&self, ticket: Ticket) -> Ipv4Addr {
        match self.replies.get(&ticket) {
            Some(Reply::Leased(lease)) => lease.address,
            other => panic!("{ticket:?}: {other:?}, calls {:?}", self.calls),
        }
    }

    /// Why a request got none.
    pub(crate) fn refused(&self, ticket: Ticket) -> &Refusal {
        match self.replies.get(&ticket) {
            Some(Reply::Refused(refusal)) => refusal,
            other => panic!("{ticket:?}: {other:?}"),
        }
    }

    /// So many pods, one after the other; none waits.
    pub(crate) fn fill(&mut self, pods: std::ops::Range<u32>) -> Vec<Ipv4Addr> {
        let all = pods.map(|n| {
            let ticket = self.add(&format!("c{n}"));
            self.leased(ticket)
        });
        all.collect()
    }
}

pub(crate) fn failure(action: &'static str, kind: FailureKind) -> Failure {
    Failure {
        action,
        kind,
        message: format!("{kind:?}, says the test"),
    }
}

pub(crate) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
