#!/bin/busybox sh
# The first program: loads the drivers, then goes on from the disk, or from the medium that this was read from.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do
    insmod "/lib/modules/standin/$module.ko"
done </lib/modules/standin/order
mount -t efivarfs efivarfs /sys/firmware/efi/efivars
# A crash is the host's to look at: the machine stays as it is. An NMI is one.
echo 0 >/proc/sys/kernel/panic
echo 1 >/proc/sys/kernel/unknown_nmi_panic
if [ -x /setup ]; then
    exec /setup
fi
# What no file uses is not prepared in the background: it would only make the image larger.
mount -t ext4 -o noatime,noinit_itable "$(findfs LABEL=Windows)" /mnt
for folder in proc sys dev; do
    mount --move "/$folder" "/mnt/$folder"
done
exec switch_root /mnt /sbin/init
