#!/usr/bin/env python3
"""The agent as a member of a cluster: what it tells, what it hears, and that no pod waits for the cluster.

    .venv/bin/python tests/kubernetes/agent.py [NAME …]      all, or those whose name contains NAME
"""
import hashlib
import json
import os
import re
import sys
import time

from node import BIN, NODE, ROOT, Node, eventually, in_cluster, run_all

sys.path.insert(0, str(ROOT / "tests/chart"))
import monitoring  # noqa: E402


def test_a_node_is_prepared_by_the_init_container():
    with Node() as node:
        link = node.on_node("sh", "-c", "ls /sys/class/net | grep -v lo").stdout.strip()
        keys = {"rp_filter": f"/proc/sys/net/ipv4/conf/{link}/rp_filter", "demux": "/proc/sys/net/ipv4/tcp_early_demux"}
        read = lambda key: node.on_node("cat", keys[key]).stdout.strip()  # noqa: E731
        reference = node.files / "app/cni"
        reference.mkdir()
        (reference / "portmap").symlink_to("/bin/true")
        for early_demux, wanted in (("false", "1"), ("true", "0")):
            done = node.on_node("env", "HOST_CNI_BIN_PATH=/opt/cni/bin", f"DISABLE_TCP_EARLY_DEMUX={early_demux}",
                                "AWS_VPC_ENI_MTU=99999",  # another container's: `kubectl set env` sets it here as well
                                node.files / "app/branchline-agent", "init")
            assert (read("rp_filter"), read("demux")) == ("2", wanted), (read("rp_filter"), read("demux"))
        assert "aws-cni" not in done.stdout, "what is the same is not copied again"
        assert node.on_node("ls", "/opt/cni/bin").stdout.split() == ["aws-cni", "portmap"]
        done = node.on_node("env", "ENABLE_IPv6=true", BIN / "branchline-agent", "init", exit=64)
        assert "ENABLE_IPv6" in done.stderr, done.stderr
        done = node.on_node("env", "HOST_CNI_BIN_PATH=/proc/nowhere", node.files / "app/branchline-agent", "init", exit=1)
        assert "/proc/nowhere" in done.stdout, done.stdout


def test_probes_tell_alive_from_ready():
    with Node() as node:
        assert node.health().returncode == 2, "nobody listens"
        node.agent()
        assert (node.health().returncode, node.health("--ready").returncode) == (0, 0)
        pid = (node.files / "agent.pid").read_text().strip()
        node.on_node("kill", "-STOP", pid)
        done = node.health("--within", "1")
        assert done.returncode == 3 and "did not answer" in done.stderr, done
        node.on_node("kill", "-CONT", pid)
        assert node.health("--ready").returncode == 0
        node.stop("agent")
        # Alive but not ready: it cannot see its interfaces.
        node.knobs(denies=[{"action": "DescribeNetworkInterfaces"}])
        node.start("agent", "-i", "AWS_ENDPOINT_URL_EC2=http://169.254.169.249", "AWS_VPC_K8S_CNI_LOG_FILE=stderr",
                   f"HOST_CNI_BIN_PATH={node.files}/b", f"HOST_CNI_CONFDIR_PATH={node.files}/c",
                   node.files / "app/branchline-agent", "addresses")
        eventually(lambda: node.health().returncode, lambda code: code == 0, what="alive")
        done = eventually(lambda: node.health("--ready"), lambda d: "DescribeNetworkInterfaces" in d.stderr, what="the reason")
        assert done.returncode == 4, done
        assert not (node.files / "c").exists(), "not ready, so no network list"


def test_without_a_cluster_it_is_quiet():
    with Node() as node:
        log = node.agent()
        node.fill(2)
        state = node.cluster()
        assert state["state"] == "off" and "service account" in state["reason"], state
        lines = [json.loads(line) for line in log.read_text().splitlines() if "no cluster" in line]
        assert [line["level"] for line in lines] == ["info"], lines


