//! Reading a world from an EC2 API over HTTP: what is asked, merged, and noted as unread.

use ec2::facts::{self, Scope};
use ec2::types::*;
use ec2::wire::{ErrorResponse, Shape, xml};
use ec2::{AnyRequest, Client, Credentials};
use vpc::facts::Kind;

use crate::facts::{group, permission, some};
use crate::server::{Reply, Server};

/// A little account: one VPC of two, peered; an ACL that may not be read; a prefix list that may.
fn answer(request: &AnyRequest) -> Result<Box<dyn Shape>, &'static str> {
    Ok(match request {
        AnyRequest::DescribeVpcs(_) => Box::new(DescribeVpcsResult {
            vpcs: vec![Vpc {
                vpc_id: some("vpc-1"),
                cidr_block: some("10.0.0.0/16"),
                owner_id: some("111122223333"),
                ..Default::default()
            }],
            ..Default::default()
        }),
        AnyRequest::DescribeVpcPeeringConnections(_) => {
            let side = |id| VpcPeeringConnectionVpcInfo {
                vpc_id: some(id),
                ..Default::default()
            };
            let peering = |id, a, b| VpcPeeringConnection {
                vpc_peering_connection_id: some(id),
                requester_vpc_info: Some(side(a)),
                accepter_vpc_info: Some(side(b)),
                status: Some(VpcPeeringConnectionStateReason {
                    code: some("active"),
                    message: None,
                }),
                ..Default::default()
            };
            Box::new(DescribeVpcPeeringConnectionsResult {
                vpc_peering_connections: vec![
                    peering("pcx-1", "vpc-1", "vpc-2"),
                    peering("pcx-2", "vpc-8", "vpc-9"),
                ],
                ..Default::default()
            })
        }
        AnyRequest::DescribeSecurityGroups(_) => {
            let mut permission = permission("tcp", Some(443), Some(443));
            let list = |id| PrefixListId {
                prefix_list_id: some(id),
                description: None,
            };
            permission.prefix_list_ids = vec![list("pl-1"), list("pl-2")];
            Box::new(DescribeSecurityGroupsResult {
                security_groups: vec![group(vec![permission])],
                ..Default::default()
            })
        }
        AnyRequest::DescribeManagedPrefixLists(_) => {
            let list = |id| ManagedPrefixList {
                prefix_list_id: some(id),
                ..Default::default()
            };
            Box::new(DescribeManagedPrefixListsResult {
                prefix_lists: vec![list("pl-1"), list("pl-2")],
                ..Default::default()
            })
        }
        AnyRequest::GetManagedPrefixListEntries(request) => {
            if request.prefix_list_id.as_deref() == Some("pl-2") {
                return Err("UnauthorizedOperation");
            }
            Box::new(GetManagedPrefixListEntriesResult {
                entries: vec![PrefixListEntry {
                    cidr: some("192.0.2.0/24"),
                    description: None,
                }],
                ..Default::default()
            })
        }
        AnyRequest::DescribeNetworkAcls(_) => return Err("UnauthorizedOperation"),
        AnyRequest::DescribeLaunchTemplateVersions(_) => return Err("UnsupportedOperation"),
        other => other.empty_output(),
    })
}

async fn account(fail: Option<&'static str>) -> Server {
    Server::start(move |_, asked| {
        let request = AnyRequest::decode(&asked.body).unwrap();
        let refused = |code: &str| {
            let error = ErrorResponse {
                code: code.into(),
                ..Default::default()
            };
            Reply::Answer(403, xml::encode_error(&error))
        };
        match (fail, answer(&request)) {
            (Some(code), _) | (None, Err(code)) => refused(code),
            (None, Ok(answer)) => {
                Reply::Answer(200, xml::encode(request.action(), answer.as_ref(), "r"))
            }
        }
    })
    .await
}

fn client(server: &Server) -> Client {
    let credentials = Credentials::new("AKID", "secret", None, None, "test");
    let builder = Client::builder().region("us-west-2").endpoint(server.url());
    builder.credentials(credentials).build().unwrap()
}

#[tokio::test]
async fn a_world_is_read_and_says_what_it_may_not_see() {
    let server = account(None).await;
    let scope = Scope {
        vpcs: ["vpc-1".parse().unwrap()].into(),
    };
    let world = facts::read_world(&client(&server), &scope).await.unwrap();
    assert_eq!(
        (world.account.as_str(), world.region.as_str()),
        ("111122223333", "us-west-2")
    );
    assert_eq!(
        (world.vpcs.len(), world.groups.len(), world.peerings.len()),
        (1, 1, 1)
    );
    let unread: Vec<(Kind, &str)> = world
        .unread
        .iter()
        .map(|(kind, unread)| (*kind, unread.action.as_str()))
        .collect();
    assert_eq!(
        unread,
        [
            (Kind::Acls, "ec2:DescribeNetworkAcls"),
            (Kind::LaunchTemplates, "ec2:DescribeLaunchTemplateVersions"),
        ]
    );
    let list = |id: &str| &world.prefix_lists[&id.parse().unwrap()];
    assert_eq!(list("pl-1").entries, ["192.0.2.0/24".parse().unwrap()]);
    let unread = list("pl-2").unread.as_ref().unwrap();
    assert_eq!(unread.action, "ec2:GetManagedPrefixListEntries");
    assert!(
        unread.reason.contains("UnauthorizedOperation"),
        "{}",
        unread.reason
    );
    let asked = server.asked();
    let subnets = asked
        .iter()
        .map(|asked| asked.form())
        .find(|f| f["Action"] == "DescribeSubnets");
    let subnets = subnets.unwrap();
    assert_eq!(subnets["Filter.1.Name"], "vpc-id");
    assert_eq!(
        (
            subnets["Filter.1.Value.1"].as_str(),
            subnets["Filter.1.Value.2"].as_str()
        ),
        ("vpc-1", "vpc-2")
    );
}

#[tokio::test]
async fn rejected_credentials_are_an_error_not_an_empty_world() {
    let server = account(Some("AuthFailure")).await;
    let failed = facts::read_world(&client(&server), &Scope::default())
        .await
        .unwrap_err();
    assert!(failed.to_string().contains("AuthFailure"), "{failed}");
}

#[tokio::test]
async fn reading_a_world_fits_a_small_stack() {
    let server = account(None).await;
    let (client, scope) = (client(&server), Scope::default());
    let size = std::mem::size_of_val(&facts::read_world(&client, &scope));
    assert!(
        size < 32 << 10,
        "{size} bytes: is a call's future in the caller's?"
    );
}
