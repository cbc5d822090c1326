"""Bad input and bad moments in a cluster: each ends in a clear word to the user, and pods go on."""
import base64
import hmac
import json
import os
import tempfile
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote, urlencode

from cluster import BRANCHLINE, LAB, Wrapper, command, environment, eventually, says, stream
from archive import archive  # cluster says where it is

NODE, OTHER = "n1", "n2"
SYSTEM = "kube-system"


def test_second_lab_of_the_same_name(c):
    done = command([BRANCHLINE, "lab", "up", "-f", c.topology], environment(), exit=None)
    assert done.returncode != 0
    says(done, LAB, "already")
    c.kubectl("get", "nodes")


def test_api_server_restarts(c):
    """It ends as in a crash and comes back: nothing that runs notices."""
    with c.namespace("restart") as ns:
        ns.pod("a", node=NODE, wait=False)
        ns.pod("b", node=OTHER, wait=False)
        ns.wait("a")
        ns.wait("b")

        def restarts():
            return {p["metadata"]["name"]: [s["restartCount"] for s in p["status"]["containerStatuses"]]
                    for p in c.json("get", "pods", "-A")["items"] if p["metadata"]["name"].startswith(("aws-node", "kube-proxy"))
                    or p["metadata"]["namespace"] == ns.name}
        before = restarts()
        with stream(ns, "a", "b"):
            c.lab("cluster", "component", "dev", "kube-apiserver", "kill")
            eventually(lambda: c.kubectl("get", "--raw=/readyz", exit=None).returncode, lambda code: code == 0, 120, "it is back")
            ns.pod("after", node=NODE)
        assert restarts() == {**before, "after": [0]}


def token(c, age):
    """What `aws eks get-token` made that many minutes ago: a presigned GetCallerIdentity."""
    env, moment = c.env, datetime.now(timezone.utc) - timedelta(minutes=age)
    now, region = moment.strftime("%Y%m%dT%H%M%SZ"), env["AWS_REGION"]
    scope = f"{now[:8]}/{region}/sts/aws4_request"
    host = f"sts.{region}.amazonaws.com"
    query = {"Action": "GetCallerIdentity", "Version": "2011-06-15", "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
             "X-Amz-Credential": f"{env['AWS_ACCESS_KEY_ID']}/{scope}", "X-Amz-Date": now, "X-Amz-Expires": "60",
             "X-Amz-SignedHeaders": "host;x-k8s-aws-id"}
    if env.get("AWS_SESSION_TOKEN"):
        query["X-Amz-Security-Token"] = env["AWS_SESSION_TOKEN"]
    encoded = urlencode(sorted(query.items()), quote_via=quote)
    request = f"GET\n/\n{encoded}\nhost:{host}\nx-k8s-aws-id:dev\n\nhost;x-k8s-aws-id\n{sha256(b'').hexdigest()}"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{sha256(request.encode()).hexdigest()}"
    key = ("AWS4" + env["AWS_SECRET_ACCESS_KEY"]).encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    url = f"https://{host}/?{encoded}&X-Amz-Signature={hmac.new(key, text.encode(), 'sha256').hexdigest()}"
    return "k8s-aws-v1." + base64.urlsafe_b64encode(url.encode()).decode().rstrip("=")


def test_a_token_of_16_minutes_ago(c):
    server = c.json("config", "view", "--minify", "--raw")["clusters"][0]["cluster"]
    with tempfile.NamedTemporaryFile(suffix=".crt") as ca:
        if "certificate-authority-data" in server:
            ca.write(base64.b64decode(server["certificate-authority-data"]))
        else:
            ca.write(Path(server["certificate-authority"]).read_bytes())
        ca.flush()

        def with_token(token, exit):
            return c.kubectl("--kubeconfig", os.devnull, "--server", server["server"], "--certificate-authority", ca.name,
                             "--token", token, "get", "nodes", exit=exit)
        with_token(c.aws("aws eks get-token --cluster-name dev --query status.token --output text"), 0)
        with_token(token(c, 0), 0)
        with_token(token(c, 13), 0)
        says(with_token(token(c, 16), 1), "logged in")


def test_namespace_deleted_with_its_pods(c):
    """A namespace goes while some of its pods are being made: nothing of them stays."""
    ns = c.create("away")
    with Wrapper(c, NODE) as plugin:
        plugin.fault("ADD", "slow", sleep=2)
        ns.deployment("api", 5, "sleep", "infinity", node=NODE)
        ns.pod("slow", node=NODE, wait=False)
        ns.rolled_out("deploy/api")
        c.kubectl("delete", "namespace", "away", "--timeout=150s", timeout=160)
        adds = plugin.calls(verb="ADD")
        gone = {d.container for d in plugin.calls(verb="DEL") if d.exit == 0}
        assert {a.container for a in adds} <= gone, "every ADD has its DEL"
        c.settled(NODE)


