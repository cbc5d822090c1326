#!/usr/bin/env python3
"""Bad moments, as a user meets them: each ends in a clear error, and nothing is left behind.

    .venv/bin/python tests/e2e/run.py [NAME …]      all, or those whose name contains NAME

Every test runs whole programs against a lab of its own; the machine's state is compared before
and after each.
"""
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / room) for room in ("common", "scenarios")]
import run as scenarios  # noqa: E402  one way to bring a lab up, for scenarios and for this
from trials import play, run, until  # noqa: E402

ROOT, BIN = scenarios.ROOT, scenarios.BIN
BRANCHLINE = str(BIN / "branchline")
TOPOLOGY = str(ROOT / "scenarios/rds/topology.yaml")
NODE = "ip-10-0-1-11"
QUESTION = [BRANCHLINE, "why", f"node/{NODE}", "rds/orders:5432"]


class Lab:
    """A lab of this process's name, and its environment while it is up."""

    def __init__(self, topology=TOPOLOGY):
        self.env, self.topology = scenarios.environment(), topology

    def __enter__(self):
        run([BRANCHLINE, "lab", "up", "-f", self.topology], self.env)
        exports = run([BRANCHLINE, "lab", "env", "--shell", "json"], self.env).stdout
        self.env.update(json.loads(exports))
        return self

    def __exit__(self, *_):
        run([BRANCHLINE, "lab", "down"], self.env)

    def run(self, *words, **kwargs):
        return run([BRANCHLINE, *words], self.env, **kwargs)

    def shell(self, line, exit=0):
        done = scenarios.shell(line, self.env)
        assert done.returncode == exit, f"exit {done.returncode}: {line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def pods(self, count, name="api"):
        self.run("lab", "pod", "run", name, "--node", NODE, "--count", str(count), "--", "sleep", "infinity")


def says(done, *texts):
    told = done.stdout + done.stderr
    for text in texts:
        assert text in told, f"no {text!r} in\n{told}"


def test_topology_with_an_unknown_field():
    text = Path(TOPOLOGY).read_text()
    with tempfile.TemporaryDirectory(prefix="branchline-e2e") as folder:
        file = Path(folder) / "topology.yaml"
        file.write_text(text + "\nflavour: vanilla\n")
        line = len(text.splitlines()) + 2
        done = run([BRANCHLINE, "lab", "up", "-f", str(file)], scenarios.environment(), exit=2)
        says(done, f"topology.yaml:{line}:", "flavour")


def test_topology_that_is_not_there():
    done = run([BRANCHLINE, "lab", "up", "-f", "/nowhere/topology.yaml"], scenarios.environment(), exit=2)
    says(done, "/nowhere/topology.yaml")


def test_not_root():
    with tempfile.TemporaryDirectory(prefix="branchline-e2e") as folder:
        os.chmod(folder, 0o755)
        program = Path(folder) / "branchline"
        program.write_bytes(Path(BRANCHLINE).read_bytes())
        program.chmod(0o755)
        topology = Path(folder) / "topology.yaml"
        topology.write_text(Path(TOPOLOGY).read_text())
        env = {"PATH": os.environ["PATH"], "BRANCHLINE_LAB": scenarios.LAB}
        done = run([str(program), "lab", "up", "-f", str(topology)], env, exit=None, user=65534)
        assert done.returncode != 0
        says(done, "root")


def test_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = run([BRANCHLINE, "lab", "up", "-f", TOPOLOGY, "--port", str(port)],
                   scenarios.environment(), exit=None)
        assert done.returncode != 0
        says(done, f"port {port} on 127.0.0.1 is in use")


def test_second_lab_of_the_same_name():
    with Lab() as lab:
        done = run([BRANCHLINE, "lab", "up", "-f", TOPOLOGY], scenarios.environment(), exit=None)
        assert done.returncode != 0
        says(done, scenarios.LAB, "already")
        lab.pods(1)  # and the first one still works


