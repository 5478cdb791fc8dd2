"""The file survives crashes and repeated steps."""

import json
import math
from pathlib import Path

import pytest

from components.contracts.errors import StorageError
from components.tracking.metrics_file import METRICS_NAME, MetricsFile, read_metrics


def written(folder: Path, *attempts: list[tuple[int, dict[str, float]]]) -> list[dict]:
    for steps in attempts:
        file = MetricsFile(folder)
        for step, metrics in steps:
            file.append(step, metrics)
    return [
        {name: value for name, value in record.items() if name != "time_s"}
        for record in read_metrics(folder / METRICS_NAME)
    ]


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        pytest.param([], [], id="no file"),
        pytest.param(
            [[(1, {"a": 1.0}), (1, {"b": 2.0}), (2, {"a": 3.0})]],
            [{"step": 1, "attempt": 1, "a": 1.0, "b": 2.0}, {"step": 2, "attempt": 1, "a": 3.0}],
            id="lines of one step are merged",
        ),
        pytest.param(
            [[(1, {"a": 1.0}), (2, {"a": 2.0, "of the first": 9.0}), (3, {"a": 3.0})], [(2, {"a": 20.0})]],
            [{"step": 1, "attempt": 1, "a": 1.0}, {"step": 2, "attempt": 2, "a": 20.0}],
            id="a later attempt takes over from its first step",
        ),
    ],
)
def test_read_metrics(tmp_path: Path, attempts: list, expected: list[dict]) -> None:
    assert written(tmp_path / "run", *attempts) == expected


def test_values_that_are_not_finite_are_null_in_the_file(tmp_path: Path) -> None:
    MetricsFile(tmp_path).append(1, {"a": math.inf})
    assert json.loads((tmp_path / METRICS_NAME).read_text())["a"] is None
    assert math.isnan(read_metrics(tmp_path / METRICS_NAME)[0]["a"])


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    MetricsFile(tmp_path).append(1, {"a": 1.0})
    with (tmp_path / METRICS_NAME).open("a") as stream:
        stream.write('{"step": 2, "att')
    assert [record["step"] for record in read_metrics(tmp_path / METRICS_NAME)] == [1]
    MetricsFile(tmp_path).append(2, {"a": 2.0})
    assert [record["attempt"] for record in read_metrics(tmp_path / METRICS_NAME)] == [1, 2]


def test_a_full_disk_is_named_as_the_boundary(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    file.path.symlink_to("/dev/full")
    with pytest.raises(StorageError, match=rf"^storage: .*{METRICS_NAME}: No space left on device") as raised:
        file.append(1, {"x": 1.0})
    assert raised.value.exit_code == 75
