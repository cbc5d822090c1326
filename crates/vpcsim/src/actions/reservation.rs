//! CIDR reservations of subnets.

use ec2::types::*;

use super::vpc::{cidr, overlap};
use super::{Action, Context, Field, Query, one, opt, required, s, tag};
use crate::addrs::ReservationKind;
use crate::error::{ApiError, ApiResult};
use crate::ids::*;
use crate::store::{CidrReservation, State};

const FIELDS: &[Field<ReservationId, CidrReservation>] = &[
    ("reservationType", |_, _, r| one(name(r.kind))),
    ("reservation-type", |_, _, r| one(name(r.kind))),
    ("subnet-id", |_, _, r| one(r.subnet)),
    ("subnetId", |_, _, r| one(r.subnet)),
    ("cidr", |_, _, r| one(r.cidr)),
    ("description", |_, _, r| opt(r.description.as_ref())),
];

fn name(kind: ReservationKind) -> &'static str {
    match kind {
        ReservationKind::Prefix => "prefix",
        ReservationKind::Explicit => "explicit",
    }
}

fn view(state: &State, id: ReservationId, reservation: &CidrReservation) -> SubnetCidrReservation {
    SubnetCidrReservation {
        subnet_cidr_reservation_id: s(id),
        subnet_id: s(reservation.subnet),
        cidr: s(reservation.cidr),
        reservation_type: s(name(reservation.kind)),
        owner_id: s(&state.config.account),
        description: reservation.description.clone(),
        tags: tag::list(state.tags_of(id)),
    }
}

impl Action for CreateSubnetCidrReservationRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<CreateSubnetCidrReservationResult> {
        let net = cidr(required(&self.cidr, "cidr")?, "cidr")?;
        let kind = match required(&self.reservation_type, "reservationType")? {
            "prefix" => ReservationKind::Prefix,
            "explicit" => ReservationKind::Explicit,
            other => {
                return Err(ApiError::bad_value(
                    "reservationType",
                    other,
                    "Unknown type.",
                ));
            }
        };
        let tags = tag::of_spec(&self.tag_specifications, "subnet-cidr-reservation")?;
        let state = &mut *cx.state;
        let (subnet, record) = state.subnets.find(required(&self.subnet_id, "subnetId")?)?;
        let mut others = state.reservations.values().filter(|r| r.subnet == subnet);
        if !record.pool.cidr().contains(&net) || others.any(|r| overlap(r.cidr, net)) {
            return Err(ApiError::bad_value(
                "cidr",
                net,
                "The range is not in the subnet or overlaps with another reservation.",
            ));
        }
        let id: ReservationId = state.fresh();
        let reservation = CidrReservation {
            subnet,
            cidr: net,
            kind,
            description: self.description.clone(),
        };
        if let Some(record) = state.subnets.get_mut(&subnet) {
            record.pool.reserve(net, kind);
        }
        tag::put(state, id, tags);
        let answer = view(state, id, &reservation);
        state.reservations.insert(id, reservation);
        Ok(CreateSubnetCidrReservationResult {
            subnet_cidr_reservation: Some(answer),
        })
    }
}

impl Action for DeleteSubnetCidrReservationRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DeleteSubnetCidrReservationResult> {
        let state = &mut *cx.state;
        let text = required(&self.subnet_cidr_reservation_id, "subnetCidrReservationId")?;
        let (id, reservation) = state.reservations.find(text)?;
        let answer = view(state, id, reservation);
        let (subnet, net) = (reservation.subnet, reservation.cidr);
        if let Some(record) = state.subnets.get_mut(&subnet) {
            record.pool.unreserve(net);
        }
        state.reservations.remove(&id);
        state.drop_tags(id);
        Ok(DeleteSubnetCidrReservationResult {
            deleted_subnet_cidr_reservation: Some(answer),
        })
    }
}

impl Action for GetSubnetCidrReservationsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<GetSubnetCidrReservationsResult> {
        let (subnet, _) = cx
            .state
            .subnets
            .find(required(&self.subnet_id, "subnetId")?)?;
        let query = Query::new(&[], &self.filters);
        let query = query.paged(self.max_results, &self.next_token);
        let (ids, next_token) = query.select(cx, &cx.state.reservations, FIELDS)?;
        let own = ids.into_iter().filter_map(|id| {
            let reservation = &cx.state.reservations[&id];
            (reservation.subnet == subnet).then(|| view(cx.state, id, reservation))
        });
        Ok(GetSubnetCidrReservationsResult {
            subnet_ipv4_cidr_reservations: own.collect(),
            next_token,
            ..Default::default()
        })
    }
}
