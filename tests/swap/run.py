#!/usr/bin/env python3
"""Swaps AWS's own aws-node, unmodified, for ours on a live node, and back.

    .venv/bin/python tests/swap/run.py [NAME …]      all, or those whose name contains NAME

Needs what scripts/upstream.sh builds. On a bare node both sides run as their DaemonSets run them
(container.sh); in a cluster (canary.py) they are DaemonSets, and the commands are deploy/README.md's. Every
test has a lab of its own, and the machine's state is compared before and after each.
"""
import difflib
import json
import re
import subprocess
import sys
import time

import canary
from node import ADDRESS, AWS, BRANCHLINE, NAME, OURS, UPSTREAM, BIN, Node, scenarios
from trials import play, until

# Lines of the node's network that may differ after a swap, as (pattern, reason). There are none: each
# side finds what it would have laid itself.
TO_OURS = []
TO_AWS = []


def same_network(before, after, allowed):
    """Fails for every line that differs and is not allowed; prints those that are."""
    lines = [l for l in difflib.unified_diff(before, after, lineterm="", n=0)
             if l[0] in "+-" and l[:3] not in ("+++", "---")]
    bad = []
    for line in lines:
        reason = next((why for pattern, why in allowed if re.search(pattern, line)), None)
        if reason:
            print(f"    {line}   ({reason})")
        else:
            bad.append(line)
    assert not bad, "the node's network is not as before:\n" + "\n".join(bad[:40])
    print(f"    network: {len(before)} lines, {len(lines)} differ")


class Traffic:
    """From every pod to the database, to the internet and to the next pod; from the node to every pod."""

    def __init__(self, node, pods, internet=True):
        self.node = node
        places = sorted(pods)
        self.clients = [node.stream(NAME, pods)]
        for i, name in enumerate(places):
            near = places[(i + 1) % len(places)]
            targets = {"orders": "10.0.21.40", near: pods[near]}
            if internet:
                targets["mail"] = "198.51.100.25"
            self.clients.append(node.stream(name, targets))

    def end(self):
        """Ends all streams, fails for any that broke or lost a byte; returns the sums."""
        for client in self.clients:
            client.stdin.close()
        reports = []
        for client in self.clients:
            text = client.stdout.read()
            assert client.wait(60) == 0, "a client failed"
            reports += json.loads(text)
        # At each start AWS's agent takes its SNAT rule away and makes it anew: what begins in between
        # goes out untranslated.
        for report in reports:
            theirs = [at for at in report["failed"] if report["name"].endswith(">mail")
                      and any(began <= at <= ended for began, ended in self.node.starts)]
            if theirs:
                print(f"    {report['name']}: {len(theirs)} of {report['made']} made anew failed while AWS's agent started")
            report["failed"] = [at for at in report["failed"] if at not in theirs]
        bad = [r for r in reports if r["broke"] or r["sent"] != r["back"] or r["failed"] or not r["sent"]]
        assert not bad, "connections broke or lost data:\n" + "\n".join(map(str, bad))
        sums = {"connections": len(reports), "blocks": sum(r["back"] for r in reports),
                "anew": sum(r["made"] for r in reports), "longest_ms": max(r["longest_ms"] for r in reports)}
        print(f"    traffic: {sums['connections']} connections held, {sums['blocks']} blocks of 512 bytes, "
              f"none lost, longest pause {sums['longest_ms']} ms; {sums['anew']} made anew")
        return sums


def reaches(node, *pods, internet=True):
    """Pods reach the database, the internet and each other, with their own connections."""
    addresses = node.pods()
    traffic = Traffic(node, {p: addresses[p] for p in pods}, internet)
    time.sleep(0.5)
    traffic.end()


def names(count, stem="api"):
    return [f"{stem}-{i}" for i in range(1, count + 1)]


def is_bare_of(node, *addresses):
    left = [l for l in node.network() if any(re.search(rf"\b{re.escape(a)}\b", l) for a in addresses)]
    assert not left, "left of deleted pods:\n" + "\n".join(left)


