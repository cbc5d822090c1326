#!/usr/bin/env bash
# Installs the Debian packages that are missing. Nothing is downloaded when all are there.
#   scripts/deps.sh build | run      what a build needs; besides, what the demo and the tests need
set -euo pipefail
need=()
want() { command -v "$1" >/dev/null 2>&1 || [ -e "$1" ] || need+=("$2"); }

want cc gcc
want ld binutils
want make make
want /usr/include/stdio.h libc6-dev
want /etc/ssl/certs/ca-certificates.crt ca-certificates
# Without Go, scripts/kubernetes.sh takes it from PyPI.
[ -n "${KUBEBUILDER_ASSETS:-}" ] || command -v go >/dev/null 2>&1 || {
  want python3 python3
  python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || need+=(python3-venv)
}
[ "${1:-run}" = build ] || {
  want ip iproute2
  want nft nftables
  want conntrack conntrack
  want iptables iptables
  want containerd containerd
  want runc runc
  want busybox busybox-static
  want bash bash
  want curl curl
  want tcpdump tcpdump
  want /usr/lib/cni/loopback containernetworking-plugins
  want python3 python3
  python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || need+=(python3-venv)
}
[ ${#need[@]} -eq 0 ] && exit 0
if [ "$(id -u)" != 0 ]; then
  echo "missing packages: ${need[*]}; install them as root: apt-get install ${need[*]}" >&2
  exit 1
fi
echo "installing: ${need[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
