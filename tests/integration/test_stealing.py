"""Ranks that take tasks from one counter: every task once, a slow rank fewer of them, everything home in order."""

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.multiprocessing

from components.agent.config import LoopConfig
from components.agent.engines.protocol import TurnOutput
from components.agent.episode_loop import EpisodeTask
from components.agent.rollout import rollout
from components.train.clock import Clock, WorkTime
from components.train.config import TrainConfig
from components.train.ranks import joined, rank, sum_over_ranks
from components.train.sharing import TaskSharing
from tests.unit.train.pupil import Client, LetterTokenizer

TASKS = 32
LOOP = LoopConfig(max_searches=0, max_turn_tokens=64, max_context_tokens=256)


class CountingEngine:
    """Ends one turn a step, after `step_s`, with the prompt as the answer."""

    def __init__(self, step_s: float, fails_at: int = -1) -> None:
        self.step_s, self.fails_at, self.waiting, self.most_waiting, self.played = step_s, fails_at, [], 0, 0

    def add_request(self, request) -> None:
        self.waiting.append(request)
        self.most_waiting = max(self.most_waiting, len(self.waiting))

    def step(self):
        if self.played == self.fails_at:
            os._exit(9)
        time.sleep(self.step_s)
        self.played += 1
        request = self.waiting.pop(0)
        ids = [ord(c) for c in f"<answer>{''.join(map(chr, request.token_ids))}</answer>"]
        return [TurnOutput(request.sequence_id, ids, [0.0] * len(ids), "stop")]

    def has_unfinished(self) -> bool:
        return bool(self.waiting)

    def release(self, sequence_id) -> None:
        pass


def tasks_named(name: str) -> list[EpisodeTask]:
    return [EpisodeTask(f"{name}{i}", [ord(c) for c in f"{name}{i}"], i, 1.0) for i in range(TASKS)]


def play(
    sharing: TaskSharing,
    engine: CountingEngine,
    name: str,
    pool: ThreadPoolExecutor | None = None,
    engine_time: WorkTime | None = None,
) -> list[str]:
    """Return the answers of a rollout; played in a thread of `pool`, the main thread makes collectives meanwhile."""
    hand = sharing.deal(tasks_named(name))
    given = (engine, Client(), hand, LOOP, LetterTokenizer())
    limits = {"max_under_way": hand.max_under_way, "reproducible": False, "engine_time": engine_time or WorkTime()}
    if pool is None:
        episodes = rollout(*given, **limits)
    else:
        future = pool.submit(rollout, *given, **limits)
        for _ in range(20):
            assert sum_over_ranks({"x": 1.0})["x"] > 1
            time.sleep(0.005)
        episodes = future.result()
    return [episode.answer for episode in sharing.gather(hand, episodes)]


def work(number: int, world: int, port: int, fails: bool, queue) -> None:
    """Play rollouts that are stolen, stolen in a thread, dealt, and dealt to pairs that share an engine.

    The first rank is slow, the last one may be killed.
    """
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(world), "LOCAL_RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    parallel = {"cpu_ranks": world}
    pairs = {"engine": "vllm", "vllm": {"tensor_parallel": 2}}
    configs = [TrainConfig(parallel=parallel | {"share_rollouts": mode}, num_slots=4) for mode in ("stealing", "fixed")]
    configs.append(TrainConfig(parallel=parallel, **pairs))
    with joined(configs[0].parallel), ThreadPoolExecutor(1) as pool:
        stealing, fixed, paired = map(TaskSharing, configs)
        step_s = 0.05 if rank() == 0 else 0.005
        engines = [CountingEngine(step_s, fails_at=1 if fails and number == world - 1 else -1) for _ in range(4)]
        answers = [play(stealing, engines[0], "a"), play(stealing, engines[1], "b", pool)]
        engine_time = WorkTime()
        clock = Clock(engine_time)
        answers.append(play(fixed, engines[2], "c", engine_time=engine_time))
        clock.lap("rollout")
        answers.append(play(paired, engines[3], "d"))
        idle_frac = clock.metrics(0.0)["perf/gpu_idle_frac"]
        # Dealt and not played: as many as a rank may begin with.
        limits = [stealing.deal(tasks_named("e")[:count]).max_under_way for count in (TASKS, 8, 1)]
        queue.put((number, answers, [(engine.played, engine.most_waiting) for engine in engines], limits, idle_frac))


def launch(world: int, fails: bool = False) -> list[tuple]:
    """Return (answers, work, limits of what is under way, share of the dealt rollout without work) of every rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(work, args=(world, port, fails, queue), nprocs=world)
    found = {number: rest for number, *rest in (queue.get() for _ in range(world))}
    return [tuple(found[number]) for number in range(world)]


def check(found: list[tuple]) -> None:
    for answers, *_ in found:
        assert answers == [[f"{name}{i}" for i in range(TASKS)] for name in "abcd"]
    for stolen in (0, 1):
        slow, *others = [work[stolen] for _, work, *_ in found]
        assert slow[0] + sum(played for played, _ in others) == TASKS
        assert slow[0] < min(played for played, _ in others)
        assert max(waiting for _, waiting in (slow, *others)) <= 4
    for dealt, ranks_per_engine in ((2, 1), (3, 2)):
        share = TASKS * ranks_per_engine // len(found)
        assert {work[dealt] for _, work, *_ in found} == {(share, share)}
    # The slots of an engine at most, and three quarters of a fair share, so that something is left to steal.
    assert all(limits == [4, {2: 3, 4: 1}[len(found)], 1] for *_, limits, _ in found)
    # All but the slow rank wait for it, most of the time; every rank knows the mean.
    (idle_frac,) = {idle_frac for *_, idle_frac in found}
    assert (1 - 1 / len(found)) / 4 < idle_frac < 1


@pytest.mark.timeout(120)
def test_four_ranks_play_every_task_once_in_order_and_the_slow_one_plays_fewer():
    check(launch(4))


@pytest.mark.timeout(120)
def test_so_do_two_after_a_launch_of_which_one_was_killed():
    with pytest.raises(torch.multiprocessing.ProcessExitedException, match="exit code 9"):
        launch(2, fails=True)
    check(launch(2))
