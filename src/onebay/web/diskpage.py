"""The page of one disk: what is on it, and what can be done with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onebay.base.units import human
from onebay.web.html import Child, Html, join, tag
from onebay.web.media import mountable
from onebay.web.pages import disk_facts, picture, section
from onebay.web.view import View, check, hidden, post, select, text_field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onebay.web.disks import Disk, Look, Shelf

Node = dict[str, Any]
DEEPEST = 40  # layers on layers that are shown


def disk_page(view: View, disk: Disk, look: Look | None, shelf: Shelf, disks: Sequence[Disk]) -> str:
    """Return the page of a disk; `look` is None while a job uses it."""
    body: list[Child] = [disk_facts(view, disk)]
    document = look.document if look else None
    trouble = disk.trouble or (look.trouble if look else "")
    if trouble:
        body.append(tag("p", view("trouble", why=trouble), role="alert", class_="bad"))
    elif look is None:
        body.append(tag("p", view("busy-look"), role="status"))
    if document is not None:
        body += [picture(view, disk), *told(view, document)]
    if not disk.trouble:
        body.append(actions(view, disk, shelf, disks))
        if view.rescue and document is not None:
            body.append(media(view, disk, document))
    return view.page(disk.path.name, *body)


def told(view: View, document: Node) -> list[Child]:
    """Return layers, boot paths and findings."""
    name = document["disk"]["name"]
    layers = tag("ul", node(view, document["tree"], name, 0), class_="tree")
    paths = [
        tag(
            "li",
            f"{path['firmware'].upper()}: ",
            tag(
                "strong",
                view("boots" if path["works"] else "boots-not"),
                class_="good" if path["works"] else None,
            ),
            f" - {path['what']}" + (f" ({path['why']})" if path["why"] else ""),
        )
        for path in document["boot"]
    ]
    findings = [
        tag(
            "li",
            tag("strong", view(f"severity-{finding['severity']}"), class_=f"severity {finding['severity']}"),
            f" {finding['volume']}: {finding['text']}",
        )
        for finding in document["findings"]
    ]
    return [
        section(view("findings"), tag("ul", *findings) if findings else tag("p", view("no-findings"))),
        section(view("boot-paths"), tag("ul", *paths)) if paths else None,
        tag("details", tag("summary", view("layers")), layers),
    ]


def node(view: View, found: Node, disk: str, depth: int) -> Html:
    """Return what stands on a volume, and on what stands there, as an item of a list."""
    items: list[Child] = []
    for part in found.get("parts", []) if depth < DEEPEST else ():
        size = human(part["end"] - part["start"]) if part["start"] is not None else ""
        if part["role"] == "gap":
            items.append(tag("li", f"{view('free')} {size} ({part['label']})", class_="gap"))
            continue
        name = f" “{part['partition_name']}”" if part.get("partition_name") else ""
        kind = part.get("type_name", "")
        inner = part.get("node")
        title = f"{part['label'].removeprefix(disk + ':')}{name} {size} {kind}".rstrip()
        below = tag("ul", node(view, inner, disk, depth + 1)) if inner else None
        items.append(tag("li", title, below))
    return tag("li", describe(view, found), tag("ul", *items) if items else None)


def describe(view: View, found: Node) -> str:
    """Describe what stands on a volume in one line."""
    match found["state"]:
        case "unknown":
            return view("unknown")
        case "damaged":
            return view("damaged", kind=found["kind"], evidence=found["evidence"])
        case "member":
            return view("member", title=found["title"])
    facts = found["facts"]
    shown = [found["title"], *(str(facts[key]) for key in ("label", "name", "uuid") if facts.get(key))]
    if found["used_bytes"] is not None:
        shown.append(view("used-of", used=human(found["used_bytes"]), size=human(found["size"])))
    return "  ".join(shown)


def actions(view: View, disk: Disk, shelf: Shelf, disks: Sequence[Disk]) -> Html:
    """Return the forms of everything that can be done with a disk."""
    files = [(f"file:{file.key}", f"{file.path.name} ({human(file.size)})") for file in shelf.files()]
    others = [
        (
            other.key,
            f"{other.path.name} ({human(other.size or 0)}{', ' + other.model if other.model else ''})",
        )
        for other in disks
        if other.key != disk.key and not other.trouble
    ]
    verbs = [
        restore(view, disk, files),
        upload(view, disk),
        capture(view, disk, shelf),
        action(view, disk, "grow", check("gpt", view("gpt"), "grow-gpt")),
    ]
    if others:
        choice = select("boot", view("boot-disk"), "fold-boot", others)
        verbs.append(action(view, disk, "fold", choice, check("gpt", view("gpt"), "fold-gpt")))
    kits = [("", view("kit-none")), ("url", view("from-url")), *files]
    url = text_field("url", view("url"), "repair-url", inputmode="url", spellcheck="false")
    verbs.append(action(view, disk, "repair", select("kit", view("kit"), "repair-kit", kits), url))
    if shelf.images is not None and not view.rescue:
        name = text_field("name", view("name"), "shrink-name", spellcheck="false", required=True)
        verbs.append(action(view, disk, "shrink", name, folder=str(shelf.images)))
    if not view.rescue:
        firmware = select("firmware", view("firmware"), "firmware", [("bios", "BIOS"), ("uefi", "UEFI")])
        expect = text_field("expect", view("expect"), "expect", value="login:", required=True)
        verbs.append(action(view, disk, "boot", firmware, expect))
    return tag("section", tag("h2", view("actions")), tag("p", view("plan-first")), *verbs)


def action(view: View, disk: Disk, verb: str, *fields: Child, folder: str = "") -> Html:
    """Return the form of one verb, folded up until it is wanted."""
    form = tag(
        "form",
        tag("p", view(f"{verb}-what", folder=folder)),
        hidden("verb", verb),
        hidden("disk", disk.key),
        *fields,
        tag("button", view("show-plan"), type="submit"),
        method="post",
        action="/plan",
    )
    return tag("details", tag("summary", view(verb)), form, class_="action", id=f"do-{verb}")


def restore(view: View, disk: Disk, files: list[tuple[str, str]]) -> Html:
    """Return the form of a restore from a URL or a file."""
    sources = select("from", view("from"), "from", [("url", view("from-url")), *files])
    url = text_field("url", view("url"), "restore-url", inputmode="url", spellcheck="false")
    digest = text_field("digest", view("digest"), "digest", spellcheck="false")
    return action(view, disk, "restore", sources, url, digest, check("verify", view("verify"), "verify"))


def upload(view: View, disk: Disk) -> Html:
    """Return the form of a restore out of the browser, which its script sends."""
    field = tag("input", type="file", id="image", name="image", accept=".zst", required=True)
    form = tag(
        "form",
        tag("p", view("upload-what")),
        tag("noscript", tag("p", view("needs-script"), class_="bad")),
        tag("p", tag("label", view("image-file"), for_="image"), field),
        tag("p", "", role="status", class_="said"),
        tag("button", view("show-plan"), type="submit"),
        data_head=f"/disk/{disk.key}/upload",
        method="post",
    )
    return tag("details", tag("summary", view("upload")), form, class_="action", id="do-upload")


def capture(view: View, disk: Disk, shelf: Shelf) -> Html:
    """Return the form of a capture."""
    targets = [("download", view("to-download")), ("url", view("to-url"))]
    fields: list[Child] = [text_field("url", view("url"), "capture-url", inputmode="url", spellcheck="false")]
    if shelf.images is not None:
        targets.append(("file", view("to-file", folder=str(shelf.images))))
        fields.append(text_field("name", view("name"), "capture-name", spellcheck="false"))
    if not view.rescue:  # a scratch copy has no room in memory
        fields.append(check("minimize", view("minimize"), "minimize"))
    return action(view, disk, "capture", select("to", view("to"), "to", targets), *fields)


def media(view: View, disk: Disk, document: Node) -> Html:
    """Return the buttons that open partitions for their images."""
    buttons = [
        post(
            "/media",
            view("media-open", number=number, kind=kind),
            hidden("disk", disk.key),
            hidden("number", str(number)),
            class_="plain",
        )
        for number, kind in mountable(document)
    ]
    return section(view("media"), tag("p", view("media-what")), *buttons) if buttons else join()
