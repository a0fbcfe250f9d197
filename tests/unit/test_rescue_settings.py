"""Settings of the rescue system: what is meant, what is refused and how it is called; nothing by halves."""

from __future__ import annotations

import base64
import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebay.base.error import Error, Refused
from onebay.rescue.live.layers import merged, parse_command_line, read_layers, words
from onebay.rescue.live.settings import parse, parse_document

# made by ssh-keygen -t ed25519
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJDad8DYdZEJZIevNH0ihOGxGraQMTZTn2dX6W90plI/ root@vm"
MAC = "52:54:00:12:34:56"


def one(**keys: Any) -> dict[str, Any]:
    return {"network": {"interfaces": [keys]}}


WHOLE = {
    "version": 1,
    "hostname": "nas.example",
    "network": {
        "interfaces": [
            {
                "mac": MAC.upper(),
                "addresses": ["192.0.2.5/32", "2001:db8::5/64"],
                "routes": [{"to": "default", "via": "192.0.2.1", "onlink": True, "metric": 100}],
                "mtu": 1400,
                "ra": False,
            },
            {"vlan": {"id": 5, "parent": "bond0"}, "addresses": ["198.51.100.2/24"]},
            {"bond": {"mode": "802.3ad", "members": ["52:54:00:00:00:01", "eth2"]}, "dhcp": False},
        ],
        "dns": ["192.0.2.53"],
    },
    "ssh": {"authorized_keys": [KEY], "port": 2222},
    "web": {"enabled": False},
    "time": {"servers": ["ntp.example", "192.0.2.123"]},
    "job": {
        "restore": "https://images.example/nas.raw.zst",
        "target": "serial:WD-1",
        "digest": "sha256:" + "0" * 64,
        "then": "reboot",
    },
}


def test_all_of_it() -> None:
    settings = parse(parse_document(json.dumps(WHOLE).encode()))
    card, vlan, bond = settings.interfaces
    assert (card.mac, card.mtu, card.wants_dhcp, card.wants_ra) == (MAC, 1400, False, False)
    assert str(card.routes[0].via) == "192.0.2.1"
    assert card.routes[0].onlink
    assert (vlan.label, vlan.wants_dhcp, vlan.wants_ra) == ("vlan5", False, True)
    assert bond.bond is not None
    assert bond.bond.members == ("52:54:00:00:00:01", "eth2")
    assert (settings.ssh.port, settings.web.enabled, settings.web.port) == (2222, False, 443)
    assert settings.job is not None
    assert settings.job.then == "reboot"


