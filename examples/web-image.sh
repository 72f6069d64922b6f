#!/usr/bin/env bash
# Builds the demo's root filesystem from Debian packages, without any registry: nginx, its libraries and busybox.
# usage: web-image.sh FOLDER   (left alone when it is complete)
set -euo pipefail
out=${1:?usage: web-image.sh FOLDER}
[ -e "$out/.complete" ] && exit 0
rm -rf "$out"
mkdir -p "$out"/{bin,etc/nginx,tmp,run,var/log/nginx,var/lib/nginx,proc,sys,dev,srv}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The package lists may be missing on a fresh machine.
apt-cache show nginx >/dev/null 2>&1 || apt-get update -q >/dev/null
packages=(nginx libc6 libcrypt1 libpcre2-8-0 libssl3 zlib1g)
(cd "$work" && apt-get download -q -o APT::Sandbox::User=root "${packages[@]}" >/dev/null)
for deb in "$work"/*.deb; do dpkg-deb -x "$deb" "$out"; done
cp /bin/busybox "$out/bin/busybox"
for tool in sh cat ls ps wget nc nslookup sleep env hostname id ip ping tar kill true false touch mkdir rm stat df dd head tail seq date; do
    ln -sf busybox "$out/bin/$tool"
done
printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$out/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$out/etc/group"
cat >"$out/etc/nginx/nginx.conf" <<'CONF'
daemon off;
worker_processes 1;
user nobody nogroup;
pid /run/nginx.pid;
error_log stderr warn;
events { worker_connections 256; }
http {
    access_log off;
    server {
        listen 80;
        location = /healthz { return 200 "ok\n"; }
        location / { default_type text/plain; return 200 "hello from $hostname\n"; }
    }
}
CONF
rm -rf "$out"/usr/share/{doc,man,locale,lintian} "$out"/etc/{init.d,logrotate.d,ufw}
touch "$out/.complete"
