"""AWS's own clients against the embedded EC2. Prints `N passed, N failed`."""

import sys
import time

from botocore.exceptions import ClientError

import clusters
from harness import Checks, Server

server = Server()
ec2 = server.client()
check = Checks()


def ids(items, key):
    return [item[key] for item in items]


def filters(**named):
    return [{"Name": n.replace("__", ":").replace("_", "-"), "Values": v if isinstance(v, list) else [v]}
            for n, v in named.items()]


def tags(kind, **pairs):
    return [{"ResourceType": kind, "Tags": [{"Key": k, "Value": v} for k, v in pairs.items()]}]


class World:
    """What the parts build on."""


w = World()


def vpcs():
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16", TagSpecifications=tags("vpc", Name="a<&>\"b", env="x"))["Vpc"]
    w.vpc = vpc["VpcId"]
    check.equal("CreateVpc: cidr", vpc["CidrBlock"], "10.0.0.0/16")
    check.that("CreateVpc: tag with markup", {"Key": "Name", "Value": "a<&>\"b"} in vpc["Tags"])
    found = ec2.describe_vpcs(Filters=filters(tag__env="x", cidr="10.0.*"))["Vpcs"]
    check.equal("DescribeVpcs by tag and wildcard", ids(found, "VpcId"), [w.vpc])
    check.equal("DescribeVpcs: tag-key", len(ec2.describe_vpcs(Filters=filters(tag_key="none"))["Vpcs"]), 0)
    check.error("DescribeVpcs: unknown filter", lambda: ec2.describe_vpcs(Filters=filters(colour="red")),
                "InvalidParameterValue", 400, "colour")
    check.error("DescribeVpcs: malformed", lambda: ec2.describe_vpcs(VpcIds=["vpc-zz"]), "InvalidVpcID.Malformed")
    check.error("DescribeVpcs: not found", lambda: ec2.describe_vpcs(VpcIds=["vpc-0123456789abcdef0"]),
                "InvalidVpcID.NotFound", 400, "vpc ID 'vpc-0123456789abcdef0' does not exist")
    check.error("CreateVpc: range", lambda: ec2.create_vpc(CidrBlock="10.0.0.0/8"), "InvalidVpc.Range")
    check.error("CreateVpc: no CIDR", lambda: ec2.create_vpc(CidrBlock="banana"), "InvalidParameterValue")
    check.error("CreateVpc: dry run", lambda: ec2.create_vpc(CidrBlock="10.9.0.0/16", DryRun=True), "DryRunOperation", 412)
    check.equal("a dry run makes nothing", len(ec2.describe_vpcs()["Vpcs"]), 1)
    check.error("a dry run validates first", lambda: ec2.create_vpc(CidrBlock="10.9.0.0/8", DryRun=True), "InvalidVpc.Range")
    ec2.modify_vpc_attribute(VpcId=w.vpc, EnableDnsHostnames={"Value": True})
    answer = ec2.describe_vpc_attribute(VpcId=w.vpc, Attribute="enableDnsHostnames")
    check.equal("VPC attribute", answer["EnableDnsHostnames"]["Value"], True)
    more = ec2.associate_vpc_cidr_block(VpcId=w.vpc, CidrBlock="100.64.0.0/16")["CidrBlockAssociation"]
    check.error("AssociateVpcCidrBlock: overlap",
                lambda: ec2.associate_vpc_cidr_block(VpcId=w.vpc, CidrBlock="10.0.0.0/20"), "InvalidVpc.Range")
    ec2.disassociate_vpc_cidr_block(AssociationId=more["AssociationId"])
    ec2.associate_vpc_cidr_block(VpcId=w.vpc, CidrBlock="100.64.0.0/16")
    check.equal("secondary CIDR", len(ec2.describe_vpcs(VpcIds=[w.vpc])["Vpcs"][0]["CidrBlockAssociationSet"]), 2)
    waiter = ec2.get_waiter("vpc_available")
    waiter.wait(VpcIds=[w.vpc])
    check.that("waiter vpc_available", True)


def default_objects():
    tables = ec2.describe_route_tables(Filters=filters(vpc_id=w.vpc))["RouteTables"]
    check.equal("main route table", [a["Main"] for t in tables for a in t["Associations"]], [True])
    check.equal("local routes", sorted(r["DestinationCidrBlock"] for r in tables[0]["Routes"]), ["10.0.0.0/16", "100.64.0.0/16"])
    acl = ec2.describe_network_acls(Filters=filters(vpc_id=w.vpc, default="true"))["NetworkAcls"][0]
    check.equal("default ACL", sorted(e["RuleNumber"] for e in acl["Entries"]), [100, 100, 32767, 32767])
    group = ec2.describe_security_groups(Filters=filters(vpc_id=w.vpc))["SecurityGroups"][0]
    check.equal("default group", group["GroupName"], "default")
    check.equal("default group admits itself", group["IpPermissions"][0]["UserIdGroupPairs"][0]["GroupId"], group["GroupId"])
    check.error("default group stays", lambda: ec2.delete_security_group(GroupId=group["GroupId"]), "CannotDelete")
    w.main_table, w.default_group = tables[0]["RouteTableId"], group["GroupId"]


def subnets():
    w.a = ec2.create_subnet(VpcId=w.vpc, CidrBlock="10.0.1.0/24", AvailabilityZone="us-west-2a",
                            TagSpecifications=tags("subnet", Name="a"))["Subnet"]
    w.b = ec2.create_subnet(VpcId=w.vpc, CidrBlock="10.0.2.0/24", AvailabilityZone="us-west-2b")["Subnet"]
    w.small = ec2.create_subnet(VpcId=w.vpc, CidrBlock="10.0.3.0/28", AvailabilityZone="us-west-2a")["Subnet"]
    check.equal("free addresses", (w.a["AvailableIpAddressCount"], w.small["AvailableIpAddressCount"]), (251, 11))
    check.error("CreateSubnet: conflict", lambda: ec2.create_subnet(VpcId=w.vpc, CidrBlock="10.0.1.128/25"), "InvalidSubnet.Conflict")
    check.error("CreateSubnet: outside", lambda: ec2.create_subnet(VpcId=w.vpc, CidrBlock="10.1.0.0/24"), "InvalidSubnet.Range")
    check.error("CreateSubnet: zone", lambda: ec2.create_subnet(VpcId=w.vpc, CidrBlock="10.0.9.0/24", AvailabilityZone="us-west-2z"),
                "InvalidParameterValue")
    found = ec2.describe_subnets(Filters=filters(availability_zone=["us-west-2a", "us-west-2b"], vpc_id=w.vpc))["Subnets"]
    check.equal("OR between values", len(found), 3)
    ec2.modify_subnet_attribute(SubnetId=w.b["SubnetId"], MapPublicIpOnLaunch={"Value": True})
    check.that("MapPublicIpOnLaunch", ec2.describe_subnets(SubnetIds=[w.b["SubnetId"]])["Subnets"][0]["MapPublicIpOnLaunch"])
    zones = ec2.describe_availability_zones()["AvailabilityZones"]
    check.equal("zones", (zones[0]["ZoneName"], zones[0]["ZoneId"]), ("us-west-2a", "usw2-az1"))
    check.equal("regions", ids(ec2.describe_regions()["Regions"], "RegionName"), ["us-west-2"])
    check.that("account attributes", ec2.describe_account_attributes()["AccountAttributes"])


