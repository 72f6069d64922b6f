#!/bin/bash
# Runs inside the virtual machine, as root, once it has booted. Each check prints a line; the last line is the verdict.
set -u
say() { echo "vm-test: $*"; }
fail() {
    say "FAILED $*"
    systemctl --no-pager --failed
    for u in init store apiserver scheduler controllers kubelet proxy dns; do
        echo "--- pintle-$u"; journalctl --no-pager -n 25 -u "pintle-$u"
    done
    pintle get pods -A -o yaml
    pintle get events -A
    exit 1
}
# until_true SECONDS WHAT COMMAND...: the emulated machine is slow; limits are generous.
until_true() {
    local end=$((SECONDS + $1)) what=$2; shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || fail "$what"
        sleep 1
    done
    say "ok $what (${SECONDS} s)"
}
pod() { pintle get "pod/$1" -o json; }
reason() { pod "$1" | grep -q "\"reason\": \"$2\""; }

grep -q ' - cgroup2 ' /proc/self/mountinfo && ! grep -q ' - cgroup ' /proc/self/mountinfo || fail "this machine is not on pure cgroup v2"
say "ok pure cgroup v2 with $(cat /sys/fs/cgroup/cgroup.controllers)"
systemctl start pintle.target || fail "pintle.target does not start"
for u in store apiserver scheduler controllers kubelet proxy dns; do
    until_true 120 "unit pintle-$u is active" systemctl is-active -q "pintle-$u"
done
node_ready() { pintle get node/vmnode -o json | tr -d ' \n' | grep -qE '"status":"True","type":"Ready"'; }
until_true 120 "node is Ready" node_ready
pintle image import /opt/test/busybox --name busybox:1 >/dev/null || fail "image import"
say "ok image imported"

pintle apply -f /opt/test/hog.yaml || fail "apply"
oom() { reason hog OOMKilled; }
until_true 120 "the container that exceeds its memory limit is OOMKilled and reported so" oom

limits() {
    local uid dir
    uid=$(pod limited | sed -n 's/.*"uid": "\([^"]*\)".*/\1/p' | head -n 1)
    dir=$(find /sys/fs/cgroup/pintle -type d -name "*$uid*" | head -n 1)
    [ -n "$dir" ] && grep -rqx 50331648 "$dir" --include=memory.max && grep -rqx '20000 100000' "$dir" --include=cpu.max
}
until_true 120 "limits of a running pod are in its cgroup" limits
web() { pintle get pod/limited -o json | grep -q '"ready": true'; }
until_true 120 "its readiness probe succeeds" web
dns() { ip=$(pintle get service/limited -o json | sed -n 's/.*"clusterIP": "\([^"]*\)".*/\1/p' | head -n 1); exec 3<>"/dev/tcp/$ip/80" && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && grep -q 'inside the machine' <&3; }
until_true 60 "its service answers" dns

before=$(pgrep -f 'httpd -f')
systemctl kill -s KILL pintle-kubelet || fail "kill of the kubelet"
until_true 60 "kubelet is back after SIGKILL" systemctl is-active -q pintle-kubelet
until_true 60 "node is Ready again" node_ready
[ "$before" = "$(pgrep -f 'httpd -f')" ] || fail "the container did not survive its kubelet: $before"
say "ok containers survive their kubelet"
for u in store scheduler controllers; do
    # 0 is sealed off, 10 is wide open; a directive that is lost raises it.
    systemd-analyze security --no-pager --threshold=30 "pintle-$u" >/tmp/security 2>&1 || fail "pintle-$u is exposed: $(tail -n 1 /tmp/security)"
done
say "ok the units that need nothing of the machine are sealed off"
say "all good"
