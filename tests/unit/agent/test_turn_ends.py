"""Where a turn ends when a stop string's last character is itself cut into tokens."""

from types import SimpleNamespace

import pytest

from components.agent.engines.protocol import TurnRequest
from components.agent.engines.turn_ends import TurnEnds


class ByteTokenizer:
    """One token per byte: a character outside ASCII takes several, none of which shows it."""

    eos_token_id = 0

    def __len__(self):
        return 256

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize(
    ("stop", "text", "length"),
    [
        pytest.param("。", "a。b", 4, id="three-bytes"),
        pytest.param("x。", "a。x。b", 8, id="second-occurrence"),
        pytest.param("é\n", "é\nq", 3, id="ascii-at-the-end"),
        pytest.param("é", "ab", None, id="absent"),
    ],
)
def test_stop_strings_outside_ascii(stop, text, length):
    ends, request = TurnEnds(ByteTokenizer()), TurnRequest(0, [1], 99, 0.0, 0, (stop,))
    ids = list(text.encode())
    stops = [n for n in range(1, len(ids) + 1) if ends.finish(request, ids[:n])]
    assert (stops[0] if stops else None) == length


@pytest.mark.parametrize(
    ("context", "turn", "finish"),
    [
        pytest.param("a", "</search>", "stop", id="all-of-it-in-the-turn"),
        pytest.param("</search", ">", None, id="begun-in-the-context"),
        pytest.param("</search>", ">", None, id="all-of-it-in-the-context"),
    ],
)
def test_stop_string_counts_where_the_turn_says_all_of_it(context, turn, finish):
    ends, request = TurnEnds(ByteTokenizer()), TurnRequest(0, list(context.encode()), 99, 0.0, 0)
    assert ends.finish(request, list(turn.encode())) == finish


@pytest.mark.parametrize(
    ("configured", "end_ids"),
    [
        pytest.param(None, {0}, id="the-tokenizers-alone"),
        pytest.param(7, {0, 7}, id="one-more"),
        pytest.param([7, 8], {0, 7, 8}, id="several"),
    ],
)
def test_end_tokens_of_tokenizer_and_generation_config(configured, end_ids):
    assert TurnEnds(ByteTokenizer(), SimpleNamespace(eos_token_id=configured)).end_ids == end_ids