def reservations():
    made = ec2.create_subnet_cidr_reservation(SubnetId=w.a["SubnetId"], Cidr="10.0.1.240/28", ReservationType="prefix")
    reservation = made["SubnetCidrReservation"]["SubnetCidrReservationId"]
    listed = ec2.get_subnet_cidr_reservations(SubnetId=w.a["SubnetId"])["SubnetIpv4CidrReservations"]
    check.equal("reservation listed", ids(listed, "SubnetCidrReservationId"), [reservation])
    ec2.delete_subnet_cidr_reservation(SubnetCidrReservationId=reservation)
    check.equal("reservation gone", ec2.get_subnet_cidr_reservations(SubnetId=w.a["SubnetId"])["SubnetIpv4CidrReservations"], [])


def groups():
    w.nodes = ec2.create_security_group(GroupName="nodes", Description="nodes", VpcId=w.vpc)["GroupId"]
    w.add = ec2.create_security_group(GroupName="add_sg", Description="shared", VpcId=w.vpc,
                                      TagSpecifications=tags("security-group", k="v"))["GroupId"]
    check.error("duplicate name", lambda: ec2.create_security_group(GroupName="nodes", Description="x", VpcId=w.vpc),
                "InvalidGroup.Duplicate")
    permission = {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432,
                  "UserIdGroupPairs": [{"GroupId": w.nodes, "Description": "from nodes"}]}
    rules = ec2.authorize_security_group_ingress(GroupId=w.add, IpPermissions=[permission])["SecurityGroupRules"]
    check.equal("rule made", rules[0]["ReferencedGroupInfo"]["GroupId"], w.nodes)
    check.error("duplicate rule", lambda: ec2.authorize_security_group_ingress(GroupId=w.add, IpPermissions=[permission]),
                "InvalidPermission.Duplicate", 400, "already exists")
    ec2.authorize_security_group_ingress(GroupId=w.nodes, IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="10.0.0.7/8")
    ssh = ec2.describe_security_groups(GroupIds=[w.nodes])["SecurityGroups"][0]["IpPermissions"][0]
    check.equal("CIDR canonicalised", ssh["IpRanges"], [{"CidrIp": "10.0.0.0/8"}])
    check.error("ports the wrong way round",
                lambda: ec2.authorize_security_group_ingress(GroupId=w.nodes, IpProtocol="tcp", FromPort=9, ToPort=8, CidrIp="10.0.0.0/8"),
                "InvalidParameterValue")
    check.error("ICMP code without type",
                lambda: ec2.authorize_security_group_ingress(GroupId=w.nodes, IpProtocol="icmp", FromPort=-1, ToPort=3, CidrIp="10.0.0.0/8"),
                "InvalidParameterValue")
    check.error("referenced group stays", lambda: ec2.delete_security_group(GroupId=w.nodes), "DependencyViolation")
    rule = rules[0]["SecurityGroupRuleId"]
    ec2.modify_security_group_rules(GroupId=w.add, SecurityGroupRules=[
        {"SecurityGroupRuleId": rule, "SecurityGroupRule": {"IpProtocol": "tcp", "FromPort": 5433, "ToPort": 5433, "ReferencedGroupId": w.nodes}}])
    found = ec2.describe_security_group_rules(Filters=filters(group_id=w.add))["SecurityGroupRules"]
    check.that("rule modified", any(r["SecurityGroupRuleId"] == rule and r["FromPort"] == 5433 for r in found))
    permission.update(FromPort=5433, ToPort=5433)
    permission["UserIdGroupPairs"][0]["Description"] = "new text"
    ec2.update_security_group_rule_descriptions_ingress(GroupId=w.add, IpPermissions=[permission])
    found = ec2.describe_security_group_rules(SecurityGroupRuleIds=[rule])["SecurityGroupRules"]
    check.equal("description updated", found[0]["Description"], "new text")
    gone = ec2.revoke_security_group_ingress(GroupId=w.add, SecurityGroupRuleIds=[rule])
    check.equal("revoked rule reported", ids(gone["RevokedSecurityGroupRules"], "SecurityGroupRuleId"), [rule])
    check.error("revoke twice", lambda: ec2.revoke_security_group_ingress(GroupId=w.add, IpPermissions=[permission]),
                "InvalidPermission.NotFound")
    ec2.authorize_security_group_egress(GroupId=w.add, IpPermissions=[
        {"IpProtocol": "udp", "FromPort": 53, "ToPort": 53, "IpRanges": [{"CidrIp": "10.0.0.0/16"}]}])
    ec2.revoke_security_group_egress(GroupId=w.add, IpPermissions=[
        {"IpProtocol": "udp", "FromPort": 53, "ToPort": 53, "IpRanges": [{"CidrIp": "10.0.0.0/16"}]}])
    many = [{"CidrIp": f"192.168.{n}.0/24"} for n in range(61)]
    check.error("60 rules", lambda: ec2.authorize_security_group_ingress(GroupId=w.add, IpPermissions=[
        {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "IpRanges": many}]), "RulesPerSecurityGroupLimitExceeded")
    check.equal("no references over peerings", ec2.describe_security_group_references(GroupId=[w.add])["SecurityGroupReferenceSet"], [])
    check.equal("no stale groups", ec2.describe_stale_security_groups(VpcId=w.vpc)["StaleSecurityGroupSet"], [])
    check.error("group not found", lambda: ec2.describe_security_groups(GroupIds=["sg-0123456789abcdef0"]), "InvalidGroup.NotFound")


