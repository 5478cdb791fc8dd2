from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from components.contracts.episode import Action, Episode, SearchRecord, StopReason, Turn
from components.contracts.question import Question
from components.evaluate.predictions import read_predictions, score_episode, write_predictions

QUESTION = Question(id="nq:1", set_name="nq", question="Who?", golden_answers=("Ada Lovelace", "Ada"))


def episode(answer: str | None, stop: StopReason = StopReason.ANSWERED, errors: tuple[str, ...] = ("",)) -> Episode:
    made = Episode("nq:1", token_ids=[1, 2, 3, 4, 5], prompt_length_tokens=2)
    made.is_model_token = [False, False, True, True, False]
    made.turns = [Turn(2, 3, Action.SEARCH, "ada"), Turn(3, 4, Action.INVALID, "hm")]
    if answer is not None:
        made.turns.append(Turn(4, 5, Action.ANSWER, answer))
    made.searches = [SearchRecord("ada", [], 0.1, error) for error in errors]
    made.stop_reason, made.wall_s = stop, 0.25
    return made


@pytest.mark.parametrize(
    ("answer", "stop", "em", "f1"),
    [
        pytest.param("the Ada.", StopReason.ANSWERED, 1.0, 1.0, id="right"),
        pytest.param("Ada Byron", StopReason.ANSWERED, 0.0, 2 / 3, id="half-right"),
        pytest.param("", StopReason.ANSWERED, 0.0, 0.0, id="empty-answer"),
        pytest.param(None, StopReason.NO_ANSWER, 0.0, 0.0, id="no-answer"),
        pytest.param(None, StopReason.CONTEXT_FULL, 0.0, 0.0, id="context-full"),
        pytest.param("Ada", StopReason.SEARCH_FAILED, 0.0, 0.0, id="answer-of-an-episode-that-failed"),
    ],
)
def test_an_episode_is_scored_by_its_answer(answer, stop, em, f1):
    scored = score_episode("base", QUESTION, episode(answer, stop))
    assert (scored.em, scored.f1) == pytest.approx((em, f1))
    assert scored.finished is (stop is StopReason.ANSWERED) and scored.stop_reason == stop.value


def test_a_failed_search_is_recorded_and_scores_nothing():
    scored = score_episode("base", QUESTION, episode(None, StopReason.SEARCH_FAILED, ("", "search: no answer")))
    assert (scored.em, scored.finished, scored.search_error, scored.num_searches) == (
        0.0,
        False,
        "search: no answer",
        2,
    )


def test_counts_come_from_the_episode():
    scored = score_episode("base", QUESTION, episode("Ada"))
    assert (scored.num_model_tokens, scored.valid_action_frac, scored.latency_s) == (2, pytest.approx(2 / 3), 0.25)


def test_rows_survive_the_file_in_order(tmp_path, row):
    rows = [row(index=i, em=float(i % 2), golden_answers=("a", "b" * i)) for i in range(5)]
    write_predictions(rows, tmp_path / "p.parquet")
    assert read_predictions(tmp_path / "p.parquet") == rows


def test_equal_answers_give_equal_bytes_however_long_they_took(tmp_path, row):
    for name in ("a", "b"):
        write_predictions([row(index=i, latency_s=ord(name)) for i in range(50)], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_file_has_the_promised_columns(tmp_path, row):
    write_predictions([row()], tmp_path / "p.parquet")
    promised = "method set_name question_id question golden_answers prediction em f1 num_searches valid_action_frac "
    promised += "finished num_model_tokens stop_reason search_error"
    assert pq.read_schema(tmp_path / "p.parquet").names == promised.split()


@pytest.mark.parametrize("text", ["\x00", "\ud800 lone", "日本\u202e", "'; drop table --", "a\nb\r\n\t"])
def test_hostile_text_can_be_stored(tmp_path, row, text):
    hostile = replace(row(), prediction=text, question=text, golden_answers=(text, "b"))
    write_predictions([hostile], tmp_path / "p.parquet")
    stored = read_predictions(tmp_path / "p.parquet")[0].prediction
    assert stored == text.replace("\ud800", "?")
