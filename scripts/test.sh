#!/usr/bin/env bash
# Every test, one after the other; the last line is the sum: "N passed, N failed".
#   SEED, CASES, STEPS   replay or lengthen the random tests (each prints its seed)
set -uo pipefail
cd "$(dirname "$0")/.."
make=${MAKE:-make}
cargo=${CARGO:-cargo}
log=$(mktemp -d /tmp/branchline-test.XXXXXX)
trap 'rm -rf "$log"' EXIT
passed=0 failed=0 broken=()

step() { printf '\n== %s (after %d s)\n' "$1" "$SECONDS"; }

# Adds the counts that a runner printed. A runner that dies without counting counts as a failure.
count() { # name, exit status, log
  local p f
  p=$(sed -n 's/^test result: [^.]*\. \([0-9]*\) passed.*/\1/p; s/^\([0-9]*\) passed, [0-9]* failed.*/\1/p' "$3" | awk "{s+=\$1} END {print s+0}")
  f=$(sed -n 's/^test result: .* \([0-9]*\) failed;.*/\1/p; s/^[0-9]* passed, \([0-9]*\) failed.*/\1/p' "$3" | awk "{s+=\$1} END {print s+0}")
  passed=$((passed + ${p:-0})) failed=$((failed + ${f:-0}))
  if [ "$2" != 0 ]; then
    broken+=("$1")
    [ "${f:-0}" -gt 0 ] || failed=$((failed + 1))
  elif [ "${p:-0}" = 0 ]; then
    echo "$1 ran no test" >&2
    broken+=("$1") failed=$((failed + 1))
  fi
}

run() { # name, command…
  local name=$1
  shift
  step "$name"
  "$@" 2>&1 | tee "$log/out"
  count "$name" "${PIPESTATUS[0]}" "$log/out"
}

step "build"
"$make" --no-print-directory debug || exit 1
BRANCHLINE_BIN=$($cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug
export BRANCHLINE_BIN

# For the tests alone: nodes have the distribution's.
step "containerd 2"
scripts/kubernetes.sh "$(dirname "$BRANCHLINE_BIN")/kubernetes" containerd || exit 1

step "python environment"
scripts/venv.sh || exit 1

scripts/machine-state.sh >"$log/before"
run "cargo test" $cargo test --workspace --locked --no-fail-fast
run "AWS clients against the EC2 server" .venv/bin/python tests/conformance/run.py
run "the chart" .venv/bin/python tests/chart/run.py
run "the agent in a cluster" .venv/bin/python tests/kubernetes/agent.py
run "the agent's rights" .venv/bin/python tests/kubernetes/rbac.py
run "scenarios on the model and with packets" .venv/bin/python tests/scenarios/run.py
run "Kubernetes" .venv/bin/python tests/kubernetes/run.py
run "bad moments" .venv/bin/python tests/e2e/run.py
run "the agent under faults" .venv/bin/python tests/faults/run.py
run "AWS's aws-node swapped for ours and back" bash -c 'scripts/upstream.sh && exec .venv/bin/python tests/swap/run.py'

step "the machine is as before"
scripts/machine-state.sh >"$log/after"
if diff -u "$log/before" "$log/after"; then
  passed=$((passed + 1))
else
  failed=$((failed + 1)) broken+=("the machine is not as before")
fi

printf '\n'
[ ${#broken[@]} -eq 0 ] || printf 'failed: %s\n' "${broken[@]}"
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