def interfaces():
    def create(**more):
        return ec2.create_network_interface(SubnetId=w.a["SubnetId"], **more)["NetworkInterface"]

    eni = create(Groups=[w.nodes], Description="one", SecondaryPrivateIpAddressCount=2,
                 TagSpecifications=tags("network-interface", Name="eni"))
    check.equal("addresses", ([p["Primary"] for p in eni["PrivateIpAddresses"]], eni["InterfaceType"]), ([True, False, False], "interface"))
    w.eni = eni["NetworkInterfaceId"]
    token = {"SubnetId": w.a["SubnetId"], "ClientToken": "tok-1"}
    first = ec2.create_network_interface(**token)["NetworkInterface"]["NetworkInterfaceId"]
    again = ec2.create_network_interface(**token)["NetworkInterface"]["NetworkInterfaceId"]
    check.equal("same token, same interface", first, again)
    check.error("same token, other request", lambda: ec2.create_network_interface(**token, Description="x"), "IdempotentParameterMismatch")
    ec2.delete_network_interface(NetworkInterfaceId=first)
    check.error("deleted is gone", lambda: ec2.describe_network_interfaces(NetworkInterfaceIds=[first]),
                "InvalidNetworkInterfaceID.NotFound", 400, rf"'{first}' does not exist")
    assigned = ec2.assign_private_ip_addresses(NetworkInterfaceId=w.eni, SecondaryPrivateIpAddressCount=3)
    check.equal("only the new ones are answered", len(assigned["AssignedPrivateIpAddresses"]), 3)
    ip = assigned["AssignedPrivateIpAddresses"][0]["PrivateIpAddress"]
    other = create()["NetworkInterfaceId"]
    check.error("address of another", lambda: ec2.assign_private_ip_addresses(NetworkInterfaceId=other, PrivateIpAddresses=[ip]),
                "InvalidIPAddress.InUse")
    ec2.assign_private_ip_addresses(NetworkInterfaceId=other, PrivateIpAddresses=[ip], AllowReassignment=True)
    moved = ec2.describe_network_interfaces(Filters=filters(addresses_private_ip_address="x") and
                                            [{"Name": "addresses.private-ip-address", "Values": [ip]}])["NetworkInterfaces"]
    check.equal("reassigned", ids(moved, "NetworkInterfaceId"), [other])
    ec2.unassign_private_ip_addresses(NetworkInterfaceId=other, PrivateIpAddresses=[ip])
    check.error("primary stays", lambda: ec2.unassign_private_ip_addresses(
        NetworkInterfaceId=w.eni, PrivateIpAddresses=[eni["PrivateIpAddress"]]), "InvalidParameterValue")
    prefix = ec2.assign_private_ip_addresses(NetworkInterfaceId=other, Ipv4PrefixCount=1)["AssignedIpv4Prefixes"][0]["Ipv4Prefix"]
    check.that("aligned /28", prefix.endswith("/28") and int(prefix.split("/")[0].split(".")[3]) % 16 == 0, prefix)
    shown = ec2.describe_network_interfaces(NetworkInterfaceIds=[other])["NetworkInterfaces"][0]
    check.equal("prefix shown", shown["Ipv4Prefixes"], [{"Ipv4Prefix": prefix}])
    ec2.unassign_private_ip_addresses(NetworkInterfaceId=other, Ipv4Prefixes=[prefix])
    check.error("reserved address", lambda: create(PrivateIpAddress="10.0.1.2"), "InvalidParameterValue")
    check.error("small subnet is exhausted", lambda: ec2.create_network_interface(
        SubnetId=w.small["SubnetId"], SecondaryPrivateIpAddressCount=11), "InsufficientFreeAddressesInSubnet", 400, "free addresses")
    check.error("no /28 in a /28", lambda: ec2.create_network_interface(SubnetId=w.small["SubnetId"], Ipv4PrefixCount=1),
                "InvalidParameterValue", 400, "sufficient free Ipv4 addresses or prefixes")
    check.error("six groups", lambda: create(Groups=[ec2.create_security_group(
        GroupName=f"g{n}", Description="g", VpcId=w.vpc)["GroupId"] for n in range(6)]), "SecurityGroupsPerInterfaceLimitExceeded")
    check.error("unknown group", lambda: create(Groups=["sg-0123456789abcdef0"]), "InvalidGroup.NotFound")
    check.error("missing parameter", lambda: server.client(parameter_validation=False).create_network_interface(), "MissingParameter")
    ec2.modify_network_interface_attribute(NetworkInterfaceId=w.eni, Groups=[w.nodes, w.add])
    attribute = ec2.describe_network_interface_attribute(NetworkInterfaceId=w.eni, Attribute="groupSet")
    check.equal("groups replaced", ids(attribute["Groups"], "GroupId"), [w.nodes, w.add])
    ec2.modify_network_interface_attribute(NetworkInterfaceId=w.eni, SourceDestCheck={"Value": False})
    ec2.reset_network_interface_attribute(NetworkInterfaceId=w.eni, SourceDestCheck="true")
    attribute = ec2.describe_network_interface_attribute(NetworkInterfaceId=w.eni, Attribute="sourceDestCheck")
    check.equal("source check reset", attribute["SourceDestCheck"]["Value"], True)
    tracking = {"TcpEstablishedTimeout": 350, "UdpTimeout": 45}
    with_tracking = create(ConnectionTrackingSpecification=tracking)
    shown = ec2.describe_network_interfaces(NetworkInterfaceIds=[with_tracking["NetworkInterfaceId"]])["NetworkInterfaces"][0]
    check.equal("tracking timeouts", shown["ConnectionTrackingConfiguration"], tracking)
    check.error("used group stays", lambda: ec2.delete_security_group(GroupId=w.add), "DependencyViolation")
    check.error("used subnet stays", lambda: ec2.delete_subnet(SubnetId=w.a["SubnetId"]), "DependencyViolation")


def run_instance(kind="t3.medium", **more):
    return ec2.run_instances(ImageId="ami-0123456789abcdef0", InstanceType=kind, MinCount=1, MaxCount=1,
                             **({"SubnetId": w.a["SubnetId"], "SecurityGroupIds": [w.nodes]} | more))["Instances"][0]


def instances():
    instance = run_instance(TagSpecifications=tags("instance", Name="node"), IamInstanceProfile={"Name": "node-role"})
    w.instance = instance["InstanceId"]
    check.equal("pending first", instance["State"]["Name"], "pending")
    ec2.get_waiter("instance_running").wait(InstanceIds=[w.instance])
    shown = ec2.describe_instances(Filters=filters(tag__Name="node"))["Reservations"][0]["Instances"][0]
    check.equal("one interface", [n["Attachment"]["DeviceIndex"] for n in shown["NetworkInterfaces"]], [0])
    check.equal("node name", shown["PrivateDnsName"], "ip-" + shown["PrivateIpAddress"].replace(".", "-") + ".us-west-2.compute.internal")
    check.equal("status", ec2.describe_instance_status(InstanceIds=[w.instance])["InstanceStatuses"][0]["InstanceStatus"]["Status"], "ok")
    check.error("unknown type", lambda: run_instance("t9.mega"), "InvalidParameterValue")
    check.error("unknown instance", lambda: ec2.describe_instances(InstanceIds=["i-0123456789abcdef0"]), "InvalidInstanceID.NotFound")
    options = ec2.modify_instance_metadata_options(InstanceId=w.instance, HttpPutResponseHopLimit=2)
    check.equal("hop limit", options["InstanceMetadataOptions"]["HttpPutResponseHopLimit"], 2)
    attribute = ec2.describe_instance_attribute(InstanceId=w.instance, Attribute="instanceType")
    check.equal("instance attribute", attribute["InstanceType"]["Value"], "t3.medium")
    info = ec2.describe_instance_types(InstanceTypes=["m5.large"])["InstanceTypes"][0]["NetworkInfo"]
    check.equal("limits", (info["MaximumNetworkInterfaces"], info["Ipv4AddressesPerInterface"]), (3, 10))
    check.error("unknown type asked", lambda: ec2.describe_instance_types(InstanceTypes=["t9.mega"]), "InvalidInstanceType")
    offerings = ec2.describe_instance_type_offerings(LocationType="availability-zone", Filters=filters(instance_type="t3.medium"))
    check.equal("offerings", len(offerings["InstanceTypeOfferings"]), 4)
    public = run_instance(SubnetId=w.b["SubnetId"])
    shown = ec2.describe_instances(InstanceIds=[public["InstanceId"]])["Reservations"][0]["Instances"][0]
    check.that("public address at launch", shown["PublicIpAddress"].startswith("203.0.113."))
    ec2.terminate_instances(InstanceIds=[public["InstanceId"]])
    w.public = public["InstanceId"]


