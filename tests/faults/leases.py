"""Lost DELs, broken checkpoints, a full disk, another node's files: addresses under what happens to an agent."""
import json
import re
import sys
import time

from node import COOLDOWN, FILES, TRAFFIC, Node, unbroken
from trials import until

SERVE = (sys.executable, str(TRAFFIC), "serve", "7000")
EDIT = "import json, sys; p = sys.argv[1]; d = json.load(open(p)); exec(sys.argv[2]); json.dump(d, open(p, 'w'))"


def saved(node, pods):
    """Until the file lists these pods, so that breaking it breaks all."""
    def listed():
        text = json.loads(node.shell(f"cat {FILES}/ipam.json"))
        return sorted(a["ipv4"] for a in text["allocations"]) == sorted(pods.values())
    until(60, f"the checkpoint lists {pods}", listed)


def aged(node, files=f"{FILES}/ipam"):
    """Makes the leases in the file ten minutes older. No agent runs."""
    edit = "[a.update(allocationTimestamp=a['allocationTimestamp'] - 600 * 10**9) for a in d['allocations']]"
    node.inside(sys.executable, "-c", EDIT, f"{files}.json", edit)
    node.shell(f": >{files}.journal")


# How a checkpoint breaks, and what the agent then says of it.
BROKEN = {
    "cut": (f"head -c 200 {FILES}/ipam.json >{FILES}/x; mv {FILES}/x {FILES}/ipam.json", "is not of the form"),
    "empty": (f": >{FILES}/ipam.json", "is empty"),
    "of another version": (f"sed -i 's,vpc-cni-ipam/1,vpc-cni-ipam/9,' {FILES}/ipam.json", "has version"),
    "a directory": (f"rm {FILES}/ipam.json; mkdir {FILES}/ipam.json", "Is a directory"),
    "missing": (f"rm {FILES}/ipam.json", "is missing"),
    "missing with all beside it": (f"rm -r {FILES}/ipam.*", ""),
    "torn in its journal": (f"printf '{{\"leased\":{{\\n\\n{{\"x\"\\n\\n' >>{FILES}/ipam.journal", "ipam.journal:1"),
}


def test_broken_checkpoints_under_running_pods():
    """Connections go on, pods keep their addresses, nobody is given one twice, a later DEL frees."""
    # Long enough to be seen at rest, however late this looks.
    with Node(IP_COOLDOWN_PERIOD="20") as node:
        node.start()
        pods = node.run("api", 6, command=SERVE)
        traffic = node.stream(pods)
        for how, (breaks, says) in BROKEN.items():
            saved(node, node.pods())
            node.kill()
            node.shell(breaks)
            state = node.start()
            found = state["checkpoint"]["found"]
            assert says in found and found.startswith("rebuilt: " if says else "nothing"), (how, found)
            assert set(node.leases()) == set(node.pods().values()), how
            assert state["pool"]["available"] == 0, f"{how}: what is free rests first: {state['pool']}"
            kept = node.shell(f"ls -d {FILES}/*.broken-* 2>/dev/null || true").split()
            assert len(kept) <= 6 and (kept or "missing" in how), (how, kept)
            # Nobody knows these pods' containers by now; their DELs free their addresses all the same.
            gone, address = list(node.pods().items())[-1]
            if how in ("cut", "missing with all beside it"):
                unbroken(traffic)
                node.delete(gone)
                until(60, f"{address} is free: {how}", lambda: address not in node.leases())
                left = node.pods()
                traffic = node.stream(left)
            print(f"    {how}: {found[:110]}")
        new = node.begin("new", 4, retry=60)
        told, _ = new.communicate(timeout=120)
        assert new.returncode == 0, told
        everybody = node.pods()
        assert len(set(everybody.values())) == len(everybody) == 8, everybody
        unbroken(traffic)
        node.delete(*everybody)
        until(60, lambda: f"all are free: {node.leases()}", lambda: not node.leases())
        assert node.wired()[0] == set(), "no rule of a pod is left"


