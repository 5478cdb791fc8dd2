"""ConcurrentSearch: concurrency, batching, sharing, failures, deadlines."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from itertools import pairwise
from pathlib import Path

import pytest

from components.contracts.errors import SearchError
from components.contracts.passage import Passage, ScoredPassage
from components.search.concurrent import FIRST_BACK_OFF_S, ConcurrentSearch
from components.search.protocol import SearchClient, Searcher
from tests.unit.search.halted_process import DEADLINE_S

ROOT = Path(__file__).resolve().parents[3]


class EchoSearcher:
    """Finds for each query `top_k` passages that repeat it, after a pause.

    `calls` keeps every batch, `called_s` when it came.
    """

    digest = "0" * 64

    def __init__(
        self, pause: Callable[[], object] = bool, failures: int = 0, poison: str = "", found: bool = True
    ) -> None:
        self.pause, self.failures, self.poison, self.found = pause, failures, poison, found
        self.calls: list[list[str]] = []
        self.called_s: list[float] = []
        self.lock = threading.Lock()

    def search(self, queries, top_k):
        with self.lock:
            self.calls.append(list(queries))
            self.called_s.append(time.monotonic())
            fails = len(self.calls) <= self.failures or self.poison in queries
        self.pause()
        if fails:
            raise SearchError("the engine is down")
        return [[ScoredPassage(Passage(q, q), 1.0)] * (top_k * self.found) for q in queries]


def test_satisfies_the_protocols():
    searcher = EchoSearcher()
    assert isinstance(searcher, Searcher)
    with ConcurrentSearch(searcher, 1) as client:
        assert isinstance(client, SearchClient)


def test_sixteen_batches_are_under_way_at_once():
    searcher = EchoSearcher(pause=threading.Barrier(16, timeout=60).wait)
    with ConcurrentSearch(searcher, 1, max_batch=1, window_s=0.0) as client:
        futures = [client.submit(f"query {i}") for i in range(16)]
        assert [f.result()[0].passage.id for f in futures] == [f"query {i}" for i in range(16)]
        assert client.stats.batches == 16


def test_queries_within_the_window_travel_together():
    searcher = EchoSearcher()
    with ConcurrentSearch(searcher, 1, window_s=0.05, max_batch=8) as client:
        wait([client.submit(str(i)) for i in range(8)])
        wait([client.submit(str(i)) for i in range(8, 11)])
    assert [len(call) for call in searcher.calls] == [8, 3]


def test_while_all_slots_are_busy_queries_wait_and_travel_together():
    begun, free = threading.Event(), threading.Event()
    searcher = EchoSearcher(pause=lambda: (begun.set(), free.wait(60)))
    with ConcurrentSearch(searcher, 1, window_s=0.0, max_concurrent=1) as client:
        futures = [client.submit("first")]
        assert begun.wait(60)
        futures += [client.submit(str(i)) for i in range(5)]
        free.set()
        wait(futures)
    assert [len(call) for call in searcher.calls] == [1, 5]


def test_equal_queries_share_one_search_and_later_ones_come_completed():
    free = threading.Event()
    searcher = EchoSearcher(pause=lambda: free.wait(60))
    with ConcurrentSearch(searcher, 1) as client:
        futures = [client.submit(text) for text in ("a b", "a  b", " a b\n")]
        free.set()
        assert futures[0].result() == futures[2].result()
        again = client.submit("a b")
        assert again.done()
        assert (client.stats.joined, client.stats.cache_hits, client.stats.sent) == (2, 1, 1)
        assert client.stats.cache_hit_frac == 0.75
    assert searcher.calls == [["a b"]]


def test_a_result_found_by_waiting_is_completed_in_the_cache():
    with ConcurrentSearch(EchoSearcher(), 1, window_s=0.0) as client:
        for i in range(300):
            client.submit(str(i)).result()
            assert client.submit(str(i)).done()


def test_the_cache_forgets_the_least_recently_used():
    searcher = EchoSearcher()
    with ConcurrentSearch(searcher, 1, window_s=0.0, cache_size=2) as client:
        for text in ("a", "b", "a", "c", "a", "b"):
            client.submit(text).result()
    assert searcher.calls == [["a"], ["b"], ["c"], ["b"]]


def test_finding_nothing_is_a_result():
    with ConcurrentSearch(EchoSearcher(found=False), 1) as client:
        assert client.submit("unknown").result() == []


def test_a_failing_searcher_gives_search_error_and_is_asked_again_next_time():
    searcher = EchoSearcher(failures=2)
    with ConcurrentSearch(searcher, 1, retries=1) as client:
        with pytest.raises(SearchError, match="engine is down"):
            client.submit("a").result()
        assert client.stats.failed == 1
        assert client.submit("a").result()[0].passage.id == "a"


def test_retries_heal_a_short_failure():
    searcher = EchoSearcher(failures=2)
    with ConcurrentSearch(searcher, 1, retries=3) as client:
        assert client.submit("a").result()
        assert (client.stats.retries, client.stats.failed) == (2, 0)


def test_every_retry_waits_longer_than_the_one_before():
    """A service that starts again is not helped by all of its retries in one instant."""
    searcher = EchoSearcher(failures=4)
    with ConcurrentSearch(searcher, 1, retries=4, window_s=0.0) as client:
        assert client.submit("a").result()
    waited_s = [later - earlier for earlier, later in pairwise(searcher.called_s)]
    assert all(pause_s >= FIRST_BACK_OFF_S * 2**number / 2 for number, pause_s in enumerate(waited_s))


def test_as_many_passages_come_as_were_asked_for():
    with ConcurrentSearch(EchoSearcher(), 3) as client:
        assert len(client.submit("a").result()) == 3


def test_a_query_that_fails_alone_does_not_take_its_batch_along():
    searcher = EchoSearcher(poison="3")
    with ConcurrentSearch(searcher, 1, retries=1, window_s=0.05) as client:
        futures = [client.submit(str(i)) for i in range(8)]
        wait(futures)
    assert [i for i, future in enumerate(futures) if future.exception()] == [3]
    # Only the whole batch is sent again; then halves, the earlier one first.
    assert [len(call) for call in searcher.calls] == [8, 8, 4, 2, 2, 1, 1, 4]


class WrongLength(EchoSearcher):
    def search(self, queries, top_k):
        return []


class Broken(EchoSearcher):
    def search(self, queries, top_k):
        raise KeyError("a bug")


@pytest.mark.parametrize(
    ("searcher", "says"),
    [
        pytest.param(WrongLength(), "0 lists for 1 queries", id="too-few-lists"),
        pytest.param(Broken(), "KeyError", id="any-exception"),
    ],
)
def test_a_broken_searcher_gives_search_error(searcher, says):
    with ConcurrentSearch(searcher, 1, retries=0) as client, pytest.raises(SearchError, match=says):
        client.submit("a").result()


def test_the_deadline_settles_a_query_whose_search_hangs():
    free, ended = threading.Event(), threading.Event()
    searcher = EchoSearcher(pause=lambda: (free.wait(60), ended.set()))
    client = ConcurrentSearch(searcher, 1, deadline_s=0.1, window_s=0.0, max_concurrent=1)
    hanging, waiting = client.submit("hanging"), client.submit("waiting")
    for future in (hanging, waiting):
        with pytest.raises(SearchError, match="no answer within"):
            future.result(timeout=30)
    client.close()
    assert not ended.is_set(), "closing waits for nobody"
    free.set()
    assert client.stats.expired == 2
    # Raised by several callers, one error would gather the tracebacks of all of them.
    assert hanging.exception() is not waiting.exception()


def test_nobody_is_asked_again_for_a_query_past_its_deadline():
    searcher = EchoSearcher(failures=99)
    with ConcurrentSearch(searcher, 1, deadline_s=0.2, window_s=0.0, retries=99) as client:
        with pytest.raises(SearchError, match="no answer within"):
            client.submit("a").result()
        num_calls = len(searcher.calls)
        # Longer than the next two pauses together; one call may be under way.
        time.sleep(2.0)
        assert len(searcher.calls) <= num_calls + 1


def test_an_answer_that_comes_too_late_leaves_no_error_in_the_cache():
    free, answered = threading.Event(), threading.Event()
    pauses = iter([lambda: (free.wait(60), answered.set())])
    searcher = EchoSearcher(pause=lambda: next(pauses, bool)())
    with ConcurrentSearch(searcher, 1, deadline_s=0.5, window_s=0.0) as client:
        with pytest.raises(SearchError, match="no answer within"):
            client.submit("a").result()
        free.set()
        assert answered.wait(30)
        time.sleep(0.1)
        assert client.submit("a").result()[0].passage.id == "a"


@pytest.mark.parametrize("when", ["while searching", "before anybody has seen the query"])
def test_a_halt_of_the_process_brings_no_deadline_nearer(when):
    command = [sys.executable, "-m", "tests.unit.search.halted_process", when]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert os.waitid(os.P_PID, process.pid, os.WSTOPPED).si_code == os.CLD_STOPPED
        time.sleep(2 * DEADLINE_S)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read() == "found\n"


def test_closing_settles_what_is_open_and_refuses_more():
    free = threading.Event()
    client = ConcurrentSearch(EchoSearcher(pause=lambda: free.wait(60)), 1, window_s=0.0)
    future = client.submit("a")
    client.close()
    client.close()
    with pytest.raises(SearchError, match="closed"):
        future.result(timeout=30)
    with pytest.raises(SearchError, match="closed"):
        client.submit("b")
    free.set()


def test_a_caller_cannot_cancel_what_others_wait_for():
    with ConcurrentSearch(EchoSearcher(), 1) as client:
        future = client.submit("a")
        assert not future.cancel()
        assert future.result()


def test_a_callback_may_submit_the_next_query():
    with ConcurrentSearch(EchoSearcher(), 1, window_s=0.0) as client:
        following = []
        done = threading.Event()

        def go_on(_):
            following.append(client.submit("second"))
            done.set()

        client.submit("first").add_done_callback(go_on)
        assert done.wait(30)
        assert following[0].result(timeout=30)[0].passage.id == "second"


def test_many_threads_agree_and_the_searcher_never_gets_an_empty_batch():
    searcher = EchoSearcher()
    with ConcurrentSearch(searcher, 1, max_batch=32, cache_size=64) as client:

        def ask(seed: int) -> None:
            for i in range(200):
                text = str((i * 7 + seed) % 100)
                assert client.submit(text).result(timeout=30)[0].passage.id == text

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = client.stats
    assert stats.submitted == 1600 == stats.cache_hits + stats.joined + stats.sent
    assert all(searcher.calls)
    assert max(map(len, searcher.calls)) <= 32


@pytest.mark.parametrize("bad", [{"top_k": 0}, {"max_batch": 0}, {"deadline_s": 0}, {"retries": -1}])
def test_bounds(bad):
    with pytest.raises(ValueError, match="positive"):
        ConcurrentSearch(EchoSearcher(), **({"top_k": 1} | bad))
