"""A bare node of a lab, and its agent, which a test starts, kills and looks into."""
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / room) for room in ("common", "scenarios")]
import run as scenarios  # noqa: E402  one way to bring a lab up, for scenarios and for this
from trials import run, until  # noqa: E402

ROOT, BIN, HERE = scenarios.ROOT, scenarios.BIN, Path(__file__).resolve().parent
BRANCHLINE = str(BIN / "branchline")
TRAFFIC = ROOT / "tests/swap/traffic.py"
NAME, ADDRESS = "n1", "10.0.1.11"
FILES = "/run/aws-node"
COOLDOWN = 3
AGENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "ENABLE_IPv4": "true", "MY_NODE_NAME": NAME, "AWS_REGION": "us-west-2",
    "AWS_ENDPOINT_URL_EC2": "http://169.254.169.249",
    "HOST_CNI_BIN_PATH": "/opt/cni/bin", "HOST_CNI_CONFDIR_PATH": "/etc/cni/net.d",
    "AWS_VPC_K8S_CNI_LOG_FILE": "/var/log/aws-routed-eni/ipamd.log",
    "AWS_VPC_K8S_PLUGIN_LOG_FILE": "/var/log/aws-routed-eni/plugin.log",
    "WARM_IP_TARGET": "5", "IP_COOLDOWN_PERIOD": str(COOLDOWN),
}
PAGE = "import sys, urllib.request as u; print(u.urlopen('http://127.0.0.1:61679' + sys.argv[1], timeout=30).read().decode())"


