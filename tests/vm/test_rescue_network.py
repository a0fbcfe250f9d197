"""The rescue system on the network: found by itself, as the settings say, IPv6 only; SSH, clock, consoles."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from socket import AF_INET6

import pytest
from rescueshell import Shell, booted, direct, joined, shell

from onebay.base import tool
from onebay.machine.install import free_port
from onebay.rescue.build import Choice, Rescue, build
from onebay.rescue.configuration import archive, read_settings

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("only_with_matrix")]
SSH = ["-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes", "-o", "ConnectTimeout=30", "-F", "/dev/null"]
CARD = "virtio-net-pci,romfile="
# What a router says (RFC 4861, 4.2; 4.6.2), with a name server (RFC 8106, 5.1); the kernel adds the checksum.
ROUTER = """
import socket, struct, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
n = lambda a: socket.inet_pton(socket.AF_INET6, a)
ra = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
ra += struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0) + n("2001:db8:5::")
ra += struct.pack("!BBHI", 25, 3, 0, 3600) + n("2001:db8:5::53")
s.sendto(ra, ("ff02::1", 0, 0, socket.if_nametoindex(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs of keys of a user and one of a host, by ssh-keygen."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("user", "other", "host"):
        tool.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name])
    return folder


@pytest.fixture(scope="module")
def rescue(cache: Path, tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Rescue:
    choice = Choice(settings=read_settings(None, [keys / "user.pub"]))
    return build(tmp_path_factory.mktemp("rescue") / "out", choice, cache=cache)


class HTTP6(HTTPServer):
    address_family = AF_INET6


@contextmanager
def served(kind: type[HTTPServer] = HTTPServer, address: str = "127.0.0.1") -> Iterator[int]:
    """Serve nothing over HTTP on the loopback; gives the port."""
    server = kind((address, 0), SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def status(asked: Shell, name: str) -> dict[str, object]:
    found = json.loads(asked.ask(f"cat /run/onebay/status/{name}.json 2>/dev/null || echo {{}}"))
    assert isinstance(found, dict)
    return found


def waiting(asked: Shell, name: str, text: str, seconds: float = 180) -> str:
    """Return a part's status once there is a text in it."""
    deadline = time.monotonic() + seconds
    while text not in (found := json.dumps(status(asked, name))):
        assert time.monotonic() < deadline, found
        time.sleep(2)
    return found


def ssh(port: int, key: Path, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    argv = ["ssh", *SSH, "-o", f"UserKnownHostsFile={key.parent / 'known'}", "-i", str(key), *options]
    argv += ["-o", "IdentitiesOnly=yes", "-p", str(port), "root@127.0.0.1", command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


def test_found_by_itself(rescue: Rescue, cache: Path, tmp_path: Path, keys: Path) -> None:
    """DHCP and RA, SSH by key only, a wrong clock, a card without a driver, a job's host; all in 256 MB."""
    port = free_port()
    with served() as web:
        words = f"onebay.restore=http://10.0.2.2:{web}/none.raw.zst onebay.target=serial:NONE"
        machine = replace(direct(rescue, 256, cache, words), forwards=((port, 22),), online=True)
        more = ["-rtc", "base=2001-01-01T00:00:00", "-device", "ne2k_pci,romfile="]
        with booted(machine, tmp_path, more) as guest:
            assert guest.wait(f"IPv4 gets to 10.0.2.2 port {web}", 400), guest.output()[-3000:]
            assert guest.wait("one-time code", 400), guest.output()[-3000:]
            seen = guest.output()
            for text in ("10.0.2.15", "root@10.0.2.15", "(ED25519)", "and was set by 10.0.2.2"):
                assert text in seen, seen[-3000:]
            # the id of a RTL8029 in the PCI ID repository
            assert "network card 10ec:8029" in seen
            by_key(port, keys, seen)
            with joined(guest) as asked:
                from_inside(asked, port, keys)


def from_inside(asked: Shell, port: int, keys: Path) -> None:
    """What the shell of that machine says: addresses, clock, screen, another key, memory."""
    assert "site dynamic" in asked.ask("ip -6 address show dev eth0")
    assert abs(int(asked.ask("date +%s")) - time.time()) < 100
    assert "nameserver 10.0.2.3" in asked.ask("cat /etc/resolv.conf")
    # the same on the screen: what its memory holds (vcs(4))
    screen = asked.ask("cat /dev/vcs1")
    assert "root@10.0.2.15" in screen
    assert "one-time code" in screen
    key = (keys / "other.pub").read_text().strip()
    assert "2 keys may log in now" in asked.ask(f"onebay rescue key '{key}'")
    assert ssh(port, keys / "other", "echo in").stdout == "in\n"
    assert int(asked.ask("free -m | awk '$1 == \"Mem:\" {print $7}'")) >= 75


def by_key(port: int, keys: Path, seen: str) -> None:
    """The key logs in; a password, another key and none do not; the fingerprint is what OpenSSH says."""
    done = ssh(port, keys / "user", "cat /run/onebay/status/ssh.json; /usr/sbin/ip -json route")
    assert done.returncode == 0, done.stderr
    scanned = tool.run(["ssh-keyscan", "-t", "ed25519", "-p", str(port), "127.0.0.1"], timeout=120)
    said = tool.run(["ssh-keygen", "-l", "-f", "-"], stdin=scanned.stdout).text.split()[1]
    assert f'"{said} (ED25519)"' in done.stdout
    assert said in seen
    refused = [
        ssh(port, keys / "other", "true"),
        ssh(port, keys / "user", "true", "-o", "PubkeyAuthentication=no"),
    ]
    for each in refused:
        assert each.returncode == 255
        assert "Permission denied (publickey)" in each.stderr


def test_as_the_settings_say(rescue: Rescue, cache: Path, tmp_path: Path, keys: Path) -> None:
    """A /32 with its gateway on the link, a bond with a VLAN on it, the host's own key, from an archive."""
    macs = [f"52:54:00:00:00:0{number}" for number in range(4)]
    interfaces = [
        {"mac": macs[0], "addresses": ["10.0.2.15/32"], "routes": [{"via": "10.0.2.2"}], "dhcp": True},
        {"bond": {"members": [macs[1], macs[3]]}, "dhcp": False, "ra": False},
        {"vlan": {"id": 5, "parent": "bond0"}, "addresses": ["198.51.100.1/24"], "mtu": 1400},
    ]
    settings = {
        "hostname": "bay",
        "network": {"interfaces": interfaces, "dns": ["192.0.2.53"]},
        "ssh": {"host_keys": {"ed25519": (keys / "host").read_text()}},
        "web": {"enabled": False},
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    initrd = tmp_path / "initrd"
    packed = archive(read_settings(tmp_path / "settings.json", []))
    initrd.write_bytes(rescue.initrd.read_bytes() + packed)
    port = free_port()
    machine = replace(direct(rescue, 256, cache), initrd=initrd, forwards=((port, 22),), mac=macs[0])
    more: list[str] = []
    for number in (1, 2, 3):
        more += ["-netdev", f"hubport,id=h{number},hubid=0"]
        more += ["-device", f"{CARD},netdev=h{number},mac={macs[number]}"]
    with shell(machine, tmp_path, more) as asked:
        waiting(asked, "network", "198.51.100.1")
        waiting(asked, "ssh", "SHA256")
        routes = json.loads(asked.ask("ip -json route show default"))
        assert [(each["gateway"], each["dev"], each["flags"]) for each in routes] == [
            ("10.0.2.2", "eth0", ["onlink"])
        ]
        own = json.loads(asked.ask("ip -json -4 address show dev eth0"))[0]["addr_info"]
        assert [(each["local"], each["prefixlen"]) for each in own] == [("10.0.2.15", 32)]
        assert ssh(port, keys / "user", "hostname").stdout == "bay\n"
        known = tool.run(["ssh-keygen", "-l", "-f", keys / "host.pub"]).text.split()[1]
        assert known in json.dumps(status(asked, "ssh"))
        assert (asked.ask("cat /etc/resolv.conf")).startswith("nameserver 192.0.2.53\n")
        vlan = json.loads(asked.ask("ip -details -json link show vlan5"))[0]
        assert (vlan["link"], vlan["mtu"], vlan["linkinfo"]["info_data"]["id"]) == ("bond0", 1400, 5)
        bond = json.loads(asked.ask("ip -details -json link show bond0"))[0]["linkinfo"]["info_data"]
        assert bond["mode"] == "active-backup"
        members = asked.ask("cat /sys/class/net/bond0/bonding/slaves").split()
        assert len(members) == 2
        beyond_the_vlan(asked, macs[2])


def beyond_the_vlan(asked: Shell, mac: str) -> None:
    """The other card, in a network of its own, is a neighbour on the VLAN, and then its router."""
    card = next(each["ifname"] for each in json.loads(asked.ask("ip -json link")) if each["address"] == mac)
    inside = "ip netns exec peer"
    asked.ask(f"ip netns add peer; ip link set {card} netns peer; {inside} ip link set {card} up")
    asked.ask(f"{inside} ip link add link {card} name v5 type vlan id 5; {inside} ip link set v5 up")
    asked.ask(f"{inside} ip address add 198.51.100.2/24 dev v5; sleep 3")
    assert " 0% packet loss" in asked.ask("ping -c 3 198.51.100.2")
    for line in ROUTER.strip().splitlines():
        asked.ask(f"echo '{line}' >> /tmp/router.py")
    asked.ask(f"{inside} python3 /tmp/router.py v5")
    waiting(asked, "network", "2001:db8:5:")
    deadline = time.monotonic() + 60
    while "nameserver 2001:db8:5::53" not in asked.ask("cat /etc/resolv.conf"):
        assert time.monotonic() < deadline
    way = json.loads(asked.ask("ip -6 -json route show default dev vlan5"))[0]
    assert way["gateway"].startswith("fe80:")


def test_ipv6_only(rescue: Rescue, cache: Path, tmp_path: Path) -> None:
    """Router advertisements alone; the image's host is reached over them."""
    try:
        with served(HTTP6, "::1") as web:
            words = f"onebay.restore=http://[fec0::2]:{web}/none.raw.zst onebay.target=serial:NONE"
            more = ["-netdev", "user,id=u,ipv4=off,ipv6=on", "-device", f"{CARD},netdev=u"]
            with shell(direct(rescue, 256, cache, words), tmp_path, more) as asked:
                found = waiting(asked, "network", f"IPv6 gets to fec0::2 port {web}")
                assert "nobody answers DHCP" in waiting(asked, "network", "nobody answers DHCP")
                assert '"fec0::' in found
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")


def test_a_mistake_is_said_on_the_console(rescue: Rescue, cache: Path, tmp_path: Path) -> None:
    words = "onebay.restore=http://192.0.2.1/x onebay.traget=only"
    with booted(direct(rescue, 256, cache, words), tmp_path) as guest:
        assert guest.wait('kernel command line: "onebay.traget": nothing knows this', 400), guest.output()
        assert guest.wait("no network card is there", 400), guest.output()
        with joined(guest) as asked:
            assert asked.ask("ls /run/onebay/job.pid").strip().endswith("No such file or directory")
