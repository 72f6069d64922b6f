#!/usr/bin/env bash
# Ring 5: a real node. Builds a Debian root filesystem with Pintle installed as systemd units, boots it under QEMU
# (software emulation: no KVM needed), and reads the verdict that tests/vm/inside.sh prints on the console.
set -euo pipefail
cd "$(dirname "$0")/../.."
pintle=${PINTLE_BIN:-target/ci/pintle}
[ -x "$pintle" ] || { echo "vm: $pintle is missing; run make test" >&2; exit 1; }
cache=${VM_CACHE:-.cache/vm}
work=target/vm
mkdir -p "$cache" "$work"

if [ ! -e "$cache/base/.complete" ]; then
    echo "vm: making the base system (once, about 90 s)"
    rm -rf "$cache/base"
    debootstrap --variant=minbase \
        --include=systemd,systemd-sysv,udev,dbus,iproute2,iptables,nftables,conntrack,kmod,linux-image-amd64 \
        bookworm "$cache/base" >"$work/debootstrap.log" 2>&1 || { tail "$work/debootstrap.log"; exit 1; }
    rm -rf "$cache/base"/var/cache/apt/archives/*.deb "$cache/base"/var/lib/apt/lists/* "$cache/base"/usr/share/{doc,man,locale}
    touch "$cache/base/.complete"
fi

root=$work/root
rm -rf "$root"
cp -a --reflink=auto "$cache/base" "$root"
# Installed as a user would install it.
make -s install DESTDIR="$PWD/$root" PINTLE="$pintle" PROFILE=ci CARGO=true >/dev/null
mkdir -p "$root/opt/test/busybox"/{bin,etc,tmp,proc,sys,dev}
cp /bin/busybox "$root/opt/test/busybox/bin/"
for t in sh sleep dd echo cat wget httpd true; do ln -sf busybox "$root/opt/test/busybox/bin/$t"; done
echo 'root:x:0:0:root:/:/bin/sh' >"$root/opt/test/busybox/etc/passwd"
cp tests/vm/inside.sh tests/vm/*.yaml "$root/opt/test/"
echo vmnode >"$root/etc/hostname"
printf '127.0.0.1 localhost vmnode\n' >"$root/etc/hosts"
cat >"$root/etc/systemd/network/10-test.network" <<'N'
[Match]
Name=en* eth*
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
N
cat >"$root/etc/systemd/system/pintle-test.service" <<'U'
[Unit]
Description=Pintle's test inside the machine
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash /opt/test/inside.sh
StandardOutput=file:/dev/ttyS0
StandardError=inherit
ExecStopPost=/bin/systemctl poweroff --no-block
TimeoutStartSec=600
U
# A login prompt would hang the console up under the test's output.
ln -sf /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"
for unit in systemd-networkd pintle-test; do
    src=/lib/systemd/system/$unit.service; [ -e "$root$src" ] || src=/etc/systemd/system/$unit.service
    ln -sf "$src" "$root/etc/systemd/system/multi-user.target.wants/$unit.service"
done

image=$work/root.img
rm -f "$image"
truncate -s 3G "$image"
mkfs.ext4 -q -F -d "$root" "$image"
kernel=$(ls "$root"/boot/vmlinuz-* | tail -n 1)
initrd=$(ls "$root"/boot/initrd.img-* | tail -n 1)
console=$work/console.log
echo "vm: booting"
timeout 900 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 2048 -nographic -no-reboot \
    -kernel "$kernel" -initrd "$initrd" -drive "file=$image,if=virtio,format=raw,cache=unsafe" \
    -nic user,restrict=on,model=virtio-net-pci \
    -append "root=/dev/vda rw console=ttyS0 panic=-1 quiet systemd.show_status=no" </dev/null >"$console" 2>&1 || true
rm -rf "$root" "$image"
grep -a '^vm-test: ' "$console" | tr -d '\r' || true
if grep -aq '^vm-test: all good' "$console"; then
    p=$(grep -ac '^vm-test: ok ' "$console")
    echo "$p passed, 0 failed"
    exit 0
fi
echo "vm: the test did not pass; the end of the console:"
tail -n 80 "$console" | tr -d '\r'
echo "0 passed, 1 failed"
exit 1
