"""The questions step: layouts, roles, leaks, limits and refusals."""

import json
from pathlib import Path

import pytest

from components.contracts.errors import ConfigError, MissingError, QuestionError
from components.contracts.question import SEVEN_SETS, Question
from components.contracts.step import StepContext
from components.questions.config import QuestionsConfig
from components.questions.main import run
from components.storage import fetch


def row(number: int, text: str = "", **changes) -> dict:
    made = {"id": f"row{number}", "question": text or f"Question {number}?", "golden_answers": [f"answer {number}"]}
    return made | changes


def put(folder: Path, name: str, rows: list) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in rows))


def step_run(tmp_path: Path, **settings):
    settings.setdefault("uri", str(tmp_path / "source"))
    config = QuestionsConfig.parse(settings)
    return run(config, StepContext("questions", f"file://{tmp_path}/runs", "0" * 64, config.sha256()))


def published(result, name: str) -> list[Question]:
    return [Question.model_validate_json(line) for line in (fetch(result.manifest) / name).open()]


def texts(questions: list[Question]) -> set[str]:
    return {question.question for question in questions}


@pytest.fixture
def source(tmp_path) -> Path:
    """Two sets: `nq` with all three splits, `hotpotqa` without a test file, as in the real data."""
    folder = tmp_path / "source"
    put(folder, "nq/test.jsonl", [row(i) for i in range(10)])
    put(folder, "nq/dev.jsonl", [row(i) for i in range(100, 120)])
    put(folder, "nq/train.jsonl", [row(i) for i in range(200, 260)])
    put(folder, "hotpotqa/dev.jsonl", [row(i) for i in range(300, 310)])
    kinds = [row(i, metadata={"kind": "comparison" if i % 3 == 0 else "bridge"}) for i in range(400, 460)]
    put(folder, "hotpotqa/train.jsonl", kinds)
    return folder


TWO = {"test_sets": ["nq", "hotpotqa"], "dev_questions": 5}


def test_roles_are_disjoint_and_ids_unique(tmp_path, source):
    result = step_run(tmp_path, **TWO)
    test = published(result, "test/nq.jsonl") + published(result, "test/hotpotqa.jsonl")
    train, dev = published(result, "train.jsonl"), published(result, "dev.jsonl")
    every = test + train + dev
    assert len({question.id for question in every}) == len(every) == len(texts(every))
    assert [question.id for question in test[:2]] == ["nq:0", "nq:1"]
    assert test[0].metadata["source_id"] == "row0"
    assert texts(test[10:]) == {f"Question {i}?" for i in range(300, 310)}
    assert result.manifest.metadata["splits"] == {"nq": "test", "hotpotqa": "dev"}
    assert result.manifest.counts == {
        "leaked": 0, "test": 20, "test/nq": 10, "test/hotpotqa": 10,
        "train": 95, "train/nq": 60, "train/hotpotqa": 35, "dev": 10, "dev/nq": 5, "dev/hotpotqa": 5,
    }  # fmt: skip


def test_dev_comes_from_the_dev_file_else_from_train(tmp_path, source):
    dev = published(step_run(tmp_path, **TWO), "dev.jsonl")
    assert texts(dev[:5]) <= {f"Question {i}?" for i in range(100, 120)}
    assert texts(dev[5:]) <= {f"Question {i}?" for i in range(400, 460)}
    more = published(step_run(tmp_path, **TWO | {"dev_questions": 25, "train_sets": ["nq"]}), "dev.jsonl")
    assert sum(question.id.startswith("nq:dev-") for question in more) == 20
    assert sum(question.id.startswith("nq:train-") for question in more) == 5


def test_training_is_filtered_by_kind(tmp_path, source):
    filtered = published(step_run(tmp_path, **TWO), "train.jsonl")
    assert {question.kind for question in filtered} == {"nq", "hotpotqa/bridge"}
    everything = published(step_run(tmp_path, **TWO | {"train_kinds": []}), "train.jsonl")
    assert {question.kind for question in everything} == {"nq", "hotpotqa/bridge", "hotpotqa/comparison"}


