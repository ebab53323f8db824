{{/*
Lines of a definition's metadata, where one is there that belongs to a release that is gone, or to nobody. Helm
refuses what another release owns, but not a hook: so it is a hook this once, and says that it is ours. The next
upgrade finds its own. Helm never deletes a definition that is a hook. Takes (list $ "name of the definition").
*/}}
{{- define "srt-crds.takeover" -}}
{{- $release := (index . 0).Release -}}
{{- $found := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" (index . 1) -}}
{{- if $found -}}
{{- $marks := default dict $found.metadata.annotations -}}
{{- $name := default "" (get $marks "meta.helm.sh/release-name") -}}
{{- $namespace := default "" (get $marks "meta.helm.sh/release-namespace") -}}
{{- $isOurs := and (eq $name $release.Name) (eq $namespace $release.Namespace) -}}
{{- if not (or $isOurs (include "srt-crds.lives" (list $name $namespace))) }}
    helm.sh/hook: pre-install,pre-upgrade
    meta.helm.sh/release-name: {{ $release.Name }}
    meta.helm.sh/release-namespace: {{ $release.Namespace }}
  labels:
    app.kubernetes.io/managed-by: Helm
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Not empty if a release is there that has not been uninstalled. Takes (list "name" "namespace"). */}}
{{- define "srt-crds.lives" -}}
{{- $name := index . 0 -}}
{{- if $name -}}
{{- range (lookup "v1" "Secret" (index . 1) "").items -}}
{{- $labels := default dict .metadata.labels -}}
{{- $isIts := and (eq (default "" (get $labels "owner")) "helm") (eq (default "" (get $labels "name")) $name) -}}
{{- if and $isIts (ne (default "" (get $labels "status")) "uninstalled") -}}
true
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
