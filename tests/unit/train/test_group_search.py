"""One rank of a group asks; the others have what it got, or an error that no episode survives."""

import threading
import time
from concurrent.futures import Future, wait
from datetime import timedelta

import pytest
import torch.distributed as dist

from components.contracts.errors import EngineError, SearchError
from components.contracts.passage import Passage, ScoredPassage
from components.search.concurrent import ConcurrentSearch, SearchStats
from components.train.config import TrainConfig
from components.train.group_search import FollowerSearch, LeaderSearch, group_search

FOLLOWERS = (5, 6)
HOSTILE = 'x"}]\x00 </information> \ud800 ☃\n"title"'


class Searcher:
    """Finds two passages with scores of many digits; queries with a 7 fail."""

    digest = "d"

    def __init__(self) -> None:
        self.queries: list[str] = []

    def search(self, queries, top_k):
        self.queries += queries
        if any("7" in query for query in queries):
            raise SearchError("the index is gone")
        return [[found(query, 0.1 + 0.2), found(HOSTILE, 1 / 3)] for query in queries]


def found(text: str, score: float) -> ScoredPassage:
    return ScoredPassage(Passage(text, f"about {text}"), score)


def connected(store: dist.Store) -> dist.Store:
    """A rank's own connection: one that waits lets nobody else through."""
    return dist.TCPStore("127.0.0.1", store.port, is_master=False)


def followers(store: dist.Store) -> list[FollowerSearch]:
    return [FollowerSearch(connected(store), 4, own, 20.0) for own in FOLLOWERS]


def outcome(future: Future) -> list[ScoredPassage] | str:
    error = future.exception(timeout=30)
    return future.result() if error is None else f"{type(error).__name__} {error}"


@pytest.fixture
def store() -> dist.Store:
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def test_every_rank_has_the_same_outcomes_of_one_search_each(store):
    searcher, queries = Searcher(), [f"query {i % 11}" for i in range(40)]
    with ConcurrentSearch(searcher, 2, max_batch=1, retries=1) as client:
        leader = LeaderSearch(client, store, FOLLOWERS)
        told = followers(store)
        # One follower is early, the other late.
        asked = [[told[0].submit(query) for query in queries]]
        asked.append([leader.submit(query) for query in queries])
        wait(asked[-1])
        asked.append([told[1].submit(query) for query in queries])
        outcomes = [[outcome(future) for future in futures] for futures in asked]
        assert outcomes[0] == outcomes[1] == outcomes[2]
        assert outcomes[0][2] == [found("query 2", 0.1 + 0.2), found(HOSTILE, 1 / 3)]
        assert [i for i, got in enumerate(outcomes[0]) if isinstance(got, str)] == [7, 18, 29]
        assert outcomes[0][7] == "SearchError search: the index is gone"
        assert len(searcher.queries) >= 11
        assert leader.stats.submitted == 40
        assert leader.stats.failed > 0
        assert [follower.stats for follower in told] == [SearchStats(), SearchStats()]


def test_nothing_is_left_in_the_store(store):
    before = store.num_keys()
    with ConcurrentSearch(Searcher(), 2) as client:
        leader, told = LeaderSearch(client, store, FOLLOWERS), followers(store)
        futures = [rank.submit("a") for rank in (leader, *told)]
        wait(futures)
    assert store.num_keys() == before


def test_leader_that_tells_nothing_is_named_after_the_deadline_of_all_searches_together(store):
    follower = FollowerSearch(connected(store), 4, 5, 1.0)
    started_s = time.monotonic()
    futures = [follower.submit(f"query {i}") for i in range(20)]
    for number, future in enumerate(futures):
        with pytest.raises(EngineError, match=f"engine: rank 4, .* told rank 5 no outcome of search {number} within"):
            future.result(timeout=30)
    assert time.monotonic() - started_s < 15, "one deadline for each of the twenty"


def test_leader_that_has_died_is_named_at_once():
    served = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    follower = FollowerSearch(connected(served), 4, 5, 25.0)
    future = follower.submit("a")
    time.sleep(0.1)
    del served
    with pytest.raises(EngineError, match="rank 4, which searches for all ranks of this engine"):
        future.result(timeout=30)


def test_ranks_that_search_for_different_things_are_found_out(store):
    with ConcurrentSearch(Searcher(), 2) as client:
        LeaderSearch(client, store, FOLLOWERS).submit("a")
        with pytest.raises(EngineError, match="rank 5 searches for 'b' where rank 4 searched for 'a'"):
            followers(store)[0].submit("b").result(timeout=30)


def test_outcome_that_could_not_be_told_is_an_error_of_the_leader_too():
    class Lost(dist.HashStore):
        def set(self, key, value):
            raise dist.DistNetworkError("connection reset")

    with ConcurrentSearch(Searcher(), 2) as client:
        future = LeaderSearch(client, Lost(), FOLLOWERS).submit("a")
        with pytest.raises(EngineError, match="search 0 did not reach the ranks of the engine: connection reset"):
            future.result(timeout=30)


def test_bug_in_the_leader_is_no_failed_search_of_the_others(store):
    """They would go on with other episodes than the leader, which ends."""

    class Broken:
        stats = SearchStats()

        def submit(self, query):
            future = Future()
            future.set_exception(ZeroDivisionError("a bug"))
            return future

    follower = FollowerSearch(connected(store), 4, 5, 0.3)
    with pytest.raises(ZeroDivisionError):
        LeaderSearch(Broken(), store, FOLLOWERS).submit("a").result(timeout=10)
    with pytest.raises(EngineError, match="told rank 5 no outcome of search 0"):
        follower.submit("a").result(timeout=10)


def test_leader_hears_of_an_outcome_after_it_was_told(store):
    class Slow(dist.HashStore):
        def set(self, key, value):
            assert not heard.is_set()
            time.sleep(0.05)
            super().set(key, value)

    heard, slow = threading.Event(), Slow()
    with ConcurrentSearch(Searcher(), 2) as client:
        future = LeaderSearch(client, slow, FOLLOWERS).submit("a")
        future.add_done_callback(lambda _: heard.set())
        future.result(timeout=30)
    slow.wait([f"search 0 for rank {own}" for own in FOLLOWERS], timedelta(seconds=1))


def test_rank_with_an_engine_of_its_own_asks_for_itself():
    with group_search(TrainConfig(), lambda: ConcurrentSearch(Searcher(), 2)) as client:
        assert isinstance(client, ConcurrentSearch)
