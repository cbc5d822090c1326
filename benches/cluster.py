#!/usr/bin/env python3
"""The figures of a lab with Kubernetes: `scripts/bench.sh cluster` (docs/figures.md has the results).

    benches/cluster.py [up] [pods] [agent] [ten] [churn]     all of them, or those named

Needs root and release binaries (BRANCHLINE_BIN). Nothing is asserted about time; what leaks or does
not end fails.
"""
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(os.environ.get("BRANCHLINE_BIN", ROOT / "target" / "release")).resolve()
KUBERNETES = BIN.parent / "kubernetes" / "bin"
LAB = f"bench-{os.getpid()}"
ENV = {
    **os.environ,
    "PATH": f"{BIN}:{KUBERNETES}:{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
    "BRANCHLINE_LAB": LAB,
}


def run(*command, env=None, text=None, check=True):
    done = subprocess.run(command, env=env or ENV, input=text, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)
    if check and done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Lab:
    """A lab that is up inside of the `with`."""

    def __init__(self, topology):
        self.topology = ROOT / topology

    def __enter__(self):
        begun = time.monotonic()
        run("branchline", "lab", "up", "-f", self.topology)
        self.took = time.monotonic() - begun
        self.env = {**ENV, **json.loads(run("branchline", "lab", "env", "--shell", "json"))}
        return self

    def __exit__(self, *_):
        begun = time.monotonic()
        run("branchline", "lab", "down")
        self.down = time.monotonic() - begun

    def kubectl(self, *command, text=None, check=True):
        return run("kubectl", *command, env=self.env, text=text, check=check)

    def pods(self):
        return json.loads(self.kubectl("get", "pods", "-A", "-o", "json"))["items"]


def told(what, values, unit="s", goal=""):
    values = sorted(values)
    spread = f"{values[0]:.2f} to {values[-1]:.2f}, n={len(values)}"
    print(f"| {what} | {statistics.median(values):.2f} {unit} | {spread} | {goal} |", flush=True)


def deployment(name, replicas):
    return json.dumps({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": "branchline/tools", "imagePullPolicy": "IfNotPresent",
                                "command": ["sleep", "infinity"]}]}},
        }})


def until(lab, count, patience=120):
    """Waits until exactly so many pods of the default namespace run and no other is there."""
    deadline = time.monotonic() + patience
    while True:
        phases = lab.kubectl("get", "pods", "-o", "jsonpath={.items[*].status.phase}").split()
        if len(phases) == count and all(p == "Running" for p in phases):
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"{phases.count('Running')} of {count} pods run after {patience} s\n"
                             + lab.kubectl("get", "events", "--field-selector=type=Warning"))
        time.sleep(0.1)


def addresses(lab):
    """Secondary addresses of all nodes' interfaces in EC2, and the pods' addresses."""
    enis = json.loads(run("aws", "ec2", "describe-network-interfaces", "--output", "json", env=lab.env))
    secondary = {a["PrivateIpAddress"] for e in enis["NetworkInterfaces"] for a in e["PrivateIpAddresses"]
                 if not a["Primary"]}
    pods = {p["status"]["podIP"] for p in lab.pods() if not p["spec"].get("hostNetwork") and "podIP" in p["status"]}
    return secondary, pods


def up():
    took, down = [], []
    for _ in range(5):
        with Lab("scenarios/eks/topology.yaml") as lab:
            took.append(lab.took)
        down.append(lab.down)
    told("`lab up`: control plane, 2 nodes Ready, aws-node, CoreDNS", took, goal="≤ 10 s")
    told("`lab down`", down)


def pods():
    with Lab("scenarios/eks/topology.yaml") as lab:
        took, gone, ready = [], [], []
        for _ in range(6):
            begun = time.monotonic()
            lab.kubectl("apply", "-f", "-", text=deployment("api", 15))
            # It watches: asking again and again would take the cores from what is measured.
            lab.kubectl("rollout", "status", "deployment/api", "--timeout=120s")
            took.append(time.monotonic() - begun)
            begun = time.monotonic()
            lab.kubectl("delete", "deployment", "api", "--wait=false")
            until(lab, 0)
            gone.append(time.monotonic() - begun)
            # The addresses rest for 30 s; the two nodes have no 15 others.
            time.sleep(32)
        told("`kubectl apply` of 15 pods until all run", took, goal="≤ 1.5 s (p50)")
        told("15 pods deleted until all are gone", gone)
        name = json.loads(run("aws", "eks", "list-nodegroups", "--cluster-name", "dev", "--output", "json",
                              env=lab.env))["nodegroups"][0]
        for size in (3, 4, 5):
            begun = time.monotonic()
            run("aws", "eks", "update-nodegroup-config", "--cluster-name", "dev", "--nodegroup-name", name,
                "--scaling-config", f"maxSize=10,desiredSize={size}", env=lab.env)
            while len(lab.kubectl("get", "nodes").split(" Ready ")) - 1 < size:
                time.sleep(0.05)
            ready.append(time.monotonic() - begun)
        told("one more node: from update-nodegroup-config to Ready", ready)