class Node:
    """A lab with the node. Its agent has the variables of the manifest, and those that are given."""

    def __init__(self, **variables):
        self.env = scenarios.environment()
        self.variables = {**AGENT, **variables}
        self.running, self.clients = None, []

    def __enter__(self):
        self.work = tempfile.TemporaryDirectory(prefix="branchline-faults")
        self.lab("up", "-f", HERE / "topology.yaml")
        try:
            self.env.update(json.loads(self.lab("env", "--shell", "json").stdout))
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind, *_):
        if kind and issubclass(kind, AssertionError):
            print("    the agent's last words:\n" + "\n".join("      " + l[:300] for l in self.log().splitlines()[-15:]))
        self.lab("down", exit=None)
        for process in self.clients + ([self.running] if self.running else []):
            if process.poll() is None:
                process.communicate(timeout=60)
        self.work.cleanup()

    def lab(self, *words, **kwargs):
        return run([BRANCHLINE, "lab", *words], self.env, **kwargs)

    def inside(self, *words, **kwargs):
        return self.lab("node", "exec", NAME, "--", *words, **kwargs)

    def shell(self, line, **kwargs):
        return self.inside("sh", "-c", line, **kwargs).stdout

    # the agent

    def launch(self, **variables):
        """Starts the agent and does not wait for it."""
        env = [f"{k}={v}" for k, v in {**self.variables, **variables}.items()]
        words = ["sh", "-c", 'echo $$ >/run/agent.pid; exec "$@"', "sh", "env", "-i", *env,
                 str(BIN / "branchline-agent"), "addresses"]
        out = open(Path(self.work.name) / "agent.out", "a")
        self.inside("rm", "-f", "/run/agent.pid")
        self.running = subprocess.Popen([BRANCHLINE, "lab", "node", "exec", NAME, "--", *words], env=self.env,
                                        stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)

    def start(self, **variables):
        """Starts the agent; returns /state once it serves."""
        self.launch(**variables)
        return self.serves()

    def serves(self, within=90):
        def ready():
            assert self.running.poll() is None, f"the agent ended: {self.log()[-2000:]}"
            done = self.inside(sys.executable, "-c", PAGE, "/state", exit=None)
            state = json.loads(done.stdout) if done.returncode == 0 else {}
            return state if state.get("ready") else None
        return until(within, "the agent serves", ready)

    def kill(self, signal="KILL"):
        pid = until(30, "the agent has a process ID", lambda: self.inside("cat", "/run/agent.pid", exit=None).stdout.strip())
        self.inside("kill", f"-{signal}", pid)
        self.running.wait(60)
        self.running = None

    def page(self, path):
        return json.loads(self.inside(sys.executable, "-c", PAGE, path).stdout)

    def state(self):
        return self.page("/state")

    def log(self):
        folder = Path("/run/branchline") / scenarios.LAB / "nodes" / NAME / "aws-routed-eni"
        file = folder / "ipamd.log"
        return file.read_text() if file.exists() else ""

    def leases(self):
        """Every address with whose it is and since when; pods without a name by their link."""
        cidrs = [c for card in self.page("/v1/enis").values() for eni in card["ENIs"].values()
                 for c in eni["AvailableIPv4Cidrs"].values()]
        held = [a for cidr in cidrs for a in (cidr["IPAddresses"] or {}).values() if a["IPAMKey"]["networkName"]]
        return {a["Address"]: (a["IPAMMetadata"].get("k8sPodName") or a["IPAMKey"]["containerID"], a["AssignedTime"])
                for a in held}

    # pods

    def begin(self, name, count, retry=60, command=("sleep", "infinity")):
        """Starts pods all at once and does not wait; what asks to be tried again is, as by kubelet."""
        return subprocess.Popen(
            [BRANCHLINE, "lab", "pod", "run", name, "--node", NAME, "--count", str(count), "--retry", str(retry),
             "--", *command], env=self.env, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def run(self, name, count, **kwargs):
        done = self.begin(name, count, **kwargs)
        told, _ = done.communicate(timeout=120)
        assert done.returncode == 0, told
        return {p: a for p, a in self.pods().items() if re.fullmatch(rf"{name}-\d+", p)}

    def pods(self):
        listed = json.loads(self.lab("pod", "list", "-o", "json").stdout)
        return {p["pod"].split("/")[-1]: p["address"] for p in (entry["pod"] for entry in listed)}

    def delete(self, *names):
        self.lab("pod", "delete", *names, "--grace", "0")

    # connections

    def stream(self, pods):
        """Connections from the node to pods that `serve`; they end with [`unbroken`]."""
        client = subprocess.Popen(
            [BRANCHLINE, "lab", "node", "exec", NAME, "--", sys.executable, str(TRAFFIC), "stream",
             *(f"{name}={address}:7000" for name, address in pods.items())],
            env=self.env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert client.stdout.readline() == "started\n", "no traffic"
        self.clients.append(client)
        return client

    # what must hold

    def secondary(self):
        """The addresses that EC2 has for pods."""
        done = run(["aws", "ec2", "describe-network-interfaces", "--output", "json"], self.env)
        enis = [e for e in json.loads(done.stdout)["NetworkInterfaces"] if e.get("Attachment", {}).get("InstanceId")]
        return sorted(a["PrivateIpAddress"] for e in enis for a in e["PrivateIpAddresses"] if not a["Primary"])

    def wired(self):
        """The addresses that have a rule of a pod, and those that have a route to a pod's link."""
        rules = re.findall(r"^(?:512|1536):.*?(?:to|from) (10\.0\.\S+)", self.shell("ip rule"), re.M)
        routes = re.findall(r"^(10\.0\.\S+) dev eni", self.shell("ip route show table main"), re.M)
        return set(rules), set(routes)

    def is_whole(self, within=60):
        """Pods, leases, rules and routes are about the same addresses, and none has two pods."""
        pods = self.pods()
        assert len(set(pods.values())) == len(pods), f"an address has two pods: {pods}"

        def differs():
            rules, routes = self.wired()
            leases = self.leases()
            want = set(pods.values())
            names = {a: name for a, (name, _) in leases.items()}
            if rules == routes == want and {a: p for p, a in pods.items()} == names:
                return None
            return f"pods {pods}, leases {names}, rules {sorted(rules)}, routes {sorted(routes)}"
        until(within, differs, lambda: differs() is None)
        return pods


def unbroken(client):
    """Ends connections; fails when one broke or lost a byte."""
    told, _ = client.communicate(timeout=60)
    reports = json.loads(told)
    assert client.returncode == 0, reports
    bad = [r for r in reports if r["broke"] or r["sent"] != r["back"] or r["failed"] or not r["sent"]]
    assert not bad, "connections broke or lost data:\n" + "\n".join(map(str, bad))
