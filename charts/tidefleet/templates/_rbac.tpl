{{/* What the operator needs in each namespace it works in. */}}
{{- define "tidefleet.namespacedRules" -}}
- apiGroups: [tidefleet.io]
  resources: [inferencepools]
  verbs: [get, list, watch, patch]
- apiGroups: [tidefleet.io]
  resources: [workloadclasses]
  verbs: [get, list, watch]
- apiGroups: [tidefleet.io]
  resources: [inferencepools/status, workloadclasses/status]
  verbs: [patch]
{{- if .Values.admission.enabled }}
# Asked by the policy about marks; the API server itself knows no such verb.
- apiGroups: [tidefleet.io]
  resources: [inferencepools]
  verbs: [mark]
{{- end }}
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, patch]
- apiGroups: [leaderworkerset.x-k8s.io]
  resources: [leaderworkersets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, create, patch, delete]
# Read before a workload is adopted: whatever else scales it is named as a conflict.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [list]
{{ include "tidefleet.eventRules" . }}
{{- end }}

{{- define "tidefleet.eventRules" -}}
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/* What exists once for the cluster. */}}
{{- define "tidefleet.clusterRules" -}}
- apiGroups: [tidefleet.io]
  resources: [acceleratortypes]
  verbs: [get, list, watch, create, patch]
{{- if .Values.admission.enabled }}
# Asked by the policies about prices, and about marks on what has no namespace.
- apiGroups: [tidefleet.io]
  resources: [acceleratortypes]
  verbs: [setprices]
- apiGroups: [tidefleet.io]
  resources: [inferencepools]
  verbs: [mark]
{{- end }}
- apiGroups: [tidefleet.io]
  resources: [sites]
  verbs: [get, list, watch]
- apiGroups: [tidefleet.io]
  resources: [acceleratortypes/status, sites/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch]
# Optional definitions may arrive later and are then noticed.
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [get, list, watch]
{{- end }}
