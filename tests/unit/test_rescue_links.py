"""The network of the rescue system: leases, commands that ip itself takes, cards without a driver."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebay.base.error import Inconsistent
from onebay.block.pci import Device, without_driver
from onebay.rescue.live.lease import Lease, changing, foreign, parse_lease
from onebay.rescue.live.links import Link, find, parse_links
from onebay.rescue.live.network import advertised
from onebay.rescue.live.plan import bringing_up, device_of, making
from onebay.rescue.live.settings import Interface, parse

ETH0, ETH1 = Link(2, "eth0", "52:54:00:00:00:01", up=True), Link(3, "eth1", "52:54:00:00:00:02")
LEASE = "event=bound\nip=192.0.2.7\nmask=24\nrouter=192.0.2.1 192.0.2.2\ndns=192.0.2.53\nmtu=1400\n"


def interface(**keys: Any) -> Interface:
    return parse({"network": {"interfaces": [keys]}}).interfaces[0]


def said(commands: list[tuple[str, ...]]) -> list[str]:
    return [" ".join(each) for each in commands]


def test_a_lease() -> None:
    lease = parse_lease(LEASE)
    assert lease.address == ipaddress.IPv4Interface("192.0.2.7/24")
    assert (lease.dns, lease.mtu, lease.failed) == (("192.0.2.53",), 1400, False)
    assert said(changing(Lease(), lease, Interface(), ETH0)) == [
        "link set dev eth0 mtu 1400",
        "address replace 192.0.2.7/24 dev eth0 broadcast +",
        "-4 route replace 0.0.0.0/0 via 192.0.2.1 dev eth0 metric 202",
    ]


def test_classless_routes_stand_in_for_the_router() -> None:
    # RFC 3442; a gateway outside of the network is on the link, one of zeros is none
    text = LEASE.replace("mask=24", "mask=32")
    lease = parse_lease(text + "staticroutes=0.0.0.0/0 10.9.9.1 10.9.9.1/32 0.0.0.0\n")
    assert said(changing(Lease(), replace(lease, mtu=None), Interface(), ETH0)) == [
        "address replace 192.0.2.7/32 dev eth0",
        "-4 route replace 0.0.0.0/0 via 10.9.9.1 dev eth0 onlink metric 202",
        "-4 route replace 10.9.9.1/32 dev eth0 metric 202",
    ]


def test_a_lease_that_is_over_takes_its_address_along() -> None:
    assert said(changing(parse_lease(LEASE), parse_lease("event=deconfig"), Interface(), ETH0)) == [
        "address delete 192.0.2.7/24 dev eth0"
    ]
    assert parse_lease("event=leasefail\n").failed


def test_a_lease_never_replaces_an_address_that_is_set() -> None:
    static = interface(name="eth0", addresses=["192.0.2.9/24"], dhcp=True)
    assert foreign(parse_lease(LEASE), static)
    assert changing(Lease(), parse_lease(LEASE), static, ETH0) == []
    assert not foreign(parse_lease(LEASE), interface(addresses=["192.0.2.7/32"]))
    assert not foreign(parse_lease(LEASE), interface(addresses=["2001:db8::1/64"]))


@given(st.text() | st.lists(st.sampled_from(LEASE.split("\n")) | st.text()).map("\n".join))
def test_whatever_a_server_says_is_a_lease_of_hosts(text: str) -> None:
    lease = parse_lease(text)
    for command in changing(Lease(), lease, Interface(), ETH0):
        assert all(word and word.isprintable() and not word.startswith("--") for word in command)


def test_gateways_off_the_network_are_on_the_link() -> None:
    found = interface(
        mac=ETH0.mac,
        addresses=["192.0.2.5/32", "2001:db8::5/128"],
        routes=[
            {"via": "192.0.2.1"},
            {"via": "fe80::1", "metric": 7},
            {"to": "0.0.0.0/0", "via": "2001:db8::1"},
            {"to": "198.51.100.0/24"},
        ],
        mtu=1400,
    )
    assert said(bringing_up(found, "eth0")) == [
        "link set dev eth0 mtu 1400",
        "link set dev eth0 up",
        "address replace 192.0.2.5/32 dev eth0",
        "address replace 2001:db8::5/128 dev eth0",
        "-4 route replace default via 192.0.2.1 dev eth0 onlink metric 100",
        "-6 route replace default via fe80::1 dev eth0 metric 7",
        "-4 route replace 0.0.0.0/0 via inet6 2001:db8::1 dev eth0 onlink metric 100",
        "-4 route replace 198.51.100.0/24 dev eth0 metric 100",
    ]


def test_ip_itself_takes_what_we_tell_it(tmp_path: Path) -> None:
    """In a network of an ordinary user's own, where the kernel has one and a pair of cards."""
    found = interface(
        name="eth0",
        addresses=["192.0.2.5/32", "2001:db8::5/128"],
        routes=[
            {"via": "198.51.100.1"},
            {"via": "2001:db8:1::1"},
            {"to": "203.0.113.0/24", "via": "192.0.2.9"},
        ],
        mtu=1400,
    )
    lines = ["ip link add eth0 type veth peer name eth1", "ip link set eth1 up", "ip link set lo up"]
    lines += [f"ip {line} || exit 9" for line in said(bringing_up(found, "eth0"))]
    lines += ["ip -details -json address show", "echo ---", "ip -json route", "echo ---", "ip -6 -json route"]
    argv = ["unshare", "--net", "--map-root-user", "sh", "-c", "\n".join(lines)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 1 and "unshare" in done.stderr:
        pytest.skip(f"no network of one's own: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    addresses, routes, routes6 = done.stdout.split("---")
    eth0 = find("eth0", parse_links(addresses))
    assert eth0 is not None
    assert (eth0.mtu, eth0.up, eth0.carrier, eth0.card) == (1400, True, True, True)
    assert ipaddress.ip_interface("192.0.2.5/32") in eth0.addresses
    ways = {each["dst"]: each for each in [*json.loads(routes), *json.loads(routes6)] if "gateway" in each}
    assert ways["203.0.113.0/24"]["gateway"] == "192.0.2.9"
    assert ways["default"]["gateway"] == "2001:db8:1::1"
    gateways = [each.get("gateway") for each in json.loads(routes) if each["dst"] == "default"]
    assert gateways == ["198.51.100.1"]


def test_a_bond_and_a_vlan_on_it() -> None:
    bond = interface(bond={"mode": "802.3ad", "members": [ETH0.mac, "eth1"]}, mac="52:54:00:00:00:09")
    vlan = interface(vlan={"id": 5, "parent": "bond0"})
    links = (ETH0, ETH1)
    assert said(making(bond, links)) == [
        "link add name bond0 address 52:54:00:00:00:09 type bond mode 802.3ad miimon 100",
        "link set dev eth0 down",
        "link set dev eth0 master bond0",
        "link set dev eth0 up",
        "link set dev eth1 down",
        "link set dev eth1 master bond0",
        "link set dev eth1 up",
    ]
    assert making(vlan, links) == []
    assert device_of(vlan, links) is None
    there = (*links, Link(4, "bond0", kind="bond"))
    assert said(making(vlan, there))[-1] == "link add link bond0 name vlan5 type vlan id 5"


def test_cards_are_found_by_mac_first() -> None:
    # a VF of Hyper-V has the MAC of the card that it belongs to, which is its master
    both = (replace(ETH0, index=1, name="vf", master="eth0"), ETH0)
    assert find(ETH0.mac, both) == ETH0
    assert device_of(interface(mac=ETH1.mac, name="eth0"), (ETH0, ETH1)) == ETH1
    assert device_of(interface(mac="52:54:00:00:00:99"), both) is None


@pytest.mark.parametrize(
    "text", ["x", "{}", "[1]", '[{"link_type": "ether"}]', '[{"link_type": "ether", "ifindex": 1}]']
)
def test_what_ip_never_says(text: str) -> None:
    try:
        assert parse_links(text) == ()
    except Inconsistent as error:
        assert "is not understood" in str(error)  # noqa: PT017 - either is well


def test_name_servers_of_routers() -> None:
    text = "# by rdnssd\nnameserver 2001:db8::53\nnameserver fe80::1%eth0\nnameserver x\nsearch a\n"
    assert advertised(text) == ["2001:db8::53", "fe80::1%eth0"]


def test_cards_without_a_driver_are_named(tmp_path: Path) -> None:
    for slot, kind, driven in (
        ("0000:00:01.0", "0x020000", True),
        ("0000:00:02.0", "0x028000", False),
        ("0000:00:03.0", "0x010000", False),
    ):
        place = tmp_path / slot
        place.mkdir()
        (place / "class").write_text(kind + "\n")
        (place / "vendor").write_text("0x14e4\n")
        (place / "device").write_text("0x43a0\n")
        if driven:
            (place / "driver").symlink_to(tmp_path)
    (tmp_path / "broken").mkdir()
    assert without_driver(0x02, tmp_path) == [Device("0000:00:02.0", "14e4:43a0")]
    assert without_driver(0x02, tmp_path / "none") == []
