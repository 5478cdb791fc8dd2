import pytest
from pydantic import ValidationError

from components.contracts.episode import Episode
from components.report.spans import Span, episode_spans, token_texts

BYTES = "a \N{GRINNING FACE} b".encode()


def decode_bytes(token_ids):
    """One token per byte, as a byte-level vocabulary: a character is whole only with its last byte."""
    return bytes(token_ids).decode("utf-8", "replace")


def decode_words(token_ids):
    """One token per word with a space between words, as a sentencepiece vocabulary: the space comes with the second."""
    return " ".join(f"w{i}" for i in token_ids)


@pytest.mark.parametrize(
    ("token_ids", "decode", "expected"),
    [
        pytest.param(list(BYTES), decode_bytes, ["a", " ", "", "", "", "\N{GRINNING FACE}", " ", "b"], id="bytes"),
        pytest.param(list(BYTES[:4]), decode_bytes, ["a", " ", "", "\N{REPLACEMENT CHARACTER}"], id="cut-character"),
        pytest.param([3, 1, 2], decode_words, ["w3", " w1", " w2"], id="words"),
        pytest.param([], decode_words, [], id="nothing"),
    ],
)
def test_every_token_gets_the_text_it_adds(token_ids, decode, expected):
    assert token_texts(token_ids, decode) == expected
    assert "".join(expected) == decode(token_ids)


def episode() -> Episode:
    return Episode(
        "q", list(b"?ab..c"), 1,
        is_model_token=[False, True, True, False, False, True],
        logprobs=[0.0, -0.123456, -1.0, 0.0, 0.0, float("-inf")],
    )  # fmt: skip


def test_spans_follow_the_mask_and_carry_log_probabilities():
    spans = episode_spans(episode(), decode_bytes)
    assert [(span.source, span.text, span.num_tokens) for span in spans] == [
        ("prompt", "?", 1), ("model", "ab", 2), ("retrieved", "..", 2), ("model", "c", 1),
    ]  # fmt: skip
    assert [span.logprobs for span in spans] == [(), (-0.1235, -1.0), (), (-10000.0,)]
    assert all(span.advantages == () for span in spans) and spans[2].tokens == ()


def test_advantages_go_to_the_positions_they_belong_to():
    spans = episode_spans(episode(), decode_bytes, {1: 0.5, 2: -0.5, 5: 2.0})
    assert [span.advantages for span in spans] == [(), (0.5, -0.5), (), (2.0,)]
    without_mask = episode_spans(episode(), decode_bytes, {i: float(i) for i in range(1, 6)})
    assert without_mask[2].advantages == (3.0, 4.0) and without_mask[2].tokens == (".", ".")
    half = episode_spans(episode(), decode_bytes, {1: 0.5, 5: 2.0})
    assert [span.advantages for span in half] == [(), (), (), (2.0,)]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"tokens": ("a", "x")}, id="other-text"),
        pytest.param({"tokens": ("ab",)}, id="fewer-tokens"),
        pytest.param({"tokens": ("a", "b"), "logprobs": (0.0,)}, id="fewer-logprobs"),
        pytest.param({"advantages": (0.0, 0.0)}, id="numbers-without-tokens"),
    ],
)
def test_a_span_whose_numbers_belong_to_other_tokens_is_refused(changes):
    with pytest.raises(ValidationError, match="span"):
        Span(source="model", text="ab", num_tokens=2, **changes)
