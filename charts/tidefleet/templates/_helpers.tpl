{{- define "tidefleet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* 52 leaves room for our longest suffix, "-finalizers", in a name of 63 characters. */}}
{{- define "tidefleet.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "tidefleet.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "tidefleet.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "tidefleet.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tidefleet.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* Labels of pods: without the chart's version, so that a new chart with the same content restarts nothing. */}}
{{- define "tidefleet.podLabels" -}}
{{ include "tidefleet.selectorLabels" . }}
app.kubernetes.io/part-of: tidefleet
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of what belongs to no operator pod, so that no selector finds it; takes (dict "root" $ "component" "test"). */}}
{{- define "tidefleet.labelsOf" -}}
{{- merge (dict "app.kubernetes.io/component" .component) (include "tidefleet.labels" .root | fromYaml) | toYaml }}
{{- end }}

{{- define "tidefleet.labels" -}}
{{ include "tidefleet.podLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "tidefleet.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "tidefleet.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "tidefleet.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "tidefleet.catalogueConfigMap" -}}
{{- default (printf "%s-catalogue" (include "tidefleet.fullname" .)) .Values.catalogue.existingConfigMap }}
{{- end }}

{{/* The ConfigMap with the price book; empty without one. */}}
{{- define "tidefleet.pricesConfigMap" -}}
{{- if .Values.prices.existingConfigMap }}{{ .Values.prices.existingConfigMap }}
{{- else if .Values.prices.book }}{{ printf "%s-prices" (include "tidefleet.fullname" .) }}
{{- end }}
{{- end }}

{{/* The key of that ConfigMap: the chart's own is always YAML. */}}
{{- define "tidefleet.pricesKey" -}}
{{- if .Values.prices.existingConfigMap }}{{ .Values.prices.key }}{{ else }}prices.yaml{{ end }}
{{- end }}

{{/* Roles are cluster-scoped and shared by all releases of this name, so the namespace is part of their name. */}}
{{- define "tidefleet.clusterName" -}}
{{- $full := include "tidefleet.fullname" . -}}
{{- if eq $full .Release.Namespace }}{{ $full }}{{ else }}{{ printf "%s-%s" .Release.Namespace $full }}{{ end }}
{{- end }}

{{/* "true" when objects of the Prometheus operator are to be rendered; takes (dict "root" $ "kind" "PrometheusRule"). */}}
{{- define "tidefleet.monitoring" -}}
{{- $mode := .root.Values.monitoring.enabled -}}
{{- if eq $mode "Always" }}true
{{- else if and (eq $mode "Auto") (.root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" .kind)) }}true
{{- end }}
{{- end }}

{{- define "tidefleet.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "tidefleet.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* The shipped catalogue as it is; with additional types, less those of the same name, plus them. */}}
{{- define "tidefleet.catalogue" -}}
{{- $shipped := .Files.Get "files/acceleratortypes.yaml" -}}
{{- if not .Values.catalogue.additional }}
{{- $shipped }}
{{- else }}
{{- $names := list -}}
{{- range .Values.catalogue.additional }}{{ $names = append $names .metadata.name }}{{ end }}
{{- range $document := splitList "\n---\n" $shipped }}
{{- if not (has (dig "metadata" "name" "" (fromYaml $document)) $names) }}
{{- trim $document }}
---
{{ end }}
{{- end }}
{{- range $i, $type := .Values.catalogue.additional }}
{{- if $i }}
---
{{ end }}
{{- toYaml $type }}
{{- end }}
{{- end }}
{{- end }}
