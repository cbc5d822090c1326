//! Instance metadata, watched for what changes: it costs no EC2 call, and never decides.
//!
//! It has no message of its own and one key per request, so watching costs processor time on every
//! node, for nothing most of the time. Each poll reads the primary interface's groups, which are
//! what people change; the list of interfaces and the groups of a few others take turns. After a
//! change everything is read at each poll for a while, until nothing moves any more.

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

/// Tells what metadata shows, at every poll. A failure changes nothing.
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
            Ok(()) => {
                let known = watch.known.clone();
                if to.send(Message::Imds(known)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                watch.turns.changed();
                tracing::debug!(error = format!("{error:#}"), "metadata not read");
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
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            poll: 0,
            last: 0,
            eager: 1,
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
            for at in 0..SHARE.min(others.len()) {
                due.push(others[(self.last + at) % others.len()].clone());
            }
            self.last = (self.last + SHARE) % others.len().max(1);
        }
        due
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
