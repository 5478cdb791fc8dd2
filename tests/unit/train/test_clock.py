"""Parts of a step and the time without work in them, by a clock that only moves when somebody is said to work."""

import threading

import pytest

from components.search.concurrent import SearchStats
from components.train import clock as module
from components.train import trainer as loop
from components.train.checkpoint import TrainState
from components.train.clock import Clock, WorkTime
from tests.unit.train.pupil import AHEAD, Client, Pupil


@pytest.fixture
def now(monkeypatch):
    """A clock that a test moves, in seconds."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_work_is_known_while_it_goes_on_and_also_to_another_thread(now):
    work, heard = WorkTime(), []
    with work:
        now[0] += 2
        thread = threading.Thread(target=lambda: heard.append(work.seconds()))
        thread.start()
        thread.join()
    now[0] += 5
    with pytest.raises(ZeroDivisionError), work:
        now[0] += 1
        raise ZeroDivisionError
    now[0] += 5
    assert (heard, work.seconds()) == ([2.0], 3.0)


LEVEL = [("rollout", 6, 6), ("reward", 0, 0), ("score", 1, 0), ("reward", 0, 0), ("update", 2, 0), ("publish", 1, 0)]


@pytest.mark.parametrize(
    ("parts", "save_s", "idle_frac"),
    [
        pytest.param(LEVEL, 0, 0.0, id="nothing is waited for"),
        pytest.param([("rollout", 6, 1), *LEVEL[1:]], 0, 0.5, id="slow searches"),
        pytest.param([("rollout", 6, 6), ("reward", 3, 0), ("update", 2, 0), ("reward", 1, 0)], 0, 1 / 3, id="rewards"),
        pytest.param(LEVEL, 10, 0.5, id="a slow save"),
        pytest.param([("score", 1, 0), ("update", 5, 5), ("ahead_wait", 2, 0)], 0, 0.25, id="ahead: others sample"),
        pytest.param([("score", 1, 1), ("update", 5, 1), ("ahead_wait", 2, 2)], 0, 0.0, id="ahead: a long rollout"),
        pytest.param([("reward", 2, 2), ("update", 2, 0)], 0, 0.0, id="ahead: the engine works beside the host"),
        pytest.param([("update", 8, 0), ("ahead_wait", 0, 0)], 0, 0.0, id="ahead: searches beside the update"),
    ],
)
def test_idle_is_what_neither_the_main_thread_nor_the_engine_fills(now, parts, save_s, idle_frac):
    """Each part with its seconds and those of the engine's steps within it."""
    work = WorkTime()
    with work:
        now[0] += 50  # Before the step: none of its business.
    clock = Clock(work)
    for name, seconds, engine_s in parts:
        with work:
            now[0] += engine_s
        now[0] += seconds - engine_s
        clock.lap(name)
    metrics = clock.metrics(save_s)
    assert metrics.pop("perf/gpu_idle_frac") == pytest.approx(idle_frac)
    assert sum(metrics.values()) == sum(seconds for _, seconds, _ in parts)


def test_step_of_the_engine_that_outlasts_a_part_counts_in_both(now):
    work = WorkTime()
    clock = Clock(work)
    now[0] += 1
    with work:
        now[0] += 2
        clock.lap("reward")
        now[0] += 3
        clock.lap("ahead_wait")
    assert clock.metrics(0.0)["perf/gpu_idle_frac"] == pytest.approx(1 / 6)


QUESTIONS, TURNS = 6, 2


class SlowSearch(Client):
    """Every search takes `search_s` on the clock."""

    def __init__(self, now, search_s: float) -> None:
        super().__init__()
        self.now, self.search_s, self.stats = now, search_s, SearchStats()

    def submit(self, query):
        self.now[0] += self.search_s
        return super().submit(query)