def test_the_condition_and_the_metric():
    with in_cluster() as node:
        condition = eventually(node.condition, lambda c: c.get("status") == "True", what="PodNetworkReady")
        assert condition["reason"] == "PodsServed", condition
        node.fill(1)
        time.sleep(6)
        assert node.condition() == condition, "nothing has changed, so nothing is written"
        metrics = node.on_node("curl", "-sf", "http://127.0.0.1:61678/metrics").stdout
        assert "\nbranchline_kubernetes_connected 1\n" in metrics, metrics
        # The dashboard and the alerts ask for names and labels that this page has.
        problems = [problem for _, problem in monitoring.promised(metrics) if problem]
        assert not problems, problems
        # A new agent finds the condition as it should be, and writes nothing.
        node.stop("agent")
        node.agent()
        node.connected()
        time.sleep(3)
        assert node.condition() == condition, "written again"


def test_pods_are_served_without_the_api_server():
    with Node() as node:
        node.api_up()
        node.install()
        node.stop("apiserver", "KILL")
        log = node.agent()
        node.fill(7)  # a second interface, too
        tried = lambda: int(re.search(r'kubernetes_failed_total\{right="watch nodes"\} (\d+)',  # noqa: E731
                                      node.on_node("curl", "-sf", "http://127.0.0.1:61678/metrics").stdout).group(1))
        eventually(tried, lambda times: times >= 3, what="it is tried again")
        told = [line for line in log.read_text().splitlines() if '"right":"watch nodes"' in line]
        assert len(told) == 1, told  # tried often, said once
        state = node.cluster()
        assert state["state"] == "connecting", state
        assert "https://127.0.0.1:6443 is not reached" in state["failures"]["watch nodes"], state
        node.stop("agent", "KILL")
        node.agent()
        node.fill(1, "after")
        assert node.state()["pool"]["assigned"] == 8, "from the checkpoint"
        node.api_up()
        node.connected()
        eventually(node.condition, lambda c: c.get("status") == "True", what="the condition comes with the server")
        # It goes away and comes back.
        node.stop("apiserver", "KILL")
        eventually(node.cluster, lambda c: c["state"] == "connecting", what="the agent notices")
        node.fill(2, "q")
        node.api_up()
        node.connected()
        eventually(node.cluster, lambda c: c["failures"] == {}, 90, "nothing is missing any more")


def test_an_invalid_token_is_named():
    with Node() as node:
        node.api_up()
        node.install()
        node.on_node("sh", "-c", "echo junk > /var/run/secrets/kubernetes.io/serviceaccount/token")
        node.agent()
        node.fill(1)
        state = eventually(node.cluster, lambda c: "watch nodes" in c["failures"], what="the refusal")
        assert "token" in state["failures"]["watch nodes"], state


def test_a_refused_pod_has_the_reason_in_its_events_and_the_node_in_its_condition():
    with in_cluster() as node:
        node.fill(15)
        code, error = node.add("late")
        assert code != 0 and error["code"] == 11, error
        said = "all 3 interfaces that the instance type allows are full"
        assert said in error["msg"] + error.get("details", ""), error
        (event,) = eventually(lambda: node.events("NoAddressForPod", name="late"), bool, what="the event")
        assert event["message"].startswith(said), event
        assert (event["type"], event["source"]["component"], event["count"]) == ("Warning", "aws-node", 1), event
        assert event["involvedObject"]["uid"], event
        condition = eventually(node.condition, lambda c: c["status"] == "False", what="the condition")
        assert condition["reason"] in ("AddressLimitReached", "AddressesResting") and said in condition["message"], condition
        time.sleep(10.5)
        for _ in range(3):
            node.add("late")
        (event,) = eventually(lambda: node.events("NoAddressForPod", name="late"), lambda e: e[0]["count"] > 1, what="counted")
        node.delete("p3")
        eventually(node.condition, lambda c: c["status"] == "True", what="there is room again")
        code, answer = node.add("late")
        assert code == 0, answer


def test_a_pod_that_waits_has_an_event_that_says_for_what():
    with in_cluster() as node:
        node.knobs(latency_ms={"CreateNetworkInterface": 4000})
        node.fill(5)
        code, answer = node.add("slow")
        assert code == 0, answer
        (event,) = eventually(lambda: node.events("WaitingForAddress", name="slow"), bool, what="the event")
        assert "CreateNetworkInterface" in event["message"], event
        assert not node.events("NoAddressForPod"), "it was served after all"