def test_nothing_set_is_dhcp_and_ra_for_all() -> None:
    settings = parse({})
    assert settings.interfaces == ()
    assert (settings.job, settings.web.enabled, settings.ssh.port) == (None, True, 22)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"versoin": 1}, r"versoin: nothing knows this key"),
        ({"\x1b[2J": 1}, r'"\\u001b\[2J": nothing knows this key'),
        ({"version": 2}, r"version: expected 1, found 2"),
        ([], r"settings: expected an object, found list"),
        ({"hostname": "-x"}, r"hostname: expected a host name"),
        (one(mac="52:54"), r"network\.interfaces\[0\]\.mac: expected a MAC"),
        (one(name="a/b"), r"interfaces\[0\]\.name: expected a name"),
        (one(addresses=["192.0.2.5"]), r"addresses\[0\]: expected an address with its prefix"),
        (one(addresses=["192.0.2.5/33"]), r"addresses\[0\]: expected a prefix of at most 32"),
        (one(addresses=["fe80::1%eth0/64"]), r"addresses\[0\]: expected an address"),
        (one(addresses=["127.0.0.1/8"]), r"addresses\[0\]: expected an address"),
        (one(addresses="192.0.2.5/24"), r"addresses: expected a list"),
        (one(routes=[{"to": "default"}]), r"routes\[0\]\.via: is missing"),
        (one(routes=[{"to": "192.0.2.1/24", "via": "192.0.2.1"}]), r"routes\[0\]\.to: expected default or"),
        (one(routes=[{"to": "::/0", "via": "192.0.2.1"}]), r"routes\[0\]\.via: expected an IPv6 address"),
        (one(routes=[{"to": 5, "via": "192.0.2.1"}]), r"routes\[0\]\.to: expected default or"),
        (one(mtu=100), r"mtu: expected 576 to 65535, found 100"),
        (one(mtu=True), r"mtu: expected 576 to 65535, found true"),
        (one(dhcp="yes"), r"dhcp: expected true or false"),
        (one(vlan={"id": 4095, "parent": "eth0"}), r"vlan\.id: expected 1 to 4094"),
        (one(vlan={"id": 5}), r"vlan\.parent: is missing"),
        (one(vlan={"id": 5, "parent": "vlan5"}), r"vlan\.parent: is the VLAN itself"),
        (one(bond={"mode": "fast", "members": [MAC]}), r"bond\.mode: expected balance-rr or"),
        (one(bond={"mode": "broadcast"}), r"bond\.members: is missing"),
        ({"network": {"interfaces": [{"mac": MAC}, {"mac": MAC}]}}, r"interfaces\[1\]: is there twice"),
        ({"network": {"dns": ["nobody"]}}, r"network\.dns\[0\]: expected an address"),
        ({"ssh": {"authorized_keys": ["ssh-ed25519 AAAA"]}}, r"authorized_keys\[0\]: expected a public key"),
        ({"ssh": {"authorized_keys": ['command="x" ' + KEY]}}, r"authorized_keys\[0\]: expected a public"),
        ({"ssh": {"authorized_keys": [KEY + "\n" + KEY]}}, r"authorized_keys\[0\]: expected a line of text"),
        ({"ssh": {"host_keys": {"dsa": "x"}}}, r"ssh\.host_keys\.dsa: nothing knows this key"),
        ({"ssh": {"host_keys": {"rsa": "secret"}}}, r"ssh\.host_keys\.rsa: expected a private key"),
        ({"web": {"port": 0}}, r"web\.port: expected 1 to 65535"),
        ({"job": {"restore": "file:///etc", "target": "only"}}, r"job\.restore: expected a URL"),
        ({"job": {"restore": "http://[::1", "target": "only"}}, r"job\.restore: expected a URL"),
        ({"job": {"restore": "http://a/b"}}, r"job\.target: is missing"),
        ({"job": {"target": "only"}}, r"job\.restore: is missing"),
        ({"job": {"restore": "http://a/b", "target": "sda"}}, r"job\.target: expected serial:"),
        ({"job": {"restore": "http://a/b", "target": "only", "digest": "x"}}, r"job\.digest: expected"),
        (
            {"job": {"restore": "http://a/b", "target": "only", "public_key": "x"}},
            r"job\.public_key: expected",
        ),
    ],
)
def test_what_is_wrong_is_called_by_its_key(document: object, says: str) -> None:
    with pytest.raises(Refused, match=says):
        parse(document)


def test_secrets_are_not_shown() -> None:
    for document in (
        {"job": {"restore": "ftp://user:secret@host/x"}},
        {"ssh": {"host_keys": {"ed25519": "secret"}}},
    ):
        with pytest.raises(Refused) as caught:
            parse(document)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'{"a": 1, "a": 2}', "a key is there twice"),
        (b"{\n\nx", "is no JSON at line 3"),
        (b"\xff\xfe\xff", "is no JSON"),
        (b"[" * 100000, "is no JSON"),
        (b'{"version": ' + b"1" * 5000 + b"}", "is no JSON"),
        (b" " * (1 << 19), "is too long"),
    ],
)
def test_what_is_no_document(raw: bytes, says: str) -> None:
    with pytest.raises(Refused, match=says):
        parse_document(raw)


