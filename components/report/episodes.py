"""The episode viewer: what the model wrote and what was put before it, in different colours, token by token.

The episodes stand in the page as a plain list, so that it reads without a script. `viewer.js` filters that list,
walks through it and colours tokens; their numbers are JSON in attributes beside the text.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from components.report.axis import short_number
from components.report.markup import Markup, element, escape, join, printable
from components.report.spans import Span
from components.report.tables import set_label

VIEWER_SCRIPT = Path(__file__).with_name("viewer.js").read_text(encoding="utf-8")
MAX_BYTES = 2_000_000
"""Of a page that people forward by mail."""
_TAG = re.compile(r"(</?(?:think|search|information|answer)>)")
_WHO = {"prompt": "prompt", "model": "model", "retrieved": "masked"}
_COLOURS = {"source": "who wrote it", "logprob": "log-prob", "advantage": "advantage"}
_RAMP = ("n4", "n3", "n2", "n1", "p0", "a1", "a2", "a3", "a4")
_PROBABILITIES = ("above .95", ".82 to .95", ".50 to .82", ".20 to .50", ".05 to .20", "below .05")


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
    training_step: int | None = None
    """Step of training it was sampled at; None for an episode of the evaluation."""
    reward: float | None = None
    """What training paid for it."""

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        return "evaluation" if self.training_step is None else f"training, step {self.training_step:,}"


def episode_viewer(episodes: Sequence[EpisodeView], max_bytes: int = MAX_BYTES) -> Markup:
    """Return the episodes one under the other with the controls of the viewer; needs `VIEWER_SCRIPT` on the page.

    Where they take more than `max_bytes`, evenly spaced ones are left out, and the page says so.
    """
    shown, items = _fitting(episodes, max_bytes)
    left_out = (
        element("p", f"{len(shown)} of {len(episodes)} episodes: more would make the page too big.", class_="note")
        if len(shown) < len(episodes)
        else escape("")
    )
    status = element("p", class_="status note", role="status")
    nothing = element("p", "No episode matches all of these.", class_="none note", hidden=True)
    more = element("button", "Show more", type="button", class_="more", hidden=True)
    without = element("noscript", element("p", "Filters and colours by token need JavaScript.", class_="note"))
    return element("div", without, left_out, _bar(shown), *_legends(), status, *items, nothing, more, class_="viewer")


def _fitting(episodes: Sequence[EpisodeView], max_bytes: int) -> tuple[list[EpisodeView], list[Markup]]:
    count = len(episodes)
    while True:
        chosen = [i * len(episodes) // count for i in range(count)]
        items = [_episode(episodes[i], number, is_open=number == 0) for number, i in enumerate(chosen)]
        size = sum(len(item.encode()) for item in items)
        if size <= max_bytes or not count:
            return [episodes[i] for i in chosen], items
        count = min(count - 1, count * max_bytes // size)


def _bar(episodes: Sequence[EpisodeView]) -> Markup:
    sets = [(name, set_label(name)) for name in dict.fromkeys(episode.set_name for episode in episodes)]
    sources = [(source, source) for source in dict.fromkeys(episode.source for episode in episodes)]
    if any(episode.training_step is not None for episode in episodes):
        sources.insert(0, ("training", "training, every step"))
    counts = [(str(n), str(n)) for n in sorted({episode.num_searches for episode in episodes})]
    choices = [
        element(
            "label",
            element("input", type="radio", name="colour", value=value, checked=value == "source"),
            element("span", words),
        )
        for value, words in _COLOURS.items()
    ]
    return element(
        "div",
        _filter("from", "source", sources),
        _filter("set", "set", sets),
        _filter("answer", "result", [("right", "right"), ("wrong", "wrong")]),
        _filter("searches", "searches", counts),
        element("fieldset", element("legend", "colour by"), *choices),
        element(
            "div",
            element("button", "\N{LEFTWARDS ARROW} Previous", type="button", class_="previous"),
            element("button", "Next \N{RIGHTWARDS ARROW}", type="button", class_="next"),
            element("span", class_="count", role="status"),
            class_="walk",
        ),
        class_="bar",
        hidden=True,
    )


def _filter(label: str, name: str, options: Iterable[tuple[str, str]]) -> Markup:
    written = [element("option", words, value=value) for value, words in options]
    return element("label", label, element("select", element("option", "all", value=""), *written, name=name))


def _legends() -> list[Markup]:
    source = [
        element("span", "written by the model", class_="swatch model"),
        element("span", "put before it: passages and notices, masked in the loss", class_="swatch retrieved"),
    ]
    probabilities = [element("span", words, class_=f"sample p{number}") for number, words in enumerate(_PROBABILITIES)]
    steps = [element("span", "\N{NO-BREAK SPACE}", class_=f"sample {c}") for c in _RAMP]
    legends = {
        "source": source,
        "logprob": [escape("probability of the token when it was sampled:"), *probabilities],
        "advantage": [
            escape("made less likely by this step"),
            element("span", *steps, class_="ramp"),
            escape("made more likely. Only episodes of training have advantages."),
        ],
    }
    return [
        element("p", *parts, class_="key legend-of", data_of=name, hidden=name != "source")
        for name, parts in legends.items()
    ]


def _episode(episode: EpisodeView, number: int, is_open: bool) -> Markup:
    is_right = episode.em > 0
    badge = element(
        "span",
        "\N{CHECK MARK} right" if is_right else "\N{BALLOT X} wrong",
        class_="badge right" if is_right else "badge wrong",
    )
    where = set_label(episode.set_name)
    summary = element(
        "summary",
        badge,
        element("span", episode.question, class_="question data"),
        element("span", where if episode.training_step is None else f"{where}, {episode.source}", class_="set"),
    )
    rows = [element("div", element("dt", term), element("dd", value, class_="data")) for term, value in _facts(episode)]
    prompt = [_span(span) for span in episode.spans if span.source == "prompt"]
    rest = [_span(span) for span in episode.spans if span.source != "prompt"]
    folded = element("details", element("summary", "prompt"), *prompt, class_="prompt") if prompt else escape("")
    body = element("div", element("dl", *rows, class_="facts"), folded, *rest, class_="transcript")
    return element(
        "details",
        summary,
        body,
        open=is_open,
        class_="episode",
        id=f"episode-{number + 1}",
        data_source=episode.source,
        data_set=episode.set_name,
        data_result="right" if is_right else "wrong",
        data_searches=episode.num_searches,
    )


def _facts(episode: EpisodeView) -> list[tuple[str, str]]:
    answer = (episode.prediction or "(empty)") if episode.has_answer else "(none)"
    facts = [
        ("answer", answer),
        ("gold", " | ".join(episode.golden_answers)),
        ("searches", str(episode.num_searches)),
        ("ended", episode.stop_reason.replace("_", " ")),
    ]
    return facts if episode.reward is None else [*facts, ("reward", short_number(episode.reward))]


def _span(span: Span) -> Markup:
    # Lengths count what the page holds, so each token is made printable by itself.
    tokens = [printable(token) for token in span.tokens]
    text = "".join(tokens) if tokens else span.text.strip()
    pieces = [element("b", p, class_="tag") if _TAG.fullmatch(p) else escape(p) for p in _TAG.split(text)]
    who = element("span", f"{_WHO[span.source]} \N{MIDDLE DOT} {span.num_tokens} tokens", class_="who")
    numbers = {
        "data_lengths": _compact([_utf16_length(token) for token in tokens]),
        "data_logprobs": _compact(span.logprobs),
        "data_advantages": _compact(span.advantages),
    }
    given = {name: text for name, text in numbers.items() if text}
    return element("div", who, element("span", join(pieces), class_="data"), class_=f"span {span.source}", **given)


def _compact(values: Sequence[float]) -> str:
    return json.dumps(values, separators=(",", ":"), allow_nan=False) if values else ""


def _utf16_length(text: str) -> int:
    """A script counts in UTF-16 units."""
    return len(text.encode("utf-16-le")) // 2
