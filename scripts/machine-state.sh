#!/usr/bin/env bash
# What a lab must leave as it found it, as text: two runs of this are compared.
export LC_ALL=C
echo "# links"; ip -o -d link | sed 's/ qdisc.*//' | sort
echo "# addresses"; ip -o addr | sed 's/valid_lft.*//' | sort
echo "# rules"; ip rule; ip -6 rule
echo "# routes"; ip route show table all | sort
echo "# namespaces"; ip netns; ls /run/branchline 2>/dev/null
echo "# nft"; nft list ruleset 2>/dev/null
echo "# iptables"; iptables-save 2>/dev/null | grep -v '^#'
echo "# mounts"; sed 's/^[0-9]* [0-9]* [0-9:]* //' /proc/self/mountinfo | sort
echo "# cgroups"; find /sys/fs/cgroup -maxdepth 2 -name 'branchline*' 2>/dev/null | sort
echo "# bpf"; ls /sys/fs/bpf 2>/dev/null
# A process that is ending has no arguments any more: ps shows its name in brackets.
echo "# processes"; ps -eo stat=,comm=,args= | awk '$1 !~ /Z/ && $3 !~ /^\[/ && ($2 ~ /^branchline/ || $2 == "aws-cni") {$1 = $2 = ""; print}' | sort
echo "# sysctl"; sysctl -a 2>/dev/null | grep '^net\.' | grep -vE 'nf_conntrack_count|netdev_rss_key|tcp_fastopen_key|tcp_mem|stable_secret' | sort
exit 0
