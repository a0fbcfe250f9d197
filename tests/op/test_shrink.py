"""shrink, capture --minimize and restore to a smaller disk, judged by the formats' own tools.

The miniatures of the sample appliance shrink to their floor without any privilege; the real kernel and lvm2,
in the worker, then assemble and mount what came out, and find every file.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from badkit import MIB, fails, make_disk, onebay, patch, root, tool, untouched

from onebay.base.error import Refused
from onebay.block import FileVolume, locate, open_disk
from onebay.image import Image
from onebay.machine.worker import Disk, run_job
from onebay.ops.foldlayout import data_table
from onebay.ops.kit import find_copies
from onebay.ops.need import needed
from onebay.ops.shrink import cut_to, find_route
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


def larger(sample: Sample, folder: Path) -> Path:
    """The miniature on a disk of 1 GiB: kernels do not shrink a btrfs to less than 256 MiB."""
    image, disk = folder / "mini.raw.zst", folder / "larger.img"
    plain("capture", sample.data, image)
    plain("restore", image, disk, "--size", "1G")
    return disk


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


def partitions(disk: Path) -> dict[int, tuple[int, int]]:
    table = data_table(discover([open_disk(disk)]))
    return {part.number: (part.start, part.size) for part in table.partitions}


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


def test_a_btrfs_gets_no_smaller_than_kernels_take(samples: dict[str, Sample], tmp_path: Path) -> None:
    sample = samples["v8-mbr-btrfs"]
    out = tmp_path / "out.img"
    done = onebay("shrink", sample.data, "--output", out)
    assert "no smaller, because btrfs" in done.stderr
    size = sample.data.stat().st_size
    assert size - 5 * MIB < out.stat().st_size < size  # only the tail went
    fails(3, "shrink", sample.data, "--output", tmp_path / "no", "--to", "150M", match="cannot be so small")


def test_an_image_of_the_smallest_disk_remembers_the_size(samples: dict[str, Sample], tmp_path: Path) -> None:
    """It restores to exactly its floor without onebay, and grows back to any size with it."""
    sample = samples["v9-gpt-lvm-ext4"]
    image, disk, back = tmp_path / "a.raw.zst", tmp_path / "a.img", tmp_path / "back.img"
    with untouched(sample.data):
        plain("capture", sample.data, image, "--minimize")
    with_source = open_source(str(image))
    opened = Image.open(with_source)
    assert opened.facts.other["original_size"] == sample.data.stat().st_size
    floor = opened.disk_size
    with_source.close()
    assert floor == onebay("shrink", sample.data, "--dry-run", "--json").document["floor"]
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


def test_below_the_floor_the_layer_is_named(samples: dict[str, Sample], tmp_path: Path) -> None:
    data, out = samples["shr-mbr-lvm-btrfs"].data, tmp_path / "out.img"
    done = fails(3, "shrink", data, "--output", out, "--to", "180M", match="cannot be so small")
    assert "btrfs on vg1000/lv needs" in done.stderr
    fails(3, "shrink", data, "--output", out, "--to", "4G", match="larger than the disk")
    fails(2, "shrink", data, match="in place")
    assert not out.exists()


def test_another_volume_at_the_end_stays(samples: dict[str, Sample]) -> None:
    """The appliance's reserved area lies before the volume: nothing may reach into it."""
    route = find_route(open_disk(samples["v9-gpt-lvm-ext4"].data))
    array = route.links[1].below
    sizes = [route.links[1].layer.fit(array, size) for size in range(array.size, 17 * MIB, -MIB)]
    assert all(one is not None and one[1] >= 4 * MIB for one in sizes)
    with pytest.raises(
        Refused, match=r"syno_vg_reserved_area reaches to|nothing would be left of vg1/volume_1"
    ):
        route.links[1].layer.fit(array, 12 * MIB)
    with pytest.raises(Refused, match="p3"):
        cut_to(route, 84 * MIB, 0)


