"""GRUB configurations: what parses, what stays byte for byte, what follows the move."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebay.base.error import Error, Inconsistent
from onebay.boot.grubcfg import commands, edit, functions, parse_config
from onebay.boot.grubcfg.rewrite import Place, rewrite

GOOD = {
    "empty": "",
    "comment": "# nothing\n\n",
    "no newline": "set timeout=5",
    "carriage returns": "set a=1\r\nset b=2\r\nif [ $a = 1 ]; then\r\n echo x\r\nfi\r\n",
    "quotes": "echo 'a \"b' \"c 'd' \\\" $x ${y}z\" e\\ f\n",
    "continuation": "linux /zImage \\\n  console=ttyS0\n",
    "if": "if [ -s $prefix/grubenv ]; then\n load_env\nelif true; then echo a; else echo b; fi\n",
    "for": "for i in a b $c; do\n echo $i\ndone\n",
    "while": "while [ $a != 1 ]; do set a=1; done\nuntil false; do break; done\n",
    "function": "function f {\n echo $1 $# $* $@ $?\n}\nf x\n",
    "menu": "submenu 'a' {\n menuentry \"b\" --class os { linux /a; initrd /b\n }\n}\n",
    "keywords as words": "echo if then fi do done in\n",
    "hash inside": "echo a#b # comment\n",
    "translated": 'echo $"hello"\n',
}
BAD = {
    "quote": "echo 'a\n",
    "double": 'set x="abc\n\n',
    "fi": "if true; then echo a\n",
    "stray fi": "echo a\nfi\n",
    "brace": "menuentry x { echo a\n",
    "pipe": "echo a | cat\n",
    "closing": "echo a\n}\n",
    "variable": "echo ${x\n",
    "dollar": "echo a$ b\n",
    "dollar in quotes": 'echo "$"\n',
    "for": "for x y; do echo a; done\n",
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
def test_unchanged_text_comes_back(text: str) -> None:
    assert edit(parse_config(text.encode()), []) == text.encode()


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_refuses_with_place(text: str) -> None:
    with pytest.raises(Inconsistent, match=r"grub.cfg:\d+:\d+: grub configuration"):
        parse_config(text.encode())


@pytest.mark.skipif(shutil.which("grub-script-check") is None, reason="grub-common is not installed")
@pytest.mark.parametrize(
    "text",
    # the tool itself refuses scripts without a command, which GRUB runs
    [text for text in (*GOOD.values(), *BAD.values()) if text.strip("\n") and text[0] != "#"],
)
def test_grub_agrees(text: str, tmp_path: Path) -> None:
    path = tmp_path / "grub.cfg"
    path.write_text(text, newline="")
    theirs = subprocess.run(["grub-script-check", path], capture_output=True, check=False).returncode == 0
    try:
        parse_config(text.encode())
        ours = True
    except Inconsistent:
        ours = False
    assert ours == theirs


def test_place_of_an_error() -> None:
    with pytest.raises(Inconsistent) as caught:
        parse_config(b"set a=1\nset b='\n", "p1:/grub.cfg")
    assert caught.value.volume == "p1:/grub.cfg:2:7"


def test_words() -> None:
    config = parse_config(b"""linux "/a b"'c'\\ d $x\n""")
    (command,) = commands(config.script)
    assert [word.literal for word in command.words] == ["linux", "/a bc d", None]


def test_functions_are_named() -> None:
    assert list(
        functions(parse_config(b"function a { echo; }\nif true; then function b { echo; }; fi").script)
    ) == [
        "a",
        "b",
    ]


def test_deep_nesting_ends() -> None:
    with pytest.raises(Inconsistent, match="nested"):
        parse_config(b"if true; then " * 500)


@given(st.text(alphabet="ab{}()'\"\\$;|&\n #if=then,fi do", max_size=80))
def test_anything_parses_or_is_refused(text: str) -> None:
    try:
        config = parse_config(text.encode())
    except Error:
        return
    assert edit(config, []) == text.encode()


@given(st.binary(max_size=60))
def test_any_bytes_come_back(data: bytes) -> None:
    try:
        config = parse_config(data)
    except Error:
        return
    assert edit(config, []) == data
    rewrite(config, PLACES)


PLACES = (
    Place(1, "1234-ABCD", "BOOT1", "b00710ad-01", "onebay_1", "9999-0001", "da7ad15c-04", lambda path: False),
    Place(
        2,
        "11111111-2222-3333-4444-555555555555",
        "KERNEL",
        "b00710ad-02",
        "onebay_2",
        "99999999-0000-4000-8000-000000000002",
        "da7ad15c-05",
        lambda path: path == "/zImage",
    ),
)
NEW2 = PLACES[1].new_uuid


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "search --no-floppy --set=root --fs-uuid 1234-ABCD",
            "search --no-floppy --set=root --fs-uuid 9999-0001",
        ),
        ("search --fs-uuid --set=root 1234-abcd", "search --fs-uuid --set=root 9999-0001"),
        ("search -n -u 1234-ABCD -s root", "search -n -u 9999-0001 -s root"),
        ("search --label KERNEL --set=root", f"search --fs-uuid {NEW2} --set=root"),
        ("search -l KERNEL", f"search -u {NEW2}"),
        ("search --set=root --file /zImage", f"search --set=root --fs-uuid {NEW2}"),
        ("search.fs_uuid 1234-ABCD root hd0,msdos1", "search.fs_uuid 9999-0001 root"),
        ("search.fs_label KERNEL root", f"search.fs_uuid {NEW2} root"),
        ("search.file /zImage root", f"search.fs_uuid {NEW2} root"),
        (
            "search --fs-uuid --set=root --hint-bios=hd0,msdos1 --hint hd0,msdos1 1234-ABCD",
            "search --fs-uuid --set=root 9999-0001",
        ),
        ("set root='(hd0,msdos1)'", "set root=''\"(${onebay_1})\"''"),
        ('set root="(hd0,1)"', 'set root="(${onebay_1})"'),
        ("set root=(hd0,gpt2)", "set root=(${onebay_2})"),
        ("set root=hd0,msdos2", "set root=${onebay_2}"),
        ("root=hd0,2", "root=${onebay_2}"),
        ("linux (hd0,msdos2)/zImage a", "linux (${onebay_2})/zImage a"),
        ("linux /z root=UUID=1234-ABCD ro", "linux /z root=UUID=9999-0001 ro"),
        ("linux /z root=LABEL=KERNEL", f"linux /z root=UUID={NEW2}"),
        ("linux /z root=PARTUUID=B00710AD-02", "linux /z root=PARTUUID=da7ad15c-05"),
        ("set prefix=($root)/boot/grub", "set onebay_prefix=($root)/boot/grub"),
        ("source $prefix/x.cfg", "source ${onebay_prefix}/x.cfg"),
        ("load_env", 'load_env --file "${onebay_prefix}/grubenv"'),
        ("load_env -f /x", "load_env -f /x"),
        ("insmod /boot/grub/i386-pc/fat.mod", "insmod fat"),
        ("insmod $prefix/i386-pc/fat.mod", "insmod fat"),
        ("set id=1234-ABCD", "set id=9999-0001"),
        (
            "if [ -e (hd0,1)/x ]; then echo (hd0,2); fi",
            "if [ -e (${onebay_1})/x ]; then echo (${onebay_2}); fi",
        ),
        ("! search -l KERNEL", f"! search -u {NEW2}"),
    ],
)
def test_references_follow(old: str, new: str) -> None:
    done = rewrite(parse_config(old.encode()), PLACES)
    assert done.data.decode() == new
    assert not done.warnings
    again = rewrite(parse_config(done.data), PLACES)
    assert again.data == done.data  # nothing is rewritten twice


@pytest.mark.parametrize(
    "text",
    [
        "search --label DATA --set=root",
        "search --fs-uuid $x --set=root",
        "linux (hd1,msdos1)/zImage",
        "chainloader (hd0)+1",
        "set root=(hd0,msdos7)",
        "linux /z vid=1234-ABCD",
    ],
)
def test_what_cannot_follow_stays_and_is_listed(text: str) -> None:
    done = rewrite(parse_config(text.encode()), PLACES)
    assert done.data.decode() == text
    assert len(done.warnings) == 1


def test_sources_and_roots() -> None:
    text = b"source $prefix/a.cfg\nconfigfile (hd0,2)/b.cfg\n. /c.cfg\nlinux /z root=UUID=1234-ABCD\n"
    done = rewrite(parse_config(text), PLACES)
    assert done.sources == (("onebay_prefix", "/a.cfg"), ("onebay_2", "/b.cfg"), ("", "/c.cfg"))
    assert done.roots == {1}
