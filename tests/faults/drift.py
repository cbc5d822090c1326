"""What other programs do to a node's network: put right at once under open connections, foreign things untouched.

NetworkManager, systemd-networkd, udev and people are played by the commands that they issue.
"""
import json
import re
import subprocess
import sys
import time

from node import BRANCHLINE, TRAFFIC, Node, unbroken
from trials import until

SERVE = (sys.executable, str(TRAFFIC), "serve", "7000")
FAR = "10.0.9.10"
# What a look at a node shows, before and after: all of it, ours and everybody else's.
DRIFT = """
import json, subprocess, sys, time
def ip(*words):
    return subprocess.run(("ip", *words), capture_output=True, text=True, check=True).stdout.splitlines()
def look():
    links = [line.split(" qdisc")[0] for line in ip("-o", "link", "show")]
    macs = ip("-br", "link", "show")
    return sorted(ip("-4", "rule") + ip("-4", "route", "show", "table", "all") + ip("-4", "-br", "addr") + links + macs)
before = look()
for line in sys.argv[1].splitlines():
    subprocess.run(["ip", *line.split()], check=True)
began = time.monotonic()
while look() != before and time.monotonic() - began < float(sys.argv[2]):
    pass
took, after = time.monotonic() - began, look()
print(json.dumps({"ms": round(took * 1000), 
                  "lacks": [l for l in before if l not in after], "more": [l for l in after if l not in before]}))
"""
# Of everybody who configures a node besides us. Nothing of it may change.
FOREIGN = """
rule add pref 30200 from 10.0.1.11 lookup 30200
route add default via 10.0.1.1 dev eth0 table 30200
rule add pref 10001 from 10.0.1.99 lookup 10001
route add default via 10.0.1.1 dev eth0 table 10001
rule add pref 9 from all fwmark 0x200/0xf00 lookup 2004
rule add pref 1024 from all fwmark 0x4000/0x4000 lookup main
rule add pref 512 from 10.0.9.7 lookup main
rule add pref 1536 from 10.0.9.0/24 lookup 2
link add docker0 type bridge
addr add 172.17.0.1/16 dev docker0
link set docker0 up
route add 10.50.0.0/16 via 10.0.1.1 dev eth0
""".strip()
FLUSH = "rule flush\nrule add pref 32766 lookup main\nrule add pref 32767 lookup default"


def drifts(node, commands, within=60):
    return json.loads(node.inside(sys.executable, "-c", DRIFT, commands, str(within)).stdout)


def undone(node, commands):
    """The commands change something, and it is as before soon: of itself the agent looks every five minutes only.
    Gives the milliseconds until then."""
    def repairs():
        return sum(node.state()["repairs"]["counts"].values())
    before = repairs()
    seen = drifts(node, commands)
    assert not seen["lacks"] + seen["more"], (commands, seen)
    until(60, f"the repair is counted: {commands}", lambda: repairs() > before)
    return seen["ms"]


