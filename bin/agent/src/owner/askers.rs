//! Who waits for an answer: pods that want addresses, and what they are told meanwhile.

use std::time::Duration;

use ipam::{Key, Millis, Pod, Refusal, Reply, Ticket};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Owner;
use crate::rpc;

/// A pod that waits for so long without an address has an event that says why.
const WORTH_TELLING: Duration = Duration::from_secs(2);

/// Who waits for an answer.
#[derive(Debug)]
pub(super) enum Asker {
    Add {
        key: Key,
        pod: Pod,
        since: Instant,
        /// The cluster knows that it waits.
        told: bool,
        to: oneshot::Sender<(rpc::Answer, Vec<String>)>,
    },
    Delete {
        since: Instant,
        to: oneshot::Sender<rpc::Answer>,
    },
    /// An address that could not be recorded goes back; nobody waits for that.
    Nobody,
}

impl Owner {
    pub(super) fn ticket(&mut self, asker: Asker) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.askers.insert(ticket, asker);
        ticket
    }

    /// When the next pod has waited for so long that its cluster should know.
    pub(super) fn tell_at(&self) -> Option<Instant> {
        let since = self.askers.values().filter_map(|asker| match asker {
            Asker::Add {
                since, told: false, ..
            } => Some(*since),
            _ => None,
        });
        since.min().map(|since| since + WORTH_TELLING)
    }

    pub(super) fn tell_who_waits(&mut self) {
        let (now, instant) = (self.now(), Instant::now());
        for asker in self.askers.values_mut() {
            if let Asker::Add {
                pod, since, told, ..
            } = asker
                && !*told
                && *since + WORTH_TELLING <= instant
            {
                *told = true;
                let waited = instant.saturating_duration_since(*since);
                let began = Millis(now.0.saturating_sub(waited.as_millis() as u64));
                self.voice.waits(pod, &self.pool.why_waiting(began), now);
            }
        }
    }

    /// Answers whoever asked; returns the key of an address that goes back.
    pub(super) fn reply(
        &mut self,
        ticket: Ticket,
        reply: Reply,
        unrecorded: Option<&str>,
    ) -> Option<Key> {
        let asker = self.askers.remove(&ticket)?;
        if let Reply::Refused(refusal) = &reply {
            self.refused(refusal);
        }
        // A DEL that is not written down is done all the same: after a restart the pod has no link.
        let failed = unrecorded.filter(|_| matches!(reply, Reply::Leased(_)));
        let answer = match failed {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(reply),
        };
        match asker {
            Asker::Add {
                key,
                pod,
                since,
                to,
                ..
            } => {
                let served = matches!(&answer, Ok(Reply::Leased(_)));
                self.metrics.added(since.elapsed(), served);
                if let Ok(Reply::Refused(refusal)) = &answer {
                    let now = self.now();
                    self.voice.refused(&pod, refusal, now);
                }
                let cidrs = self.node.as_ref().map(|node| &node.vpc_cidrs);
                let cidrs = cidrs.map(|c| c.iter().map(ToString::to_string).collect());
                let undo = answer.is_err().then_some(key);
                drop(to.send((answer, cidrs.unwrap_or_default())));
                undo
            }
            Asker::Delete { since, to } => {
                self.metrics.released(since.elapsed());
                drop(to.send(answer));
                None
            }
            Asker::Nobody => None,
        }
    }

    fn refused(&mut self, refusal: &Refusal) {
        if matches!(refusal, Refusal::UnknownPod { .. }) {
            return;
        }
        let reason = refusal.word();
        *self.metrics.refused.entry(reason).or_default() += 1;
        tracing::warn!(%refusal, "ADD refused");
    }
}
