"""Real jobs on image files, from the form to the disk."""

from __future__ import annotations

import http.server
import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from onebay.web import status
from onebay.web.choice import choose, hide
from onebay.web.jobs import Command
from tests.web.webclient import MIB, Browser, desk, file_system, make_disk

CONTENT = b"the only copy\n" * 10000


def onebay(*argv: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "onebay", *map(str, argv)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of a disk of 64 MiB whose file system has 32."""
    folder = tmp_path_factory.mktemp("image")
    path = folder / "nas.raw.zst"
    onebay("capture", make_disk(folder / "disk.img", 64 * MIB), path)
    return path


def test_grow(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "nas.img", 96 * MIB)
    it = desk(tmp_path, disk)
    form = {"verb": "grow", "disk": it.key("nas.img")}
    path, page = it.plan(form)
    assert "new block groups" in page
    before = disk.read_bytes()
    answer = it.browser.post(path, {"word": "nas"})
    assert answer.status == 403
    assert "Nothing was written" in answer.text
    assert disk.read_bytes() == before
    page = it.wait(it.browser.follow(it.browser.post(path, {"word": "nas.img"})))
    assert "done" in page
    assert "onebay grow" in page
    size, content = file_system(disk)
    assert size > 90 * MIB
    assert content == CONTENT
    assert it.browser.post(path, {"word": "nas.img"}).status == 404  # a plan is used once


def test_restore_from_a_url(tmp_path: Path, image: Path) -> None:
    target = tmp_path / "new.img"
    target.touch()
    with target.open("r+b") as file:
        file.truncate(128 * MIB)
    it = desk(tmp_path, target)
    with serving(image.parent) as port:
        url = f"http://me:secret@127.0.0.1:{port}/{image.name}?signature=abc"
        form = {"verb": "restore", "disk": it.key("new.img"), "from": "url", "url": url}
        page = it.run(form, "new.img")
    assert "restored" in page
    assert "secret" not in page
    assert "signature" not in page
    assert f"http://***@127.0.0.1:{port}/{image.name}?..." in page
    size, content = file_system(target)
    assert size > 120 * MIB
    assert content == CONTENT


class serving:  # noqa: N801 - reads as a function
    """Serve a folder over HTTP inside a with block; gives the port."""

    def __init__(self, folder: Path) -> None:
        def handler(*argv: object) -> http.server.SimpleHTTPRequestHandler:
            return Quiet(*argv, directory=str(folder))  # type: ignore[arg-type]

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> int:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self.server.server_port

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *argv: object) -> None:
        pass


def empty(path: Path, size: int) -> Path:
    with path.open("xb") as file:
        file.truncate(size)
    return path


def pieces(path: Path, size: int = 1 << 16) -> list[bytes]:
    data = path.read_bytes()
    return [data[at : at + size] for at in range(0, len(data), size)]


def test_restore_from_the_browser(tmp_path: Path, image: Path) -> None:
    target = empty(tmp_path / "new.img", 64 * MIB)
    it = desk(tmp_path, target)
    key = it.key("new.img")
    answer = it.browser.post(f"/disk/{key}/upload", body=pieces(image))
    found = json.loads(answer.body)
    assert not found["short"]
    page = it.wait(found["page"])
    assert "that matter" in page
    assert not any(target.read_bytes())
    job = it.browser.follow(it.browser.post(found["page"], {"word": "new.img"}))
    assert "data-upload" in it.browser.get(job).text
    assert it.browser.post(f"{job}/upload", body=pieces(image)).status == 204
    assert "restored" in it.wait(job)
    assert file_system(target)[1] == CONTENT
    assert it.browser.post(f"{job}/upload", body=pieces(image)).status == 409


def test_an_upload_that_is_cut_cannot_boot_and_may_begin_anew(tmp_path: Path, image: Path) -> None:
    target = empty(tmp_path / "new.img", 64 * MIB)
    it = desk(tmp_path, target)
    key = it.key("new.img")
    for body, leave in ((pieces(image)[: len(pieces(image)) // 2], True), (pieces(image), False)):
        found = json.loads(it.browser.post(f"/disk/{key}/upload", body=pieces(image)).body)
        job = it.browser.follow(it.browser.post(found["page"], {"word": "new.img"}))
        it.browser.post(f"{job}/upload", body=body, leave=leave)
        page = it.wait(job)
        if leave:
            assert "the browser left" in page
            assert target.read_bytes()[:7] == b"onebay:"  # the marker in place of the boot sector
    assert "restored" in page
    assert file_system(target)[1] == CONTENT


def test_too_little_of_an_image_asks_for_more(tmp_path: Path, image: Path) -> None:
    it = desk(tmp_path, empty(tmp_path / "new.img", 64 * MIB))
    answer = it.browser.post(f"/disk/{it.key('new.img')}/upload", body=[image.read_bytes()[:3000]])
    assert json.loads(answer.body)["short"]


def test_cancel_and_again(tmp_path: Path) -> None:
    """A restore from a server that says nothing is cancelled; the same again makes a new plan."""
    target = empty(tmp_path / "new.img", 64 * MIB)
    it = desk(tmp_path, target)
    with Silent() as port:
        form = {
            "verb": "restore",
            "disk": it.key("new.img"),
            "from": "url",
            "url": f"http://127.0.0.1:{port}/x",
        }
        path = it.browser.follow(it.browser.post("/plan", form))
        other = it.browser.post("/plan", {"verb": "grow", "disk": it.key("new.img")})
        assert other.status == 409
        assert "wait for the other job" in other.text
        job = it.site.jobs.running()[0]
        assert it.browser.post(f"/job/{job.key}/cancel").status == 303
        page = it.wait(path)
    assert job.state == "cancelled"
    assert "nothing was written" in page
    assert "Do it" not in page


class Silent:
    """A server that takes connections and says nothing."""

    def __enter__(self) -> int:
        self.socket = socket.create_server(("127.0.0.1", 0))
        return int(self.socket.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def test_one_job_at_all_in_a_rescue(tmp_path: Path) -> None:
    first, second = (empty(tmp_path / name, 64 * MIB) for name in ("a.img", "b.img"))
    for rescue, code in ((True, 409), (False, 303)):
        it = desk(tmp_path, first, second, rescue=rescue)
        with Silent() as port:
            form = {
                "verb": "restore",
                "disk": it.key("a.img"),
                "from": "url",
                "url": f"http://127.0.0.1:{port}/",
            }
            assert it.browser.post("/plan", form).status == 303
            assert it.browser.post("/plan", {"verb": "grow", "disk": it.key("b.img")}).status == code
            assert it.site.jobs.close(60) == []


def test_repair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The boot code of a folded disk is gone; one repair later it is what it was."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "op"))
    folded = importlib.import_module("repairkit").build(tmp_path / "folded", "v8-mbr")
    with folded.path.open("rb") as file:
        whole = file.read(MIB)  # the disk is sparse, and large
    with folded.path.open("r+b") as file:
        file.write(bytes(440))
    it = desk(tmp_path, folded.path)
    page = it.run({"verb": "repair", "disk": it.key(folded.path.name)}, folded.path.name)
    assert "boot code" in page
    with folded.path.open("rb") as file:
        assert file.read(MIB) == whole
    assert "nothing is wrong" in it.run(
        {"verb": "repair", "disk": it.key(folded.path.name)}, folded.path.name
    )


def test_a_disk_page_tells_layers_and_findings(tmp_path: Path) -> None:
    it = desk(tmp_path, make_disk(tmp_path / "nas.img", 64 * MIB))
    page = it.browser.get(f"/disk/{it.key('nas.img')}").text
    assert "ext4" in page
    assert "free" in page
    picture = it.browser.get(f"/disk/{it.key('nas.img')}.svg")
    assert picture.header("content-type") == "image/svg+xml"
    assert picture.body.startswith(b"<svg")
    chinese = it.browser.get(f"/disk/{it.key('nas.img')}?lang=zh")
    assert "操作" in chinese.text
    assert 'lang="zh-Hans"' in chinese.text
    assert "磁盘" in it.browser.get("/").text  # the cookie keeps it


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    disk = empty(tmp_path / "<img src=x onerror=alert(1)>.img", 64 * MIB)
    it = desk(tmp_path, disk)
    for path in ("/", f"/disk/{it.key(disk.name)}"):
        assert b"<img src=x" not in it.browser.get(path).body


def test_an_event_stream_ends_with_the_job(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "nas.img", 64 * MIB)
    it = desk(tmp_path, disk)
    path, _ = it.plan({"verb": "grow", "disk": it.key("nas.img")})
    job = it.browser.follow(it.browser.post(path, {"word": "nas.img"}))
    answer = it.browser.get(f"{job}/events", headers={"accept": "text/event-stream"})
    assert answer.header("content-type").startswith("text/event-stream")
    last = answer.body.decode().strip().split("\n\n")[-1]
    assert '"over": true' in last
    assert '"state": "done"' in last


def test_a_browser_that_leaves_changes_nothing(tmp_path: Path, image: Path) -> None:
    target = empty(tmp_path / "new.img", 64 * MIB)
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(image, images)
    it = desk(tmp_path, target, images=images)
    (file,) = it.site.shelf.files()
    path, page = it.plan({"verb": "restore", "disk": it.key("new.img"), "from": f"file:{file.key}"})
    assert str(file.path) in page
    job = it.browser.follow(it.browser.post(path, {"word": "new.img"}))
    it.browser.post("/logout")
    again = Browser(it.browser.app)
    assert again.post("/login", {"code": it.codes[-1]}).status == 303
    it.browser = again
    assert "restored" in it.wait(job)


def test_download(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "nas.img", 64 * MIB)
    it = desk(tmp_path, disk)
    path, page = it.plan({"verb": "capture", "disk": it.key("nas.img"), "to": "download"})
    assert "Type nas.img" not in page  # nothing is written to the disk
    job = it.browser.follow(it.browser.post(path))
    assert it.browser.request("HEAD", f"{job}/download").status == 404
    answer = it.browser.get(f"{job}/download")
    assert answer.header("content-disposition") == 'attachment; filename="nas.img.raw.zst"'
    assert not answer.cut
    image = tmp_path / "got.raw.zst"
    image.write_bytes(answer.body)
    onebay("verify", image, "--against", disk)
    assert "done" in it.wait(job)
    assert it.browser.get(f"{job}/download").status == 409


def test_a_download_that_fails_is_cut(tmp_path: Path) -> None:
    """The disk goes away between plan and download: the browser must not take what it got for whole."""
    disk = make_disk(tmp_path / "nas.img", 64 * MIB)
    it = desk(tmp_path, disk)
    path, _ = it.plan({"verb": "capture", "disk": it.key("nas.img"), "to": "download"})
    job = it.browser.follow(it.browser.post(path))
    disk.unlink()
    answer = it.browser.get(f"{job}/download")
    assert answer.cut
    assert "no such file" in it.wait(job)


def test_capture_to_a_file_and_shrink(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "nas.img", 96 * MIB, used=64 * MIB)
    images = tmp_path / "images"
    images.mkdir()
    it = desk(tmp_path, disk, images=images)
    key = it.key("nas.img")
    assert "done" in it.run({"verb": "capture", "disk": key, "to": "file", "name": "nas"}, "")
    onebay("verify", images / "nas.raw.zst", "--against", disk)
    again = it.browser.post("/plan", {"verb": "capture", "disk": key, "to": "file", "name": "nas"})
    assert again.status == 409
    assert "done" in it.run({"verb": "shrink", "disk": key, "name": "small"}, "")
    assert (images / "small.img").stat().st_size < 96 * MIB
    assert file_system(images / "small.img")[1] == CONTENT


def test_another_image_than_the_one_meant(tmp_path: Path, image: Path) -> None:
    it = desk(tmp_path, empty(tmp_path / "new.img", 64 * MIB), images=image.parent)
    (file,) = it.site.shelf.files()
    form = {"verb": "restore", "disk": it.key("new.img"), "from": f"file:{file.key}"}
    _, page = it.plan(form | {"digest": "sha256:" + "0" * 64})
    assert "Do it" not in page
    assert "This cannot be done; nothing was written" in page
    assert "expected sha256:0000" in page


@pytest.mark.parametrize("verb", ["grow", "restore", "fold", "boot"])
def test_a_disk_that_was_swapped_is_not_written(tmp_path: Path, image: Path, verb: str) -> None:
    """Between plan and confirmation another file comes under the name; it has no serial number."""
    disk, boot = make_disk(tmp_path / "nas.img", 96 * MIB), empty(tmp_path / "boot.img", MIB)
    it = desk(tmp_path, disk, boot, images=image.parent)
    key = it.key("nas.img")
    forms = {
        "grow": {"verb": "grow"},
        "restore": {"verb": "restore", "from": f"file:{it.site.shelf.files()[0].key}"},
    }
    if verb in forms:
        path, page = it.plan(forms[verb] | {"disk": key})
        assert "Do it" in page
        choice = it.site.pending[path.rpartition("/")[2]].choice
    else:  # a disk that can be folded takes long to make: only the command is looked at
        choice = choose(
            {"verb": "fold", "disk": key, "boot": it.key("boot.img")}, it.site.shelf, rescue=False
        )
    swapped = boot if verb == "boot" else disk
    other = tmp_path / "other.img"
    shutil.copy(swapped, other)
    other.replace(swapped)
    before = disk.read_bytes()
    job = it.site.jobs.add(choice.run())
    it.site.jobs.start(job)
    assert job.thread is not None
    job.thread.join(60)
    assert job.state == "failed"
    assert any("another disk, or one that changed" in line for line in job.log)
    assert job.log[-1].strip() == "nothing was written"
    assert disk.read_bytes() == before


def test_layers_are_those_of_the_disk_that_is_there(tmp_path: Path) -> None:
    disk = empty(tmp_path / "nas.img", 64 * MIB)
    it = desk(tmp_path, disk)
    page = f"/disk/{it.key('nas.img')}"
    assert "ext4" not in it.browser.get(page).text
    make_disk(tmp_path / "other.img", 64 * MIB).replace(disk)
    assert "ext4" in it.browser.get(page).text


def test_again_is_for_the_disk_as_it_is_then(tmp_path: Path) -> None:
    """What a job that failed wrote makes the disk no other one for the next plan."""
    disk = make_disk(tmp_path / "nas.img", 96 * MIB)
    it = desk(tmp_path, disk)
    path, _ = it.plan({"verb": "grow", "disk": it.key("nas.img")})
    with disk.open("r+b") as file:
        file.truncate(97 * MIB)
    job = it.browser.follow(it.browser.post(path, {"word": "nas.img"}))
    assert "another disk, or one that changed" in it.wait(job)
    path = it.browser.follow(it.browser.post(f"{job}/again"))
    assert "Do it" in it.wait(path)
    assert "done" in it.wait(it.browser.follow(it.browser.post(path, {"word": "nas.img"})))


def test_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    disk = tmp_path / os.fsdecode(b"n\xff.img")
    (images / os.fsdecode(b"i\xff.raw.zst")).write_bytes(b"x")
    make_disk(tmp_path / "nas.img", 96 * MIB).replace(disk)
    it = desk(tmp_path, disk, images=images)
    key = it.site.shelf.disks()[0].key
    assert "i?.raw.zst" in it.browser.get("/").text
    assert "n?.img" in it.browser.get(f"/disk/{key}").text
    path, page = it.plan({"verb": "grow", "disk": key})
    assert "Do it" in page, page
    word = re.search("Type (.*) to confirm", page)
    assert word is not None
    job = it.browser.follow(it.browser.post(path, {"word": word[1]}))
    assert "done" in it.wait(job)
    assert '"over": true' in it.browser.get(f"{job}/events").text


def test_a_password_with_a_quote_is_hidden() -> None:
    url = "https://me:pa'ss@host/x.raw.zst?sig=SECRET'1"
    shown = Command("restore", ("restore", url, "/dev/sda"), secret=hide(url)).shown()
    assert "ss@" not in shown
    assert "SECRET" not in shown
    assert "https://***@host/x.raw.zst?..." in shown


@pytest.mark.parametrize("source", ["url", "upload", "file"])
def test_the_image_that_was_planned_is_the_one_that_is_written(
    tmp_path: Path, image: Path, source: str
) -> None:
    """Behind the same address there is another image after the plan; by its browser it may be, too."""
    target = empty(tmp_path / "new.img", 64 * MIB)
    folder = tmp_path / "served"
    folder.mkdir()
    it = desk(tmp_path, target, images=folder)
    shutil.copy(image, folder / "x.raw.zst")
    other = tmp_path / "other.raw.zst"
    onebay("capture", make_disk(tmp_path / "disk.img", 64 * MIB, used=16 * MIB), other)
    with serving(folder) as port:
        if source != "upload":
            chosen = "url" if source == "url" else f"file:{it.site.shelf.files()[0].key}"
            form = {"verb": "restore", "disk": it.key("new.img"), "from": chosen}
            path, page = it.plan(form | {"url": f"http://127.0.0.1:{port}/x.raw.zst"})
        else:
            found = it.browser.post(f"/disk/{it.key('new.img')}/upload", body=pieces(image))
            path = json.loads(found.body)["page"]
            page = it.wait(path)
        assert "Do it" in page
        shutil.copy(other, folder / "x.raw.zst")
        job = it.browser.follow(it.browser.post(path, {"word": "new.img"}))
        if source == "upload":
            it.browser.post(f"{job}/upload", body=pieces(other))
        page = it.wait(job)
    assert "failed" in page
    assert "nothing was written" in page
    assert "is not the image that was" in page
    assert not any(target.read_bytes())


def test_a_rehearsal_names_the_image_for_programs(tmp_path: Path, image: Path) -> None:
    """The same digest as verify prints; of a pipe it is not known at its start."""
    ask = [sys.executable, "-m", "onebay", "restore", "--dry-run", "--json"]
    told = json.loads(subprocess.run([*ask, image, tmp_path / "x"], check=True, capture_output=True).stdout)
    said = subprocess.run([*ask[:3], "verify", image], check=True, capture_output=True, text=True)
    assert told["digest"].removeprefix("sha256:") in said.stdout
    small = empty(tmp_path / "small", 40 * MIB)
    text = subprocess.run([*ask[:-1], image, small], check=True, capture_output=True, text=True).stdout
    assert text.splitlines()[0] == f"note: the image's digest {told['digest']}"
    assert "floor:" in text
    with image.open("rb") as file:
        piped = subprocess.run([*ask, "-", tmp_path / "x"], stdin=file, check=True, capture_output=True)
    assert re.fullmatch("sha256:[0-9a-f]{64}", json.loads(piped.stdout)["manifest"])


def test_plans_end_with_what_they_were_made_for(tmp_path: Path) -> None:
    """Of two plans for a disk the second is void after the first; one for another disk is not."""
    disk, other = make_disk(tmp_path / "nas.img", 96 * MIB), make_disk(tmp_path / "b.img", 96 * MIB)
    it = desk(tmp_path, disk, other)
    first, second = (it.plan({"verb": "grow", "disk": it.key("nas.img")})[0] for _ in range(2))
    third, _ = it.plan({"verb": "grow", "disk": it.key("b.img")})
    it.wait(it.browser.follow(it.browser.post(first, {"word": "nas.img"})))
    assert it.browser.post(second, {"word": "nas.img"}).status == 404
    assert it.browser.get(third).status == 200


def test_a_job_of_the_settings_voids_looks_and_plans(tmp_path: Path) -> None:
    it = desk(tmp_path, make_disk(tmp_path / "nas.img", 96 * MIB), rescue=True)
    it.site.folder = tmp_path / "status"
    path, _ = it.plan({"verb": "grow", "disk": it.key("nas.img")})
    it.browser.get(f"/disk/{it.key('nas.img')}")
    for state, share in (("running", 0.1), ("running", 0.2), ("done", 1.0)):
        status.write(it.site.folder, "job", {"title": "restore", "state": state, "share": share})
        voided = share != 0.2
        assert (it.browser.get(path).status == 404) == voided
        assert (not it.site.shelf.looks) == voided
        path, _ = it.plan({"verb": "grow", "disk": it.key("nas.img")})
        it.browser.get(f"/disk/{it.key('nas.img')}")