def test_node_deleted_and_made_again(c):
    """A Node object is deleted while its kubelet runs, then the machine itself is replaced by one of the same address,
    hence of the same name."""
    with c.namespace("again") as ns:
        ns.deployment("api", 3, "sleep", "infinity", node=OTHER)
        ns.rolled_out("deploy/api")
        name, old = c.nodes[OTHER], c.instance(OTHER)
        c.kubectl("delete", "node", name)
        c.lab("node", "service", OTHER, "kubelet", "restart")
        eventually(lambda: c.ready(OTHER)["status"], lambda s: s == "True", 120, "the kubelet makes its Node again")
        c.rolled_out()
        ns.rolled_out("deploy/api")
        c.settled(OTHER)

        described = json.loads(c.aws(f"aws ec2 describe-instances --instance-ids {old}"))["Reservations"][0]["Instances"][0]
        c.lab("node", "terminate", OTHER, timeout=90)
        eventually(lambda: c.kubectl("get", "node", name, exit=None).returncode, lambda code: code != 0, 150,
                   "the Node goes with its instance")
        tags = ",".join(f"{{Key={t['Key']},Value={t['Value']}}}" for t in described["Tags"]
                        if not t["Key"].startswith("aws:"))
        groups = " ".join(g["GroupId"] for g in described["SecurityGroups"])
        c.aws(f"aws ec2 run-instances --image-id {described['ImageId']} --instance-type t3.medium "
              f"--iam-instance-profile Arn={described['IamInstanceProfile']['Arn']} "
              f"--subnet-id {described['SubnetId']} --private-ip-address 10.0.1.12 --security-group-ids {groups} "
              f"--tag-specifications 'ResourceType=instance,Tags=[{tags}]'")
        eventually(lambda: c.instance(OTHER), lambda new: new != old, 120, "another instance")
        wrapper = Wrapper(c, OTHER)
        wrapper.install()
        # The agent runs after the init container has installed all plugins.
        eventually(lambda: c.state(OTHER), within=150, what="the new node's agent answers")
        wrapper.activate()
        eventually(lambda: c.ready(OTHER)["status"], lambda s: s == "True", 150, "the new node is Ready")
        node = c.json("get", "node", name)
        assert node["spec"]["providerID"].endswith(c.instance(OTHER)), node["spec"]
        ns.rolled_out("deploy/api")
        c.settled(OTHER)


def test_a_bad_variable_in_the_daemonset(c):
    """The agent refuses with the variable's name and rule; running pods stay connected."""
    with c.namespace("bad") as ns:
        ns.pod("a", node=NODE, wait=False)
        ns.pod("b", node=OTHER, wait=False)
        ns.wait("a")
        ns.wait("b")
        env = ("-n", SYSTEM, "set", "env", "daemonset", "aws-node")
        with stream(ns, "a", "b"):
            c.kubectl(*env, "AWS_VPC_ENI_MTU=99999")
            try:
                def refused():
                    for pod in c.json("-n", SYSTEM, "get", "pods", "-l", "k8s-app=aws-node")["items"]:
                        for status in pod["status"].get("containerStatuses", []):
                            for state in (status["state"], status.get("lastState", {})):
                                if "terminated" in state and state["terminated"]["exitCode"] == 64:
                                    return state["terminated"]["message"]
                    return None
                says(eventually(refused, what="it refuses"), "AWS_VPC_ENI_MTU", "99999", "9001")
                # The rollout stops there: the other node's agent serves.
                eventually(lambda: c.json("-n", SYSTEM, "get", "daemonset", "aws-node")["status"]["numberReady"],
                           lambda ready: ready == 1, what="one of two is Ready")
            finally:
                c.kubectl(*env, "AWS_VPC_ENI_MTU=9001")
                c.rolled_out()
            ns.pod("after", node=NODE)


def test_a_chart_value_of_the_wrong_type(c):
    before = c.json("-n", SYSTEM, "get", "daemonset", "aws-node")["metadata"]["generation"]
    done = c.chart({"livenessProbeTimeoutSeconds": "soon"}, exit=1, wait=False)
    says(done, "livenessProbeTimeoutSeconds", "integer")
    done = c.chart({"warmIpTarget": 2}, exit=1, wait=False)
    says(done, "warmIpTarget")
    assert c.json("-n", SYSTEM, "get", "daemonset", "aws-node")["metadata"]["generation"] == before
    for bad, named in (({"env": {"WARM_IP_TARGET": 2}}, "$.env.WARM_IP_TARGET"), ({"env": {"WARM_IPS": "2"}}, "$.env.WARM_IPS")):
        done = c.shell("aws eks update-addon --cluster-name dev --addon-name vpc-cni "
                       f"--configuration-values '{json.dumps(bad)}'")
        assert done.returncode != 0, bad
        says(done, "InvalidParameterException", named)


