"""The Helm chart: what it renders for which values, and what it refuses. Prints `N passed, M failed`.

    .venv/bin/python tests/chart/run.py

Helm and kubectl are those of the lab (target/kubernetes/bin, or KUBEBUILDER_ASSETS); nothing is installed
anywhere, and no cluster is asked.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/conformance"))
from harness import Checks  # noqa: E402  one way to count, for all

import monitoring as watched  # noqa: E402

BIN = Path(os.environ.get("BRANCHLINE_BIN") or ROOT / "target/debug")
KUBERNETES = Path(os.environ.get("KUBEBUILDER_ASSETS") or BIN.parent / "kubernetes/bin")
CHART = ROOT / "deploy/aws-vpc-cni"
AGENT = BIN / "branchline-agent"
check = Checks()


def tool(name, *words, text=None):
    return subprocess.run([KUBERNETES / name, *map(str, words)], input=text, text=True, timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def helm(values, *words):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        return tool("helm", "template", "aws-vpc-cni", CHART, "-n", "kube-system", "-f", file.name, *words)


def render(values=None, *words):
    """The objects by kind; fails when there are two of a kind and name."""
    done = helm(values or {}, *words)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = {}
    for item in yaml.safe_load_all(done.stdout):
        if item:
            key = (item["kind"], item["metadata"]["name"])
            assert key not in found, key
            found[key] = item
    return found


def one(objects, kind):
    (item,) = [o for (k, _), o in objects.items() if k == kind]
    return item


def pod_of(objects):
    return one(objects, "DaemonSet")["spec"]["template"]["spec"]


def container(pod, name, of="containers"):
    (found,) = [c for c in pod[of] if c["name"] == name]
    return found


def variables(of):
    return {e["name"]: e.get("value") for e in of["env"]}


def settings_table():
    done = subprocess.run([AGENT, "variables"], text=True, check=True, stdout=subprocess.PIPE)
    return {line.split(" ", 1)[0] for line in done.stdout.splitlines()}


def defaults():
    objects = render()
    check.equal("objects", sorted(objects), [
        ("ClusterRole", "aws-node"), ("ClusterRoleBinding", "aws-node"), ("DaemonSet", "aws-node"),
        ("ServiceAccount", "aws-node")])
    set_, pod = one(objects, "DaemonSet"), pod_of(objects)
    check.equal("namespace", set_["metadata"]["namespace"], "kube-system")
    labels = set_["spec"]["template"]["metadata"]["labels"]
    check.equal("k8s-app", labels["k8s-app"], "aws-node")
    selector = set_["spec"]["selector"]["matchLabels"]
    check.that("the selector selects", selector.items() <= labels.items(), selector)
    check.equal("one at a time", set_["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], "10%")
    check.equal("host network", pod["hostNetwork"], True)
    check.equal("priority", pod["priorityClassName"], "system-node-critical")
    check.equal("tolerations", pod["tolerations"], [{"operator": "Exists"}])
    check.equal("service account", pod["serviceAccountName"], "aws-node")
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    check.that("not on Fargate", "fargate" in terms[0]["matchExpressions"][2]["values"])
    agent, init = container(pod, "aws-node"), container(pod, "aws-vpc-cni-init", "initContainers")
    check.equal("containers", [c["name"] for c in pod["containers"]], ["aws-node"])
    check.equal("command", agent["command"], ["/app/branchline-agent", "addresses"])
    check.equal("init's command", init["command"], ["/app/branchline-agent", "init"])
    check.equal("image", agent["image"], f"branchline/aws-node:{version()}")
    check.equal("pull policy", (agent["imagePullPolicy"], init["imagePullPolicy"]), ("IfNotPresent",) * 2)
    check.equal("unprivileged", agent["securityContext"], {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}})
    check.equal("init is privileged", init["securityContext"], {"privileged": True})
    check.equal("livenessProbe", agent["livenessProbe"]["exec"]["command"], ["/app/branchline-agent", "health"])
    check.equal("readinessProbe", agent["readinessProbe"]["httpGet"],
                {"host": "127.0.0.1", "port": 61678, "path": "/readyz"})
    for name in ("livenessProbe", "readinessProbe"):
        check.equal(f"{name}: timeout", agent[name]["timeoutSeconds"], 10)
    mounts = {m["mountPath"]: m["name"] for m in agent["volumeMounts"]}
    volumes = {v["name"]: v["hostPath"]["path"] for v in pod["volumes"]}
    check.equal("host paths", {to: volumes[name] for to, name in mounts.items()}, {
        "/host/opt/cni/bin": "/opt/cni/bin", "/host/etc/cni/net.d": "/etc/cni/net.d",
        "/host/var/log/aws-routed-eni": "/var/log/aws-routed-eni", "/var/run/aws-node": "/var/run/aws-node",
        "/run/xtables.lock": "/run/xtables.lock"})
    fields = {e["name"]: e["valueFrom"]["fieldRef"]["fieldPath"] for e in agent["env"] if "valueFrom" in e}
    check.equal("downward API", fields, {"MY_NODE_NAME": "spec.nodeName", "MY_POD_NAME": "metadata.name"})
    known = settings_table()
    for part in (agent, init):
        unknown = set(variables(part)) - known
        check.that(f"{part['name']}: every default variable is read", not unknown, unknown)
        # 2: nobody listens. 64 would be a variable outside its rule.
        env = {name: value for name, value in variables(part).items() if value is not None}
        env["AWS_VPC_CNI_IPAMD_SOCKET"] = "/nonexistent/ipamd.sock"
        done = subprocess.run([AGENT, "health"], env=env, text=True, stderr=subprocess.PIPE)
        check.equal(f"{part['name']}: the agent takes the defaults", (done.returncode, done.stderr.count("\n")), (2, 1))
    lint = tool("helm", "lint", CHART)
    check.that("helm lint", lint.returncode == 0, lint.stdout + lint.stderr)


def version():
    text = (ROOT / "Cargo.toml").read_text()
    return re.search(r'^version = "(.*)"$', text, re.M).group(1)


def versions():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    check.equal("version of chart and workspace", (chart["version"], chart["appVersion"]), (version(), version()))


def environment():
    values = {"env": {"WARM_IP_TARGET": 2, "MAX_ENI": 10000000, "ENABLE_POD_ENI": True, "X": 1.5, "ANYTHING_AT_ALL": "a: b"}}
    env = variables(container(pod_of(render(values)), "aws-node"))
    wanted = {"WARM_IP_TARGET": "2", "MAX_ENI": "10000000", "ENABLE_POD_ENI": "true", "X": "1.5",
              "ANYTHING_AT_ALL": "a: b", "WARM_ENI_TARGET": "1"}
    check.equal("numbers and booleans are written as text", {n: env[n] for n in wanted}, wanted)
    env = variables(container(pod_of(render({}, "--set", "env.WARM_IP_TARGET=20000000")), "aws-node"))
    check.equal("--set", env["WARM_IP_TARGET"], "20000000")
    nulls = variables(container(pod_of(render({"env": {"WARM_ENI_TARGET": None}}, "--set", "env.NEW=null")), "aws-node"))
    check.that("null leaves a variable out", not {"WARM_ENI_TARGET", "NEW"} & nulls.keys(), nulls)
    # The article's add-on configuration.
    article = {"env": {"ENABLE_POD_ENI": "true", "POD_SECURITY_GROUP_ENFORCING_MODE": "standard",
                       "AWS_VPC_K8S_CNI_EXTERNALSNAT": "true"}, "init": {"env": {"DISABLE_TCP_EARLY_DEMUX": "true"}}}
    pod = pod_of(render(article))
    check.equal("init.env", variables(container(pod, "aws-vpc-cni-init", "initContainers"))["DISABLE_TCP_EARLY_DEMUX"], "true")


def wrong_values():
    """Each is refused, and the refusal has the value's name."""
    for values, *said in (
        ({"env": {"WARM_IP_TARGET": ["2"]}}, "/env/WARM_IP_TARGET", "got array"),
        ({"env": {"A B": "x"}}, "/env", "A B"),
        ({"env": "x"}, "/env", "got string"),
        ({"init": {"env": {"A": {"b": "c"}}}}, "/init/env/A"),
        ({"envs": {}}, "envs"),
        ({"nodeAgent": {"enabled": "yes"}}, "/nodeAgent/enabled", "got string"),
        ({"nodeAgent": {"port": 1}}, "port"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"image": {"tag": 1.0}}, "/image/tag"),
        ({"tolerations": {"operator": "Exists"}}, "/tolerations"),
        ({"resources": []}, "/resources"),
        ({"nodeSelector": {"a": True}}, "/nodeSelector/a"),
        ({"livenessProbeTimeoutSeconds": "10"}, "/livenessProbeTimeoutSeconds"),
        ({"serviceAccount": {"create": "true"}}, "/serviceAccount/create"),
        ({"eniConfig": {"create": True, "subnets": {"a": {"id": "sg-1"}}}}, "/eniConfig/subnets/a/id"),
        ({"eniConfig": {"create": True}}, "eniConfig.subnets"),
        ({"cniConfig": {"enabled": True}}, "cniConfig.fileContents"),
        ({"nodeAgent": {"enabled": True}}, "nodeAgent.enabled=true", "not built"),
        ({"enableNetworkPolicy": "true"}, "enableNetworkPolicy=true", "not built"),
        ({"enableNetworkPolicy": True}, "enableNetworkPolicy=true", "not built"),
        ({"enableWindowsIpam": "true"}, "enableWindowsIpam=true"),
        ({"image": {"account": "602401143452", "tag": "v1.20.0"}}, "image.account=602401143452"),
        ({"init": {"image": {"account": "602401143452"}}}, "init.image.account=602401143452"),
        ({"image": {"account": 123456789012}}, "/image/account", "got number"),
        ({"crd": {"create": False}}, "crd.create", "--skip-crds"),
        ({"cri": {"hostPath": {"path": "/x"}}}, "cri.hostPath"),
    ):
        done = helm(values)
        check.that(f"refused: {values}", done.returncode != 0, "it rendered")
        for text in said:
            check.that(f"refused: {values}: {text}", text in done.stderr, done.stderr)