def one_interface_then_several():
    """S3-14: the group change of an instance with one interface, and with several."""
    ec2.modify_instance_attribute(InstanceId=w.instance, Groups=[w.nodes, w.default_group])
    attribute = ec2.describe_instance_attribute(InstanceId=w.instance, Attribute="groupSet")
    check.equal("S3-14: one interface takes groups", ids(attribute["Groups"], "GroupId"), [w.nodes, w.default_group])
    attached = ec2.attach_network_interface(InstanceId=w.instance, NetworkInterfaceId=w.eni, DeviceIndex=1)
    w.attachment = attached["AttachmentId"]
    check.error("S3-14: several interfaces do not", lambda: ec2.modify_instance_attribute(InstanceId=w.instance, Groups=[w.add]),
                "InvalidInstanceID", 400, rf"^There are multiple interfaces attached to instance '{w.instance}'\. "
                r"Please specify an interface ID for the operation instead\.$")
    nics = {n["Attachment"]["DeviceIndex"]: n for n in
            ec2.describe_instances(InstanceIds=[w.instance])["Reservations"][0]["Instances"][0]["NetworkInterfaces"]}
    before = ids(nics[1]["Groups"], "GroupId")
    ec2.modify_network_interface_attribute(NetworkInterfaceId=nics[0]["NetworkInterfaceId"], Groups=[w.nodes, w.add])
    nics = {n["Attachment"]["DeviceIndex"]: n for n in
            ec2.describe_instances(InstanceIds=[w.instance])["Reservations"][0]["Instances"][0]["NetworkInterfaces"]}
    check.equal("S3-14: the primary has the group", ids(nics[0]["Groups"], "GroupId"), [w.nodes, w.add])
    check.equal("S3-14: the other is as before", ids(nics[1]["Groups"], "GroupId"), before)


def attachments():
    shown = ec2.describe_network_interfaces(Filters=[{"Name": "attachment.instance-id", "Values": [w.instance]},
                                                     {"Name": "attachment.device-index", "Values": ["1"]}])["NetworkInterfaces"]
    check.equal("filter by device index", ids(shown, "NetworkInterfaceId"), [w.eni])
    check.equal("in use", (shown[0]["Status"], shown[0]["Attachment"]["Status"]), ("in-use", "attached"))
    check.error("attach twice", lambda: ec2.attach_network_interface(InstanceId=w.instance, NetworkInterfaceId=w.eni, DeviceIndex=2),
                "InvalidNetworkInterface.InUse")
    spare = ec2.create_network_interface(SubnetId=w.a["SubnetId"], SecondaryPrivateIpAddressCount=1)["NetworkInterface"]["NetworkInterfaceId"]
    check.error("device index taken", lambda: ec2.attach_network_interface(InstanceId=w.instance, NetworkInterfaceId=spare, DeviceIndex=1),
                "InvalidParameterValue", 400, "already has an interface attached at device index '1'")
    check.error("delete in use", lambda: ec2.delete_network_interface(NetworkInterfaceId=w.eni), "InvalidParameterValue", 400, "currently in use")
    big = ec2.create_network_interface(SubnetId=w.a["SubnetId"], SecondaryPrivateIpAddressCount=6)["NetworkInterface"]["NetworkInterfaceId"]
    check.error("too many addresses for the type",
                lambda: ec2.attach_network_interface(InstanceId=w.instance, NetworkInterfaceId=big, DeviceIndex=2),
                "InvalidInterface.IpAddressLimitExceeded", 400, "Address count 7")
    ec2.attach_network_interface(InstanceId=w.instance, NetworkInterfaceId=spare, DeviceIndex=2)
    third = ec2.create_network_interface(SubnetId=w.a["SubnetId"])["NetworkInterface"]["NetworkInterfaceId"]
    check.error("too many interfaces for the type",
                lambda: ec2.attach_network_interface(InstanceId=w.instance, NetworkInterfaceId=third, DeviceIndex=3),
                "AttachmentLimitExceeded", 400, "Interface count 4 exceeds the limit for t3.medium")
    check.error("too many addresses assigned",
                lambda: ec2.assign_private_ip_addresses(NetworkInterfaceId=spare, SecondaryPrivateIpAddressCount=5),
                "PrivateIpAddressLimitExceeded")
    far = ec2.create_network_interface(SubnetId=w.b["SubnetId"])["NetworkInterface"]["NetworkInterfaceId"]
    check.error("other zone", lambda: ec2.attach_network_interface(InstanceId=w.instance, NetworkInterfaceId=far, DeviceIndex=3),
                "InvalidParameterCombination")
    ec2.modify_network_interface_attribute(NetworkInterfaceId=w.eni,
                                           Attachment={"AttachmentId": w.attachment, "DeleteOnTermination": True})
    primary = ec2.describe_network_interfaces(Filters=[{"Name": "attachment.instance-id", "Values": [w.instance]},
                                                       {"Name": "attachment.device-index", "Values": ["0"]}])["NetworkInterfaces"][0]
    check.error("primary stays attached", lambda: ec2.detach_network_interface(AttachmentId=primary["Attachment"]["AttachmentId"]),
                "OperationNotPermitted")
    server.knobs(timing={"detached_shown": 5000})
    ec2.detach_network_interface(AttachmentId=w.attachment)
    shown = ec2.describe_network_interfaces(NetworkInterfaceIds=[w.eni])["NetworkInterfaces"][0]
    check.equal("detached is shown for a while", (shown["Status"], shown["Attachment"]["Status"]), ("available", "detached"))
    attachment = lambda: ec2.describe_network_interfaces(NetworkInterfaceIds=[w.eni])["NetworkInterfaces"][0].get("Attachment")
    check.becomes("and then no more", attachment, None)
    server.knobs()
    check.error("unknown attachment", lambda: ec2.detach_network_interface(AttachmentId=w.attachment), "InvalidAttachmentID.NotFound")


