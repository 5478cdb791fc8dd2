import base64
import hashlib
import re
from dataclasses import replace

import pytest

from components.contracts.manifest import FileEntry, Manifest, ProducedBy
from components.evaluate.asked import Asked
from components.evaluate.assessment import Bootstrap, Evaluation
from components.evaluate.contrasts import contrast
from components.evaluate.cost import answer_cost
from components.evaluate.evaluation_page import evaluation_page, headline
from components.evaluate.scores import by_method, compare, score_average, score_sets
from components.report.episodes import EpisodeView
from components.report.spans import Span

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
            contrasts={m: contrast(ours, found, 2, 0) for m, found in grouped.items() if m != "search_r1"},
            costs={method: answer_cost(found, 2.0) for method, found in grouped.items()},
            bootstrap=Bootstrap(7, 300),
            asked={name: Asked(num_questions, num_questions, None, num_questions) for name in ("nq", "musique")},
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
    made = evaluation({"search_r1": 0.5, "rag": 0.2})
    lost = {"search_r1": 1, "rag": 2}
    averages = {m: score.model_copy(update={"search_failures": lost[m]}) for m, score in made.averages.items()}
    assert "3 episodes lost a search" in " ".join(headline(replace(made, averages=averages)))


def test_the_page_has_every_part(evaluation):
    html = evaluation_page(evaluation({"search_r1": 0.8, "base": 0.2, "rag": 0.3, "direct": 0.0, "rl_no_search": 0.1}))
    for part in ("Result", "Exact match", "against each other", "Training", "Episodes", "Cost", "What each", "Lineage"):
        assert f"<h2>{part}" in html or f"<h2>Search-R1 {part}" in html
    assert "400 questions over 2 sets" in html and html.count("<svg") == 4 + 1


def test_one_method_alone_has_no_comparison(evaluation):
    assert "against each other" not in evaluation_page(evaluation({"search_r1": 0.5}))


def test_no_text_of_a_model_or_corpus_reaches_the_page_unescaped(evaluation):
    harmless, hostile = evaluation({"search_r1": 0.5}), evaluation({"search_r1": 0.5})
    hostile = replace(hostile, episodes=[episode(HOSTILE)], lineage=[(HOSTILE, hostile.lineage[0][1])])
    html = evaluation_page(hostile)
    assert html.count("<script") == 1 and html.count("<") == evaluation_page(harmless).count("<")


def test_the_script_of_the_page_is_the_only_one_it_allows(evaluation):
    html = evaluation_page(evaluation({"search_r1": 0.5}))
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#x27;sha256-{digest}&#x27;" in html and "default-src &#x27;none&#x27;" in html
    assert "innerHTML" not in script and "eval" not in script and "document.write" not in script


def test_baselines_come_first_and_ours_last_as_in_the_paper(evaluation):
    html = evaluation_page(evaluation({"search_r1": 0.8, "base": 0.2, "rag": 0.3, "direct": 0.0, "rl_no_search": 0.1}))
    table = re.search(r'<table class="em">.*?</table>', html)[0]
    labels = re.findall(r'<th scope="row"><span>(.*?)</span>', table)
    assert labels == ["Direct", "RAG", "RL without search", "Base in the loop", "Search-R1"]
    assert "General QA" in table and "Multi-hop QA" in table


def test_questions_won_and_lost_are_counted_and_some_are_shown(evaluation):
    html = evaluation_page(evaluation({"search_r1": 0.8, "rag": 0.3}))
    assert "200 / 200 / 0" in html and "Search-R1 alone was right 200 times, RAG alone 0 times, both 120" in html
    assert html.count('<span class="badge right">won</span>') == 2


def test_sampled_sets_are_said_with_seed_and_size(evaluation):
    made = evaluation({"search_r1": 0.5})
    assert "Not every question" not in evaluation_page(made)
    asked = {"nq": Asked(200, 3610, 4, 500), "musique": Asked(200, 200, None, 200)}
    html = evaluation_page(replace(made, asked=asked))
    assert (
        "NQ 200 of 3,610 (drawn by seed 4, then those whose ids have the smallest hash" in html
        and "MuSiQue 200 of" not in html
    )
    assert "n = 200 of 3,610" in html and "300 resamples, seed 7" in html


@pytest.mark.parametrize(
    ("facts", "shown"),
    [
        pytest.param({"num_gpus": 8}, "20.00", id="gpus"),
        pytest.param({"num_gpus": 0}, "0.00", id="cpu"),
        pytest.param({}, "\N{EN DASH}", id="not-recorded"),
    ],
)
def test_gpu_hours_are_shown_where_they_are_known(evaluation, facts, shown):
    made = evaluation({"search_r1": 0.5})
    spent = {"steps": 9, "tokens": 1234, "rl_s": 9000.0} | facts
    checkpoint = made.lineage[0][1].model_copy(update={"metadata": spent})
    html = evaluation_page(replace(made, lineage=[("checkpoint", checkpoint)]))
    cells = [element.split("</td>")[0] for element in html.split(">checkpoint</th>")[1].split('class="number">')[1:6]]
    assert cells == ["0.0 s", "2 h 30 min", "9", "1,234", shown]


def test_equal_results_give_equal_pages(evaluation):
    shares = {"search_r1": 0.8, "base": 0.2}
    assert evaluation_page(evaluation(shares)) == evaluation_page(evaluation(shares))


def test_an_interval_without_spread_is_not_taken_for_certainty(evaluation):
    assert "rule of three" not in evaluation_page(evaluation({"search_r1": 0.5}))
    assert "of 30 questions alike, the true share may lie up to 0.10 away" in evaluation_page(
        evaluation({"search_r1": 1.0}, 30)
    )
