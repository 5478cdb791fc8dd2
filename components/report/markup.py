"""HTML that cannot be built unescaped: every plain string is escaped, only `Markup` passes as it is.

Corpus text, questions and model output reach a page through `element` alone, so a passage that
contains a script element is shown and never run. Absent on purpose: templates, raw interpolation.
"""

import html
import re
from typing import Self

_VOID = frozenset({"br", "hr", "input", "meta"})
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Markup(str):
    """Finished HTML; made by `element`, `escape` and `join`."""

    __slots__ = ()

    def __add__(self, other: str) -> Self:
        """Return the two one after the other, a plain string escaped."""
        return type(self)(str(self) + str(escape(other)))


def escape(text: str) -> Markup:
    """Return `text` ready for an element or a quoted attribute; `Markup` comes back unchanged.

    Lone surrogates, control characters and those that turn the direction of text become U+FFFD: the first no UTF-8
    page can carry, the last would show a reader another order of words than there is.
    """
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(printable(text), quote=True))


def printable(text: str) -> str:
    """Return `text` as a page will hold it: unprintable characters are U+FFFD, lines end with one character."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def join(parts: "list[Markup] | tuple[Markup, ...]", separator: str = "") -> Markup:
    """Return the parts one after the other with the escaped separator between them."""
    return Markup(str(escape(separator)).join(str(escape(part)) for part in parts))


def element(tag: str, *children: str, **attributes: str | int | float | bool) -> Markup:
    """Return `<tag attributes>children</tag>`.

    Attribute names are Python names: a trailing underscore falls away (`class_`), the others become
    hyphens (`stroke_width`). True writes the bare name, False leaves the attribute out.
    """
    written = ""
    for name, value in attributes.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            written += f" {name}"
        elif value is not False:
            written += f' {name}="{escape(_number(value))}"'
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{join(children)}</{tag}>")


def _number(value: str | int | float) -> str:
    """Coordinates with two digits keep a page of curves small and equal on every machine."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
