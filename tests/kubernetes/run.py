#!/usr/bin/env python3
"""Kubernetes in the lab at bad moments and on ordinary days: the runtime's calls, faults, Services, kubectl.

    .venv/bin/python tests/kubernetes/run.py [NAME …]      all, or those whose name contains NAME
    KEEP=1 … run.py NAME                                   leaves the lab up after a failure
    LAB=NAME … run.py NAME                                 in a lab that is up

Most tests share a lab, as it takes longer to bring one up than to run most of them. A test that fails
leaves its lab to nobody: the next test begins with a new one. The machine's state is compared
before and after each lab.
"""
import os
import re
import subprocess
import sys
import time
import traceback

import alone
import everyday
import moments
import runtime
from cluster import CONTAINERD, GIVEN, LAB, Cluster
from trials import machine

# STATUS is known from 1.1.0 on; a list of several versions is for runtimes that know only the older one, too.
VERSIONS = {"cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"]}

PROGRAMS = ("/branchline ", "  branchline ", "/branchline-agent ", "/aws-cni")


def shared():
    return Cluster(), {}


def with_status():
    return Cluster(BRANCHLINE_CONTAINERD=str(CONTAINERD)), VERSIONS


def tests_of(*modules):
    return [(n, t) for m in modules for n, t in vars(m).items() if n.startswith("test_")]


GROUPS = [
    (None, tests_of(alone)),
    (shared, tests_of(everyday, runtime, moments)),
    (with_status, [("test_status", runtime.status)]),
]


class Runner:
    def __init__(self):
        self.cluster, self.before, self.passed, self.failed = None, None, 0, 0

    def run(self, name, test, make):
        began = time.monotonic()
        try:
            if make and not self.cluster:
                self.before = machine()
                cluster, changes = make()
                self.cluster = cluster.__enter__()
                self.cluster.watch(**changes)
                print(f"  a lab, in {time.monotonic() - began:.1f} s", flush=True)
                began = time.monotonic()
            if make:
                test(self.cluster)
            else:
                before = machine()
                test()
                as_before(before)
            self.passed, outcome = self.passed + 1, "ok"
        except (AssertionError, subprocess.SubprocessError, KeyError, IndexError, OSError, ValueError) as error:
            self.failed, outcome = self.failed + 1, f"FAILED\n{type(error).__name__}: {error}"
            traceback.print_tb(error.__traceback__)
            if os.environ.get("KEEP"):
                print(f"{name} … {outcome}\nthe lab stays: {LAB}")
                sys.exit(1)
            self.down()
        print(f"{name} … {outcome} ({time.monotonic() - began:.1f} s)", flush=True)

    def down(self):
        if not self.cluster:
            return
        cluster, self.cluster = self.cluster, None
        try:
            cluster.__exit__()
            if not GIVEN:
                as_before(self.before)
        except (AssertionError, subprocess.SubprocessError, OSError) as error:
            self.failed += 1
            print(f"lab down … FAILED\n{error}", flush=True)


def as_before(before):
    after = machine()
    lines = set(after.splitlines()) ^ set(before.splitlines())
    # Other labs come and go beside this one: their names are in the list of labs, their programs and the
    # cgroup above all of them may be there or not. What is ours has this lab's name in it.
    others = {name for name in re.findall(r"/run/branchline/([a-z0-9-]+)", before + after) if name != LAB}
    foreign = (*others, *PROGRAMS, *(["/sys/fs/cgroup/"] if others else []))
    lines = sorted(line for line in lines if LAB in line or not any(word in line for word in foreign))
    assert not lines, "the machine is not as before:\n" + "\n".join(lines[:40])


def main(wanted):
    runner = Runner()
    for make, tests in GROUPS:
        for name, test in tests:
            if not wanted or any(w in name for w in wanted):
                runner.run(name, test, make)
        runner.down()
    print(f"{runner.passed} passed, {runner.failed} failed")
    return 1 if runner.failed or not runner.passed else 0


if __name__ == "__main__":
    os.chdir("/")
    sys.exit(main(sys.argv[1:]))
