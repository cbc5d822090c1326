//! Planted bugs, between pool and shell: each must be found, by an invariant that says what it does.

use branchline_agent::translate::Request;
use ipam::{Answer, Blocks, Call, Effect, EniView, Failure, Record};

use crate::broken::Invariant;

/// A bug of a kind that a pool or a shell could have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    LeaseNotRecorded,
    ReleaseNotRecorded,
    ReturnNotRecorded,
    RestForgottenAtRestart,
    NoRest,
    WakeDropped,
    ReplyTwice,
    ReplyDropped,
    RefusalDropped,
    AnswerDropped,
    UnassignSkipped,
    DetachSkipped,
    DeleteSkipped,
    ProtectionSkipped,
    GroupsNotSet,
    GroupsAssumed,
    MetadataAssumed,
    LeftoversNotSwept,
    ForeignShownAsOurs,
    OldViewShown,
    InterfaceHidden,
    AddressOfAnother,
    AddressesInvented,
    PrefixShifted,
    CordonNotHeard,
    CallTwice,
    LeaseOfAnother,
}

/// Each with the promises that it may break.
pub(crate) const MUTANTS: &[(Mutant, &[Invariant])] = {
    use Invariant as I;
    use Mutant as M;
    &[
        (M::LeaseNotRecorded, &[I::Recorded, I::Answered]),
        (M::ReleaseNotRecorded, &[I::Recorded]),
        (M::ReturnNotRecorded, &[I::DoubleUse, I::Leak, I::UnderPod]),
        (M::RestForgottenAtRestart, &[I::Cooldown]),
        (M::NoRest, &[I::Cooldown]),
        (M::WakeDropped, &[I::Stuck, I::Targets, I::Groups, I::Leak]),
        (M::ReplyTwice, &[I::Answered]),
        (M::ReplyDropped, &[I::Stuck]),
        (M::RefusalDropped, &[I::Stuck]),
        (
            M::AnswerDropped,
            &[I::Leak, I::Stuck, I::Targets, I::Groups],
        ),
        (M::UnassignSkipped, &[I::Leak, I::Targets]),
        (M::DetachSkipped, &[I::Leak, I::Targets, I::Stuck]),
        (M::DeleteSkipped, &[I::Leak]),
        (M::ProtectionSkipped, &[I::Leak]),
        (M::GroupsNotSet, &[I::Groups]),
        (M::GroupsAssumed, &[I::Groups]),
        (M::MetadataAssumed, &[I::Groups]),
        (M::LeftoversNotSwept, &[I::Leak]),
        (
            M::ForeignShownAsOurs,
            &[I::Foreign, I::Leak, I::DoubleUse, I::UnderPod],
        ),
        (
            M::OldViewShown,
            &[I::Unconfirmed, I::Leak, I::Groups, I::DoubleUse],
        ),
        (
            M::InterfaceHidden,
            &[I::Leak, I::Targets, I::Stuck, I::Reason, I::Groups],
        ),
        (M::AddressOfAnother, &[I::DoubleUse, I::Leak]),
        (M::AddressesInvented, &[I::DoubleUse, I::Leak]),
        (M::PrefixShifted, &[I::DoubleUse, I::Leak]),
        (M::CordonNotHeard, &[I::Cordon]),
        (M::CallTwice, &[I::Doubled]),
        (M::LeaseOfAnother, &[I::Answered, I::DoubleUse, I::Recorded]),
    ]
};

/// What the pool asked for, as a shell with the bug would do it.
pub(crate) fn effects(mutant: Option<Mutant>, effects: Vec<Effect>) -> Vec<Effect> {
    let Some(mutant) = mutant else {
        return effects;
    };
    let mut done = Vec::with_capacity(effects.len());
    for effect in effects {
        use Mutant as M;
        match (mutant, effect) {
            (M::LeaseNotRecorded, Effect::Record(Record::Leased(_)))
            | (M::ReleaseNotRecorded, Effect::Record(Record::Released { .. }))
            | (M::ReturnNotRecorded, Effect::Record(Record::Returning { .. }))
            | (M::WakeDropped, Effect::WakeAt(_)) => {}
            (M::ReplyDropped, Effect::Reply(_, ipam::Reply::Leased(_)))
            | (M::RefusalDropped, Effect::Reply(_, ipam::Reply::Refused(_))) => {}
            (M::ReplyTwice, Effect::Reply(ticket, reply)) => {
                done.push(Effect::Reply(ticket, reply.clone()));
                done.push(Effect::Reply(ticket, reply));
            }
            (M::LeaseOfAnother, Effect::Reply(ticket, ipam::Reply::Leased(mut lease))) => {
                lease.address = (u32::from(lease.address) ^ 1).into();
                done.push(Effect::Reply(ticket, ipam::Reply::Leased(lease)));
            }
            (M::CallTwice, Effect::Call(op, call)) => {
                done.push(Effect::Call(op, call.clone()));
                done.push(Effect::Call(ipam::OpId(op.0 | 1 << 40), call));
            }
            (M::LeftoversNotSwept, Effect::Call(op, Call::Show { .. })) => {
                done.push(Effect::Call(op, Call::Show { leftovers: false }));
            }
            (_, effect) => done.push(effect),
        }
    }
    done
}