def test_dev_is_filtered_by_kind_too(tmp_path, source):
    put(source, "hotpotqa/test.jsonl", [row(i) for i in range(500, 505)])
    kinds = [row(i, metadata={"kind": "comparison" if i % 3 == 0 else "bridge"}) for i in range(300, 330)]
    put(source, "hotpotqa/dev.jsonl", kinds)
    dev = published(step_run(tmp_path, **TWO | {"dev_questions": 20}), "dev.jsonl")
    assert {question.kind for question in dev if question.id.startswith("hotpotqa:dev-")} == {"hotpotqa/bridge"}


def test_draws_depend_on_the_split_seed_alone(tmp_path, source):
    limits = TWO | {"max_train_questions": 20, "max_test_questions": 4}
    first, again = step_run(tmp_path, **limits), step_run(tmp_path, **limits)
    other = step_run(tmp_path, **limits | {"split_seed": 1})
    assert first.manifest.digest == again.manifest.digest != other.manifest.digest
    assert (first.manifest.counts["train"], first.manifest.counts["test"]) == (40, 8)
    one_set = step_run(tmp_path, **limits | {"test_sets": ["nq"], "train_sets": ["nq"]})
    assert published(one_set, "test/nq.jsonl") == published(first, "test/nq.jsonl")


def test_test_questions_are_taken_out_of_train_and_dev_even_those_over_the_limit(tmp_path, source):
    leaks = [row(900, "question 3"), row(901, "  THE Question 4!")]
    put(source, "nq/train.jsonl", leaks + [row(i) for i in range(200, 260)])
    put(source, "nq/dev.jsonl", [row(5)] + [row(i) for i in range(100, 120)])
    settings = TWO | {"max_test_questions": 1, "dev_questions": 20}
    result = step_run(tmp_path, **settings)
    assert result.manifest.counts["leaked"] == 3
    kept = texts(published(result, "train.jsonl") + published(result, "dev.jsonl"))
    assert not kept & {"question 3", "THE Question 4!", "Question 5?"}
    with pytest.raises(QuestionError, match="3 training or dev questions are also test questions"):
        step_run(tmp_path, **settings | {"leaked": "error"})


def test_questions_of_nothing_but_articles_and_marks_are_told_apart(tmp_path, source):
    put(source, "nq/test.jsonl", [row(1, "The The?")])
    put(source, "nq/train.jsonl", [row(2, " the THE? "), row(3, "A?!"), *(row(i) for i in range(200, 260))])
    result = step_run(tmp_path, **TWO)
    assert result.manifest.counts["leaked"] == 1
    assert "A?!" in texts(published(result, "train.jsonl"))


def test_a_dev_question_is_not_trained_on(tmp_path, source):
    put(source, "nq/train.jsonl", [row(i) for i in range(100, 160)])
    result = step_run(tmp_path, **TWO | {"train_sets": ["nq"]})
    assert not texts(published(result, "train.jsonl")) & texts(published(result, "dev.jsonl"))


@pytest.mark.parametrize("name", ["nq/test.jsonl", "test/nq.jsonl", "nq.jsonl", "nq/dev.jsonl", "nq/train.jsonl"])
def test_layouts_for_evaluation(tmp_path, name):
    put(tmp_path / "source", name, [row(1)])
    result = step_run(tmp_path, test_sets=["nq"], train_sets=[])
    assert texts(published(result, "test/nq.jsonl")) == {"Question 1?"}
    assert published(result, "train.jsonl") == published(result, "dev.jsonl") == []


def test_own_sets_follow_the_same_layout(tmp_path):
    put(tmp_path / "source", "our-help-desk/test.jsonl", [row(1)])
    put(tmp_path / "source", "train/our-help-desk.jsonl", [row(i) for i in range(2, 9)])
    result = step_run(tmp_path, test_sets=["our-help-desk"], train_sets=["our-help-desk"], dev_questions=2)
    assert result.manifest.counts["train"] == 5