class SteadyPupil(Pupil):
    """Every step takes 1 s; none in a thread begins before `go`. The last one of the second rollout sets `ended`."""

    def __init__(self, now) -> None:
        super().__init__([0.3])
        self.now, self.go, self.ended, self.steps = now, threading.Event(), threading.Event(), 0

    def step(self):
        in_main = threading.current_thread() is threading.main_thread()
        assert in_main or self.go.wait(60)
        self.now[0] += 1
        self.steps += 1
        outputs = super().step()
        if self.steps == 2 * QUESTIONS * TURNS:
            self.ended.set()
        return outputs


class TimedLearner:
    """A learner whose updates take 8 s, and meanwhile do `beside`."""

    def __init__(self, learner, now, beside=lambda: None) -> None:
        self._learner, self._now, self._beside = learner, now, beside

    def __getattr__(self, name):
        return getattr(self._learner, name)

    def update(self, *given):
        self._beside()
        self._now[0] += 8
        return self._learner.update(*given)


@pytest.mark.parametrize(
    ("search_s", "save_s", "idle_frac"), [(0, 0, 0.0), (0.01, 0, 0.06 / 20.06), (5, 0, 30 / 50), (5, 50, 80 / 100)]
)
def test_step_tells_how_long_it_waited_for_searches_and_for_the_save(make_trainer, now, search_s, save_s, idle_frac):
    """Twelve turns of 1 s, six searches, an update of 8 s."""
    trainer = make_trainer([0.3], SlowSearch(now, search_s))
    trainer.engine, trainer.learner, trainer.save_s = SteadyPupil(now), TimedLearner(trainer.learner, now), save_s
    metrics = trainer.train_step(TrainState())
    assert metrics["perf/gpu_idle_frac"] == pytest.approx(idle_frac)
    assert metrics["time/rollout_s"] == pytest.approx(12 + 6 * search_s)
    assert metrics["time/update_s"] == 8


@pytest.mark.parametrize(("beside_the_update", "idle_frac"), [(True, 30 / 92), (False, 60 / 92)])
def test_searches_of_a_rollout_ahead_leave_the_device_idle_only_when_nothing_else_runs(
    make_trainer, now, beside_the_update, idle_frac
):
    """Each rollout takes 42 s, 30 of them for searches; the first one runs alone."""
    trainer = make_trainer([0.3], SlowSearch(now, 5), **AHEAD)
    pupil = trainer.engine = SteadyPupil(now)
    end = trainer.ahead.end

    def release_then_end():
        pupil.go.set()
        return end()

    def play():
        pupil.go.set()
        assert pupil.ended.wait(60)

    trainer.learner = TimedLearner(trainer.learner, now, play if beside_the_update else lambda: None)
    trainer.ahead.end = release_then_end
    metrics = trainer.train_step(TrainState())
    assert metrics["perf/gpu_idle_frac"] == pytest.approx(idle_frac)
    assert metrics["time/update_s"] == (50 if beside_the_update else 8)


def test_sampling_the_base_model_waits_for_searches_too(make_trainer, now):
    trainer = make_trainer([0.3], SlowSearch(now, 5), algorithm="rejection_sampling", rollout_steps=2)
    trainer.engine = SteadyPupil(now)
    assert trainer.train_step(TrainState())["perf/gpu_idle_frac"] == pytest.approx(60 / 84)


def test_rewards_and_advantages_have_a_time_of_their_own(make_trainer, now, monkeypatch):
    def slowly(function, seconds):
        def slow(*given, **named):
            now[0] += seconds
            return function(*given, **named)

        return slow

    for name, seconds in {"rewards": 1, "gather_experience": 2, "advantages_and_returns": 4}.items():
        monkeypatch.setattr(loop, name, slowly(getattr(loop, name), seconds))
    trainer = make_trainer([0.3])
    trainer.engine, trainer.learner = SteadyPupil(now), TimedLearner(trainer.learner, now)
    metrics = trainer.train_step(TrainState())
    assert (metrics["time/reward_s"], metrics["time/score_s"]) == (7, 0)
    assert metrics["perf/gpu_idle_frac"] == pytest.approx(7 / (12 + 7 + 8))
