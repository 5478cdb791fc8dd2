import json

import pytest

from components.contracts.errors import QuestionError
from components.evaluate.question_sets import read_question_sets


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