class Far:
    """Connections from one pod of each interface to a host of the VPC, and from the node to its pods."""

    def __init__(self, node, pods):
        self.node = node
        tables = dict(re.findall(r"1536:\s+from (\S+) lookup (\d+)", node.shell("ip rule")))
        by_table = {tables.get(address, "main"): name for name, address in pods.items()}
        assert len(by_table) > 1, f"pods of more than one interface: {tables}"
        self.pods, self.some = list(by_table.values()), dict(list(pods.items())[:4])

    def __enter__(self):
        self.lab("far", *SERVE)
        self.clients = [self.lab(pod, sys.executable, str(TRAFFIC), "stream", f"{pod}={FAR}:7000") for pod in self.pods]
        for client in self.clients:
            assert client.stdout.readline() == "started\n", "no traffic"
        self.clients.append(self.node.stream(self.some))
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            for client in self.clients:
                unbroken(client)

    def lab(self, name, *words):
        process = subprocess.Popen([BRANCHLINE, "lab", "exec", name, "--", *words], env=self.node.env, text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.node.clients.append(process)
        return process


def veth(node, address):
    return re.search(rf"^{re.escape(address)} dev (eni\S+)", node.shell("ip route show table main"), re.M)[1]


def test_rules_that_are_flushed_come_back_at_once():
    """All rules of the node are flushed under connections from pods of every interface: none breaks."""
    with Node() as node:
        node.start()
        pods = node.run("api", 12, command=SERVE)
        time.sleep(3)  # a pod that was made a moment ago is its plugin's business
        with Far(node, pods):
            before = node.state()["repairs"]["counts"].get("rule", 0)
            print(f"    back after {undone(node, FLUSH)} ms")
        repairs = node.state()["repairs"]
        assert repairs["counts"]["rule"] > before and not repairs["failing"], repairs
        assert repairs["recent"][0]["kind"] == "rule", repairs


def test_what_other_programs_do_is_undone():
    """Each of their commands, beside everything that they have on a node themselves."""
    with Node() as node:
        node.start()
        pods = node.run("api", 12, command=SERVE)
        time.sleep(3)
        for line in FOREIGN.splitlines():
            node.inside("ip", *line.split())
        link = veth(node, pods["api-1"])
        told = {
            "an operator cleans a table": "route flush table 2",
            "and main": f"route del {pods['api-1']}",
            "NetworkManager flushes the addresses of a link": "-4 addr flush dev eth1",
            "systemd-networkd takes a link down": "link set eth1 down",
            "a DHCP lease brings an MTU": "link set eth1 mtu 1400",
            "NetworkManager clones a MAC": "link set eth1 address 02:00:00:00:00:99",
            "udev's MACAddressPolicy=persistent": f"link set {link} address 7a:00:00:00:00:01",
            "somebody takes a pod's link down": f"link set {link} down",
            "a rule of ours is contradicted": f"rule add pref 1536 from {pods['api-1']} lookup 3",
            "a DHCP client gives a link an address, and so a connected route": "addr add 10.0.1.77/24 dev eth1",
        }
        with Far(node, pods):
            for who, commands in told.items():
                print(f"    {who}: {undone(node, commands)} ms")
            # udev renames a link: it is followed, and put right by its new name.
            node.inside("ip", "link", "set", "eth1", "name", "ens6")
            until(60, "the name is followed", lambda: node.state()["repairs"]["counts"].get("rename") == 1)
            undone(node, "route flush table 2")
        repairs = node.state()["repairs"]
        assert not repairs["failing"], repairs
        assert {"address", "link", "mac", "mtu", "rename", "route", "rule"} <= set(repairs["counts"]), repairs


def test_rules_of_recovered_pods_are_made_at_the_start():
    with Node() as node:
        node.start()
        pods = node.run("api", 12)
        shown = "ip -4 rule | sort; ip -4 route show table all | sort"
        before = node.shell(shown).splitlines()
        node.kill()
        for line in FLUSH.splitlines() + ["route flush table 2", f"route del {pods['api-3']}"]:
            node.inside("ip", *line.split())
        node.start()

        def differs():
            return sorted(set(before) ^ set(node.shell(shown).splitlines()))
        until(60, lambda: f"all is back, of pods that were young too: {differs()}", lambda: not differs())
        assert node.state()["repairs"]["counts"]["rule"] > 12
        node.is_whole()


def test_switched_off_it_only_tells():
    with Node(BRANCHLINE_REPAIR="false") as node:
        node.start()
        node.run("api", 12)
        time.sleep(3)
        seen = drifts(node, FLUSH, within=2)
        assert len(seen["lacks"]) > 12 and not seen["more"], seen
        repairs = node.state()["repairs"]
        assert not repairs["counts"] and len(repairs["failing"]) >= len(seen["lacks"]), repairs
        assert "BRANCHLINE_REPAIR" in next(iter(repairs["failing"].values())), repairs


def test_pods_come_and_go_while_rules_are_flushed():
    """The agent never fights the plugin: what is left at the end is what the pods have, and nothing else."""
    with Node(IP_COOLDOWN_PERIOD="0") as node:
        node.start()
        node.run("stays", 6)
        flush = "import subprocess, time\nfor i in range(40):\n  for p in (512, 1536):\n" \
                "    subprocess.run(['ip', 'rule', 'flush', 'pref', str(p)]); time.sleep(0.1)\n"
        noise = subprocess.Popen([BRANCHLINE, "lab", "node", "exec", "n1", "--", sys.executable, "-c", flush], env=node.env)
        node.clients.append(noise)
        for turn in range(6):
            pods = node.run(f"turn{turn}", 6)
            node.delete(*pods)
        assert noise.wait(120) == 0
        # A fight over the rules of pods that stay is given up for a while, and said so.
        failing = lambda: " ".join(node.state()["repairs"]["failing"].values())  # noqa: E731
        until(60, failing, lambda: not failing() or "again and again" in failing())
        until(120, lambda: f"{node.wired()} {node.state()['repairs']}", lambda: node.wired()[0] == set(node.pods().values()))
        node.is_whole()
