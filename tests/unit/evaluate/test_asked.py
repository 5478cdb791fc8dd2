import pytest

from components.contracts.manifest import Manifest, ProducedBy, content_digest
from components.evaluate.asked import Asked, asked_in_words, asked_of
from components.evaluate.contrasts import contrast

MADE = ProducedBy(step="questions", version="v", git_commit="c", config_sha256="f")


def questions(**facts) -> Manifest:
    return Manifest(kind="questions", uri="file:///q", files=(), digest=content_digest(()), produced_by=MADE, **facts)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param({"counts": {"test/nq": 5}}, Asked(5, 5, None, 5), id="whole"),
        pytest.param({"counts": {"test/nq": 300}}, Asked(5, 300, None, 300), id="cut-by-evaluate"),
        pytest.param(
            {"counts": {"test/nq": 5}, "metadata": {"sampled": {"test/nq": {"questions": 5, "of": 3610, "seed": 7}}}},
            Asked(5, 3610, 7, 5),
            id="drawn-by-questions",
        ),
        pytest.param(
            {"counts": {"test/nq": 50}, "metadata": {"sampled": {"test/nq": {"questions": 50, "of": 3610, "seed": 7}}}},
            Asked(5, 3610, 7, 50),
            id="both",
        ),
        pytest.param({}, Asked(5, 5, None, 5), id="nothing-known"),
    ],
)
def test_how_many_of_how_many_were_asked(row, facts, expected):
    rows = [row(index=i) for i in range(5)]
    assert asked_of(questions(**facts), rows) == {"nq": expected}


def test_sets_drawn_alike_are_named_together():
    asked = {
        "nq": Asked(5, 3610, 7, 5),
        "popqa": Asked(6, 14267, 7, 6),
        "musique": Asked(9, 9, None, 9),
        "bamboogle": Asked(20, 125, None, 125),
    }
    words = asked_in_words(asked)
    assert "NQ 5 of 3,610, PopQA 6 of 14,267 (drawn by seed 7); Bamboogle 20 of 125 (those whose" in words
    assert "MuSiQue" not in words and asked_in_words({"musique": asked["musique"]}) == ""


def test_questions_are_won_lost_or_neither(row):
    ours = [row(index=i, em=em) for i, em in enumerate([1, 1, 0, 0, 1, 1])]
    theirs = [row(method="rag", index=i, em=em) for i, em in enumerate([0, 1, 1, 0, 0, 0])]
    found = contrast(ours, theirs, num_shown=2, seed=3)
    assert (found.num_won, found.num_lost, found.num_both_right, found.num_both_wrong) == (3, 1, 1, 1)
    assert len(found.won) == 2 and {pair[0].question_id for pair in found.won} < {"nq:0", "nq:4", "nq:5"}
    assert [(a.question_id, b.method) for a, b in found.lost] == [("nq:2", "rag")]
    assert contrast(ours, theirs, 2, 3) == found and contrast(ours, theirs, 0, 3).won == ()
    drawn = {pair[0].question_id for seed in range(9) for pair in contrast(ours, theirs, 1, seed).won}
    assert drawn == {"nq:0", "nq:4", "nq:5"}
