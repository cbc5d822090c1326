{{- define "aws-vpc-cni.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "aws-vpc-cni.fullname" -}}
{{- default (include "aws-vpc-cni.name" .) .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "aws-vpc-cni.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "aws-vpc-cni.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{- default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end }}

{{- define "aws-vpc-cni.labels" -}}
app.kubernetes.io/name: {{ include "aws-vpc-cni.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
k8s-app: aws-node
{{- end }}

{{- /* Image name of one of the image blocks. Takes (dict "image" BLOCK "chart" .Chart). */}}
{{- define "aws-vpc-cni.image" -}}
{{- $i := .image -}}
{{- $tag := default .chart.AppVersion $i.tag -}}
{{- if $i.override -}}
{{ $i.override }}
{{- else if $i.account -}}
{{ printf "%s.dkr.%s.%s.%s/branchline/aws-node:%s" $i.account $i.endpoint $i.region $i.domain $tag }}
{{- else -}}
{{ printf "branchline/aws-node:%s" $tag }}
{{- end -}}
{{- end }}

{{- /* A variable's text. A number of a values file is a float; as text it must stay what was written. */}}
{{- define "aws-vpc-cni.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{ printf "%.0f" . | quote }}
{{- else -}}
{{ toString . | quote }}
{{- end -}}
{{- end }}

{{- /* Variables; null takes one of the defaults back. */}}
{{- define "aws-vpc-cni.env" -}}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
- name: {{ $key }}
  value: {{ include "aws-vpc-cni.text" $value }}
{{- end }}
{{- end }}
{{- end }}

{{- /* A switch that upstream writes as text or as a boolean. */}}
{{- define "aws-vpc-cni.on" -}}
{{- if has (toString .) (list "1" "t" "T" "true" "TRUE" "True") }}true{{ end -}}
{{- end }}

{{- /* What this version cannot do is refused by name; nothing is left out in silence. */}}
{{- define "aws-vpc-cni.validate" -}}
{{- $unbuilt := "asks for the policy agent, which is not built yet: leave it off, or keep the engine that enforces NetworkPolicies now" -}}
{{- if .Values.nodeAgent.enabled }}{{ fail (printf "nodeAgent.enabled=true %s" $unbuilt) }}{{ end -}}
{{- if include "aws-vpc-cni.on" .Values.enableNetworkPolicy }}{{ fail (printf "enableNetworkPolicy=%v %s" .Values.enableNetworkPolicy $unbuilt) }}{{ end -}}
{{- range $name := list "enableWindowsIpam" "enableWindowsPrefixDelegation" -}}
{{- if include "aws-vpc-cni.on" (get $.Values $name) }}{{ fail (printf "%s=%v asks for Windows nodes, which are not built" $name (get $.Values $name)) }}{{ end -}}
{{- end -}}
{{- if and (hasKey .Values "crd") (hasKey .Values.crd "create") (not .Values.crd.create) }}{{ fail "crd.create=false: the ENIConfig definition is installed by helm itself, never changed and never removed; helm's --skip-crds leaves it out" }}{{ end -}}
{{- if and (hasKey .Values "cri") .Values.cri.hostPath }}{{ fail "cri.hostPath: the agent does not talk to the container runtime; remove it" }}{{ end -}}
{{- range $name, $image := dict "image" .Values.image "init.image" .Values.init.image -}}
{{- if and (eq (toString $image.account) "602401143452") (not $image.override) }}{{ fail (printf "%s.account=602401143452 is the registry of the AWS VPC CNI, which has no image of this agent: remove account and tag, or set %s.override" $name $name) }}{{ end -}}
{{- end -}}
{{- if and .Values.eniConfig.create (not .Values.eniConfig.subnets) }}{{ fail "eniConfig.create=true needs eniConfig.subnets: one entry per zone, with the subnet's id" }}{{ end -}}
{{- if and .Values.cniConfig.enabled (not .Values.cniConfig.fileContents) }}{{ fail "cniConfig.enabled=true needs cniConfig.fileContents: the network list as JSON" }}{{ end -}}
{{- end }}
