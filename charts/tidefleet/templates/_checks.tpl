{{/* Pairs of values that cannot work together end the rendering with a sentence that says what to change. */}}
{{- define "tidefleet.checks" -}}
{{- $v := .Values -}}
{{- if and (not $v.serviceAccount.create) (not $v.serviceAccount.name) }}
{{- fail "serviceAccount.create is false and serviceAccount.name is empty: name the existing ServiceAccount the operator runs as, e.g. serviceAccount.name=tidefleet." }}
{{- end }}
{{- if and (not $v.crds.keep) $v.crds.enabled (not $v.uninstall.releaseFinalizers) }}
{{- fail "crds.keep=false deletes every pool at uninstall, and with uninstall.releaseFinalizers=false their finalizers would hold that deletion for ever: set one of the two to true." }}
{{- end }}
{{- $pdb := $v.podDisruptionBudget -}}
{{- if $pdb.enabled }}
{{- $min := not (kindIs "invalid" $pdb.minAvailable) -}}
{{- $max := not (kindIs "invalid" $pdb.maxUnavailable) -}}
{{- if and $min $max }}
{{- fail "podDisruptionBudget.minAvailable and podDisruptionBudget.maxUnavailable are both set: a budget takes exactly one, so set the other to null." }}
{{- end }}
{{- if not (or $min $max) }}
{{- fail "podDisruptionBudget.enabled is true, but neither minAvailable nor maxUnavailable is set: set one, e.g. minAvailable=1." }}
{{- end }}
{{- if and $min (not (kindIs "string" $pdb.minAvailable)) (gt (int $v.replicas) 1) (ge (int $pdb.minAvailable) (int $v.replicas)) }}
{{- fail (printf "podDisruptionBudget.minAvailable is %d with replicas %d: no node that holds a replica could ever be drained; lower minAvailable to %d or less." (int $pdb.minAvailable) (int $v.replicas) (sub (int $v.replicas) 1)) }}
{{- end }}
{{- end }}
{{- if and $v.router.enabled (not $v.router.hashSecret) (or $v.router.usageRecords.enabled $v.router.otlpEndpoint) }}
{{- fail "router.usageRecords and router.otlpEndpoint need router.hashSecret: without it each replica, and each start, gives a tenant another name; name a Secret, e.g. router.hashSecret.name=router-hash and router.hashSecret.key=secret." }}
{{- end }}
{{- range $file := list "tokenFile" "caFile" }}
{{- if and (index $v.config.prometheus $file) (not $v.config.prometheus.url) }}
{{- fail (printf "config.prometheus.%s is set, but config.prometheus.url is empty: give the address of the Prometheus it is for, e.g. https://prometheus.monitoring:9090." $file) }}
{{- end }}
{{- end }}
{{- if and $v.config.prometheus.caFile (hasPrefix "http://" $v.config.prometheus.url) }}
{{- fail (printf "config.prometheus.caFile is set, but config.prometheus.url is %s: certificates are only checked over https://." $v.config.prometheus.url) }}
{{- end }}
{{- if and $v.catalogue.existingConfigMap $v.catalogue.additional }}
{{- fail "catalogue.existingConfigMap and catalogue.additional are both set: the chart cannot add to a ConfigMap that it does not own; put the types into that ConfigMap." }}
{{- end }}
{{- range $name := list "commonLabels" "podLabels" }}
{{- range $key := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/part-of" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "helm.sh/chart" }}
{{- if hasKey (index $v $name) $key }}
{{- fail (printf "%s sets %s, which the chart sets itself: selectors are built on these labels; choose another key." $name $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $key := keys $v.podLabels }}
{{- if hasKey $v.commonLabels $key }}
{{- fail (printf "the label %s is set by commonLabels and by podLabels: set it in one of them." $key) }}
{{- end }}
{{- end }}
{{- $m := $v.monitoring.monitor -}}
{{- if ge (include "tidefleet.seconds" $m.scrapeTimeout | float64) (include "tidefleet.seconds" $m.interval | float64) }}
{{- fail (printf "monitoring.monitor.scrapeTimeout %s is not below monitoring.monitor.interval %s: Prometheus rejects such a scrape; lower the timeout." $m.scrapeTimeout $m.interval) }}
{{- end }}
{{- if and $v.networkPolicy.metricsFrom (not $v.networkPolicy.enabled) }}
{{- fail "networkPolicy.metricsFrom is set, but networkPolicy.enabled is false, so nothing would be restricted: set networkPolicy.enabled=true." }}
{{- end }}
{{- if and $v.networkPolicy.egress (not $v.networkPolicy.enabled) }}
{{- fail "networkPolicy.egress is set, but networkPolicy.enabled is false, so nothing would be restricted: set networkPolicy.enabled=true." }}
{{- end }}
{{- if and $v.admission.disabled (not $v.admission.enabled) }}
{{- fail "admission.disabled names policies, but admission.enabled is false, so none is shipped: remove one of the two." }}
{{- end }}
{{- if and $v.admission.enabled (not (.Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy")) (semverCompare "<1.30-0" .Capabilities.KubeVersion.Version) }}
{{- fail (printf "admission.enabled is true, but Kubernetes %s has no ValidatingAdmissionPolicy of v1: set admission.enabled=false, or upgrade to 1.30." .Capabilities.KubeVersion.Version) }}
{{- end }}
{{- if and $v.monitoring.rules.disabled (not $v.monitoring.rules.enabled) }}
{{- fail "monitoring.rules.disabled names alerts, but monitoring.rules.enabled is false, so none is shipped: remove one of the two." }}
{{- end }}
{{- end }}

{{/* A Prometheus duration of one unit (the schema allows no other) in seconds. */}}
{{- define "tidefleet.seconds" -}}
{{- $n := regexFind "^[0-9]+" . | float64 -}}
{{- $u := regexFind "[a-z]+$" . -}}
{{- if eq $u "ms" }}{{ divf $n 1000 }}{{ else if eq $u "m" }}{{ mulf $n 60 }}{{ else }}{{ $n }}{{ end }}
{{- end }}