def test_interrupt_in_the_middle_of_up():
    for after in (0.05, 0.3, 0.6, 1.0):
        up = subprocess.Popen([BRANCHLINE, "lab", "up", "-f", TOPOLOGY], env=scenarios.environment(),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              start_new_session=True)
        time.sleep(after)
        os.killpg(up.pid, signal.SIGINT)
        up.communicate(timeout=120)
        if up.returncode == 0:  # it was faster than the interrupt
            run([BRANCHLINE, "lab", "down"], scenarios.environment())
        left = Path("/run/branchline") / scenarios.LAB
        assert not left.exists(), f"{left} is still there, {after} s"


def test_kill_of_the_daemon_and_down():
    with Lab() as lab:
        lab.pods(15)
        status = json.loads(lab.run("lab", "status", "-o", "json").stdout)
        os.kill(status["lab"]["daemon"]["pid"], signal.SIGKILL)
        time.sleep(0.2)
        # __exit__ runs `lab down`, which must clean up alone; main() compares the machine.


def test_down_without_a_lab():
    run([BRANCHLINE, "lab", "down"], scenarios.environment())


def test_traffic_goes_on_without_the_lab():
    """Pods' networking is the kernel's: with every process of the lab stopped, packets still flow."""
    with Lab() as lab:
        lab.shell("aws ec2 authorize-security-group-ingress --group-id $(sg add_sg) --ip-permissions "
                  '"IpProtocol=tcp,FromPort=5432,ToPort=5432,UserIdGroupPairs=[{GroupId=$(sg nodes)}]"')
        lab.pods(3)
        daemon = json.loads(lab.run("lab", "status", "-o", "json").stdout)["lab"]["daemon"]["pid"]
        os.kill(daemon, signal.SIGSTOP)
        try:
            for pod in ("api-1", "api-2", "api-3"):
                # `lab exec` steps into the pod itself; it asks nobody.
                says(lab.run("lab", "exec", pod, "--", BRANCHLINE, "probe", "tcp", "10.0.21.40", "5432"), "connected")
        finally:
            os.kill(daemon, signal.SIGCONT)


def test_denied_describe_calls_are_unknown_with_the_action():
    with Lab() as lab:
        lab.pods(2)
        for action in ("DescribeNetworkAcls", "DescribeSecurityGroups", "DescribeRouteTables", "DescribeSubnets"):
            lab.run("lab", "knob", "set", json.dumps({"denies": [{"action": action}]}))
            done = run(QUESTION, lab.env, exit=3)
            says(done, "UNKNOWN", f"ec2:{action}")
        lab.run("lab", "knob", "set", json.dumps({"denies": []}))
        run(QUESTION, lab.env, exit=1)


def test_throttled_describe_calls_are_retried():
    with Lab() as lab:
        lab.pods(2)
        fault = {"action": "Describe*", "code": "RequestLimitExceeded", "count": 5}
        lab.run("lab", "knob", "set", json.dumps({"faults": [fault]}))
        run(QUESTION, lab.env, exit=1)


def test_why_without_an_endpoint_names_it():
    env = scenarios.environment()
    env.update(AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x",
               AWS_REGION="us-west-2")
    says(run(QUESTION, env, exit=5), "127.0.0.1:9")


def test_wrong_questions():
    with Lab() as lab:
        lab.pods(2)
        says(lab.run("why", "pod/nobody", "rds/orders:5432", exit=2), "nobody", "default/api-1")
        says(lab.run("why", "pod/api", "rds/orders:5432", exit=2), "ambiguous", "default/api-2")
        says(lab.run("why", "pod/api-1", "rds/orders", exit=2), "port")
        says(lab.run("why", "pod/api-1", "rds/orders:5432", "--if", "sg/nodes admits all", exit=2), "--if")
        says(lab.run("explain", "BL9999", exit=2), "BL0301")