def test_an_unknown_image_until_it_is_loaded(c):
    with c.namespace("images") as ns:
        ns.pod("p", "sleep", "infinity", wait=False, image="example.com/mine:1", node=NODE)
        eventually(lambda: ns.json("get", "pod", "p")["status"]["containerStatuses"][0]["state"]["waiting"]["reason"],
                   lambda r: r in ("ErrImagePull", "ImagePullBackOff"), what="ErrImagePull")
        says("\n".join(ns.events("p", "Failed")), "example.com/mine:1", "not found")
        done = c.lab("image", "load", "/nowhere.tar", exit=None)
        assert done.returncode != 0
        says(done, "/nowhere.tar")
        file = c.files / "mine.tar"
        archive(file, "example.com/mine:1", [("bin/busybox", Path("/bin/busybox").read_bytes(), 0o755), ("made", b"by hand\n", 0o644)],
                [("bin/sleep", "busybox"), ("bin/cat", "busybox")])
        says(c.lab("image", "load", file), "example.com/mine:1")
        ns.kubectl("delete", "pod", "p")
        ns.pod("p", "sleep", "infinity", image="example.com/mine:1", node=NODE)
        says(ns.exec("p", "cat", "/made").stdout, "by hand")


def test_a_network_list_without_the_plugin(c):
    """The chart takes it, the agent does not: its pod is not Ready, its Node says why, the rollout stops, pods are served."""
    with c.namespace("list") as ns:
        c.chart({"cniConfig": {"enabled": True, "fileContents": json.dumps({"cniVersion": "0.4.0", "plugins": [{"type": "ptp"}]})}},
                wait=False)
        try:
            def refused():
                conditions = [d for n in c.json("get", "nodes")["items"] for d in n["status"]["conditions"]]
                return [(d["status"], d["reason"], d["message"]) for d in conditions if d["type"] == "PodNetworkReady"]
            eventually(refused, lambda told: any(s == "False" and r == "NotInstalled" and "has no plugin of type aws-cni" in m
                                                 for s, r, m in told), what="the Node says why")
            eventually(lambda: c.json("-n", SYSTEM, "get", "daemonset", "aws-node")["status"],
                       lambda s: (s["numberReady"], s["updatedNumberScheduled"]) == (1, 1), what="the rollout stops")
            ns.pod("a", node=NODE, wait=False)
            ns.pod("b", node=OTHER)
            ns.wait("a")
        finally:
            c.chart({"cniConfig": {"enabled": False, "fileContents": ""}})


def test_agent_starts_without_the_api_server(c):
    """The agent begins while nobody answers: it goes on from its checkpoint, and ADDs are served.

    The last test of its lab: after such a silence the controllers take up to a minute to ask again.
    """
    with c.namespace("noapi") as ns, Wrapper(c, NODE) as plugin:
        ns.pod("a", node=NODE, wait=False)
        ns.pod("b", node=OTHER, wait=False)
        # Its sandbox is to be made while the server is away.
        plugin.fault("ADD", "late", code=11, msg="planted: later")
        ns.pod("late", node=NODE, wait=False)
        ns.wait("a")
        ns.wait("b")
        leased = c.leased(NODE)
        eventually(lambda: plugin.calls("noapi/late", "ADD"), what="its first ADD")
        c.lab("cluster", "component", "dev", "kube-apiserver", "stop")
        try:
            old = c.on_node(NODE, "pidof", "branchline-agent").stdout
            c.on_node(NODE, "kill", *old.split())
            eventually(lambda: c.on_node(NODE, "pidof", "branchline-agent", exit=None).stdout, lambda new: new not in ("", old),
                       150, "the kubelet starts it again")
            state = eventually(lambda: c.state(NODE)["kubernetes"], lambda s: s["state"] == "connecting", what="it says so")
            says(json.dumps(state["failures"]), "443")
            mine = {a: p for a, p in c.leased(NODE).items() if p}
            assert mine == {a: p for a, p in leased.items() if p}, "as in the checkpoint"
            plugin.clear("ADD", "late")
            eventually(lambda: plugin.calls("noapi/late", "ADD"), lambda adds: adds[-1].exit == 0, 120, "ADD without the server")
        finally:
            c.lab("cluster", "component", "dev", "kube-apiserver", "start")
        eventually(lambda: c.kubectl("get", "--raw=/readyz", exit=None).returncode, lambda code: code == 0, 120, "it is back")
        eventually(lambda: c.state(NODE)["kubernetes"]["state"], lambda s: s == "connected", 120, "connected")
        ns.wait("late")
        c.rolled_out()
