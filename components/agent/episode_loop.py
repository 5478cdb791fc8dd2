"""One episode as a state machine: it hands out turns, reads actions from model tokens and takes in passages.

It knows neither engine nor search client; `rollout.py` connects them. Nothing is decoded and re-encoded:
sampled ids stay as they are, an observation is encoded once and appended.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from components.agent.actions import parse_action
from components.agent.config import LoopConfig
from components.agent.engines.protocol import TurnOutput, TurnRequest
from components.agent.prompt import Tokenizer, notice_ids, observation_ids
from components.contracts.episode import Action, Episode, SearchRecord, StopReason, Turn
from components.contracts.passage import ScoredPassage


@dataclass(frozen=True, slots=True)
class EpisodeTask:
    """A question ready to be asked; equal tasks give equal episodes on the same engine."""

    question_id: str
    prompt_ids: Sequence[int]
    seed: int
    temperature: float


class EpisodeLoop:
    """Follows one task to its end (Search-R1, Algorithm 1, with a last turn that must answer)."""

    def __init__(self, sequence_id: int, task: EpisodeTask, loop: LoopConfig, tokenizer: Tokenizer) -> None:
        self.sequence_id, self._task, self._loop, self._tokenizer = sequence_id, task, loop, tokenizer
        self.episode = Episode(task.question_id, list(task.prompt_ids), len(task.prompt_ids))
        self.done = False
        self._started_s = time.monotonic()

    def next_turn(self) -> TurnRequest:
        """Return the request for the next turn: the whole context and what is left of the budgets."""
        room = self._loop.max_context_tokens - len(self.episode.token_ids)
        return TurnRequest(
            self.sequence_id,
            self.episode.token_ids,
            min(self._loop.max_turn_tokens, room),
            self._task.temperature,
            self._task.seed,
        )

    def end_turn(self, output: TurnOutput) -> str:
        """Append a sampled turn; return the query to search for, or "" when there is nothing to search.

        Afterwards either `done` is set, or a query was returned and `observe` or `fail_search` must follow,
        or the next turn can be requested at once (after an invalid turn).
        """
        episode, start = self.episode, len(self.episode.token_ids)
        self._append(output.token_ids, output.logprobs, sampled=True)
        text = self._tokenizer.decode(output.token_ids)
        action, content = parse_action(text, search_enabled=self._loop.search_enabled)
        episode.turns.append(Turn(start, len(episode.token_ids), action, content))
        if action is Action.ANSWER:
            self._end(StopReason.ANSWERED)
        elif len(episode.turns) > self._loop.max_searches:
            self._end(StopReason.NO_ANSWER)
        elif action is Action.SEARCH:
            return content
        else:
            self._append_observation(notice_ids(self._loop, self._tokenizer))
        return ""

    def observe(self, query: str, passages: list[ScoredPassage], latency_s: float) -> None:
        """Append what a search found; a context too full for it ends the episode."""
        self.episode.searches.append(SearchRecord(query, passages, latency_s))
        room = self._loop.max_context_tokens - self._loop.max_turn_tokens - len(self.episode.token_ids)
        budget = min(self._loop.max_observation_tokens, room)
        self._append_observation(observation_ids(passages, budget, self._tokenizer))

    def fail_search(self, query: str, error: str, latency_s: float) -> None:
        """Record a search that failed after its retries and end the episode."""
        self.episode.searches.append(SearchRecord(query, [], latency_s, error))
        self._end(StopReason.SEARCH_FAILED)

    def _append_observation(self, token_ids: list[int]) -> None:
        room = self._loop.max_context_tokens - self._loop.max_turn_tokens - len(self.episode.token_ids)
        if len(token_ids) > room:
            self._end(StopReason.CONTEXT_FULL)
        else:
            self._append(token_ids, [0.0] * len(token_ids), sampled=False)

    def _append(self, token_ids: Sequence[int], logprobs: Sequence[float], *, sampled: bool) -> None:
        self.episode.token_ids.extend(token_ids)
        self.episode.logprobs.extend(logprobs)
        self.episode.is_model_token.extend([sampled] * len(token_ids))

    def _end(self, reason: StopReason) -> None:
        self.episode.stop_reason, self.done = reason, True
        self.episode.wall_s = time.monotonic() - self._started_s
