//! Bytes on the wire, as botocore 1.44.5 and the AWS CLI send and read them; the irregular names above all.

use ec2::types::*;
use ec2::wire::{ErrorResponse, form, xml};
use ec2::{AnyRequest, RequestError};

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[track_caller]
fn sends<O: Operation>(request: &O, expected: &[&str]) {
    let body = form::encode(O::NAME, request);
    let pairs: Vec<String> = form_urlencoded::parse(body.as_bytes())
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut all = vec![
        format!("Action={}", O::NAME),
        "Version=2016-11-15".to_owned(),
    ];
    all.extend(expected.iter().map(|pair| (*pair).to_owned()));
    assert_eq!(pairs, all);
}

#[test]
fn create_network_interface_has_security_group_id_and_private_ip_addresses() {
    let request = CreateNetworkInterfaceRequest {
        subnet_id: some("subnet-1"),
        groups: vec!["sg-1".into(), "sg-2".into()],
        private_ip_addresses: vec![PrivateIpAddressSpecification {
            primary: Some(true),
            private_ip_address: some("10.0.0.4"),
        }],
        ipv6_addresses: vec![InstanceIpv6Address {
            ipv6_address: some("fd00::1"),
            ..Default::default()
        }],
        tag_specifications: vec![TagSpecification {
            resource_type: some("network-interface"),
            tags: vec![Tag {
                key: some("Name"),
                value: some("a & b"),
            }],
        }],
        ipv4_prefix_count: Some(1),
        ..Default::default()
    };
    sends(
        &request,
        &[
            "SecurityGroupId.1=sg-1",
            "SecurityGroupId.2=sg-2",
            "Ipv4PrefixCount=1",
            "Ipv6Addresses.1.Ipv6Address=fd00::1",
            "PrivateIpAddresses.1.Primary=true",
            "PrivateIpAddresses.1.PrivateIpAddress=10.0.0.4",
            "SubnetId=subnet-1",
            "TagSpecification.1.ResourceType=network-interface",
            "TagSpecification.1.Tag.1.Key=Name",
            "TagSpecification.1.Tag.1.Value=a & b",
        ],
    );
    let body = form::encode("CreateNetworkInterface", &request);
    assert!(
        body.ends_with("TagSpecification.1.Tag.1.Value=a+%26+b"),
        "{body}"
    );
}

#[test]
fn assign_private_ip_addresses_has_private_ip_address() {
    sends(
        &AssignPrivateIpAddressesRequest {
            network_interface_id: some("eni-1"),
            private_ip_addresses: vec!["10.0.0.5".into(), "10.0.0.6".into()],
            ..Default::default()
        },
        &[
            "NetworkInterfaceId=eni-1",
            "PrivateIpAddress.1=10.0.0.5",
            "PrivateIpAddress.2=10.0.0.6",
        ],
    );
}

#[test]
fn permissions_attachments_and_filters_are_nested() {
    sends(
        &AuthorizeSecurityGroupIngressRequest {
            group_id: some("sg-1"),
            ip_permissions: vec![IpPermission {
                ip_protocol: some("tcp"),
                from_port: Some(5432),
                to_port: Some(5432),
                user_id_group_pairs: vec![UserIdGroupPair {
                    group_id: some("sg-2"),
                    ..Default::default()
                }],
                ip_ranges: vec![IpRange {
                    cidr_ip: some("10.0.0.0/16"),
                    description: None,
                }],
                ..Default::default()
            }],
            ..Default::default()
        },
        &[
            "GroupId=sg-1",
            "IpPermissions.1.FromPort=5432",
            "IpPermissions.1.IpProtocol=tcp",
            "IpPermissions.1.IpRanges.1.CidrIp=10.0.0.0/16",
            "IpPermissions.1.ToPort=5432",
            "IpPermissions.1.Groups.1.GroupId=sg-2",
        ],
    );
    sends(
        &ModifyNetworkInterfaceAttributeRequest {
            network_interface_id: some("eni-1"),
            attachment: Some(NetworkInterfaceAttachmentChanges {
                attachment_id: some("eni-attach-1"),
                delete_on_termination: Some(true),
                ..Default::default()
            }),
            source_dest_check: Some(AttributeBooleanValue { value: Some(false) }),
            ..Default::default()
        },
        &[
            "Attachment.AttachmentId=eni-attach-1",
            "Attachment.DeleteOnTermination=true",
            "NetworkInterfaceId=eni-1",
            "SourceDestCheck.Value=false",
        ],
    );
    sends(
        &DescribeInstanceTypesRequest {
            instance_types: vec!["t3.medium".into()],
            filters: vec![Filter {
                name: some("hypervisor"),
                values: vec!["nitro".into()],
            }],
            max_results: Some(100),
            ..Default::default()
        },
        &[
            "Filter.1.Name=hypervisor",
            "Filter.1.Value.1=nitro",
            "InstanceType.1=t3.medium",
            "MaxResults=100",
        ],
    );
}