def test_a_cordoned_node_keeps_its_interfaces():
    with in_cluster() as node:
        taint = ("taint", "node", NODE, "node.kubernetes.io/unschedulable:NoSchedule")
        node.kubectl(*taint)
        eventually(node.cluster, lambda c: c["cordoned"], what="the cordon is heard")
        node.fill(5)
        code, error = node.add("sixth")
        assert code != 0 and "cordoned" in json.dumps(error), error
        assert "AWS_MANAGE_ENIS_NON_SCHEDULABLE" in json.dumps(error), error
        assert len(node.interfaces()) == 1
        node.kubectl(*taint[:-1], taint[-1] + "-")
        eventually(node.cluster, lambda c: not c["cordoned"], what="the cordon is gone")
        code, answer = node.add("sixth")
        assert code == 0 and len(node.interfaces()) == 2, answer
        # … unless it is told to manage them.
        node.stop("agent")
        node.kubectl(*taint)
        node.agent(AWS_MANAGE_ENIS_NON_SCHEDULABLE="true")
        eventually(node.cluster, lambda c: c.get("cordoned"), what="the cordon is heard")
        node.fill(5, "q")
        assert len(node.interfaces()) == 3


def test_repairs_and_denied_actions_are_events_of_the_node():
    with in_cluster() as node:
        node.fill(6)
        node.aws(f"aws ec2 modify-network-interface-attribute --network-interface-id {node.interfaces()[1]} "
                 "--groups $(sg nodes) $(sg extra)")
        (event,) = eventually(lambda: node.events("SecurityGroupsRepaired", "Node"), bool, 90, "the repair")
        assert node.aws("sg extra") in event["message"] and node.interfaces()[1] in event["message"], event
        assert event["involvedObject"]["name"] == NODE, event
        node.knobs(denies=[{"action": "AttachNetworkInterface"}])
        node.fill(4, "q")
        code, error = node.add("more")
        assert code != 0 and "AttachNetworkInterface" in json.dumps(error), error
        events = eventually(lambda: node.events("MissingIAMPermissions", "Node"), bool, what="the denial")
        assert "AttachNetworkInterface" in events[0]["message"], events
        assert events[0]["action"] == "ec2:AttachNetworkInterface", events
        condition = eventually(node.condition, lambda c: c["status"] == "False", what="the condition")
        assert condition["reason"] == "MissingIAMPermissions", condition


def test_rights_that_are_missing_are_told_at_the_start():
    denied = {"ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface"}
    with in_cluster() as node:
        node.fill(6)  # of an interface of its own it can ask what it may do with it
        node.stop("agent")
        node.knobs(denies=[{"action": action.removeprefix("ec2:")} for action in denied])
        node.agent()
        told = lambda: {e["action"] for e in node.events("MissingIAMPermissions", "Node")}  # noqa: E731
        eventually(told, lambda actions: actions == denied, what="an event for each action, before any is needed")
        state = node.state()
        assert {d["action"] for d in state["denied"]} == denied and all(d["without"] for d in state["denied"]), state
        metrics = node.on_node("curl", "-sf", "http://127.0.0.1:61678/metrics").stdout
        assert metrics.count("\nbranchline_denied_actions{action=") == 2, metrics
        node.fill(2, "q")


def test_the_annotation_with_the_pods_address():
    with in_cluster("--set", "env.ANNOTATE_POD_IP=true", ANNOTATE_POD_IP="true") as node:
        def pod(name):
            body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
                    "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}]}}
            return json.loads(node.kubectl("create", "-f", "-", "-o", "json", text=json.dumps(body)).stdout)["metadata"]["uid"]

        def annotation(name):
            found = json.loads(node.kubectl("get", "pod", name, "-o", "json").stdout)
            return found["metadata"].get("annotations", {}).get("vpc.amazonaws.com/pod-ips")
        uid = pod("api")
        code, result = node.add("api", uid)
        address = result["ips"][0]["address"].split("/")[0]
        eventually(lambda: annotation("api"), lambda a: a == address, what="the annotation")
        node.delete("api", uid)
        eventually(lambda: annotation("api"), lambda a: a is None, what="it goes with the address")
        # Another pod of the name is left alone, and that is no failure.
        node.add("api", "00000000-0000-0000-0000-000000000000")
        node.add("nobody")
        time.sleep(2)
        assert annotation("api") is None and node.cluster()["failures"] == {}, node.cluster()


