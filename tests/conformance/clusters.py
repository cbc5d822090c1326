"""boto3 and the AWS CLI against the embedded EKS and STS."""

import json

ROLE = "arn:aws:iam::111122223333:role/"
POLICY = "arn:aws:eks::aws:cluster-access-policy/"
LOGS = ["api", "audit", "authenticator", "controllerManager", "scheduler"]


class Clusters:
    """The parts, which build on each other."""

    def __init__(self, server, check):
        self.server, self.check = server, check
        self.eks, self.ec2 = server.client("eks"), server.client("ec2")

    def network(self):
        ec2 = self.ec2
        self.vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = lambda cidr, zone, vpc=None: ec2.create_subnet(
            VpcId=vpc or self.vpc, CidrBlock=cidr, AvailabilityZone=f"us-west-2{zone}")["Subnet"]["SubnetId"]
        self.a, self.b = subnet("10.0.1.0/24", "a"), subnet("10.0.2.0/24", "b")
        self.a2 = subnet("10.0.3.0/24", "a")
        self.other_vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
        self.far = subnet("10.9.1.0/24", "b", self.other_vpc)
        group = lambda name, vpc: ec2.create_security_group(GroupName=name, Description=name, VpcId=vpc)["GroupId"]
        self.shared, self.far_group = group("shared", self.vpc), group("far", self.other_vpc)

    def refused_clusters(self):
        create = lambda **more: lambda: self.eks.create_cluster(**{
            "name": "dev", "roleArn": ROLE + "eks", "resourcesVpcConfig": {"subnetIds": [self.a, self.b]}, **more})
        config = lambda **more: create(resourcesVpcConfig={"subnetIds": [self.a, self.b], **more})
        network = lambda cidr: create(kubernetesNetworkConfig={"serviceIpv4Cidr": cidr})
        cases = [
            ("one zone", config(subnetIds=[self.a, self.a2]), "at least two different AZs"),
            ("two VPCs", config(subnetIds=[self.a, self.far]), "one VPC"),
            ("no subnets", config(subnetIds=[]), "Subnets are required"),
            ("no such subnet", config(subnetIds=[self.a, "subnet-0123456789abcdef0"]), "InvalidSubnetID.NotFound"),
            ("no such group", config(securityGroupIds=["sg-0123456789abcdef0"]), "InvalidGroup.NotFound"),
            ("a group of another VPC", config(securityGroupIds=[self.far_group]), "different networks"),
            ("no access at all", config(endpointPublicAccess=False, endpointPrivateAccess=False), "cannot be false"),
            ("public CIDRs", config(publicAccessCidrs=["banana"]), "banana"),
            ("version", create(version="1.21"), "unsupported Kubernetes version 1.21"),
            ("role", create(roleArn="arn:aws:iam::111122223333:user/x"), "roleArn"),
            ("service CIDR in the VPC", network("10.0.128.0/20"), "overlaps"),
            ("service CIDR too small", network("172.20.0.0/28"), "between /24 and /12"),
            ("public service CIDR", network("8.8.0.0/16"), "within 10.0.0.0/8"),
            ("no service CIDR", network("banana"), "not a network"),
        ]
        for name, call, message in cases:
            self.check.error(f"CreateCluster: {name}", call, "InvalidParameterException", 400, message)
        self.check.error("CreateCluster: IPv6", create(kubernetesNetworkConfig={"ipFamily": "ipv6"}),
                         "UnsupportedOperation", 400, "ipv6")
        self.check.error("CreateCluster: a member that is not built",
                         create(zonalShiftConfig={"enabled": True}), "UnsupportedOperation", 400, "zonalShiftConfig")
        self.check.equal("a refused cluster leaves nothing", (self.eks.list_clusters()["clusters"], self.enis(), self.groups()),
                         ([], [], []))

    def enis(self, cluster="dev"):
        found = self.ec2.describe_network_interfaces(
            Filters=[{"Name": "description", "Values": [f"Amazon EKS {cluster}"]}])["NetworkInterfaces"]
        return sorted(found, key=lambda eni: eni["SubnetId"])

    def groups(self, cluster="dev"):
        names = [{"Name": "group-name", "Values": [f"eks-cluster-sg-{cluster}-*"]}]
        return self.ec2.describe_security_groups(Filters=names)["SecurityGroups"]

    def cluster(self):
        """S0-05 and S0-16."""
        check, eks = self.check, self.eks
        made = eks.create_cluster(
            name="dev", roleArn=ROLE + "eks", clientRequestToken="t-1", tags={"team": "net"},
            resourcesVpcConfig={"subnetIds": [self.a, self.a2, self.b], "securityGroupIds": [self.shared],
                                "endpointPrivateAccess": True, "publicAccessCidrs": ["203.0.113.0/24"]},
            accessConfig={"authenticationMode": "API_AND_CONFIG_MAP"}, upgradePolicy={"supportType": "STANDARD"},
            logging={"clusterLogging": [{"types": ["audit"], "enabled": True}]})["cluster"]
        check.equal("CREATING", (made["status"], made.get("endpoint")), ("CREATING", None))
        check.equal("ARN", made["arn"], "arn:aws:eks:us-west-2:111122223333:cluster/dev")
        check.equal("default service CIDR", made["kubernetesNetworkConfig"],
                    {"serviceIpv4Cidr": "172.20.0.0/16", "ipFamily": "ipv4"})
        check.equal("upgradePolicy", made["upgradePolicy"], {"supportType": "STANDARD"})
        check.equal("logging", made["logging"]["clusterLogging"],
                    [{"types": ["audit"], "enabled": True},
                     {"types": [log for log in LOGS if log != "audit"], "enabled": False}])
        again = eks.create_cluster(name="dev", roleArn=ROLE + "eks", clientRequestToken="t-1",
                                   resourcesVpcConfig={"subnetIds": [self.a, self.b]})["cluster"]
        check.equal("the same token makes nothing new", again["createdAt"], made["createdAt"])
        check.error("the name is taken",
                    lambda: eks.create_cluster(name="dev", roleArn=ROLE + "eks", resourcesVpcConfig={"subnetIds": [self.a, self.b]}),
                    "ResourceInUseException", 409, "already exists with name: dev")
        groups = self.groups()
        check.equal("one group of the cluster", len(groups), 1)
        group, config = groups[0], made["resourcesVpcConfig"]
        self.group = group["GroupId"]
        check.equal("clusterSecurityGroupId", (config["clusterSecurityGroupId"], config["vpcId"]), (self.group, self.vpc))
        check.that("the group's description", group["Description"].startswith("EKS created security group applied to ENI"))
        check.equal("all from itself", [(p["IpProtocol"], [g["GroupId"] for g in p["UserIdGroupPairs"]], p["IpRanges"])
                                        for p in group["IpPermissions"]], [("-1", [self.group], [])])
        check.equal("all out", [(p["IpProtocol"], p["IpRanges"]) for p in group["IpPermissionsEgress"]],
                    [("-1", [{"CidrIp": "0.0.0.0/0"}])])
        tags = {t["Key"]: t["Value"] for t in group["Tags"]}
        check.equal("the group's tags", tags, {"Name": group["GroupName"], "aws:eks:cluster-name": "dev",
                                               "kubernetes.io/cluster/dev": "owned"})
        enis = self.enis()
        check.equal("two interfaces in two zones", sorted(e["AvailabilityZone"] for e in enis), ["us-west-2a", "us-west-2b"])
        check.equal("in the first subnet of each zone", {e["SubnetId"] for e in enis}, {self.a, self.b})
        for eni in enis:
            check.equal("cluster group and additional group", {g["GroupId"] for g in eni["Groups"]}, {self.group, self.shared})
            check.equal("requester-managed and in use", (eni["RequesterManaged"], eni["Status"]), (True, "in-use"))
        eni = enis[0]["NetworkInterfaceId"]
        check.error("the interface is EKS's", lambda: self.ec2.delete_network_interface(NetworkInterfaceId=eni),
                    "InvalidParameterValue", 400, "in use")
        check.error("the group is in use", lambda: self.ec2.delete_security_group(GroupId=self.group), "DependencyViolation")
        check.error("no node groups before it is ACTIVE", lambda: self.create_nodegroup(), "InvalidRequestException", 400, "CREATING")
        report = {"active": {"endpoint": "https://127.0.0.1:6443", "ca": "TFMwdA=="}}
        check.equal("the lab reports", self.server.lab("PUT", "clusters/dev", report)[0], 204)
        eks.get_waiter("cluster_active").wait(name="dev")
        active = eks.describe_cluster(name="dev")["cluster"]
        check.equal("ACTIVE", (active["status"], active["endpoint"], active["certificateAuthority"]),
                    ("ACTIVE", "https://127.0.0.1:6443", {"data": "TFMwdA=="}))
        check.that("issuer", active["identity"]["oidc"]["issuer"].startswith("https://oidc.eks.us-west-2.amazonaws.com/id/"))
        check.error("no such cluster", lambda: eks.describe_cluster(name="nope"), "ResourceNotFoundException", 404,
                    "No cluster found for name: nope")
        self.server.lab("PUT", "clusters/nope", report)
        check.equal("a report for no cluster", self.server.lab("PUT", "clusters/nope", report)[0], 404)

    def failed_cluster(self):
        self.eks.create_cluster(name="broken", roleArn=ROLE + "eks", resourcesVpcConfig={"subnetIds": [self.a, self.b]})
        self.server.lab("PUT", "clusters/broken", {"failed": "no kube-apiserver"})
        broken = self.eks.describe_cluster(name="broken")["cluster"]
        self.check.equal("FAILED", (broken["status"], broken["health"]["issues"][0]["message"]), ("FAILED", "no kube-apiserver"))
        self.check.equal("pages", [self.eks.list_clusters(maxResults=1)["clusters"],
                                   self.eks.get_paginator("list_clusters").paginate(PaginationConfig={"PageSize": 1}).build_full_result()],
                         [["broken"], {"clusters": ["broken", "dev"]}])
        self.check.error("page size", lambda: self.eks.list_clusters(maxResults=101), "InvalidParameterException")
        self.eks.delete_cluster(name="broken")
        self.eks.get_waiter("cluster_deleted").wait(name="broken")
        self.check.equal("nothing of it is left", (self.enis("broken"), self.groups("broken")), ([], []))

    def cluster_config(self):
        check, eks = self.check, self.eks
        update = lambda **what: eks.update_cluster_config(name="dev", **what)["update"]
        made = update(upgradePolicy={"supportType": "EXTENDED"})
        check.equal("an update", (made["type"], made["status"]), ("UpgradePolicyUpdate", "InProgress"))
        check.equal("its end", eks.describe_update(name="dev", updateId=made["id"])["update"]["status"], "Successful")
        check.equal("listed", eks.list_updates(name="dev")["updateIds"], [made["id"]])
        check.equal("EXTENDED", eks.describe_cluster(name="dev")["cluster"]["upgradePolicy"]["supportType"], "EXTENDED")
        update(resourcesVpcConfig={"endpointPublicAccess": False})
        config = eks.describe_cluster(name="dev")["cluster"]["resourcesVpcConfig"]
        check.equal("private only", (config["endpointPublicAccess"], config["endpointPrivateAccess"]), (False, True))
        check.error("one at a time", lambda: update(upgradePolicy={"supportType": "STANDARD"}, deletionProtection=True),
                    "InvalidParameterException")
        check.error("mode back", lambda: update(accessConfig={"authenticationMode": "CONFIG_MAP"}), "InvalidParameterException")
        check.error("groups", lambda: update(resourcesVpcConfig={"securityGroupIds": [self.shared]}), "UnsupportedOperation")
        update(deletionProtection=True)
        check.error("protected", lambda: eks.delete_cluster(name="dev"), "InvalidRequestException", 400, "protection")
        update(deletionProtection=False)
        check.error("no such update", lambda: eks.describe_update(name="dev", updateId="x"), "ResourceNotFoundException")
        check.error("version", lambda: eks.update_cluster_version(name="dev", version="1.37"), "UnsupportedOperation", 400,
                    "UpdateClusterVersion")

    def create_nodegroup(self, name="ng", **more):
        return self.eks.create_nodegroup(**{"clusterName": "dev", "nodegroupName": name, "nodeRole": ROLE + "branchline-node",
                                            "subnets": [self.a, self.b], **more})["nodegroup"]

    def nodes(self, name="ng"):
        found = self.ec2.describe_instances(Filters=[
            {"Name": "tag:eks:nodegroup-name", "Values": [name]}, {"Name": "instance-state-name", "Values": ["pending", "running"]}])
        return [i for r in found["Reservations"] for i in r["Instances"]]

    def nodegroups(self):
        check, eks, ec2 = self.check, self.eks, self.ec2
        cases = [
            ("sizes", {"scalingConfig": {"minSize": 3, "maxSize": 4, "desiredSize": 2}}, "Minimum capacity 3"),
            ("too many", {"scalingConfig": {"minSize": 1, "maxSize": 2, "desiredSize": 3}}, "Desired capacity 3"),
            ("type", {"instanceTypes": ["m5.huge"]}, "do not exist: \\[m5.huge\\]"),
            ("subnet of another VPC", {"subnets": [self.far]}, "not in the VPC"),
            ("no subnets", {"subnets": []}, "Subnets cannot be empty"),
            ("reserved label", {"labels": {"node.kubernetes.io/x": "y"}}, "reserved"),
            ("label", {"labels": {"a b": "c"}}, "not one of Kubernetes"),
            ("taint", {"taints": [{"key": "a", "effect": "SOMETIMES"}]}, "SOMETIMES"),
            ("role", {"nodeRole": "node"}, "nodeRole"),
        ]
        for name, more, message in cases:
            check.error(f"CreateNodegroup: {name}", lambda: self.create_nodegroup(**more), "InvalidParameterException", 400, message)
        made = self.create_nodegroup(
            instanceTypes=["m5.large"], scalingConfig={"minSize": 1, "maxSize": 4, "desiredSize": 3},
            labels={"role": "web"}, taints=[{"key": "dedicated", "value": "web", "effect": "NO_SCHEDULE"}], tags={"a": "b"})
        check.equal("CREATING", (made["status"], made["updateConfig"], made["amiType"]),
                    ("CREATING", {"maxUnavailable": 1}, "AL2023_x86_64_STANDARD"))
        eks.get_waiter("nodegroup_active").wait(clusterName="dev", nodegroupName="ng")
        group = eks.describe_nodegroup(clusterName="dev", nodegroupName="ng")["nodegroup"]
        check.equal("labels and taints", (group["labels"], group["taints"]),
                    ({"role": "web"}, [{"key": "dedicated", "value": "web", "effect": "NO_SCHEDULE"}]))
        nodes = self.nodes()
        check.equal("three nodes in two subnets", sorted(n["SubnetId"] for n in nodes), sorted([self.a, self.a, self.b]))
        for node in nodes:
            tags = {t["Key"]: t["Value"] for t in node["Tags"]}
            check.equal("tags", (tags["eks:cluster-name"], tags["kubernetes.io/cluster/dev"]), ("dev", "owned"))
            check.equal("only the cluster's group", [g["GroupId"] for g in node["SecurityGroups"]], [self.group])
            check.equal("profile of the node role", node["IamInstanceProfile"]["Arn"].split("/")[-1], "branchline-node")
            check.equal("hop limit", node["MetadataOptions"]["HttpPutResponseHopLimit"], 2)
        check.error("taken", lambda: self.create_nodegroup(), "ResourceInUseException", 409, "already exists with name ng")
        check.error("cluster in use", lambda: eks.delete_cluster(name="dev"), "ResourceInUseException", 409, "nodegroups")
        update = eks.update_nodegroup_config(clusterName="dev", nodegroupName="ng", scalingConfig={"desiredSize": 1},
                                             labels={"addOrUpdateLabels": {"x": "y"}, "removeLabels": ["role"]})["update"]
        end = eks.describe_update(name="dev", updateId=update["id"], nodegroupName="ng")["update"]["status"]
        check.equal("scaled down", (end, len(self.nodes())), ("Successful", 1))
        group = eks.describe_nodegroup(clusterName="dev", nodegroupName="ng")["nodegroup"]
        check.equal("labels after the update", group["labels"], {"x": "y"})
        ec2.terminate_instances(InstanceIds=[self.nodes()[0]["InstanceId"]])
        eks.update_nodegroup_config(clusterName="dev", nodegroupName="ng", scalingConfig={"desiredSize": 2})
        check.equal("brought back to its size", len(self.nodes()), 2)
        check.equal("listed", eks.list_nodegroups(clusterName="dev")["nodegroups"], ["ng"])
        check.error("none such", lambda: eks.describe_nodegroup(clusterName="dev", nodegroupName="x"),
                    "ResourceNotFoundException", 404, "No node group found for name: x")
        answer = eks.delete_nodegroup(clusterName="dev", nodegroupName="ng")["nodegroup"]["status"]
        eks.get_waiter("nodegroup_deleted").wait(clusterName="dev", nodegroupName="ng")
        check.equal("deleted with its nodes", (answer, self.nodes()), ("DELETING", []))

    def launch_templates(self):
        check, ec2 = self.check, self.ec2
        template = lambda name, **data: ec2.create_launch_template(
            LaunchTemplateName=name, LaunchTemplateData=data)["LaunchTemplate"]["LaunchTemplateId"]
        own = template("own-groups", InstanceType="t3.medium", SecurityGroupIds=[self.shared])
        bare = template("no-groups", InstanceType="t3.medium")
        interface = template("interface", NetworkInterfaces=[{"DeviceIndex": 0, "Groups": [self.shared]}])
        profile = template("profile", IamInstanceProfile={"Name": "x"})
        expected = {own: [self.shared], bare: [self.group], interface: [self.shared]}
        for name, lt in (("own", own), ("bare", bare), ("interface", interface)):
            self.create_nodegroup(name, launchTemplate={"id": lt}, scalingConfig={"minSize": 1, "maxSize": 1, "desiredSize": 1})
            nodes = self.nodes(name)
            check.equal(f"groups with the template {name}", [[g["GroupId"] for g in n["SecurityGroups"]] for n in nodes], [expected[lt]])
            self.eks.delete_nodegroup(clusterName="dev", nodegroupName=name)
        check.error("a template with a profile", lambda: self.create_nodegroup("x", launchTemplate={"id": profile}),
                    "InvalidRequestException", 400, "profile")
        check.error("two types", lambda: self.create_nodegroup("x", launchTemplate={"id": own}, instanceTypes=["m5.large"]),
                    "InvalidParameterException")
        check.error("no such template", lambda: self.create_nodegroup("x", launchTemplate={"name": "nope"}), "InvalidParameterException")

    def no_addresses(self):
        """Nodes that EC2 refuses are the node group's issue: AWS launches them after the call."""
        small = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock="10.0.9.0/28", AvailabilityZone="us-west-2a")["Subnet"]["SubnetId"]
        self.ec2.create_network_interface(SubnetId=small, SecondaryPrivateIpAddressCount=9)
        self.create_nodegroup("tight", subnets=[small], scalingConfig={"minSize": 1, "maxSize": 3, "desiredSize": 3})
        group = self.eks.describe_nodegroup(clusterName="dev", nodegroupName="tight")["nodegroup"]
        issue = group["health"]["issues"][0]
        self.check.equal("CREATE_FAILED", (group["status"], issue["code"]), ("CREATE_FAILED", "AsgInstanceLaunchFailures"))
        self.check.that("why", "InsufficientFreeAddressesInSubnet" in issue["message"], issue["message"])
        self.eks.delete_nodegroup(clusterName="dev", nodegroupName="tight")

    def fargate(self):
        check, eks = self.check, self.eks
        create = lambda **more: eks.create_fargate_profile(**{
            "clusterName": "dev", "fargateProfileName": "batch", "podExecutionRoleArn": ROLE + "fargate",
            "selectors": [{"namespace": "batch", "labels": {"a": "b"}}], **more})["fargateProfile"]
        gateway = self.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        self.ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=self.vpc)
        table = self.ec2.create_route_table(VpcId=self.vpc)["RouteTable"]["RouteTableId"]
        self.ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
        self.ec2.associate_route_table(RouteTableId=table, SubnetId=self.a2)
        check.error("public subnet", lambda: create(subnets=[self.a2]), "InvalidParameterException", 400, "not a private subnet")
        check.error("no selectors", lambda: create(selectors=[]), "InvalidParameterException")
        made = create()
        check.equal("private subnets of the cluster", set(made["subnets"]), {self.a, self.b})
        eks.get_waiter("fargate_profile_active").wait(clusterName="dev", fargateProfileName="batch")
        check.equal("listed", eks.list_fargate_profiles(clusterName="dev")["fargateProfileNames"], ["batch"])
        check.error("cluster in use", lambda: eks.delete_cluster(name="dev"), "ResourceInUseException", 409, "Fargate")
        eks.delete_fargate_profile(clusterName="dev", fargateProfileName="batch")
        eks.get_waiter("fargate_profile_deleted").wait(clusterName="dev", fargateProfileName="batch")

    def addons(self):
        check, eks = self.check, self.eks
        versions = eks.describe_addon_versions(kubernetesVersion="1.36")["addons"]
        check.equal("add-ons", [a["addonName"] for a in versions], ["coredns", "kube-proxy", "vpc-cni"])
        newest = eks.describe_addon_versions(addonName="vpc-cni")["addons"][0]["addonVersions"][0]["addonVersion"]
        schema = json.loads(eks.describe_addon_configuration(addonName="vpc-cni", addonVersion=newest)["configurationSchema"])
        check.that("the schema", {"env", "init", "enableNetworkPolicy", "nodeAgent", "eniConfig"} <= set(schema["properties"]))
        check.that("a variable", "WARM_IP_TARGET" in schema["properties"]["env"]["properties"])
        create = lambda values=None, **more: eks.create_addon(
            clusterName="dev", **{"addonName": "vpc-cni", **({} if values is None else {"configurationValues": values}), **more})["addon"]
        for name, values, message in [
            ("unknown key", '{"enviroment": {}}', r"\$\.enviroment: is not defined in the schema"),
            ("unknown variable", '{"env": {"WARM_IP_TARGTE": "2"}}', r"\$\.env\.WARM_IP_TARGTE: is not defined"),
            ("YAML's number", "env:\n  WARM_IP_TARGET: 2\n", r"\$\.env\.WARM_IP_TARGET: integer found, string expected"),
            ("no document", "{", "neither JSON nor YAML"),
        ]:
            check.error(f"CreateAddon: {name}", lambda: create(values), "InvalidParameterException", 400, message)
        check.error("unknown add-on", lambda: create(addonName="x"), "InvalidParameterException", 400, "Addon x specified is not supported")
        check.error("unknown version", lambda: create(addonVersion="v0"), "InvalidParameterException", 400, "v0")
        check.error("PRESERVE", lambda: create(resolveConflicts="PRESERVE"), "InvalidParameterException")
        made = create("env:\n  WARM_IP_TARGET: '2'\n")
        check.equal("CREATING", (made["status"], made["addonVersion"]), ("CREATING", newest))
        check.error("taken", lambda: create(), "ResourceInUseException", 409, "Addon already exists")
        check.error("not while CREATING", lambda: eks.update_addon(clusterName="dev", addonName="vpc-cni"), "ResourceInUseException")
        report = lambda generation, **more: self.server.lab("PUT", "clusters/dev/addons/vpc-cni", {"generation": generation, **more})
        report(1)
        eks.get_waiter("addon_active").wait(clusterName="dev", addonName="vpc-cni")
        update = eks.update_addon(clusterName="dev", addonName="vpc-cni", resolveConflicts="OVERWRITE",
                                  configurationValues='{"env": {"WARM_IP_TARGET": "5"}}')["update"]
        check.equal("the update", (update["type"], update["status"]), ("AddonUpdate", "InProgress"))
        state = lambda: eks.describe_addon(clusterName="dev", addonName="vpc-cni")["addon"]
        end = lambda: eks.describe_update(name="dev", updateId=update["id"], addonName="vpc-cni")["update"]
        report(1)
        check.equal("a report on an older configuration", (state()["status"], end()["status"]), ("UPDATING", "InProgress"))
        report(2, failed="helm: no such chart")
        check.equal("failed", (state()["status"], state()["health"]["issues"][0]["message"], end()["status"], end()["errors"][0]["errorMessage"]),
                    ("UPDATE_FAILED", "helm: no such chart", "Failed", "helm: no such chart"))
        update = eks.update_addon(clusterName="dev", addonName="vpc-cni")["update"]
        report(3)
        check.equal("what is left out stays", (state()["status"], state()["configurationValues"]), ("ACTIVE", '{"env": {"WARM_IP_TARGET": "5"}}'))
        eks.update_addon(clusterName="dev", addonName="vpc-cni", configurationValues="")
        report(4)
        check.equal("nothing is no configuration", state().get("configurationValues"), None)
        check.equal("listed", eks.list_addons(clusterName="dev")["addons"], ["vpc-cni"])
        eks.delete_addon(clusterName="dev", addonName="vpc-cni")
        eks.get_waiter("addon_deleted").wait(clusterName="dev", addonName="vpc-cni")
        check.error("gone", lambda: state(), "ResourceNotFoundException", 404, "No addon: vpc-cni found in cluster: dev")

    def access(self):
        check, eks = self.check, self.eks
        creator = "arn:aws:iam::111122223333:user/AKIDTEST"
        entries = lambda: eks.list_access_entries(clusterName="dev")["accessEntries"]
        check.equal("creator, nodes and Fargate's role", entries(), [ROLE + "branchline-node", ROLE + "fargate", creator])
        entry = eks.describe_access_entry(clusterName="dev", principalArn=ROLE + "branchline-node")["accessEntry"]
        check.equal("of nodes", (entry["type"], entry["username"], entry["kubernetesGroups"]),
                    ("EC2_LINUX", "system:node:{{EC2PrivateDNSName}}", ["system:nodes"]))
        policies = lambda arn: [p["policyArn"] for p in eks.list_associated_access_policies(
            clusterName="dev", principalArn=arn)["associatedAccessPolicies"]]
        check.equal("the creator administers", policies(creator), [POLICY + "AmazonEKSClusterAdminPolicy"])
        create = lambda arn=ROLE + "viewer", **more: eks.create_access_entry(clusterName="dev", principalArn=arn, **more)["accessEntry"]
        check.error("a session", lambda: create("arn:aws:sts::111122223333:assumed-role/a/b"), "InvalidParameterException", 400, "principalArn")
        check.error("system groups", lambda: create(kubernetesGroups=["system:masters"]), "InvalidParameterException", 400, "system:")
        check.error("system users", lambda: create(username="system:admin"), "InvalidParameterException")
        made = create(kubernetesGroups=["viewers"])
        check.equal("a role's user", made["username"], "arn:aws:sts::111122223333:assumed-role/viewer/{{SessionName}}")
        check.error("taken", lambda: create(), "ResourceInUseException", 409)
        associate = lambda policy, **scope: eks.associate_access_policy(
            clusterName="dev", principalArn=ROLE + "viewer", policyArn=POLICY + policy, accessScope=scope)
        check.error("no such policy", lambda: associate("X", type="cluster"), "InvalidParameterException")
        check.error("no namespaces", lambda: associate("AmazonEKSViewPolicy", type="namespace"), "InvalidParameterException")
        associate("AmazonEKSViewPolicy", type="namespace", namespaces=["shop"])
        check.equal("associated", policies(ROLE + "viewer"), [POLICY + "AmazonEKSViewPolicy"])
        eks.disassociate_access_policy(clusterName="dev", principalArn=ROLE + "viewer", policyArn=POLICY + "AmazonEKSViewPolicy")
        check.equal("disassociated", policies(ROLE + "viewer"), [])
        eks.tag_resource(resourceArn=made["accessEntryArn"], tags={"k": "v", "l": "w"})
        eks.untag_resource(resourceArn=made["accessEntryArn"], tagKeys=["l"])
        check.equal("tags", eks.list_tags_for_resource(resourceArn=made["accessEntryArn"])["tags"], {"k": "v"})
        check.error("no such ARN", lambda: eks.list_tags_for_resource(resourceArn=made["accessEntryArn"] + "x"), "NotFoundException", 404)
        eks.delete_access_entry(clusterName="dev", principalArn=ROLE + "viewer")
        check.error("gone", lambda: eks.describe_access_entry(clusterName="dev", principalArn=ROLE + "viewer"), "ResourceNotFoundException")

    def tokens(self):
        """`aws eks get-token`, believed by its signature alone."""
        check, server = self.check, self.server
        get = lambda key="AKIDKNOWN", secret="secret", cluster="dev": server.cli(
            "eks", "get-token", "--cluster-name", cluster, AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY=secret)[1]["status"]["token"]
        ask = lambda token, cluster="dev": server.lab("POST", f"clusters/{cluster}/token", token)
        known = "arn:aws:iam::111122223333:user/known"
        token = get()
        status, text = ask(token)
        check.that("no access entry", status == 403 and known in text, text)
        self.eks.create_access_entry(clusterName="dev", principalArn=known, username="me", kubernetesGroups=["devs"])
        status, text = ask(token)
        check.equal("a user", (status, json.loads(text)), (200, {"arn": known, "username": "me", "groups": ["devs"]}))
        for name, got, message in [
            ("a wrong secret", ask(get(secret="wrong")), "signature with AKIDKNOWN is not right"),
            ("an unknown key", ask(get(key="AKIDOTHER")), "AKIDOTHER is not known"),
            ("a name that is no cluster's", ask(get(cluster="prod")), "not right for cluster dev"),
            ("no such cluster", ask(token, "nope"), "there is no cluster nope"),
            ("no token", ask("Bearer x"), "does not start with k8s-aws-v1."),
        ]:
            check.that(f"a token: {name}", got[0] == 401 and message in got[1], str(got))
        self.eks.create_cluster(name="other", roleArn=ROLE + "eks", resourcesVpcConfig={"subnetIds": [self.a, self.b]})
        status, text = ask(get(cluster="other"))
        check.that("a token: another cluster", status == 401 and "made for cluster other, not for dev" in text, text)
        self.eks.delete_cluster(name="other")

    def command_line(self):
        check, server = self.check, self.server
        code, out, _ = server.cli("eks", "describe-cluster", "--name", "dev", "--query", "cluster.upgradePolicy")
        check.equal("cli describe-cluster", (code, out), (0, {"supportType": "EXTENDED"}))
        code, out, _ = server.cli("eks", "list-clusters")
        check.equal("cli list-clusters", (code, out["clusters"]), (0, ["dev"]))
        code, _, err = server.cli("eks", "describe-cluster", "--name", "nope")
        check.that("cli not found", code != 0 and "(ResourceNotFoundException)" in err and "nope" in err, err)
        code, out, _ = server.cli("eks", "create-addon", "--cluster-name", "dev", "--addon-name", "coredns",
                                  "--configuration-values", '{"replicaCount": 1}')
        check.equal("cli create-addon", (code, out["addon"]["status"]), (0, "CREATING"))
        code, out, _ = server.cli("eks", "describe-addon-configuration", "--addon-name", "coredns", "--addon-version", out["addon"]["addonVersion"])
        check.that("cli schema", code == 0 and "replicaCount" in out["configurationSchema"])
        arn = "arn:aws:iam::111122223333:role/path/a+b"
        server.cli("eks", "create-access-entry", "--cluster-name", "dev", "--principal-arn", arn)
        code, out, _ = server.cli("eks", "describe-access-entry", "--cluster-name", "dev", "--principal-arn", arn)
        check.equal("cli: an ARN in the path", (code, out["accessEntry"]["principalArn"]), (0, arn))

    def kubeconfig(self, directory):
        check = self.check
        path = f"{directory}/kubeconfig"
        code, _, err = self.server.cli("eks", "update-kubeconfig", "--name", "dev", "--kubeconfig", path)
        check.equal("update-kubeconfig", (code, err), (0, ""))
        with open(path) as file:
            text = file.read()
        for part in ("server: https://127.0.0.1:6443", "certificate-authority-data: TFMwdA==", "get-token"):
            check.that(f"the kubeconfig has {part}", part in text, text)

    def knobs(self):
        check, server = self.check, self.server
        describe = lambda: self.eks.describe_cluster(name="dev")
        server.knobs(denies=[{"action": "eks:Describe*"}])
        check.error("denied", describe, "AccessDeniedException", 403, "not authorized to perform: eks:DescribeCluster")
        check.that("other actions go on", "dev" in self.eks.list_clusters()["clusters"])
        check.that("EC2's too", self.ec2.describe_vpcs()["Vpcs"])
        server.knobs(denies=[{"action": "Describe*"}])
        check.equal("EC2's denial is not EKS's", describe()["cluster"]["name"], "dev")
        server.knobs(faults=[{"action": "eks:DescribeCluster", "count": 1}])
        check.error("a fault", describe, "ServerException", 500)
        server.knobs(throttle={"enabled": True, "actions": {"eks:DescribeCluster": {"capacity": 1, "refill_per_second": 0}}})
        describe()
        check.error("throttled", describe, "ThrottlingException", 429)
        server.knobs(strict_signatures=True)
        check.error("an unknown key", describe, "UnrecognizedClientException", 403)
        known = server.client("eks", key="AKIDKNOWN")
        check.equal("a known key", known.describe_cluster(name="dev")["cluster"]["name"], "dev")
        arn = "arn:aws:iam::111122223333:user/known"
        check.equal("a signed path with an ARN in it", known.describe_access_entry(clusterName="dev", principalArn=arn)["accessEntry"]["username"], "me")
        server.knobs()

    def deletion(self):
        check, eks, ec2 = self.check, self.eks, self.ec2
        permission = {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "UserIdGroupPairs": [{"GroupId": self.group}]}
        ec2.authorize_security_group_ingress(GroupId=self.shared, IpPermissions=[permission])
        check.equal("DELETING", eks.delete_cluster(name="dev")["cluster"]["status"], "DELETING")
        eks.get_waiter("cluster_deleted").wait(name="dev")
        check.equal("its interfaces are gone", self.enis(), [])
        check.equal("a group that is named by a rule stays", [g["GroupId"] for g in self.groups()], [self.group])
        ec2.revoke_security_group_ingress(GroupId=self.shared, IpPermissions=[permission])
        ec2.delete_security_group(GroupId=self.group)
        check.error("an unbuilt action", lambda: eks.list_insights(clusterName="dev"), "UnsupportedOperation", 400, "ListInsights")


def run(server, check):
    """Every part; needs a server without VPCs."""
    import tempfile

    parts = Clusters(server, check)
    for part in (parts.network, parts.refused_clusters, parts.cluster, parts.failed_cluster, parts.cluster_config,
                 parts.nodegroups, parts.launch_templates, parts.no_addresses, parts.fargate, parts.addons, parts.access,
                 parts.tokens, parts.command_line):
        check.section(part)
    with tempfile.TemporaryDirectory() as directory:
        check.section(parts.kubeconfig, directory)
    for part in (parts.knobs, parts.deletion):
        check.section(part)
