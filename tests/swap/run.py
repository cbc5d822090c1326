#!/usr/bin/env python3
"""Swaps AWS's own aws-node, unmodified, for ours on a live node, and back.

    .venv/bin/python tests/swap/run.py [NAME …]      all, or those whose name contains NAME

Needs what scripts/upstream.sh builds. Both sides run as their DaemonSets run them (container.sh); every
test has a lab of its own, and the machine's state is compared before and after each.
"""
import difflib
import json
import re
import subprocess
import sys
import time

from node import ADDRESS, AWS, BRANCHLINE, NAME, OURS, ROOT, UPSTREAM, BIN, Node, run, scenarios, until

# Lines of the node's network that may differ after a swap, each with its reason. Everything else is
# a defect.
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
    assert not bad, "the node's network is not as before:\n" + "\n".join(bad)
    print(f"    network: {len(before)} lines, {len(lines)} differ")


class Traffic:
    """From every pod to the database, to the internet and to the next pod; from the node to every pod."""

    def __init__(self, node, pods):
        places = sorted(pods)
        self.clients = [node.stream(NAME, pods)]
        for i, name in enumerate(places):
            near = places[(i + 1) % len(places)]
            targets = {"orders": "10.0.21.40", "mail": "198.51.100.25", near: pods[near]}
            self.clients.append(node.stream(name, targets))

    def end(self):
        """Ends all streams, fails for any that broke or lost a byte; returns the sums."""
        for client in self.clients:
            client.stdin.close()
        reports = []
        for client in self.clients:
            text = client.stdout.read()
            assert client.wait(30) == 0, "a client failed"
            reports += json.loads(text)
        bad = [r for r in reports if r["broke"] or r["sent"] != r["back"] or r["failed"] or not r["sent"]]
        assert not bad, "connections broke or lost data:\n" + "\n".join(map(str, bad))
        sums = {"connections": len(reports), "blocks": sum(r["back"] for r in reports),
                "anew": sum(r["made"] for r in reports), "longest_ms": max(r["longest_ms"] for r in reports)}
        print(f"    traffic: {sums['connections']} connections held, {sums['blocks']} blocks of 512 bytes, "
              f"none lost, longest pause {sums['longest_ms']} ms; {sums['anew']} made anew, none failed")
        return sums


def reaches(node, *pods):
    """Pods reach the database, the internet and each other, with their own connections."""
    addresses = node.pods()
    traffic = Traffic(node, {p: addresses[p] for p in pods})
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

        before = node.network()
        gap = node.swap(OURS)
        print(f"    to ours: {gap:.1f} s without an agent")
        same_network(before, node.network(), TO_OURS)
        assert node.interfaces() == ec2, "EC2 is not as before"
        assert node.known_pods() == node.checkpoint() == made

        node.delete("api-14", "api-15")
        is_bare_of(node, made["api-14"], made["api-15"])
        node.add("new-1", "new-2")
        now = node.pods()
        assert {now["new-1"], now["new-2"]} == {made["api-14"], made["api-15"]}, "the two that were free"
        reaches(node, "new-1", "new-2", "api-1")
        assert node.interfaces() == ec2, "EC2 is not as before"

        before = node.network()
        gap = node.swap(AWS)
        print(f"    back: {gap:.1f} s without an agent")
        same_network(before, node.network(), TO_AWS)
        assert node.interfaces() == ec2, "EC2 is not as before"
        assert node.known_pods() == node.checkpoint() == now

        node.delete("new-1")
        is_bare_of(node, now["new-1"])
        node.add("back-1")
        reaches(node, "back-1", "new-2", "api-1")
        traffic.end()
        node.delete(*node.pods())
        is_bare_of(node, *made.values())


def main(wanted):
    tests = [(n, t) for n, t in globals().items() if n.startswith("test_")]
    tests = [(n, t) for n, t in tests if not wanted or any(w in n for w in wanted)]
    passed = failed = 0
    for name, test in tests:
        began, before = time.monotonic(), machine()
        try:
            test()
            after = machine()
            if before != after:
                lines = set(after.splitlines()) ^ set(before.splitlines())
                raise AssertionError("the machine is not as before:\n" + "\n".join(sorted(lines)[:40]))
            passed += 1
            outcome = "ok"
        except Exception as error:  # whatever it is, the next test runs
            failed += 1
            outcome = f"FAILED\n{type(error).__name__}: {error}"
            subprocess.run([BRANCHLINE, "lab", "down"], env=scenarios.environment(), check=False)
        print(f"{name} … {outcome} ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


def machine():
    return run([ROOT / "scripts/machine-state.sh"]).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
