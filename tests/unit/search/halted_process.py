"""Searches for one query, slowly, is halted meanwhile or just after it has asked, and prints what came of it."""

import os
import signal
import sys
import time

from components.contracts.passage import Passage, ScoredPassage
from components.search.concurrent import ConcurrentSearch

DEADLINE_S = 1.5


class SlowSearcher:
    """Searches in two pauses: one that a halt outlasts, and one after it in which the deadline could pass."""

    digest = "0" * 64

    def __init__(self, halted: bool) -> None:
        self.halted = halted

    def search(self, queries, top_k):
        if self.halted:
            os.kill(os.getpid(), signal.SIGSTOP)
        for _ in range(2):
            time.sleep(DEADLINE_S / 3)
        return [[ScoredPassage(Passage("0", "found"), 1.0)] for _ in queries]


if __name__ == "__main__":
    while_searching = sys.argv[1] == "while searching"
    # No thread of the client runs before this one waits.
    sys.setswitchinterval(60)
    with ConcurrentSearch(SlowSearcher(while_searching), 1, deadline_s=DEADLINE_S, window_s=0.0, retries=0) as client:
        time.sleep(0.1)
        asked = client.submit("a")
        if not while_searching:
            os.kill(os.getpid(), signal.SIGSTOP)
        print(asked.result()[0].passage.text)