def test_errors_in_the_file_system(tmp_path: Path) -> None:
    """Nothing is shrunk that e2fsck complains of; the disk can be captured whole all the same."""
    disk = make_disk(tmp_path / "a", size=96 * MIB)
    at = f"{disk}?offset={MIB}"
    tool("debugfs", "-w", "-R", "clri <12>", at)
    out = tmp_path / "out.img"
    with untouched(disk):
        done = fails(3, "shrink", disk, "--output", out, match="the file system has errors")
        assert "capture the disk whole" in done.stderr
        onebay("capture", disk, tmp_path / "whole.raw.zst")
        fails(3, "capture", disk, tmp_path / "no.raw.zst", "--minimize", match="has errors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "whole.raw.zst"]
    tool("debugfs", "-w", "-R", "set_super_value state 0", at)
    fails(
        3, "shrink", disk, "--output", out, match="ext4 cannot be shrunk: the file system was not unmounted"
    )


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


def test_what_lies_behind_a_file_system_is_not_dropped_in_silence(tmp_path: Path) -> None:
    """DRBD keeps its metadata there; a capture keeps the last 128 KiB of a partition."""
    disk, image = make_disk(tmp_path / "a", size=200 * MIB, label="gpt"), tmp_path / "disk.raw.zst"
    tool("resize2fs", carve(disk, tmp_path / "fs"), "150m")
    patch(disk, MIB, (tmp_path / "fs").read_bytes())
    end = MIB + partitions(disk)[1][1]
    patch(disk, end - 200 * 1024, b"not kept by a capture")
    assert not onebay("shrink", disk, "--dry-run", "--json").document["notes"]
    patch(disk, end - 4096, b"\x83\x74\x02\x6b drbd")
    says = r"9 bytes in the last 128 KiB of .*p1, behind its ext4, which nothing speaks of, are left out"
    (note,) = onebay("shrink", disk, "--dry-run", "--json").document["notes"]
    assert re.fullmatch(says, note)
    assert not onebay("shrink", disk, "--dry-run", "--to", "200M", "--json").document["notes"]
    onebay("capture", disk, image)
    with untouched(disk, image):
        for argv in (
            ("shrink", disk, "--output", tmp_path / "out.img"),
            ("capture", "--minimize", disk, tmp_path / "small.raw.zst"),
            ("restore", image, tmp_path / "target.img", "--size", "100M"),
        ):
            lines = onebay(*argv).stderr.splitlines()
            said = [number for number, line in enumerate(lines) if re.search(says, line)]
            began = [number for number, line in enumerate(lines) if line.startswith("copy file system")]
            assert said, argv
            assert said[0] < began[0], argv


def test_what_lies_behind_a_volume_group_is_not_dropped_in_silence(
    samples: dict[str, Sample], tmp_path: Path
) -> None:
    """Ends of partition, array and logical volume; only behind the group's last extent is nobody's space."""
    sample = samples["v9-gpt-lvm-ext4"]
    assert not onebay("shrink", sample.data, "--dry-run", "--json").document["notes"]
    disk = tmp_path / "disk.img"
    shutil.copyfile(sample.data, disk)
    for volume in find_route(open_disk(disk)).volumes:
        (piece,) = locate(volume, volume.size - 512, volume.size)
        patch(disk, piece.at, b"somebody's")
    (note,) = onebay("shrink", disk, "--dry-run", "--json").document["notes"]
    assert re.match(r"10 bytes in the last 128 KiB of .*, behind its lvm vg vg1, ", note)


def carve(disk: Path, fs: Path) -> Path:
    """Copy the first partition out of a disk."""
    start, size = partitions(disk)[1]
    fs.write_bytes(open_disk(disk).read(start, size))
    return fs


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


@root
def test_a_full_btrfs_with_a_snapshot_stops_and_says_so(tmp_path: Path) -> None:
    """What its kernel cannot do is told with how far it came; no output is left."""
    raw, content = tmp_path / "raw.img", tmp_path / "content"
    content.mkdir()
    for number in range(30):
        (content / f"f{number}").write_bytes(os.urandom(9 * MIB))
    with raw.open("wb") as file:
        file.truncate(1024 * MIB)
    tool("mkfs.btrfs", "-q", "-r", content, raw)
    mount = tmp_path / "mount"
    mount.mkdir()
    tool("mount", "-o", "loop", raw, mount)
    try:
        tool("btrfs", "subvolume", "snapshot", "-r", mount, mount / "snapshot")
        for number in range(0, 30, 3):
            (mount / f"f{number}").write_bytes(os.urandom(9 * MIB))
    finally:
        tool("umount", mount)
    shutil.rmtree(content)
    out = tmp_path / "out.img"
    document = onebay("shrink", raw, "--dry-run", "--json").document
    assert not document["floor_exact"]
    with untouched(raw):
        done = fails(
            3, "shrink", raw, "--output", out, "--to", str(document["floor"]), match="cannot be so small"
        )
        reached = re.search(r"expected >= (\d+) bytes", done.stderr)
        assert reached
        assert not [path for path in tmp_path.iterdir() if path.name.startswith((".", "out"))]
    assert document["floor"] < int(reached[1]) < raw.stat().st_size


@root
def test_no_room_for_the_scratch_file(samples: dict[str, Sample], tmp_path: Path) -> None:
    small, out = tmp_path / "small", tmp_path / "out.img"
    small.mkdir()
    tool("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small)
    try:
        data = samples["v9-gpt-lvm-ext4"].data
        done = fails(3, "shrink", data, "--output", out, "--scratch", small, match="needs scratch space")
        assert "--scratch DIR" in done.stderr
        assert list(small.iterdir()) == []
    finally:
        tool("umount", small)
    assert not out.exists()


def test_an_interruption_leaves_nothing(samples: dict[str, Sample], tmp_path: Path) -> None:
    disk, out = larger(samples["v9-gpt-lvm-ext4"], tmp_path), tmp_path / "out" / "small.img"
    out.parent.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "onebay", "shrink", disk, "--output", out],
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while not list(out.parent.iterdir()) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "nothing was written" in told.splitlines()[-1]
    assert list(out.parent.iterdir()) == []
