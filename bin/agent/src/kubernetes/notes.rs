//! What is worth an event, how often, and the node's condition. Decisions only; [`super::post`]
//! writes them.
//!
//! A pod that cannot be served is tried again every few seconds, for as long as it takes. Its event
//! is written once and then counted up, and all events together are bounded, as those of any
//! component should be.

use std::collections::BTreeMap;
use std::time::Duration;

use ipam::{Call, Failure, FailureKind, Millis, Pod, Pool, Refusal};

/// Events at once; then one more every [`REFILL`].
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(5);
/// An event counts up while the last of its kind is this young.
const SAME: Duration = Duration::from_secs(600);
/// Counting up is written at most this often.
const AGAIN: Duration = Duration::from_secs(10);
/// A condition whose words alone change is written at most this often.
const WORDS: Duration = Duration::from_secs(60);
/// The API server takes 1,024 characters.
const LONGEST: usize = 1000;

/// Whom an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum About {
    Node,
    Pod(Pod),
}

impl About {
    fn key(&self) -> String {
        match self {
            Self::Node => String::new(),
            Self::Pod(pod) => format!("{}/{}/{}", pod.namespace, pod.name, pod.uid),
        }
    }
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) about: About,
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    /// The EC2 action that it is about, if any: two denied actions are two events.
    pub(crate) action: Option<&'static str>,
    pub(crate) message: String,
}

impl Note {
    /// A pod was refused an address; the same words as in the CNI error.
    pub(crate) fn refused(pod: &Pod, refusal: &Refusal) -> Option<Self> {
        match refusal {
            // It goes away, or it is tried again at once with the next agent.
            Refusal::Deleted { .. } | Refusal::UnknownPod { .. } | Refusal::Draining => None,
            _ => Self::of_pod(pod, "NoAddressForPod", refusal),
        }
    }

    /// A pod waits for its address.
    pub(crate) fn waits(pod: &Pod, why: &Refusal) -> Option<Self> {
        Self::of_pod(pod, "WaitingForAddress", why)
    }

    /// Something of the node that somebody should see.
    pub(crate) fn of_node(reason: &'static str, message: String) -> Self {
        Self {
            about: About::Node,
            warning: true,
            reason,
            action: None,
            message: cut(message),
        }
    }

    /// An action that was probed, and that EC2 would deny.
    pub(crate) fn would_deny(failure: &Failure) -> Self {
        Self {
            action: Some(failure.action),
            ..Self::of_node("MissingIAMPermissions", format!("EC2 would deny {failure}"))
        }
    }

    fn of_pod(pod: &Pod, reason: &'static str, why: &Refusal) -> Option<Self> {
        (!pod.name.is_empty() && !pod.namespace.is_empty()).then(|| Self {
            about: About::Pod(pod.clone()),
            warning: true,
            reason,
            action: None,
            message: cut(why.to_string()),
        })
    }

    /// A call that changed the node's interfaces, or did not; `pool` as it was before its answer.
    pub(crate) fn called(pool: &Pool, call: &Call, failure: Option<&Failure>) -> Option<Self> {
        let (warning, reason, message) = match (call, failure) {
            (Call::SetGroups { eni, groups }, None) => {
                let had = pool.enis().find(|other| other.id == *eni);
                let had = had.map_or_else(String::new, |eni| list(&eni.groups));
                let now = list(groups);
                let text = format!(
                    "{eni} has the primary interface's security groups again: {now} instead of {had}"
                );
                (false, "SecurityGroupsRepaired", text)
            }
            (_, Some(failure)) => {
                let object = call.eni().map(|eni| format!("{eni}: ")).unwrap_or_default();
                (true, kind(call, failure)?, format!("{object}{failure}"))
            }
            _ => return None,
        };
        Some(Self {
            about: About::Node,
            warning,
            reason,
            action: failure
                .filter(|failure| failure.kind == FailureKind::Denied)
                .map(|failure| failure.action),
            message: cut(message),
        })
    }
}

fn kind(call: &Call, failure: &Failure) -> Option<&'static str> {
    if failure.kind == FailureKind::Denied {
        // Upstream's word.
        return Some("MissingIAMPermissions");
    }
    match call {
        Call::CreateEni { .. } => Some("InterfaceNotCreated"),
        Call::AttachEni { .. } => Some("InterfaceNotAttached"),
        Call::SetUp { .. } => Some("InterfaceNotSetUp"),
        Call::DetachEni { .. } | Call::DeleteEni { .. } => Some("InterfaceNotRemoved"),
        Call::SetGroups { .. } => Some("SecurityGroupsNotRepaired"),
        Call::Assign { .. } => Some("AddressesNotAssigned"),
        Call::Unassign { .. }
        | Call::SetDeleteOnTermination { .. }
        | Call::Show { .. }
        | Call::ShowSubnets
        | Call::PrimaryGroups => None,
    }
}

fn list(groups: &[vpc::facts::SgId]) -> String {
    let names: Vec<String> = groups.iter().map(ToString::to_string).collect();
    names.join(", ")
}

