"""What the tests that run whole programs share: a command and its end, waiting, the machine before and after."""
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(words, env=None, exit=0, timeout=120, user=None):
    """Runs a command without standard input; `exit` None: it may end as it likes."""
    done = subprocess.run([str(w) for w in words], env=env, text=True, stdin=subprocess.DEVNULL, user=user,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout)
    told = f"$ {' '.join(map(str, words))}\n{done.stdout}{done.stderr}"
    assert exit is None or done.returncode == exit, f"exit {done.returncode}, expected {exit}\n{told}"
    return done


def until(seconds, what, look):
    """Looks again until it is true, and returns it."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"not within {seconds} s: {what() if callable(what) else what}"
        time.sleep(0.05)


def machine():
    """What a lab must leave as it found it, as text."""
    return run([ROOT / "scripts/machine-state.sh"]).stdout


def play(tests, wanted, mend=lambda: None):
    """Runs tests (name, function), all or those whose name contains a word of `wanted`; after each the
    machine is as before. `mend` clears away what one that failed left. Gives the exit code."""
    passed = failed = 0
    for name, test in tests:
        if wanted and not any(w in name for w in wanted):
            continue
        began, before = time.monotonic(), machine()
        try:
            test()
            after = machine()
            if before != after:
                lines = set(after.splitlines()) ^ set(before.splitlines())
                raise AssertionError("the machine is not as before:\n" + "\n".join(sorted(lines)[:40]))
            passed += 1
            outcome = "ok"
        except Exception as error:  # noqa: BLE001  whatever it is, the next test runs
            failed += 1
            outcome = f"FAILED\n{type(error).__name__}: {error}"
            mend()
        print(f"{name} … {outcome} ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0
