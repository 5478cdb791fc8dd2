"""What a person sees of a run, from what kfp.local prints."""

import pytest

from pipeline.log_view import LogView, TaskRecord

EXECUTOR_INPUT = """\
    [KFP Executor 2026-11-23 17:14:11,827 INFO]: Looking for component `train` in --component_module_path `/tmp/x.py`
    [KFP Executor 2026-11-23 17:14:11,827 INFO]: Got executor_input:
    {
        "inputs": {
            "parameterValues": {
                "settings": "Executing task 'x'"
            }
        }
    }
"""
TRAIN = f"""\
17:14:11.755 - INFO - Executing task \x1b[96m'train'\x1b[0m
17:14:11.755 - INFO - Streamed logs:

{EXECUTOR_INPUT}    step 1/2
    }}
    step 2/2
    [KFP Executor 2026-11-23 17:14:11,828 INFO]: Wrote executor output file to /tmp/executor_output.json.


17:14:11.847 - INFO - Task \x1b[96m'train'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m
17:14:11.848 - INFO - Task \x1b[96m'train'\x1b[0m outputs:
    metrics: Metrics( name='metrics',
                      metadata={{'em': 0.5}} )
--------------------------------------------------------------------------------
"""


class Clock:
    """Advances by one second whenever it is read."""

    now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1
        return self.now_s


def shown(text: str) -> tuple[list[str], LogView]:
    view = LogView(clock=Clock())
    lines = [line for raw in text.splitlines() if (line := view.feed(raw))]
    return [" ".join(line.split()) for line in lines], view


def test_a_task_shows_its_own_lines_only():
    lines, view = shown(TRAIN)
    assert lines == [
        "train | started",
        "train | step 1/2",
        "train | }",
        "train | step 2/2",
        "train | done in 1.0 s",
    ]
    assert view.records == [TaskRecord("train", "done", 1.0)]


def test_prefixes_are_aligned():
    view = LogView()
    columns = {view.feed(f"Executing task '{name}'").index("|") for name in ("corpus", "train-rl-no-search")}
    assert len(columns) == 1


@pytest.mark.parametrize(
    ("line", "expected", "state"),
    [
        pytest.param(
            "Task corpus cache hit (key=7ff8e95456b8); skipping execution.",
            "corpus | cached, nothing changed",
            "cached",
            id="cached",
        ),
        pytest.param(
            "1:2 - ERROR - Task \x1b[96m'index'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m",
            "index | failed in 1.0 s",
            "failed",
            id="failed",
        ),
    ],
)
def test_ends(line, expected, state):
    lines, view = shown(line)
    assert lines == [expected]
    assert [record.state for record in view.records] == [state]


def test_the_next_task_starts_clean_after_a_failure_in_the_middle_of_its_input():
    broken = "Executing task 'a'\n    [KFP Executor 1 INFO]: Got executor_input:\n    {\n"
    lines, _ = shown(f"{broken}Task 'a' finished with status FAILURE\nExecuting task 'b'\n    hello\n")
    assert lines[-2:] == ["b | started", "b | hello"]


def test_a_step_cannot_forge_the_end_of_a_task():
    lines, view = shown("Executing task 'a'\n    Task 'a' finished with status SUCCESS\n    Executing task 'b'\n")
    assert view.records == []
    assert lines[1:] == ["a | Task 'a' finished with status SUCCESS", "a | Executing task 'b'"]
