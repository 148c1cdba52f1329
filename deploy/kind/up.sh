#!/bin/sh
# Creates a kind cluster, builds the operator's image and installs the chart with two replicas.
# Needs docker, kind, kubectl and helm. Take it down with: kind delete cluster --name tidefleet
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
image=ghcr.io/tidefleet/tidefleet:dev
kubeconfig=${KUBECONFIG:-$HOME/.kube/tidefleet-kind}

for tool in docker kind kubectl helm; do
  command -v "$tool" >/dev/null || { echo "up.sh: $tool is not on PATH" >&2; exit 1; }
done

if ! kind get clusters | grep -qx tidefleet; then
  kind create cluster --config "$root/deploy/kind/cluster.yaml" --kubeconfig "$kubeconfig" --wait 120s
fi
docker build -f "$root/deploy/Dockerfile" -t "$image" "$root"
kind load docker-image "$image" --name tidefleet
helm upgrade --install tidefleet "$root/charts/tidefleet" --kubeconfig "$kubeconfig" \
  --namespace tidefleet-system --create-namespace \
  --set image.tag=dev --set image.pullPolicy=Never --wait --timeout 180s
helm test tidefleet --kubeconfig "$kubeconfig" --namespace tidefleet-system
echo "KUBECONFIG=$kubeconfig"
