#!/bin/bash
# enter.sh BASE WORK: run as root in new mount, PID, network, UTS, IPC and cgroup namespaces; makes
# a root file system of BASE with WORK/upper over it, and becomes its systemd.
set -euo pipefail
base=$1 work=$2 root=$2/root

bind_device() {
    touch "$root/dev/$1"
    mount --bind "/dev/$1" "$root/dev/$1"
}

mount --make-rprivate /
mount -t overlay -o "lowerdir=$base,upperdir=$work/upper,workdir=$work/overlay" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
for device in null zero full random urandom tty; do bind_device "$device"; done
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for stream in 0:stdin 1:stdout 2:stderr; do
    ln -s "/proc/self/fd/${stream%%:*}" "$root/dev/${stream##*:}"
done
touch "$root/dev/console"
mount --bind "$work/console" "$root/dev/console"

cd "$root"
mkdir -p .before
pivot_root . .before
umount -l /.before
rmdir /.before
# LoadCredential= and private mounts of units need a shared tree to branch from.
mount --make-rshared /
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd \
    --log-level=warning --log-target=console --show-status=no </dev/null &>/dev/console
