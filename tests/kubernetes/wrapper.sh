#!/bin/sh
# Stands before aws-cni: writes down each call, and fails or delays those that a test wants so.
#   LOG                one line a call: end time, verb, container, "netns" or "-", "prev" or "-",
#                      namespace/pod or "-", exit code
#   fault/VERB.POD     or fault/VERB: what happens instead, as shell: code=11 msg=…, sleep=3
plugin=/opt/cni/bin/watched/aws-cni
dir=DIR
input=$(cat)
case $input in *'"prevResult"'*) prev=prev ;; *) prev=- ;; esac
netns=-
[ -z "$CNI_NETNS" ] || netns=netns
pod=${CNI_ARGS##*K8S_POD_NAME=} namespace=${CNI_ARGS##*K8S_POD_NAMESPACE=}
pod=${pod%%;*} namespace=${namespace%%;*}
code='' msg='' sleep=''
for fault in "$dir/fault/$CNI_COMMAND.$pod" "$dir/fault/$CNI_COMMAND"; do
  # A fault may be taken away at any moment.
  if what=$(cat "$fault" 2>/dev/null); then
    eval "$what"
    break
  fi
done
[ -z "$sleep" ] || sleep "$sleep"
if [ -n "$code" ]; then
  printf '{"cniVersion":"0.4.0","code":%s,"msg":"%s"}' "$code" "$msg"
  exit=1
else
  printf %s "$input" | "$plugin"
  exit=$?
fi
echo "$(date +%s.%N) $CNI_COMMAND ${CNI_CONTAINERID:--} $netns $prev ${namespace:-}/${pod:-} $exit" >>"$dir/log"
exit $exit
