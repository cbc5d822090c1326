#!/usr/bin/env bash
# The story of the database that answers only sometimes, told on one screen with real packets.
# Nothing is staged: the plugin, the agent, the EC2 API and the packets are the product's own.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
bin=${BRANCHLINE_BIN:-target/release}
[ "$(id -u)" = 0 ] || { echo "make demo needs root: it makes network namespaces" >&2; exit 1; }
export PATH="$(cd "$bin" && pwd):$PATH" BRANCHLINE_LAB="demo-$$"
before=$(mktemp /tmp/branchline-demo.XXXXXX) after=$(mktemp /tmp/branchline-demo.XXXXXX)
scripts/machine-state.sh >"$before"

finish() {
  local status=$?
  trap - EXIT INT TERM
  branchline lab down >/dev/null 2>&1 || { echo "branchline lab down failed" >&2; status=1; }
  scripts/machine-state.sh >"$after"
  if diff -u "$before" "$after"; then
    [ $status -ne 0 ] || say "The machine is as before: no namespace, link, rule, mount or process is left."
  else
    echo "the machine is not as before" >&2
    status=1
  fi
  rm -f "$before" "$after"
  exit $status
}
trap finish EXIT INT TERM

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
say() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }
show() { printf '%s$ %s%s\n' "$dim" "$*" "$plain"; }
must() { # exit code, command…
  local want=$1 got=0
  shift
  "$@" || got=$?
  [ "$got" = "$want" ] || { echo "exit $got, expected $want: $*" >&2; exit 1; }
}
ping_last() { must "$1" branchline ping node/ip-10-0-1-11 rds/orders:5432 >"$after"; tail -n 1 "$after"; }
eni() { branchline who-is node/ip-10-0-1-11 -o json | json "[e['id'] for e in d['enis'] if e['device'] == $1][0]"; }
sg() { branchline who-is "sg/$1" -o json | json "d['group'].split('(')[1].rstrip(')')"; }
json() { python3 -c "import json,sys; d = json.load(sys.stdin); print($1)"; }
aws() { "$root/.venv/bin/aws" "$@"; }

say "1  A VPC on this machine: two subnets, a database, a t3.medium with our agent"
show branchline lab up -f scenarios/rds/topology.yaml
branchline lab up -f scenarios/rds/topology.yaml
eval "$(branchline lab env)"

say "2  15 pods; the agent attaches ENIs and assigns addresses through the EC2 API as they need them"
show branchline lab pod run api --count 15 -- sleep infinity
branchline lab pod run api --count 15 -- sleep infinity | tail -n 2
show "aws ec2 describe-network-interfaces --query …   # every pod's address stands there"
aws ec2 describe-network-interfaces --output text \
  --filters Name=attachment.device-index,Values=0,1,2 Name=attachment.instance-owner-id,Values=111122223333 \
  --query 'NetworkInterfaces[].[NetworkInterfaceId,Attachment.DeviceIndex,length(PrivateIpAddresses)]'

say "3  Somebody adds add_sg to the instance, as the EC2 console does it: on the primary ENI"
primary=$(eni 0) add=$(sg add_sg)
groups=$(aws ec2 describe-network-interfaces --network-interface-ids "$primary" --output text \
  --query 'NetworkInterfaces[].Groups[].GroupId')
show aws ec2 modify-network-interface-attribute --network-interface-id "$primary" --groups … "$add"
# shellcheck disable=SC2086 # a list of ids
aws ec2 modify-network-interface-attribute --network-interface-id "$primary" --groups $groups "$add"
show branchline ping node/ip-10-0-1-11 rds/orders:5432
must 1 branchline ping node/ip-10-0-1-11 rds/orders:5432 >"$after"
sed -n '1p;6p;11p;$p' "$after" | cut -c1-110

say "4  Why only sometimes?"
show branchline why node/ip-10-0-1-11 rds/orders:5432
must 1 branchline why node/ip-10-0-1-11 rds/orders:5432 >"$after"
sed '/^  2  /,$d; /^warning/,/explain/d; /Open connections/d; /^ *try:/d; /^ *\$ aws/d' "$after" | cat -s

say "5  What would the author's rule do? Predict it, then make it real"
edit='sg/add_sg ingress += tcp/5432 from sg/nodes'
show "branchline why … --if '$edit'"
branchline why node/ip-10-0-1-11 rds/orders:5432 --if "$edit" >"$after"
head -n 5 "$after"
nodes=$(sg nodes)
rule="IpProtocol=tcp,FromPort=5432,ToPort=5432,UserIdGroupPairs"
aws ec2 authorize-security-group-ingress --group-id "$add" --ip-permissions "$rule=[{GroupId=$nodes}]" >/dev/null
aws ec2 revoke-security-group-ingress --group-id "$add" --ip-permissions "$rule=[{GroupId=$add}]" >/dev/null
ping_last 0

say "6  Back to the fault, and the agent's group sync on: it repairs the node, not the next one"
aws ec2 authorize-security-group-ingress --group-id "$add" --ip-permissions "$rule=[{GroupId=$add}]" >/dev/null
aws ec2 revoke-security-group-ingress --group-id "$add" --ip-permissions "$rule=[{GroupId=$nodes}]" >/dev/null
ping_last 1
show branchline lab node set-env ip-10-0-1-11 BRANCHLINE_GROUP_SYNC=true
branchline lab node set-env ip-10-0-1-11 BRANCHLINE_GROUP_SYNC=true
for second in $(seq 1 31); do
  # While the agent starts anew it knows no pods yet: ping says so, and we ask again.
  if branchline ping node/ip-10-0-1-11 rds/orders:5432 >"$after" 2>&1; then break; fi
  [ "$second" -le 30 ] || { echo "not repaired within 30 s" >&2; exit 1; }
  sleep 1
done
echo "after $second s: $(tail -n 1 "$after")"
show branchline why node/ip-10-0-1-11 rds/orders:5432 --over next-node
must 1 branchline why node/ip-10-0-1-11 rds/orders:5432 --over next-node >"$after"
sed -n '1,2p; /BL0302/p' "$after"

say "7  Who is that?"
address=$(branchline who-is pod/api-15 -o json | json "d['address']")
show branchline who-is "$address"
branchline who-is "$address"