#[test]
fn an_answer_is_written_as_ec2_does() {
    let answer = DescribeNetworkInterfacesResult {
        network_interfaces: vec![NetworkInterface {
            network_interface_id: some("eni-1"),
            description: some(""),
            source_dest_check: Some(true),
            tag_set: vec![Tag {
                key: some("k"),
                value: some("<&>"),
            }],
            attachment: Some(NetworkInterfaceAttachment {
                attach_time: Some("2026-01-01T00:00:00Z".parse().unwrap()),
                device_index: Some(0),
                ..Default::default()
            }),
            ..Default::default()
        }],
        next_token: None,
    };
    let expected = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
        <DescribeNetworkInterfacesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
        <requestId>r-1</requestId><networkInterfaceSet><item><associatedSubnetSet/><attachment>\
        <attachTime>2026-01-01T00:00:00.000Z</attachTime><deviceIndex>0</deviceIndex></attachment>\
        <description/><groupSet/><ipv4PrefixSet/><ipv6AddressesSet/><ipv6PrefixSet/>\
        <networkInterfaceId>eni-1</networkInterfaceId><privateIpAddressesSet/>\
        <sourceDestCheck>true</sourceDestCheck><tagSet><item><key>k</key>\
        <value>&lt;&amp;&gt;</value></item></tagSet></item></networkInterfaceSet>\
        </DescribeNetworkInterfacesResponse>";
    assert_eq!(
        xml::encode_output::<DescribeNetworkInterfacesRequest>(&answer, "r-1"),
        expected
    );
}

#[test]
fn the_last_page_has_no_token_element() {
    for next_token in [None, some("")] {
        let page = DescribeVpcsResult {
            next_token,
            ..Default::default()
        };
        let body = xml::encode_output::<DescribeVpcsRequest>(&page, "r-1");
        assert!(body.ends_with("<vpcSet/></DescribeVpcsResponse>"), "{body}");
    }
}

#[test]
fn an_action_without_output_answers_true_and_an_attribute_stands_alone() {
    let done = xml::encode_output::<DeleteVpcRequest>(&Done::OK, "r-1");
    assert!(done.ends_with("<requestId>r-1</requestId><return>true</return></DeleteVpcResponse>"));
    let attribute = DescribeNetworkInterfaceAttributeResult {
        network_interface_id: some("eni-1"),
        source_dest_check: Some(AttributeBooleanValue { value: Some(true) }),
        ..Default::default()
    };
    let body = xml::encode_output::<DescribeNetworkInterfaceAttributeRequest>(&attribute, "r");
    assert!(!body.contains("groupSet"), "{body}");
}

#[test]
fn answers_with_unknown_members_whitespace_and_other_item_names_are_read() {
    let body = r#"<?xml version="1.0" encoding="UTF-8"?>
        <!-- a comment -->
        <DescribeVpcsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
            <requestId>r-7</requestId>
            <new><member><of>2027</of></member></new>
            <vpcSet>
                <item><vpcId>vpc-1</vpcId><isDefault>false</isDefault><future/><tagSet/></item>
                <item><vpcId><![CDATA[vpc-2]]></vpcId><ownerId>&#49;&#x32;&lt;</ownerId></item>
            </vpcSet>
            <nextToken/>
        </DescribeVpcsResponse>"#;
    let (answer, id) = xml::decode::<DescribeVpcsRequest>(body.as_bytes()).unwrap();
    assert_eq!(id.as_deref(), Some("r-7"));
    assert_eq!(answer.vpcs.len(), 2);
    assert_eq!(answer.vpcs[0].is_default, Some(false));
    assert_eq!(answer.vpcs[1].vpc_id.as_deref(), Some("vpc-2"));
    assert_eq!(answer.vpcs[1].owner_id.as_deref(), Some("12<"));
    assert_eq!(answer.next_token.as_deref(), Some(""));
}

