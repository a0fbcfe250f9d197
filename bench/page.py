"""The results as tables and plots, between two marks of docs/bench.md."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from bench.goals import NOT_PEERS, US, best, values, verdicts
from bench.measure import ROOT
from bench.stats import spread

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "docs" / "bench.md"
MARKS = ("<!-- results: written by `make bench` -->\n", "<!-- end of results -->\n")
PLOTS = {"capture": "bench-capture.svg", "restore": "bench-restore.svg"}
BAR, GAP, LEFT, WIDTH = 16, 4, 210, 720
LONGEST = 10.0  # times ours; what is longer is cut, with its number


def newest(folder: Path) -> Path:
    """Return the newest file of results, a full run before a small one; raises FileNotFoundError."""
    found = sorted(folder.glob("*.json"), key=lambda path: ("-full" in path.name, path.name))
    if not found:
        raise FileNotFoundError(f"no results in {folder}")
    return found[-1]


def write(result: Path, page: Path = PAGE) -> None:
    """Write the results into the page, and the plots beside it."""
    content = json.loads(result.read_text("utf-8"))
    text = page.read_text("utf-8")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    page.write_text(
        before + MARKS[0] + "\n" + section(content, result.name) + "\n" + MARKS[1] + after, "utf-8"
    )
    for verb, name in PLOTS.items():
        (page.parent / name).write_text(plot(content, verb), "utf-8")


def section(result: dict[str, Any], name: str) -> str:
    """Return what stands between the marks."""
    parts = [head(result, name), goals(result), ratios(result), absences(result)]
    parts += [f"![{verb}, as a multiple of onebay's time]({file})" for verb, file in PLOTS.items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def head(result: dict[str, Any], name: str) -> str:
    """Say what was run, and where."""
    machine, versions = result["machine"], result["versions"]
    text = (
        f"Run of {result['started'][:10]}, {result['rounds']} rounds "
        f"([raw numbers](../bench/results/{name})): "
        f"{machine['cores']} cores of {machine['cpu']} ({', '.join(machine['instructions'])}), "
        f"{machine['memory'] / 1e9:.0f} GB of memory, Linux {machine['kernel']}, {machine['system']}; "
        f"load {machine['load']} when it began. "
        + ", ".join(f"{each} {version}" for each, version in versions.items())
        + "."
    )
    if result["size"] == "small":
        text += (
            "\n\n**A run at `SIZE=small`: disks of megabytes, where starting programs is most of the time. "
            "It shows that everything works, not who is fast.**"
        )
    return text


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def goals(result: dict[str, Any]) -> str:
    """Return the goals and what was found."""
    rows = [
        [each.goal, each.work, f"{each.found:.2f}", f"{each.limit:.2f}", "yes" if each.reached else "**no**"]
        for each in sorted(verdicts(result), key=lambda each: each.goal)
    ]
    return "### Goals\n\n" + table(["goal", "disk", "found", "limit", "reached"], rows)


def ratios(result: dict[str, Any]) -> str:
    """Return ours in proportion to the best peer, for each disk and verb."""
    rows = []
    for work, own in result["works"].items():
        for verb, entries in own.get("verbs", {}).items():
            found = [best(entries, metric) for metric in ("wall", "cpu", "size")]
            wall, cpu, size = found
            if wall is None:
                continue
            memory = max(values(entries, US, "largest"))
            rows.append(
                [
                    *(work, verb, wall[0], f"{wall[1]:.2f}"),
                    "" if cpu is None else f"{cpu[1]:.2f} ({cpu[0]})",
                    "" if size is None else f"{size[1]:.2f} ({size[0]})",
                    f"{memory / 1e6:.0f} MB",
                ]
            )
    head = ["disk", "verb", "best peer", "time", "processor time", "image size", "our memory"]
    return "### Ratios, ours to the best peer's\n\nSmaller is better, 1 is equal.\n\n" + table(head, rows)


def absences(result: dict[str, Any]) -> str:
    """Tell who did not take part, and what failed: it has no number anywhere."""
    found: dict[str, list[str]] = {}
    for work, own in result["works"].items():
        if own.get("skipped"):
            found.setdefault(own["skipped"], []).append(work)
        for verb, entries in own.get("verbs", {}).items():
            for name, entry in entries.items():
                if entry["failure"]:
                    found.setdefault(f"{name} failed: {entry['failure'][:200]}", []).append(f"{work} {verb}")
                elif entry["skipped"]:
                    found.setdefault(f"{name}: {entry['skipped']}", []).append(f"{work} {verb}")
    if not found:
        return ""
    lines = [f"- {why} ({', '.join(places)})" for why, places in found.items()]
    return "### Who did not take part\n\n" + "\n".join(lines)


def bars(result: dict[str, Any], verb: str) -> list[tuple[str, list[tuple[str, float]]]]:
    """Return for each disk the entries with their times as multiples of ours."""
    found = []
    for work, own in result["works"].items():
        entries = own.get("verbs", {}).get(verb, {})
        ours = values(entries, US, "wall")
        if ours:
            names = [US, *(name for name in entries if name not in NOT_PEERS)]
            base = spread(ours).median
            times = [(name, values(entries, name, "wall")) for name in names]
            found.append((work, [(name, spread(each).median / base) for name, each in times if each]))
    return found


def plot(result: dict[str, Any], verb: str) -> str:
    """Draw the bars as SVG."""
    groups = bars(result, verb)
    height = sum(30 + len(each) * (BAR + GAP) for _, each in groups) + 40
    title = f"{verb}: time as a multiple of onebay's ({result['size']} disks, {result['rounds']} rounds)"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="10" y="20" font-weight="bold">{escape(title)}</text>',
    ]
    scale, at = (WIDTH - LEFT - 60) / LONGEST, 40
    for work, each in groups:
        lines.append(f'<text x="10" y="{at + 12}" font-weight="bold">{escape(work)}</text>')
        at += 20
        for name, times in each:
            wide, color = min(times, LONGEST) * scale, "#0a6" if name == US else "#9ab"
            lines += [
                f'<text x="{LEFT - 8}" y="{at + 12}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="{LEFT}" y="{at}" width="{wide:.1f}" height="{BAR}" fill="{color}"/>',
                f'<text x="{LEFT + wide + 5:.1f}" y="{at + 12}">{times:.2f}</text>',
            ]
            at += BAR + GAP
        at += 10
    return "\n".join([*lines, "</svg>"]) + "\n"
