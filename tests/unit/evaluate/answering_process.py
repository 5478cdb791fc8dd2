"""Answers a pickled job with a double that says which question it is asked: `answering_process.py <job> <log>`."""

import pickle
import sys
import time
from pathlib import Path

from components.agent.engines.protocol import TurnOutput, TurnRequest
from components.evaluate.baselines.model import OpenModel
from components.evaluate.chunks import Rank
from components.evaluate.share import answer_share


class LetterTokenizer:
    added_tokens_decoder = {}
    chat_template = None

    def encode(self, text, *, add_special_tokens):
        return list(map(ord, text))

    def decode(self, token_ids):
        return "".join(map(chr, token_ids))


class LoggingEngine:
    """Ends one turn a step and logs its question before anybody hears of it."""

    def __init__(self, log: Path) -> None:
        self.log, self.queue = log, []

    def add_request(self, request: TurnRequest) -> None:
        self.queue.append(request)

    def has_unfinished(self) -> bool:
        return bool(self.queue)

    def step(self) -> list[TurnOutput]:
        request = self.queue.pop(0)
        with self.log.open("a") as log:
            log.write("".join(map(chr, request.token_ids)).splitlines()[0] + "\n")
        time.sleep(0.002)
        return [TurnOutput(request.sequence_id, list(map(ord, " x\n")), [0.0] * 3, "stop")]

    def release(self, sequence_id: int) -> None:
        pass


class NoSearcher:
    digest = "d" * 64

    def search(self, queries, top_k):
        return [[] for _ in queries]


if __name__ == "__main__":
    job = pickle.loads(Path(sys.argv[1]).read_bytes())
    model = OpenModel(LoggingEngine(Path(sys.argv[2])), LetterTokenizer())
    answer_share(job, Rank(), job.read_questions(), lambda *_: model, lambda *_: None, NoSearcher)
