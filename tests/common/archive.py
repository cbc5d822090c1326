"""Images made by hand, as `docker save` writes them: `branchline lab image load` reads them."""
import io
import json
import os
import re
import tarfile
from hashlib import sha256
from pathlib import Path

from trials import run

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]


def tar(files, links=()):
    """A tar of (path, bytes, mode) and of symbolic links (path, target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as to:
        for path, content, mode in files:
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(content), mode
            to.addfile(entry, io.BytesIO(content))
        for path, target in links:
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            to.addfile(entry)
    return out.getvalue()


def archive(file, name, files, links=(), **config):
    """Writes a docker-archive of one image with one layer to `file`; `config` is how a container of it runs."""
    layer = tar(files, links)
    digest = "sha256:" + sha256(layer).hexdigest()
    described = json.dumps({"architecture": ARCHITECTURE, "os": "linux", "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], **config},
                            "rootfs": {"type": "layers", "diff_ids": [digest]}}).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    Path(file).write_bytes(tar([("manifest.json", manifest, 0o644), ("config.json", described, 0o644), ("layer.tar", layer, 0o644)]))


def machine_files(*sources):
    """Programs of the machine, and shared objects, at their own paths with the libraries that they ask for."""
    asked = run(["ldd", *sources], exit=None).stdout  # 1 when one of them asks for none
    libraries = re.findall(r"(/\S+) \(0x", asked)
    return [(path, Path(path).read_bytes(), 0o755) for path in sorted({*map(str, sources), *libraries})]
