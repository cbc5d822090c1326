//! Trunk and branch interfaces, and the permissions that associating them needs.

use ec2::types::*;

use super::{Action, Context, Field, Query, one, opt, required, s, tag};
use crate::error::{ApiError, ApiResult};
use crate::ids::*;
use crate::page::Sizes;
use crate::store::{self, EniKind, State};
use ec2::limits;

const FIELDS: &[Field<TrunkAssociationId, store::TrunkAssociation>] = &[
    (
        "trunk-interface-association.trunk-interface-id",
        |_, _, a| one(a.trunk),
    ),
    (
        "trunk-interface-association.branch-interface-id",
        |_, _, a| one(a.branch),
    ),
    ("trunk-interface-association.vlan-id", |_, _, a| one(a.vlan)),
    ("trunk-interface-association.association-id", |_, id, _| {
        one(id)
    }),
    ("gre-key", |_, _, _| Vec::new()),
    ("interface-protocol", |_, _, _| one("VLAN")),
];

fn view(state: &State, id: TrunkAssociationId) -> TrunkInterfaceAssociation {
    let association = &state.trunk_associations[&id];
    TrunkInterfaceAssociation {
        association_id: s(id),
        trunk_interface_id: s(association.trunk),
        branch_interface_id: s(association.branch),
        interface_protocol: s("VLAN"),
        vlan_id: Some(association.vlan),
        tags: tag::list(state.tags_of(id)),
        ..Default::default()
    }
}

/// Branch interfaces that the trunk's instance takes.
fn branch_limit(state: &State, trunk: &store::Eni) -> Option<(u32, String)> {
    let (instance, _) = trunk.instance()?;
    let kind = &state.instances.get(&instance)?.instance_type;
    Some((limits::of(kind)?.branch_interfaces, kind.clone()))
}

impl Action for AssociateTrunkInterfaceRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<AssociateTrunkInterfaceResult> {
        let state = &mut *cx.state;
        let (trunk_id, trunk) = state
            .enis
            .find(required(&self.trunk_interface_id, "trunkInterfaceId")?)?;
        let (branch_id, branch) = state
            .enis
            .find(required(&self.branch_interface_id, "branchInterfaceId")?)?;
        if self.gre_key.is_some() {
            return Err(ApiError::unsupported("The parameter GreKey"));
        }
        let vlan = self.vlan_id.ok_or_else(|| ApiError::missing("vlanId"))?;
        if !(1..=4094).contains(&vlan) {
            return Err(ApiError::bad_value("vlanId", vlan, "Expecting 1 to 4094."));
        }
        if trunk.kind != EniKind::Trunk {
            return Err(ApiError::value(format_args!(
                "Interface {trunk_id} is not a trunk interface."
            )));
        }
        if branch.kind != EniKind::Interface || branch_id == trunk_id {
            return Err(ApiError::value(format_args!(
                "Interface {branch_id} cannot be a branch interface."
            )));
        }
        if branch.held().is_some() || state.by_branch.contains_key(&branch_id) {
            return Err(ApiError::new(
                "InvalidNetworkInterface.InUse",
                format_args!("Interface: [{branch_id}] in use."),
            ));
        }
        let zone = |eni: &store::Eni| state.subnets[&eni.subnet].zone;
        if branch.vpc != trunk.vpc || zone(branch) != zone(trunk) {
            return Err(ApiError::combination(format_args!(
                "Interfaces {trunk_id} and {branch_id} are not in the same VPC and availability zone."
            )));
        }
        let branches = state.by_trunk.get(&trunk_id);
        if branches.is_some_and(|b| b.contains_key(&vlan)) {
            return Err(ApiError::value(format_args!(
                "The VLAN ID {vlan} is already in use on trunk interface {trunk_id}."
            )));
        }
        let count = branches.map_or(0, |b| b.len()) as u32;
        if let Some((limit, kind)) = branch_limit(state, trunk)
            && count >= limit
        {
            return Err(ApiError::new(
                "AttachmentLimitExceeded",
                format_args!(
                    "Branch interface count {} exceeds the limit for {kind}",
                    count + 1
                ),
            ));
        }
        let id: TrunkAssociationId = state.fresh();
        state.trunk_associations.insert(
            id,
            store::TrunkAssociation {
                trunk: trunk_id,
                branch: branch_id,
                vlan,
            },
        );
        state.by_branch.insert(branch_id, id);
        state.by_trunk.entry(trunk_id).or_default().insert(vlan, id);
        Ok(AssociateTrunkInterfaceResult {
            interface_association: Some(view(state, id)),
            client_token: self.client_token.clone(),
        })
    }
}

impl Action for DisassociateTrunkInterfaceRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DisassociateTrunkInterfaceResult> {
        let state = &mut *cx.state;
        let text = required(&self.association_id, "associationId")?;
        let (id, association) = state.trunk_associations.find(text)?;
        let association = association.clone();
        state.trunk_associations.remove(&id);
        state.by_branch.remove(&association.branch);
        if let Some(branches) = state.by_trunk.get_mut(&association.trunk) {
            branches.remove(&association.vlan);
            if branches.is_empty() {
                state.by_trunk.remove(&association.trunk);
            }
        }
        state.drop_tags(id);
        Ok(DisassociateTrunkInterfaceResult {
            return_: Some(true),
            client_token: self.client_token.clone(),
        })
    }
}

impl Action for DescribeTrunkInterfaceAssociationsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeTrunkInterfaceAssociationsResult> {
        let query = Query::new(&self.association_ids, &self.filters).sizes(Sizes(5, 255));
        let query = query.paged(self.max_results, &self.next_token);
        let (ids, next_token) = query.select(cx, &cx.state.trunk_associations, FIELDS)?;
        let interface_associations = ids.into_iter().map(|id| view(cx.state, id)).collect();
        Ok(DescribeTrunkInterfaceAssociationsResult {
            interface_associations,
            next_token,
        })
    }
}

const PERMISSION_FIELDS: &[Field<PermissionId, store::Permission>] = &[
    (
        "network-interface-permission.network-interface-permission-id",
        |_, id, _| one(id),
    ),
    (
        "network-interface-permission.network-interface-id",
        |_, _, p| one(p.eni),
    ),
    ("network-interface-permission.aws-account-id", |_, _, p| {
        opt(p.account.as_ref())
    }),
    ("network-interface-permission.aws-service", |_, _, p| {
        opt(p.service.as_ref())
    }),
    ("network-interface-permission.permission", |_, _, p| {
        one(&p.kind)
    }),
];

fn permission_view(state: &State, id: PermissionId) -> NetworkInterfacePermission {
    let permission = &state.permissions[&id];
    NetworkInterfacePermission {
        network_interface_permission_id: s(id),
        network_interface_id: s(permission.eni),
        aws_account_id: permission.account.clone(),
        aws_service: permission.service.clone(),
        permission: s(&permission.kind),
        permission_state: Some(NetworkInterfacePermissionState {
            state: s("granted"),
            status_message: None,
        }),
    }
}

impl Action for CreateNetworkInterfacePermissionRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<CreateNetworkInterfacePermissionResult> {
        let state = &mut *cx.state;
        let (eni, _) = state
            .enis
            .find(required(&self.network_interface_id, "networkInterfaceId")?)?;
        let kind = required(&self.permission, "permission")?.to_owned();
        if !["INSTANCE-ATTACH", "EIP-ASSOCIATE"].contains(&kind.as_str()) {
            return Err(ApiError::bad_value(
                "permission",
                kind,
                "Unknown permission.",
            ));
        }
        let permission = store::Permission {
            eni,
            account: self.aws_account_id.clone(),
            service: self.aws_service.clone(),
            kind,
        };
        if permission.account.is_some() == permission.service.is_some() {
            return Err(ApiError::combination(
                "Specify either awsAccountId or awsService.",
            ));
        }
        // Granting again answers the grant that exists.
        let known = state
            .permissions
            .iter()
            .find(|(_, p)| **p == permission)
            .map(|(id, _)| *id);
        let id = match known {
            Some(id) => id,
            None => {
                let id = state.fresh();
                state.permissions.insert(id, permission);
                id
            }
        };
        Ok(CreateNetworkInterfacePermissionResult {
            interface_permission: Some(permission_view(state, id)),
        })
    }
}

impl Action for DeleteNetworkInterfacePermissionRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DeleteNetworkInterfacePermissionResult> {
        let text = required(
            &self.network_interface_permission_id,
            "networkInterfacePermissionId",
        )?;
        let (id, _) = cx.state.permissions.find(text)?;
        cx.state.permissions.remove(&id);
        Ok(DeleteNetworkInterfacePermissionResult {
            return_: Some(true),
        })
    }
}

impl Action for DescribeNetworkInterfacePermissionsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeNetworkInterfacePermissionsResult> {
        let query =
            Query::new(&self.network_interface_permission_ids, &self.filters).sizes(Sizes(5, 255));
        let query = query.paged(self.max_results, &self.next_token);
        let (ids, next_token) = query.select(cx, &cx.state.permissions, PERMISSION_FIELDS)?;
        let network_interface_permissions = ids
            .into_iter()
            .map(|id| permission_view(cx.state, id))
            .collect();
        Ok(DescribeNetworkInterfacePermissionsResult {
            network_interface_permissions,
            next_token,
        })
    }
}
