"""A lab with a cluster, as the tests of this directory use it: `kubectl`, nodes, and what EC2 has.

Tests share one lab: each works in a namespace of its own and leaves the cluster as it was; what
`settled` says holds after each. A test that cannot leaves the lab to nobody (see run.py).
"""
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / room) for room in ("common", "scenarios")]
import run as scenarios  # noqa: E402  one way to find the programs, for all tests

HERE = Path(__file__).resolve().parent
ROOT, BIN = scenarios.ROOT, scenarios.BIN
KUBERNETES = Path(os.environ.get("KUBEBUILDER_ASSETS") or BIN.parent / "kubernetes/bin")
CONTAINERD = BIN.parent / "kubernetes/containerd"
BRANCHLINE = str(BIN / "branchline")
TOPOLOGY = HERE / "topology.yaml"
# A lab that is up already, and stays.
GIVEN = os.environ.get("LAB")
LAB = GIVEN or f"kube-{os.getpid()}"
SYSTEM = "kube-system"

Call = namedtuple("Call", "time verb container netns prev pod exit")


class Failed(AssertionError):
    """A command did not end as it must."""


def eventually(ask, wanted=bool, within=180, what=""):
    """`ask()` until `wanted(answer)`; gives the answer. It takes a second or two; the rest is for a machine that is
    busy with other things."""
    deadline, last = time.monotonic() + within, None
    while True:
        try:
            last = ask()
            if wanted(last):
                return last
        except (AssertionError, json.JSONDecodeError, KeyError, IndexError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what}\nlast: {last}")
        time.sleep(0.2)


def command(words, env, exit=0, text=None, timeout=180):
    try:
        done = subprocess.run(list(map(str, words)), env=env, text=True, input=text or "", timeout=timeout,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"no end within {timeout} s: {' '.join(map(str, words))}\n{error.stdout}{error.stderr}") from error
    told = f"$ {' '.join(map(str, words))}\n{done.stdout}{done.stderr}"
    if exit is not None and done.returncode != exit:
        raise Failed(f"exit {done.returncode}, expected {exit}\n{told}")
    return done


def says(done, *texts):
    told = done if isinstance(done, str) else done.stdout + done.stderr
    for text in texts:
        assert text in told, f"no {text!r} in\n{told}"


def environment(**more):
    return dict(scenarios.environment(), BRANCHLINE_LAB=LAB, **more)