def trunks():
    node = run_instance("m5.large")["InstanceId"]
    trunk = ec2.create_network_interface(SubnetId=w.a["SubnetId"], InterfaceType="trunk")["NetworkInterface"]
    check.equal("trunk", trunk["InterfaceType"], "trunk")
    trunk = trunk["NetworkInterfaceId"]
    check.error("t3 takes no trunk", lambda: ec2.attach_network_interface(InstanceId=w.instance, NetworkInterfaceId=trunk, DeviceIndex=1),
                "InvalidParameterValue", 400, "trunking")
    ec2.attach_network_interface(InstanceId=node, NetworkInterfaceId=trunk, DeviceIndex=2)
    branch = ec2.create_network_interface(SubnetId=w.a["SubnetId"], Groups=[w.add])["NetworkInterface"]["NetworkInterfaceId"]
    permission = ec2.create_network_interface_permission(NetworkInterfaceId=branch, AwsAccountId="111122223333", Permission="INSTANCE-ATTACH")
    permission = permission["InterfacePermission"]["NetworkInterfacePermissionId"]
    listed = ec2.describe_network_interface_permissions(NetworkInterfacePermissionIds=[permission])["NetworkInterfacePermissions"]
    check.equal("permission", listed[0]["PermissionState"]["State"], "granted")
    made = ec2.associate_trunk_interface(TrunkInterfaceId=trunk, BranchInterfaceId=branch, VlanId=7)["InterfaceAssociation"]
    check.equal("association", (made["VlanId"], made["InterfaceProtocol"]), (7, "VLAN"))
    listed = ec2.describe_trunk_interface_associations(
        Filters=[{"Name": "trunk-interface-association.trunk-interface-id", "Values": [trunk]}])["InterfaceAssociations"]
    check.equal("association listed", ids(listed, "BranchInterfaceId"), [branch])
    shown = ec2.describe_network_interfaces(NetworkInterfaceIds=[branch])["NetworkInterfaces"][0]
    check.equal("branch", shown["InterfaceType"], "branch")
    check.error("associated stays", lambda: ec2.delete_network_interface(NetworkInterfaceId=branch), "InvalidParameterValue")
    spare = ec2.create_network_interface(SubnetId=w.a["SubnetId"])["NetworkInterface"]["NetworkInterfaceId"]
    check.error("VLAN taken", lambda: ec2.associate_trunk_interface(TrunkInterfaceId=trunk, BranchInterfaceId=spare, VlanId=7),
                "InvalidParameterValue")
    ec2.disassociate_trunk_interface(AssociationId=made["AssociationId"])
    check.error("disassociate twice", lambda: ec2.disassociate_trunk_interface(AssociationId=made["AssociationId"]),
                "InvalidAssociationID.NotFound")
    ec2.delete_network_interface_permission(NetworkInterfacePermissionId=permission)
    ec2.delete_network_interface(NetworkInterfaceId=branch)
    ec2.terminate_instances(InstanceIds=[node])


def routes():
    igw = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=igw, VpcId=w.vpc)
    check.error("one gateway per VPC", lambda: ec2.attach_internet_gateway(
        InternetGatewayId=ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"], VpcId=w.vpc), "InvalidParameterValue")
    check.equal("gateway attached", ec2.describe_internet_gateways(
        Filters=[{"Name": "attachment.vpc-id", "Values": [w.vpc]}])["InternetGateways"][0]["InternetGatewayId"], igw)
    table = ec2.create_route_table(VpcId=w.vpc)["RouteTable"]["RouteTableId"]
    association = ec2.associate_route_table(RouteTableId=table, SubnetId=w.a["SubnetId"])["AssociationId"]
    found = ec2.describe_route_tables(Filters=[{"Name": "association.subnet-id", "Values": [w.a["SubnetId"]]}])["RouteTables"]
    check.equal("table of a subnet", ids(found, "RouteTableId"), [table])
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=igw)
    check.error("route exists", lambda: ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NetworkInterfaceId=w.eni),
                "RouteAlreadyExists")
    check.error("no target", lambda: ec2.create_route(RouteTableId=table, DestinationCidrBlock="192.0.2.0/24"), "MissingParameter")
    check.error("no such route", lambda: ec2.delete_route(RouteTableId=table, DestinationCidrBlock="192.0.2.0/24"), "InvalidRoute.NotFound")
    middle = ec2.create_network_interface(SubnetId=w.a["SubnetId"])["NetworkInterface"]["NetworkInterfaceId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="192.0.2.0/24", NetworkInterfaceId=middle)
    ec2.delete_network_interface(NetworkInterfaceId=middle)
    states = {r["DestinationCidrBlock"]: r["State"] for r in ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"][0]["Routes"]}
    check.equal("a route without target is a blackhole", (states["192.0.2.0/24"], states["0.0.0.0/0"]), ("blackhole", "active"))
    ec2.replace_route(RouteTableId=table, DestinationCidrBlock="192.0.2.0/24", GatewayId=igw)
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="172.16.0.0/12", TransitGatewayId="tgw-0123456789abcdef0")
    ec2.delete_route(RouteTableId=table, DestinationCidrBlock="172.16.0.0/12")
    new = ec2.replace_route_table_association(AssociationId=association, RouteTableId=w.main_table)["NewAssociationId"]
    ec2.disassociate_route_table(AssociationId=new)
    check.error("disassociate twice", lambda: ec2.disassociate_route_table(AssociationId=new), "InvalidAssociationID.NotFound")
    address = ec2.allocate_address(Domain="vpc")
    nat = ec2.create_nat_gateway(SubnetId=w.b["SubnetId"], AllocationId=address["AllocationId"])["NatGateway"]["NatGatewayId"]
    ec2.get_waiter("nat_gateway_available").wait(NatGatewayIds=[nat])
    shown = ec2.describe_nat_gateways(NatGatewayIds=[nat])["NatGateways"][0]
    check.equal("NAT gateway", (shown["State"], shown["NatGatewayAddresses"][0]["PublicIp"]), ("available", address["PublicIp"]))
    private = ec2.create_nat_gateway(SubnetId=w.b["SubnetId"], ConnectivityType="private")["NatGateway"]
    check.that("private NAT gateway", "PublicIp" not in private["NatGatewayAddresses"][0])
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="198.18.0.0/15", NatGatewayId=nat)
    ec2.delete_nat_gateway(NatGatewayId=nat)
    check.error("unknown NAT gateway", lambda: ec2.describe_nat_gateways(NatGatewayIds=["nat-0123456789abcdef0"]), "NatGatewayNotFound")
    states = {r["DestinationCidrBlock"]: r["State"] for r in ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"][0]["Routes"]}
    check.equal("deleted NAT gateway: blackhole", states["198.18.0.0/15"], "blackhole")
    ec2.delete_nat_gateway(NatGatewayId=private["NatGatewayId"])
    ec2.release_address(AllocationId=address["AllocationId"])
    ec2.delete_route_table(RouteTableId=table)
    check.error("main table stays", lambda: ec2.delete_route_table(RouteTableId=w.main_table), "DependencyViolation")
    w.igw = igw


def addresses():
    address = ec2.allocate_address(Domain="vpc", TagSpecifications=tags("elastic-ip", Name="web"))
    eni = ec2.create_network_interface(SubnetId=w.a["SubnetId"])["NetworkInterface"]["NetworkInterfaceId"]
    made = ec2.associate_address(AllocationId=address["AllocationId"], NetworkInterfaceId=eni)["AssociationId"]
    shown = ec2.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"][0]
    check.equal("association on the interface", shown["Association"]["PublicIp"], address["PublicIp"])
    check.equal("address listed", ec2.describe_addresses(PublicIps=[address["PublicIp"]])["Addresses"][0]["AssociationId"], made)
    check.error("release in use", lambda: ec2.release_address(AllocationId=address["AllocationId"]), "InvalidIPAddress.InUse")
    check.error("gateway with mapped addresses", lambda: ec2.detach_internet_gateway(InternetGatewayId=w.igw, VpcId=w.vpc), "DependencyViolation")
    ec2.disassociate_address(AssociationId=made)
    ec2.release_address(AllocationId=address["AllocationId"])
    check.error("unknown allocation", lambda: ec2.release_address(AllocationId=address["AllocationId"]), "InvalidAllocationID.NotFound")
    ec2.delete_network_interface(NetworkInterfaceId=eni)
    ec2.detach_internet_gateway(InternetGatewayId=w.igw, VpcId=w.vpc)
    ec2.delete_internet_gateway(InternetGatewayId=w.igw)


def acls():
    acl = ec2.create_network_acl(VpcId=w.vpc)["NetworkAcl"]
    check.equal("a new ACL denies", len(acl["Entries"]), 2)
    acl = acl["NetworkAclId"]
    entry = {"NetworkAclId": acl, "RuleNumber": 100, "Egress": False, "Protocol": "6", "RuleAction": "deny",
             "CidrBlock": "10.0.2.5/24", "PortRange": {"From": 80, "To": 80}}
    ec2.create_network_acl_entry(**entry)
    check.error("entry exists", lambda: ec2.create_network_acl_entry(**entry), "NetworkAclEntryAlreadyExists")
    ec2.replace_network_acl_entry(**(entry | {"RuleAction": "allow"}))
    shown = [e for e in ec2.describe_network_acls(NetworkAclIds=[acl])["NetworkAcls"][0]["Entries"] if e["RuleNumber"] == 100]
    check.equal("entry", (shown[0]["RuleAction"], shown[0]["CidrBlock"], shown[0]["PortRange"]), ("allow", "10.0.2.0/24", {"From": 80, "To": 80}))
    ec2.create_network_acl_entry(NetworkAclId=acl, RuleNumber=110, Egress=True, Protocol="1", RuleAction="allow",
                                 CidrBlock="0.0.0.0/0", IcmpTypeCode={"Type": 8, "Code": -1})
    ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=110, Egress=True)
    check.error("no such entry", lambda: ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=110, Egress=True),
                "InvalidNetworkAclEntry.NotFound")
    used = ec2.describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": [w.b["SubnetId"]]}])["NetworkAcls"][0]
    mine = next(a for a in used["Associations"] if a["SubnetId"] == w.b["SubnetId"])
    new = ec2.replace_network_acl_association(AssociationId=mine["NetworkAclAssociationId"], NetworkAclId=acl)["NewAssociationId"]
    check.error("used ACL stays", lambda: ec2.delete_network_acl(NetworkAclId=acl), "DependencyViolation")
    ec2.replace_network_acl_association(AssociationId=new, NetworkAclId=used["NetworkAclId"])
    ec2.delete_network_acl(NetworkAclId=acl)
    check.error("default ACL stays", lambda: ec2.delete_network_acl(NetworkAclId=used["NetworkAclId"]), "InvalidParameterValue")


