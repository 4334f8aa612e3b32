#!/bin/sh
# started by rc.local
/usr/local/sbin/ucarp -i eth1 -s 192.0.2.2 -v 1 -p secret -a 192.0.2.1 --deadratio=5 \
    -P -z -B -k 255 --upscript=/etc/vip-up.sh -d /etc/vip-down.sh -x "two words" &
ucarp --interface=eth2 -v 2 -o /etc/ucarp.password -a 198.51.100.1 -m 224.0.0.99 -M -S >/dev/null 2>&1 &
ucarp -v $VHID -p secret
ucarp --vhidd=3
exit 0
