"""How the step that started torchrun ends: with the first rank's result, or with the first failure."""

import signal
import sys
from pathlib import Path

import pytest

from components.contracts.errors import RanksFailed
from components.contracts.step import StepContext
from components.train.config import TrainConfig
from components.train.launch import run_ranks
from tests.unit.train.trainjob_stories import RESULT

CONFIG = TrainConfig.parse({"parallel": {"cpu_ranks": 2}, "threads": 3})
CONTEXT = StepContext("train", "file:///data", "c" * 64, "d")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def torchrun(tmp_path, monkeypatch):
    """Let the launcher start the stub; the returned function says what that shall do."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nexec env PYTHONPATH="{ROOT}" "{sys.executable}" -m tests.unit.train.ranks_stub "$@"\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.chdir(tmp_path)
    return (tmp_path / "story").write_text


def test_the_result_of_the_first_rank_comes_home(torchrun, tmp_path):
    torchrun("succeeds")
    result = run_ranks(CONFIG, CONTEXT, {})
    assert (result.manifest, result.card) == (RESULT, "card\n")
    assert (tmp_path / "threads").read_text() == "3"


@pytest.mark.parametrize(
    ("story", "says", "exit_code"),
    [
        ("a rank fails", "^SearchError: what the rank said$", 4),
        ("ends without a word", "torchrun ended with exit code 1; the log above", 1),
        ("is killed", "torchrun ended with exit code -9", 143),
        ("is told of our SIGTERM", "^StoppedBySignal: what the rank said$", 143),
    ],
)
def test_a_failure_is_that_of_the_first_rank(torchrun, story, says, exit_code):
    torchrun(story)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RanksFailed, match=says) as raised:
        run_ranks(CONFIG, CONTEXT, {})
    assert raised.value.exit_code == exit_code
    assert signal.getsignal(signal.SIGTERM) is before