def peerings_and_lists():
    other = ec2.create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
    peering = ec2.create_vpc_peering_connection(VpcId=w.vpc, PeerVpcId=other)["VpcPeeringConnection"]["VpcPeeringConnectionId"]
    ec2.accept_vpc_peering_connection(VpcPeeringConnectionId=peering)
    shown = ec2.describe_vpc_peering_connections(Filters=filters(status_code="active"))["VpcPeeringConnections"]
    check.equal("peering", (ids(shown, "VpcPeeringConnectionId"), shown[0]["AccepterVpcInfo"]["CidrBlock"]), ([peering], "10.20.0.0/16"))
    group = ec2.create_security_group(GroupName="mysql", Description="mysql", VpcId=other)["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[
        {"IpProtocol": "tcp", "FromPort": 3306, "ToPort": 3306, "UserIdGroupPairs": [{"GroupId": w.nodes}]}])
    referenced = ec2.describe_security_group_references(GroupId=[w.nodes])["SecurityGroupReferenceSet"]
    check.equal("reference over the peering", (referenced[0]["ReferencingVpcId"], referenced[0]["VpcPeeringConnectionId"]), (other, peering))
    same = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    check.error("overlap", lambda: ec2.create_vpc_peering_connection(VpcId=w.vpc, PeerVpcId=same), "OperationNotPermitted")
    ec2.delete_vpc(VpcId=same)
    ec2.delete_vpc_peering_connection(VpcPeeringConnectionId=peering)
    stale = ec2.describe_stale_security_groups(VpcId=other)["StaleSecurityGroupSet"]
    check.equal("stale rule", ids(stale, "GroupId"), [group])
    refused = ec2.create_vpc_peering_connection(VpcId=w.vpc, PeerVpcId=other)["VpcPeeringConnection"]["VpcPeeringConnectionId"]
    ec2.reject_vpc_peering_connection(VpcPeeringConnectionId=refused)
    ec2.delete_security_group(GroupId=group)
    ec2.delete_vpc(VpcId=other)
    made = ec2.create_managed_prefix_list(PrefixListName="office", AddressFamily="IPv4", MaxEntries=3,
                                          Entries=[{"Cidr": "192.0.2.0/24", "Description": "a"}])["PrefixList"]
    list_id = made["PrefixListId"]
    ec2.modify_managed_prefix_list(PrefixListId=list_id, CurrentVersion=1, AddEntries=[{"Cidr": "198.51.100.0/24"}])
    check.error("version moved on", lambda: ec2.modify_managed_prefix_list(
        PrefixListId=list_id, CurrentVersion=1, AddEntries=[{"Cidr": "203.0.113.0/24"}]), "PrefixListVersionMismatch")
    entries = ec2.get_managed_prefix_list_entries(PrefixListId=list_id)["Entries"]
    check.equal("entries", ids(entries, "Cidr"), ["192.0.2.0/24", "198.51.100.0/24"])
    old = ec2.get_managed_prefix_list_entries(PrefixListId=list_id, TargetVersion=1)["Entries"]
    check.equal("entries of version 1", ids(old, "Cidr"), ["192.0.2.0/24"])
    check.equal("prefix lists", ids(ec2.describe_managed_prefix_lists()["PrefixLists"], "PrefixListName"), ["office"])
    check.equal("prefix lists, old call", len(ec2.describe_prefix_lists()["PrefixLists"]), 1)
    ec2.authorize_security_group_ingress(GroupId=w.nodes, IpPermissions=[
        {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "PrefixListIds": [{"PrefixListId": list_id}]}])
    check.error("referenced list stays", lambda: ec2.delete_managed_prefix_list(PrefixListId=list_id), "DependencyViolation")
    ec2.revoke_security_group_ingress(GroupId=w.nodes, IpPermissions=[
        {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "PrefixListIds": [{"PrefixListId": list_id}]}])
    ec2.delete_managed_prefix_list(PrefixListId=list_id)


