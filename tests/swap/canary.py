"""What deploy/README.md tells an operator to type, typed on a cluster whose nodes run AWS's own aws-node.

The commands are read from the README's sections and run as they stand there; only the names that it leaves
open are filled in, and what a lab needs instead of a region of AWS's: the addresses of its EC2.
"""
import contextlib
import json
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests" / room) for room in ("common", "kubernetes")]
from archive import archive, machine_files  # noqa: E402
from cluster import BIN, SYSTEM, Cluster, command, eventually, says, stream  # noqa: E402

UPSTREAM = BIN.parent / "kubernetes/upstream"
REFERENCE = Path("/usr/lib/cni")
NODE, OTHER = "n1", "n2"
# The targets of tests/kubernetes/topology.yaml, for both sides: a swap then changes nothing in EC2.
ENV = {"AWS_REGION": "us-west-2", "AWS_ENDPOINT_URL_EC2": "http://169.254.169.249", "WARM_IP_TARGET": "2",
       "IP_COOLDOWN_PERIOD": "1"}
OURS, AWS = "branchline/aws-node:0.1.0", "example.com/amazon-k8s-cni:v1.23.1"
# Without the disabled plugin that is not built.
LISTS = {OURS: ["aws-cni", "portmap"], AWS: ["aws-cni", "egress-cni", "portmap"]}


# --- the README ---------------------------------------------------------------------------------

def block(section, *words):
    """The commands of a section of deploy/README.md: the one block of code with all these words."""
    text = (ROOT / "deploy/README.md").read_text().split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    paragraphs = [p for p in text.split("\n\n") if p.strip("\n").startswith("    ")]
    found = [textwrap.dedent(p.strip("\n")) for p in paragraphs if all(w in p for w in words)]
    assert len(found) == 1, f"{len(found)} blocks of '{section}' have {words}"
    return found[0]


def typed(c, *blocks, values=None, timeout=300):
    """Runs blocks of the README one after the other in one shell, as an operator types them."""
    file = c.files / "lab.json"
    file.write_text(json.dumps(values or {"env": ENV, "readinessProbe": {"periodSeconds": 1}}))
    text = "\n".join(blocks).replace("CLUSTER", "dev").replace("NODE", c.nodes[NODE])
    text = text.replace("deploy/aws-vpc-cni ", f"deploy/aws-vpc-cni -f {file} ")
    return command(["bash", "-euo", "pipefail", "-c", f"cd {ROOT}\n{text}"], c.env, timeout=timeout)


# --- AWS's aws-node -----------------------------------------------------------------------------

def upstream_images(c):
    """AWS's two images, made of what scripts/upstream.sh built as upstream's Dockerfiles lay it out, in the lab."""
    assert (UPSTREAM / "aws-k8s-agent").exists(), "AWS's aws-node is not built: scripts/upstream.sh"

    def theirs(folder, names):
        return [(f"{folder}/{name}", (UPSTREAM / name).read_bytes(), 0o755) for name in names]
    iptables = "/usr/sbin/xtables-nft-multi"
    extensions = next(Path("/usr/lib").glob("*/xtables")).glob("*.so")
    links = [(f"/usr/sbin/{name}", "xtables-nft-multi") for name in (
        f"{ip}{what}" for ip in ("iptables", "ip6tables") for what in ("", "-save", "-restore"))]
    main = theirs("/app", ("aws-vpc-cni", "aws-k8s-agent", "aws-cni", "egress-cni", "grpc-health-probe", "10-aws.conflist",
                         "eni-max-pods.txt"))
    main += machine_files(iptables, *extensions)
    main += [("tmp/.there", b"", 0o644)]  # of the image, not of the machine: the network list is written there first
    init = theirs("/init", ("aws-vpc-cni-init",)) + [
        (f"/init/{name}", (REFERENCE / name).read_bytes(), 0o755)
        for name in ("loopback", "portmap", "bandwidth", "tuning", "host-local", "ptp", "bridge")]
    for name, files, more, config in (
            (AWS, main, links, {"Entrypoint": ["/app/aws-vpc-cni"], "WorkingDir": "/app"}),
            (AWS.replace("cni:", "cni-init:"), init, (), {"Cmd": ["/init/aws-vpc-cni-init"], "WorkingDir": "/init"})):
        file = c.files / "image.tar"
        archive(file, name, files, more, **config)
        c.lab("image", "load", file)
        file.unlink()


