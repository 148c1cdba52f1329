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
{{- if include "tidefleet.flips" . }}
{{ include "tidefleet.flippingRules" . }}
{{- end }}
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, create, patch, delete]
# The gateway's InferencePool of a pool that asks for one.
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools]
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

{{/* Whether nodes may be lent: an install for some namespaces cannot tell what else is on a node, and lends none. */}}
{{- define "tidefleet.flips" -}}
{{- if and .Values.config.flipping.enabled (not .Values.scope.namespaces) }}true{{ end }}
{{- end }}

{{/* What lending nodes to training needs in each namespace. */}}
{{- define "tidefleet.flippingRules" -}}
# A flip takes the label that routes to a pod off, has the right pod deleted first, and asks training for a checkpoint.
- apiGroups: [""]
  resources: [pods]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
# Training on loaned nodes: asked for a checkpoint, suspended and resumed; its pods are never made or changed otherwise.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, patch]
- apiGroups: [jobset.x-k8s.io]
  resources: [jobsets]
  verbs: [get, list, patch]
- apiGroups: [trainer.kubeflow.org]
  resources: [trainjobs]
  verbs: [get, list, patch]
- apiGroups: [kubeflow.org]
  resources: [pytorchjobs]
  verbs: [get, list, patch]
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [get, list, patch]
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads/status]
  verbs: [patch]
- apiGroups: [kueue.x-k8s.io]
  resources: [localqueues]
  verbs: [get, list]
# Claims hold accelerators too: a node is empty when none does.
- apiGroups: [resource.k8s.io]
  resources: [resourceclaims]
  verbs: [list]
{{- end }}

{{/* What the router reads in each namespace. */}}
{{- define "tidefleet.routerRules" -}}
- apiGroups: [tidefleet.io]
  resources: [inferencepools, workloadclasses]
  verbs: [get, list, watch]
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
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
{{- if include "tidefleet.flips" . }}
- apiGroups: [""]
  resources: [nodes]
  verbs: [patch]
- apiGroups: [resource.k8s.io]
  resources: [resourceslices]
  verbs: [list]
- apiGroups: [scheduling.k8s.io]
  resources: [priorityclasses]
  verbs: [list]
- apiGroups: [kueue.x-k8s.io]
  resources: [clusterqueues]
  verbs: [get, list]
- apiGroups: [kueue.x-k8s.io]
  resources: [admissionchecks, cohorts, resourceflavors]
  verbs: [get, list, create, patch]
- apiGroups: [kueue.x-k8s.io]
  resources: [admissionchecks/status]
  verbs: [patch]
{{- end }}
# Optional definitions may arrive later and are then noticed.
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [get, list, watch]
{{- end }}
