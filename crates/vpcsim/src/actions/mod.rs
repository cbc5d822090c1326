//! The actions, one `impl Action` each, grouped by resource.
//!
//! An action checks everything first and changes the state last: a call that answers an error has
//! changed nothing (the property test compares). Describe actions build their answer from the
//! records; nothing is stored twice.

mod acl;
mod address;
mod describe;
mod eni;
mod eni_addresses;
mod eni_view;
mod group;
mod group_rules;
mod group_view;
mod instance;
mod instance_view;
mod internet_gateway;
mod launch;
mod nat;
mod peering;
mod prefix_list;
mod region;
mod reservation;
mod route;
mod route_table;
mod subnet;
mod tag;
mod template;
mod template_view;
mod trunk;
mod vpc;

use std::sync::Arc;

use ec2::eks::CallerIdentity;
use ec2::wire::{NodeRef, Shape, member};
use ec2::{AnyRequest, Operation};
use jiff::Timestamp;

use crate::error::{ApiError, ApiResult};
use crate::idempotency;
use crate::store::State;

pub(crate) use describe::{Field, Query, one, opt, yes};
pub(crate) use launch::interface_of_template;

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The account, 12 digits.
    pub account: String,
    /// The ARN of the user or of the assumed role.
    pub arn: String,
    /// The access key that signed the request.
    pub access_key: String,
}

impl Caller {
    /// The account's root user: what the lab itself acts as.
    pub fn root(account: &str) -> Self {
        Self {
            account: account.to_owned(),
            arn: format!("arn:aws:iam::{account}:root"),
            access_key: String::new(),
        }
    }

    /// Who STS says that this is.
    pub fn identity(&self) -> CallerIdentity {
        let kind = self.arn.splitn(6, ':').nth(5).unwrap_or_default();
        let user_id = match kind.split('/').collect::<Vec<_>>()[..] {
            ["assumed-role", role, session] => format!("{}:{session}", unique_id("AROA", role)),
            ["user", ..] => unique_id("AIDA", kind),
            _ => self.account.clone(),
        };
        CallerIdentity {
            arn: self.arn.clone(),
            user_id,
            account: self.account.clone(),
        }
    }
}

/// The unique id of a user or role: IAM is not modelled, so it follows from the name.
fn unique_id(prefix: &str, name: &str) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut seed = 0xcbf2_9ce4_8422_2325_u64; // FNV-1a
    for byte in name.bytes() {
        seed = (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    let mut rng = crate::rng::Rng::new(seed);
    let letters = (0..17).map(|_| char::from(LETTERS[rng.below(32) as usize]));
    prefix.chars().chain(letters).collect()
}

/// What a launch from this template takes from it.
///
/// # Errors
/// `InvalidLaunchTemplate…`: there is no such template or version.
pub(crate) fn launch_template(
    state: &State,
    spec: &ec2::types::LaunchTemplateSpecification,
) -> ApiResult<ec2::types::RequestLaunchTemplateData> {
    template::of_launch(state, spec).map(|chosen| chosen.data)
}

/// An action of EC2 that the embedded EC2 has.
pub trait Action: Operation {
    /// Does it.
    ///
    /// # Errors
    /// An EC2 error; the state is unchanged then.
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Self::Output>;
}

/// What an action works on.
pub struct Context<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) caller: &'a Caller,
    pub(crate) now: Timestamp,
}

/// Applies one request: idempotency, DryRun, then the action.
///
/// # Errors
/// An EC2 error; the state is unchanged then. A dry run that would work is the error
/// `DryRunOperation`, as on AWS.
pub fn apply(
    state: &mut State,
    caller: &Caller,
    request: &AnyRequest,
    now: Timestamp,
) -> ApiResult<Arc<dyn Shape>> {
    if matches!(member(request.shape(), "DryRun"), Some(NodeRef::Bool(true))) {
        state.dry(|copy| {
            dispatch(
                request,
                &mut Context {
                    state: copy,
                    caller,
                    now,
                },
            )
        })?;
        return Err(ApiError::new(
            "DryRunOperation",
            "Request would have succeeded, but DryRun flag is set.",
        ));
    }
    let key = idempotency::key(&caller.account, request);
    if let Some(key) = &key
        && let Some(answer) = idempotency::recall(state, key, request, now)?
    {
        return Ok(answer);
    }
    let answer = dispatch(request, &mut Context { state, caller, now })?;
    if let Some(key) = key {
        idempotency::remember(state, key, request, &answer, now);
    }
    Ok(answer)
}

/// Applies a request of a known type, for callers in the same process.
///
/// # Errors
/// An EC2 error; the state is unchanged then.
pub fn call<A: Action>(
    state: &mut State,
    caller: &Caller,
    request: &A,
    now: Timestamp,
) -> ApiResult<A::Output> {
    request.run(&mut Context { state, caller, now })
}

