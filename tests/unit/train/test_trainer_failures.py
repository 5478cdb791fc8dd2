"""What the world does to a training run: searches that fail, wait or end, an engine that disagrees, likelihood lost."""

import re
import threading
import time
from concurrent.futures import Future
from dataclasses import replace

import pytest
import torch

from components.contracts.errors import SearchError, TrainingStopped
from components.contracts.passage import Passage, ScoredPassage
from components.search.concurrent import ConcurrentSearch
from components.train.checkpoint import TrainState
from tests.unit.train.pupil import AHEAD, EVERY_STEP, NUM_DEV, Client, Pupil, weights


class FaultySearcher:
    """Answers everything with one passage; `outcome(call)` decides what a call does: nothing, wait, or fail."""

    digest = "0" * 64

    def __init__(self, outcome) -> None:
        self.outcome, self.calls, self.lock = outcome, 0, threading.Lock()

    def search(self, queries, top_k):
        with self.lock:
            self.calls += 1
            call = self.calls
        self.outcome(call)
        return [[ScoredPassage(Passage("0", "x"), 1.0)] for _ in queries]


def every_tenth_fails(call) -> None:
    if call % 10 == 0:
        raise SearchError("503 from the retriever")


def fails_after(good_calls):
    def outcome(call):
        if call > good_calls:
            raise SearchError("connection refused")

    return outcome


def takes(seconds):
    return lambda call: time.sleep(seconds)


def observations(trainer) -> set[str]:
    """Retrieved text of every context that the engine was shown."""
    contexts = ("".join(map(chr, request.token_ids)) for request in trainer.engine.requests)
    return {
        found for context in contexts for found in re.findall("<information>(.*?)</information>", context, re.DOTALL)
    }


def with_searcher(make_trainer, outcome, *, deadline_s=30.0, **values):
    # One query a call, nothing remembered: every query meets the searcher.
    client = ConcurrentSearch(FaultySearcher(outcome), 1, max_batch=1, cache_size=0, deadline_s=deadline_s)
    return make_trainer([0.3], client, **values)


def test_search_that_fails_one_call_in_ten_is_retried_counted_and_trained_on(make_trainer):
    trainer = with_searcher(make_trainer, every_tenth_fails, steps=3)
    with trainer.client:
        state = trainer.run(TrainState())
    steps = [metrics for _, metrics in trainer.tracker.lines[1:]]
    assert state.step == 3
    assert 1 <= sum(metrics["search/retries"] for metrics in steps) <= trainer.client.stats.retries
    assert {metrics["search/failed_frac"] for metrics in steps} == {0.0}
    assert not any("stop/search_failed" in metrics for metrics in steps)
    assert len(observations(trainer)) == 1
    assert "Doc 1" in observations(trainer).pop()


def test_slow_search_is_waited_for_and_measured(make_trainer):
    trainer = with_searcher(make_trainer, takes(0.1), steps=1)
    with trainer.client:
        trainer.run(TrainState())
    _, metrics = trainer.tracker.lines[1]
    assert 0.1 <= metrics["time/search_s/mean"] <= metrics["time/search_s/p95"] < 5
    assert (metrics["search/failed_frac"], metrics["search/retries"]) == (0.0, 0.0)


def test_search_slower_than_its_deadline_stops_the_step_with_the_boundary_named(make_trainer):
    trainer = with_searcher(make_trainer, takes(0.5), deadline_s=0.1)
    with (
        trainer.client,
        pytest.raises(SearchError, match=r"^search: 6 of 6 .* training step .* no answer within 0.1 s"),
    ):
        trainer.train_step(TrainState())
    assert observations(trainer) == set()


@pytest.mark.parametrize(
    ("good_calls", "where"),
    [(NUM_DEV + 2, "a training step"), (NUM_DEV + 6, "a dev evaluation")],
    ids=["down-while-training", "down-while-evaluating"],
)
def test_search_that_goes_down_stops_the_run_and_leaves_the_weights_alone(make_trainer, good_calls, where):
    """It answers the first dev evaluation and, in the second case, all of the first step."""
    trainer = with_searcher(make_trainer, fails_after(good_calls), dev=EVERY_STEP)
    before = weights(trainer.learner.policy)
    with trainer.client, pytest.raises(SearchError, match=rf"^search: \d+ of \d+ .* {where} .* connection refused"):
        trainer.run(TrainState())
    assert trainer.client.stats.retries >= 3
    assert len(observations(trainer)) == 1
    assert [step for step, _ in trainer.tracker.lines] == [0]
    assert torch.equal(weights(trainer.learner.policy), before) == (where == "a training step")
    assert trainer.checkpoints.complete() == ["step_000000"]


