#!/bin/bash
# onebay-manifest: is everything on the data volume still what it was? One line on the console says so.
volume=/volume1
lists=$volume/manifest
layout=$(cat /etc/onebay-layout)
bad=""

cd "$volume" || bad="no volume"
if [ -z "$bad" ]; then
    sha256sum --check --quiet --strict "$lists/sha256" > /run/onebay-manifest.log 2>&1 || bad="sha256"
    while IFS=$'\t' read -r first second; do
        [ "$first" -ef "$second" ] || bad="hard link $second"
    done < "$lists/links"
    xargs -d '\n' getfattr -d -m '^user\.' -- < "$lists/tagged" 2> /dev/null | cmp -s - "$lists/xattrs" || bad="xattrs"
    while read -r blocks size name; do
        [ $((blocks * 512)) -lt "$size" ] || bad="hole in $name"
    done < <(xargs -d '\n' stat -c '%b %s %n' -- < "$lists/holes")
    while read -r snapshot; do
        # root passes permission bits, so this can only fail on a snapshot that is still read-only
        ! touch "$snapshot/written" 2> /dev/null || bad="snapshot $snapshot can be written"
    done < "$lists/snapshots"
fi
if [ -z "$bad" ]; then
    files=$(wc -l < "$lists/sha256")
    size=$(df --block-size=1 --output=size "$volume" | tail -n 1)
    line="ONEBAY-MANIFEST OK files=$files layout=$layout volume=${size// /}"
else
    line="ONEBAY-MANIFEST BAD layout=$layout: $bad: $(head -n 3 /run/onebay-manifest.log | tr '\n' ' ')"
fi
printf '\n%s\n' "$line" > /dev/console
