#!/usr/bin/env python3
"""The agent under faults: killed, cut off from its disk, with files that are broken, and DELs that are lost.

    .venv/bin/python tests/faults/run.py [NAME …]      all, or those whose name contains NAME
    ROUNDS=100 SEED=7 … run.py chaos                   longer; the same again

Every test has a lab with one bare node and starts its agent itself; the machine's state is compared before
and after each.
"""
import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "common")]
from trials import play  # noqa: E402

# What runs: every module beside this one that has tests.
MODULES = sorted(f.stem for f in HERE.glob("*.py") if f.stem not in ("run", "node"))

if __name__ == "__main__":
    tests = [(n, t) for m in MODULES for n, t in vars(importlib.import_module(m)).items() if n.startswith("test_")]
    sys.exit(play(tests, sys.argv[1:]))
