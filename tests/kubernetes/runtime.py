"""What the container runtime does to the plugin, logged by a wrapper before it, and how pods and nodes fare.

These run in one lab, each in a namespace of its own on one watched node.
"""
from cluster import Wrapper, eventually, says, stream

NODE, OTHER = "n1", "n2"


def verbs(calls):
    return [(c.verb, c.netns, c.prev, c.exit) for c in calls]


def test_faults(c):
    """ADD failing with 11 and 50, a slow ADD, DEL failing, pods deleted by force or amid their ADD: all at once,
    since the runtime takes its time between attempts."""
    with c.namespace("faults") as ns, Wrapper(c, NODE) as plugin:
        plugin.fault("ADD", "later", code=11, msg="planted: come back later")
        plugin.fault("ADD", "never", code=50, msg="planted: no route to the agent")
        plugin.fault("ADD", "slow", sleep=3)
        plugin.fault("ADD", "gone", sleep=4)
        plugin.fault("DEL", "stays", code=11, msg="planted: cannot let go")
        for name in ("later", "never", "slow", "gone", "stays", "plain", "forced"):
            ns.pod(name, node=NODE, wait=False)
        ns.wait("plain")
        ns.wait("stays")
        ns.wait("forced")

        # A pod deleted while its ADD runs: the ADD ends, a DEL with its result follows, nothing stays.
        eventually(lambda: ns.events("gone", "Scheduled") or ns.json("get", "pod", "gone"), what="it is known")
        ns.kubectl("delete", "pod", "gone", "--wait=false")
        # Deleted by force: Kubernetes forgets the pod at once, its DEL comes nevertheless.
        forced = plugin.calls("faults/forced", "ADD")[-1].container
        ns.kubectl("delete", "pod", "forced", "--force", "--grace-period=0")
        ns.kubectl("delete", "pod", "stays", "--wait=false")
        plain = plugin.calls("faults/plain", "ADD")[-1].container
        ns.kubectl("delete", "pod", "plain", "--timeout=50s")

        # Slow is waited for: one ADD.
        ns.wait("slow")
        assert verbs(plugin.calls("faults/slow")) == [("ADD", "netns", "-", 0)], plugin.calls("faults/slow")

        # Failing: DEL at once, without a result; the event has the plugin's message.
        for name, message in (("later", "planted: come back later"), ("never", "planted: no route to the agent")):
            calls = eventually(lambda n=name: plugin.calls(f"faults/{n}"), lambda calls: len(calls) > 1, what=f"{name}'s calls")
            assert verbs(calls[:2]) == [("ADD", "netns", "-", 1), ("DEL", "netns", "-", 0)], calls
            assert calls[0].container == calls[1].container, calls
            told = eventually(lambda n=name: ns.events(n, "FailedCreatePodSandBox"), what=f"{name}'s event")
            says("\n".join(told), message)
        # … and again in a new sandbox, after a while.
        for name in ("later", "never"):
            calls = eventually(lambda n=name: plugin.calls(f"faults/{n}", "ADD"), lambda adds: len(adds) > 1, 120, f"{name} again")
            assert len({add.container for add in calls}) == len(calls), calls
            plugin.clear("ADD", name)
        for name in ("later", "never"):
            ns.wait(name)
            calls = plugin.calls(f"faults/{name}")
            adds = [c for c in calls if c.verb == "ADD"]
            assert [a.exit for a in adds] == [1] * (len(adds) - 1) + [0], calls
            last = [c for c in calls if c.container == adds[-1].container]
            assert verbs(last) == [("ADD", "netns", "-", 0)], last

        for name, container in (("forced", forced), ("gone", None)):
            calls = eventually(lambda n=name: plugin.calls(f"faults/{n}", "DEL"), what=f"DEL of {name}")
            assert all(d.exit == 0 and container in (None, d.container) for d in calls), calls

        # DEL failing: the pod stays Terminating, and goes soon after the fault went.
        calls = eventually(lambda: plugin.calls("faults/stays", "DEL"), lambda d: len(d) > 1, what="DEL is tried again")
        assert all(d.exit == 1 for d in calls), calls
        assert ns.json("get", "pod", "stays")["metadata"]["deletionTimestamp"]
        plugin.clear("DEL", "stays")
        ns.kubectl("wait", "--for=delete", "pod/stays", "--timeout=120s", timeout=130)
        assert plugin.calls("faults/stays", "DEL")[-1].exit == 0

        # The plain deletion: a DEL with the result, then once more with nothing, no namespace and no
        # result, when the kubelet clears up (once a minute).
        calls = eventually(lambda: [d for d in plugin.calls("faults/plain", "DEL") if d.container == plain],
                           lambda dels: any(d.netns == "-" for d in dels), within=180, what="the second DEL")
        assert calls[0].prev == "prev" and calls[0].netns == "netns", calls
        assert all(d.exit == 0 for d in calls), calls
        eventually(lambda: {p.split("/")[1] for p in c.on(NODE) if p.startswith("faults/")},
                   lambda left: left == {"later", "never", "slow"}, what="who is left")
        c.settled(NODE)