fn cut(text: String) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// An event to be written: a new one, or the count of one that was written before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Telling {
    pub(crate) note: Note,
    /// The event's own name, without its object's.
    pub(crate) suffix: String,
    pub(crate) first: Millis,
    pub(crate) last: Millis,
    pub(crate) count: u32,
}

/// What has been told, and how much more may be.
#[derive(Debug)]
pub(crate) struct Notes {
    told: BTreeMap<(String, &'static str, Option<&'static str>), Told>,
    budget: u32,
    refilled: Millis,
    next: u64,
    /// Notes that were not told because there were too many.
    pub(crate) dropped: u64,
}

#[derive(Debug)]
struct Told {
    suffix: String,
    first: Millis,
    last: Millis,
    written: Millis,
    count: u32,
}

impl Notes {
    /// Nothing told yet; `now` makes the names of events differ from those of an earlier start.
    pub(crate) fn new(now: Millis) -> Self {
        Self {
            told: BTreeMap::new(),
            budget: BURST,
            refilled: now,
            next: now.0 << 16,
            dropped: 0,
        }
    }

    /// What is to be written about a note now, if anything.
    pub(crate) fn tell(&mut self, note: Note, now: Millis) -> Option<Telling> {
        self.refill(now);
        self.told.retain(|_, told| now.since(told.last) < SAME);
        let key = (note.about.key(), note.reason, note.action);
        if let Some(told) = self.told.get_mut(&key) {
            told.count += 1;
            told.last = now;
            if now.since(told.written) < AGAIN || self.budget == 0 {
                return None;
            }
        } else if self.budget == 0 {
            self.dropped += 1;
            return None;
        } else {
            self.next += 1;
            let told = Told {
                suffix: format!("{:x}", self.next),
                first: now,
                last: now,
                written: now,
                count: 1,
            };
            self.told.insert(key.clone(), told);
        }
        self.budget -= 1;
        let told = self.told.get_mut(&key)?;
        told.written = now;
        Some(Telling {
            note,
            suffix: told.suffix.clone(),
            first: told.first,
            last: now,
            count: told.count,
        })
    }

    fn refill(&mut self, now: Millis) {
        let periods = now.since(self.refilled).as_millis() / REFILL.as_millis();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        if periods > 0 {
            self.budget = self.budget.saturating_add(periods).min(BURST);
            self.refilled = self.refilled.after(REFILL.saturating_mul(periods));
        }
    }
}

/// The node condition `PodNetworkReady`: would the next pod get an address?
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) ready: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Condition {
    /// The condition of a pool.
    pub(crate) fn of(pool: &Pool, not_installed: Option<&str>) -> Self {
        let Some(obstacle) = pool.obstacle() else {
            return match not_installed {
                None => Self {
                    ready: true,
                    reason: "PodsServed",
                    message: "the next pod gets an address".to_owned(),
                },
                Some(why) => Self {
                    ready: false,
                    reason: "NotInstalled",
                    message: cut(why.to_owned()),
                },
            };
        };
        let (reason, message) = match &obstacle {
            Refusal::NotReady { .. } | Refusal::Draining => ("AgentNotReady", None),
            Refusal::SubnetFull { subnet, .. } => (
                "SubnetFull",
                Some(format!("subnet {subnet} has no free address")),
            ),
            Refusal::Fragmented { subnet, .. } => (
                "SubnetFragmented",
                Some(format!("subnet {subnet} has no free /28 in one piece")),
            ),
            Refusal::NoSubnet { .. } => ("NoSubnet", None),
            Refusal::Limit {
                interfaces,
                by,
                resting,
                ..
            } => {
                let full = format!("all {interfaces} interfaces that {by} allows are full");
                match resting {
                    0 => ("AddressLimitReached", Some(full)),
                    _ => (
                        "AddressesResting",
                        Some(format!(
                            "{full}; addresses of pods that are gone rest (IP_COOLDOWN_PERIOD)"
                        )),
                    ),
                }
            }
            Refusal::Ec2 { failure } if failure.kind == FailureKind::Denied => {
                ("MissingIAMPermissions", None)
            }
            Refusal::Ec2 { .. } => ("EC2Refuses", None),
            Refusal::NotUsable { .. } => ("InterfaceNotUsable", None),
            Refusal::TimedOut { .. } | Refusal::Deleted { .. } | Refusal::UnknownPod { .. } => {
                ("AddressesNotComing", None)
            }
        };
        Self {
            ready: false,
            reason,
            message: cut(message.unwrap_or_else(|| obstacle.to_string())),
        }
    }
}

/// Lets a condition through when it says something new.
#[derive(Debug, Default)]
pub(crate) struct Gate(Option<(Condition, Millis)>);

