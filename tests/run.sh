#!/usr/bin/env bash
# `make test`: every ring, in order of cost. A line a ring with its time; ends with the number that passed and failed.
set -uo pipefail
cd "$(dirname "$0")/.."
export CARGO=${CARGO:-cargo} CARGO_TERM_COLOR=never
profile=${TEST_PROFILE:-ci}
export PINTLE_BIN=$PWD/target/$profile/pintle
passed=0 failed=0
logs=target/test-logs
mkdir -p "$logs"

ring() { # NAME COMMAND...
    local name=$1 began=$SECONDS log; shift
    log=$logs/${name// /-}.log
    echo "== $name"
    if "$@" >"$log" 2>&1; then local how=ok; else local how=FAILED; fi
    local p f
    p=$(grep -hoE '[0-9]+ passed' "$log" | awk '{s+=$1} END{print s+0}')
    f=$(grep -hoE '[0-9]+ failed' "$log" | awk '{s+=$1} END{print s+0}')
    if [ $how = ok ] && [ "$p" = 0 ]; then p=1; fi
    if [ $how = FAILED ] && [ "$f" = 0 ]; then f=1; fi
    passed=$((passed + p)) failed=$((failed + f))
    echo "   $how: $p passed, $f failed, $((SECONDS - began)) s"
    if [ $how = FAILED ]; then
        grep -nE 'panicked|FAILED|^error|failed' "$log" | head -n 40
        echo "   ... the end of $log:"; tail -n 60 "$log"
    fi
}

ring "build" "$CARGO" build --profile "$profile" -p pintle
ring "unit, property and simulation" "$CARGO" test --workspace --exclude pintle-tests
ring "end to end" "$CARGO" test -p pintle-tests --test e2e -- --test-threads=1
if [ -x tests/vm/run.sh ]; then ring "virtual machine" tests/vm/run.sh; fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
