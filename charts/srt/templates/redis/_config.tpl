{{/* What the operator may: our keys, Celery's channel, everything but administration. */}}
{{- define "srt.redisOperatorRights" -}}
~srt:* {{ include "srt.redisChannels" . }} +@all -@admin -@dangerous +info
{{- end -}}

{{/*
What pods of jobs may: what the update log, a job's facts and a Celery worker take, on the keys they
write. Only the operator opens bubbles, counts epochs and commands workers (PUBLISH).
*/}}
{{- define "srt.redisJobRights" -}}
{{- $keys := list "~srt:celery:*" "%R~srt:{*:ctl}:bubble:*" -}}
{{- range list "phase" "window" "prompt:*" "claim:*" "unfinished:*" "outcomes" "abort_seconds" "dead_letters" -}}
{{- $keys = append $keys (printf "~srt:{*:ctl}:%s" .) -}}
{{- end -}}
{{- range list "log" "floor" "snapidx" "snap:*" "owner" "owner_epoch" -}}
{{- $keys = append $keys (printf "~srt:{*}:%s" .) -}}
{{- end -}}
{{- $commands := list "hello" "auth" "ping" "time" "client|setinfo" "multi" "exec" "discard" "watch" "unwatch"
  "eval" "evalsha" "script|load" "script|exists" "subscribe" "psubscribe" "unsubscribe" "punsubscribe"
  "get" "set" "incrby" "del" "unlink" "exists" "expire" "pexpire" "hget" "hset" "hdel" "hkeys" "hlen" "hincrby"
  "lpush" "rpush" "ltrim" "llen" "rpop" "brpop" "sadd" "srem" "smembers" "zadd" "zrem" "zrange" "zrangebyscore"
  "xadd" "xread" "xtrim" "xinfo|stream" -}}
{{ join " " $keys }} {{ include "srt.redisChannels" . }} -@all +{{ join " +" $commands }}
{{- end -}}

{{/* PSUBSCRIBE needs its pattern word for word. */}}
{{- define "srt.redisChannels" -}}
resetchannels &srt:celery:/0.celery.pidbox
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
