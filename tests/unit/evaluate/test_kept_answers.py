"""Answers outlive whatever ends a process, and nothing is asked twice; ranks change nothing."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.agent.config import LoopConfig
from components.contracts.errors import ManifestError, SearchError, UserError
from components.contracts.manifest import Manifest, ProducedBy
from components.evaluate.chunks import Rank, cut
from components.evaluate.config import Budgets, CotBudget, EvaluateConfig
from components.evaluate.gathering import gather
from components.evaluate.job import LIBRARIES, Job
from components.evaluate.kept_answers import Answer, KeptAnswers
from components.evaluate.methods import METHODS
from components.evaluate.predictions import write_predictions
from components.evaluate.share import CANDIDATES_PER_EPISODE, answer_share
from components.storage import open_storage, publish

MADE = ProducedBy(step="test", version="v", git_commit="c", config_sha256="f")
LOOP = LoopConfig(max_turn_tokens=60, max_observation_tokens=200, max_context_tokens=600, max_searches=2)
SCRIPT = Path(__file__).with_name("answering_process.py")


ALONE = Rank()


class Stopped(Exception):
    """What ends a rank in these tests."""


def manifest(kind: str, letter: str) -> Manifest:
    return Manifest(kind=kind, uri="file:///nowhere", files=(), digest=letter * 64, produced_by=MADE)


@pytest.fixture
def make_job(tmp_path):
    """Make a job over questions of two sets; the root may be another storage."""

    def make(methods=("search_r1", "direct"), num_questions=24, root="", **changes) -> Job:
        root = root or f"file://{tmp_path}/root"
        folder = tmp_path / "questions"
        for name in ("nq", "musique"):
            path = folder / "test" / f"{name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            numbers = range(num_questions // 2)
            rows = ({"id": f"{name}:{i}", "set_name": name, "question": f"where is {name} {i}?"} for i in numbers)
            path.write_text("".join(json.dumps(row | {"golden_answers": ["x"]}) + "\n" for row in rows))
        questions = publish(folder, storage_root=f"file://{tmp_path}/root", kind="questions", produced_by=MADE)
        config = EvaluateConfig(methods=methods, questions_per_chunk=5, num_report_episodes=2)
        models = {"checkpoint": manifest("checkpoint", "c"), "base_model": manifest("base_model", "b")}
        given = {"config": config, "models": models, "loops": dict.fromkeys(models, LOOP), "questions": questions}
        return Job(**given | {"index": manifest("index", "i"), "storage_root": root, "code_sha256": "0" * 64} | changes)

    return make


def searching(context: str) -> str:
    if "<information>" not in context and "answer:" not in context:
        return f"<search> {context.splitlines()[0].removeprefix('Question: ')} </search>"
    return "<answer> x </answer>" if "answer:" not in context else " x\n"


@pytest.fixture
def run_share(scripted, dict_searcher):
    """Run a rank over doubles; returns how often each (method, question) was asked anything."""

    def run(job: Job, rank: Rank = ALONE, stop_after: int = 10**9, failing=frozenset()) -> Counter:
        asked: Counter = Counter()

        def reply(context: str) -> str:
            if sum(asked.values()) >= stop_after:
                raise Stopped
            method = "direct" if "answer:" in context else "search_r1"
            asked[method, context.splitlines()[0].partition(": ")[2]] += 1
            return searching(context)

        model = scripted(reply)
        searcher = dict_searcher({}, failing)
        answer_share(job, rank, job.read_questions(), lambda *_: model, lambda *_: None, lambda: searcher)
        return asked

    return run


@pytest.fixture
def gathered(tmp_path):
    """Gather a job and return the bytes of its predictions and the results."""

    def run(job: Job):
        results = gather(job, job.read_questions())
        path = tmp_path / "predictions.parquet"
        write_predictions([row for result in results.values() for row in result.rows], path)
        return path.read_bytes(), results

    return run


def test_every_question_is_answered_once_and_gathered_in_order(make_job, run_share, gathered, tmp_path):
    job = make_job()
    asked = run_share(job)
    assert {count for (method, _), count in asked.items() if method == "direct"} == {1} and len(asked) == 48
    _, results = gathered(job)
    rows = pq.read_table(tmp_path / "predictions.parquet")
    ids = [question.id for question in job.read_questions()]
    assert rows["question_id"].to_pylist() == ids * 2
    assert rows["method"].to_pylist() == ["search_r1"] * 24 + ["direct"] * 24
    assert [row.num_searches for row in results["search_r1"].rows] == [1] * 24
    assert len(results["search_r1"].views) == 2 and not results["direct"].views


@pytest.mark.parametrize("world", [2, 3, 7])
def test_ranks_share_the_questions_and_write_the_same_bytes(make_job, run_share, gathered, tmp_path, world):
    alone, together = make_job(), make_job(root=f"file://{tmp_path}/together")
    run_share(alone)
    shares = [run_share(together, Rank(number, world)) for number in range(world)]
    assert sum(map(len, shares)) == len(set().union(*shares)) == 48
    one, many = gathered(alone), gathered(together)
    assert one[0] == many[0] and one[1]["search_r1"].views == many[1]["search_r1"].views


@pytest.mark.parametrize("stop_after", [1, 4, 13, 37, 60])
def test_after_a_stop_only_what_is_missing_is_asked(make_job, run_share, gathered, tmp_path, stop_after):
    job, whole = make_job(), make_job(root=f"file://{tmp_path}/whole")
    finished = set()
    with pytest.raises(Stopped):
        run_share(job, stop_after=stop_after)
    for method in job.config.methods:
        kept = KeptAnswers(job.answers_uri(method), tmp_path)
        questions = job.read_questions()
        for chunk in cut(method, len(questions), 5):
            rows = questions[chunk.start : chunk.stop]
            ids = {q.id for q in rows} if kept.is_complete(chunk) else kept.journal(chunk).answers().keys()
            finished |= {(method, q.question) for q in rows if q.id in ids}
    asked = run_share(job)
    assert not finished & asked.keys() and len(finished) + len(asked) == 48
    run_share(whole)
    assert gathered(job)[0] == gathered(whole)[0]
    assert not run_share(job)


def test_a_killed_process_has_lost_at_most_the_question_it_was_at(make_job, tmp_path):
    job = make_job(methods=("search_r1", "direct"), num_questions=600)
    # One turn a question: the log holds a line for each question asked.
    job = replace(job, loops=dict.fromkeys(job.models, LOOP.model_copy(update={"max_searches": 0})))
    (tmp_path / "job").write_bytes(pickle.dumps(job))
    log = tmp_path / "log"
    command = [sys.executable, str(SCRIPT), str(tmp_path / "job"), str(log)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    num_kills = 0
    for lines in (150, 500):
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < lines):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        num_kills += process.wait() == -signal.SIGKILL
    subprocess.run(command, env=environment, check=True, timeout=100)
    asked = Counter(log.read_text().splitlines())
    assert num_kills == 2 and len(asked) == 2 * 600
    assert sum(asked.values()) - len(asked) <= num_kills


def test_a_question_whose_search_failed_is_asked_again(make_job, run_share, gathered):
    failing = frozenset({"where is nq 3?"})
    config = EvaluateConfig(methods=("search_r1",), questions_per_chunk=5, max_search_failure_frac=0.05)
    job = make_job(config=config)
    run_share(job, failing=failing)
    _, results = gathered(job)
    assert sum(bool(row.search_error) for row in results["search_r1"].rows) == 1
    with pytest.raises(SearchError, match=r"1 of 24 .*max_search_failure_frac.*evaluate again"):
        gathered(replace(job, config=config.model_copy(update={"max_search_failure_frac": 0.0})))
    assert {question for _, question in run_share(job)} == failing
    assert not any(row.search_error for row in gathered(job)[1]["search_r1"].rows)


def test_a_rank_stops_at_one_failed_search_too_many_and_keeps_what_it_has(make_job, run_share):
    job = make_job(methods=("search_r1",))
    with pytest.raises(SearchError, match=r"search_r1: 1 of 24 questions lost a search"):
        run_share(job, failing=frozenset({"where is nq 6?"}))
    assert not {"where is nq 0?", "where is nq 3?"} & {question for _, question in run_share(job)}


def test_only_episodes_that_may_be_shown_are_kept_whole(make_job, run_share, tmp_path):
    job = make_job(methods=("search_r1",))
    run_share(job)
    questions, kept = job.read_questions(), KeptAnswers(job.answers_uri("search_r1"), tmp_path)
    tables = [
        kept.read(chunk, [question.id for question in questions[chunk.start : chunk.stop]])[0]
        for chunk in cut("search_r1", len(questions), 5)
    ]
    views = [view for table in tables for view in table["view"].to_pylist() if view]
    assert len(views) == job.config.num_report_episodes * CANDIDATES_PER_EPISODE < len(questions)


def test_of_two_lines_about_one_question_the_later_counts(make_job, run_share, gathered):
    config = EvaluateConfig(methods=("search_r1",), questions_per_chunk=5, max_search_failure_frac=0.1)
    job = make_job(config=config)
    for failing in ({"where is nq 5?", "where is nq 6?"}, {"where is nq 6?"}):
        run_share(job, failing=frozenset(failing))
    failed = [row.question for row in gathered(job)[1]["search_r1"].rows if row.search_error]
    assert failed == ["where is nq 6?"]


def test_answers_that_cannot_be_published_stay_in_the_journal(make_job, run_share, tmp_path):
    job = make_job(methods=("search_r1",))
    # A folder stands where the file of the first chunk belongs.
    in_the_way = Path(job.answers_uri("search_r1").removeprefix("file://")) / "chunk-000000.parquet"
    (in_the_way / "x").mkdir(parents=True)
    with pytest.raises(UserError, match="Is a directory"):
        run_share(job)
    shutil.rmtree(in_the_way)
    first = {question.question for question in job.read_questions()[:4]}
    assert not first & {question for _, question in run_share(job)}


def test_the_seconds_of_all_chunks_add_up(make_job, row, tmp_path):
    job = make_job(methods=("search_r1",))
    questions, kept = job.read_questions(), KeptAnswers(job.answers_uri("search_r1"), tmp_path)
    for chunk in cut("search_r1", len(questions), 5):
        asked = questions[chunk.start : chunk.stop]
        kept.complete(chunk, [Answer(row(question_id=question.id)) for question in asked], 1.5)
    assert gather(job, questions)["search_r1"].wall_s == 5 * 1.5


def test_every_method_answers_with_its_own_weights_and_loop(make_job, scripted, dict_searcher):
    class Counting(dict_searcher):
        def search(self, queries, top_k):
            asked_for.add(top_k)
            return super().search(queries, top_k)

    def open_model(name, loop):
        opened.append((name, loop))
        return scripted(lambda context: f"<answer> {name} </answer>" if name == "checkpoint" else f" {name}")

    opened, asked_for = [], set()
    # Four letters of an answer, and passages by twos, for the base alone.
    loops = {"checkpoint": LOOP, "base_model": LOOP.model_copy(update={"max_turn_tokens": 5, "top_k": 2})}
    job = make_job(methods=("search_r1", "rag"), loops=loops)
    questions = job.read_questions()
    answer_share(job, ALONE, questions, open_model, lambda *_: None, lambda: Counting({}))
    predictions = {method: {row.prediction for row in found.rows} for method, found in gather(job, questions).items()}
    assert predictions == {"search_r1": {"checkpoint"}, "rag": {"base"}}
    assert (opened, asked_for) == (list(loops.items()), {2})


def test_a_line_torn_by_a_crash_is_asked_again(make_job, run_share):
    job = make_job()
    with pytest.raises(Stopped):
        run_share(job, stop_after=7)
    (journal,) = Path(job.answers_uri("search_r1").removeprefix("file://")).glob("*.jsonl")
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-9])
    torn = json.loads(whole.splitlines()[-1])["row"]["question"]
    assert ("search_r1", torn) in run_share(job)


@pytest.mark.parametrize("store_every_s", [pytest.param(0.0, id="as-they-come"), pytest.param(1e9, id="at-the-stop")])
def test_answers_on_their_way_are_found_in_an_object_store(
    make_job, run_share, gathered, s3_root, monkeypatch, store_every_s
):
    monkeypatch.setattr("components.evaluate.kept_answers.STORE_EVERY_S", store_every_s)
    job = make_job(root=s3_root)
    with pytest.raises(Stopped):
        run_share(job, stop_after=16)
    names = [info.key.rpartition(".")[2] for info in open_storage(job.answers_uri("search_r1")).list()]
    assert "jsonl" in names
    assert len(run_share(job)) <= 48 - 6
    assert len(gathered(job)[1]["direct"].rows) == 24


def test_beside_a_failed_search_answers_are_kept_in_an_object_store(make_job, run_share, gathered, s3_root):
    failing = frozenset({"where is nq 3?"})
    config = EvaluateConfig(methods=("search_r1",), questions_per_chunk=5, max_search_failure_frac=0.05)
    job = make_job(config=config, root=s3_root)
    run_share(job, failing=failing)
    assert len(gathered(job)[1]["search_r1"].rows) == 24
    assert {question for _, question in run_share(job)} == failing


def test_as_many_answers_of_other_questions_are_refused(make_job, row, tmp_path):
    kept, (chunk,) = KeptAnswers(make_job().answers_uri("rag"), tmp_path), cut("rag", 2, 5)
    kept.complete(chunk, [Answer(row(question_id=name)) for name in ("a", "b")], 1.0)
    assert kept.read(chunk, ["a", "b"])[0].num_rows == 2
    for others in (["a", "c"], ["b", "a"]):
        with pytest.raises(ManifestError, match="does not hold the answers of rag"):
            kept.read(chunk, others)


def test_answers_that_are_missing_are_never_made_up(make_job, run_share, gathered):
    job = make_job()
    run_share(job, Rank(0, 2))
    with pytest.raises(ManifestError, match="does not hold the answers of"):
        gathered(job)


CHANGES = [
    pytest.param({"code_sha256": "1" * 64}, True, id="code"),
    pytest.param({"index": manifest("index", "j")}, True, id="index"),
    pytest.param({"questions": manifest("questions", "r")}, True, id="questions"),
    pytest.param({"models": {"base_model": manifest("base_model", "x")}}, True, id="weights"),
    pytest.param({"models": {"base_model": manifest("base_model", "b")}}, False, id="another-checkpoint"),
    pytest.param({"loops": {"base_model": LOOP.model_copy(update={"top_k": 2})}}, True, id="loop"),
    pytest.param({"config": {"num_slots": 7}}, True, id="batches"),
    pytest.param({"config": {"max_questions_per_set": 7}}, True, id="number-of-questions"),
    pytest.param({"config": {"budgets": Budgets(cot=CotBudget(max_thought_tokens=9))}}, True, id="own-budget"),
    pytest.param({"config": {"budgets": Budgets(react={"max_steps": 2})}}, False, id="budget-of-another-method"),
    pytest.param({"config": {"ranks": 4}}, False, id="ranks"),
    pytest.param({"config": {"methods": ("search_r1", "cot", "rag")}}, False, id="other-methods"),
    pytest.param({"config": {"bootstrap_resamples": 100}}, False, id="resamples"),
    pytest.param({"config": {"seed": 7, "num_report_episodes": 3}}, False, id="episodes-shown"),
]


@pytest.mark.parametrize(("changes", "moves"), CHANGES)
def test_answers_are_shared_exactly_by_evaluations_that_would_get_the_same(make_job, changes, moves):
    job = make_job()
    config = job.config.model_copy(update=changes.get("config", {}))
    other = replace(job, **(changes | {"config": config}))
    assert (other.answers_uri("cot") != job.answers_uri("cot")) is moves


def test_other_episodes_to_show_need_other_answers_of_the_model_alone(make_job):
    job = make_job()
    other = replace(job, config=job.config.model_copy(update={"num_report_episodes": 3}))
    assert job.answers_uri("search_r1") != other.answers_uri("search_r1")


def test_methods_of_one_model_keep_their_answers_apart(make_job):
    methods = [method for method, entry in METHODS.items() if entry.model == "base_model"]
    assert len({make_job().answers_uri(method) for method in methods}) == len(methods) > 4


@pytest.mark.parametrize("library", LIBRARIES)
def test_another_version_of_a_library_answers_anew(make_job, tmp_path, monkeypatch, library):
    job = make_job()
    before = job.answers_uri("cot")
    metadata = tmp_path / "site" / f"{library}-0.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: 0.0\n")
    monkeypatch.syspath_prepend(metadata.parents[1])
    assert job.answers_uri("cot") != before
