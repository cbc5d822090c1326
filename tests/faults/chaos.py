"""The agent is killed again and again while pods come and go: no address twice, none lost.

    ROUNDS=100 SEED=7 .venv/bin/python tests/faults/run.py chaos
"""
import os
import random
import time
from datetime import datetime

from node import COOLDOWN, Node
from trials import until

ROUNDS = int(os.environ.get("ROUNDS", "10"))
SEED = int(os.environ.get("SEED", time.time_ns() % 1_000_000))
PODS, WARM = 5, 5
# What the agent's clock and ours may differ by.
SLACK = 0.05


def seconds(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


class Witness:
    """Who had which address when."""

    def __init__(self):
        self.left = {}

    def leaves(self, pods):
        now = time.time()
        self.left.update((address, now) for address in pods.values())

    def sees(self, leases):
        """A lease that begins before its address has rested is one too early, whoever was killed in between."""
        for address, (pod, since) in leases.items():
            rested = seconds(since) - self.left.get(address, 0)
            assert rested >= COOLDOWN - SLACK, f"{address} was given to {pod} {rested:.2f} s after its last pod"


def test_chaos():
    """Pods start, the agent dies 0 to 800 ms later, the pods before them are deleted, the agent starts."""
    chance = random.Random(SEED)
    print(f"    SEED={SEED} ROUNDS={ROUNDS}")
    witness, before, slowest = Witness(), {}, 0
    with Node() as node:
        node.start()
        for round_ in range(ROUNDS):
            began = time.monotonic()
            name = f"r{round_}"
            starting = node.begin(name, PODS)
            time.sleep(chance.uniform(0, 0.8))
            with_agent = chance.random() < 0.5
            if not with_agent:
                node.kill()
            if before:
                witness.leaves(before)
                node.delete(*before)
            if with_agent:
                node.kill()
            node.launch()
            told, _ = starting.communicate(timeout=120)
            pods = {p: a for p, a in node.pods().items() if p.startswith(f"{name}-")}
            took = time.monotonic() - began
            assert starting.returncode == 0 and len(pods) == PODS, f"round {round_}: {pods}\n{told}"
            slowest = max(slowest, took)
            node.serves()
            leases = node.leases()
            assert set(pods.values()) <= set(leases), (pods, leases)
            witness.sees(leases)
            before = node.is_whole()
            assert set(before) == set(pods), before
        print(f"    slowest round: all {PODS} pods ran after {slowest:.1f} s")
        settles(node, before)


def settles(node, pods):
    """As many pods as make the addresses of the node exactly those and the warm ones: nothing is lost, so
    nothing more comes, and nothing has to go."""
    until(COOLDOWN + 60, "every address has rested", lambda: node.state()["pool"]["resting"] == 0)
    more = len(node.secondary()) - len(pods) - WARM
    if more > 0:
        node.run("last", more)
    pods = node.is_whole()
    want = len(pods) + WARM
    until(60, lambda: f"EC2 has {len(node.secondary())} addresses, pods and warm ones are {want}",
          lambda: len(node.secondary()) == want)
    state = node.state()
    pool = state["pool"]
    assert (pool["assigned"], pool["available"], pool["total"]) == (len(pods), WARM, want), pool
    assert not state["leases"]["doubtful"], state["leases"]
    assert not node.shell("ls /run/aws-node/deleted 2>/dev/null || true").split(), "every note is settled"
    assert not node.shell("ls /run/aws-node | grep broken || true").split(), "no file was broken"
    print(f"    {len(pods)} pods, {WARM} warm, {want} addresses in EC2; "
          f"{state['leases']['released']} taken back since the last start")
