//! What EC2 and metadata have said of security groups, as it was said: before pods get a new interface, EC2 has said
//! that it has groups of which somebody has said, when asked after its create, that they are the primary's.

use std::collections::{BTreeMap, BTreeSet};

use ipam::{Answer, Call, Failure, OpId, Pool, Stage};
use vpc::facts::{EniId, SgId};

use crate::broken::{Check, ensure};

#[derive(Debug, Default)]
pub(crate) struct Words {
    /// All that EC2 has said of an interface's groups.
    of: BTreeMap<EniId, BTreeSet<Vec<SgId>>>,
    /// The primary's, by the question.
    primary: BTreeMap<OpId, Vec<SgId>>,
    /// Interfaces that this start has created and that do not serve yet, by their create.
    coming: BTreeMap<EniId, OpId>,
    /// Of these, those that wait no longer, since EC2 has refused to set their groups or to show any.
    excused: BTreeSet<EniId>,
}

impl Words {
    pub(crate) fn heard(&mut self, op: OpId, call: &Call, result: &Result<Answer, Failure>) {
        match (call, result) {
            (_, Ok(Answer::Created(new))) => {
                self.said(&new.id, &new.groups);
                self.coming.insert(new.id.clone(), op);
            }
            (_, Ok(Answer::Shown(view))) => {
                for seen in &view.enis {
                    self.said(&seen.id, &seen.groups);
                    if seen.attachment.as_ref().is_some_and(|a| a.device == 0) {
                        self.primary.insert(op, seen.groups.clone());
                    }
                }
            }
            (_, Ok(Answer::Groups(groups))) => {
                self.primary.insert(op, groups.clone());
            }
            (Call::SetGroups { eni, groups }, Ok(_)) => self.said(eni, groups),
            (Call::SetGroups { eni, .. }, Err(_)) => {
                self.excused.insert(eni.clone());
            }
            (Call::Show { .. }, Err(_)) => self.excused.extend(self.coming.keys().cloned()),
            _ => {}
        }
    }

    fn said(&mut self, eni: &EniId, groups: &[SgId]) {
        let words = self.of.entry(eni.clone()).or_default();
        words.insert(groups.to_vec());
    }

    /// Whether what serves now may.
    pub(crate) fn serving(&mut self, pool: &Pool) -> Check {
        for eni in pool.enis().filter(|eni| eni.stage == Stage::Ready) {
            let Some(created) = self.coming.remove(&eni.id) else {
                continue;
            };
            let of = &self.of[&eni.id];
            let mut primary = self.primary.range(created..).map(|(_, groups)| groups);
            let known = self.excused.contains(&eni.id) || primary.any(|p| of.contains(p));
            ensure!(
                known,
                Groups,
                "{} serves; EC2 said it has {of:?}, since it was created the primary's were said to be {:?}",
                eni.id,
                self.primary.range(created..).collect::<Vec<_>>()
            );
        }
        Ok(())
    }
}
