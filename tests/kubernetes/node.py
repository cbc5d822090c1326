"""One lab node with a real API server in its network, and the agent on it as its DaemonSet would run it.

The API server listens on the node's loopback; the chart's objects are applied to it as helm renders
them, so the agent has exactly the rights that an installation gives it. EC2 and instance metadata are
the lab's. Everything runs in the node's namespaces and ends with the lab.
"""
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / room) for room in ("common", "scenarios")]
import run as scenarios  # noqa: E402  one way to find the programs, for all tests
from trials import machine  # noqa: E402

ROOT, BIN = scenarios.ROOT, scenarios.BIN
KUBERNETES = Path(os.environ.get("KUBEBUILDER_ASSETS") or BIN.parent / "kubernetes/bin")
BRANCHLINE = str(BIN / "branchline")
LAB = f"agent-{os.getpid()}"
NODE = "n1"
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
PORT = 6443
ENDPOINT = f"https://127.0.0.1:{PORT}"
CONDITION = "PodNetworkReady"

# 3 interfaces with 5 addresses for pods each; the agent is started by the tests.
TOPOLOGY = """
apiVersion: branchline/v1
kind: Topology
name: agent
region: us-west-2
vpcs:
  - name: agent
    cidrs: [10.0.0.0/16]
    subnets: [{ name: nodes, zone: a, cidr: 10.0.1.0/24 }]
    groups:
      - { name: nodes, description: Worker nodes, ingress: [all from self] }
      - { name: extra, description: Attached by hand, ingress: [tcp/80 from self] }
nodes:
  - { name: n1, type: t3.medium, subnet: nodes, address: 10.0.1.11, groups: [nodes], agent: { enabled: false } }
"""


def eventually(ask, wanted, within=90, what=""):
    """`ask()` until `wanted(answer)`; gives the answer."""
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