macro_rules! actions {
    ($($name:ident)*) => {
        fn dispatch(request: &AnyRequest, cx: &mut Context<'_>) -> ApiResult<Arc<dyn Shape>> {
            match request {
                $(AnyRequest::$name(r) => Ok(Arc::new(r.run(cx)?)),)*
                other => Err(ApiError::unsupported(format_args!("The action {}", other.action()))),
            }
        }

        /// Names of the actions that are built. Others of the model answer `UnsupportedOperation`.
        pub const BUILT: &[&str] = &[$(stringify!($name)),*];
    };
}

actions! {
    AcceptVpcPeeringConnection AllocateAddress AssignPrivateIpAddresses AssociateAddress
    AssociateRouteTable AssociateTrunkInterface AssociateVpcCidrBlock AttachInternetGateway
    AttachNetworkInterface AuthorizeSecurityGroupEgress AuthorizeSecurityGroupIngress
    CreateInternetGateway CreateLaunchTemplate CreateLaunchTemplateVersion CreateManagedPrefixList
    CreateNatGateway CreateNetworkAcl CreateNetworkAclEntry CreateNetworkInterface
    CreateNetworkInterfacePermission CreateRoute CreateRouteTable CreateSecurityGroup CreateSubnet
    CreateSubnetCidrReservation CreateTags CreateVpc CreateVpcPeeringConnection
    DeleteInternetGateway DeleteLaunchTemplate DeleteManagedPrefixList DeleteNatGateway
    DeleteNetworkAcl DeleteNetworkAclEntry DeleteNetworkInterface DeleteNetworkInterfacePermission
    DeleteRoute DeleteRouteTable DeleteSecurityGroup DeleteSubnet DeleteSubnetCidrReservation
    DeleteTags DeleteVpc DeleteVpcPeeringConnection DescribeAccountAttributes DescribeAddresses
    DescribeAvailabilityZones DescribeInstanceAttribute DescribeInstanceStatus
    DescribeInstanceTypeOfferings DescribeInstanceTypes DescribeInstances DescribeInternetGateways
    DescribeLaunchTemplateVersions DescribeLaunchTemplates DescribeManagedPrefixLists
    DescribeNatGateways DescribeNetworkAcls DescribeNetworkInterfaceAttribute
    DescribeNetworkInterfacePermissions DescribeNetworkInterfaces DescribePrefixLists
    DescribeRegions DescribeRouteTables DescribeSecurityGroupReferences DescribeSecurityGroupRules
    DescribeSecurityGroups DescribeStaleSecurityGroups DescribeSubnets DescribeTags
    DescribeTrunkInterfaceAssociations DescribeVpcAttribute DescribeVpcPeeringConnections
    DescribeVpcs DetachInternetGateway DetachNetworkInterface DisassociateAddress
    DisassociateRouteTable DisassociateTrunkInterface DisassociateVpcCidrBlock
    GetManagedPrefixListEntries GetSubnetCidrReservations ModifyInstanceAttribute
    ModifyInstanceMetadataOptions ModifyLaunchTemplate ModifyManagedPrefixList
    ModifyNetworkInterfaceAttribute ModifySecurityGroupRules ModifySubnetAttribute
    ModifyVpcAttribute RejectVpcPeeringConnection ReleaseAddress ReplaceNetworkAclAssociation
    ReplaceNetworkAclEntry ReplaceRoute ReplaceRouteTableAssociation ResetNetworkInterfaceAttribute
    RevokeSecurityGroupEgress RevokeSecurityGroupIngress RunInstances StartInstances StopInstances
    TerminateInstances UnassignPrivateIpAddresses UpdateSecurityGroupRuleDescriptionsEgress
    UpdateSecurityGroupRuleDescriptionsIngress
}

/// A value of an answer, as text.
pub(crate) fn s(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

/// A member that EC2 requires. Decoding has refused requests without it; a caller in the same
/// process gets the same answer here.
pub(crate) fn required<'r>(value: &'r Option<String>, name: &str) -> ApiResult<&'r str> {
    value.as_deref().ok_or_else(|| ApiError::missing(name))
}

/// Refuses members that the embedded EC2 does not model, rather than ignoring them.
pub(crate) fn unmodelled(present: &[(bool, &str)]) -> ApiResult<()> {
    match present.iter().find(|(set, _)| *set) {
        Some((_, name)) => Err(ApiError::unsupported(format_args!("The parameter {name}"))),
        None => Ok(()),
    }
}

pub(crate) fn count(value: Option<i32>, name: &str) -> ApiResult<u32> {
    let value = value.unwrap_or(0);
    u32::try_from(value).map_err(|_| ApiError::bad_value(name, value, "Expecting zero or more."))
}

pub(crate) fn parse<T: std::str::FromStr>(text: &str, name: &str, what: &str) -> ApiResult<T> {
    text.parse()
        .map_err(|_| ApiError::bad_value(name, text, format_args!("Expecting {what}.")))
}
