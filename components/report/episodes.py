"""The episode viewer: what the model wrote and what was put before it, in different colours."""

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from components.report.markup import Markup, element, escape
from components.report.tables import set_label

SpanSource = Literal["prompt", "model", "retrieved"]
_TAG = re.compile(r"(</?(?:think|search|information|answer)>)")
_WHO = {"prompt": "prompt", "model": "model", "retrieved": "masked"}


class Span(BaseModel):
    """Neighbouring tokens of one source as text; `retrieved` covers passages and notices (masked tokens)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: SpanSource
    text: str
    num_tokens: int


class EpisodeView(BaseModel):
    """One episode as a reader meets it; the JSON form of `episodes.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question_id: str
    set_name: str
    question: str
    golden_answers: tuple[str, ...]
    prediction: str
    has_answer: bool
    em: float
    num_searches: int
    stop_reason: str
    spans: tuple[Span, ...]


def episode_list(episodes: Sequence[EpisodeView], num_open: int = 1) -> Markup:
    """Return the episodes one under the other, the first `num_open` unfolded, with a key of the colours."""
    legend = element(
        "p",
        element("span", "written by the model", class_="swatch model"),
        element("span", "put before it: passages and notices, masked in the loss", class_="swatch retrieved"),
        class_="key",
    )
    shown = [_episode(episode, is_open=i < num_open) for i, episode in enumerate(episodes)]
    return element("div", legend, *shown, class_="episodes")


def _episode(episode: EpisodeView, is_open: bool) -> Markup:
    is_right = episode.em > 0
    badge = element(
        "span",
        "\N{CHECK MARK} right" if is_right else "\N{BALLOT X} wrong",
        class_="badge right" if is_right else "badge wrong",
    )
    summary = element(
        "summary",
        badge,
        element("span", episode.question, class_="question data"),
        element("span", set_label(episode.set_name), class_="set"),
    )
    answer = episode.prediction if episode.has_answer else "(none)"
    facts = [
        ("answer", answer or "(empty)"),
        ("gold", " | ".join(episode.golden_answers)),
        ("searches", str(episode.num_searches)),
        ("ended", episode.stop_reason.replace("_", " ")),
    ]
    rows = [element("div", element("dt", term), element("dd", value, class_="data")) for term, value in facts]
    prompt = [_span(span) for span in episode.spans if span.source == "prompt"]
    rest = [_span(span) for span in episode.spans if span.source != "prompt"]
    folded = element("details", element("summary", "prompt"), *prompt, class_="prompt") if prompt else escape("")
    body = element("div", element("dl", *rows, class_="facts"), folded, *rest, class_="transcript")
    return element("details", summary, body, open=is_open, class_="episode")


def _span(span: Span) -> Markup:
    pieces = [
        element("b", piece, class_="tag") if _TAG.fullmatch(piece) else escape(piece)
        for piece in _TAG.split(span.text.strip())
    ]
    who = element("span", f"{_WHO[span.source]} \N{MIDDLE DOT} {span.num_tokens} tokens", class_="who")
    return element("div", who, element("span", *pieces, class_="data"), class_=f"span {span.source}")
