//! What has happened in a run, and what must have: every call meets every fault, while pods wait and while none do, in
//! every stage of an interface's life; the agent is killed before and after every call.

use std::collections::{BTreeMap, BTreeSet};

use ipam::Stage;

use crate::sky::{STRIKES, Strike};

#[derive(Debug, Default, Clone)]
pub(crate) struct Coverage {
    /// (somebody waits, call, outcome).
    pub(crate) calls: BTreeMap<(bool, &'static str, String), u64>,
    /// (an interface's stage, fault of any call meanwhile).
    pub(crate) stages: BTreeMap<(Stage, Strike), u64>,
    /// Why ADDs were refused.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Other things that happened.
    pub(crate) seen: BTreeMap<&'static str, u64>,
}

pub(crate) const CALLS: [&str; 11] = [
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "DetachNetworkInterface",
    "DeleteNetworkInterface",
    "SetGroups",
    "DescribeNetworkInterfaces",
    "interface set-up",
    "instance metadata",
];

pub(crate) const STAGES: [Stage; 10] = [
    Stage::Unattached,
    Stage::Attaching,
    Stage::Unplumbed,
    Stage::Plumbing,
    Stage::Grouping,
    Stage::Ready,
    Stage::Confirming,
    Stage::Detaching,
    Stage::Detached,
    Stage::Deleting,
];

/// What EC2 itself refuses.
const OWN: [(&str, &str); 14] = [
    ("CreateNetworkInterface", "SubnetFull"),
    ("CreateNetworkInterface", "AccountEniLimit"),
    ("AssignPrivateIpAddresses", "SubnetFull"),
    ("AssignPrivateIpAddresses", "NotFound"),
    ("AttachNetworkInterface", "InstanceEniLimit"),
    ("AttachNetworkInterface", "Conflict"),
    ("AttachNetworkInterface", "NotFound"),
    ("UnassignPrivateIpAddresses", "NotFound"),
    ("DetachNetworkInterface", "NotFound"),
    ("DeleteNetworkInterface", "NotFound"),
    ("SetGroups", "NotFound"),
    ("DescribeNetworkInterfaces", "Throttled by EC2"),
    ("DescribeNetworkInterfaces", "Denied by EC2"),
    ("interface set-up", "NotFound"),
];

const SEEN: [&str; 10] = [
    "told by probes what is denied",
    "killed before a call",
    "killed after a call",
    "killed between effects",
    "restarted with a clock ahead",
    "restarted with a clock behind",
    "stalled",
    "took over from another agent",
    "cordoned",
    "a late call of a dead agent",
];

const REFUSED: [&str; 5] = ["SubnetFull", "Limit", "Ec2", "NotReady", "Deleted"];

impl Coverage {
    pub(crate) fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        fn add<K: Ord + Clone>(to: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
            for (key, n) in from {
                *to.entry(key.clone()).or_default() += n;
            }
        }
        add(&mut self.calls, &other.calls);
        add(&mut self.stages, &other.stages);
        add(&mut self.refused, &other.refused);
        add(&mut self.seen, &other.seen);
    }

    /// What must have happened and has not. `apart`: with somebody waiting and without.
    pub(crate) fn missing(&self, apart: bool) -> BTreeSet<String> {
        let mut missing = BTreeSet::new();
        let mut call = |waiting: bool, action: &str, outcome: String| {
            let mut keys = self.calls.keys();
            let fits = |w: bool| !apart || w == waiting;
            if !keys.any(|(w, a, o)| fits(*w) && *a == action && *o == outcome) {
                let when = match (apart, waiting) {
                    (false, _) => "",
                    (_, true) => " while somebody waits",
                    (_, false) => " while nobody waits",
                };
                missing.insert(format!("{action}: {outcome}{when}"));
            }
        };
        for action in CALLS {
            for waiting in [false, true] {
                call(waiting, action, "Ok".to_owned());
                for strike in STRIKES.into_iter().filter(|s| s.fits(action)) {
                    call(waiting, action, format!("{strike:?}"));
                }
            }
        }
        let both = |action: &str, outcome: &str| {
            let mut keys = self.calls.keys();
            keys.any(|(_, a, o)| *a == action && o == outcome)
        };
        for (action, outcome) in OWN {
            if !both(action, outcome) {
                missing.insert(format!("{action}: {outcome}"));
            }
        }
        for stage in STAGES {
            // The two others need a second call of one kind beside the stage's own.
            let every = |s: &Strike| CALLS.iter().take(9).all(|call| s.fits(call));
            let repeated = [Strike::Repeated];
            for strike in STRIKES.into_iter().filter(every).chain(repeated) {
                if !self.stages.contains_key(&(stage, strike)) {
                    missing.insert(format!("{strike:?} while an interface is {stage:?}"));
                }
            }
        }
        for what in SEEN {
            if !self.seen.contains_key(what) {
                missing.insert(what.to_owned());
            }
        }
        for reason in REFUSED {
            if !self.refused.contains_key(reason) {
                missing.insert(format!("an ADD refused with {reason}"));
            }
        }
        missing
    }
}