def test_the_command_line() -> None:
    packed = base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("=")
    line = (
        "BOOT_IMAGE=/vmlinuz console=ttyS0,115200 onebay.ip=192.0.2.5/32,192.0.2.1,52:54:00:12:34:56 "
        "onebay.ip=2001:db8::5/64,fe80::1,52:54:00:12:34:56 onebay.ip=198.51.100.7/24 "
        "onebay.dns=192.0.2.53,2001:db8::53 "
        f'onebay.ssh={packed} onebay.ssh="{KEY} two" onebay.web=off onebay.ntp=ntp.example '
        "onebay.restore=http://192.0.2.9/nas.raw.zst onebay.target=only onebay.then=poweroff quiet\n"
    )
    settings = parse(parse_command_line(line))
    first, second = settings.interfaces
    assert [str(each) for each in first.addresses] == ["192.0.2.5/32", "2001:db8::5/64"]
    assert [str(route.via) for route in first.routes] == ["192.0.2.1", "fe80::1"]
    assert (second.mac, second.name, second.label) == (None, None, "the first card")
    assert len(settings.dns) == 2
    assert settings.ssh.authorized_keys == (KEY, KEY + " two")
    assert not settings.web.enabled
    assert settings.time_servers == ("ntp.example",)
    assert settings.job is not None
    assert (settings.job.target, settings.job.then) == ("only", "poweroff")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("onebay.targt=only", r'"onebay.targt": nothing knows this word'),
        ("onebay.ip=192.0.2.5", "onebay.ip: expected an address with its prefix"),
        ("onebay.ip=192.0.2.5/24,nowhere", "onebay.ip: expected an address"),
        ("onebay.ip=192.0.2.5/24,,a/b", "onebay.ip: expected a name"),
        ("onebay.ssh=AAA!", "onebay.ssh: expected a public key"),
        ("onebay.web=perhaps", "onebay.web: expected on or off"),
        ("onebay.target=serial:A onebay.target=only", "onebay.target is there twice"),
        (f"onebay.restore=http://h/x onebay.target=only {'x' * 2010}", "may be cut"),
        ("onebay.then=explode", "job.then: expected reboot or poweroff or stay"),
        ("onebay.ip", "onebay.ip: expected an address"),
    ],
)
def test_a_wrong_word_is_named(line: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        parse_command_line(line)


def test_words_are_split_as_the_kernel_does() -> None:
    # lib/cmdline.c, next_arg: quotes are kept together wherever they begin
    assert words(' a="b c" "d e" f\n') == ["a=b c", "d e", "f"]


def test_later_layers_win_and_keys_of_ssh_add_up() -> None:
    below = {
        "hostname": "a",
        "ssh": {"authorized_keys": [KEY], "port": 22},
        "network": {"dns": ["192.0.2.1"]},
    }
    above = {"ssh": {"authorized_keys": [KEY + " two"]}, "network": {"dns": ["192.0.2.2"]}}
    found = merged([below, above], [])
    assert found.mistakes == ()
    assert (found.settings.hostname, found.settings.ssh.port) == ("a", 22)
    assert found.settings.ssh.authorized_keys == (KEY, KEY + " two")
    assert [str(each) for each in found.settings.dns] == ["192.0.2.2"]


def test_a_mistake_leaves_its_layer_out_and_any_job(tmp_path: Path) -> None:
    built, archive, line = tmp_path / "built", tmp_path / "archive", tmp_path / "cmdline"
    built.write_text(json.dumps({"job": WHOLE["job"], "ssh": {"authorized_keys": [KEY]}}))
    archive.write_text(json.dumps({"hostname": "x", "network": {"interfaces": [{"mtu": 1}]}}))
    line.write_text("onebay.dns=192.0.2.1")
    found = read_layers(built, archive, line)
    assert found.settings.hostname is None
    assert found.settings.job is None
    assert "job" not in found.document
    assert found.settings.ssh.authorized_keys == (KEY,)
    assert len(found.settings.dns) == 1
    mistake, consequence = found.mistakes
    assert mistake.startswith("configuration archive: network.interfaces[0].mtu: expected 576 to 65535")
    assert "the job is not done" in consequence


def test_a_job_that_lacks_its_target_is_a_mistake_of_all_together() -> None:
    found = merged([{"job": {"restore": "http://a/b"}, "hostname": "a"}], [])
    assert found.settings.job is None
    assert found.settings.hostname == "a"
    assert found.mistakes[0] == "settings together: job.target: is missing"


def test_no_layer_at_all(tmp_path: Path) -> None:
    found = read_layers(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert found.mistakes == ()
    assert found.document == {"version": 1}


WORDS = """version network interfaces addresses routes via to mac name vlan bond id parent members mode mtu
ssh authorized_keys host_keys rsa job restore dns target web port time servers hostname metric onlink dhcp"""
NAMES = st.sampled_from(WORDS.split())
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(
        ["192.0.2.1/24", "default", "eth0", MAC, KEY, "only", "http://a/b", "::1/64", "2001:db8::/0"]
    )
)
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=25,
)


def said(read: Callable[[Any], object], value: object) -> str:
    """Return the message for a value that is refused, nothing for one that is taken."""
    try:
        read(value)
    except Error as error:
        return str(error)
    return ""


@given(st.dictionaries(NAMES, DOCUMENTS, max_size=5))
def test_any_document_is_settings_or_one_line(document: dict[str, Any]) -> None:
    message = said(parse, document)
    assert message.isascii()
    assert len(message) < 400
    assert not message or message.isprintable()


@given(st.binary(max_size=200) | st.text(alphabet=string.printable, max_size=200).map(str.encode))
def test_any_bytes_are_a_document_or_one_line(raw: bytes) -> None:
    message = said(parse_document, raw)
    assert not message or message.isprintable()


@given(
    st.lists(st.sampled_from(["ip", "dns", "ssh", "web", "ntp", "hostname", "then", "x"])),
    st.text(max_size=40),
)
def test_any_command_line_is_settings_or_one_line(keys: list[str], value: str) -> None:
    message = said(parse_command_line, " ".join(f"onebay.{key}={value}" for key in keys))
    assert not message or message.isprintable()
