#!/usr/bin/env bash
# Installs the Debian packages of the named groups (see debian-packages) that are missing; says what it installs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
missing=()
for group in "$@"; do
    while read -r g package _; do
        [ "$g" = "$group" ] || continue
        # A kubectl of any origin will do.
        if [ "$package" = kubernetes-client ] && command -v kubectl >/dev/null; then continue; fi
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
    done < <(grep -v '^#' "$here/debian-packages")
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
if [ "$(id -u)" != 0 ]; then
    echo "deps: these Debian packages are missing: ${missing[*]}; run this as root, or install them yourself" >&2
    exit 1
fi
echo "deps: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{ apt-get update -q && apt-get install -yq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    echo "deps: apt-get failed; the lines above say why" >&2
    exit 1
}
# Debian's etcd starts itself as a service where there is an init; the benches start their own.
if [ -d /run/systemd/system ] && systemctl is-enabled -q etcd 2>/dev/null; then systemctl disable -q --now etcd; fi
