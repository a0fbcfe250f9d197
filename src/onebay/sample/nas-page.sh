#!/bin/bash
# The storage manager's page, run by busybox httpd on port 5000 as a CGI program: GET shows the volume and the forms;
# POST of "do=delete", "do=create&kind=KIND" or "do=poweroff" does it and shows what the command said. The status is
# 409 where it failed.
set -u
body=""
if [ "$REQUEST_METHOD" = POST ]; then
    IFS= read -r -t 10 -n "$((CONTENT_LENGTH < 200 ? CONTENT_LENGTH : 200))" body || true
fi
field() { tr '&' '\n' <<< "$body" | sed -n "s/^$1=\([a-z0-9-]*\)$/\1/p"; }
escaped() { sed 's/&/\&amp;/g; s/</\&lt;/g'; }
storage() { flock -n -o /run/nas-storage.lock nas-storage "$@" 2>&1 < /dev/null; }

status="200 OK"
said=""
case "$(field "do")" in
    delete) said=$(storage delete) || status="409 Conflict" ;;
    create) said=$(storage create "$(field kind)") || status="409 Conflict" ;;
    poweroff) said=$(systemctl poweroff 2>&1 && echo "going off") || status="409 Conflict" ;;
esac
printf 'Status: %s\r\nContent-Type: text/html; charset=utf-8\r\n\r\n' "$status"
cat << END
<!doctype html><title>NAS</title><h1>Storage manager</h1>
<pre>$(escaped <<< "$said")</pre>
<h2>Volume</h2><pre>$(nas-storage list 2>&1 | escaped)</pre>
<form method="post"><button name="do" value="delete">Delete the volume</button></form>
<form method="post"><select name="kind">
<option>basic-btrfs<option>basic-ext4<option>lvm-btrfs<option>lvm-ext4
</select><button name="do" value="create">Create a volume</button></form>
<form method="post"><button name="do" value="poweroff">Power off</button></form>
END
