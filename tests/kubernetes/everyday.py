"""Services and kubectl's everyday commands, in both modes of kube-proxy; the agent's settings changed under a stream."""
import contextlib
import threading
import urllib.request

from cluster import eventually, says, stream

NODE, OTHER = "n1", "n2"


def test_services_by_iptables(c):
    services(c, "iptables")


def test_services_by_nftables(c):
    c.addon("kube-proxy", mode="nftables")
    c.rolled_out("daemonset/kube-proxy")
    services(c, "nftables")
    says(c.on_node(NODE, "nft", "list", "table", "ip", "kube-proxy").stdout, "by-nftables/web")
    # It stays: the tests after this one have it, those before had iptables.


def services(c, mode):
    """ClusterIP, NodePort and headless; names resolve from pods; `kubernetes.default` answers."""
    for node in (NODE, OTHER):
        eventually(lambda n=node: c.on_node(n, "curl", "-sS", "http://127.0.0.1:10249/proxyMode").stdout,
                   lambda told: told == mode, what="kube-proxy's mode")
    with c.namespace(f"by-{mode}") as ns:
        ns.deployment("web", 2, readinessProbe={"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1})
        ns.pod("client", node=OTHER, wait=False)

        def service(name, **spec):
            return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": ns.name},
                    "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}], **spec}}
        c.apply(service("web"), service("outside", type="NodePort"), service("each", clusterIP="None"))
        ns.rolled_out("deploy/web")
        ns.wait("client")
        backends = {p["status"]["podIP"] for p in ns.json("get", "pods", "-l", "app=web")["items"]}
        assert len(backends) == 2, backends

        def get(url, **more):
            return ns.exec("client", "curl", "-sS", "--max-time", "3", url, **more)
        eventually(lambda: get("http://web").stdout, what="the Service answers by its short name")
        get(f"http://web.{ns.name}.svc.cluster.local")

        # Each kube-proxy, and CoreDNS, hears of Services when it hears of them.
        def reached(ask):
            eventually(lambda: ask().returncode, lambda code: code == 0, what="the Service answers")
        port = ns.json("get", "service", "outside")["spec"]["ports"][0]["nodePort"]
        for address in ("10.0.1.11", "10.0.1.12"):  # a node without a pod of it forwards
            url = f"http://{address}:{port}"
            reached(lambda url=url: get(url, exit=None))
            reached(lambda url=url: c.on_node(NODE, "curl", "-sS", "--max-time", "3", url, exit=None))

        def addresses():
            told = ns.shell("client", f"nslookup each.{ns.name}.svc.cluster.local")
            return {w for w in told.split("Name:", 1)[1].split() if w.startswith("10.0.")}
        eventually(addresses, lambda found: found == backends, what="the name of the headless Service has its pods")
        # The API server through its Service, by its name and with the pod's own token.
        said = ns.shell("client", "cd /var/run/secrets/kubernetes.io/serviceaccount && curl -sS --cacert ca.crt "
                        "-H \"Authorization: Bearer $(cat token)\" https://kubernetes.default.svc/version")
        says(said, '"major": "1"')
        # Without a ready pod behind it, it refuses.
        ns.kubectl("scale", "deploy/web", "--replicas=0")
        eventually(lambda: get("http://web", exit=None).returncode, lambda code: code == 7, what="refused without pods")


def test_kubectl(c):
    """logs, exec, port-forward, rollout restart, scale, drain."""
    with c.namespace("everyday") as ns:
        ns.deployment("web", 3)
        ns.pod("talks", "sh", "-c", "echo hello; echo world; sleep infinity", wait=False)
        ns.rolled_out("deploy/web")
        ns.wait("talks")
        # A container is Ready before it has said anything.
        eventually(lambda: ns.kubectl("logs", "talks").stdout, lambda said: said == "hello\nworld\n", what="its words")
        done = ns.kubectl("exec", "-i", "talks", "--", "sh", "-c", "cat; exit 7", exit=7, text="through the node")
        says(done, "through the node")
        with forwarded(c, "everyday", "deploy/web", 80) as port:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=60) as answer:
                assert answer.status == 200
        before = set(ns.json("get", "pods", "-l", "app=web")["items"][i]["metadata"]["name"] for i in range(3))
        ns.kubectl("rollout", "restart", "deploy/web")
        ns.rolled_out("deploy/web")

        def names():
            return {p["metadata"]["name"] for p in ns.json("get", "pods", "-l", "app=web")["items"]}
        eventually(names, lambda now: len(now) == 3 and not now & before, what="all pods are new")
        ns.kubectl("scale", "deploy/web", "--replicas=6")
        ns.rolled_out("deploy/web")
        # kubectl does not evict a pod that nothing would make again, unless it is told to.
        ns.kubectl("delete", "pod", "talks")
        node = c.nodes[NODE]
        c.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=150s", timeout=160)
        try:
            ns.rolled_out("deploy/web")
            assert c.on(NODE) == {}, c.on(NODE)
            assert len([p for p in c.on(OTHER) if p.startswith("everyday/")]) == 6
        finally:
            c.kubectl("uncordon", node)
        c.settled(NODE)


@contextlib.contextmanager
def forwarded(c, namespace, what, port):
    """A local port that kubectl forwards."""
    process = c.start("-n", namespace, "port-forward", what, f":{port}")
    try:
        line = process.stdout.readline()
        says(line, "Forwarding from 127.0.0.1:")
        # It tells of every connection; unread, it would stop at a full pipe.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield int(line.split(":")[1].split()[0])
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_probes(c):
    """A pod that is not ready leaves its Service; one that is not alive is started again, in its sandbox."""
    with c.namespace("probes") as ns:
        # Only an answer counts, not how long the machine takes for it.
        exists = lambda file: {"exec": {"command": ["test", "-e", file]}, "periodSeconds": 1, "failureThreshold": 1,  # noqa: E731
                               "timeoutSeconds": 60}
        ns.pod("p", "sh", "-c", "touch ready alive; sleep infinity", node=NODE,
               readinessProbe=exists("ready"), livenessProbe={**exists("alive"), "initialDelaySeconds": 1})
        c.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "p", "namespace": "probes"},
                 "spec": {"selector": {"app": "p"}, "ports": [{"port": 80}]}})

        def ready():
            slices = ns.json("get", "endpointslices", "-l", "kubernetes.io/service-name=p")["items"]
            return [e["conditions"]["ready"] for s in slices for e in s["endpoints"] or []]
        eventually(ready, lambda r: r == [True], what="it is an endpoint")
        ns.shell("p", "rm ready")
        eventually(ready, lambda r: r == [False], what="it is none")
        address = ns.json("get", "pod", "p")["status"]["podIP"]
        ns.shell("p", "rm alive")
        status = eventually(lambda: ns.json("get", "pod", "p")["status"],
                            lambda s: s["containerStatuses"][0]["restartCount"] == 1, what="it is started again")
        assert status["podIP"] == address, "the sandbox stays"
        ns.wait("p")


def test_settings_change_under_a_stream(c):
    """`kubectl set env daemonset aws-node` rolls out while pods talk: not a byte and not a packet is lost."""
    with c.namespace("settings") as ns:
        ns.pod("a", node=NODE, wait=False)
        ns.pod("b", node=OTHER, wait=False)
        ns.wait("a")
        ns.wait("b")
        env = ("-n", "kube-system", "set", "env", "daemonset", "aws-node")
        try:
            with stream(ns, "a", "b"), stream(ns, "b", "a", 9001):
                c.kubectl(*env, "WARM_IP_TARGET=4")
                c.rolled_out()
                free = lambda: [list(c.leased(n).values()).count(None) for n in (NODE, OTHER)]  # noqa: E731
                eventually(free, lambda f: min(f) >= 4, what="four warm addresses")
                # Pods come and go meanwhile.
                ns.pod("d", node=NODE)
                ns.kubectl("delete", "pod", "d")
        finally:
            c.kubectl(*env, "WARM_IP_TARGET=2")
            c.rolled_out()
        c.settled(NODE)
        c.settled(OTHER)