def upstream_applied(c):
    """AWS's DaemonSet as EKS installs it: its chart's objects, its selector, not helm's."""
    values = {"originalMatchLabels": True, "nodeAgent": {"enabled": False}, "env": ENV, "readinessProbe": {"periodSeconds": 1},
              "image": {"override": AWS}, "init": {"image": {"override": AWS.replace("cni:", "cni-init:")}}}
    objects = command(["helm", "template", "aws-vpc-cni", UPSTREAM / "chart", "-n", SYSTEM, "--include-crds", "-f", "-"],
                      c.env, text=json.dumps(values)).stdout
    c.kubectl("apply", "-f", "-", text=objects)


@contextlib.contextmanager
def upstream_cluster():
    """A cluster whose nodes run AWS's aws-node."""
    with Cluster() as c:
        upstream_images(c)
        c.aws("aws eks delete-addon --cluster-name dev --addon-name vpc-cni")
        eventually(lambda: agents(c), lambda found: found == {NODE: [], OTHER: []}, what="the lab's own is gone")
        upstream_applied(c)
        runs(c, ("aws-node", AWS), ("aws-node", AWS))
        yield c


# --- what is seen -------------------------------------------------------------------------------

def agents(c):
    """The pods of agents on each node, those that end included: (DaemonSet, image, Ready)."""
    found = {node: [] for node in c.nodes}
    names = {kubernetes: node for node, kubernetes in c.nodes.items()}
    for pod in c.json("-n", SYSTEM, "get", "pods", "-l", "k8s-app=aws-node")["items"]:
        if "nodeName" not in pod["spec"]:
            continue
        ready = any(x["type"] == "Ready" and x["status"] == "True" for x in pod["status"].get("conditions", []))
        owner = pod["metadata"]["ownerReferences"][0]["name"]
        image = next(x["image"] for x in pod["spec"]["containers"] if x["name"] == "aws-node")
        found[names[pod["spec"]["nodeName"]]].append((owner, image, ready))
    return found


def runs(c, node, other, within=240):
    """Until these (DaemonSet, image) and no others serve the two nodes, with their own network lists."""
    wanted = {NODE: [(*node, True)], OTHER: [(*other, True)]}
    eventually(lambda: agents(c), lambda found: found == wanted, within, f"{wanted} serve")
    for name, (_, image) in ((NODE, node), (OTHER, other)):
        def plugins(name=name):
            text = c.on_node(name, "cat", "/etc/cni/net.d/10-aws.conflist").stdout
            return [plugin["type"] for plugin in json.loads(text)["plugins"]]
        eventually(plugins, lambda seen, image=image: seen == LISTS[image], what=f"{name}'s network list is of {image}")


def agent_pod(c, node):
    """Which pod serves a node: another one after each start."""
    pods = c.json("-n", SYSTEM, "get", "pods", "-l", "k8s-app=aws-node")["items"]
    return [p["metadata"]["uid"] for p in pods if p["spec"].get("nodeName") == c.nodes[node]]


def new_pods(c, ns, stage):
    """A new pod on each node reaches all pods of the namespace and is reached, and EC2 has just what the pods have."""
    for node in (NODE, OTHER):
        ns.pod(f"{stage}-{node}", "branchline", "lab", "listen", "http/80", node=node, wait=False)
    for node in (NODE, OTHER):
        ns.wait(f"{stage}-{node}")
    everybody_talks(ns)
    for node in (NODE, OTHER):
        c.settled(node)


def everybody_talks(ns):
    """Every pod gets an answer from every other one, over a connection of its own."""
    addresses = {p["metadata"]["name"]: p["status"]["podIP"] for p in ns.json("get", "pods")["items"]}
    assert len(set(addresses.values())) == len(addresses), addresses
    for name in addresses:
        urls = [f"http://{address}/" for other, address in addresses.items() if other != name]
        ns.exec(name, "curl", "-sS", "--fail", "--fail-early", "--max-time", "10", "-o", "/dev/null", *urls)


@contextlib.contextmanager
def talking(c, name):
    """A namespace with a pod on each node, which answer HTTP, and one open connection each way between them."""
    with c.namespace(name) as ns:
        ns.pod("a", "branchline", "lab", "listen", "http/80", node=NODE, wait=False)
        ns.pod("b", "branchline", "lab", "listen", "http/80", node=OTHER)
        ns.wait("a")
        with stream(ns, "a", "b", 9000), stream(ns, "b", "a", 9001):
            yield ns
        restarts = {p["metadata"]["name"]: p["status"]["containerStatuses"][0]["restartCount"]
                    for p in ns.json("get", "pods")["items"]}
        assert not any(restarts.values()), restarts