/// Whether the shell says that it did a call and does not.
pub(crate) fn skips(mutant: Option<Mutant>, call: &Call) -> bool {
    matches!(
        (mutant, call),
        (Some(Mutant::UnassignSkipped), Call::Unassign { .. })
            | (Some(Mutant::DetachSkipped), Call::DetachEni { .. })
            | (Some(Mutant::DeleteSkipped), Call::DeleteEni { .. })
            | (
                Some(Mutant::ProtectionSkipped),
                Call::SetDeleteOnTermination { .. }
            )
            | (Some(Mutant::GroupsNotSet), Call::SetGroups { .. })
    )
}

/// What a shell with the bug asks EC2 for.
pub(crate) fn request(mutant: Option<Mutant>, request: Request) -> Request {
    match (mutant, request) {
        (Some(Mutant::GroupsAssumed), Request::Create(mut create)) => {
            // EC2 takes the VPC's default group.
            create.groups.clear();
            Request::Create(create)
        }
        (_, request) => request,
    }
}

/// What the pool hears, as a shell with the bug would tell it. `before` is what EC2 showed last.
pub(crate) fn answer(
    mutant: Option<Mutant>,
    call: &Call,
    result: Result<Answer, Failure>,
    before: &mut Option<ipam::View>,
) -> Result<Answer, Failure> {
    use Mutant as M;
    let shown = match &result {
        Ok(Answer::Shown(view)) => Some(view.clone()),
        _ => None,
    };
    let changed = match (mutant, result) {
        (Some(M::OldViewShown), Ok(Answer::Shown(view))) => {
            Ok(Answer::Shown(before.clone().unwrap_or(view)))
        }
        (Some(M::GroupsAssumed), Ok(Answer::Created(mut new))) => {
            if let Call::CreateEni { groups, .. } = call {
                new.groups.clone_from(groups);
            }
            Ok(Answer::Created(new))
        }
        (Some(M::MetadataAssumed), Ok(Answer::Groups(seen))) => {
            let last = before.iter().flat_map(|view| &view.enis);
            let mut primary =
                last.filter(|eni| eni.attachment.as_ref().is_some_and(|a| a.device == 0));
            let assumed = primary.next().map(|eni| eni.groups.clone());
            Ok(Answer::Groups(assumed.unwrap_or(seen)))
        }
        (Some(M::ForeignShownAsOurs), Ok(Answer::Shown(mut view))) => {
            for eni in &mut view.enis {
                eni.ours = true;
                eni.hands_off = None;
            }
            Ok(Answer::Shown(view))
        }
        (Some(M::InterfaceHidden), Ok(Answer::Shown(mut view))) => {
            let last = |eni: &EniView| eni.attachment.as_ref().is_none_or(|a| a.device < 2);
            view.enis.retain(last);
            Ok(Answer::Shown(view))
        }
        (Some(M::AddressOfAnother | M::AddressesInvented), Ok(Answer::Assigned(blocks))) => {
            Ok(Answer::Assigned(match blocks {
                Blocks::Addresses(mut all) => {
                    let more = all.iter().map(|a| (u32::from(*a) + 1).into());
                    match mutant {
                        Some(M::AddressOfAnother) => all = more.collect(),
                        _ => all.extend(more.collect::<Vec<_>>()),
                    }
                    Blocks::Addresses(all)
                }
                prefixes => prefixes,
            }))
        }
        (Some(M::PrefixShifted), Ok(Answer::Assigned(Blocks::Prefixes(all)))) => {
            let next = |p: ipnet::Ipv4Net| {
                ipnet::Ipv4Net::new_assert((u32::from(p.network()) + 16).into(), 28)
            };
            let all = all.into_iter().map(next).collect();
            Ok(Answer::Assigned(Blocks::Prefixes(all)))
        }
        (_, result) => result,
    };
    if shown.is_some() && (before.is_none() || mutant != Some(M::OldViewShown)) {
        *before = shown;
    }
    changed
}
