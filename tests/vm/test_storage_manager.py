"""The appliance's own storage manager overwrites the boot path; `onebay repair` brings it back.

`nas-storage` is the sample appliance's and changes the disk with the field's tools (src/onebay/sample). The
quick part runs it in a worker, and asks onebay and sfdisk; with --matrix it is the running NAS, on its page,
and every verdict is a boot.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from onebay.machine.boot import Firmware
from onebay.machine.worker import Disk, run_job
from onebay.sample import build
from tests.story import GROWTH, inspect, onebay
from tests.vm.nas import PATIENCE, Nas

pytestmark = pytest.mark.vm

FIRMWARES: tuple[Firmware, ...] = ("bios", "uefi")
# layout, the volume made in place of its own, and the one made on the larger disk
STORIES = [("v8-mbr-btrfs", "lvm-ext4", "basic-btrfs"), ("v9-gpt-lvm-ext4", "lvm-btrfs", "lvm-ext4")]
VOLUME = re.compile(r"^/volume1 +\S+ +(\w+) +(\d+) ", re.M)
DEAD_SECONDS = 90  # a firmware has found GRUB by then, if there is one

JOB = """
set -eu
export PATH=$PATH:/mnt/share
modprobe -a raid1 ext4 btrfs
for number in 0 1 2; do mdadm --assemble --run --quiet /dev/md$number /dev/vdb$((number + 1)); done
mkdir /volume1 /media/system
mount -o ro /dev/md0 /media/system
swapon /dev/md1
mount /dev/md2 /volume1
nas-storage delete
nas-storage create basic-ext4
umount /volume1
e2fsck -fn /dev/md2
mdadm --stop --quiet /dev/md2
"""


def table(disk: Path) -> dict[int, tuple[int, int]]:
    """First sector and sectors of each partition, by sfdisk."""
    dump = subprocess.run(["sfdisk", "--dump", disk], check=True, capture_output=True, text=True).stdout
    entries = re.findall(r"^\S+?(\d+) : start= *(\d+), size= *(\d+)", dump, re.M)
    return {int(number): (int(start), int(size)) for number, start, size in entries}


def heal(disk: Path) -> None:
    """Have `onebay repair` look, heal, and find nothing the second time; the field's tools agree."""
    before = disk.stat().st_mtime_ns
    planned = onebay("repair", disk, "--dry-run").stdout
    assert "healed: the table has no entry for p4" in planned
    assert disk.stat().st_mtime_ns == before
    assert onebay("repair", disk).stdout == planned
    after = disk.stat().st_mtime_ns
    assert after != before
    again = onebay("repair", disk).stdout
    assert again.splitlines()[-1].endswith("nothing was written"), again
    assert disk.stat().st_mtime_ns == after
    assert {path["firmware"]: path["works"] for path in inspect(disk)["boot"]} == {"bios": True, "uefi": True}
    checked = subprocess.run(["sfdisk", "--verify", disk], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_manager_in_a_worker(cache: Path, tmp_path: Path) -> None:
    """What the manager does to a disk whose p1 and p2 are in use, and that repair heals it."""
    sample = build.build("v8-mbr-btrfs", cache=cache)
    disk, share = tmp_path / "disk.img", tmp_path / "share"
    onebay("fold", "--boot", sample.boot, "--data", sample.data, "--output", disk)
    folded = table(disk)
    share.mkdir()
    command = share / "nas-storage"
    command.write_text(build.script("nas-storage.sh"))
    command.chmod(0o755)
    run_job(JOB, [Disk(disk)], cache=cache, share=share, timeout=PATIENCE)
    assert set(folded) == {1, 2, 3, 4}
    assert table(disk) == {number: folded[number] for number in (1, 2, 3)}
    with disk.open("rb") as file:
        assert file.read(440) == bytes(440)
    assert not any(path["works"] for path in inspect(disk)["boot"])
    heal(disk)
    assert table(disk) == folded


def new_volume(disk: Path, verdict: str, kind: str, folder: Path) -> tuple[str, int]:
    """Delete and create the volume on the page of the NAS on `disk`.

    Returns what the NAS has to say of the new one at its next boot, and its size in bytes.
    """
    layout = verdict.partition("layout=")[2].split()[0]
    with Nas(disk, folder / f"{kind}.log") as nas:
        nas.wait_for(verdict)
        status, page = nas.post()
        assert status == 200
        assert VOLUME.search(page), page
        status, page = nas.post(do="create", kind=kind)
        assert status == 409, page
        assert "there is a volume already" in page
        status, page = nas.post(do="delete")
        assert status == 200, page
        assert "no volume" in page
        status, page = nas.post(do="create", kind=kind)
        assert status == 200, page
        found, files = VOLUME.search(page), re.search(r"^files=(\d+)$", page, re.M)
        assert found, page
        assert files, page
        assert kind.endswith(found[1])
        nas.power_off()
    size = int(found[2])
    return f"ONEBAY-MANIFEST OK files={files[1]} layout={layout} volume={size}", size


def does_not_boot(disk: Path, folder: Path) -> None:
    """`onebay boot` fails before any system begins, under both firmwares."""
    for firmware in FIRMWARES:
        log = folder / f"{firmware}-dead.log"
        options = [
            "--firmware",
            firmware,
            "--expect",
            "nas: root is",
            "--timeout",
            DEAD_SECONDS,
            "--log",
            log,
        ]
        done = onebay("boot", disk, *map(str, options), status=8)
        assert "nothing was written" in done.stderr
        said = log.read_text("utf-8", "replace")
        assert "GRUB" not in said
        assert "Loading the system" not in said


def boots(disk: Path, expect: str, folder: Path) -> None:
    """`onebay boot` reaches the system under both firmwares, and it has checked the new volume."""
    for firmware in FIRMWARES:
        log = folder / f"{firmware}.log"
        options = ["--firmware", firmware, "--expect", expect, "--timeout", PATIENCE, "--log", log]
        assert expect in onebay("boot", disk, *map(str, options)).stdout


@pytest.mark.parametrize(("name", "kind", "larger"), STORIES)
def test_volume_deleted_and_made_anew(
    name: str, kind: str, larger: str, cache: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--matrix"):
        pytest.skip("only with --matrix (make vm)")
    sample = build.build(name, cache=cache)
    disk, image, big = tmp_path / "disk.img", tmp_path / "nas.raw.zst", tmp_path / "big.img"
    onebay("fold", "--boot", sample.boot, "--data", sample.data, "--output", disk)

    verdict, size = new_volume(disk, sample.verdict, kind, tmp_path)
    does_not_boot(disk, tmp_path)
    heal(disk)
    boots(disk, verdict, tmp_path)

    onebay("capture", disk, image)
    disk_size = disk.stat().st_size
    disk.unlink()
    onebay("restore", image, big, "--size", str(disk_size + GROWTH), "--no-grow")
    data_size = table(big)[3][1]
    verdict, filled = new_volume(big, verdict, larger, tmp_path)
    assert table(big)[3][1] * 512 == data_size * 512 + GROWTH
    assert filled > size + GROWTH * 3 // 4  # what is left of it is by the kind of file system
    does_not_boot(big, tmp_path)
    heal(big)
    boots(big, verdict, tmp_path)
