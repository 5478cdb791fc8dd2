"""Searches for one query, slowly, says when that has begun, and prints what came of it."""

import time

from components.contracts.passage import Passage, ScoredPassage
from components.search.concurrent import ConcurrentSearch

DEADLINE_S = 1.5


class SlowSearcher:
    digest = "0" * 64

    def search(self, queries, top_k):
        print("searching", flush=True)
        # Two pauses: the one that a halt outlasts, and one after it in which the deadline could pass.
        for _ in range(2):
            time.sleep(DEADLINE_S / 3)
        return [[ScoredPassage(Passage("0", "found"), 1.0)] for _ in queries]


if __name__ == "__main__":
    with ConcurrentSearch(SlowSearcher(), 1, deadline_s=DEADLINE_S, window_s=0.0, retries=0) as client:
        print(client.submit("a").result()[0].passage.text)
