#!/usr/bin/env bash
# The story of the database that answers only sometimes, told on one screen with real packets.
# Nothing is staged: Kubernetes is Kubernetes; the plugin, the agent, the EC2 API and the packets are
# the product's own. After `lab up` only kubectl, aws and branchline are used.
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
from=dev/deploy/api to=rds/orders:5432
ping_last() { must "$1" branchline ping $from $to >"$after"; tail -n 1 "$after"; }
sg() { aws ec2 describe-security-groups --output text --filters "Name=group-name,Values=$1" --query 'SecurityGroups[].GroupId'; }
json() { python3 -c "import json,sys; d = json.load(sys.stdin); print($1)"; }
aws() { "$root/.venv/bin/aws" "$@"; }

say "1  A cluster in a VPC on this machine: control plane behind two ENIs, two nodes, a database"
show branchline lab up -f scenarios/rds/cluster.yaml
branchline lab up -f scenarios/rds/cluster.yaml
eval "$(branchline lab env)"
show kubectl get nodes
kubectl get nodes -o custom-columns=NAME:.metadata.name,VERSION:.status.nodeInfo.kubeletVersion,RUNTIME:.status.nodeInfo.containerRuntimeVersion

say "2  A Deployment of 15; the agent attaches ENIs and assigns addresses through the EC2 API"
show kubectl apply -f scenarios/manifests/api.yaml
kubectl apply -f scenarios/manifests/api.yaml
kubectl -n dev rollout status deployment/api --timeout=120s | tail -n 1
show kubectl -n dev get pods -o wide
kubectl -n dev get pods -o custom-columns=NAME:.metadata.name,IP:.status.podIP,NODE:.spec.nodeName | sed -n '1,4p'
echo "…"
show "aws ec2 describe-network-interfaces --query …   # every pod's address stands there"
aws ec2 describe-network-interfaces --output text \
  --filters Name=attachment.device-index,Values=0,1,2 Name=attachment.instance-owner-id,Values=111122223333 \
  --query 'NetworkInterfaces[].[NetworkInterfaceId,Attachment.DeviceIndex,length(PrivateIpAddresses)]'

say "3  Somebody adds add_sg to the instance, as the EC2 console does it: on the primary ENI"
primary=$(aws ec2 describe-network-interfaces --output text --query 'NetworkInterfaces[].NetworkInterfaceId' \
  --filters Name=private-ip-address,Values=10.0.1.11)
add=$(sg add_sg)
groups=$(aws ec2 describe-network-interfaces --network-interface-id "$primary" --output text \
  --query 'NetworkInterfaces[].Groups[].GroupId')
show aws ec2 modify-network-interface-attribute --network-interface-id "$primary" --groups … "$add"
# shellcheck disable=SC2086 # a list of ids
aws ec2 modify-network-interface-attribute --network-interface-id "$primary" --groups $groups "$add"
show branchline ping $from $to
must 1 branchline ping $from $to >"$after"
sed -n '1p;6p;11p;$p' "$after" | cut -c1-110

say "4  Why only sometimes?"
show branchline why $from $to
must 1 branchline why $from $to >"$after"
sed '/^  2  /,$d; /^warning/,/explain/d; /Open connections/d; /^ *try:/d; /^ *\$ aws/d' "$after" | cat -s

say "5  What would the author's rule do? Predict it, then make it real"
edit='sg/add_sg ingress += tcp/5432 from sg/nodes'
show "branchline why … --if '$edit'"
branchline why $from $to --if "$edit" >"$after"
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
show branchline drift
must 1 branchline drift >"$after"
sed -n '1p;/Security groups/p' "$after"
show kubectl set env daemonset aws-node -n kube-system BRANCHLINE_GROUP_SYNC=true
kubectl set env daemonset aws-node -n kube-system BRANCHLINE_GROUP_SYNC=true
kubectl -n kube-system rollout status daemonset/aws-node --timeout=120s | tail -n 1
for second in $(seq 1 31); do
  if branchline ping $from $to >"$after" 2>&1; then break; fi
  [ "$second" -le 30 ] || { echo "not repaired within 30 s" >&2; exit 1; }
  sleep 1
done
echo "after $second s: $(tail -n 1 "$after")"
show branchline why $from $to --over next-node
must 1 branchline why $from $to --over next-node >"$after"
sed -n '1,2p; /BL0302/p' "$after"

say "7  Who is that?"
address=$(kubectl -n dev get pods -o jsonpath='{.items[14].status.podIP}')
show branchline who-is "$address"
branchline who-is "$address"
