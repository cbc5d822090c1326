#!/usr/bin/env python3
"""Every right of the chart's ClusterRole, taken away one by one: pods are served, and the right is named.

    .venv/bin/python tests/kubernetes/rbac.py [NAME …]
"""
import json
import sys
import time

from node import NODE, eventually, in_cluster, run_all

ROLE = ("get", "clusterrole", "aws-node", "-o", "json")
VALUES = ("--set", "env.ANNOTATE_POD_IP=true")
VARIABLES = {"ANNOTATE_POD_IP": "true", "MAX_ENI": "1"}


def rights(role):
    return [(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]]


def without(role, resource, verb):
    taken = json.loads(json.dumps(role))
    for rule in taken["rules"]:
        if resource in rule["resources"]:
            rule["verbs"] = [v for v in rule["verbs"] if v != verb]
    # RBAC has no rule without verbs.
    taken["rules"] = [rule for rule in taken["rules"] if rule["verbs"]]
    return taken


def use_every_right(node, round_):
    """A pod with an annotation, a refused one with an event, and the event counted up."""
    name = f"r{round_}"
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
           "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}]}}
    made = json.loads(node.kubectl("create", "-f", "-", "-o", "json", text=json.dumps(pod)).stdout)
    code, answer = node.add(name, made["metadata"]["uid"])
    assert code == 0, answer  # whatever right is missing
    node.fill(4, f"{name}-")
    for pause in (10.2, 0):  # an event is counted up at most every 10 s
        code, answer = node.add(f"{name}-more")
        assert code != 0 and "interfaces that MAX_ENI allows are full" in json.dumps(answer), answer
        time.sleep(pause)


def let_go(node, round_):
    for pod in (f"r{round_}", *(f"r{round_}-{i}" for i in range(4)), f"r{round_}-more"):
        node.delete(pod)
    time.sleep(1.2)  # the addresses rest


def test_each_right_is_used_and_named_when_it_is_missing():
    with in_cluster(*VALUES, **VARIABLES) as node:
        role = json.loads(node.kubectl(*ROLE).stdout)
        use_every_right(node, 0)
        state = node.cluster()
        assert state["failures"] == {}, state
        assert node.condition()["status"] == "False", node.condition()
        let_go(node, 0)
        for round_, (resource, verb) in enumerate(rights(role), 1):
            node.kubectl("replace", "-f", "-", text=json.dumps(without(role, resource, verb)))
            node.stop("agent")
            log = node.agent(**VARIABLES)
            before = log.stat().st_size
            use_every_right(node, round_)
            name = f"{verb} {resource}"
            state = eventually(node.cluster, lambda c: c["failures"], what=f"{name} is missed")
            assert list(state["failures"]) == [name], (name, state)
            told = state["failures"][name]
            assert "forbidden" in told and "ClusterRole" in told, told
            assert state["state"] == "connected", state
            lines = [line for line in log.read_text().splitlines() if f'"right":"{name}"' in line]
            assert lines and json.loads(lines[-1])["without"], f"{name} is not in the log from {before}"
            let_go(node, round_)
            node.kubectl("replace", "--force", "-f", "-", text=json.dumps(fresh(role)))
            # … and given back it works without a restart.
            if verb != "watch":
                use_every_right(node, f"{round_}b")
                eventually(node.cluster, lambda c: c["failures"] == {}, 90, f"{name} works again")
                let_go(node, f"{round_}b")


def fresh(role):
    for field in ("resourceVersion", "uid", "creationTimestamp"):
        role["metadata"].pop(field, None)
    return role


if __name__ == "__main__":
    sys.exit(run_all([(n, t) for n, t in globals().items() if n.startswith("test_")], sys.argv[1:]))
