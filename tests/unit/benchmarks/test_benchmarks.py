"""The benchmarks at toy size: both sides do the same work, and the record says what was measured."""

import contextlib
import json
import sys
from dataclasses import asdict, replace

import pytest
import torch

from benchmarks import gpu, gpu_models, ranks, record, rollout, update, update_side
from benchmarks.lock_step import lock_step_rollout
from benchmarks.record import alone, compared, table, write_record
from benchmarks.rollout import TRL_PYTHON, measure_case
from benchmarks.search_world import Workload, model_of, searcher_of, tasks_of
from benchmarks.skewed_batch import GROUP, Batch, episodes_of
from components.agent.engines.torch_engine import TorchEngine
from components.agent.rollout import rollout as our_rollout
from components.search.concurrent import ConcurrentSearch

TOY = Workload("bundled", 10, 4, 0.0, max_searches=3, max_turn_tokens=16, top_k=1)
TOY_BATCH = Batch("bundled", 8, median_tokens=20, sigma=1.0, max_tokens=120, micro_batch_rows=4)
needs_trl = pytest.mark.skipif(not TRL_PYTHON.exists(), reason="make bench-rollout sets .venv-trl up")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def our_episodes(workload):
    model, tokenizer = model_of(workload)
    loop = workload.loop
    engine = TorchEngine(model, tokenizer, num_slots=workload.num_slots, max_context_tokens=loop.max_context_tokens)
    with ConcurrentSearch(searcher_of(workload), loop.top_k, cache_size=0) as client:
        return our_rollout(engine, client, tasks_of(workload, tokenizer, 0), loop, tokenizer), tokenizer


def test_the_plain_loop_makes_our_episodes():
    """Greedy, both loops must say, search and read the same: then they differ in the order of the work alone."""
    workload = replace(TOY, temperature=0.0)
    ours, tokenizer = our_episodes(workload)
    model, _ = model_of(workload)
    tasks = tasks_of(workload, tokenizer, 0)
    plain = lock_step_rollout(model, tokenizer, searcher_of(workload), tasks, workload.loop, workload.num_slots)
    assert [e.token_ids for e in plain] == [e.token_ids for e in ours]
    assert [e.is_model_token for e in plain] == [e.is_model_token for e in ours]
    assert sum(e.num_searches for e in ours) > len(ours)


