{{/* Prefix of every object of a release: at most 40 characters, so that suffixes fit. */}}
{{- define "srt.fullname" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels of an object. Takes (list $ "component"). */}}
{{- define "srt.labels" -}}
{{- $root := index . 0 -}}
{{ include "srt.selector" . }}
app.kubernetes.io/part-of: srt
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels that select a component's pods; never change them. Takes (list $ "component"). */}}
{{- define "srt.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: srt
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Image of one of our programs. Takes (list $ "srt-operator" "-gpu" or ""). A digest wins over the tag. */}}
{{- define "srt.image" -}}
{{- $root := index . 0 -}}{{- $name := index . 1 -}}
{{- $image := $root.Values.image -}}
{{- $repository := ternary $name (printf "%s/%s" (trimSuffix "/" $image.registry) $name) (empty $image.registry) -}}
{{- $digest := get $image.digests $name -}}
{{- if $digest -}}
{{ $repository }}@{{ $digest }}
{{- else -}}
{{ $repository }}:{{ default $root.Chart.AppVersion $image.tag }}{{ index . 2 }}
{{- end -}}
{{- end -}}

{{/* Suffix of the tags of images that hold torch or vLLM. */}}
{{- define "srt.variant" -}}
{{- if eq .Values.profile "gpu" -}}-gpu{{- end -}}
{{- end -}}

{{/* Security context of every pod: the restricted Pod Security standard. */}}
{{- define "srt.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Security context of every container. */}}
{{- define "srt.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "srt.pullSecrets" -}}
{{- range $index, $name := .Values.image.pullSecrets }}
{{- if $index }}{{ "\n" }}{{ end -}}
- name: {{ $name }}
{{- end }}
{{- end -}}

{{- define "srt.operatorAccount" -}}
{{- $account := .Values.operator.serviceAccount -}}
{{- if $account.create -}}
{{ default (printf "%s-operator" (include "srt.fullname" .)) $account.name }}
{{- else -}}
{{ required "operator.serviceAccount.name is needed where operator.serviceAccount.create is false" $account.name }}
{{- end -}}
{{- end -}}

{{/* Secret with the keys `url`, for the operator, and `job-url`, for pods of jobs. */}}
{{- define "srt.redisSecret" -}}
{{- if .Values.redis.enabled -}}
{{ default (printf "%s-redis" (include "srt.fullname" .)) .Values.redis.auth.existingSecret }}
{{- else if .Values.redis.external.existingSecret -}}
{{ .Values.redis.external.existingSecret }}
{{- else -}}
{{- $_ := required "redis.external.url or redis.external.existingSecret is needed where redis.enabled is false" .Values.redis.external.url -}}
{{ include "srt.fullname" . }}-redis
{{- end -}}
{{- end -}}

{{- define "srt.redisHost" -}}
{{ include "srt.fullname" . }}-redis.{{ .Release.Namespace }}.svc
{{- end -}}

{{/* Namespaces whose jobs the chart's policies cover. */}}
{{- define "srt.jobNamespaces" -}}
{{- default (list .Release.Namespace) .Values.watchNamespaces | toJson -}}
{{- end -}}
