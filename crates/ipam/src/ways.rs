//! The ways to grow, and what stands in them.
//!
//! More addresses come on an interface that has room, or with a new interface. What EC2 refuses is
//! not asked for again before a back-off. Its reason says how far the refusal reaches: a full or
//! fragmented subnet stands in the way of what was asked for in that subnet alone, everything else
//! in the way of the action. The pauses grow while the reason stays the same.

use std::time::Duration;

use vpc::facts::SubnetId;

use crate::effect::Call;
use crate::event::{Failure, FailureKind};
use crate::pool::{Backoff, Pool};
use crate::types::{Millis, Unit, Want};

/// How addresses come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Road {
    /// On an interface that has room.
    Assign,
    /// With a new interface.
    Create,
}

impl Road {
    pub(crate) const ALL: [Self; 2] = [Self::Assign, Self::Create];
}

/// A way, with what stands in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) retry: Backoff,
    pub(crate) trouble: Option<Failure>,
    /// Not more than this many at once, while the subnet is nearly full.
    pub(crate) cap: Option<u32>,
}

/// All ways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ways {
    assign: Way,
    create: Way,
    /// Where a subnet has too little of what was asked for.
    scarce: std::collections::BTreeMap<(SubnetId, Unit, Road), Way>,
}

impl Ways {
    pub(crate) fn road(&self, road: Road) -> &Way {
        match road {
            Road::Assign => &self.assign,
            Road::Create => &self.create,
        }
    }

    fn road_mut(&mut self, road: Road) -> &mut Way {
        match road {
            Road::Assign => &mut self.assign,
            Road::Create => &mut self.create,
        }
    }

    /// What a subnet's lack keeps from coming: what an interface there does not get, a new one does
    /// not get either, since it needs an address of its own besides.
    fn local(&self, road: Road, unit: Unit, subnet: &SubnetId) -> impl Iterator<Item = &Way> {
        let roads = match road {
            Road::Assign => &[Road::Assign][..],
            Road::Create => &Road::ALL,
        };
        let keys: Vec<_> = roads
            .iter()
            .map(|road| (subnet.clone(), unit, *road))
            .collect();
        keys.into_iter().filter_map(|key| self.scarce.get(&key))
    }

    /// Whether something may be asked for now.
    pub(crate) fn open(&self, road: Road, unit: Unit, subnet: &SubnetId, now: Millis) -> bool {
        let mut local = self.local(road, unit, subnet);
        self.road(road).retry.open(now) && local.all(|way| way.retry.open(now))
    }

    /// Whether EC2 has refused it lately: one is tried at a time then.
    pub(crate) fn troubled(&self, road: Road, unit: Unit, subnet: &SubnetId) -> bool {
        let mut local = self.local(road, unit, subnet);
        self.road(road).trouble.is_some() || local.any(|way| way.trouble.is_some())
    }

    /// How much may be asked for at once.
    pub(crate) fn cap(&self, road: Road, unit: Unit, subnet: &SubnetId) -> u32 {
        let local = self.local(road, unit, subnet);
        local.filter_map(|way| way.cap).min().unwrap_or(u32::MAX)
    }

    /// The way that keeps something from being asked for now; the one that opens last.
    pub(crate) fn barrier(
        &self,
        road: Road,
        unit: Unit,
        subnet: &SubnetId,
        now: Millis,
    ) -> Option<&Way> {
        let all = std::iter::once(self.road(road)).chain(self.local(road, unit, subnet));
        let closed = all.filter(|way| !way.retry.open(now));
        closed.max_by_key(|way| way.retry.until)
    }

    /// Why some subnet has no prefix to give, as far as is known.
    pub(crate) fn no_prefix_trouble(&self) -> Option<&Failure> {
        let mut prefixes = self
            .scarce
            .iter()
            .filter(|((_, unit, _), _)| *unit == Unit::Prefix);
        prefixes.find_map(|(_, way)| way.trouble.as_ref())
    }

    /// Whether a subnet's lack of prefixes alone keeps one from being asked for.
    pub(crate) fn no_prefix(&self, road: Road, subnet: &SubnetId, now: Millis) -> bool {
        let mut local = self.local(road, Unit::Prefix, subnet);
        self.road(road).retry.open(now) && local.any(|way| !way.retry.open(now))
    }