def test_leases_follow_the_pods_of_the_cluster():
    """Links go and no DEL comes: what the cluster does not list is free, what it lists is kept and told."""
    with in_cluster() as node:
        for name in ("gone", "listed", "last"):
            body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
                    "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}]}}
            made = json.loads(node.kubectl("create", "-f", "-", "-o", "json", text=json.dumps(body)).stdout)
            code, answer = node.add(name, made["metadata"]["uid"])
            assert code == 0, answer
        node.stop("agent")
        # Ten minutes older: for two of them a plugin might still be at work.
        node.on_node(sys.executable, "-c", "import json; p = '/run/aws-node/ipam.json'; c = json.load(open(p))\n"
                     "for a in c['allocations']: a['allocationTimestamp'] -= 600 * 10**9\njson.dump(c, open(p, 'w'))")
        node.agent()
        node.connected()
        away = lambda name: node.kubectl("delete", "pod", name, "--force", "--grace-period=0")  # noqa: E731
        routes = node.on_node("ip", "route").stdout
        links = re.findall(r"dev (eni[0-9a-f]{11})", routes)
        hashed = lambda name: hashlib.sha1(f"default.{name}".encode()).hexdigest()[:11]  # noqa: E731
        cut = lambda name: node.on_node("ip", "link", "del", next(l for l in links if l.endswith(hashed(name))))  # noqa: E731
        leases = lambda: node.state()["leases"]  # noqa: E731
        away("gone")
        cut("gone")
        cut("listed")
        taken = eventually(leases, lambda l: l["released"] and l["doubtful"], what="one is free, one in doubt")
        (free,), (doubt,) = taken["recent"], taken["doubtful"].values()
        assert (free["pod"], free["why"]) == ("default/gone", "no-pod"), taken
        assert doubt.startswith("default/listed: its link is gone, and the cluster still lists the pod"), taken
        assert node.state()["pool"]["assigned"] == 2
        eventually(lambda: node.events("LeaseInDoubt", "Node"), bool, what="the doubt is an event")
        away("listed")
        cut("last")  # makes the agent look again
        eventually(leases, lambda l: l["released"] == 2 and len(l["doubtful"]) == 1, what="the other one is free")


def test_a_bad_variable_leaves_pods_and_network_list_alone():
    with Node() as node:
        node.agent()
        node.fill(3)
        node.stop("agent")
        before = node.on_node("sh", "-c", "ip rule; ip route").stdout
        done = node.on_node("env", "AWS_VPC_ENI_MTU=99999", "HOST_CNI_CONFDIR_PATH=/etc/cni/net.d",
                            BIN / "branchline-agent", "addresses", exit=64)
        assert 'AWS_VPC_ENI_MTU="99999" is not accepted' in done.stderr, done.stderr
        assert node.on_node("sh", "-c", "ip rule; ip route").stdout == before
        node.on_node("test", "-e", "/etc/cni/net.d/10-aws.conflist")
        # Refused is an answer: the packets go out and come back.
        done = node.on_node("nsenter", "--net=/run/netns/p0", BIN / "branchline", "probe", "tcp", "10.0.1.11", "9",
                            "--timeout", "1", exit=None)
        assert "refused" in done.stdout + done.stderr, done
        code, error = node.add("new")
        assert code != 0 and error["code"] == 11 and "ipamd.sock" in json.dumps(error), error


if __name__ == "__main__":
    os.chdir("/")
    sys.exit(run_all([(n, t) for n, t in globals().items() if n.startswith("test_")], sys.argv[1:]))
