"""A scripted pupil in place of the engine, and what else a `Trainer` needs to be run without a model or an index."""

import re
from concurrent.futures import Future
from typing import ClassVar

import torch

from components.agent.engines.protocol import TurnOutput
from components.contracts.errors import SearchError
from components.contracts.passage import Passage, ScoredPassage
from components.contracts.question import Question
from components.search.concurrent import SearchStats

NUM_DEV = 10
AHEAD = {
    "max_staleness_steps": 1,
    # The pupil's log-probabilities are far from those of the policy, with and without staleness.
    "correction": {"mode": "decoupled", "max_mismatch_kl": 1e9, "sequence_low": 1e-9, "sequence_high": 1e9},
}
EVERY_STEP = {"every_steps": 1, "max_rollbacks": 2}


class LetterTokenizer:
    """One token per character of ASCII."""

    chat_template = None
    added_tokens_decoder: ClassVar[dict] = {}

    def encode(self, text, *, add_special_tokens):
        return [ord(character) for character in text]

    def decode(self, token_ids):
        return "".join(map(chr, token_ids))


class Pupil:
    """Searches once, then answers: dev questions right as often as `dev_scores` says, others by the seed's parity."""

    def __init__(self, dev_scores: list[float], valid: bool = True) -> None:
        self.dev_scores, self.valid = dev_scores, valid
        self.waiting, self.requests, self.resets, self.published = [], [], 0, []

    def add_request(self, request) -> None:
        self.waiting.append(request)
        self.requests.append(request)

    def step(self):
        request = self.waiting.pop(0)
        context = "".join(map(chr, request.token_ids))
        asked = int(re.search(r"Question: (\d+)\?", context).group(1))
        ids = [ord(character) for character in self._line(request, asked, "<information>" in context)]
        return [TurnOutput(request.sequence_id, ids, [-4.0] * len(ids), "stop")]

    def _line(self, request, asked, has_searched) -> str:
        if request.temperature and not self.valid:
            return "neither"
        if not has_searched:
            return f"<search>{asked}</search>"
        right = request.seed % 2 if request.temperature else asked < self.dev_scores[0] * NUM_DEV
        if not request.temperature and asked == NUM_DEV - 1 and len(self.dev_scores) > 1:
            self.dev_scores = self.dev_scores[1:]
        return f"<answer>{'yes' if right else 'no'}</answer>"

    def has_unfinished(self) -> bool:
        return bool(self.waiting)

    def release(self, sequence_id) -> None:
        pass

    def reset_cache(self) -> None:
        self.resets += 1

    def publish(self, named_tensors) -> None:
        self.published.append(torch.cat([tensor.flatten() for _, tensor in named_tensors]))
        self.resets += 1

    def sleep(self) -> None:
        pass


class Client:
    """Finds something; the first `failing` queries of every step of training fail."""

    def __init__(self, failing: int = 0) -> None:
        self.failing, self.queries, self.stats = failing, [], SearchStats()

    def submit(self, query) -> Future:
        self.queries.append(query)
        future = Future()
        if int(query) >= 100 and self.failing:
            self.failing -= 1
            future.set_exception(SearchError("the engine is down"))
        else:
            future.set_result([ScoredPassage(Passage("0", "x"), 1.0)])
        return future


class Log:
    """Keeps what a tracker was told."""

    def __init__(self) -> None:
        self.lines = []

    def log(self, step, metrics) -> None:
        self.lines.append((step, metrics))


def question(name: str, number: int) -> Question:
    return Question(
        id=f"{name}:{number}", set_name=name, question=f"{number}", golden_answers=("yes",), metadata={"kind": "k"}
    )


def weights(module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def kill_after(step):
    def announce(state, metrics):
        if state.step == step:
            raise KeyboardInterrupt

    return announce


class FailingLearner:
    """A learner whose updates raise `error`."""

    def __init__(self, learner, error: BaseException) -> None:
        self._learner, self._error = learner, error

    def __getattr__(self, name):
        return getattr(self._learner, name)

    def update(self, *given):
        raise self._error
