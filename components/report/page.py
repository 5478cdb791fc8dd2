"""One self-contained page: no network, light and dark, readable on a phone.

The policy in its head forbids every load, and every script but the page's own, which it names by its hash: a hole
in the escaping would still run nothing.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.report.markup import Markup, element, escape, join

_STYLE = Path(__file__).with_name("style.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_SCRIPT_END = "</script"


@dataclass(frozen=True)
class Section:
    """A heading, a sentence that says how to read what follows, and the blocks that follow."""

    title: str
    blocks: tuple[Markup, ...]
    lead: str = ""


@dataclass(frozen=True)
class Figure:
    """One number of the headline with what it is and how sure it is."""

    value: str
    label: str
    note: str = ""
    strong: bool = False


def page(title: str, sections: Sequence[Section], subtitle: str = "", script: str = "") -> str:
    """Return the whole HTML document; every string given is escaped unless it is `Markup`.

    `script` is code of ours that runs at the end of the page: never anything made from data.
    """
    assert _SCRIPT_END not in script.lower()
    head = join(
        [
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=_POLICY + _allowance(script)),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", title),
            element("style", Markup(_STYLE.read_text(encoding="utf-8"))),
        ]
    )
    links = [element("a", section.title, href=f"#s{i}") for i, section in enumerate(sections)]
    body = join(
        [
            element(
                "header",
                element("h1", title),
                element("p", subtitle, class_="subtitle") if subtitle else escape(""),
                element("nav", *links, aria_label="Sections"),
            ),
            element("main", *(_section(i, section) for i, section in enumerate(sections))),
            element("script", Markup(script)) if script else escape(""),
        ]
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _allowance(script: str) -> str:
    if not script:
        return ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"; script-src 'sha256-{digest}'"


def paragraph(*content: str) -> Markup:
    """Return a paragraph of running text."""
    return element("p", *content)


def folded(title: str, *content: str) -> Markup:
    """Return `content` under a title that unfolds it."""
    return element("details", element("summary", title), *content, class_="folded")


def key_figures(figures: Sequence[Figure]) -> Markup:
    """Return the headline numbers side by side, one under the other on a phone."""
    tiles = [
        element(
            "div",
            element("dt", figure.label),
            element("dd", element("span", figure.value, class_="value"), element("span", figure.note, class_="note")),
            class_="figure strong" if figure.strong else "figure",
        )
        for figure in figures
    ]
    return element("dl", *tiles, class_="figures")


def definitions(entries: Sequence[tuple[str, str]]) -> Markup:
    """Return terms and what they mean, one row each."""
    rows = [element("div", element("dt", term), element("dd", meaning)) for term, meaning in entries]
    return element("dl", *rows, class_="definitions")


def _section(number: int, section: Section) -> Markup:
    lead = element("p", section.lead, class_="lead") if section.lead else escape("")
    return element("section", element("h2", section.title), lead, *section.blocks, id=f"s{number}")
