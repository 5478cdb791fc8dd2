"""Two engines of two ranks each: all ranks of an engine ask it for the same turns, though no two searches are alike."""

import os
import re
import socket

import pytest
import torch.distributed as dist
import torch.multiprocessing

from components.agent.config import LoopConfig
from components.agent.engines.protocol import TurnOutput
from components.agent.episode_loop import EpisodeTask
from components.agent.rollout import rollout
from components.contracts.episode import StopReason
from components.contracts.errors import EngineError, SearchError
from components.contracts.passage import Passage, ScoredPassage
from components.search.concurrent import ConcurrentSearch
from components.train.config import TrainConfig
from components.train.group_search import group_search
from components.train.ranks import joined, rank, sum_over_ranks
from components.train.sharing import TaskSharing
from tests.unit.train.pupil import LetterTokenizer

TASKS, WORLD, PER_ENGINE = 24, 4, 2
LOOP = LoopConfig(max_searches=2, max_turn_tokens=64, max_observation_tokens=96, max_context_tokens=512)
CONFIG = TrainConfig.parse(
    {"engine": "vllm", "vllm": {"tensor_parallel": PER_ENGINE}, "parallel": {"cpu_ranks": WORLD}, "loop": LOOP}
)


class SharedEngine:
    """Ends one turn a step; its ranks meet in every step, as in a model's collectives, and must bring the same turns.

    The model searches for its task, and answers with what it found.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.waiting = group, []

    def add_request(self, request) -> None:
        self.waiting.append(request)

    def step(self):
        brought = [None] * PER_ENGINE
        own = [(request.sequence_id, list(request.token_ids)) for request in self.waiting]
        dist.all_gather_object(brought, own, group=self.group)
        assert brought[0] == brought[1], f"rank {rank()}: the ranks of an engine are out of step"
        request = self.waiting.pop(0)
        context = "".join(map(chr, request.token_ids))
        found = re.search(r"found \d+ by \d", context)
        text = f"<answer>{found.group()}</answer>" if found else f"<search>{context}</search>"
        return [TurnOutput(request.sequence_id, [ord(c) for c in text], [0.0] * len(text), "stop")]

    def has_unfinished(self) -> bool:
        return bool(self.waiting)

    def release(self, sequence_id) -> None:
        pass


class Searcher:
    """Says who was asked and how often before; every fourth call fails."""

    digest = "d"

    def __init__(self) -> None:
        self.calls = rank()

    def search(self, queries, top_k):
        self.calls += 1
        if self.calls % 4 == 0:
            raise SearchError(f"call {self.calls} of rank {rank()} failed")
        return [[ScoredPassage(Passage("0", f"found {self.calls} by {rank()}"), self.calls / 3)] for _ in queries]


def open_client() -> ConcurrentSearch:
    return ConcurrentSearch(Searcher(), 1, max_batch=1, max_concurrent=1, retries=0)


def work(number: int, port: int, shares_searches: bool, queue) -> None:
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(WORLD), "LOCAL_RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined(CONFIG.parallel):
        groups = [dist.new_group(list(range(first, first + PER_ENGINE))) for first in range(0, WORLD, PER_ENGINE)]
        sharing = TaskSharing(CONFIG)
        tasks = [EpisodeTask(f"{i}", [ord(c) for c in f"task {i}"], i, 1.0) for i in range(TASKS)]
        searches = CONFIG if shares_searches else CONFIG.model_copy(update={"engine": "torch"})
        with group_search(searches, open_client) as client:
            hand = sharing.deal(tasks)
            engine = SharedEngine(groups[number // PER_ENGINE])
            played = rollout(engine, client, hand, LOOP, LetterTokenizer())
            episodes = sharing.gather(hand, played)
            counted = sum_over_ranks({"submitted": client.stats.submitted, "failed": client.stats.failed})
            outcomes = [(e.stop_reason, e.answer, e.searches[-1].error) for e in episodes]
            played[1].token_ids[-1] += rank() == 3
            with pytest.raises(EngineError) as raised:
                sharing.gather(hand, played)
            queue.put((number, outcomes, counted, str(raised.value)))


def launch(shares_searches: bool) -> list[tuple]:
    """Return (episodes, search statistics of all ranks, what another episode on rank 3 was called) of every rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(work, args=(port, shares_searches, queue), nprocs=WORLD)
    found = {number: rest for number, *rest in (queue.get() for _ in range(WORLD))}
    return [tuple(found[number]) for number in range(WORLD)]


@pytest.mark.timeout(120)
def test_ranks_of_an_engine_stay_in_step_and_their_searches_count_once():
    found = launch(shares_searches=True)
    assert all(rank_found == found[0] for rank_found in found)
    episodes, counted, said = found[0]
    assert len(episodes) == TASKS
    failed = [error for reason, _, error in episodes if reason is StopReason.SEARCH_FAILED]
    answers = [answer for reason, answer, _ in episodes if reason is StopReason.ANSWERED]
    assert len(failed) + len(answers) == TASKS
    assert len(failed) == TASKS // 4
    # The first rank of each engine asked.
    assert {answer[-1] for answer in answers} == {"0", "2"}
    assert counted == {"submitted": TASKS, "failed": len(failed)}
    assert said == "engine: ranks of one engine differ in episode 3, question 3"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_ranks_that_search_for_themselves_fall_out_of_step():
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match=r"out of step|[Cc]onnection"):
        launch(shares_searches=False)
