#!/usr/bin/env bash
# `make up`: from a clean checkout to a running web workload, with a line and a time a step.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${PROFILE:=release}" "${DATA_DIR:=/var/lib/pintle}" "${CARGO:=cargo}"
pintle=target/$PROFILE/pintle
[ "$(id -u)" = 0 ] || { echo "make up: this needs root (namespaces, mounts, packet rules); try sudo make up" >&2; exit 1; }
command -v "$CARGO" >/dev/null || { echo "make up: there is no cargo; install a Rust toolchain from rustup.rs or your distribution" >&2; exit 1; }

began=$(date +%s.%N)
last=$began
step() {
    local now; now=$(date +%s.%N)
    printf '%-44s %8.2f s\n' "$1" "$(awk "BEGIN{print $now - $last}")"
    last=$now
}
xtask/deps.sh build run demo
step "Debian packages are there"
"$CARGO" build -q --profile "$PROFILE" -p pintle
step "release binary is built"
"$pintle" up --data-dir "$DATA_DIR"
step "cluster is up"
examples/web-image.sh target/images/web
"$pintle" image import target/images/web --name web:1 --data-dir "$DATA_DIR" >/dev/null
step "demo image web:1 is built and imported"
export KUBECONFIG=$DATA_DIR/admin.kubeconfig
kubectl apply -f examples/web.yaml
kubectl rollout status deployment/web --timeout=120s
step "demo is ready"
address=$("$pintle" get service/web -o json --data-dir "$DATA_DIR" | sed -n 's/.*"clusterIP": "\([^"]*\)".*/\1/p' | head -n 1)
curl -sSf --max-time 10 "http://$address/" >/dev/null
step "the service answers"
cat <<TEXT

The demo answers at   http://$address/   and at   http://127.0.0.1:30080/   (node port)
For kubectl:          export KUBECONFIG=$KUBECONFIG
Try:                  kubectl scale deployment/web --replicas=5; kubectl get pods -o wide
The end:              make down
TEXT
