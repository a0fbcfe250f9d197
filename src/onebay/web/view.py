"""What every page has: its frame, its language, and how sizes and times are written."""

from __future__ import annotations

from dataclasses import dataclass

from onebay.web.html import Child, Html, document, join, tag
from onebay.web.texts import LANGUAGES, NAMES, TAGS, say


@dataclass(frozen=True, slots=True)
class View:
    """For whom a page is made."""

    lang: str
    inside: bool = True  # with a session
    rescue: bool = False

    def __call__(self, key: str, **values: object) -> str:
        """Return a text in the language of the view."""
        return say(self.lang, key, **values)

    def page(self, title: str, *body: Child, refresh: int | None = None) -> str:
        """Return a whole page; `refresh`: seconds after which a browser without script loads it anew."""
        script = tag("script", src="/onebay.js", defer=True) if self.inside else None
        again = None
        if refresh is not None:
            again = tag("noscript", tag("meta", http_equiv="refresh", content=refresh))
        head = tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", f"{title} - onebay"),
            tag("link", rel="stylesheet", href="/onebay.css"),
            tag("link", rel="icon", href="/favicon.svg", type="image/svg+xml"),
            again,
            script,
        )
        main = tag("main", tag("h1", title), *body, id="main", tabindex="-1")
        skip = tag("a", self("skip"), href="#main", class_="skip")
        return document(head, tag("body", skip, self.header(), main), lang=TAGS[self.lang])

    def header(self) -> Html:
        """Return what stands above every page."""
        languages = [
            tag(
                "a", NAMES[lang], href=f"?lang={lang}", lang=TAGS[lang], hreflang=TAGS[lang],
                aria_current="true" if lang == self.lang else None,
            )
            for lang in LANGUAGES
        ]  # fmt: skip
        links = None
        if self.inside:
            links = tag(
                "nav",
                tag("a", self("home"), href="/"),
                post("/logout", self("logout"), class_="plain"),
                aria_label="onebay",
            )
        return tag(
            "header",
            tag("a", "onebay", href="/", class_="brand"),
            links,
            tag("nav", *languages, aria_label=self("language"), class_="languages"),
        )


def post(action: str, label: str, *fields: Child, class_: str | None = None) -> Html:
    """Return a form of one button."""
    return tag(
        "form", *fields, tag("button", label, type="submit"), method="post", action=action, class_=class_
    )


def hidden(name: str, value: str) -> Html:
    """Return a field that nobody sees."""
    return tag("input", type="hidden", name=name, value=value)


def text_field(name: str, label: str, identity: str, **more: str | bool | None) -> Html:
    """Return a line of text with its label."""
    field = tag("input", type="text", name=name, id=identity, **more)
    return tag("p", tag("label", label, for_=identity), field)


def select(name: str, label: str, identity: str, options: list[tuple[str, str]]) -> Html:
    """Return a choice of (value, label) with its own label."""
    items = (tag("option", shown, value=value) for value, shown in options)
    return tag("p", tag("label", label, for_=identity), tag("select", *items, name=name, id=identity))


def check(name: str, label: str, identity: str) -> Html:
    """Return a box to tick with its label."""
    box = tag("input", type="checkbox", name=name, value="1", id=identity)
    return tag("p", box, tag("label", label, for_=identity), class_="check")


def facts(*pairs: tuple[str, Child]) -> Html:
    """Return a list of names and values."""
    return tag("dl", *(join(tag("dt", name), tag("dd", value)) for name, value in pairs))


def clock(seconds: float) -> str:
    """Format a time that is left."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
