"""The rollout of the next batch, one step ahead: in a thread beside the update, with the weights published before it.

At most one batch is ahead, so that no episode is older than one update. The thread samples and searches; it takes part
in no collective, and weights are published only after it has ended.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import torch

from components.contracts.episode import Episode
from components.train.ranks import device
from components.train.sharing import Hand


class BatchAhead:
    """One rollout under way beside the main thread; idle between `end` and the next `begin`."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "rollout-ahead")
        self._hand: Hand | None = None
        self._episodes: Future[list[Episode]] = Future()
        self._stream: torch.cuda.Stream | None = None
        self._begun_s = self._ended_s = 0.0
        self._abandoned = Event()

    @property
    def is_under_way(self) -> bool:
        """Whether a rollout was begun and not ended."""
        return self._hand is not None

    def is_abandoned(self) -> bool:
        """Return whether nobody waits for the rollout any more; the thread asks."""
        return self._abandoned.is_set()

    def begin(self, hand: Hand, play: Callable[[Hand], list[Episode]]) -> None:
        """Play `hand` in the thread, after everything that this thread has put on the GPU so far."""
        if torch.cuda.is_available():
            # A stream of its own: kernels of one stream never overlap.
            self._stream = self._stream or torch.cuda.Stream(device())
            self._stream.wait_stream(torch.cuda.current_stream())
        self._hand, self._begun_s = hand, time.monotonic()
        self._episodes = self._thread.submit(self._play, hand, play, torch.get_num_threads())

    def end(self) -> tuple[Hand, list[Episode], float, float]:
        """Wait for the rollout; return (hand, its episodes, seconds it took, seconds of these beside other work).

        Raises:
            Exception: whatever `play` raised.
        """
        assert self._hand is not None, "nothing is ahead"
        asked_s = time.monotonic()
        episodes = self._episodes.result()
        hand, self._hand = self._hand, None
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)
        beside_s = min(asked_s, self._ended_s) - self._begun_s
        return hand, episodes, self._ended_s - self._begun_s, beside_s

    def discard(self) -> None:
        """End the rollout, if there is one, and forget it: the engine must be idle before the run ends."""
        if self._hand is not None:
            self._abandoned.set()
            self._episodes.exception()
            self._hand = None

    def _play(self, hand: Hand, play: Callable[[Hand], list[Episode]], num_threads: int) -> list[Episode]:
        # Neither the number of threads nor the GPU of the main thread holds in another one.
        torch.set_num_threads(num_threads)
        try:
            with _on(self._stream):
                return play(hand)
        finally:
            self._ended_s = time.monotonic()


@contextmanager
def _on(stream: torch.cuda.Stream | None) -> Iterator[None]:
    if stream is None:
        yield
        return
    with torch.cuda.device(stream.device), torch.cuda.stream(stream):
        yield