def test_lost_dels():
    """Pods are deleted while no agent runs: with the plugin's note at once, and without one all the same."""
    with Node() as node:
        node.start()
        pods = node.run("api", 5)
        saved(node, pods)
        node.kill()
        node.delete("api-1", "api-2")
        notes = node.shell(f"ls {FILES}/deleted").split()
        assert len(notes) == 2, notes
        node.start()
        left = {p: a for p, a in pods.items() if p not in ("api-1", "api-2")}
        assert set(node.leases()) == set(left.values()), "young as they are: the runtime has said so"
        assert not node.shell(f"ls {FILES}/deleted").split(), "a note counts once"
        # AWS's plugin leaves none.
        saved(node, left)
        node.kill()
        node.delete("api-3")
        node.shell(f"rm -r {FILES}/deleted")
        node.start()
        assert pods["api-3"] in node.leases(), "two minutes long its plugin may be at work"
        node.kill()
        aged(node)
        node.start()
        assert set(node.leases()) == {pods["api-4"], pods["api-5"]}, node.leases()
        node.is_whole()


def test_a_pod_that_vanishes_under_a_running_agent():
    """The runtime dies with its pod: no DEL ever comes. The agent finds out by itself."""
    with Node() as node:
        node.start()
        pods = node.run("api", 2)
        saved(node, pods)
        node.kill()
        aged(node)
        node.start()
        link = re.search(rf"{re.escape(pods['api-1'])} dev (\S+)", node.shell("ip route")).group(1)
        node.inside("ip", "link", "del", link)
        began = time.monotonic()
        until(90, "its address is taken back", lambda: pods["api-1"] not in node.leases())
        state = node.state()
        released = state["leases"]["recent"][0]
        assert (released["address"], released["pod"], released["why"]) == (pods["api-1"], "default/api-1", "no-link"), released
        assert state["leases"]["released"] == 1 and pods["api-2"] in node.leases(), state["leases"]
        until(60, "its rules go as well", lambda: pods["api-1"] not in node.wired()[0])
        print(f"    taken back after {time.monotonic() - began:.1f} s")
        # The DEL comes after all, and takes nothing from anybody.
        node.run("more", 4)
        held = node.leases()
        node.delete("api-1")
        assert node.leases() == held


def test_a_reused_name_inherits_nothing():
    """As a StatefulSet's pod: same name, another container, while no agent hears of the first one's end."""
    with Node() as node:
        node.start()
        first = node.run("web", 1)["web-1"]
        for heard in (True, False):
            old = node.pods()["web-1"]
            if not heard:
                node.kill()
            began = time.time()
            node.delete("web-1")
            if not heard:
                node.launch()
            new = node.run("web", 1)["web-1"]
            assert new != old or time.time() - began > COOLDOWN, f"{new} has not rested"
            node.serves()
            node.is_whole()
        assert first


def test_a_full_disk_under_the_checkpoint():
    """An ADD that cannot be written down is refused by name; what was taken for it goes back; room helps."""
    tiny = "/run/tiny"
    with Node(AWS_VPC_K8S_CNI_BACKING_STORE=f"{tiny}/ipam.json") as node:
        node.shell(f"mkdir {tiny}; mount -t tmpfs -o size=64k,mode=755 tmpfs {tiny}")
        node.start()
        pods = node.run("api", 2)
        until(60, "the checkpoint is written", lambda: not node.state()["checkpoint"]["dirty"])
        node.shell(f"dd if=/dev/zero of={tiny}/fill bs=1k 2>/dev/null; true")
        before = node.state()["pool"]
        for _ in range(3):
            refused = node.begin("full", 1, retry=0)
            told, _ = refused.communicate(timeout=120)
            assert refused.returncode != 0, told
            for word in ("ipam.journal", "No space left on device", "is the disk full?"):
                assert word in told, f"no {word!r} in {told}"
        state = node.state()
        assert state["checkpoint"]["errors"] > 0 and "No space left" in state["checkpoint"]["trouble"], state["checkpoint"]
        # One address was taken and rests, as any that goes back; none was taken after it.
        assert state["pool"]["assigned"] == 2 and state["pool"]["total"] <= before["total"] + 1, state["pool"]
        assert state["pool"]["resting"] <= 1, state["pool"]
        # A DEL is done all the same. Killed now, the agent has it from the file as a lease, and nobody else
        # gets the address before it is old enough for its pod to be missed.
        node.delete("api-2")
        assert set(node.leases()) == {pods["api-1"]}
        node.kill()
        node.start()
        assert set(node.leases()) == set(pods.values())
        node.shell(f"rm {tiny}/fill")
        node.run("after", 2)
        until(60, "the checkpoint is written again", lambda: not node.state()["checkpoint"]["trouble"]
              and not node.state()["checkpoint"]["dirty"])
        node.kill()
        aged(node, f"{tiny}/ipam")
        node.start()
        node.is_whole()
        node.shell(f"umount -l {tiny}")