def names():
    objects = render({"originalMatchLabels": True})
    check.equal("the selector of the DaemonSet that EKS installs", one(objects, "DaemonSet")["spec"]["selector"]["matchLabels"],
                {"k8s-app": "aws-node"})
    canary = render({"nameOverride": "branchline", "fullnameOverride": "aws-node-branchline",
                     "nodeSelector": {"branchline.dev/cni": "canary"}})
    check.equal("a second one shares no object's name", {name for _, name in canary}, {"aws-node-branchline"})
    check.equal("… and runs on its own nodes", pod_of(canary)["nodeSelector"], {"branchline.dev/cni": "canary"})
    subject = one(canary, "ClusterRoleBinding")["subjects"][0]
    check.equal("… with its own rights", (subject["name"], pod_of(canary)["serviceAccountName"]), ("aws-node-branchline",) * 2)
    labels = one(canary, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    selector = one(render(), "DaemonSet")["spec"]["selector"]["matchLabels"]
    check.that("… and the first one does not select its pods", not selector.items() <= labels.items())
    own = render({"serviceAccount": {"create": False, "name": "mine"}})
    check.that("an existing service account", ("ServiceAccount", "mine") not in own)
    check.equal("… is used", pod_of(own)["serviceAccountName"], "mine")
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/r"}
    check.equal("its annotations", one(render({"serviceAccount": {"annotations": role}}), "ServiceAccount")["metadata"]["annotations"], role)


def images():
    image = lambda values: container(pod_of(render(values)), "aws-node")["image"]  # noqa: E731
    check.equal("tag", image({"image": {"tag": "t"}}), "branchline/aws-node:t")
    check.equal("override", image({"image": {"override": "r/i:t", "tag": "x"}}), "r/i:t")
    check.equal("account", image({"image": {"account": "123456789012", "region": "eu-west-1", "tag": "t"}}),
                "123456789012.dkr.ecr.eu-west-1.amazonaws.com/branchline/aws-node:t")


def extras():
    values = {"eniConfig": {"create": True, "subnets": {"us-west-2a": {"id": "subnet-0a", "securityGroups": ["sg-1"]},
                                                        "us-west-2b": {"id": "subnet-0b"}}}}
    configs = {name: o["spec"] for (kind, name), o in render(values).items() if kind == "ENIConfig"}
    check.equal("ENIConfigs", configs, {"us-west-2a": {"subnet": "subnet-0a", "securityGroups": ["sg-1"]},
                                        "us-west-2b": {"subnet": "subnet-0b"}})
    crd = yaml.safe_load((CHART / "crds/eniconfigs.yaml").read_text())
    check.equal("the definition's name", crd["metadata"]["name"], "eniconfigs.crd.k8s.amazonaws.com")
    list_ = '{"cniVersion": "0.4.0",\n  "name": "aws-cni"}'
    objects = render({"cniConfig": {"enabled": True, "fileContents": list_}})
    check.equal("a network list of one's own", json.loads(one(objects, "ConfigMap")["data"]["10-aws.conflist"]), json.loads(list_))
    mounts = {m["mountPath"]: m for m in container(pod_of(objects), "aws-node")["volumeMounts"]}
    check.equal("… is mounted", mounts["/app/10-aws.conflist"]["subPath"], "10-aws.conflist")
    more = {"extraVolumes": [{"name": "v", "emptyDir": {}}], "extraVolumeMounts": [{"name": "v", "mountPath": "/v"}],
            "podAnnotations": {"a": 1}, "podLabels": {"l": "m"}, "imagePullSecrets": [{"name": "s"}],
            "podSecurityContext": {"fsGroup": 1}}
    objects = render(more)
    pod, meta = pod_of(objects), one(objects, "DaemonSet")["spec"]["template"]["metadata"]
    check.that("extraVolumes", {"name": "v", "emptyDir": {}} in pod["volumes"])
    check.that("extraVolumeMounts", {"name": "v", "mountPath": "/v"} in container(pod, "aws-node")["volumeMounts"])
    check.equal("annotations and labels", (meta["annotations"]["a"], meta["labels"]["l"]), ("1", "m"))
    check.equal("the rest", (pod["imagePullSecrets"], pod["securityContext"]), ([{"name": "s"}], {"fsGroup": 1}))


def rights():
    """The role has what the agent uses, and nothing else."""
    granted = lambda objects: {f"{verb} {resource}" for rule in one(objects, "ClusterRole")["rules"]  # noqa: E731
                               for verb in rule["verbs"] for resource in rule["resources"]}
    source = (ROOT / "bin/agent/src/kubernetes/mod.rs").read_text()
    used = set(re.findall(r'Self::\w+ => "((?:get|list|watch|create|patch|update|delete) [a-z/]+)"', source))
    check.that("the agent names its rights", len(used) >= 4, used)
    check.equal("rights", granted(render()), used - {"patch pods"})
    check.equal("rights with ANNOTATE_POD_IP", granted(render({"env": {"ANNOTATE_POD_IP": True}})), used)


def iam():
    """The policies have the actions that the agent calls, and nothing else."""
    calls = set()
    for name in ("cloud.rs", "limits.rs", "translate.rs"):
        source = (ROOT / "bin/agent/src" / name).read_text()
        calls |= set(re.findall(r"(?:= (?:t::)?|Box::new\(t::)(\w+)Request \{", source))
    used = {f"ec2:{call}" for call in calls} | {"ec2:CreateTags"}  # tags come with CreateNetworkInterface
    for policy in sorted((ROOT / "deploy/iam").glob("*.json")):
        statements = json.loads(policy.read_text())["Statement"]
        granted = {action for s in statements for action in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])}
        check.equal(f"{policy.name}: actions", sorted(granted), sorted(used))
        check.equal(f"{policy.name}: statements have names of their own", len({s["Sid"] for s in statements}), len(statements))


