//! Instance metadata, watched for what changes: it costs no EC2 call, and never decides.
//!
//! It has no message of its own and one key per request, so watching costs processor time on every
//! node, for nothing most of the time. Each poll reads the primary interface's groups, which are
//! what people change; the list of interfaces and the groups of a few others take turns. After a
//! change everything is read at each poll for a while, until nothing moves any more. What is as it was
//! is told the pool once a minute only: it compares it with what EC2 showed, and that rarely moves.

use std::collections::BTreeMap;
use std::time::Duration;

use ec2::imds::{Imds, ImdsError};
use ipam::{Answer, Call, Failure, FailureKind, ImdsEni};
use tokio::sync::mpsc;
use vpc::facts::{EniId, SgId};

use crate::owner::Message;

/// How often something is read.
const POLL: Duration = Duration::from_secs(15);
/// Other interfaces whose groups are read at every second poll.
const SHARE: usize = 3;
/// Polls at which everything is read after a change: about as long as metadata may lag.
const EAGER: u32 = 4;
/// Polls after which the pool is told again what did not change: it may differ from what EC2 shows.
const REPEAT: u32 = 4;

/// Metadata, as the agent of one node reads it.
#[derive(Debug, Clone)]
pub(crate) struct Metadata {
    imds: Imds,
    /// The primary interface's MAC address.
    primary: String,
}

impl Metadata {
    pub(crate) fn new(imds: Imds, primary: String) -> Self {
        Self { imds, primary }
    }

    /// Answers [`Call::PrimaryGroups`].
    pub(crate) async fn primary_groups(&self) -> Result<Answer, Failure> {
        let groups = self.groups(&self.primary).await;
        groups.map(Answer::Groups).map_err(|error| Failure {
            action: Call::PrimaryGroups.action(),
            kind: FailureKind::Unclear,
            message: error.to_string(),
        })
    }

    /// An interface's groups, sorted.
    async fn groups(&self, mac: &str) -> Result<Vec<SgId>, ImdsError> {
        let path = at(mac, "security-group-ids");
        let mut groups = self.imds.lines(&path, "a security group").await?;
        groups.sort();
        Ok(groups)
    }
}

fn at(mac: &str, key: &str) -> String {
    format!("meta-data/network/interfaces/macs/{mac}/{key}")
}

/// Tells what metadata shows, at once when that changes. A failure changes nothing.
pub(crate) async fn watch(metadata: Metadata, to: &mpsc::Sender<Message>) {
    let mut watch = Watch {
        turns: Turns::default(),
        metadata,
        macs: Vec::new(),
        ids: BTreeMap::new(),
        known: BTreeMap::new(),
    };
    loop {
        tokio::time::sleep(POLL).await;
        match watch.look().await {
            Ok(()) if !watch.turns.tells() => {}
            Ok(()) => {
                let known = watch.known.clone();
                if to.send(Message::Imds(known)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                watch.turns.changed();
                let error = format!("{error:#}");
                tracing::warn!(
                    error,
                    "metadata cannot be read: until it can, changes of groups are seen by the sweep only"
                );
            }
        }
    }
}

struct Watch {
    turns: Turns,
    metadata: Metadata,
    macs: Vec<String>,
    ids: BTreeMap<String, EniId>,
    known: BTreeMap<EniId, ImdsEni>,
}

impl Watch {
    async fn look(&mut self) -> anyhow::Result<()> {
        let imds = &self.metadata.imds;
        let before = self.known.clone();
        if self.turns.next() {
            self.macs = imds.macs().await?;
            self.ids.retain(|mac, _| self.macs.contains(mac));
        }
        for mac in self.turns.due(&self.metadata.primary, &self.macs) {
            let id = match self.ids.get(&mac) {
                Some(id) => id.clone(),
                None => {
                    // Gone since the list was read.
                    let Some(id) = imds.get(&at(&mac, "interface-id")).await? else {
                        continue;
                    };
                    let id: EniId = id.parse()?;
                    self.ids.insert(mac.clone(), id.clone());
                    id
                }
            };
            let groups = self.metadata.groups(&mac).await?;
            self.known.insert(id, ImdsEni { groups });
        }
        let there = |id: &EniId| self.ids.values().any(|other| other == id);
        self.known.retain(|id, _| there(id));
        if self.known != before {
            self.turns.changed();
        }
        Ok(())
    }
}

/// Whose turn it is.
#[derive(Debug)]
struct Turns {
    poll: u64,
    /// Where the last of the others was read.
    last: usize,
    /// Polls that still read everything.
    eager: u32,
    /// Polls since the pool was told.
    untold: u32,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            poll: 0,
            last: 0,
            eager: 1,
            untold: 0,
        }
    }
}