def is_gone(c, *objects):
    for what in objects:
        says(c.kubectl("-n", SYSTEM, "get", what, exit=1), "NotFound")


# --- the tests ----------------------------------------------------------------------------------

CANARY, BACK = "Canary beside the managed add-on", "Rollback and uninstall"
OF_THE_CANARY = ("daemonset/aws-node-branchline", "clusterrole/aws-node-branchline", "serviceaccount/aws-node-branchline")


def there_and_back(c, ns, beside, affinity):
    """The canary and its end by the README: the commands with the word `affinity` tell the aws-node `beside` it."""
    typed(c, block(CANARY, "affinity='"), block(CANARY, affinity))
    # Terms alone move nothing: until a node has the label, it stays whose it was.
    runs(c, beside, beside)
    steps = block(CANARY, "kubectl label node").splitlines(keepends=True)
    label = [line for line in steps if "kubectl label" in line]
    typed(c, "".join(line for line in steps if line not in label))
    status = c.json("-n", SYSTEM, "get", "daemonset", "aws-node-branchline")["status"]
    assert status["desiredNumberScheduled"] == 0, status
    there = agent_pod(c, OTHER)
    typed(c, *label)
    runs(c, ("aws-node-branchline", OURS), beside)
    assert agent_pod(c, OTHER) == there, "the other node's agent is the one it was"
    new_pods(c, ns, "canary")
    typed(c, block(BACK, "branchline.dev/cni-"))
    runs(c, beside, beside)
    assert agent_pod(c, OTHER) == there, "the other node's agent is the one it was"
    is_gone(c, *OF_THE_CANARY)
    new_pods(c, ns, "back")


def test_canary_beside_awss_aws_node():
    with upstream_cluster() as c, talking(c, "canary") as ns:
        there_and_back(c, ns, ("aws-node", AWS), "patch daemonset")


def test_canary_beside_a_managed_add_on():
    """The lab's add-on is of our own chart: the commands are EKS's."""
    with Cluster() as c, talking(c, "canary") as ns:
        there_and_back(c, ns, ("aws-node", OURS), "aws eks update-addon")


def test_in_place_of_awss_aws_node():
    with upstream_cluster() as c, talking(c, "place") as ns:
        typed(c, block("In place of the installed aws-node", "helm upgrade"))
        runs(c, ("aws-node", OURS), ("aws-node", OURS))
        set_ = c.json("-n", SYSTEM, "get", "daemonset", "aws-node")["spec"]["template"]["spec"]
        left = [e["name"] for x in set_["containers"] for e in x["env"] if e["name"] in ("VPC_CNI_VERSION", "ENABLE_IMDS_ONLY_MODE")]
        assert not left, f"of AWS's variables there are {left}"
        new_pods(c, ns, "ours")

        def warm():
            env = c.json("-n", SYSTEM, "get", "daemonset", "aws-node")["spec"]["template"]["spec"]["containers"][0]["env"]
            return next(e["value"] for e in env if e["name"] == "WARM_IP_TARGET")
        c.chart({"env": {"WARM_IP_TARGET": "3"}})
        assert warm() == "3"
        typed(c, block(BACK, "helm rollback"))
        assert warm() == "2"
        c.rolled_out()

        typed(c, block(BACK, "helm uninstall aws-vpc-cni"))
        eventually(lambda: agents(c), lambda found: found == {NODE: [], OTHER: []}, what="no agent is left")
        is_gone(c, "daemonset/aws-node", "clusterrole/aws-node")
        everybody_talks(ns)
        ns.pod("waits", "branchline", "lab", "listen", "http/80", node=NODE, wait=False)
        told = eventually(lambda: ns.events("waits", "FailedCreatePodSandBox"), what="why the new pod waits")
        says(told[0], "ipamd.sock")
        assert c.ready(NODE)["status"] == "True", c.ready(NODE)
        upstream_applied(c)
        runs(c, ("aws-node", AWS), ("aws-node", AWS))
        ns.wait("waits", 60)
        new_pods(c, ns, "theirs")
