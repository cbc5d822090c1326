"""A bare node of a lab on which aws-node runs as its DaemonSet would run it: AWS's, or ours."""
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / room) for room in ("common", "scenarios")]
import run as scenarios  # noqa: E402  one way to bring a lab up, for scenarios and for this
from trials import run, until  # noqa: E402

ROOT, BIN, HERE = scenarios.ROOT, scenarios.BIN, Path(__file__).resolve().parent
BRANCHLINE = str(BIN / "branchline")
UPSTREAM = BIN.parent / "kubernetes/upstream"
REFERENCE = [Path("/usr/lib/cni") / name for name in
             ("loopback", "portmap", "bandwidth", "tuning", "host-local", "ptp", "bridge")]
NAME, ADDRESS = "n1", "10.0.1.11"
# On a bare node there is no Kubernetes: AWS's agent then crashes when it asks whether the node is
# cordoned, unless it is told not to ask.
WITHOUT_KUBERNETES = {"AWS_MANAGE_ENIS_NON_SCHEDULABLE": "true"}


def chart_environment(values, **more):
    """The variables that a chart's values give the container aws-node, and what the lab adds."""
    env = {k: str(v) for k, v in yaml.safe_load(Path(values).read_text())["env"].items()}
    # Without the policy agent the chart leaves this out.
    env.pop("NETWORK_POLICY_ENFORCING_MODE", None)
    env.update(MY_NODE_NAME=NAME, MY_POD_NAME="aws-node", AWS_REGION="us-west-2",
               AWS_ENDPOINT_URL_EC2="http://169.254.169.249", **more)
    return env


class Side:
    """One of the two: its images, its commands, its environment."""

    def __init__(self, name, init, main, init_command, main_command, env):
        self.name, self.env = name, env
        self.init_files, self.main_files = init, main
        self.init_command, self.main_command = init_command, main_command

    def __str__(self):
        return self.name


AWS = Side(
    "aws", REFERENCE + [UPSTREAM / "aws-vpc-cni-init"],
    [UPSTREAM / f for f in ("aws-vpc-cni", "aws-k8s-agent", "aws-cni", "egress-cni", "grpc-health-probe",
                            "10-aws.conflist", "eni-max-pods.txt")],
    ["./aws-vpc-cni-init"], ["./aws-vpc-cni"],
    chart_environment(UPSTREAM / "chart/values.yaml", **WITHOUT_KUBERNETES))
OURS = Side(
    "ours", REFERENCE + [BIN / "branchline-agent", BIN / "aws-cni"], [BIN / "branchline-agent", BIN / "aws-cni"],
    ["./branchline-agent", "init"], ["./branchline-agent", "addresses"],
    chart_environment(ROOT / "deploy/aws-vpc-cni/values.yaml"))

# What the node's network is, one fact a line; each pod's as well. Counters and ages are left out.
NETWORK = r"""
ip rule | sed 's/^/rule /'
ip route show table all | sed 's/^/route /'
ip -d -o link | sed 's/ qdisc.*//; s/^/link /'
ip -o addr | sed 's/ *valid_lft.*//; s/^/address /'
ip -o neigh show nud permanent | sed 's/^/neighbour /'
nft -s list ruleset 2>/dev/null | sed 's/^/nft /'
sysctl -a 2>/dev/null | grep -E '^net\.ipv[46]\.(conf|tcp_early|ip_forward)' | grep -v stable_secret | sed 's/^/sysctl /'
for pod in /run/netns/*; do
  [ -e "$pod" ] || continue
  nsenter --net="$pod" sh -c "ip route show table all; ip -o addr; ip rule; ip -o neigh show nud permanent" |
    sed "s/ *valid_lft.*//; s,^,pod $(basename "$pod") ,"
done
"""


