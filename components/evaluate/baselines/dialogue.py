"""A prompted method as a script: a generator that asks for text of the model or for passages and receives them.

`hold` drives the scripts of many questions over one engine: whoever is ready continues. Decoding is greedy. The
episode of a dialogue is its transcript: the prompt, what the model wrote, verbatim, and what it was told, each
once and in order, also where the method puts a context together anew.
"""

import time
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from components.agent.actions import STOP_STRINGS
from components.agent.config import LoopConfig
from components.agent.engines.protocol import TurnOutput, TurnRequest
from components.agent.prompt import Tokenizer
from components.contracts.episode import Action, Episode, SearchRecord, StopReason, Turn
from components.contracts.errors import ConfigError, SearchError
from components.contracts.passage import ScoredPassage
from components.evaluate.baselines.model import OnFinished, OpenModel
from components.search.protocol import SearchClient


@dataclass(frozen=True, slots=True)
class Write:
    """The model is to continue the context of the dialogue."""

    max_new_tokens: int
    stop_strings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Find:
    """The search engine is to answer a query."""

    query: str


Script = Generator[Write | Find, TurnOutput | list[ScoredPassage], None]


class ContextFull(Exception):
    """The next text does not fit the context; ends a script."""


class Dialogue:
    """The context the model sees, and the episode that keeps what happened."""

    def __init__(self, question_id: str, prompt_ids: Sequence[int], loop: LoopConfig, tokenizer: Tokenizer) -> None:
        """Begin with `prompt_ids`.

        Raises:
            ConfigError: the prompt leaves no room in the context of `loop`.
        """
        if len(prompt_ids) >= loop.max_context_tokens:
            raise ConfigError(
                f"The prompt of question {question_id} takes {len(prompt_ids)} tokens",
                f"fewer than {loop.max_context_tokens} (max_context_tokens)",
                "leave the question or the method out, or train with a larger max_context_tokens",
            )
        self.loop, self.tokenizer = loop, tokenizer
        self.episode = Episode(question_id, list(prompt_ids), len(prompt_ids))
        self.context, self.is_restarted = list(prompt_ids), False
        self._turn_start = len(prompt_ids)

    @property
    def room_tokens(self) -> int:
        """Tokens the context still takes."""
        return self.loop.max_context_tokens - len(self.context)

    def write(self, max_tokens: int, stop_strings: tuple[str, ...] = STOP_STRINGS) -> Generator[Write, TurnOutput, str]:
        """Return what the model writes next.

        Raises:
            ContextFull: not one token fits.
        """
        budget = min(max_tokens, self.room_tokens)
        if budget < 1:
            raise ContextFull
        output = yield Write(budget, stop_strings)
        self._turn_start = len(self.episode.token_ids)
        self._transcribe(output.token_ids, output.logprobs)
        # An end-of-text token closes the model's turn; a context that goes on must not hold it.
        kept = output.token_ids[:-1] if output.finish == "eos" else output.token_ids
        self.context += kept
        return self.tokenizer.decode(kept)

    def write_turn(
        self, max_tokens: int, stop_strings: tuple[str, ...] = STOP_STRINGS
    ) -> Generator[Write, TurnOutput, str]:
        """Return what the model writes next, never more than a turn of the search loop.

        Raises:
            ContextFull: not one token fits.
        """
        return self.write(min(max_tokens, self.loop.max_turn_tokens), stop_strings)

    def find(self, query: str) -> Generator[Find, list[ScoredPassage], list[ScoredPassage]]:
        """Return the passages found for `query`; a failed search ends the dialogue and never comes back here."""
        return (yield Find(query))

    def show(self, body: str, opening: str = "", closing: str = "") -> None:
        """Tell the model something: `body` is cut to one observation, what stands around it is not.

        Raises:
            ContextFull: there is no room for it and a turn.
        """
        before, ids, after = (self.tokenizer.encode(t, add_special_tokens=False) for t in (opening, body, closing))
        room = self.room_tokens - self.loop.max_turn_tokens
        budget = min(self.loop.max_observation_tokens, room) - len(before) - len(after)
        shown = [*before, *ids[: max(0, budget)], *after]
        if len(shown) > room:
            raise ContextFull
        self.context += shown
        self._transcribe(shown)

    def restart(self, prompt_ids: Sequence[int]) -> None:
        """Go on from another context."""
        self.context, self.is_restarted = list(prompt_ids), True

    def note(self, text: str) -> None:
        """Add to the transcript what the model was told by a new context."""
        self._transcribe(self.tokenizer.encode(text, add_special_tokens=False))

    def decide(self, action: Action, text: str) -> None:
        """Record what the text written last was read as; thoughts that decide nothing are no turns."""
        self.episode.turns.append(Turn(self._turn_start, len(self.episode.token_ids), action, text))

    def answer(self, text: str) -> None:
        """Record the text written last as the answer; the script ends."""
        self.decide(Action.ANSWER, text)
        self.episode.stop_reason = StopReason.ANSWERED

    def _transcribe(self, token_ids: Sequence[int], logprobs: Sequence[float] = ()) -> None:
        self.episode.token_ids.extend(token_ids)
        self.episode.logprobs.extend(logprobs or [0.0] * len(token_ids))
        self.episode.is_model_token.extend([bool(logprobs)] * len(token_ids))


def hold(
    dialogues: Sequence[Dialogue],
    scripts: Sequence[Script],
    model: OpenModel,
    client: SearchClient,
    on_finished: OnFinished,
) -> list[Episode]:
    """Return the episode of each dialogue, in order, after its script has run.

    A search that failed is recorded and ends its dialogue with `StopReason.SEARCH_FAILED`. All searches of a
    step are awaited before the next one, so that equal questions meet equal batches.
    """
    engine, started_s = model.engine, time.monotonic()
    asked: list[tuple[int, str, Future[list[ScoredPassage]], float]] = []

    def end(number: int, reason: StopReason | None = None) -> None:
        episode = dialogues[number].episode
        episode.stop_reason = reason or episode.stop_reason
        episode.wall_s = time.monotonic() - started_s
        dialogues[number].context = []
        engine.release(number)
        on_finished(episode)

    def proceed(number: int, received: TurnOutput | list[ScoredPassage] | None = None) -> None:
        dialogue = dialogues[number]
        try:
            wanted = scripts[number].send(received)
        except StopIteration:
            return end(number)
        except ContextFull:
            return end(number, StopReason.CONTEXT_FULL)
        if isinstance(wanted, Find):
            asked.append((number, wanted.query, client.submit(wanted.query), time.monotonic()))
            return
        if dialogue.is_restarted:
            engine.release(number)
            dialogue.is_restarted = False
        engine.add_request(TurnRequest(number, dialogue.context, wanted.max_new_tokens, 0.0, 0, wanted.stop_strings))

    for number in range(len(dialogues)):
        proceed(number)
    while asked or engine.has_unfinished():
        pending, asked[:] = list(asked), []
        for number, query, future, asked_s in pending:
            try:
                passages, error = future.result(), ""
            except SearchError as failure:
                passages, error = [], str(failure)
            record = SearchRecord(query, passages, time.monotonic() - asked_s, error)
            dialogues[number].episode.searches.append(record)
            if error:
                end(number, StopReason.SEARCH_FAILED)
            else:
                proceed(number, passages)
        for output in engine.step() if engine.has_unfinished() else ():
            proceed(output.sequence_id, output)
    return [dialogue.episode for dialogue in dialogues]
