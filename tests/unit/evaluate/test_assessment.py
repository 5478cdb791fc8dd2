"""What the report says of the other methods is about them and about nobody else."""

import pytest

from components.agent.config import LoopConfig
from components.contracts.manifest import Manifest, ProducedBy
from components.evaluate.assessment import Answers, Bootstrap, assess
from components.evaluate.cost import answering_table
from components.storage import publish

MADE = ProducedBy(step="train", version="v", git_commit="c", config_sha256="f")


@pytest.fixture
def checkpoint(tmp_path) -> Manifest:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "metrics.jsonl").write_text('{"step": 1, "attempt": 1, "time_s": 0.0}\n')
    root = f"file://{tmp_path}/root"
    return publish(tmp_path / "checkpoint", storage_root=root, kind="checkpoint", produced_by=MADE)


@pytest.fixture
def assessed(row, checkpoint):
    """Search-R1 answers three of four questions, RAG another one."""
    right = {"search_r1": {0, 1, 2}, "rag": {3}}
    rows = {
        method: [row(method=method, index=i, em=float(i in known), num_searches=len(known)) for i in range(4)]
        for method, known in right.items()
    }
    questions = Manifest(kind="questions", uri="file:///q", files=(), digest="q" * 64, produced_by=MADE)
    answers = Answers(rows, {"search_r1": 10.0, "rag": 2.0}, [])
    return assess(answers, Bootstrap(0, 100), LoopConfig(), checkpoint, questions, [])


def test_a_difference_is_search_r1_minus_the_other(assessed):
    (difference,) = assessed.differences.values()
    assert (difference.mean, difference.num_won, difference.num_lost) == (0.5, 3, 1)
    (contrast,) = assessed.contrasts.values()
    assert (contrast.num_won, contrast.num_lost, len(contrast.won), len(contrast.lost)) == (3, 1, 3, 1)
    assert {(ours.method, theirs.method) for ours, theirs in contrast.won} == {("search_r1", "rag")}


def test_costs_are_each_methods_own(assessed):
    costs = {method: (cost.num_questions, cost.wall_s, cost.num_searches) for method, cost in assessed.costs.items()}
    assert costs == {"search_r1": (4, 10.0, 12), "rag": (4, 2.0, 4)}
    # Time, questions a second, tokens, tokens a second, searches.
    cells = answering_table(assessed.costs).split(">RAG</th>")[1].split('class="number">')[1:6]
    assert [cell.split("</td>")[0] for cell in cells] == ["2.0 s", "2.0", "40", "20", "4"]
