{{/*
What the operator puts into every pod of one role: the site's own defaults, the profile's accelerator,
the pull secrets and the telemetry endpoint. Takes (dict "root" $ "role" "rollout" "gpus" 1).
*/}}
{{- define "srt.podDefaults" -}}
{{- $root := .root -}}
{{- $defaults := deepCopy (get $root.Values.podDefaults .role) -}}
{{- if $root.Values.telemetry.otlpEndpoint -}}
{{- $env := list (dict "name" "OTEL_EXPORTER_OTLP_ENDPOINT" "value" $root.Values.telemetry.otlpEndpoint) -}}
{{- $_ := set $defaults "env" (concat $env (default list $defaults.env)) -}}
{{- end -}}
{{- if $root.Values.image.pullSecrets -}}
{{- $secrets := list -}}
{{- range $root.Values.image.pullSecrets -}}{{- $secrets = append $secrets (dict "name" .) -}}{{- end -}}
{{- $_ := set $defaults "imagePullSecrets" (concat $secrets (default list $defaults.imagePullSecrets)) -}}
{{- end -}}
{{- if and (eq $root.Values.profile "gpu") (gt (int .gpus) 0) -}}
{{- $limit := dict "limits" (dict $root.Values.gpu.resourceName (toString .gpus)) -}}
{{- $_ := set $defaults "resources" (mergeOverwrite $limit (default dict $defaults.resources)) -}}
{{- if $root.Values.gpu.tolerate -}}
{{- $toleration := dict "key" $root.Values.gpu.resourceName "operator" "Exists" "effect" "NoSchedule" -}}
{{- $_ := set $defaults "tolerations" (append (default list $defaults.tolerations) $toleration) -}}
{{- end -}}
{{- end -}}
{{- toYaml $defaults -}}
{{- end -}}
