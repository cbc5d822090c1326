#!/usr/bin/env python3
"""The agent under faults: killed, cut off from its disk, with files that are broken, and DELs that are lost.

    .venv/bin/python tests/faults/run.py [NAME …]      all, or those whose name contains NAME
    ROUNDS=100 SEED=7 … run.py chaos                   longer; the same again

Every test has a lab with one bare node and starts its agent itself; the machine's state is compared before
and after each.
"""
import importlib
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What runs: every module beside this one that has tests.
MODULES = sorted(f.stem for f in HERE.glob("*.py") if f.stem not in ("run", "node"))


def machine():
    return subprocess.run([HERE.parents[1] / "scripts/machine-state.sh"], text=True, check=True,
                          stdout=subprocess.PIPE).stdout


def main(wanted):
    sys.path.insert(0, str(HERE))
    tests = [(n, t) for m in MODULES for n, t in vars(importlib.import_module(m)).items() if n.startswith("test_")]
    tests = [(n, t) for n, t in tests if not wanted or any(w in n for w in wanted)]
    passed = failed = 0
    for name, test in tests:
        began, before = time.monotonic(), machine()
        try:
            test()
            after = machine()
            if before != after:
                lines = set(after.splitlines()) ^ set(before.splitlines())
                raise AssertionError("the machine is not as before:\n" + "\n".join(sorted(lines)[:40]))
        except Exception as error:  # noqa: BLE001  a test that breaks is a test that fails
            failed += 1
            text = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            print(f"FAIL {name} ({time.monotonic() - began:.1f} s)\n{text}", flush=True)
        else:
            passed += 1
            print(f"ok   {name} ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