    /// Every way with the subnet that it is about; single addresses before prefixes.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Option<&SubnetId>, &Way)> {
        let general = Road::ALL.map(|road| (None, self.road(road)));
        let of = |wanted: Unit| {
            let some = self
                .scarce
                .iter()
                .filter(move |((_, unit, _), _)| *unit == wanted);
            some.map(|((subnet, _, _), way)| (Some(subnet), way))
        };
        general
            .into_iter()
            .chain(of(Unit::Address))
            .chain(of(Unit::Prefix))
    }
}

impl Pool {
    /// EC2 gave what was asked for: a way that was narrow widens again.
    pub(crate) fn granted(&mut self, road: Road, unit: Unit, subnet: &SubnetId) {
        self.opened(road);
        self.ways.scarce.retain(|(place, kind, on), way| {
            let proven = place == subnet && *kind == unit && (*on == road || road == Road::Create);
            if proven {
                way.retry = Backoff::default();
                way.trouble = None;
                way.cap = way
                    .cap
                    .and_then(|cap| cap.checked_mul(2))
                    .filter(|cap| *cap < 64);
            }
            !proven || way.cap.is_some()
        });
    }

    /// The action works.
    pub(crate) fn opened(&mut self, road: Road) {
        *self.ways.road_mut(road) = Way::default();
    }

    /// EC2 says beforehand that it would refuse the action.
    pub(crate) fn bar(&mut self, road: Road, failure: Failure, now: Millis) {
        let (first, most) = (Duration::from_secs(30), Duration::from_secs(300));
        let retry = self.backed_off(0, now, first, most);
        let way = self.ways.road_mut(road);
        way.retry = retry;
        way.trouble = Some(failure);
    }

    /// EC2 refused it.
    pub(crate) fn refused(
        &mut self,
        road: Road,
        want: Want,
        subnet: &SubnetId,
        failure: Failure,
        now: Millis,
    ) {
        let seconds = Duration::from_secs;
        let local = matches!(
            failure.kind,
            FailureKind::SubnetFull | FailureKind::NoPrefix
        );
        // No /28 in one piece is so whoever asks.
        let on = match failure.kind {
            FailureKind::NoPrefix => Road::Assign,
            _ => road,
        };
        let key = (subnet.clone(), want.unit(), on);
        let mut way = if local {
            self.ways.scarce.remove(&key).unwrap_or_default()
        } else {
            self.ways.road(road).clone()
        };
        let count = want.slots();
        if local && count > 1 {
            way.cap = Some(count / 2);
        } else {
            let (first, most) = match failure.kind {
                // Somebody's address comes back soon; a whole free block does not.
                FailureKind::SubnetFull | FailureKind::NoPrefix if want.unit() == Unit::Prefix => {
                    (seconds(30), seconds(600))
                }
                FailureKind::SubnetFull | FailureKind::NoPrefix => (seconds(10), seconds(120)),
                FailureKind::Throttled | FailureKind::Unclear => {
                    (Duration::from_millis(500), seconds(30))
                }
                FailureKind::Denied
                | FailureKind::InstanceEniLimit
                | FailureKind::AccountEniLimit => (seconds(30), seconds(300)),
                FailureKind::AddressLimit
                | FailureKind::NotFound
                | FailureKind::Conflict
                | FailureKind::Rejected => (seconds(2), seconds(60)),
            };
            // The pauses grow with one reason; another one starts anew.
            let same = way
                .trouble
                .as_ref()
                .is_some_and(|last| last.kind == failure.kind);
            let failures = if same { way.retry.failures } else { 0 };
            way.retry = self.backed_off(failures, now, first, most);
        }
        way.trouble = Some(failure);
        if local {
            self.ways.scarce.insert(key, way);
        } else {
            *self.ways.road_mut(road) = way;
        }
    }

    /// The unit in which the pool takes addresses from EC2.
    pub(crate) fn unit(&self) -> Unit {
        let able = self.node.as_ref().is_some_and(|node| node.prefixes);
        if self.config.prefixes && able {
            Unit::Prefix
        } else {
            Unit::Address
        }
    }

    /// Whether a call of this road has no answer yet.
    pub(crate) fn is_on(&self, road: Road) -> bool {
        self.ops.values().any(|call| match road {
            Road::Assign => matches!(call, Call::Assign { .. }),
            Road::Create => matches!(call, Call::CreateEni { .. }),
        })
    }
}
