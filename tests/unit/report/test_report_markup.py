from html.parser import HTMLParser

import pytest

from components.report.markup import Markup, element, escape, join
from components.report.page import Figure, Section, definitions, key_figures, page, paragraph

HOSTILE = [
    pytest.param("<script>alert(1)</script>", id="script"),
    pytest.param('"><img src=x onerror=alert(1)>', id="attribute-break"),
    pytest.param("</span></details></body><iframe src=//evil>", id="closing-tags"),
    pytest.param("&lt;script&gt;", id="already-escaped"),
    pytest.param("' onmouseover='alert(1)", id="single-quote"),
    pytest.param("<!-- <style>*{display:none}</style>", id="comment"),
    pytest.param("\u202e</span> \u2066", id="reversed-text"),
    pytest.param("nul \x00 bell \x07 surrogate \ud800 escape \x1b[31m", id="control-characters"),
]
VOID = {"meta", "br", "hr"}


class Reader(HTMLParser):
    """Reads a page as a browser would: elements, text, and whether every element was closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_string_is_text_wherever_it_enters(text):
    blocks = (paragraph(text), key_figures([Figure(text, text, text)]), definitions([(text, text)]))
    harmless = page(
        "x", [Section("x", (paragraph("x"), key_figures([Figure("x", "x", "x")]), definitions([("x", "x")])), "x")], "x"
    )
    read, expected = Reader(page(text, [Section(text, blocks, text)], text)), Reader(harmless)
    assert [tag for tag, _ in read.elements] == [tag for tag, _ in expected.elements]
    assert [set(attributes) for _, attributes in read.elements] == [set(a) for _, a in expected.elements]
    assert not read.open


@pytest.mark.parametrize("text", HOSTILE)
def test_an_attribute_keeps_its_value_and_no_other_appears(text):
    [(tag, attributes)] = Reader(element("i", title=text)).elements
    assert (tag, set(attributes)) == ("i", {"title"})
    is_printable = not any(ord(c) < 32 or "\ud800" <= c <= "\udfff" or c in "\u202e\u2066" for c in text)
    assert (attributes["title"] == text) == is_printable


def test_shown_text_equals_the_given_text():
    text = "a < b & c > d \"quoted\" 'single' äöü 日本 \N{GREEK SMALL LETTER ALPHA}\n\ttabbed"
    assert Reader(element("p", text)).text == text


def test_markup_passes_and_text_does_not():
    assert element("p", Markup("<b>x</b>"), "<b>") == "<p><b>x</b>&lt;b&gt;</p>"
    assert join([Markup("<b>"), "<b>"], "<") == "<b>&lt;&lt;b&gt;"
    assert Markup("<b>") + "<" == "<b>&lt;"
    assert escape(escape("<")) == "&lt;"


def test_attributes_are_written_as_html_has_them():
    drawn = element("line", x1=1.0, y1=2.345, stroke_width=2, class_="a", hidden=True, open=False)
    assert drawn == '<line x1="1" y1="2.35" stroke-width="2" class="a" hidden></line>'


def test_a_page_can_be_written_and_reaches_for_nothing():
    text = page("Title", [Section("One", (paragraph("x"),)), Section("Two", ())])
    text.encode("utf-8")
    read = Reader(text)
    assert not {"script", "link", "img", "iframe", "object", "base"} & {tag for tag, _ in read.elements}
    assert not any(name in ("src", "style") or name.startswith("on") for _, a in read.elements for name in a)
    assert "url(" not in text and "@import" not in text
    targets = [a["href"] for tag, a in read.elements if tag == "a"]
    assert targets == [f"#{a['id']}" for tag, a in read.elements if tag == "section"]
    policy = next(a["content"] for tag, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "script-src" not in policy
    # The default does not cover these two: a form would carry away what is typed, a base would move every link.
    assert "form-action 'none'" in policy and "base-uri 'none'" in policy


@pytest.mark.parametrize("script", ["x = '</script>'", "x = '</SCRIPT >'"])
def test_a_script_that_would_end_itself_is_no_script_of_ours(script):
    with pytest.raises(AssertionError):
        page("Title", [], script=script)
