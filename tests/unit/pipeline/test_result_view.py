"""The end of a run as text."""

from pipeline.log_view import TaskRecord
from pipeline.result_view import score_table, task_table


def test_score_table_is_aligned_and_ends_with_the_mean():
    table = score_table(
        {
            "search_r1": {"nq": {"em": 0.9}, "2wikimultihopqa": {"em": 0.5}},
            "rl_no_search": {"nq": {"em": 0.0}, "2wikimultihopqa": {"em": 0.125}},
        }
    )
    assert table.splitlines() == [
        "exact match      nq  2wikimultihopqa   mean",
        "search_r1     0.900            0.500  0.700",
        "rl_no_search  0.000            0.125  0.062",
    ]


def test_a_set_one_method_lacks_stays_open():
    assert score_table({"a": {"x": {"em": 1.0}}, "b": {"y": {"em": 0.5}}}).splitlines()[1].split() == [
        "a",
        "1.000",
        "-",
        "1.000",
    ]


def test_task_table_tells_cached_work_from_new_work():
    records = [TaskRecord("base-model", "cached", 0.0), TaskRecord("train", "done", 61.26)]
    assert [line.split() for line in task_table(records, {"base_model": 33.0, "train": 60.0}).splitlines()[1:]] == [
        ["base-model", "cached", "33.0", "s"],
        ["train", "61.3", "s", "60.0", "s"],
    ]


def test_a_task_that_failed_is_not_called_cached():
    assert task_table([TaskRecord("index", "failed", 2.0)], {}).splitlines()[1].split() == ["index", "2.0", "s"]


def test_an_average_brings_the_interval_of_the_mean():
    average = {"search_r1": {"ci95": [0.6421, 0.7579]}}
    table = score_table({"search_r1": {"nq": {"em": 0.9}, "popqa": {"em": 0.5}}}, average)
    assert [line.split("  ")[-1].strip() for line in table.splitlines()] == ["95 % of mean", "0.642-0.758"]
