import pytest

from components.evaluate import progress as module
from components.evaluate.progress import AnswerProgress


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_line_says_how_far_all_methods_are_and_how_long_they_take(clock, capsys):
    with AnswerProgress(2_000) as progress:
        clock[0] = 9.0
        progress.advance(400, "rag")
        assert capsys.readouterr().out == ""
        clock[0] = 10.0
        progress.advance(100, "rag")
        assert capsys.readouterr().out == "evaluate: 500 of 2,000 answers (rag), 30 s left\n"
        progress.advance(1_500)
    assert capsys.readouterr().out == "evaluate: 2,000 answers in 10.0 s\n"


def test_answers_from_before_do_not_make_the_rest_look_fast(clock, capsys):
    with AnswerProgress(2_000) as progress:
        progress.reuse(1_000)
        clock[0] = 10.0
        progress.advance(100)
        assert capsys.readouterr().out == "evaluate: 1,100 of 2,000 answers, 90 s left\n"
        progress.advance(900)
    assert "1,000 of them kept from before" in capsys.readouterr().out


def test_a_failure_is_not_called_done(capsys):
    with pytest.raises(RuntimeError), AnswerProgress(5):
        raise RuntimeError
    assert capsys.readouterr().out == ""