#[test]
fn errors_both_ways() {
    let error = ErrorResponse {
        code: "InvalidNetworkInterfaceID.NotFound".into(),
        message: "The networkInterface ID 'eni-1' does not exist".into(),
        request_id: "r-1".into(),
    };
    let body = xml::encode_error(&error);
    assert_eq!(
        body,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error>\
         <Code>InvalidNetworkInterfaceID.NotFound</Code>\
         <Message>The networkInterface ID &apos;eni-1&apos; does not exist</Message></Error></Errors>\
         <RequestID>r-1</RequestID></Response>"
    );
    assert_eq!(xml::decode_error(body.as_bytes()).unwrap(), error);
    let page = xml::decode_error(b"<html><body>502 Bad Gateway</body></html>").unwrap_err();
    assert_eq!(page.to_string(), "expected <Response>, found <html>");
    assert!(xml::decode_error(b"Service Unavailable").is_err());
    assert!(xml::decode_error(b"").is_err());
}

#[track_caller]
fn refuses(body: &str, code: &str, message: &str) {
    let error: RequestError = AnyRequest::decode(body.as_bytes()).unwrap_err();
    assert_eq!(
        (error.code(), error.to_string().as_str()),
        (code, message),
        "{body}"
    );
}

#[test]
fn requests_that_cannot_be_understood_name_the_parameter() {
    refuses(
        "Version=2016-11-15",
        "MissingParameter",
        "The request must contain the parameter Action",
    );
    refuses(
        "Action=DescribeUnicorns",
        "InvalidAction",
        "The action DescribeUnicorns is not valid for this web service.",
    );
    let unknown = |parameter: &str| format!("The parameter {parameter} is not recognized");
    for parameter in [
        "Filters.1.Name",
        "Filter.1.Names",
        "Filter.a.Name",
        "Filter.0.Name",
        "Filter.-1.Name",
        "MaxResults.1",
        "MaxResults.Value.1",
        ".",
        "Filter..Name",
    ] {
        let body = format!("Action=DescribeVpcs&{parameter}=x");
        refuses(&body, "UnknownParameter", &unknown(parameter));
    }
    refuses(
        "Action=DeleteVpc",
        "MissingParameter",
        "The request must contain the parameter VpcId",
    );
    refuses(
        "Action=RunInstances&MinCount=1",
        "MissingParameter",
        "The request must contain the parameter MaxCount",
    );
    for (parameter, value, expected) in [
        ("MaxResults", "many", "a 32 bit integer"),
        ("MaxResults", "4294967296", "a 32 bit integer"),
        ("DryRun", "yes", "true or false"),
        ("VpcId", "vpc-1", "a list, Name.1, Name.2, …"),
    ] {
        refuses(
            &format!("Action=DescribeVpcs&{parameter}={value}"),
            "InvalidParameterValue",
            &format!("Value ({value}) for parameter {parameter} is invalid. Expected {expected}."),
        );
    }
    refuses(
        "Action=CreateVpc&CidrBlock=10.0.0.0%2F16&InstanceTenancy=shared",
        "InvalidParameterValue",
        "Value (shared) for parameter InstanceTenancy is invalid. Expected default, dedicated, host.",
    );
    refuses(
        "Action=DescribeVpcs&MaxResults=5&MaxResults=6",
        "InvalidParameterValue",
        "Value (6) for parameter MaxResults is invalid. Expected one value, the parameter is given twice.",
    );
}

#[test]
fn list_positions_order_elements_and_signatures_are_no_parameters() {
    let body = "Action=DescribeVpcs&VpcId.10=c&VpcId.2=b&VpcId.1=a&Version=2016-11-15&X-Amz-Algorithm=AWS4-HMAC-SHA256\
                &X-Amz-Signature=0&AWSAccessKeyId=AKID&Signature=0&SignatureVersion=2&MaxResults=&DryRun=True";
    // An empty number is not a number.
    refuses(
        body,
        "InvalidParameterValue",
        "Value () for parameter MaxResults is invalid. Expected a 32 bit integer.",
    );
    let request = AnyRequest::decode(body.replace("&MaxResults=", "").as_bytes()).unwrap();
    assert!(request.is_dry_run());
    let AnyRequest::DescribeVpcs(request) = request else {
        panic!("{request:?}")
    };
    assert_eq!(request.vpc_ids, ["a", "b", "c"]);
}

#[test]
fn debug_prints_what_is_set_and_no_key() {
    let key = KeyPair {
        key_name: some("k"),
        key_material: some("secret"),
        ..Default::default()
    };
    assert_eq!(
        format!("{key:?}"),
        r#"KeyPair { KeyMaterial: "…", KeyName: "k" }"#
    );
}