def articles_lines():
    """kubectl's edits of the DaemonSet, as the articles print them, on what the chart renders."""
    rendered = json.dumps(one(render(), "DaemonSet"))
    done = tool("kubectl", "set", "env", "--local", "-f", "-", "-o", "json", "WARM_IP_TARGET=2", text=rendered)
    check.that("kubectl set env", done.returncode == 0, done.stderr)
    edited = json.loads(done.stdout)["spec"]["template"]["spec"]
    check.equal("kubectl set env: set", variables(container(edited, "aws-node"))["WARM_IP_TARGET"], "2")
    patch = ('{"spec":{"template":{"spec":{"initContainers":[{"env":[{"name":"DISABLE_TCP_EARLY_DEMUX","value":"true"}],'
             '"name":"aws-vpc-cni-init"}]}}}}')
    done = tool("kubectl", "patch", "--local", "-f", "-", "-o", "json", "-p", patch, text=rendered)
    check.that("kubectl patch", done.returncode == 0, done.stderr)
    init = container(json.loads(done.stdout)["spec"]["template"]["spec"], "aws-vpc-cni-init", "initContainers")
    check.equal("kubectl patch: set", variables(init)["DISABLE_TCP_EARLY_DEMUX"], "true")
    check.equal("kubectl patch: the rest stays", (init["command"], len(init["env"])), (["/app/branchline-agent", "init"], 2))


