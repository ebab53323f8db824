{{/* Spec of a pod that runs one module of the operator once. Takes (dict "root" $ "module" m "args" list). */}}
{{- define "srt.hookPod" -}}
{{- $root := .root -}}
restartPolicy: Never
serviceAccountName: {{ include "srt.fullname" $root }}-hooks
enableServiceLinks: false
{{- with include "srt.pullSecrets" $root }}
imagePullSecrets:
  {{- . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "srt.podSecurityContext" $root | nindent 2 }}
containers:
  - name: {{ .name }}
    image: {{ include "srt.image" (list $root "srt-operator" "") }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    command: {{ toJson (concat (list "python" "-m" .module) .args) }}
    securityContext:
      {{- include "srt.securityContext" $root | nindent 6 }}
    resources:
      requests: {cpu: 50m, memory: 128Mi}
      limits: {memory: 256Mi}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: redis, mountPath: /etc/srt/redis, readOnly: true}
      {{- if $root.Values.redis.tls.existingSecret }}
      - {name: redis-ca, mountPath: /etc/srt/redis-ca, readOnly: true}
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {}
  - name: redis
    secret:
      secretName: {{ include "srt.redisSecret" $root }}
      items: [{key: url, path: url}]
  {{- with $root.Values.redis.tls.existingSecret }}
  - name: redis-ca
    secret:
      secretName: {{ . }}
      items: [{key: ca.crt, path: ca.crt}]
  {{- end }}
{{- end -}}
