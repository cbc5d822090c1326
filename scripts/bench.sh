#!/usr/bin/env bash
# The figures of docs/figures.md, measured: scripts/bench.sh [all|cni|attach|churn|full|up|enis|why|command|idle|cluster]
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "make bench needs root: it makes network namespaces" >&2; exit 1; }
part=${1:-all}
target=$(${CARGO:-cargo} metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
BRANCHLINE_BIN=$(cd "${BRANCHLINE_BIN:-$target/release}" && pwd)
export BRANCHLINE_BIN
${CARGO:-cargo} build --release --locked --quiet -p branchline-benches
scratch=$(mktemp -d /tmp/branchline-bench.XXXXXX)
trap 'rm -rf "$scratch"' EXIT

# The limit of every CNI plugin: a process that is executed, does nothing and ends.
export BRANCHLINE_FLOOR=$scratch/nothing
echo 'int main(void) { return 0; }' | ${CC:-cc} -O2 -static -x c -o "$BRANCHLINE_FLOOR" -

echo "$(nproc) cores, kernel $(uname -r), $(. /etc/os-release && echo "$PRETTY_NAME")"
scripts/machine-state.sh >"$scratch/before"
# What else runs here waits: nice(1) for all that is started from now on, floors included.
renice -n -19 -p $$ >/dev/null
status=0
if [ "$part" != cluster ]; then
  "$target/release/branchline-bench" "$part" || status=$?
fi
if [ "$part" = all ] || [ "$part" = cluster ]; then
  .venv/bin/python benches/cluster.py || status=$?
  ${CARGO:-cargo} bench --locked --quiet -p branchline --bench kubernetes || status=$?
fi
scripts/machine-state.sh >"$scratch/after"
if ! diff -u "$scratch/before" "$scratch/after"; then
  echo "the machine is not as before" >&2
  status=1
fi
exit $status