def monitoring():
    """Dashboard, alerts, and the chart's PodMonitor."""
    done = subprocess.run([AGENT, "metrics"], text=True, check=True, stdout=subprocess.PIPE)
    watched.run(check, done.stdout)
    check.that("no PodMonitor unless asked for", ("PodMonitor", "aws-node") not in render())
    monitor = one(render({"podMonitor": {"create": True, "interval": "10s", "labels": {"release": "p"}}}), "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    check.equal("PodMonitor: endpoint", endpoint, {"port": "metrics", "path": "/metrics", "interval": "10s", "scrapeTimeout": "10s"})
    check.equal("PodMonitor: label", monitor["metadata"]["labels"]["release"], "p")
    template = one(render(), "DaemonSet")["spec"]["template"]
    ports = {p["name"]: p["containerPort"] for p in container(template["spec"], "aws-node")["ports"]}
    check.equal("PodMonitor: its port", ports["metrics"], 61678)
    labels = monitor["spec"]["selector"]["matchLabels"]
    check.that("PodMonitor: selects the agents", labels.items() <= template["metadata"]["labels"].items(), labels)
    # The job, by which an alert knows an agent that is down, comes from this label.
    check.equal("PodMonitor: job", template["metadata"]["labels"][monitor["spec"]["jobLabel"]], "aws-node")


for part in (defaults, versions, environment, wrong_values, names, images, extras, rights, iam, articles_lines, monitoring):
    check.section(part)
print(f"{check.passed} passed, {len(check.failed)} failed")
sys.exit(1 if check.failed or not check.passed else 0)