def test_the_small_world_suits_the_defaults(tmp_path):
    result = step_run(tmp_path, uri="world://mini?seed=3", dev_questions=10)
    counts = result.manifest.counts
    assert all(counts[f"test/{name}"] > 0 for name in SEVEN_SETS)
    assert counts["dev"] == 20
    assert {question.kind for question in published(result, "train.jsonl")} == {"nq/single", "hotpotqa/bridge"}
    assert not list((tmp_path / "runs" / "work").rglob("*.*"))


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        pytest.param("{oops", "not JSON", id="json"),
        pytest.param("[]", "not an object", id="list"),
        pytest.param('{"golden_answers": ["x"]}', "no question text", id="no-question"),
        pytest.param('{"question": "  ", "golden_answers": ["x"]}', "no question text", id="blank-question"),
        pytest.param('{"question": "x"}', "no golden_answers", id="no-gold"),
        pytest.param('{"question": "x", "golden_answers": []}', "no golden answer", id="empty-gold"),
        pytest.param('{"question": "x", "golden_answers": [" "]}', "no golden answer", id="blank-gold"),
        pytest.param('{"question": "x", "golden_answers": "y"}', "not a list of texts", id="gold-type"),
        pytest.param('{"question": "x", "golden_answers": [1]}', "not a list of texts", id="number-gold"),
        pytest.param('{"question": "x", "golden_answers": ["y"], "metadata": 1}', "not an object", id="metadata"),
        pytest.param(
            '{"question": "x", "golden_answers": ["y"], "metadata": {"k": "\\ud800"}}',
            "surrogate",
            id="half-in-metadata",
        ),
        pytest.param('{"question": "\\ud800", "golden_answers": ["y"]}', "surrogate", id="half-a-surrogate-pair"),
    ],
)
def test_a_bad_question_is_named_and_stops_the_step(tmp_path, source, entry, says):
    (source / "nq" / "test.jsonl").write_text(json.dumps(row(1)) + "\n" + entry + "\n")
    with pytest.raises(QuestionError, match=rf"test\.jsonl, line 2: .*{says}") as caught:
        step_run(tmp_path, **TWO)
    assert "at least one golden answer" in str(caught.value)
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]


def test_blank_and_repeated_aliases_are_dropped(tmp_path):
    put(tmp_path / "source", "nq/test.jsonl", [row(1, golden_answers=[" a ", "", "b", "a"], metadata=None)])
    result = step_run(tmp_path, test_sets=["nq"], train_sets=[])
    assert published(result, "test/nq.jsonl")[0].golden_answers == ("a", "b")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        pytest.param({"test_sets": ["popqa"]}, "no file of the set 'popqa'; it has hotpotqa, nq", id="absent-test-set"),
        pytest.param({"train_sets": ["bamboogle"]}, "no train file of the set 'bamboogle'", id="absent-train-set"),
        pytest.param({"dev_questions": 500}, "No question of 'nq' is left", id="all-dev"),
        pytest.param({"train_kinds": ["hotpotqa/unknown"]}, "No question of 'hotpotqa' is left", id="no-such-kind"),
    ],
)
def test_what_cannot_be_split_is_refused(tmp_path, source, settings, says):
    with pytest.raises(QuestionError, match=says):
        step_run(tmp_path, **TWO | settings)


def test_a_set_cannot_be_tested_and_trained_on_with_one_file(tmp_path):
    put(tmp_path / "source", "nq/train.jsonl", [row(i) for i in range(20)])
    with pytest.raises(QuestionError, match="cannot be tested and trained on"):
        step_run(tmp_path, test_sets=["nq"], train_sets=["nq"], dev_questions=1)


def test_sources_that_are_no_folder(tmp_path):
    with pytest.raises(MissingError, match="absent"):
        step_run(tmp_path, uri=str(tmp_path / "absent"))
    put(tmp_path, "one.jsonl", [row(1)])
    with pytest.raises(QuestionError, match="is a file"):
        step_run(tmp_path, uri=str(tmp_path / "one.jsonl"))
    put(tmp_path / "source", "nq/test.jsonl", [])
    with pytest.raises(QuestionError, match="holds no question"):
        step_run(tmp_path, test_sets=["nq"], train_sets=[])


@pytest.mark.parametrize("name", ["../nq", "a/b", "", ".hidden"])
def test_set_names_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(ConfigError):
        step_run(tmp_path, test_sets=[name])