def test_swap_and_back_under_open_connections():
    with Node() as node:
        node.serve("orders")
        node.serve("mail")
        node.start(AWS)
        node.add(*names(15))
        made = node.pods()
        ec2 = node.interfaces()
        assert len(ec2) == 3 and len(made) == 15, (ec2, made)
        busy = {p: a for p, a in made.items() if p not in ("api-14", "api-15")}
        traffic = Traffic(node, busy)
        time.sleep(2)

        assert node.plugins() == ["aws-cni", "egress-cni", "portmap"]
        before = node.settled()
        gap = node.swap(OURS)
        print(f"    to ours: {gap:.1f} s without an agent")
        assert node.plugins() == ["aws-cni", "portmap"], "egress-cni did nothing, and is not built"
        same_network(before, node.network(), TO_OURS)
        assert node.interfaces() == ec2, "EC2 is not as before"
        assert node.known_pods() == made
        node.saved(made)
        told = node.state()["translation"]
        assert told["wanted"] and "nft ip nat AWS-SNAT-CHAIN-0" in told["left"], told

        node.delete("api-14", "api-15")
        is_bare_of(node, made["api-14"], made["api-15"])
        node.add("new-1", "new-2")
        now = node.pods()
        assert {now["new-1"], now["new-2"]} == {made["api-14"], made["api-15"]}, "the two that were free"
        reaches(node, "new-1", "new-2", "api-1")
        assert node.interfaces() == ec2, "EC2 is not as before"

        before = node.settled()
        gap = node.swap(AWS)
        print(f"    back: {gap:.1f} s without an agent")
        until(60, "AWS's network list", lambda: node.plugins() == ["aws-cni", "egress-cni", "portmap"])
        same_network(before, node.network(), TO_AWS)
        assert node.interfaces() == ec2, "EC2 is not as before"
        assert node.known_pods() == now
        node.saved(now)

        node.delete("new-1")
        is_bare_of(node, now["new-1"])
        node.add("back-1")
        reaches(node, "back-1", "new-2", "api-1")
        traffic.end()
        node.delete(*node.pods())
        is_bare_of(node, *made.values())


def test_the_witnesses_see_a_swap_that_breaks():
    """The same measures, on a swap that takes away what it must leave."""
    with Node() as node:
        node.serve("orders")
        node.serve("mail")
        node.start(AWS)
        node.add(*names(7))
        pods = node.pods()
        before = node.settled()
        traffic = Traffic(node, pods)
        time.sleep(1)
        node.stop()
        second = next(l.split()[3] for l in before if l.startswith("rule 1536:"))
        node.inside("ip", "rule", "del", "from", second, "priority", "1536")
        node.inside("nft", "delete", "table", "ip", "nat")
        time.sleep(2)
        for seen, what in ((lambda: same_network(before, node.network(), TO_OURS), "rule 1536"),
                           (traffic.end, "mail")):
            try:
                seen()
            except AssertionError as error:
                assert what in str(error), error
            else:
                raise AssertionError(f"nobody noticed: {what}")


def test_their_plugin_with_our_agent():
    with Node() as node:
        node.serve("orders")
        node.serve("mail")
        node.start(AWS)  # for its rules
        node.swap(OURS)
        mixed_pair(node, UPSTREAM)


def test_our_plugin_with_their_agent():
    with Node() as node:
        node.serve("orders")
        node.serve("mail")
        node.start(AWS)
        mixed_pair(node, BIN)


def mixed_pair(node, plugins):
    """ADD and DEL by the other side's plugin, as when a node is swapped half way."""
    bare = node.network()
    node.inside("install", plugins / "aws-cni", "/opt/cni/bin/aws-cni")
    node.add(*names(8))
    pods = node.pods()
    assert node.known_pods() == pods, (node.known_pods(), pods)
    node.saved(pods)
    reaches(node, "api-1", "api-7", "api-8")
    node.delete(*pods)
    is_bare_of(node, *pods.values())
    assert node.known_pods() == {}
    node.saved({})
    interfaces = [l for l in node.network() if l not in bare and not re.search(r"eth[12]|lookup [23]|table [23]", l)]
    assert not interfaces, "left:\n" + "\n".join(interfaces)


def test_a_pod_in_the_gap_waits_and_leaves_nothing():
    """ADD while no agent runs fails as each plugin says it, leaves nothing, and works when tried again."""
    with Node() as node:
        node.start(AWS)
        node.add("api-1")
        until(120, "AWS's agent has its spare interface", lambda: len(node.interfaces()) == 2)
        for side, code, other in ((AWS, "code 999", OURS), (OURS, "code 11", AWS)):
            before = node.settled()
            node.stop()
            done = node.try_add("late")
            assert done.returncode != 0 and code in done.stderr, done.stderr
            same_network(before, node.settled(), [])
            node.start(other)
            node.add("late")
            node.delete("late")


def test_two_agents_are_refused():
    """Ours does not take a node over from an agent that still serves it."""
    with Node() as node:
        node.start(AWS)
        node.add("api-1")
        theirs, log = node.running, node.log
        node.launch(OURS, [f"{k}={v}" for k, v in {**OURS.env, "AWS_VPC_K8S_CNI_LOG_FILE": "stderr"}.items()])
        assert node.running.wait(60) == 1, "ours ends with a failure"
        told = node.told()
        assert "ipamd.sock" in told and "another agent" in told, told
        node.running, node.log, node.side = theirs, log, AWS
        assert theirs.poll() is None
        node.add("api-2")
        assert node.known_pods() == node.pods()