def templates():
    template = ec2.create_launch_template(LaunchTemplateName="nodes", LaunchTemplateData={
        "ImageId": "ami-0123456789abcdef0", "InstanceType": "t3.medium", "SecurityGroupIds": [w.nodes],
        "MetadataOptions": {"HttpPutResponseHopLimit": 2},
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "from", "Value": "template"}]}]})["LaunchTemplate"]
    check.error("name taken", lambda: ec2.create_launch_template(LaunchTemplateName="nodes", LaunchTemplateData={"ImageId": "ami-1"}),
                "InvalidLaunchTemplateName.AlreadyExistsException")
    lt = template["LaunchTemplateId"]
    ec2.create_launch_template_version(LaunchTemplateId=lt, SourceVersion="1", LaunchTemplateData={"SecurityGroupIds": [w.nodes, w.add]})
    versions = ec2.describe_launch_template_versions(LaunchTemplateId=lt, Versions=["$Latest"])["LaunchTemplateVersions"]
    data = versions[0]["LaunchTemplateData"]
    check.equal("version from version", (data["InstanceType"], data["SecurityGroupIds"]), ("t3.medium", [w.nodes, w.add]))
    instance = ec2.run_instances(MinCount=1, MaxCount=1, SubnetId=w.a["SubnetId"],
                                 LaunchTemplate={"LaunchTemplateName": "nodes", "Version": "2"})["Instances"][0]
    own = {t["Key"]: t["Value"] for t in instance["Tags"]}
    check.equal("launched from", (own["aws:ec2launchtemplate:id"], own["aws:ec2launchtemplate:version"], own["from"]), (lt, "2", "template"))
    check.equal("groups of the template", ids(instance["SecurityGroups"], "GroupId"), [w.nodes, w.add])
    check.equal("hop limit of the template", instance["MetadataOptions"]["HttpPutResponseHopLimit"], 2)
    ec2.modify_launch_template(LaunchTemplateId=lt, DefaultVersion="2")
    check.equal("default version", ec2.describe_launch_templates(LaunchTemplateNames=["nodes"])["LaunchTemplates"][0]["DefaultVersionNumber"], 2)
    check.error("no such version", lambda: ec2.run_instances(MinCount=1, MaxCount=1, SubnetId=w.a["SubnetId"], LaunchTemplate={
        "LaunchTemplateId": lt, "Version": "9"}), "InvalidLaunchTemplateId.VersionNotFound")
    ec2.delete_launch_template(LaunchTemplateId=lt)
    ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])


def tagging():
    ec2.create_tags(Resources=[w.eni, w.vpc], Tags=[{"Key": "team", "Value": "x"}, {"Key": "cost", "Value": ""}])
    found = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [w.eni]}, {"Name": "key", "Values": ["team"]}])["Tags"]
    check.equal("DescribeTags", (found[0]["ResourceType"], found[0]["Value"]), ("network-interface", "x"))
    ec2.delete_tags(Resources=[w.eni], Tags=[{"Key": "team", "Value": "other"}])
    check.equal("another value deletes nothing", len(ec2.describe_tags(Filters=filters(resource_id=w.eni, key="team"))["Tags"]), 1)
    ec2.delete_tags(Resources=[w.eni], Tags=[{"Key": "team"}])
    check.equal("tag deleted", ec2.describe_tags(Filters=filters(resource_id=w.eni, key="team"))["Tags"], [])
    check.error("reserved key", lambda: ec2.create_tags(Resources=[w.vpc], Tags=[{"Key": "aws:x", "Value": "y"}]), "InvalidParameterValue")
    check.error("tag on nothing", lambda: ec2.create_tags(Resources=["i-0123456789abcdef0"], Tags=[{"Key": "a", "Value": "b"}]),
                "InvalidInstanceID.NotFound")


def pages():
    made = {ec2.create_network_interface(SubnetId=w.b["SubnetId"])["NetworkInterface"]["NetworkInterfaceId"] for _ in range(12)}
    paginator = ec2.get_paginator("describe_network_interfaces")
    where = filters(subnet_id=w.b["SubnetId"], status="available")
    answers = list(paginator.paginate(Filters=where, PaginationConfig={"PageSize": 5}))
    seen = [n["NetworkInterfaceId"] for answer in answers for n in answer["NetworkInterfaces"]]
    check.that("pages cover all, once", made <= set(seen) and len(seen) == len(set(seen)))
    check.that("no token on the last page", "NextToken" not in answers[-1] and "NextToken" in answers[0])
    check.error("page too small", lambda: server.client(parameter_validation=False).describe_network_interfaces(MaxResults=4), "InvalidParameterValue")
    check.error("ids and pages", lambda: ec2.describe_network_interfaces(MaxResults=5, NetworkInterfaceIds=sorted(made)[:2]),
                "InvalidParameterCombination")
    check.error("foreign token", lambda: ec2.describe_network_interfaces(MaxResults=5, NextToken="nonsense"), "InvalidParameterValue")
    types = [t["InstanceType"] for p in ec2.get_paginator("describe_instance_types").paginate() for t in p["InstanceTypes"]]
    check.that("all instance types in pages", len(types) == len(set(types)) > 1000, len(types))
    for eni in made:
        ec2.delete_network_interface(NetworkInterfaceId=eni)


