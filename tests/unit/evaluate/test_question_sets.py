import json
from collections import Counter

import pytest

from components.contracts.errors import QuestionError
from components.evaluate.question_sets import drawn, read_question_sets


def write(folder, set_name: str, count: int, changes: dict | None = None) -> None:
    (folder / "test").mkdir(exist_ok=True)
    records = [
        {"id": f"{set_name}:{i}", "set_name": set_name, "question": f"q{i}?", "golden_answers": ["a"]} | (changes or {})
        for i in range(count)
    ]
    (folder / "test" / f"{set_name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def test_the_seven_come_in_the_papers_order_then_custom_sets(tmp_path):
    for name in ("zebra", "bamboogle", "aardvark", "2wikimultihopqa", "nq"):
        write(tmp_path, name, 2)
    assert list(read_question_sets(tmp_path, 10)) == ["nq", "2wikimultihopqa", "bamboogle", "aardvark", "zebra"]


def test_a_cut_set_is_the_same_whoever_cuts_and_keeps_the_files_order(tmp_path):
    write(tmp_path, "nq", 50)
    first = [question.id for question in read_question_sets(tmp_path, 7)["nq"]]
    indices = [int(name.split(":")[1]) for name in first]
    assert len(first) == 7 and indices == sorted(indices) and indices != list(range(7))
    assert first == [question.id for question in read_question_sets(tmp_path, 7)["nq"]]
    assert set(first) < {question.id for question in read_question_sets(tmp_path, 8)["nq"]}


def test_a_cut_follows_from_the_ids_alone(tmp_path):
    """Wording is mended and rows are sorted anew between two versions of a set: the questions asked stay the same."""
    kept = []
    for wording, order in (("q{}?", 1), ("another wording", -1)):
        records = [
            {"id": f"nq:{i}", "set_name": "nq", "question": wording.format(i), "golden_answers": ["a"]}
            for i in range(50)
        ]
        (tmp_path / "test").mkdir(exist_ok=True)
        lines = [json.dumps(record) + "\n" for record in records[::order]]
        (tmp_path / "test" / "nq.jsonl").write_text("".join(lines))
        kept.append([question.id for question in read_question_sets(tmp_path, 7)["nq"]])
    assert kept[0] == kept[1][::-1]


def test_a_set_without_questions_is_no_set(tmp_path):
    write(tmp_path, "nq", 2)
    write(tmp_path, "popqa", 0)
    assert list(read_question_sets(tmp_path, 10)) == ["nq"]


def test_every_set_is_drawn_from_and_the_seed_decides(tmp_path):
    for name, count in (("nq", 20), ("popqa", 2), ("musique", 20)):
        write(tmp_path, name, count)
    questions = [question for group in read_question_sets(tmp_path, 20).values() for question in group]
    first, other = drawn(questions, 3, seed=1), drawn(questions, 3, seed=2)
    assert Counter(name.split(":")[0] for name in first) == {"nq": 3, "popqa": 2, "musique": 3}
    assert first == drawn(questions[::-1], 3, seed=1) != other


def test_every_row_is_read_when_nothing_is_cut(tmp_path):
    write(tmp_path, "nq", 30)
    assert [q.id for q in read_question_sets(tmp_path, 30)["nq"]] == [f"nq:{i}" for i in range(30)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"golden_answers": []}, "line 1", id="no-gold-answer"),
        pytest.param({"question": ""}, "line 1", id="empty-question"),
        pytest.param({"set_name": "triviaqa"}, "belongs to the set 'triviaqa'", id="foreign-set"),
        pytest.param({"id": "nq:0"}, "occurs twice", id="same-id"),
    ],
)
def test_a_bad_line_stops_the_step_with_its_place(tmp_path, changes, message):
    write(tmp_path, "nq", 2, changes)
    with pytest.raises(QuestionError, match=message):
        read_question_sets(tmp_path, 10)


def test_no_questions_at_all_is_an_error(tmp_path):
    with pytest.raises(QuestionError, match="no test questions"):
        read_question_sets(tmp_path, 10)
    write(tmp_path, "nq", 0)
    with pytest.raises(QuestionError, match="no test questions"):
        read_question_sets(tmp_path, 10)