def test_their_agent_beside_ours():
    """AWS's agent takes the socket of a running one: ours sees it and ends, before both give addresses."""
    with Node() as node:
        node.serve("orders")
        node.serve("mail")
        node.start(AWS)
        node.swap(OURS)
        node.add(*names(3))
        node.saved(node.pods())
        traffic = Traffic(node, node.pods())
        ours, log = node.running, node.log
        # Its introspection does not start: ours has the port. In a cluster the port of the metrics
        # keeps the scheduler from placing both.
        node.launch(AWS, [f"{k}={v}" for k, v in {**AWS.env, **node.common}.items()])
        assert ours.wait(60) == 1, "ours ends with a failure"
        assert "another agent has taken the place" in node.agent_log()
        node.wait_ready()
        node.add("api-4")
        assert node.checkpoint() == node.pods()
        log.close()
        traffic.end()


def test_during_cool_down():
    """What AWS's agent gave up a moment ago rests under ours as well."""
    with Node({"IP_COOLDOWN_PERIOD": "10"}) as node:
        node.start(AWS)
        node.add(*names(6))
        gone = node.pods()["api-3"]
        time.sleep(11)
        node.delete("api-3")
        released = time.monotonic()
        node.swap(OURS)
        ec2 = node.interfaces()
        node.add("new")
        waited = time.monotonic() - released
        given = node.pods()["new"]
        print(f"    {gone} given up, {given} given {waited:.1f} s later")
        assert given != gone or waited >= 10, f"{gone} was given again after {waited:.1f} s"
        assert node.interfaces() == ec2, "no interface is attached for addresses that only rest"


def test_leaked_addresses():
    """Pods that were deleted while no agent ran, and an address that EC2 has and the checkpoint not."""
    with Node({"WARM_IP_TARGET": "1", "MINIMUM_IP_TARGET": "4"}) as node:
        node.start(AWS)
        node.add(*names(3))
        pods = node.pods()
        node.stop()
        node.delete("api-2")  # AWS's plugin says that it succeeded, and nobody has heard of it
        node.age_checkpoint()  # for two minutes its plugin might still be at work
        node.aws("assign-private-ip-addresses", "--network-interface-id", node.primary(),
                 "--secondary-private-ip-address-count", "1")
        node.start(OURS)
        left = {p: a for p, a in pods.items() if p != "api-2"}
        assert node.known_pods() == left, (node.known_pods(), left)
        is_bare_of(node, pods["api-2"])
        shown = node.interfaces()[node.primary()]["addresses"]
        known = [a.removesuffix("/32") for c in node.page("/v1/enis").values() for e in c["ENIs"].values()
                 for a in e["AvailableIPv4Cidrs"]]
        assert sorted(known + [ADDRESS]) == shown, (known, shown)
        assert len(node.interfaces()) == 1


def test_a_pod_deleted_in_the_gap_by_our_plugin():
    """DEL without an agent succeeds, as upstream's does; the address comes back when ours starts."""
    with Node() as node:
        node.start(AWS)
        node.add(*names(3))
        pods = node.pods()
        node.swap(OURS)
        node.stop()
        node.delete("api-2")
        is_bare_of(node, pods["api-2"])
        node.age_checkpoint()  # for two minutes its plugin might still be at work
        node.start(OURS)
        assert node.known_pods() == {p: a for p, a in pods.items() if p != "api-2"}


def test_an_interface_attached_a_second_ago():
    """AWS's agent dies between attaching an interface and setting it up: ours finishes that one."""
    with Node() as node:
        node.serve("orders")
        node.serve("mail")
        node.start(AWS)
        slow = {"latency_ms": {"ModifyNetworkInterfaceAttribute": 20000}}
        node.lab("knob", "set", json.dumps(slow))
        node.add("api-1")  # fewer free than an interface's worth: it asks for the next one
        until(120, "a second interface is attached",
              lambda: [e for e in node.interfaces().values() if e["device"] == 1])
        node.stop("KILL")
        node.lab("knob", "set", json.dumps({"latency_ms": {}}))
        ec2 = node.interfaces()
        node.start(OURS)
        node.add(*names(9)[1:])
        pods = node.pods()
        reaches(node, "api-1", "api-9")
        now = node.interfaces()
        assert set(now) == set(ec2) or len(now) == 3, (ec2, now)
        second, = [i for i, e in ec2.items() if e["device"] == 1]
        assert set(now[second]["addresses"]) & set(pods.values()), "its addresses are used"
        assert now[second]["deleted with the node"], "it goes with the node"