class Node:
    """A lab with the node, and whichever aws-node runs on it."""

    def __init__(self, warm=None):
        self.env = scenarios.environment()
        self.running = self.side = None
        self.clients = []
        # When AWS's agent was starting: from, to.
        self.starts = []
        # What both sides are told besides their charts' values.
        self.common = {"IP_COOLDOWN_PERIOD": "2", **(warm or {})}

    def __enter__(self):
        self.work = Path(tempfile.mkdtemp(prefix="branchline-swap"))
        self.lab("up", "-f", HERE / "topology.yaml")
        try:
            self.env.update(json.loads(self.lab("env", "--shell", "json").stdout))
            # The address on the internet is the primary interface's alone, as on a public subnet.
            given = self.aws("allocate-address")["AllocationId"]
            self.aws("associate-address", "--allocation-id", given, "--network-interface-id", self.primary())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.lab("down", exit=None)
        for process in self.clients + ([self.running] if self.running else []):
            process.communicate(timeout=20)
        shutil.rmtree(self.work)

    def lab(self, *words, **kwargs):
        return run([BRANCHLINE, "lab", *words], self.env, **kwargs)

    def inside(self, *words, **kwargs):
        return self.lab("node", "exec", NAME, "--", *words, **kwargs)

    def aws(self, *words):
        done = run(["aws", "ec2", *words, "--output", "json"], self.env)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def primary(self):
        return next(i for i, eni in self.interfaces().items() if ADDRESS in eni["addresses"])

    # aws-node

    def image(self, name, files):
        """A directory that stands for an image; made once."""
        folder = self.work / name
        if not folder.exists():
            folder.mkdir()
            for file in files:
                assert file.exists(), f"{file} is not built: scripts/upstream.sh, make debug"
                shutil.copy(file, folder)
            # For those who put this directory first on the container's PATH.
            (folder / "legacy").mkdir()
            (folder / "legacy/iptables").symlink_to("/usr/sbin/iptables-legacy")
        return folder

    def start(self, side, **changes):
        """Starts init and main container; waits until pods are served."""
        env = [f"{k}={v}" for k, v in {**side.env, **self.common, **changes}.items() if v is not None]
        self.inside(HERE / "container.sh", "init", self.image(f"{side}-init", side.init_files), "privileged",
                    *side.init_command)
        began = time.monotonic()
        self.launch(side, env)
        self.wait_ready()
        if side is AWS:
            self.starts.append((began, time.monotonic() + 1))

    def launch(self, side, env):
        command = [BRANCHLINE, "lab", "node", "exec", NAME, "--", str(HERE / "container.sh"), "node",
                   str(self.image(str(side), side.main_files)), "plain", *env, *side.main_command]
        self.log = open(self.work / f"{time.time()}.log", "w+")
        self.running = subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=subprocess.STDOUT)
        self.side = side

    def wait_ready(self):
        """Until the network list is there and the daemon answers, as kubelet's probes ask it."""
        probe = [UPSTREAM / "grpc-health-probe", "-addr", "unix:///run/aws-node/ipamd.sock"]

        def ready():
            assert self.running.poll() is None, f"{self.side} aws-node ended: {self.told()}"
            there = self.inside("test", "-e", "/etc/cni/net.d/10-aws.conflist", exit=None).returncode == 0
            if not there or self.inside(*probe, exit=None).returncode != 0:
                return False
            return self.side is not OURS or self.state()["ready"]
        until(150, f"{self.side} aws-node serves", ready)

    def told(self):
        self.log.seek(0)
        return self.log.read() + self.agent_log()[-3000:]

    def agent_log(self):
        folder = Path("/run/branchline") / scenarios.LAB / "nodes" / NAME / "aws-routed-eni"
        file = folder / "ipamd.log"
        return file.read_text() if file.exists() else ""

    def stop(self, signal="TERM"):
        """As kubelet ends a pod: SIGTERM, and SIGKILL after the DaemonSet's ten seconds."""
        pid = self.inside("cat", "/run/container-node").stdout.strip()
        self.inside("kill", f"-{signal}", pid)
        try:
            self.running.wait(10)
        except subprocess.TimeoutExpired:
            self.inside("kill", "-KILL", pid)
            self.running.wait(10)
        self.running = self.side = None

    def swap(self, to, **changes):
        """Ends what runs and starts the other; returns the seconds without an agent."""
        for part, files in (("-init", to.init_files), ("", to.main_files)):
            self.image(f"{to}{part}", files)
        began = time.monotonic()
        self.stop()
        self.start(to, **changes)
        return time.monotonic() - began

    def page(self, path):
        program = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:61679{path}', timeout=30).read().decode())"
        return json.loads(self.inside(sys.executable, "-c", program).stdout)

    def state(self):
        return self.page("/state")

    def known_pods(self):
        """Pods and their addresses, as the agent's introspection lists them."""
        cidrs = [c for card in self.page("/v1/enis").values() for eni in card["ENIs"].values()
                 for c in eni["AvailableIPv4Cidrs"].values()]
        return {a["IPAMMetadata"]["k8sPodName"]: a["Address"] for cidr in cidrs
                for a in (cidr["IPAddresses"] or {}).values() if a["IPAMKey"]["networkName"]}

    def checkpoint(self):
        """Pods and their addresses, as the file on the node lists them."""
        text = json.loads(self.inside("cat", "/run/aws-node/ipam.json").stdout)
        assert text["version"] == "vpc-cni-ipam/1", text
        return {a["metadata"]["k8sPodName"]: a["ipv4"] for a in text["allocations"] or []}

    def plugins(self):
        """The plugins of the network list, in their order."""
        text = self.inside("cat", "/etc/cni/net.d/10-aws.conflist").stdout
        return [plugin["type"] for plugin in json.loads(text)["plugins"]]

    def saved(self, pods):
        """Until the file says so: ours writes it within two seconds, and keeps a journal until then."""
        until(60, f"the checkpoint lists {pods}", lambda: self.checkpoint() == pods)

    def age_checkpoint(self):
        """Makes the file's pods ten minutes older. No agent runs."""
        self.inside(sys.executable, "-c", "import json; p = '/run/aws-node/ipam.json'; c = json.load(open(p))\n"
                    "for a in c['allocations']: a['allocationTimestamp'] -= 600 * 10**9\n"
                    "json.dump(c, open(p, 'w'))")

    # pods

    def pods(self):
        listed = json.loads(self.lab("pod", "list", "-o", "json").stdout)
        return {p["pod"].split("/")[-1]: p["address"] for p in (entry["pod"] for entry in listed)}

    def add(self, *names, within=120):
        """Starts pods as kubelet does: what fails is tried again."""
        missing = list(names)
        deadline = time.monotonic() + within
        while missing:
            done = [self.try_add(name) for name in missing]
            told = [d.stdout + d.stderr for d in done]
            missing = [n for n, d in zip(missing, done) if d.returncode != 0]
            assert not missing or time.monotonic() < deadline, "\n".join(told)

    def try_add(self, name):
        return self.lab("pod", "run", name, "--node", NAME, "--", sys.executable, HERE / "traffic.py",
                        "serve", "7000", exit=None)

    def delete(self, *names):
        self.lab("pod", "delete", *names, "--grace", "0")

    # traffic

    def serve(self, host):
        self.clients.append(subprocess.Popen(
            [BRANCHLINE, "lab", "exec", host, "--", sys.executable, str(HERE / "traffic.py"), "serve", "7000"],
            env=self.env, stdin=subprocess.DEVNULL))

    def stream(self, place, targets):
        words = ["exec", place] if place != NAME else ["node", "exec", NAME]
        client = subprocess.Popen(
            [BRANCHLINE, "lab", *words, "--", sys.executable, str(HERE / "traffic.py"), "stream",
             *(f"{place}>{n}={a}:7000" for n, a in targets.items())],
            env=self.env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert client.stdout.readline() == "started\n", f"no traffic from {place}"
        return client

    # what is compared

    def network(self):
        return sorted(self.inside("sh", "-c", NETWORK).stdout.splitlines())

    def settled(self):
        """The network, once it stands still: new links take a second or two to check their IPv6 addresses."""
        last = None
        while (now := self.network()) != last or any(" tentative" in line for line in now):
            last = now
            time.sleep(0.5)
        return now

    def interfaces(self):
        """The node's interfaces and every one that aws-node made, as EC2 has them."""
        listed = self.aws("describe-network-interfaces")["NetworkInterfaces"]
        mine = [e for e in listed if e.get("Attachment", {}).get("InstanceId") or e["Description"].startswith("aws-K8S-")]
        return {e["NetworkInterfaceId"]: {
            "addresses": sorted(a["PrivateIpAddress"] for a in e["PrivateIpAddresses"]),
            "groups": sorted(g["GroupId"] for g in e["Groups"]),
            "device": e.get("Attachment", {}).get("DeviceIndex"),
            "attachment": e.get("Attachment", {}).get("AttachmentId"),
            "deleted with the node": e.get("Attachment", {}).get("DeleteOnTermination"),
            "tags": {t["Key"]: t["Value"] for t in e["TagSet"]},
        } for e in mine}
