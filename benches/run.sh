#!/usr/bin/env bash
# `make bench`: all figures, on the release binary. BENCH=cluster (or wire, store, proxy, dns) for one part.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${CARGO:=cargo}" "${BENCH:=all}"
profile=${BENCH_PROFILE:-release}
"$CARGO" build --profile "$profile" -p pintle
export PINTLE_BIN=$PWD/target/$profile/pintle
if [ "$BENCH" = all ] || [ "$BENCH" = cluster ]; then "$CARGO" bench -p pintle-tests --bench cluster; fi
for part in wire store proxy dns; do
    if [ "$BENCH" = all ] || [ "$BENCH" = "$part" ]; then "$CARGO" bench -p pintle-benches --bench "$part"; fi
done