def test_gateways_predictions_and_packets_agree():
    """NAT, internet gateway, peering, ACL and prefix list: every pair of hosts, asked and tried."""
    topology = str(ROOT / "scenarios/gateways/topology.yaml")
    wanted = {
        ("app", "10.10.0.10:80"): 0, ("app", "10.10.2.10:80"): 0, ("app", "10.10.2.10:8080"): "acl_in",
        ("web", "10.10.2.10:80"): "group_ingress", ("app", "10.20.1.10:3306"): 0,
        ("app", "10.20.1.10:3307"): "group_ingress", ("web", "10.20.1.10:3306"): "no_public_address",
        ("app", "198.51.100.25:25"): 0, ("web", "198.51.100.25:25"): "no_public_address",
        ("store", "198.51.100.25:25"): "no_route",
    }
    with Lab(topology) as lab:
        for (host, to), reason in wanted.items():
            works = reason == 0
            why = lab.run("why", f"eni/{host}", to, "--over", "running", "-o", "json", exit=0 if works else 1)
            place = json.loads(why.stdout)["placements"][0]
            assert place.get("reason", 0) == reason, (host, to, place["result"], place.get("reason"))
            address, port = to.split(":")
            # What is to work is waited for, the rest for a moment.
            lab.run("lab", "exec", host, "--", BRANCHLINE, "probe", "tcp", address, port, "--timeout",
                    "30" if works else "0.5", exit=0 if works else 1)


def test_metadata_hop_limit():
    """The token's answer has the instance's hop limit as its TTL: a pod is one hop behind its node."""
    ask = ("import socket, sys; wait = int(sys.argv[1]); "
           "s = socket.create_connection(('169.254.169.254', 80), wait); s.settimeout(wait); "
           "s.sendall(b'PUT /latest/api/token HTTP/1.1\\r\\nHost: x\\r\\nX-aws-ec2-metadata-token-ttl-seconds: 60"
           "\\r\\nContent-Length: 0\\r\\n\\r\\n'); print(s.recv(99).decode().splitlines()[0])")
    with Lab() as lab:
        lab.pods(1)
        for limit, pod in ((1, 1), (2, 0)):
            lab.shell("aws ec2 modify-instance-metadata-options --instance-id "
                      f"$(instance {NODE}) --http-put-response-hop-limit {limit}")
            lab.run("lab", "node", "exec", NODE, "--", sys.executable, "-c", ask, "30")
            lab.run("lab", "exec", "api-1", "--", sys.executable, "-c", ask, "1" if pod else "30", exit=pod)


def test_a_silent_agent_is_unknown():
    with Lab() as lab:
        lab.pods(2)
        env = dict(lab.env, BRANCHLINE_NODES=f"{NODE}=http://127.0.0.1:9")
        says(run(QUESTION, env, exit=3), "UNKNOWN", NODE)


def test_eni_limit_names_the_ceiling():
    with Lab() as lab:
        lab.pods(15)
        done = lab.run("lab", "pod", "run", "one-more", "--node", NODE, "--", "sleep", "infinity", exit=None)
        assert done.returncode != 0
        says(done, "all 3 interfaces that the instance type allows are full: 15 of 15")
        listed = json.loads(lab.run("lab", "pod", "list", "-o", "json").stdout)
        assert len(listed) == 15, listed


def test_agent_down_is_code_11_with_the_socket():
    with Lab() as lab:
        lab.pods(1)
        status = json.loads(lab.run("lab", "status", "-o", "json").stdout)
        agent = status["nodes"][NODE]["services"]["agent"]["pid"]  # as the node counts its processes
        lab.run("lab", "node", "exec", NODE, "--", "kill", "-STOP", str(agent))
        try:
            done = lab.run("lab", "pod", "run", "waits", "--node", NODE, "--", "sleep", "infinity", exit=None)
            assert done.returncode != 0
            says(done, "ipamd.sock", "11")
        finally:
            lab.run("lab", "node", "exec", NODE, "--", "kill", "-CONT", str(agent))
        lab.pods(1, "after")