impl Turns {
    /// The next poll; whether it reads the list of interfaces.
    fn next(&mut self) -> bool {
        self.poll += 1;
        self.eager > 0 || !self.poll.is_multiple_of(2)
    }

    /// The interfaces whose groups this poll reads.
    fn due(&mut self, primary: &str, macs: &[String]) -> Vec<String> {
        if self.eager > 0 {
            self.eager -= 1;
            return macs.to_vec();
        }
        let others: Vec<&String> = macs.iter().filter(|mac| *mac != primary).collect();
        let mut due: Vec<String> = macs.iter().filter(|m| *m == primary).cloned().collect();
        if self.poll.is_multiple_of(2) {
            // As few as let each have its turn as soon.
            let share = others.len().div_ceil(others.len().div_ceil(SHARE).max(1));
            for at in 0..share {
                due.push(others[(self.last + at) % others.len()].clone());
            }
            self.last = (self.last + share) % others.len().max(1);
        }
        due
    }

    /// Whether the pool is told what was just read.
    fn tells(&mut self) -> bool {
        self.untold += 1;
        let tells = self.eager > 0 || self.untold >= REPEAT;
        if tells {
            self.untold = 0;
        }
        tells
    }

    /// Something changed, or could not be read.
    fn changed(&mut self) {
        self.eager = EAGER;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each of some polls reads: the list (`*`), and of which interfaces the groups.
    fn polls(turns: &mut Turns, interfaces: usize, count: usize) -> Vec<String> {
        let macs: Vec<String> = (0..interfaces).map(|n| n.to_string()).collect();
        let mut poll = || {
            let list = if turns.next() { "*" } else { "" };
            format!("{list}{}", turns.due("0", &macs).join(""))
        };
        (0..count).map(|_| poll()).collect()
    }

    #[test]
    fn the_primary_is_read_at_each_poll_and_the_others_take_turns() {
        let mut turns = Turns::default();
        let read = polls(&mut turns, 6, 7);
        assert_eq!(read, ["*012345", "0123", "*0", "0451", "*0", "0234", "*0"]);
        // Alone, and with fewer others than a share.
        assert_eq!(polls(&mut Turns::default(), 1, 4), ["*0", "0", "*0", "0"]);
        assert_eq!(polls(&mut Turns::default(), 3, 3), ["*012", "012", "*0"]);
        // Four others need two turns, whether these are of two or of three.
        let read = polls(&mut Turns::default(), 5, 7);
        assert_eq!(read, ["*01234", "012", "*0", "034", "*0", "012", "*0"]);
    }

    #[test]
    fn no_interface_waits_longer_than_with_a_full_share_at_each_turn() {
        for interfaces in 2_usize..=16 {
            let mut turns = Turns::default();
            let read = |turns: &mut Turns| {
                turns.next();
                let macs: Vec<String> = (0..interfaces).map(|n| n.to_string()).collect();
                turns.due("0", &macs)
            };
            read(&mut turns);
            let longest = 2 * (interfaces - 1).div_ceil(SHARE);
            let mut last = vec![0; interfaces];
            for poll in 1..100 {
                read(&mut turns).into_iter().for_each(|mac| {
                    let at: usize = mac.parse().unwrap();
                    last[at] = poll;
                });
                let waits = last.iter().map(|last| poll - last).max().unwrap();
                assert!(waits <= longest, "{interfaces}: {waits} polls");
            }
        }
    }

    #[test]
    fn what_is_as_it_was_is_told_once_a_minute_and_what_moves_at_once() {
        let mut turns = Turns::default();
        let macs = vec!["0".to_owned()];
        let mut poll = |changes: bool| {
            turns.next();
            turns.due("0", &macs);
            if changes {
                turns.changed();
            }
            turns.tells()
        };
        let quiet: Vec<bool> = (0..9).map(|_| poll(false)).collect();
        let told: Vec<usize> = (0..9).filter(|n| quiet[*n]).collect();
        assert_eq!(told, [3, 7]);
        // And while it may move on.
        let mut after = vec![poll(true)];
        after.extend((0..5).map(|_| poll(false)));
        assert_eq!(after, [true, true, true, true, false, false]);
    }

    #[test]
    fn after_a_change_all_are_read_for_a_while() {
        let mut turns = Turns::default();
        polls(&mut turns, 4, 3);
        turns.changed();
        let read = polls(&mut turns, 4, 6);
        assert_eq!(read, ["*0123", "*0123", "*0123", "*0123", "0123", "*0"]);
        let reads: usize = polls(&mut turns, 15, 4).iter().map(String::len).sum();
        assert!(
            reads <= 20,
            "a minute costs {reads} characters, however many interfaces there are"
        );
    }
}