class Cluster:
    """A lab of this process; `with Cluster() as c:` brings it up and takes it down."""

    def __init__(self, topology=TOPOLOGY, **variables):
        self.env = environment(**variables)
        self.topology = topology
        self.folder = tempfile.TemporaryDirectory(prefix="branchline-kube")
        self.files = Path(self.folder.name)

    def __enter__(self):
        try:
            if not GIVEN:
                self.lab("up", "-f", self.topology, timeout=400)
            self.env.update(json.loads(self.lab("env", "--shell", "json").stdout))
            # As the topology names them, and as Kubernetes does.
            self.nodes = {name: node["dns_name"] for name, node in self.up()["nodes"].items()}
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        try:
            if not GIVEN:
                command([BRANCHLINE, "lab", "down"], self.env)
        finally:
            self.folder.cleanup()

    # --- running things -------------------------------------------------------------------------

    def lab(self, *words, exit=0, timeout=180, text=None):
        return command([BRANCHLINE, "lab", *words], self.env, exit, text, timeout)

    def on_node(self, node, *words, exit=0, text=None, timeout=180):
        return self.lab("node", "exec", node, "--", *words, exit=exit, text=text, timeout=timeout)

    def kubectl(self, *words, exit=0, text=None, timeout=180):
        return command([KUBERNETES / "kubectl", *words], self.env, exit, text, timeout)

    def json(self, *words):
        return json.loads(self.kubectl(*words, "-o", "json").stdout)

    def apply(self, *objects):
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        return self.kubectl("apply", "-f", "-", text=text)

    def shell(self, line):
        return scenarios.shell(line, self.env)

    def aws(self, line):
        done = self.shell(line)
        if done.returncode != 0:
            raise Failed(f"exit {done.returncode}: {line}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def start(self, *words):
        """Starts a kubectl that stays; the caller ends it."""
        return subprocess.Popen([str(KUBERNETES / "kubectl"), *map(str, words)], env=self.env, text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def up(self):
        """What the lab says is up."""
        return json.loads(self.lab("status", "-o", "json").stdout)["lab"]

    def service(self, node, name):
        """A service of a node: its pid, as the node counts, its restarts."""
        return json.loads(self.lab("status", "-o", "json").stdout)["nodes"][node]["services"][name]

    # --- pods -----------------------------------------------------------------------------------

    def create(self, name):
        self.kubectl("create", "namespace", name)
        # Without it no pod is taken.
        self.kubectl("-n", name, "wait", "--for=create", "serviceaccount/default", "--timeout=120s")
        return Namespace(self, name)

    @contextlib.contextmanager
    def namespace(self, name):
        """A namespace for one test; it goes afterwards, with all that is in it, while the next test begins."""
        self.create(name)
        try:
            yield Namespace(self, name)
        except BaseException:
            if not os.environ.get("KEEP"):
                self.kubectl("delete", "namespace", name, "--wait=false", exit=None)
            raise
        self.kubectl("delete", "namespace", name, "--wait=false")

    def pods(self, *words):
        return {pod["metadata"]["name"]: pod for pod in self.json("get", "pods", *words)["items"]}

    # --- what there is --------------------------------------------------------------------------

    def state(self, node):
        """What the agent says of itself."""
        return json.loads(self.on_node(node, "curl", "-sf", "http://127.0.0.1:61679/state").stdout)

    def leased(self, node):
        """The agent's addresses by whose they are: {address: "namespace/pod" or None}."""
        enis = json.loads(self.on_node(node, "curl", "-sf", "http://127.0.0.1:61679/v1/enis").stdout)
        addresses = {}
        for eni in enis["0"]["ENIs"].values():
            for cidr in eni["AvailableIPv4Cidrs"].values():
                address = cidr["Cidr"]["IP"]
                addresses[address] = None
                for lease in (cidr["IPAddresses"] or {}).values():
                    pod = lease["IPAMMetadata"]
                    if lease["IPAMKey"]["networkName"]:
                        addresses[address] = f"{pod['k8sPodNamespace']}/{pod['k8sPodName']}"
        return addresses

    def in_ec2(self, node):
        """The secondary addresses on the node's interfaces, as EC2 knows them."""
        query = "NetworkInterfaces[].PrivateIpAddresses[?!Primary].PrivateIpAddress"
        return set(self.aws("aws ec2 describe-network-interfaces --output text "
                            f"--filters Name=attachment.instance-id,Values={self.instance(node)} --query '{query}'").split())

    def instance(self, node):
        return self.up()["nodes"][node]["instance"]

    def on(self, node):
        """The pods on a node that have addresses of their own: {"namespace/pod": address}."""
        items = self.json("get", "pods", "-A", "--field-selector", f"spec.nodeName={self.nodes[node]}")["items"]
        return {f"{p['metadata']['namespace']}/{p['metadata']['name']}": p["status"].get("podIP") for p in items
                if not p["spec"].get("hostNetwork")}

    def settled(self, node, within=120):
        """EC2 has on the node what the agent has: the pods' addresses, each its own, and free ones. What else there
        was would be leaked: leased to nobody who lives, or unknown to the agent."""
        def ask():
            return self.on(node), self.leased(node), self.in_ec2(node)

        def holds(seen):
            pods, leased, ec2 = seen
            return {pod: address for address, pod in leased.items() if pod} == pods and set(leased) == ec2
        eventually(ask, holds, within, f"{node}: EC2's addresses are the pods' and the free ones")

    def ready(self, node):
        """The condition Ready of a node."""
        conditions = self.json("get", "node", self.nodes[node])["status"]["conditions"]
        return next(c for c in conditions if c["type"] == "Ready")

    # --- the plugin, watched and made to fail ---------------------------------------------------

    def watch(self, **network):
        """Puts the wrapper in the plugin's place on all nodes, and the plugin into a folder beside it, where the
        agent keeps it; `network` changes the network list."""
        for node in self.nodes:
            Wrapper(self, node).install()
        place = {"HOST_CNI_BIN_PATH": "/host/opt/cni/bin/watched"}
        values = {"env": place, "init": {"env": place}}
        if network:
            listed = json.loads(self.on_node(next(iter(self.nodes)), "cat", "/etc/cni/net.d/10-aws.conflist").stdout)
            # Debian's reference plugins are older than STATUS, and answer it with an error.
            listed["plugins"] = [plugin for plugin in listed["plugins"] if plugin["type"] == "aws-cni"]
            values["cniConfig"] = {"enabled": True, "fileContents": json.dumps({**listed, **network})}
        self.chart(values)
        for node in self.nodes:
            Wrapper(self, node).activate()

    def addon(self, name, **values):
        """Changes values of an add-on, as `aws eks update-addon`; others stay."""
        addon = f"--cluster-name dev --addon-name {name}"
        found = json.loads(self.aws(f"aws eks describe-addon {addon}"))["addon"]
        file = self.files / "values.json"
        file.write_text(json.dumps({**json.loads(found.get("configurationValues") or "{}"), **values}))
        self.aws(f"aws eks update-addon {addon} --configuration-values file://{file}")
        eventually(lambda: self.aws(f"aws eks describe-addon {addon} --query addon.status --output text"),
                   lambda status: status == "ACTIVE", 120, f"{name} is ACTIVE")

    def chart(self, values, exit=0, wait=True):
        """`helm upgrade` of our chart with values changed; others stay."""
        done = command([KUBERNETES / "helm", "upgrade", "aws-vpc-cni", ROOT / "deploy/aws-vpc-cni", "-n", SYSTEM,
                        "--reuse-values", "-f", "-"], self.env, exit, json.dumps(values))
        if wait:
            self.rolled_out()
        return done

    def rolled_out(self, what="daemonset/aws-node", within=150):
        self.kubectl("-n", SYSTEM, "rollout", "status", what, f"--timeout={within}s", timeout=within + 10)


class Namespace:
    """A namespace of one test."""

    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name

    def kubectl(self, *words, **more):
        return self.cluster.kubectl("-n", self.name, *words, **more)

    def json(self, *words):
        return self.cluster.json("-n", self.name, *words)

    def pod(self, name, *args, node=None, wait=True, **spec):
        """A pod of the tools' image that sleeps, or runs `args`."""
        container = {"name": "c", "image": "branchline/tools", "imagePullPolicy": "IfNotPresent",
                     "args": list(args) or ["sleep", "infinity"], **spec}
        spec = {"terminationGracePeriodSeconds": 1, "containers": [container]}
        if node:
            spec["nodeName"] = self.cluster.nodes[node]
        self.cluster.apply({"apiVersion": "v1", "kind": "Pod", "spec": spec,
                            "metadata": {"name": name, "namespace": self.name, "labels": {"app": name}}})
        return self.wait(name) if wait else None

    def wait(self, name, within=120):
        """The address of a pod that is Ready."""
        self.kubectl("wait", "--for=condition=Ready", f"pod/{name}", f"--timeout={within}s", timeout=within + 10)
        return self.json("get", "pod", name)["status"]["podIP"]

    def deployment(self, name, replicas, *args, node=None, **spec):
        template = {"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "c", "image": "branchline/tools", "imagePullPolicy": "IfNotPresent", **({"args": list(args)} if args else {}),
             **spec}]}
        if node:
            template["nodeName"] = self.cluster.nodes[node]
        self.cluster.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": self.name},
                            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
                                     "template": {"metadata": {"labels": {"app": name}}, "spec": template}}})

    def rolled_out(self, what, within=150):
        self.kubectl("rollout", "status", what, f"--timeout={within}s", timeout=within + 10)

    def exec(self, pod, *words, exit=0, timeout=120):
        return self.kubectl("exec", pod, "--", *words, exit=exit, timeout=timeout)

    def shell(self, pod, line, exit=0, timeout=120):
        return self.exec(pod, "sh", "-c", line, exit=exit, timeout=timeout).stdout

    def events(self, pod, reason):
        return [e["message"] for e in self.json("get", "events")["items"]
                if e["involvedObject"]["name"] == pod and e["reason"] == reason]