def test_the_files_of_another_instance():
    """The instance was replaced under the same name: of its predecessor's leases none counts without its pod."""
    with Node() as node:
        node.start()
        pods = node.run("api", 2)
        saved(node, pods)
        node.kill()
        add = ("e = dict(d['allocations'][0]); e['metadata'] = dict(e['metadata'], k8sPodName='old'); "
               "e.update(containerID='old', ipv4='10.0.1.250'); d['allocations'].append(e)")
        node.inside(sys.executable, "-c", EDIT, f"{FILES}/ipam.json", add)
        node.inside(sys.executable, "-c", EDIT, f"{FILES}/ipam.branchline.json", "d['instance'] = 'i-0123456789abcdef0'")
        state = node.start()
        assert "i-0123456789abcdef0" in state["checkpoint"]["found"], state["checkpoint"]
        assert set(node.leases()) == set(pods.values()) and state["pool"]["assigned"] == 2, node.leases()
        assert [r["why"] for r in state["leases"]["recent"]] == ["other-instance"], state["leases"]
        node.kill("TERM")
        state = node.start()
        assert state["checkpoint"]["found"] == "checkpoint", state["checkpoint"]
        node.is_whole()


def test_a_second_agent():
    """It refuses, says why, and changes nothing."""
    with Node() as node:
        node.start()
        pods = node.run("api", 2)
        saved(node, pods)
        env = [f"{k}={v}" for k, v in {**node.variables, "AWS_VPC_K8S_CNI_LOG_FILE": "stderr"}.items()]
        agent = node.lab("node", "exec", "n1", "--", "env", "-i", *env, "timeout", "60",
                         node_agent(), "addresses", exit=1)
        assert "ipamd.lock is locked" in agent.stderr + agent.stdout, agent.stderr
        node.run("more", 2)
        assert len(node.is_whole()) == 4


def node_agent():
    from node import BIN
    return str(BIN / "branchline-agent")


def test_gc():
    """The runtime lists what it has; of the rest the addresses come back, the rules go."""
    with Node() as node:
        node.start()
        pods = node.run("api", 3)
        node.kill()
        node.delete("api-3")
        node.shell(f"rm -r {FILES}/deleted")
        node.start()
        assert pods["api-3"] in node.leases(), "too young to be missed"
        node.lab("node", "gc", "n1")
        assert pods["api-3"] in node.leases(), "a list of upstream's version has no GC"
        node.shell("sed -i 's,\"0.4.0\",\"1.1.0\",' /etc/cni/net.d/10-aws.conflist")
        node.lab("node", "gc", "n1")
        assert set(node.leases()) == {pods["api-1"], pods["api-2"]}, node.leases()
        node.is_whole()


def test_connections_of_a_pod_that_is_gone_are_forgotten():
    """The next pod with the address does not hear what was meant for the last one."""
    with Node() as node:
        node.start(WARM_IP_TARGET="1")
        # Only what a rule asks about is tracked; on a cluster's node kube-proxy's rules ask about all.
        node.shell("nft 'add table ip faults; add chain ip faults c { type filter hook prerouting priority 0; }; "
                   "add rule ip faults c ct state new counter'")
        send = ("import socket, time; s = socket.socket(type=socket.SOCK_DGRAM); "
                "[(s.sendto(b'x', ('10.0.1.200', 53)), time.sleep(1)) for _ in range(1000)]")
        (name, address), = node.run("api", 1, command=(sys.executable, "-c", send)).items()

        def remembered(of):
            return [line for line in node.shell("cat /proc/net/nf_conntrack").splitlines() if f"src={of} " in line]
        until(60, "the packet is tracked", lambda: remembered(address))
        (_, other), = node.run("web", 1, command=(sys.executable, "-c", send)).items()
        until(60, "the other packet is tracked", lambda: remembered(other))
        node.delete(name)
        # Before the address has rested; by itself an entry without an answer stays for 30 s.
        until(20, "it is forgotten", lambda: not remembered(address))
        assert remembered(other), "a running pod's connections stay"
