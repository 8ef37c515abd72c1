#!/bin/busybox sh
# The set-up from the medium. When it fails, the machine stays on for a look at it, as Windows' setup does.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
export PYTHONPATH=/opt/standin/project PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8
if /usr/bin/python3.11 -m tests.standin.guest.windows_pe >/dev/ttyS0 2>&1; then
    sync
    reboot -f
fi
while true; do
    sleep 3600
done