def test_containerd_killed(c):
    """Pods go on, their connections too; the plugin is not called; new pods come when it is back."""
    with c.namespace("killed") as ns, Wrapper(c, NODE) as plugin:
        ns.pod("a", node=NODE, wait=False)
        ns.pod("b", node=OTHER)
        ns.wait("a")
        mine = plugin.calls("killed/a", "ADD")[-1].container
        with stream(ns, "a", "b"):
            old = c.service(NODE, "containerd")["pid"]
            c.lab("node", "service", NODE, "containerd", "kill")
            eventually(lambda: (c.service(NODE, "containerd")["pid"], c.on_node(NODE, "ctr", "version", exit=None).returncode),
                       lambda seen: seen[0] not in (None, old) and seen[1] == 0, what="containerd is back")
            eventually(lambda: c.ready(NODE)["status"], lambda s: s == "True", 120, "the node is Ready")
            # Of pods before this one the runtime may still be clearing up.
            calls = [call for call in plugin.calls() if call.container == mine or call.verb != "DEL"]
            assert [call.verb for call in calls] == ["ADD"], calls
            ns.pod("new", node=NODE)
        assert verbs(plugin.calls("killed/new")) == [("ADD", "netns", "-", 0)]
        assert [p["status"]["containerStatuses"][0]["restartCount"] for p in ns.json("get", "pods")["items"]] == [0, 0, 0]


def test_power_cut(c):
    """DEL without a namespace for every old sandbox, ADD with new ones for the same pods, and no address leaks."""
    with c.namespace("power") as ns, Wrapper(c, NODE) as plugin:
        ns.deployment("api", 6, "sleep", "infinity", node=NODE)
        ns.rolled_out("deploy/api")
        c.settled(NODE)
        old = {add.container for add in plugin.calls(verb="ADD")}

        def pods():
            return {pod for pod in c.on(NODE) if pod.startswith("power/")}
        before = pods()
        assert len(old) == 6, old
        cut = len(plugin.calls())
        c.lab("node", "power-cycle", NODE, timeout=90)
        eventually(lambda: c.ready(NODE)["status"], lambda s: s == "True", 150, "the node is Ready again")

        def up():
            calls = plugin.calls()[cut:]
            return {a.container for a in calls if a.verb == "ADD" and a.exit == 0 and a.container not in old}
        eventually(up, lambda new: len(new) >= 6, 150, "ADD for each pod")
        ns.rolled_out("deploy/api")
        calls = plugin.calls()[cut:]
        dels = [d for d in calls if d.verb == "DEL" and d.container in old]
        assert {d.container for d in dels} == old, (dels, old)
        assert {d.netns for d in dels} == {"-"}, dels
        assert {d.exit for d in dels} == {0}, dels
        assert pods() == before, "the same pods"
        c.settled(NODE)


def status(c):
    """containerd 2 asks the plugin for its STATUS: failing makes the node NotReady with the plugin's words,
    running pods stay, and the node is Ready again soon after."""
    with c.namespace("status") as ns, Wrapper(c, NODE) as plugin:
        ns.pod("a", node=NODE)
        ns.pod("b", node=NODE)
        asked = eventually(lambda: plugin.calls(verb="STATUS"), what="STATUS")
        assert {call.exit for call in asked} == {0}, asked
        with stream(ns, "a", "b"):
            plugin.fault("STATUS", code=50, msg="planted: the plugin is not available")
            ready = eventually(lambda: c.ready(NODE), lambda r: r["status"] != "True", 60, "NotReady")
            says(ready["message"], "planted: the plugin is not available")
            ns.pod("waits", node=NODE, wait=False)
            told = eventually(lambda: ns.events("waits", "NetworkNotReady"), what="why the pod waits")
            says(told[0], "planted: the plugin is not available")
            plugin.clear("STATUS")
            eventually(lambda: c.ready(NODE)["status"], lambda s: s == "True", 60, "Ready again")
            ns.wait("waits")
        # The agent's own answer: its process stopped, STATUS says that it is not there.
        pid = c.on_node(NODE, "pidof", "branchline-agent").stdout.split()
        c.on_node(NODE, "kill", "-STOP", *pid)
        try:
            ready = eventually(lambda: c.ready(NODE), lambda r: r["status"] != "True", 90, "NotReady without the agent")
            says(ready["message"], "ipamd.sock")
        finally:
            c.on_node(NODE, "kill", "-CONT", *pid)
        eventually(lambda: c.ready(NODE)["status"], lambda s: s == "True", 60, "Ready with the agent")
        # containerd killed: nothing but STATUS.
        seen = len(plugin.calls())
        c.lab("node", "service", NODE, "containerd", "kill")
        eventually(lambda: plugin.calls()[seen:], what="it asks again")
        assert {call.verb for call in plugin.calls()[seen:]} == {"STATUS"}, plugin.calls()[seen:]
        pods = ns.json("get", "pods")["items"]
        assert [p["status"]["containerStatuses"][0]["restartCount"] for p in pods] == [0] * len(pods)