@contextlib.contextmanager
def stream(ns, server, client, port=9000):
    """Lines of text from one pod to another all the while: every byte arrives, no packet is sent twice.

    The sender counts up, so what is lost, doubled or swapped shows. A TCP that never sends a segment
    again has lost none on the way there, nor an acknowledgement on the way back.
    """
    def again(pod):
        names, values = [line.split() for line in ns.shell(pod, "grep ^Tcp: /proc/net/snmp").splitlines()]
        return int(values[names.index("RetransSegs")])
    address = ns.json("get", "pod", server)["status"]["podIP"]
    before = [again(pod) for pod in (server, client)]
    ns.shell(server, f"rm -f got; setsid sh -c 'sleep 100000 | nc -l -p {port} >got' </dev/null >/dev/null 2>&1 &")
    eventually(lambda: ns.shell(server, "netstat -lnt"), lambda listens: f":{port} " in listens, what="the server listens")
    ns.shell(client, "rm -f stop sent; setsid sh -c 'i=0; while [ ! -e stop ]; do echo $i; i=$((i+1)); "
             f"sleep 0.02; done | nc {address} {port}; echo $? >sent' </dev/null >/dev/null 2>&1 &")
    eventually(lambda: ns.shell(server, "wc -l <got"), lambda lines: int(lines) > 5, what="the stream has begun")
    yield
    seen = int(ns.shell(server, "wc -l <got"))
    eventually(lambda: ns.shell(server, "wc -l <got"), lambda lines: int(lines) > seen + 5, what="the stream goes on")
    ns.shell(client, "touch stop")
    eventually(lambda: ns.shell(client, "cat sent", exit=None), lambda code: code.strip() == "0", what="the stream ends")
    got = ns.shell(server, "cat got").splitlines()
    assert got == [str(i) for i in range(len(got))] and len(got) > seen, f"{len(got)} lines, the last {got[-3:]}"
    after = [again(pod) for pod in (server, client)]
    assert after == before, f"segments sent again: {before} -> {after}"


