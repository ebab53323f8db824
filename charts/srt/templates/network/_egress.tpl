{{/* To the server in the release, or to wherever an external one may be. */}}
{{- define "srt.redisEgress" -}}
{{- if .Values.redis.enabled -}}
- to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ .Release.Namespace }}}}
      podSelector:
        matchLabels:
          {{- include "srt.selector" (list $ "redis") | nindent 10 }}
  ports: [{port: 6379, protocol: TCP}]
{{- else -}}
- ports: [{port: {{ .Values.redis.external.port }}, protocol: TCP}]
{{- end -}}
{{- end -}}

{{/* To wherever an address leads, on its port; nothing where it is empty. */}}
{{- define "srt.egressTo" -}}
{{- with . -}}
- ports: [{port: {{ regexReplaceAll "^.*:([0-9]+)/?$" . "${1}" }}, protocol: TCP}]
{{- end -}}
{{- end -}}