def test_random_model_has_turns_of_skewed_lengths():
    episodes, _ = our_episodes(replace(TOY, model="rambling-0.5m", max_turn_tokens=128, top_k=2))
    lengths = [turn.end - turn.start for episode in episodes for turn in episode.turns]
    assert 15 < sum(lengths) / len(lengths) < 50
    assert max(lengths) > 3 * sorted(lengths)[len(lengths) // 2]
    assert sum(episode.num_searches for episode in episodes) > len(lengths) / 2


def test_no_passage_is_cut_so_that_observations_are_those_of_a_tool():
    workload = replace(TOY, top_k=3)
    episodes, tokenizer = our_episodes(workload)
    for episode in episodes:
        for searched, turn, following in zip(episode.searches, episode.turns, episode.turns[1:], strict=False):
            shown = tokenizer.decode(episode.token_ids[turn.end : following.start])
            assert all(found.passage.text in shown for found in searched.passages)


def test_our_update_has_the_gradient_of_the_plain_loss():
    """On policy the clipped loss has the gradient of -advantage x log-probability, averaged over model tokens."""
    measured = update_side.prepare({"threads": 1, "batch": asdict(TOY_BATCH)})(0)
    model, tokenizer = update_side.model_of(TOY_BATCH)
    given, loss = episodes_of(TOY_BATCH, len(tokenizer)), 0.0
    for start in range(0, len(given), GROUP):
        group = given[start : start + GROUP]
        rewards = torch.tensor([one.reward for one in group])
        for one, advantage in zip(group, (rewards - rewards.mean()) / (rewards.std() + 1e-6), strict=True):
            ids = torch.tensor([one.prompt_ids + one.response_ids])
            logprobs = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
            chosen = logprobs[len(one.prompt_ids) - 1 :][torch.tensor(one.is_model_token)]
            loss = loss - advantage * chosen.sum()
    (loss / sum(sum(one.is_model_token) for one in given)).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    assert measured["grad_norm"] == pytest.approx(norm.item(), rel=1e-3)
    assert measured["tokens"] == sum(len(one.prompt_ids) + len(one.response_ids) for one in given)


@pytest.mark.timeout(300)
def test_sides_are_measured_in_turns_by_processes_of_their_own(capfd):
    pythons = dict.fromkeys(("ours", "lock_step"), sys.executable)
    case, work = measure_case("toy", replace(TOY, num_episodes=4), 2, pythons, threads=1)
    assert (case.case, case.peer_name, case.repeats, case.unit) == ("toy", "lock_step", 2, "model tokens/s")
    assert case.spread[0] <= case.ratio <= case.spread[1]
    assert (work.case, work.peer_name, work.unit) == ("toy: work", "lock_step", "positions per token")
    assert work.ratio > 1, "reading every context again is more work"
    assert "lock_step: " in capfd.readouterr().out


def test_a_side_that_breaks_says_so():
    with pytest.raises(RuntimeError, match=r"benchmarks.nothing ended with status 1"):
        rollout.Side(sys.executable, "benchmarks.nothing", {}, threads=1)


def test_ratio_is_the_median_of_neighbours(tmp_path, monkeypatch):
    case = compared("c", [10.0, 40.0, 30.0], [5.0, 10.0, 30.0], "peer", "x/s")
    assert (case.ours, case.peer, case.ratio, case.spread) == (30.0, 10.0, 2.0, [1.0, 4.0])
    fewer = compared("e", [10.0, 20.0], [40.0, 40.0], "peer", "s", less_is_better=True)
    assert (fewer.ours, fewer.peer, fewer.ratio) == (15.0, 40.0, 3.0)
    single = alone("d", [3.0, 1.0, 2.0], "s")
    assert (single.ours, single.peer, single.ratio, single.spread) == (2.0, None, None, [1.0, 3.0])
    monkeypatch.setattr(record, "_commit", lambda: "abc1234")
    path = tmp_path / "results" / "toy.json"
    write_record(path, command="make x", cases=[case, single], goal={"peer": 2.0}, met={"c": True}, notes="n")
    written = json.loads(path.read_text())
    assert list(written)[:7] == ["name", "command", "commit", "machine", "cases", "goal", "met"]
    assert set(written["machine"]) == {"cpu", "cores", "gpu"}
    assert (written["name"], written["commit"], written["cases"][0]["ratio"]) == ("toy", "abc1234", 2.0)
    assert "2.00" in table([case, single])


@pytest.mark.parametrize(("seconds", "exponent"), [([1, 2, 4, 8], 1.0), ([1, 4, 16, 64], 2.0), ([3, 3, 3, 3], 0.0)])
def test_exponent_of_growth(seconds, exponent, monkeypatch):
    """Time as a power of the number of tokens."""
    answers = iter({"tokens": 100 * 2**i, "seconds": value} for i, value in enumerate(seconds))

    class Clocked(contextlib.nullcontext):
        def __init__(self, *arguments, **settings):
            super().__init__(self)
            self.answer = next(answers)

        def measure(self, repeat):
            return self.answer

    monkeypatch.setattr(update, "Side", Clocked)
    *_, last = update.scale("episodes", [1, 2, 3, 4], lambda count: TOY_BATCH, threads=1)
    assert last.ours == pytest.approx(exponent, abs=1e-3)


@pytest.mark.timeout(300)
def test_ranks_share_the_work_of_one(capfd):
    """Different gradient norms would raise; two ranks on one core have no rate of their own."""
    cases = {case.case: case for case in update.share(TOY_BATCH, [1, 2], threads=1, cores=1)}
    assert list(cases) == ["1 rank, each", "1 rank, work", "2 ranks, work", update.RANKS_NAME]
    assert all(case.ours > 0 for name, case in cases.items() if name != update.RANKS_NAME)
    assert "2 ranks: " in capfd.readouterr().out


@pytest.mark.parametrize(
    ("cpu_seconds", "exponent"),
    [
        pytest.param((2.0, 2.0, 2.0), 0.0, id="sharing costs nothing"),
        pytest.param((1.0, 2.0, 4.0), 1.0, id="every rank does all of it"),
    ],
)
def test_exponent_of_the_work_over_ranks(cpu_seconds, exponent, monkeypatch):
    class Clocked(contextlib.nullcontext):
        def __init__(self, python, module, settings, *, threads):
            super().__init__(self)
            seconds = cpu_seconds[(1, 2, 4).index(settings["ranks"])]
            self.answer = {"seconds": 1.0, "cpu_seconds": seconds, "tokens": 100, "grad_norm": 1.0}

        def measure(self, repeat):
            return self.answer

    monkeypatch.setattr(update, "Side", Clocked)
    *_, last = update.share(TOY_BATCH, (1, 2, 4), threads=1, cores=8)
    assert last.ours == pytest.approx(exponent)


def test_worlds_that_do_different_work_are_not_compared(monkeypatch):
    class Different(contextlib.nullcontext):
        def __init__(self, python, module, settings, *, threads):
            super().__init__(self)
            self.norm = float(settings["ranks"])

        def measure(self, repeat):
            return {"seconds": 1.0, "cpu_seconds": 1.0, "tokens": 100, "grad_norm": self.norm}

    monkeypatch.setattr(update, "Side", Different)
    with pytest.raises(RuntimeError, match="do different work"):
        update.share(TOY_BATCH, (1, 2), threads=1)


@pytest.mark.slow
@needs_trl
def test_trl_makes_as_many_tokens_and_searches_as_ours():
    """Nearly greedy, TRL's tool loop with our tags says and searches what ours does."""
    workload = replace(TOY, temperature=1e-3)
    pythons = {"ours": sys.executable, "trl": TRL_PYTHON}
    sides = {
        name: rollout.Side(python, rollout.MODULES[name], {"side": name, "workload": asdict(workload)}, threads=1)
        for name, python in pythons.items()
    }
    try:
        found = {name: side.measure(0) for name, side in sides.items()}
    finally:
        for side in sides.values():
            side.close()
    for key in ("tokens", "episodes", "searches"):
        assert found["trl"][key] == found["ours"][key]


@pytest.mark.slow
@needs_trl
def test_trl_update_does_the_same_work():
    case = update.compare("toy", TOY_BATCH, 1, TRL_PYTHON, threads=1)
    assert case.peer_name == "trl"


def test_the_gpu_benchmark_runs_at_toy_size():
    """No figure is looked at: the calls are those a GPU gets."""
    cases = [case for _, work in gpu.toy_plan() for case in work()]
    assert [case.unit for case in cases] == ["tokens/s"] * 3 + ["s"] * 5 + ["model tokens/s", "s"]
    assert all(case.ours > 0 for case in cases if not case.case.startswith("decode"))


def test_drawn_episodes_have_the_lengths_of_search_runs():
    episodes = gpu_models.drawn_episodes(400, 100, 1.0)
    lengths = [len(episode.token_ids) for episode in episodes]
    trained = sum(len(episode.trained_positions) for episode in episodes)
    assert 1000 < sum(lengths) / len(lengths) < 1500
    assert 0.15 < trained / sum(lengths) < 0.3
    assert all(max(episode.trained_positions) == len(episode.token_ids) - 1 for episode in episodes)


@pytest.mark.parametrize(
    "two, one, mean, error, is_none",
    [
        pytest.param([0.68, 0.70, 0.72], [0.70, 0.69, 0.71], 0.0, 0.01, True, id="differences of both signs"),
        pytest.param([0.60, 0.61, 0.62], [0.70, 0.70, 0.72], -0.0967, 0.003333, False, id="always lower"),
        pytest.param([0.70, 0.70], [0.70, 0.70], 0.0, 0.0, True, id="equal ends"),
    ],
)
def test_the_difference_of_two_ranks_is_judged_by_its_standard_error(two, one, mean, error, is_none):
    (found_mean, found_error), counts_as_none = ranks.difference("EM", two, one)
    assert (found_mean.ours, found_error.ours) == pytest.approx((mean, error), abs=5e-5)
    assert counts_as_none is is_none