class Wrapper:
    """wrapper.sh, which calls aws-cni; its files are on the node's disk, so it outlives a power cut."""

    DIR = "/var/lib/cni/watched"

    def __init__(self, cluster, node):
        self.cluster, self.node = cluster, node

    def install(self):
        text = (HERE / "wrapper.sh").read_text().replace("dir=DIR", f"dir={self.DIR}")
        self.shell(f"mkdir -p /opt/cni/bin/watched {self.DIR}/fault; touch {self.DIR}/log; cat >{self.DIR}/aws-cni; "
                   f"chmod 755 {self.DIR}/aws-cni", text)

    def activate(self):
        """The agent has its plugin elsewhere; what it does not keep up any more stays as it is. Each program is put in
        its place whole: the runtime may be calling the one that is there, which so cannot be written to."""
        self.shell("cd /opt/cni/bin/watched; for p in *; do [ $p = aws-cni ] || { cp $p ../.$p; mv ../.$p ../$p; }; done; "
                   f"cp {self.DIR}/aws-cni ../.aws-cni; mv ../.aws-cni ../aws-cni")

    def __enter__(self):
        self.shell(f": >{self.DIR}/log")
        return self

    def __exit__(self, *_):
        self.shell(f"rm -f {self.DIR}/fault/*")

    def shell(self, line, text=None):
        return self.cluster.on_node(self.node, "sh", "-ec", line, text=text).stdout

    def fault(self, verb, pod=None, **what):
        name = f"{self.DIR}/fault/{verb}" + (f".{pod}" if pod else "")
        self.shell(f"cat >{name}.new; mv {name}.new {name}", "".join(f"{k}='{v}'\n" for k, v in what.items()))

    def clear(self, verb, pod=None):
        self.shell(f"rm {self.DIR}/fault/{verb}" + (f".{pod}" if pod else ""))

    def calls(self, pod=None, verb=None):
        """The calls so far, in order; those of one pod (namespace/name), of one verb."""
        lines = self.shell(f"cat {self.DIR}/log").splitlines()
        calls = [Call(float(t), *rest[:-1], int(rest[-1])) for t, *rest in (line.split() for line in lines)]
        return [c for c in calls if pod in (None, c.pod) and verb in (None, c.verb)]
