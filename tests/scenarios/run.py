#!/usr/bin/env python3
"""Runs the acceptance scenarios: each on the model and with packets, then its mutated twin.

    .venv/bin/python tests/scenarios/run.py [ID …]      all, or those named (S3-04 S3-08)
    KEEP=1 … run.py S3-04                               leaves the lab up after a failure
    JOBS=1 … run.py                                     one lab at a time (default: 2, each of its own name)

A scenario (scenarios/S*.yaml) has steps under `given`, `when` and `then`. A step is a shell line
(`run`) with what it must show: `exit` (default 0), `contains`, `lacks`, `json` (paths and values).
Shell lines see the lab as a user does, after `eval "$(branchline lab env)"`, and three short forms:

    eni NODE DEVICE     the id of a node's network interface at a device index
    sg NAME             the id of a security group
    groups ENI          the ids of the groups on an interface
    cluster_sg CLUSTER  the id of a cluster's own security group
    node NODE           a node's Kubernetes name

`change` sets single values of the topology (`nodes[0].type: m5.large`) before it is brought up.

The twin changes one thing of the story (`given`, `when`, `change`: in place of the scenario's) and must make at least one step under `then` fail, or the scenario could
not fail at all. `instead` are steps that must hold in the twin.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = ROOT / "scenarios"
BIN = Path(os.environ.get("BRANCHLINE_BIN", ROOT / "target" / "debug")).resolve()
KUBERNETES = BIN.parent / "kubernetes" / "bin"
VENV = Path(sys.executable).parent
# Most of a scenario's time is waiting: two go at once, each in a lab of its own.
JOBS = int(os.environ.get("JOBS", "2"))
STEP_TIMEOUT = 240

PRELUDE = r"""
set -euo pipefail
eni() { aws ec2 describe-network-interfaces --output text \
  --filters "Name=tag:Name,Values=$1-eth$2" --query 'NetworkInterfaces[].NetworkInterfaceId' |
  grep . || aws ec2 describe-network-interfaces --output text --query 'NetworkInterfaces[].NetworkInterfaceId' \
  --filters "Name=attachment.instance-id,Values=$(instance "$1")" "Name=attachment.device-index,Values=$2"; }
instance() { aws ec2 describe-instances --output text --filters "Name=private-dns-name,Values=$1.*" \
  Name=instance-state-name,Values=pending,running --query 'Reservations[].Instances[].InstanceId'; }
sg() { aws ec2 describe-security-groups --output text --filters "Name=group-name,Values=$1" \
  --query 'SecurityGroups[].GroupId'; }
groups() { aws ec2 describe-network-interfaces --output text --network-interface-ids "$1" \
  --query 'NetworkInterfaces[].Groups[].GroupId'; }
cluster_sg() { aws eks describe-cluster --name "$1" --output text \
  --query cluster.resourcesVpcConfig.clusterSecurityGroupId; }
node() { kubectl get nodes -o name | grep -F "node/$1." | cut -d/ -f2; }
"""


class Failed(Exception):
    """A step did not show what it must."""


# The lab of a runner that has one at a time.
LAB = f"scenario-{os.getpid()}"


def environment(home=None):
    """A user's environment; with a home and a lab of its own for each thread, if there is a home."""
    env = {**os.environ, "BRANCHLINE_LAB": LAB, "PATH": f"{BIN}:{KUBERNETES}:{VENV}:{os.environ['PATH']}"}
    if home is not None:
        env |= {"HOME": home, "BRANCHLINE_LAB": f"{LAB}-{threading.get_ident() % 1_000_000}"}
    return env


def shell(line, env, timeout=STEP_TIMEOUT):
    return subprocess.run(
        ["bash", "-c", PRELUDE + line],
        env=env, cwd=SCENARIOS, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout,
    )


def at(document, path):
    """The value at a path like `placements[0].eni`; `x[]` is the list of x, `x.#` its length."""
    value = document
    for part in re.findall(r"[^.\[\]]+|\[\d+\]|\[\]", path):
        if part == "#":
            value = len(value)
        elif part == "[]":
            continue
        elif part.startswith("["):
            value = value[int(part[1:-1])]
        elif isinstance(value, list):
            value = [item[part] for item in value]
        else:
            value = value[part]
    return value


def same(seen, wanted):
    if isinstance(wanted, dict) and set(wanted) == {"has"}:
        return wanted["has"] in seen
    if isinstance(wanted, dict) and set(wanted) == {"lacks"}:
        return wanted["lacks"] not in seen
    return seen == wanted


