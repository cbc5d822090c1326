//! Objects come and go, facts stay in step: the part of a reader or a watcher that has no socket.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use kube::Resource;

use crate::convert::Refusal;
use crate::facts::{Cluster, Kind, Labels, ObjectName, Odd};

/// An object that the index knows.
pub trait Indexed: Resource + Sized {
    /// What it says.
    type Fact: HasLabels;
    /// Its kind.
    const KIND: Kind;

    /// What the object says.
    ///
    /// # Errors
    /// The field that cannot be represented, and what it holds.
    fn fact(self, name: &ObjectName) -> Result<Self::Fact, Refusal>;

    /// Where facts of this kind are kept.
    fn table(cluster: &mut Cluster) -> &mut BTreeMap<ObjectName, Self::Fact>;
}

/// Facts whose labels are shared between equal objects.
pub trait HasLabels {
    /// The labels, if there are any.
    fn labels(&mut self) -> Option<&mut Labels> {
        None
    }
}

impl HasLabels for crate::facts::Namespace {}
impl HasLabels for crate::facts::Node {}
impl HasLabels for crate::facts::Controller {}
impl HasLabels for crate::facts::DaemonSet {}
impl HasLabels for crate::facts::Service {}
impl HasLabels for crate::facts::EndpointSlice {}
impl HasLabels for crate::facts::Pod {
    fn labels(&mut self) -> Option<&mut Labels> {
        Some(&mut self.labels)
    }
}

/// The facts of a cluster, kept in step with its objects.
#[derive(Debug, Default)]
pub struct Index {
    cluster: Cluster,
    /// Every set of labels once.
    labels: HashSet<Arc<BTreeMap<String, String>>>,
    /// At how many sets those that nobody has any more are thrown away.
    sweep_at: usize,
}

impl Index {
    /// An index of nothing.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            cluster: Cluster {
                name: name.into(),
                ..Cluster::default()
            },
            ..Self::default()
        }
    }

    /// The facts.
    pub fn facts(&self) -> &Cluster {
        &self.cluster
    }

    /// The facts, to keep.
    pub fn into_facts(self) -> Cluster {
        self.cluster
    }

    /// An object is there, or has changed. One that cannot be represented takes the place of what was
    /// known of it: it stands in [`Cluster::odd`].
    pub fn apply<K: Indexed>(&mut self, object: K) {
        let name = name_of(&object);
        self.forget_odd(K::KIND, &name);
        match object.fact(&name) {
            Ok(mut fact) => {
                if let Some(labels) = fact.labels() {
                    self.share(labels);
                }
                K::table(&mut self.cluster).insert(name, fact);
            }
            Err(refusal) => {
                K::table(&mut self.cluster).remove(&name);
                let (kind, why) = (K::KIND, refusal.to_string());
                self.cluster.odd.insert(Odd { kind, name, why });
            }
        }
    }

    /// An object is gone.
    pub fn delete<K: Indexed>(&mut self, name: &ObjectName) {
        self.forget_odd(K::KIND, name);
        K::table(&mut self.cluster).remove(name);
    }

    /// These are all objects of their kind: what is not among them is gone.
    pub fn reset<K: Indexed>(&mut self, objects: impl IntoIterator<Item = K>) {
        K::table(&mut self.cluster).clear();
        self.cluster.odd.retain(|odd| odd.kind != K::KIND);
        self.cluster.unread.remove(&K::KIND);
        for object in objects {
            self.apply(object);
        }
    }

    /// Objects of a kind may not be read: nothing may be concluded from their absence.
    pub fn unreadable(&mut self, kind: Kind, why: crate::facts::Unread) {
        self.cluster.unread.insert(kind, why);
    }

    fn forget_odd(&mut self, kind: Kind, name: &ObjectName) {
        if !self.cluster.odd.is_empty() {
            let keep = |odd: Odd| (odd.kind != kind || odd.name != *name).then_some(odd);
            let odd: BTreeSet<Odd> = std::mem::take(&mut self.cluster.odd);
            self.cluster.odd = odd.into_iter().filter_map(keep).collect();
        }
    }

    fn share(&mut self, labels: &mut Labels) {
        match self.labels.get(&labels.0) {
            Some(known) => labels.0 = Arc::clone(known),
            None => {
                self.labels.insert(Arc::clone(&labels.0));
                if self.labels.len() > self.sweep_at {
                    self.labels.retain(|set| Arc::strong_count(set) > 1);
                    self.sweep_at = 64 + 2 * self.labels.len();
                }
            }
        }
    }
}

fn name_of<K: Resource>(object: &K) -> ObjectName {
    let meta = object.meta();
    ObjectName {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
