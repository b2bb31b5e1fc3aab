{{/* Names, labels, images and security contexts. One helper per concern. */}}

{{- define "sentinel.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* `sentinel` for a release of that name, so that profiles find http://sentinel-user:8000/v1. */}}
{{- define "sentinel.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "sentinel.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "sentinel.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "sentinel.serviceAccountName" -}}
{{- default (include "sentinel.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "sentinel.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sentinel.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sentinel.labels" -}}
{{ include "sentinel.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: sentinel
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* An image by version or digest. Arguments: the reference, and where it stands in the values. */}}
{{- define "sentinel.image" -}}
{{- $image := index . 0 -}}
{{- $where := index . 1 -}}
{{- if not $image -}}
{{- fail (printf "%s: an image is needed here; name one with its version (name:1.2) or digest (name@sha256:...)" $where) -}}
{{- else if regexMatch ":latest(@|$)" $image -}}
{{- fail (printf "%s: '%s': the tag `latest` names another image every day; name a version or a digest" $where $image) -}}
{{- end -}}
{{- $image -}}
{{- end -}}

{{/* The security contexts that Pod Security's profile `restricted` asks for. */}}
{{- define "sentinel.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "sentinel.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "sentinel.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Requests and limits; arguments: cpu, memory, gpus, gpuResource. */}}
{{- define "sentinel.resources" -}}
{{- $limits := dict -}}
{{- with .cpu }}{{ $_ := set $limits "cpu" (toString .) }}{{ end -}}
{{- with .memory }}{{ $_ := set $limits "memory" (toString .) }}{{ end -}}
{{- if gt (int .gpus) 0 }}{{ $_ := set $limits .gpuResource (toString (int .gpus)) }}{{ end -}}
{{- if $limits -}}
requests: {{ toJson $limits }}
limits: {{ toJson $limits }}
{{- else -}}
{}
{{- end -}}
{{- end -}}

{{/* The Services of a model; by default one that is called like it. */}}
{{- define "sentinel.services" -}}
{{- toJson (default (list .name) .services) -}}
{{- end -}}

{{/* Where the pods of pipelines run; by default where this chart is installed. */}}
{{- define "sentinel.pipelinesNamespace" -}}
{{- default .Release.Namespace .Values.pipelines.namespace -}}
{{- end -}}

{{- define "sentinel.apiNamespace" -}}
{{- default (include "sentinel.pipelinesNamespace" .) .Values.pipelines.api.namespace -}}
{{- end -}}

{{/* Label selector of the pods of this chart's pipelines, which `sentinel submit` gives to them. */}}
{{- define "sentinel.componentSelector" -}}
matchExpressions: [{key: sentinel.dev/role, operator: Exists}]
{{- end -}}

{{/* Selects a namespace by name. Before Kubernetes 1.21 none is labelled with it: then every one, on the same ports.
Arguments: the name, the context. */}}
{{- define "sentinel.namespaceSelector" -}}
{{- if semverCompare ">=1.21.0-0" (index . 1).Capabilities.KubeVersion.Version -}}
matchLabels: {kubernetes.io/metadata.name: {{ index . 0 }}}
{{- else -}}
{}
{{- end -}}
{{- end -}}

{{- define "sentinel.ports" -}}
{{- $ports := list -}}
{{- range . }}{{ $ports = append $ports (dict "protocol" "TCP" "port" (int .)) }}{{ end -}}
{{- toJson $ports -}}
{{- end -}}

{{/* Refusals that a schema cannot word: names that occur twice, and what would be out of the pipelines' reach. */}}
{{- define "sentinel.check" -}}
{{- $pods := include "sentinel.pipelinesNamespace" . -}}
{{- range $part := list "state" "training" -}}
{{- if and (index $.Values $part).enabled (ne $pods $.Release.Namespace) -}}
{{- fail (printf "%s.enabled: pods of pipelines run in namespace '%s' (pipelines.namespace) and use it there; install the chart there, not in '%s'" $part $pods $.Release.Namespace) -}}
{{- end -}}
{{- end -}}
{{- include "sentinel.checkLabels" (list "commonLabels" .Values.commonLabels) -}}
{{- include "sentinel.checkLabels" (list "monitoring.serviceMonitor.labels" .Values.monitoring.serviceMonitor.labels) -}}
{{- $seen := dict -}}
{{- range $i, $model := .Values.models -}}
{{- include "sentinel.checkLabels" (list (printf "models[%d].podLabels" $i) $model.podLabels) -}}
{{- range (include "sentinel.services" $model | fromJsonArray) -}}
{{- if hasKey $seen . -}}
{{- fail (printf "models[%d].services: '%s' is a Service of models[%v] already; each role has one server" $i . (get $seen .)) -}}
{{- end -}}
{{- $_ := set $seen . $i -}}
{{- end -}}
{{- end -}}
{{- $names := dict -}}
{{- range $i, $model := .Values.models -}}
{{- if hasKey $names $model.name -}}
{{- fail (printf "models[%d].name: '%s' is the name of models[%v] already" $i $model.name (get $names $model.name)) -}}
{{- end -}}
{{- $_ := set $names $model.name $i -}}
{{- end -}}
{{- end -}}

{{/* Labels that select pods are the chart's own: a second one of the same name would win. Arguments: where, labels. */}}
{{- define "sentinel.checkLabels" -}}
{{- $where := index . 0 -}}
{{- range $key, $_ := index . 1 -}}
{{- if regexMatch "^(app\\.kubernetes\\.io|helm\\.sh|sentinel\\.dev)/" $key -}}
{{- fail (printf "%s: the chart itself sets '%s'; take another name" $where $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sentinel.egressDns" -}}
- to:
    - namespaceSelector:
        {{- include "sentinel.namespaceSelector" (list .Values.networkPolicy.dns.namespace .) | nindent 8 }}
  ports:
    {{- range .Values.networkPolicy.dns.ports }}
    - {protocol: UDP, port: {{ int . }}}
    - {protocol: TCP, port: {{ int . }}}
    {{- end }}
{{- end -}}