def once(step, env):
    done = shell(step["run"], env)
    told = f"$ {step['run'].strip()}\n{done.stdout}{done.stderr}"
    if done.returncode != step.get("exit", 0):
        raise Failed(f"exit {done.returncode}, expected {step.get('exit', 0)}\n{told}")
    for text in step.get("contains", []):
        if text not in done.stdout + done.stderr:
            raise Failed(f"no {text!r} in\n{told}")
    for text in step.get("lacks", []):
        if text in done.stdout + done.stderr:
            raise Failed(f"{text!r} in\n{told}")
    if "json" in step:
        try:
            document = json.loads(done.stdout)
        except json.JSONDecodeError as error:
            raise Failed(f"not JSON: {error}\n{told}") from error
        for path, wanted in step["json"].items():
            try:
                seen = at(document, path)
            except (KeyError, IndexError, TypeError) as error:
                raise Failed(f"nothing at {path} ({error!r})\n{told}") from error
            if not same(seen, wanted):
                raise Failed(f"{path} is {seen!r}, expected {wanted!r}\n{told}")


def check(step, env):
    """Runs a step; with `within`, again until it holds or that many seconds are over."""
    deadline = time.monotonic() + step.get("within", 0)
    while True:
        try:
            return once(step, env)
        except Failed:
            if time.monotonic() >= deadline:
                raise
            time.sleep(1)


def changed(topology, change):
    """The text of a topology with some of its values set."""
    document = yaml.safe_load((SCENARIOS / topology).read_text())
    for path, value in change.items():
        *parents, last = re.findall(r"[^.\[\]]+", path)
        place = document
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
        place[last] = value
    return yaml.safe_dump(document, sort_keys=False)


def with_lab(topology, change, story):
    """Brings a lab up, runs `story(env)` and takes the lab down, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="branchline-scenario") as home:
        return in_lab(topology, change, story, environment(home))


def in_lab(topology, change, story, env):
    outside = dict(env)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", prefix="branchline-scenario") as file:
        file.write(changed(topology, change))
        file.flush()
        up = subprocess.run(
            [BIN / "branchline", "lab", "up", "-f", file.name],
            env=env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=300,
        )
    if up.returncode != 0:
        raise Failed(f"lab up: exit {up.returncode}\n{up.stdout}")
    keep = False
    try:
        exports = subprocess.run([BIN / "branchline", "lab", "env"], env=env, text=True,
                                 stdout=subprocess.PIPE, check=True).stdout
        for name, value in re.findall(r"^export (\w+)='?([^'\n]*)'?$", exports, re.M):
            env[name] = value
        return story(env)
    except BaseException:
        keep = bool(os.environ.get("KEEP"))
        raise
    finally:
        if keep:
            print(f"  the lab is still up: export BRANCHLINE_LAB={outside['BRANCHLINE_LAB']}")
        else:
            down = subprocess.run([BIN / "branchline", "lab", "down"], env=outside, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
            if down.returncode != 0:
                raise Failed(f"lab down: exit {down.returncode}\n{down.stdout}")


def scenario(spec):
    def story(env):
        for step in spec.get("given", []) + spec.get("when", []) + spec["then"]:
            check(step, env)
    with_lab(spec["topology"], spec.get("change", {}), story)


def twin(spec):
    mutation = spec["twin"]

    def story(env):
        for step in mutation.get("given", spec.get("given", [])):
            check(step, env)
        for step in mutation.get("when", spec.get("when", [])):
            check(step, env)
        failures = 0
        for step in spec["then"]:
            try:
                once(step, env)
            except Failed:
                failures += 1
        if not failures:
            raise Failed("every step under `then` holds in the twin too: the scenario cannot fail")
        for step in mutation.get("instead", []):
            check(step, env)
    with_lab(spec["topology"], mutation.get("change", spec.get("change", {})), story)


def told(spec, name, play):
    """Plays it and prints how it went; whether it went well."""
    began = time.monotonic()
    outcome = "ok"
    try:
        play(spec)
    except (Failed, subprocess.SubprocessError) as error:
        outcome = f"FAILED\n{error}"
    print(f"{spec['id']}  {name} … {outcome} ({time.monotonic() - began:.1f} s)\n", end="", flush=True)
    return outcome == "ok"


def main(wanted):
    files = sorted(SCENARIOS.glob("S*.yaml"))
    specs = [yaml.safe_load(f.read_text()) for f in files]
    specs = [s for s in specs if not wanted or s["id"] in wanted]
    missing = set(wanted) - {s["id"] for s in specs}
    if missing or not specs:
        print(f"no such scenario: {', '.join(sorted(missing)) or 'none found'}")
        return 2
    plays = [(spec, name, play) for spec in specs
             for name, play in ((spec["title"], scenario), ("twin: " + spec["twin"]["title"], twin))]
    with ThreadPoolExecutor(JOBS) as workers:
        outcomes = list(workers.map(lambda item: told(*item), plays))
    passed = sum(outcomes)
    failed = len(outcomes) - passed
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
