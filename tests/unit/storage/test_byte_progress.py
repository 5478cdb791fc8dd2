"""Bytes are reported in plain lines away from a terminal, and quick work is not reported at all."""

import pytest

from components.storage.progress import ByteProgress


def test_quick_work_is_silent(capsys: pytest.CaptureFixture) -> None:
    with ByteProgress("upload a", 100) as bar:
        bar.advance(100)
    assert capsys.readouterr() == ("", "")


def test_slow_work_says_how_far_it_is(capsys: pytest.CaptureFixture) -> None:
    now_s = iter([0.0, 5.0, 11.0, 12.0])
    with ByteProgress("upload a", 4_000_000, lambda: next(now_s)) as bar:
        for _ in range(3):
            bar.advance(1_000_000)
    assert capsys.readouterr().out == "upload a: 50% of 4 MB, 11 s left\n"