def knobs():
    server.knobs(throttle={"enabled": True, "actions": {"DescribeVpcs": {"capacity": 2, "refill_per_second": 0.01}}})
    codes = []
    for _ in range(4):
        try:
            ec2.describe_vpcs()
            codes.append("ok")
        except ClientError as error:
            codes.append((error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]))
    check.equal("throttled", codes, ["ok", "ok", ("RequestLimitExceeded", 503), ("RequestLimitExceeded", 503)])
    server.knobs(faults=[{"action": "DescribeSubnets", "code": "RequestLimitExceeded", "count": 2}])
    patient = server.client(retries=4)
    answer = patient.describe_subnets()
    check.equal("the client tries again", answer["ResponseMetadata"]["RetryAttempts"], 2)
    server.knobs(faults=[{"action": "Create*", "code": "InternalError", "count": 1}])
    check.error("fault", lambda: ec2.create_internet_gateway(), "InternalError", 500)
    server.knobs(denies=[{"principal": "AKIDNO", "action": "ec2:CreateNetworkInterface"}])
    denied = server.client(key="AKIDNO")
    check.error("denied", lambda: denied.create_network_interface(SubnetId=w.a["SubnetId"]), "UnauthorizedOperation", 403,
                "not authorized to perform: ec2:CreateNetworkInterface")
    check.error("denied dry run", lambda: denied.create_network_interface(SubnetId=w.a["SubnetId"], DryRun=True), "UnauthorizedOperation", 403)
    check.that("others are not", ec2.create_network_interface(SubnetId=w.a["SubnetId"]))
    server.knobs(describe_lag_ms=3_600_000)
    late = ec2.create_network_interface(SubnetId=w.a["SubnetId"])["NetworkInterface"]["NetworkInterfaceId"]
    check.error("not seen yet", lambda: ec2.describe_network_interfaces(NetworkInterfaceIds=[late]), "InvalidNetworkInterfaceID.NotFound")
    server.knobs()
    check.that("seen later", ec2.describe_network_interfaces(NetworkInterfaceIds=[late])["NetworkInterfaces"])
    server.knobs(latency_ms={"DescribeVpcs": 300})
    started = time.monotonic()
    ec2.describe_vpcs()
    check.that("latency", time.monotonic() - started >= 0.3)
    server.knobs(timing={"attach": 5000, "detach": 400})
    instance = run_instance()["InstanceId"]
    ec2.attach_network_interface(InstanceId=instance, NetworkInterfaceId=late, DeviceIndex=1)
    status = lambda: ec2.describe_network_interfaces(NetworkInterfaceIds=[late])["NetworkInterfaces"][0]["Attachment"]["Status"]
    check.equal("attaching", status(), "attaching")
    check.becomes("then attached", status, "attached")
    server.knobs()
    ec2.terminate_instances(InstanceIds=[instance])


def protocol():
    check.error("known, not built", lambda: ec2.describe_volumes(), "UnsupportedOperation", 400, "DescribeVolumes")
    check.error("not in the model", lambda: ec2.describe_bundle_tasks(), "InvalidAction")
    unsigned = server.client(signature_version=__import__("botocore").UNSIGNED)
    check.error("unsigned", lambda: unsigned.describe_vpcs(), "AuthFailure", 401)
    identity = server.client("sts").get_caller_identity()
    check.equal("sts", (identity["Account"], identity["Arn"]), ("111122223333", "arn:aws:iam::111122223333:user/AKIDTEST"))
    check.error("IPv6 is named", lambda: ec2.create_vpc(CidrBlock="10.7.0.0/16", AmazonProvidedIpv6CidrBlock=True), "UnsupportedOperation")


def command_line():
    code, out, _ = server.cli("ec2", "describe-vpcs", "--filters", f"Name=vpc-id,Values={w.vpc}")
    check.equal("cli describe-vpcs", (code, out["Vpcs"][0]["VpcId"]), (0, w.vpc))
    code, out, _ = server.cli("ec2", "create-network-interface", "--subnet-id", w.a["SubnetId"], "--description", "cli",
                              "--groups", w.nodes, "--secondary-private-ip-address-count", "1")
    eni = out["NetworkInterface"]["NetworkInterfaceId"]
    check.equal("cli create-network-interface", (code, len(out["NetworkInterface"]["PrivateIpAddresses"])), (0, 2))
    code, out, _ = server.cli("ec2", "assign-private-ip-addresses", "--network-interface-id", eni, "--ipv4-prefix-count", "1")
    check.equal("cli assign", (code, len(out["AssignedIpv4Prefixes"])), (0, 1))
    code, _, err = server.cli("ec2", "modify-instance-attribute", "--instance-id", w.instance, "--groups", w.nodes)
    check.that("cli S3-14", code != 0 and "(InvalidInstanceID)" in err and "specify an interface ID" in err, err)
    code, _, err = server.cli("ec2", "modify-network-interface-attribute", "--network-interface-id", eni, "--groups", w.add)
    check.equal("cli modify groups", (code, err), (0, ""))
    code, out, _ = server.cli("ec2", "describe-network-interfaces", "--network-interface-ids", eni,
                              "--query", "NetworkInterfaces[0].Groups[].GroupId")
    check.equal("cli groups", out, [w.add])
    code, _, err = server.cli("ec2", "delete-network-interface", "--network-interface-id", eni, "--dry-run")
    check.that("cli dry run", "(DryRunOperation)" in err, err)
    check.equal("cli delete", server.cli("ec2", "delete-network-interface", "--network-interface-id", eni)[0], 0)
    code, out, _ = server.cli("sts", "get-caller-identity")
    check.equal("cli sts", (code, out["Account"]), (0, "111122223333"))
    code, out, _ = server.cli("ec2", "describe-instance-types", "--max-items", "7", "--query", "InstanceTypes[].InstanceType")
    check.equal("cli pages", len(out or []), 7)


def teardown():
    ec2.stop_instances(InstanceIds=[w.instance])
    ec2.get_waiter("instance_stopped").wait(InstanceIds=[w.instance])
    ec2.modify_instance_attribute(InstanceId=w.instance, InstanceType={"Value": "m5.large"})
    ec2.start_instances(InstanceIds=[w.instance])
    ec2.modify_instance_attribute(InstanceId=w.instance, DisableApiTermination={"Value": True})
    check.error("protected", lambda: ec2.terminate_instances(InstanceIds=[w.instance]), "OperationNotPermitted")
    ec2.modify_instance_attribute(InstanceId=w.instance, DisableApiTermination={"Value": False})
    ec2.terminate_instances(InstanceIds=[w.instance])
    ec2.get_waiter("instance_terminated").wait(InstanceIds=[w.instance])
    check.error("VPC in use", lambda: ec2.delete_vpc(VpcId=w.vpc), "DependencyViolation")
    for eni in ec2.describe_network_interfaces(Filters=filters(vpc_id=w.vpc))["NetworkInterfaces"]:
        ec2.delete_network_interface(NetworkInterfaceId=eni["NetworkInterfaceId"])
    for subnet in ec2.describe_subnets(Filters=filters(vpc_id=w.vpc))["Subnets"]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    for group in ec2.describe_security_groups(Filters=filters(vpc_id=w.vpc))["SecurityGroups"]:
        if group["GroupName"] != "default":
            ec2.delete_security_group(GroupId=group["GroupId"])
    ec2.delete_vpc(VpcId=w.vpc)
    check.equal("nothing is left", (ec2.describe_vpcs()["Vpcs"], ec2.describe_security_groups()["SecurityGroups"],
                                    ec2.describe_route_tables()["RouteTables"], ec2.describe_network_acls()["NetworkAcls"]), ([], [], [], []))


try:
    for part in (vpcs, default_objects, subnets, reservations, groups, interfaces, instances, one_interface_then_several,
                 attachments, trunks, routes, addresses, acls, peerings_and_lists, templates, tagging, pages, knobs, protocol,
                 command_line, teardown):
        check.section(part)
    clusters.run(server, check)
finally:
    server.close()
check.equal("answers outside of botocore's model", sorted(set(server.problems)), [])
check.that("at least 80 different calls", len(server.calls) >= 80, str(len(server.calls)))
print(f"{len(server.calls)} different calls")
print(f"{check.passed} passed, {len(check.failed)} failed")
sys.exit(1 if check.failed else 0)
