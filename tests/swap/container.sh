#!/usr/bin/env bash
# Runs a command as the DaemonSet aws-node runs its containers: on a lab's node (through
# `branchline lab node exec`), in the node's network and with a root of its own that has the chart's
# mounts and nothing else of the node.
#   container.sh NAME IMAGE (plain|privileged) [VARIABLE=VALUE …] COMMAND…
# IMAGE is a directory: what lies in it is /app, or /init for the privileged init container. The
# process ID as the node counts it is written to /run/container-NAME.
set -euo pipefail
name=$1 image=$(realpath "$2") rights=$3
shift 3

if [ "${INSIDE:-}" != yes ]; then
  exec env INSIDE=yes unshare --mount --pid --fork --kill-child "$0" "$name" "$image" "$rights" "$@"
fi
unset INSIDE
# /proc is still the node's, so this is our process ID as the node counts it.
read -r pid _ </proc/self/stat
echo "$pid" >"/run/container-$name.new"
mv "/run/container-$name.new" "/run/container-$name"

mount --make-rprivate /
root=/run/container-root
mkdir -p "$root"
mount -t tmpfs -o mode=755 tmpfs "$root"
bind() { # FROM TO
  if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$(dirname "$root$2")" && touch "$root$2"; fi
  mount --rbind "$1" "$root$2"
}
# The image: programs and libraries of the machine, and what is under test.
bind /usr /usr
for link in bin sbin lib lib64; do [ ! -L "/$link" ] || cp -a "/$link" "$root/$link"; done
for file in alternatives protocols services passwd group ld.so.cache; do
  [ ! -e "/run/host/etc/$file" ] || bind "/run/host/etc/$file" "/etc/$file"
done
mkdir -p "$root/tmp" "$root/run"
bind "$image" "$([ "$rights" = privileged ] && echo /init || echo /app)"
bind /dev /dev
# The chart's mounts.
mkdir -p "$root/var"
ln -s /run "$root/var/run"
bind /opt/cni/bin /host/opt/cni/bin
if [ "$rights" != privileged ]; then
  touch /run/xtables.lock
  bind /etc/cni/net.d /host/etc/cni/net.d
  bind /var/log/aws-routed-eni /host/var/log/aws-routed-eni
  bind /run/aws-node /run/aws-node
  bind /run/xtables.lock /run/xtables.lock
fi
path=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# The kernel's: a container without privileges may not change its settings.
mkdir -p "$root/proc" "$root/sys"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
if [ "$rights" = privileged ]; then
  exec chroot "$root" /usr/bin/env -i -C /init "$path" "$@"
fi
mount --rbind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -o remount,ro "$root/sys"
# A runtime's usual capabilities, and the chart's two.
caps=-all
for cap in chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service sys_chroot \
  mknod audit_write setfcap net_admin net_raw; do caps+=,+$cap; done
exec chroot "$root" /usr/bin/setpriv --bounding-set="$caps" --inh-caps=-all -- /usr/bin/env -i -C /app "$path" "$@"