def test_agent_restart_keeps_connections_and_addresses():
    with Lab() as lab:
        lab.pods(15)
        before = lab.run("lab", "pod", "list", "-o", "json").stdout
        enis = lab.shell("aws ec2 describe-network-interfaces --query 'NetworkInterfaces[].PrivateIpAddresses[].PrivateIpAddress' --output text")
        status = json.loads(lab.run("lab", "status", "-o", "json").stdout)
        agent = status["nodes"][NODE]["services"]["agent"]["pid"]
        lab.run("lab", "node", "exec", NODE, "--", "kill", "-KILL", str(agent))

        def again():
            now = json.loads(lab.run("lab", "status", "-o", "json").stdout)["nodes"][NODE]
            return now["ready"] and now["services"]["agent"]["restarts"] > 0
        until(90, "the agent serves again", again)
        assert json.loads(before) == json.loads(lab.run("lab", "pod", "list", "-o", "json").stdout)
        assert enis.split() == lab.shell("aws ec2 describe-network-interfaces --query 'NetworkInterfaces[].PrivateIpAddresses[].PrivateIpAddress' --output text").split()
        done = lab.run("ping", f"node/{NODE}", "rds/orders:5432", "-o", "json", exit=1)
        assert json.loads(done.stdout)["as_predicted"] == 15


def test_second_agent_on_a_node_refuses():
    with Lab() as lab:
        lab.pods(2)
        done = lab.run("lab", "node", "exec", NODE, "--", "env", "AWS_VPC_K8S_CNI_LOG_FILE=stderr",
                       "timeout", "60", str(BIN / "branchline-agent"), "addresses", exit=1)
        says(done, "ipamd.lock is locked", "another agent")
        lab.pods(1, "after")  # and the first one still serves


def test_agent_without_instance_metadata_names_the_cause():
    with tempfile.TemporaryDirectory(prefix="branchline-e2e") as folder:
        env = {"PATH": os.environ["PATH"], "AWS_VPC_K8S_CNI_LOG_FILE": "stderr",
               "AWS_VPC_CNI_IPAMD_SOCKET": f"{folder}/ipamd.sock",
               "AWS_VPC_K8S_CNI_BACKING_STORE": f"{folder}/ipam.json",
               "HOST_CNI_BIN_PATH": f"{folder}/bin", "HOST_CNI_CONFDIR_PATH": f"{folder}/conf"}
        told = Path(folder) / "told"
        with told.open("w") as out:
            agent = subprocess.Popen(["unshare", "-n", str(BIN / "branchline-agent"), "addresses"], env=env,
                                     stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            for text in ("instance metadata at http://169.254.169.254", "there is no route"):
                until(60, lambda: f"no {text!r} in\n{told.read_text()}", lambda: text in told.read_text())
            # It must drain and go by itself.
            agent.terminate()
            agent.wait(60)
            assert "ended" in told.read_text(), told.read_text()
        finally:
            agent.kill()
            agent.wait()
        assert not list(Path(folder).glob("conf/*")), "not ready, so no network list"


def test_agent_with_a_bad_variable_names_it():
    env = {"PATH": os.environ["PATH"], "AWS_VPC_K8S_CNI_LOG_FILE": "stderr", "AWS_VPC_ENI_MTU": "99999",
           "AWS_VPC_K8S_CNI_VETHPREFIX": "toolong"}
    done = run(["unshare", "-n", "timeout", "60", str(BIN / "branchline-agent"), "addresses"], env, exit=64)
    says(done, "AWS_VPC_ENI_MTU", "9001", "AWS_VPC_K8S_CNI_VETHPREFIX")


def mend():
    subprocess.run([BRANCHLINE, "lab", "down"], env=scenarios.environment(), check=False)


if __name__ == "__main__":
    sys.exit(play([(n, t) for n, t in globals().items() if n.startswith("test_")], sys.argv[1:], mend))