class Node:
    """The node; `with Node() as node:` brings the lab up and takes it down."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="branchline-agent")
        self.files = Path(self.folder.name)
        self.env = dict(scenarios.environment(), BRANCHLINE_LAB=LAB)
        self.started = []
        self.names = {}
        self.agents = 0

    def __enter__(self):
        (self.files / "topology.yaml").write_text(TOPOLOGY)
        self.branchline("lab", "up", "-f", str(self.files / "topology.yaml"))
        self.env.update(json.loads(self.branchline("lab", "env", "--shell", "json").stdout))
        app = self.files / "app"
        app.mkdir()
        for name in ("branchline-agent", "aws-cni"):
            os.link(BIN / name, app / name) if same_device(BIN, app) else (app / name).symlink_to(BIN / name)
        certificates(self.files)
        return self

    def __exit__(self, *_):
        self.branchline("lab", "down")
        for process in self.started:
            process.wait(timeout=60)
        self.folder.cleanup()

    # --- running things -------------------------------------------------------------------------

    def branchline(self, *words):
        return self.command([BRANCHLINE, *words])

    def command(self, words, exit=0, text=None):
        done = subprocess.run(list(map(str, words)), env=self.env, text=True, input=text or "", timeout=90,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        told = f"$ {' '.join(map(str, words))}\n{done.stdout}{done.stderr}"
        assert exit is None or done.returncode == exit, f"exit {done.returncode}, expected {exit}\n{told}"
        return done

    def on_node(self, *words, exit=0, text=None):
        return self.command([BRANCHLINE, "lab", "node", "exec", NODE, "--", *words], exit, text)

    def start(self, name, *words, env=()):
        """Starts a program on the node; gives its log. `stop(name)` ends it."""
        log = self.files / f"{name}.log"
        pid = self.files / f"{name}.pid"
        pid.unlink(missing_ok=True)
        line = ["sh", "-c", f'echo $$ > {pid}; exec "$@"', "sh", "env", *[f"{k}={v}" for k, v in env], *map(str, words)]
        with log.open("a") as out:
            process = subprocess.Popen([BRANCHLINE, "lab", "node", "exec", NODE, "--", *line], env=self.env,
                                       stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        self.started.append(process)
        self.names[name] = process
        eventually(lambda: pid.read_text().strip() if pid.exists() else "", bool, what=f"{name} starts")
        return log

    def stop(self, name, signal="TERM"):
        process = self.names.pop(name)
        if process.poll() is None:
            self.on_node("kill", f"-{signal}", (self.files / f"{name}.pid").read_text().strip(), exit=None)
        return process.wait(timeout=60)

    # --- the API server -------------------------------------------------------------------------

    def api_up(self):
        if "etcd" not in self.names:
            self.start("etcd", KUBERNETES / "etcd", "--data-dir", self.files / "etcd", "--unsafe-no-fsync",
                       "--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
                       "--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
                       "--initial-cluster=default=http://127.0.0.1:2380")
        f = self.files
        self.start("apiserver", KUBERNETES / "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379",
                   f"--secure-port={PORT}", "--bind-address=127.0.0.1", f"--tls-cert-file={f}/server.crt",
                   f"--tls-private-key-file={f}/server.key", "--service-account-issuer=https://kubernetes.default.svc",
                   f"--service-account-key-file={f}/server.crt", f"--service-account-signing-key-file={f}/server.key",
                   f"--token-auth-file={f}/tokens.csv", "--authorization-mode=RBAC",
                   "--service-cluster-ip-range=172.20.0.0/16", "--allow-privileged", "--disable-admission-plugins=ServiceAccount",
                   f"--cert-dir={f}/certs")
        def answer():
            if self.names["apiserver"].poll() is not None:
                raise OSError("kube-apiserver has ended:\n" + (f / "apiserver.log").read_text()[-2000:])
            return self.kubectl("get", "--raw=/readyz", exit=None).returncode
        eventually(answer, lambda code: code == 0, 120, "the API server is ready")

    def install(self, *values):
        """The chart's objects, a Node, and the service account's token where the kubelet puts it."""
        rendered = self.command([KUBERNETES / "helm", "template", "aws-vpc-cni", ROOT / "deploy/aws-vpc-cni",
                                 "-n", "kube-system", *values]).stdout
        eventually(lambda: self.kubectl("get", "namespace", "kube-system", "default", exit=None).returncode,
                   lambda code: code == 0, what="the namespaces")
        self.kubectl("apply", "-f", "-", text=rendered)
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        self.kubectl("apply", "-f", "-", text=json.dumps(node))
        token = self.kubectl("create", "token", "aws-node", "-n", "kube-system").stdout
        self.on_node("mkdir", "-p", ACCOUNT)
        self.on_node("sh", "-c", f"cat > {ACCOUNT}/token", text=token)
        self.on_node("cp", self.files / "ca.crt", f"{ACCOUNT}/ca.crt")

    def kubectl(self, *words, exit=0, text=None):
        return self.on_node(KUBERNETES / "kubectl", "--server", ENDPOINT, "--certificate-authority", self.files / "ca.crt",
                            "--token=admin", *words, exit=exit, text=text)

    def condition(self):
        node = json.loads(self.kubectl("get", "node", NODE, "-o", "json").stdout)
        found = [c for c in node["status"].get("conditions", []) if c["type"] == CONDITION]
        return found[0] if found else {}

    def events(self, reason, kind="Pod", name=None):
        items = json.loads(self.kubectl("get", "events", "-n", "default", "-o", "json").stdout)["items"]
        return [e for e in items if e["reason"] == reason and e["involvedObject"]["kind"] == kind
                and name in (None, e["involvedObject"]["name"])]

    # --- the agent ------------------------------------------------------------------------------

    def agent(self, **variables):
        """Starts the agent as the DaemonSet would and waits until it serves; gives its log."""
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "AWS_ENDPOINT_URL_EC2": "http://169.254.169.249",
               "HOST_CNI_BIN_PATH": "/opt/cni/bin", "HOST_CNI_CONFDIR_PATH": "/etc/cni/net.d",
               "AWS_VPC_K8S_CNI_LOG_FILE": "stderr", "AWS_VPC_K8S_PLUGIN_LOG_FILE": "stderr", "IP_COOLDOWN_PERIOD": "1",
               "WARM_ENI_TARGET": "0", "MY_NODE_NAME": NODE, "MY_POD_NAME": "aws-node-abcde",
               "CLUSTER_ENDPOINT": ENDPOINT, **variables}
        self.agents += 1
        log = self.start("agent", "-i", *[f"{k}={v}" for k, v in env.items()],
                         self.files / "app/branchline-agent", "addresses")
        eventually(lambda: self.health("--ready"), lambda done: done.returncode == 0, what="the agent is ready")
        return log

    def health(self, *words):
        return self.on_node(BIN / "branchline-agent", "health", *words, exit=None)

    def state(self):
        return json.loads(self.on_node("curl", "-sf", "http://127.0.0.1:61679/state").stdout)

    def cluster(self):
        return self.state()["kubernetes"]

    def connected(self, within=90):
        return eventually(self.cluster, lambda c: c["state"] == "connected", within, "the agent is connected")

    # --- pods, as the runtime asks for them -----------------------------------------------------

    def add(self, name, uid=None):
        """ADD by the installed plugin: (exit code, result or error)."""
        return self.cni("ADD", name, uid)

    def delete(self, name, uid=None):
        code, answer = self.cni("DEL", name, uid)
        assert code == 0, answer

    def cni(self, verb, name, uid=None):
        space = f"/run/netns/{name}"
        self.on_node("sh", "-c", f"test -e {space} || ip netns add {name}")
        conflist = json.loads(self.on_node("cat", "/etc/cni/net.d/10-aws.conflist").stdout)
        config = dict(conflist["plugins"][0], name=conflist["name"], cniVersion=conflist["cniVersion"])
        args = (f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};"
                f"K8S_POD_UID={uid or uuid.uuid5(uuid.NAMESPACE_DNS, name)};K8S_POD_INFRA_CONTAINER_ID={name}")
        done = self.on_node("env", f"CNI_COMMAND={verb}", f"CNI_CONTAINERID={name}", f"CNI_NETNS={space}",
                            "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin", f"CNI_ARGS={args}", "/opt/cni/bin/aws-cni",
                            exit=None, text=json.dumps(config))
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}

    def fill(self, count, prefix="p"):
        for i in range(count):
            code, answer = self.add(f"{prefix}{i}")
            assert code == 0, answer

    # --- EC2 ------------------------------------------------------------------------------------

    def aws(self, line):
        done = scenarios.shell(line, self.env)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def knobs(self, **knobs):
        self.branchline("lab", "knob", "set", json.dumps(knobs))

    def interfaces(self):
        lines = self.aws("aws ec2 describe-network-interfaces --output text --query "
                         "'NetworkInterfaces[?Attachment].[Attachment.DeviceIndex,NetworkInterfaceId]'").splitlines()
        return {int(index): eni for index, eni in (line.split() for line in lines)}


def same_device(*paths):
    return len({os.stat(path).st_dev for path in paths}) == 1


def certificates(folder):
    """An authority and the API server's certificate for 127.0.0.1; an administrator's token."""
    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=test",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
    openssl("req", *curve, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=kubernetes")
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-out", "server.crt", "-extfile", "ext")
    (folder / "tokens.csv").write_text('admin,admin,admin,"system:masters"\n')


def run_all(tests, wanted):
    """Runs tests by name, each of which leaves nothing behind; gives the exit code."""
    passed = failed = 0
    for name, test in tests:
        if wanted and not any(w in name for w in wanted):
            continue
        began = time.monotonic()
        try:
            test()
            # A process that is just ending is no leak.
            eventually(lambda: [line for line in machine().splitlines() if LAB in line], lambda left: not left, 30,
                       "nothing of the lab is left")
            passed, outcome = passed + 1, "ok"
        except (AssertionError, subprocess.SubprocessError, KeyError, OSError, ValueError, IndexError) as error:
            failed, outcome = failed + 1, f"FAILED\n{type(error).__name__}: {error}"
        print(f"{name} … {outcome} ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


@contextlib.contextmanager
def in_cluster(*values, **variables):
    """A node whose API server is up, the chart installed, the agent connected."""
    with Node() as node:
        node.api_up()
        node.install(*values)
        node.log = node.agent(**variables)
        node.connected()
        yield node
