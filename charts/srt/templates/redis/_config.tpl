{{/*
What both users may: our keys and channels, everything but administration. PSUBSCRIBE needs its
pattern word for word, and Celery subscribes to the last one.
*/}}
{{- define "srt.redisRights" -}}
~srt:* resetchannels &srt:* &srt:celery:/0.celery.pidbox &srt:celery:/0.celery* +@all -@admin -@dangerous +info
{{- end -}}

{{- define "srt.redisConfig" -}}
dir /data
aclfile /etc/valkey/acl/users.acl
protected-mode yes
maxmemory {{ .Values.redis.maxMemory }}
maxmemory-policy noeviction
tcp-keepalive 60
{{- if .Values.redis.persistence.enabled }}
appendonly yes
appendfsync everysec
{{- else }}
appendonly no
{{- end }}
save ""
{{- if .Values.redis.tls.existingSecret }}
port 0
tls-port 6379
tls-cert-file /etc/valkey/tls/tls.crt
tls-key-file /etc/valkey/tls/tls.key
tls-ca-cert-file /etc/valkey/tls/ca.crt
tls-auth-clients no
{{- else }}
port 6379
{{- end }}
{{- end -}}
