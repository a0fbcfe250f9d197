#!/bin/busybox sh
# shellcheck disable=SC2154 # udhcpc sets them
# What udhcpc calls with a lease: the installer needs an address, and a way out for its answers.
case $1 in
    bound | renew)
        ip address flush dev "$interface"
        ip address add "$ip/${mask:-24}" dev "$interface"
        [ -z "${router:-}" ] || ip route replace default via "${router%% *}" dev "$interface"
        ;;
    deconfig) ip link set "$interface" up ;;
esac
