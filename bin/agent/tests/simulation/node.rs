//! What is not EC2's: the kernel's side of an interface, and instance metadata.

use ipam::{Answer, Event, Failure, FailureKind};
use vpc::facts::EniId;

use crate::broken::Check;
use crate::sky::{Sky, Strike};
use crate::world::{Flight, World};

impl World {
    pub(crate) fn metadata(&mut self) -> Check {
        let seen = self.lagging(Sky::metadata);
        self.feed(Event::Imds(seen))
    }

    /// Metadata: in time, or not at all.
    pub(super) fn primary_groups(&mut self, flight: &Flight) -> Result<Answer, Failure> {
        let seen = match flight.strike {
            Some(_) => None,
            None => self.lagging(Sky::primary_groups),
        };
        seen.map(Answer::Groups).ok_or_else(|| Failure {
            action: flight.call.action(),
            kind: FailureKind::Unclear,
            message: "not there".to_owned(),
        })
    }

    /// The kernel's side: works once the link is there.
    pub(super) fn set_up(&mut self, eni: &EniId, flight: &Flight) -> Result<Answer, Failure> {
        let fail = |kind, message: &str| {
            Err(Failure {
                action: "interface set-up",
                kind,
                message: message.to_owned(),
            })
        };
        let truth = self.sky.truth(self.now);
        let linked = truth.get(eni).is_some_and(|fact| fact.linked);
        match flight.strike {
            Some(Strike::Rejected) => fail(FailureKind::Rejected, "by plan"),
            Some(_) => fail(FailureKind::Unclear, "by plan"),
            None if !linked => fail(FailureKind::NotFound, "no link appeared"),
            None => Ok(Answer::Done),
        }
    }
}