def test_other_warm_targets():
    """Ours has other targets than AWS's had: what is spare goes back, no pod notices, nothing new comes."""
    with Node() as node:
        node.serve("orders")
        node.serve("mail")
        node.start(AWS)
        node.add(*names(4))
        pods = node.pods()
        until(120, "AWS's agent has its spare interface", lambda: len(node.interfaces()) == 2)
        ec2 = node.interfaces()
        traffic = Traffic(node, pods)
        node.swap(OURS, WARM_IP_TARGET="1", MINIMUM_IP_TARGET="2")
        # Half a minute of rest, since nobody knows what AWS's agent released last, and a minute of surplus.
        until(300, "what is spare went back", lambda: len(node.interfaces()) == 1)
        assert set(node.interfaces()) < set(ec2), "nothing new came"
        assert node.known_pods() == node.pods() == pods
        node.swap(AWS)
        until(120, "AWS's agent has its spare interface", lambda: len(node.interfaces()) == 2)
        assert node.known_pods() == pods
        traffic.end()


def test_a_lost_checkpoint_under_running_pods():
    """The file is gone and the pods are not: no address is given twice, and none is lost for good."""
    with Node() as node:
        node.serve("orders")
        node.serve("mail")
        node.start(AWS)
        node.add(*names(6))
        pods = node.pods()
        until(120, "AWS's agent has its spare interface", lambda: len(node.interfaces()) == 3)
        traffic = Traffic(node, pods)
        before = node.settled()
        node.stop()
        node.inside("rm", "/run/aws-node/ipam.json")
        node.start(OURS)
        same_network(before, node.network(), TO_OURS)
        node.add(*names(9, "new"))  # as many as the instance has addresses for
        given = node.pods()
        assert len(set(given.values())) == 15, given
        reaches(node, "new-1", "new-9", "api-1")
        traffic.end()
        node.delete(*pods)
        node.swap(OURS)
        is_bare_of(node, *pods.values())
        node.add(*names(6, "more"))
        assert set(node.pods().values()) == set(given.values()), "the addresses of deleted pods are free again"


def test_rules_of_iptables_legacy():
    """On older images AWS's agent translates by iptables-legacy, which nft does not show."""
    with Node() as node:
        node.serve("orders")
        node.serve("mail")
        node.start(AWS, PATH="/app/legacy:/usr/sbin:/usr/bin:/sbin:/bin")
        node.add(*names(7))
        until(120, "AWS's agent has its spare interface", lambda: len(node.interfaces()) == 3)
        rules = node.inside("iptables-legacy-save").stdout
        assert "AWS-SNAT-CHAIN-0" in rules and "AWS-CONNMARK-CHAIN-0" in rules, rules
        traffic = Traffic(node, node.pods())
        time.sleep(1)
        plain = lambda text: [re.sub(r"\[\d+:\d+\]", "", l) for l in text.splitlines() if l[0] != "#"]
        before = node.settled()
        node.swap(OURS)
        same_network(before, node.settled(), TO_OURS)
        assert plain(rules) == plain(node.inside("iptables-legacy-save").stdout)
        told = node.state()["translation"]
        assert told["left"] == ["iptables-legacy nat"], told
        reaches(node, "api-1", "api-7")
        traffic.end()


def test_after_a_reboot():
    """A rebooted node: no pod, no checkpoint, no rule; interfaces and addresses are still in EC2."""
    with Node() as node:
        node.serve("orders")
        node.start(AWS)
        node.add(*names(6))
        until(120, "AWS's agent has its spare interface", lambda: len(node.interfaces()) == 3)
        ec2 = node.interfaces()
        node.stop()
        node.delete(*node.pods())
        node.inside("sh", "-c", "rm -r /run/aws-node/* /etc/cni/net.d/* /opt/cni/bin/*; ip rule flush; "
                    "ip rule add lookup main priority 32766; ip rule add lookup default priority 32767; "
                    "for t in 2 3; do ip route flush table $t; done; "
                    "for l in eth1 eth2; do ip addr flush dev $l; ip link set $l down; done; nft flush ruleset")
        node.start(OURS)
        assert node.known_pods() == {}
        node.add(*names(6, "new"))
        told = node.state()["translation"]
        assert told["wanted"] and not told["left"], told
        reaches(node, "new-1", "new-6", internet=False)
        assert node.interfaces() == ec2, "EC2 is not as before"


def mend():
    subprocess.run([BRANCHLINE, "lab", "down"], env=scenarios.environment(), check=False)


if __name__ == "__main__":
    tests = [(n, t) for room in (globals(), vars(canary)) for n, t in room.items() if n.startswith("test_")]
    sys.exit(play(tests, sys.argv[1:], mend))
