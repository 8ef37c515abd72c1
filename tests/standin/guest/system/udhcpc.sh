#!/bin/sh
# Takes the address that was leased.
case $1 in
deconfig) ip link set "$interface" up ;;
bound | renew)
    ip addr replace "$ip/${mask:-24}" dev "$interface"
    [ -z "$router" ] || ip route replace default via "${router%% *}"
    ;;
esac
