"""The tokenizer, parser and edits of LVM2's metadata text."""

from __future__ import annotations

import pytest

from onebay.base.error import Damaged
from onebay.stack.lvm.text import Leaf, apply_edits, parse, replace_number

TEXT = rb"""vg {
	id = "a-b"	# a comment with { and "
	seqno = 7
	status = ["READ", "WRITE"]
	tags = []
	odd/key-1 = 1.5
	name = "a \"quoted\" \\ name"
	pv0 { dev_size = 100	# 50 Kilobytes
	}
}
version = 1
""" + bytes([0])


def test_values_sections_and_places() -> None:
    top = parse(TEXT)
    vg = top.section("vg")
    assert vg.string("id") == "a-b"
    assert vg.number("seqno") == 7
    assert vg.array("status") == ["READ", "WRITE"]
    assert vg.array("tags") == []
    assert vg.string("odd/key-1") == "1.5"
    assert vg.string("name") == 'a "quoted" \\ name'
    assert [section.name for section in vg.sections()] == ["pv0"]
    for item in vg.items.values():
        if isinstance(item, Leaf) and isinstance(item.value, int):
            assert TEXT[item.start : item.end] == str(item.value).encode()
    assert TEXT[vg.start : vg.start + 1] == b"{"
    assert TEXT[vg.end - 1 : vg.end] == b"}"


def test_edits_change_their_bytes_only() -> None:
    vg = parse(TEXT).section("vg")
    edits = [
        replace_number(TEXT, vg.leaf("seqno"), 8),
        replace_number(TEXT, vg.section("pv0").leaf("dev_size"), 12345),
    ]
    made = apply_edits(TEXT, edits)
    expected = TEXT.replace(b"seqno = 7", b"seqno = 8").replace(b"100\t# 50 Kilobytes", b"12345")
    assert made == expected
    assert apply_edits(TEXT, []) == TEXT


@pytest.mark.parametrize(
    ("text", "at", "what"),
    [
        (b"a {", 3, "ends too early"),
        (b"a { } }", 6, "a } too many"),
        (b"a = ", 4, "ends too early"),
        (b"a = }", 4, "a value"),
        (b"a = [1, 2", 9, "ends too early"),
        (b"a = [1 2]", 7, "expected ,"),
        (b"= 3", 0, "a name"),
        (b'a = "b', 4, "not a token"),
        (b"a = 1\na = 2", 6, "twice"),
        (b"a" + b"{a" * 40, 33, "too deep"),
        (b"a b", 2, "expected ="),
    ],
)
def test_errors_say_where(text: bytes, at: int, what: str) -> None:
    with pytest.raises(Damaged) as caught:
        parse(text)
    assert caught.value.at == at
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key"),
    [(b"a = -1", "a"), (b'a = "1"', "a"), (b"b = 1", "a"), (b"a { }", "a"), (b"a = [1]", "a")],
)
def test_numbers_are_asked_for(text: bytes, key: str) -> None:
    with pytest.raises(Damaged):
        parse(text).number(key)