impl Gate {
    /// The condition, unless it is the last one, or only its words changed a moment ago.
    pub(crate) fn pass(&mut self, condition: Condition, now: Millis) -> Option<Condition> {
        if let Some((last, at)) = &self.0 {
            let same_kind = last.ready == condition.ready && last.reason == condition.reason;
            if *last == condition || (same_kind && now.since(*at) < WORDS) {
                return None;
            }
        }
        self.0 = Some((condition.clone(), now));
        Some(condition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Pod {
        Pod {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: "u".to_owned(),
        }
    }

    fn why(text: &str) -> Refusal {
        Refusal::NotReady {
            reason: text.to_owned(),
        }
    }

    fn note(name: &str) -> Note {
        Note::refused(&pod(name), &why("x")).unwrap()
    }

    #[test]
    fn a_pod_tried_again_and_again_has_one_event_that_counts() {
        let mut notes = Notes::new(Millis(1_000));
        let told: Vec<Telling> = (0..20)
            .filter_map(|i| notes.tell(note("a"), Millis(1_000 + i * 4_000)))
            .collect();
        let names: std::collections::BTreeSet<&str> =
            told.iter().map(|t| t.suffix.as_str()).collect();
        assert_eq!(names.len(), 1);
        assert_eq!(
            told.iter().map(|t| t.count).collect::<Vec<_>>(),
            [1, 4, 7, 10, 13, 16, 19]
        );
        assert!(told.iter().all(|t| t.first == Millis(1_000)));
        // Long after, it is a new event.
        let later = notes.tell(note("a"), Millis(2_000_000)).unwrap();
        assert_eq!(later.count, 1);
        assert!(!names.contains(later.suffix.as_str()));
        assert_eq!(notes.dropped, 0);
    }

    #[test]
    fn two_denied_actions_are_two_events() {
        let pool = Pool::new(ipam::Config::new(&settings::Settings::default(), 1));
        let denied = |call: &Call| {
            let failure = Failure {
                action: call.action(),
                kind: FailureKind::Denied,
                message: "UnauthorizedOperation".to_owned(),
            };
            Note::called(&pool, call, Some(&failure)).unwrap()
        };
        let show = denied(&Call::Show { leftovers: false });
        let delete = denied(&Call::DeleteEni {
            eni: "eni-0a1b2c3d".parse().unwrap(),
        });
        assert_eq!(
            (show.reason, delete.reason),
            ("MissingIAMPermissions", "MissingIAMPermissions")
        );
        assert_eq!(delete.action, Some("DeleteNetworkInterface"));
        assert!(
            delete
                .message
                .starts_with("eni-0a1b2c3d: DeleteNetworkInterface: ")
        );
        let mut notes = Notes::new(Millis(0));
        let told: Vec<Telling> = [show.clone(), delete, show]
            .into_iter()
            .filter_map(|note| notes.tell(note, Millis(20_000)))
            .collect();
        assert_eq!(told.len(), 2);
        assert_ne!(told[0].suffix, told[1].suffix);
    }

    #[test]
    fn a_flood_is_bounded_and_counted() {
        let mut notes = Notes::new(Millis(0));
        let at = |notes: &mut Notes, now: u64| {
            (0..110)
                .filter(|i| {
                    notes
                        .tell(note(&format!("p{now}-{i}")), Millis(now))
                        .is_some()
                })
                .count()
        };
        assert_eq!(at(&mut notes, 0), 25);
        assert_eq!(notes.dropped, 85);
        assert_eq!(at(&mut notes, 4_999), 0);
        assert_eq!(at(&mut notes, 15_000), 3);
        assert_eq!(at(&mut notes, 1_000_000), 25);
    }

    #[test]
    fn what_nobody_waits_for_has_no_event() {
        assert_eq!(Note::refused(&pod("a"), &Refusal::Draining), None);
        assert_eq!(Note::refused(&Pod::default(), &why("x")), None);
        let waits = Note::waits(&pod("a"), &why("no metadata")).unwrap();
        assert_eq!(waits.message, "the agent is not ready: no metadata");
        assert!(cut("ä".repeat(3000)).chars().count() <= LONGEST + 1);
    }

    #[test]
    fn a_condition_is_told_when_it_changes_and_its_words_now_and_then() {
        let mut gate = Gate::default();
        let condition = |reason, message: &str| Condition {
            ready: false,
            reason,
            message: message.to_owned(),
        };
        let mut pass = |reason, message, at| gate.pass(condition(reason, message), Millis(at));
        assert!(pass("SubnetFull", "a", 0).is_some());
        assert!(pass("SubnetFull", "a", 90_000).is_none());
        assert!(pass("SubnetFull", "b", 59_000).is_none());
        assert!(pass("SubnetFull", "b", 91_000).is_some());
        assert!(pass("EC2Refuses", "b", 91_001).is_some());
    }

    #[test]
    fn an_agent_that_knows_nothing_yet_says_so() {
        let settings = settings::Settings::default();
        let pool = Pool::new(ipam::Config::new(&settings, 1));
        let condition = Condition::of(&pool, None);
        assert_eq!(
            (condition.ready, condition.reason),
            (false, "AgentNotReady")
        );
        assert!(condition.message.contains("instance metadata"));
    }
}
