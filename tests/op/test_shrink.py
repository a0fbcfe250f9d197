"""shrink, capture --minimize and restore to a smaller disk, judged by the formats' own tools.

The miniatures of the sample appliance shrink to their floor without any privilege; the real kernel and lvm2,
in the worker, then assemble and mount what came out, and find every file.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from badkit import MIB, fails, make_disk, onebay, patch, tool, untouched
from shrinkkit import larger, partitions

from onebay.block import FileVolume, open_disk
from onebay.image import Image
from onebay.machine.worker import Disk, run_job
from onebay.ops.foldlayout import data_table
from onebay.ops.kit import find_copies
from onebay.ops.need import needed
from onebay.ops.shrink import find_route
from onebay.sample.build import Sample, build_mini
from onebay.sample.layout import LAYOUTS
from onebay.source import open_source
from onebay.tree import discover
from tests.store.server import Object, Server
from tests.story import onebay as plain

NAMES = [layout.name for layout in LAYOUTS]
CASES = [(name, 512) for name in NAMES] + [("v9-gpt-lvm-ext4", 4096)]
# what the appliance's kernel, mdadm and lvm2 do at boot, and what its file system's checker says
ASSEMBLE = """
echo "== {name}"
mdadm --assemble --run /dev/md2 /dev/{disk}{number} 2>&1 | grep -q 'has been started'
mdadm --examine /dev/{disk}{number} | grep -E 'Checksum :.*(correct|expected)' > /dev/null
volume=/dev/md2
if [ -n "{group}" ]; then
    pvck /dev/md2 > /dev/null
    vgck {group}
    vgchange -q -ay {group} > /dev/null
    volume=/dev/{group}/{lv}
    pvs --noheadings -o pv_free --units b /dev/md2
fi
case {filesystem} in
    ext4) e2fsck -fn $volume > /dev/null ;;
    btrfs) btrfs check --readonly --check-data-csum $volume > /dev/null 2>&1 ;;