def churn(minutes=5):
    with Lab("scenarios/eks/topology.yaml") as lab:
        lab.kubectl("apply", "-f", "-", text=deployment("api", 10))
        until(lab, 10)
        begun, made = time.monotonic(), 0
        while time.monotonic() - begun < 60 * minutes:
            live = json.loads(lab.kubectl("get", "pods", "-o", "json"))["items"]
            names = [p["metadata"]["name"] for p in live if "deletionTimestamp" not in p["metadata"]][:5]
            # One that its ReplicaSet was just taking away is gone either way.
            lab.kubectl("delete", "pod", "--wait=false", "--grace-period=0", "--ignore-not-found", *names)
            made += len(names)
            pause = made * 0.6 - (time.monotonic() - begun)
            time.sleep(max(0.0, pause))
        until(lab, 10)
        minutes_taken = (time.monotonic() - begun) / 60
        lab.kubectl("delete", "deployment", "api", "--wait=false")
        until(lab, 0)
        time.sleep(35)
        secondary, used = addresses(lab)
        links = 0
        for node in lab.kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").split():
            out = run("branchline", "lab", "node", "exec", node, "--", "sh", "-c",
                      "ls -d /sys/class/net/eni* 2>/dev/null | wc -l; ls /run/netns | grep -c . || true")
            links += int(out.split()[0])
        local = sum(1 for p in lab.pods() if not p["spec"].get("hostNetwork"))
        if not used <= secondary or links != local:
            raise SystemExit(f"a leak: {links} veths for {local} pods; {used - secondary} not in EC2")
        print(f"| churn of {made / minutes_taken:.0f} pods a minute for {minutes_taken:.1f} minutes | {made} pods | "
              f"{links} veths for {local} pods, {len(secondary)} addresses in EC2 | no leak |", flush=True)


def agent():
    with Lab("benches/topologies/hundred.yaml") as lab:
        lab.kubectl("apply", "-f", "-", text=deployment("api", 108))
        until(lab, 108)
        node = lab.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
        script = ("for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = branchline-agen ] || continue; "
                  "tr '\\0' ' ' <$p/cmdline | grep -q addresses && grep -E 'VmRSS|RssAnon' $p/status; "
                  "g=$(sed -n 's/^[0-9]*:memory://p' $p/cgroup); "
                  "cat /sys/fs/cgroup/memory$g/memory.usage_in_bytes 2>/dev/null || "
                  "find /sys/fs/cgroup -path '*memory*' -path \"*$g/memory.usage_in_bytes\" -exec cat {} \\; ; done")
        print("| the agent with 110 pods | " + " ".join(
            run("branchline", "lab", "node", "exec", node, "--", "sh", "-c", script).split()) + " | | |", flush=True)


def ten():
    before = int(next(l for l in open("/proc/meminfo") if l.startswith("MemAvailable")).split()[1])
    with Lab("benches/topologies/ten.yaml") as lab:
        took = lab.took
        begun = time.monotonic()
        lab.kubectl("apply", "-f", "-", text=deployment("api", 150))
        until(lab, 150, patience=300)
        running = time.monotonic() - begun
        after = int(next(l for l in open("/proc/meminfo") if l.startswith("MemAvailable")).split()[1])
        begun = time.monotonic()
        lab.kubectl("delete", "deployment", "api", "--wait=false")
        until(lab, 0, patience=300)
        gone = time.monotonic() - begun
    print(f"| 10 nodes: `lab up` | {took:.1f} s | | |")
    print(f"| 150 pods on them until all run | {running:.1f} s | | |")
    print(f"| memory of the machine taken by it | {(before - after) / 1048576:.1f} GiB | MemAvailable before and after | |")
    print(f"| 150 pods deleted until all are gone | {gone:.1f} s | | |")
    print(f"| `lab down` of 10 nodes | {lab.down:.1f} s | | |", flush=True)


if __name__ == "__main__":
    parts = {f.__name__: f for f in (up, pods, agent, ten, churn)}
    wanted = sys.argv[1:] or list(parts)
    unknown = [w for w in wanted if w not in parts]
    if unknown:
        sys.exit(f"no such part: {', '.join(unknown)} (there is {', '.join(parts)})")
    print("| what | p50 | spread | goal |\n|---|---|---|---|")
    for part in wanted:
        parts[part]()
