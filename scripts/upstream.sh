#!/usr/bin/env bash
# Builds AWS's own aws-node, unmodified, from the module pinned in kubernetes/upstream: the tests
# swap it for ours and back on a live node. Slow once (about four minutes), then nothing to do.
#   scripts/upstream.sh [DIR]    to DIR; DIR defaults to kubernetes/upstream in cargo's target
# Makes what upstream's two images hold: aws-k8s-agent aws-cni aws-vpc-cni aws-vpc-cni-init
# egress-cni grpc-health-probe 10-aws.conflist eni-max-pods.txt, and its Helm chart in chart/.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-}
if [ -z "$out" ]; then
  target=$(${CARGO:-cargo} metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
  out=$target/kubernetes/upstream
fi
module=github.com/aws/amazon-vpc-cni-k8s

say() { printf 'upstream: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

# The Go that scripts/kubernetes.sh found or installed; the pinned module asks for its own version.
wanted=$(awk '$1 == "go" {print $2}' kubernetes/upstream/go.mod)
export GOTOOLCHAIN=local GOFLAGS="-mod=readonly -buildvcs=false" GOWORK=off CGO_ENABLED=0
unset GOOS GOARCH
go=""
for candidate in go "$(dirname "$out")/go/bin/go"; do
  version=$("$candidate" env GOVERSION 2>/dev/null) || continue
  if printf '%s\n%s\n' "$wanted" "${version#go}" | sort -CV; then
    go=$candidate
    break
  fi
done
[ -n "$go" ] || die "no Go $wanted or newer, neither on PATH nor from scripts/kubernetes.sh: put one on PATH (https://go.dev/dl), or run scripts/kubernetes.sh, which installs one"

mkdir -p "$out"
out=$(cd "$out" && pwd)
exec 9>"$out/.lock"
flock -n 9 || { say "waiting for another build"; flock 9; }
sum=$( (echo "$version" && cat "$0" kubernetes/upstream/go.mod kubernetes/upstream/go.sum) | sha256sum)
[ "$(cat "$out/.stamp" 2>/dev/null)" != "$sum" ] || exit 0
rm -rf "$out/.stamp" "$out/.new"
mkdir "$out/.new"

release=$(awk -v m="$module" '$1 == m {print $2}' kubernetes/upstream/go.mod)
say "building $module $release with $version: about four minutes the first time"
if ! (cd kubernetes/upstream && "$go" build -trimpath -ldflags "-s -w" -o "$out/.new/" tool 9>&-) >"$out/build.log" 2>&1; then
  tail -n 20 "$out/build.log" >&2
  die "$module could not be built (above). If modules could not be fetched, this machine needs a way to a Go module proxy (GOPROXY is $("$go" env GOPROXY))"
fi
# Upstream's Makefile gives these two the names that a network list calls.
mv "$out/.new/routed-eni-cni-plugin" "$out/.new/aws-cni"
mv "$out/.new/egress-cni-plugin" "$out/.new/egress-cni"
source=$(cd kubernetes/upstream && "$go" list -m -f '{{.Dir}}' "$module")
install -m 644 "$source/misc/10-aws.conflist" "$source/misc/eni-max-pods.txt" "$out/.new/"
cp -r --no-preserve=mode "$source/charts/aws-vpc-cni" "$out/.new/chart"
rm -rf "$out/chart"
mv -f "$out"/.new/* "$out/"
rmdir "$out/.new"
echo "$sum" >"$out/.stamp"
say "$(du -sh "$out" | cut -f1) in ${SECONDS} s"