esac
mount $volume /media
(cd /media && sha256sum --check --quiet --strict /mnt/share/{name}.sha256)
echo written > /media/written
umount /media
[ -z "{group}" ] || vgchange -q -an {group} > /dev/null
mdadm --stop /dev/md2 2> /dev/null
"""


def label(name: str, sector: int) -> str:
    return name if sector == 512 else f"{name}-4k"


@pytest.fixture(scope="module")
def samples(cache: Path) -> dict[str, Sample]:
    return {label(name, sector): build_mini(name, cache=cache, sector_size=sector) for name, sector in CASES}


@pytest.fixture(scope="module")
def smaller(
    samples: dict[str, Sample], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path]]:
    """Disk and smallest disk of every miniature. One btrfs shrinks without privileges, in the worker."""
    found: dict[str, tuple[Path, Path]] = {}
    for key, sample in samples.items():
        folder = tmp_path_factory.mktemp(key)
        disk, out = sample.data, folder / "small.img"
        run = plain
        if sample.layout.filesystem == "btrfs":
            disk = larger(sample, folder)
            run = plain if sample.layout.group else onebay
        with untouched(disk):
            run("shrink", disk, "--output", out)
        assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
        found[key] = disk, out
    return found


@pytest.mark.parametrize("key", [label(*case) for case in CASES])
def test_the_smallest_disk_is_a_whole_one(
    smaller: dict[str, tuple[Path, Path]], samples: dict[str, Sample], key: str, tmp_path: Path
) -> None:
    disk, out = smaller[key]
    layout = samples[key].layout
    assert out.stat().st_size < disk.stat().st_size
    tool("sfdisk", "--verify", out)
    if layout.table == "gpt" and samples[key].sector_size == 512:
        assert "No problems found" in tool("sgdisk", "-v", out)
    before, after = partitions(disk), partitions(out)
    assert {number: start for number, (start, _) in before.items()} == {
        number: start for number, (start, _) in after.items()
    }
    start, size = after[layout.data_number]
    part = tmp_path / "part.img"
    with part.open("wb") as file, out.open("rb") as source:
        source.seek(start)
        file.write(source.read(size))
    examined = tool("mdadm", "--examine", part)
    assert "- correct" in examined
    found = re.search(r"Array Size : (\d+)", examined)
    assert found
    assert size - 2 * MIB < int(found[1]) * 1024 < size
    # nothing below the volume changed, and nothing is left that could grow
    old, new = open_disk(disk), open_disk(out)
    kept = needed(discover([old]))
    for number in (1, 2):
        at, length = before[number]
        for low, high in kept.clip(at, at + length):
            assert old.read(low, high - low) == new.read(low, high - low)
    assert "nothing to do" in onebay("grow", out, "--dry-run").stdout


def test_the_kernel_finds_every_file(
    smaller: dict[str, tuple[Path, Path]], samples: dict[str, Sample], cache: Path, tmp_path: Path
) -> None:
    script = "set -eu\n"
    disks = []
    for key, (_, out) in smaller.items():
        layout = samples[key].layout
        (tmp_path / f"{key}.sha256").write_text(samples[key].golden["volume1.sha256"])
        copy = tmp_path / f"{key}.img"
        tool("cp", "--sparse=always", out, copy)
        disks.append(Disk(copy, sector_size=samples[key].sector_size))
        script += ASSEMBLE.format(
            name=key,
            disk=f"vd{chr(ord('a') + len(disks))}",
            number=layout.data_number,
            group=layout.group,
            lv="lv" if layout.filesystem == "btrfs" else "volume_1",
            filesystem=layout.filesystem,
        )
    log = run_job(script, disks, cache=cache, share=tmp_path, timeout=300).log
    assert log.count("==") == len(CASES), log


def test_an_image_of_the_smallest_disk_remembers_the_size(samples: dict[str, Sample], tmp_path: Path) -> None:
    """It restores to exactly its size without onebay, and grows back to any size with it."""
    sample = samples["v9-gpt-lvm-ext4"]
    image, disk, back = tmp_path / "a.raw.zst", tmp_path / "a.img", tmp_path / "back.img"
    with untouched(sample.data):
        plain("capture", sample.data, image, "--minimize")
    with_source = open_source(str(image))
    opened = Image.open(with_source)
    assert opened.facts.other["original_size"] == sample.data.stat().st_size
    floor = opened.disk_size
    with_source.close()
    assert floor == onebay("shrink", sample.data, "--dry-run", "--json").document["new_size"]
    plain("restore", image, disk, "--verify")
    assert disk.stat().st_size == floor
    packed = subprocess.run(["zstd", "-dc", image], capture_output=True, check=True).stdout
    assert len(packed) == floor
    plain("restore", image, back, "--size", str(sample.data.stat().st_size))
    for each in (disk, back):
        assert "No problems found" in tool("sgdisk", "-v", each)
    assert partitions(back)[3][1] >= partitions(sample.data)[3][1] - 4 * MIB
    fails(3, "restore", image, tmp_path / "no", "--size", str(floor - MIB), match="cannot be so small")
    assert not (tmp_path / "no").exists()


def test_restore_to_a_smaller_disk(samples: dict[str, Sample], tmp_path: Path) -> None:
    sample = samples["v9-gpt-lvm-ext4"]
    image, disk, scratch = tmp_path / "a.raw.zst", tmp_path / "disk.img", tmp_path / "scratch"
    scratch.mkdir()
    plain("capture", sample.data, image)
    size = 150 * MIB
    with disk.open("wb") as file:
        file.write(os.urandom(MIB) * (size // MIB))
    fails(3, "restore", image, disk, match="exists already")
    document = onebay("restore", image, disk, "--dry-run", "--json").document
    assert (document["new_size"], document["size"]) == (size, sample.data.stat().st_size)
    assert document["scratch"] > 0
    done = plain("restore", image, disk, "--yes", "--verify", "--scratch", scratch)
    assert f"scratch space in {scratch}" in done.stderr
    assert list(scratch.iterdir()) == []
    assert disk.stat().st_size == size
    assert "No problems found" in tool("sgdisk", "-v", disk)
    assert "nothing to do" in onebay("grow", disk, "--dry-run").stdout
    (fs,) = [
        layer for layer in discover([open_disk(disk)]).of_kind("ext") if "volume_1" in layer.below[0].name
    ]
    copy = tmp_path / "fs.img"
    copy.write_bytes(fs.below[0].read(0, fs.below[0].size))
    tool("e2fsck", "-fn", copy)
    told = tool("dumpe2fs", "-h", copy)
    count, block = (re.search(rf"^Block {what}: +(\d+)$", told, re.MULTILINE) for what in ("count", "size"))
    assert count
    assert block
    assert int(count[1]) * int(block[1]) == fs.below[0].size


def test_a_url_is_shrunk_on_the_way(samples: dict[str, Sample], tmp_path: Path) -> None:
    """Each byte of the image is read a few times at most; without ranges it is refused like a pipe."""
    image, out = tmp_path / "a.raw.zst", tmp_path / "out.img"
    onebay("capture", samples["v9-gpt-lvm-ext4"].data, image)
    with Server(Object(image.read_bytes())) as server:
        plain("restore", server.url, out, "--size", "150M", "--verify")
        asked = [re.findall(r"\d+", text) for _, text in server.object.requests if text]
        assert sum(int(end) - int(start) + 1 for start, end in asked) < 12 * image.stat().st_size
    assert "No problems found" in tool("sgdisk", "-v", out)
    with Server(Object(image.read_bytes(), ranges=False)) as server:
        fails(
            3, "restore", server.url, tmp_path / "no", "--size", "150M", match="cannot be shrunk on the way"
        )


def test_a_pipe_cannot_be_shrunk_on_the_way(samples: dict[str, Sample], tmp_path: Path) -> None:
    image, out = tmp_path / "a.raw.zst", tmp_path / "out.img"
    onebay("capture", samples["v9-gpt-lvm-ext4"].data, image)
    fails(3, "restore", "-", out, "--size", "150M", stdin=image, match="cannot be shrunk on the way")
    assert not out.exists()


def test_a_plain_disk_and_its_boot_kit(tmp_path: Path) -> None:
    """A copy of the kit in the tail moves to the new tail, byte for byte."""
    disk = make_disk(tmp_path / "a", size=96 * MIB, label="gpt")
    kit = tmp_path / "kit"
    onebay("kit", disk, kit)
    os.truncate(disk, 400 * MIB)
    tool("sgdisk", "-e", disk)
    patch(disk, 200 * MIB, kit.read_bytes())
    patch(disk, 96 * MIB - 33 * 512, bytes(33 * 512))  # the old backup GPT, which sgdisk left
    assert not onebay("shrink", disk, "--dry-run", "--json").document["notes"]
    patch(disk, 180 * MIB, b"who knows whose")
    (note,) = onebay("shrink", disk, "--dry-run", "--json").document["notes"]
    assert note == "15 bytes behind the last partition, which nothing speaks of, are left out"
    out = tmp_path / "out.img"
    onebay("shrink", disk, "--output", out)
    assert "No problems found" in tool("sgdisk", "-v", out)
    volume = open_disk(out)
    (copy,) = find_copies(volume, data_table(discover([volume])))
    assert copy.kit is not None
    assert copy.kit.raw == kit.read_bytes()
    start, size = partitions(out)[1]
    assert size < 40 * MIB
    part = tmp_path / "part.img"
    part.write_bytes(volume.read(start, size))
    tool("e2fsck", "-fn", part)
    files = tmp_path / "new", tmp_path / "old"
    for source, file in zip((part, f"{disk}?offset={MIB}"), files, strict=True):
        tool("debugfs", "-R", f"dump /random {file}", source)
    assert files[0].read_bytes() == files[1].read_bytes() != b""


def test_a_superblock_at_the_end_moves_along(tmp_path: Path) -> None:
    """md 1.0 is found by the end of its partition."""
    golden = Path(__file__).parents[1] / "format" / "md" / "v10.img.zst"
    member = subprocess.run(["zstd", "-dc", golden], check=True, capture_output=True).stdout
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(-(-len(member) // MIB) * MIB + 2 * MIB)
    tool("sgdisk", "-n", f"1:2048:{2047 + len(member) // 512}", "-t", "1:fd00", disk)
    patch(disk, MIB, member)
    route = find_route(open_disk(disk))
    (link,) = route.links
    fit = link.layer.fit(link.below, link.below.size - 2 * MIB)
    assert fit is not None
    assert fit[1] <= fit[0].size - 2 * MIB + (64 << 10)
    shorter = tmp_path / "shorter.img"
    shorter.write_bytes(member[: len(member) - 2 * MIB])
    target = FileVolume(shorter, writable=True)
    for step in link.layer.plan_shrink([target]):
        if hasattr(step, "data"):
            target.write(step.at, step.data)
    examined = tool("mdadm", "--examine", shorter)
    assert "- correct" in examined
    found = re.search(r"Array Size : (\d+)", examined)
    assert found
    assert int(found[1]) * 1024 == fit[1]