def test_dev_question_whose_search_failed_says_nothing_about_the_model(make_trainer):
    class OneFails(Client):
        def submit(self, query):
            if query == "0":
                future = Future()
                future.set_exception(SearchError("the engine is down"))
                return future
            return super().submit(query)

    trainer = make_trainer([0.5], OneFails(), max_search_failure_frac=0.2)
    trainer.dev_questions = [
        asked.model_copy(update={"metadata": {"kind": f"{number}"}})
        for number, asked in enumerate(trainer.dev_questions)
    ]
    dev_em, by_kind = trainer.evaluate_dev(TrainState())
    assert dev_em == 4 / 9
    assert by_kind == {f"em/dev/nq/{number}": float(number < 5) for number in range(1, NUM_DEV)}


def test_engine_that_disagrees_with_the_trainer_stops_the_run_also_when_it_was_killed_in_between(make_trainer):
    limit = {"correction": {"max_mismatch_kl": 0.01}}
    trainer = make_trainer([0.3], **limit)
    with pytest.raises(TrainingStopped, match=r"engine/trainer: .* for 3 steps, the last of them step 3"):
        trainer.run(TrainState())
    assert [step for step, _ in trainer.tracker.lines] == [0, 1, 2, 3]
    assert trainer.tracker.lines[3][1]["kl/rollout_vs_trainer"] > 0.01
    trainer.checkpoints.finish()
    resumed = make_trainer([0.3], **limit)
    with pytest.raises(TrainingStopped, match="the last of them step 3"):
        resumed.run(resumed.checkpoints.restore("step_000003", resumed.learner))
    assert make_trainer([0.3], steps=2, folder="short", **limit).run(TrainState()).mismatch_in_a_row == 2


def test_engine_that_disagrees_to_the_very_end_stops_the_run_too(make_trainer):
    with pytest.raises(TrainingStopped, match="the last of them step 3"):
        make_trainer([0.3], steps=3, correction={"max_mismatch_kl": 0.01}).run(TrainState())


def test_episodes_that_were_sampled_ahead_may_be_an_update_further_from_the_trainer(make_trainer):
    """At a limit between a half and the whole of what is found, only a batch of current weights is too far away."""
    trainer = make_trainer([0.3], steps=4, **AHEAD)
    trainer.run(TrainState())
    found = [metrics["kl/rollout_vs_trainer"] for _, metrics in trainer.tracker.lines[1:]]
    limit = 0.75 * min(found)
    assert limit < found[0] and max(found) < 2 * limit
    correction = AHEAD["correction"] | {"max_mismatch_kl": limit}
    states = []
    watched = make_trainer([0.3], steps=4, folder="watched", **AHEAD | {"correction": correction})
    watched.announce = lambda state, metrics: states.append(state.mismatch_in_a_row)
    watched.run(TrainState())
    assert states == [1, 0, 0, 0]


class FadingPupil(Pupil):
    """Right as often as ever, but less sure of it in every step."""

    def step(self):
        (output,) = super().step()
        asked = len(self.requests) / 32
        return [replace(output, logprobs=[-asked] * len(output.token_ids))]


def test_falling_likelihood_of_right_answers_returns_to_the_best_weights(make_trainer, capsys):
    trainer = make_trainer([0.5], steps=6, dev=EVERY_STEP)
    trainer.engine = FadingPupil([0.5])
    state = trainer.run(TrainState())
    assert state.num_rollbacks == 1
    assert "log-probability of right episodes kept falling" in capsys.readouterr().out
    means = [metrics["logprob/correct_mean"] for _, metrics in trainer.tracker.lines[1:]]
    assert means == sorted(means, reverse=True)


def test_state_of_the_guard_travels_with_checkpoints(make_trainer):
    trainer = make_trainer([0.3], steps=3)
    state = trainer.run(TrainState())
    assert len(state.update_guard["norms"]) == 3
    resumed = make_trainer([0.3], steps=3)
    saved = resumed.checkpoints.restore("step_000002", resumed.learner)
    assert resumed.learner.guard.state_dict() == saved.update_guard
    assert saved.update_guard["norms"] == state.update_guard["norms"][:2]
