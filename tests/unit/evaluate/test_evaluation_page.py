from dataclasses import replace

import pytest

from components.contracts.manifest import FileEntry, Manifest, ProducedBy
from components.evaluate.evaluation_page import Evaluation, evaluation_page, headline
from components.evaluate.scores import by_method, compare, score_average, score_sets
from components.report.episodes import EpisodeView, Span

HOSTILE = "</style><script>alert('x')</script>"


def episode(text: str) -> EpisodeView:
    spans = tuple(Span(source=source, text=text, num_tokens=3) for source in ("prompt", "model", "retrieved"))
    return EpisodeView(
        question_id="nq:1", set_name="nq", question=text, golden_answers=(text,), prediction=text, has_answer=True,
        em=0.0, num_searches=1, stop_reason="answered", spans=spans,
    )  # fmt: skip


@pytest.fixture
def evaluation(row):
    def make(shares: dict[str, float], num_questions: int = 200) -> Evaluation:
        rows = [
            row(method=method, set_name=name, index=i, em=float(i < share * num_questions))
            for method, share in shares.items()
            for name in ("nq", "musique")
            for i in range(num_questions)
        ]
        grouped = by_method(rows)
        ours = grouped["search_r1"]
        made = ProducedBy(step="index", version="v", git_commit="c", config_sha256="f")
        files = (FileEntry(path="a", size=1, sha256="0" * 64),)
        index = Manifest(kind="index", uri="file:///x", files=files, digest="d" * 64, produced_by=made)
        return Evaluation(
            scores={method: score_sets(found, 0, 300) for method, found in grouped.items()},
            averages={method: score_average(found, 0, 300) for method, found in grouped.items()},
            differences={m: compare(ours, found, 0, 300) for m, found in grouped.items() if m != "search_r1"},
            wall_s=dict.fromkeys(grouped, 2.0),
            in_domain=frozenset({"nq"}),
            max_searches=4,
            episodes=[episode("plain")],
            training_metrics=[{"step": 1, "reward/mean": 0.1}, {"step": 2, "reward/mean": 0.2}],
            chosen_step=2,
            lineage=[("index", index)],
        )

    return make


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        pytest.param({"search_r1": 0.8, "base": 0.2}, ["80.0 %", "20.0 %", "gained 60.0 points"], id="learnt"),
        pytest.param({"search_r1": 0.2, "base": 0.8}, ["lost 60.0 points"], id="unlearnt"),
        pytest.param({"search_r1": 0.5, "base": 0.5}, ["may be chance"], id="nothing-learnt"),
        pytest.param({"search_r1": 0.8, "rag": 0.1, "direct": 0.3}, ["ahead of", "Direct", "30.0 %"], id="best-other"),
        pytest.param({"search_r1": 0.1, "rag": 0.4}, ["behind the strongest other method, RAG"], id="behind"),
        pytest.param({"search_r1": 0.4, "rag": 0.4}, ["not clearly different from"], id="level"),
        pytest.param({"search_r1": 0.4}, ["40.0 %"], id="alone"),
    ],
)
def test_the_result_is_said_in_words(evaluation, shares, expected):
    text = " ".join(headline(evaluation(shares)))
    assert all(part in text for part in expected), text


def test_failed_searches_are_said(evaluation):
    made = evaluation({"search_r1": 0.5})
    failed = made.averages["search_r1"].model_copy(update={"search_failures": 3})
    assert "3 episodes lost a search" in " ".join(headline(replace(made, averages={"search_r1": failed})))


def test_the_page_has_every_part(evaluation):
    html = evaluation_page(evaluation({"search_r1": 0.8, "base": 0.2, "rag": 0.3, "direct": 0.0, "rl_no_search": 0.1}))
    for part in ("Result", "Exact match", "against each other", "Training", "Episodes", "What each method", "Lineage"):
        assert part in html
    assert "400 questions over 2 sets" in html and html.count("<svg") == 4 + 1


def test_one_method_alone_has_no_comparison(evaluation):
    assert "against each other" not in evaluation_page(evaluation({"search_r1": 0.5}))


def test_no_text_of_a_model_or_corpus_reaches_the_page_unescaped(evaluation):
    harmless, hostile = evaluation({"search_r1": 0.5}), evaluation({"search_r1": 0.5})
    hostile = replace(hostile, episodes=[episode(HOSTILE)], lineage=[(HOSTILE, hostile.lineage[0][1])])
    html = evaluation_page(hostile)
    assert "<script" not in html and html.count("<") == evaluation_page(harmless).count("<")


def test_equal_results_give_equal_pages(evaluation):
    shares = {"search_r1": 0.8, "base": 0.2}
    assert evaluation_page(evaluation(shares)) == evaluation_page(evaluation(shares))
