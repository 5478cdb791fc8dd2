"""Continuous batching for any Hugging Face causal language model, on CPU or GPU.

A sequence owns a slot (a row of the key-value cache) from its first turn until it is released, so that
after a search only the observation is prefilled. Sequences change places when turns begin and end, so that the
running ones fill the first slots: a forward pass reads a contiguous part of the cache, without a copy of it.
Prefill pads on the left, which puts every last token in the last column; padding writes to a scratch column of
the cache that no mask ever shows.

Legend: S slots, N rows of one forward pass, L new tokens, C cache columns, T visible columns, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import Cache, CacheLayerMixin

from components.agent.engines.protocol import TurnOutput, TurnRequest
from components.agent.engines.sampling import sample_tokens
from components.agent.engines.turn_ends import TurnEnds
from components.contracts.errors import EngineError

LONGEST_PER_SHORTEST = 1.5
"""Most that the prefills of one forward pass may differ in length: padding costs as much as tokens do."""


class _SlotLayer(CacheLayerMixin):
    """One layer's keys and values for all slots; `rows` and `positions_NL` say where a forward pass writes."""

    def __init__(self, num_slots: int, num_columns: int) -> None:
        super().__init__()
        self.num_slots, self.num_columns = num_slots, num_columns
        self.rows = slice(0)
        self.index_N1 = self.positions_NL = torch.empty(0)
        self.visible = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        _, heads, _, head_size = key_states.shape
        shape = (self.num_slots, heads, self.num_columns, head_size)
        self.keys, self.values = key_states.new_zeros(shape), value_states.new_zeros(shape)
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys[self.index_N1, :, self.positions_NL] = key_states.transpose(1, 2)
        self.values[self.index_N1, :, self.positions_NL] = value_states.transpose(1, 2)
        return self.keys[self.rows, :, : self.visible], self.values[self.rows, :, : self.visible]

    def move(self, source: torch.Tensor, target: torch.Tensor, num_columns: int) -> None:
        """Copy slots `source` to slots `target`, all at once."""
        self.keys[target, :, :num_columns] = self.keys[source, :, :num_columns]
        self.values[target, :, :num_columns] = self.values[source, :, :num_columns]

    def get_seq_length(self, *args) -> int:
        return self.visible

    def get_mask_sizes(self, query_length: int, *args) -> tuple[int, int]:
        return self.visible, 0

    def get_max_length(self) -> int:
        return self.num_columns


@dataclass(slots=True)
class _Running:
    request: TurnRequest
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class _Slots:
    """Which sequence lives in which slot, and how many of its tokens the cache holds.

    `swap` changes places on paper; `pending_moves` says once what that means for the cache.
    """

    def __init__(self, num_slots: int) -> None:
        self.sequence_in: list[int | None] = [None] * num_slots
        self.slot_of: dict[int, int] = {}
        self.cached_tokens: dict[int, int] = {}
        self._data_from = list(range(num_slots))

    @property
    def num_free(self) -> int:
        return len(self.sequence_in) - len(self.slot_of)

    def take(self, sequence_id: int, slot: int) -> None:
        """Give a free slot to a new sequence."""
        self.sequence_in[slot], self.slot_of[sequence_id], self.cached_tokens[sequence_id] = sequence_id, slot, 0

    def release(self, sequence_id: int) -> None:
        slot = self.slot_of.pop(sequence_id, None)
        if slot is not None:
            self.sequence_in[slot] = None
            del self.cached_tokens[sequence_id]

    def swap(self, one: int, other: int) -> None:
        for places in (self.sequence_in, self._data_from):
            places[one], places[other] = places[other], places[one]
        for slot in (one, other):
            if (sequence_id := self.sequence_in[slot]) is not None:
                self.slot_of[sequence_id] = slot

    def pending_moves(self) -> tuple[list[int], list[int], int]:
        """Return (from, to, columns) of the sequences whose cache has to follow them, and forget the swaps."""
        moved = [
            (source, slot, self.cached_tokens[sequence_id])
            for slot, (source, sequence_id) in enumerate(zip(self._data_from, self.sequence_in, strict=True))
            if source != slot and sequence_id is not None and self.cached_tokens[sequence_id]
        ]
        self._data_from = list(range(len(self.sequence_in)))
        return [m[0] for m in moved], [m[1] for m in moved], max((m[2] for m in moved), default=0)


class TorchEngine:
    """Engine over a loaded model; shares the module with a trainer when both live in one process."""

    def __init__(self, model, tokenizer, *, num_slots: int, max_context_tokens: int, prefill_at: float = 0.25) -> None:
        """Allocate `num_slots` sequences of `max_context_tokens`.

        `prefill_at` is the share of slots that must wait for prefill before running turns pause for it:
        larger batches of prompts are cheaper, smaller ones keep more turns running.
        """
        self.model = model
        self.num_slots, self.max_context_tokens = num_slots, max_context_tokens
        self._scratch = max_context_tokens
        self._prefill_at = max(1, int(prefill_at * num_slots))
        num_layers = model.config.get_text_config().num_hidden_layers
        self._layers = [_SlotLayer(num_slots, max_context_tokens + 1) for _ in range(num_layers)]
        self._cache = Cache(layers=self._layers)
        self._ends = TurnEnds(tokenizer, model.generation_config)
        self._pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self.reset_cache()

    def reset_cache(self) -> None:
        """Forget every sequence; turns still queued or running are an error of the caller."""
        self._waiting: list[TurnRequest] = []
        self._running: list[_Running] = []
        self._slots = _Slots(self.num_slots)

    @torch.no_grad()
    def publish(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take new weights, one tensor at a time, and forget every sequence; a shared module has them already.

        Raises:
            EngineError: a weight of the model got no tensor.
        """
        missing = dict(self.model.named_parameters())
        for name, tensor in named_tensors:
            own = missing.pop(name)
            if own.data_ptr() != tensor.data_ptr():
                own.copy_(tensor)
        if missing:
            raise EngineError(f"{len(missing)} weights were not published, for example {min(missing)}")
        self.reset_cache()

    def sleep(self) -> None:
        """Keep everything: a shared module has no memory of its own to give back."""

    def close(self) -> None:
        """Leave the module to whoever shares it."""

    def add_request(self, request: TurnRequest) -> None:
        """Queue a turn.

        Raises:
            ValueError: the context and the turn together exceed `max_context_tokens`.
        """
        request.check_fits(self.max_context_tokens)
        self._waiting.append(request)

    def has_unfinished(self) -> bool:
        """Return whether a step would advance any turn; a queued turn without a free slot has to wait."""
        return bool(self._running) or self._num_ready() > 0

    def release(self, sequence_id: int) -> None:
        """Free the slot of a sequence; unknown ids are ignored."""
        self._slots.release(sequence_id)

    @torch.inference_mode()
    def step(self) -> list[TurnOutput]:
        """Prefill waiting turns when enough wait, else advance every running turn by one token."""
        admitted = self._admit()
        if admitted:
            return self._prefill(admitted)
        return self._decode() if self._running else []

    @torch.inference_mode()
    def score(self, token_ids: Sequence[int]) -> list[float]:
        """Return the log-probability of each token but the first, computed without the cache."""
        ids = torch.tensor([list(token_ids)], device=self.model.device)
        logprobs = self.model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        return logprobs.gather(-1, ids[0, 1:, None]).squeeze(-1).tolist()

    def _num_ready(self) -> int:
        continuing = sum(request.sequence_id in self._slots.slot_of for request in self._waiting)
        return continuing + min(len(self._waiting) - continuing, self._slots.num_free)

    def _admit(self) -> list[_Running]:
        ready = self._num_ready()
        if not ready or (self._running and ready < self._prefill_at):
            return []
        slots, admitted, still_waiting = self._slots, [], []
        for request in self._waiting:
            if request.sequence_id not in slots.slot_of and slots.num_free:
                slots.take(request.sequence_id, slots.sequence_in.index(None))
            if request.sequence_id in slots.slot_of:
                admitted.append(_Running(request))
            else:
                still_waiting.append(request)
        self._waiting = still_waiting
        return admitted

    def _line_up(self, turns: list[_Running], first: int) -> None:
        """Bring the sequences of `turns` into the slots from `first` on, in any order, with the fewest moves."""
        slots, span = self._slots, range(first, first + len(turns))
        wanted = {turn.request.sequence_id for turn in turns}
        strangers = (slot for slot in span if slots.sequence_in[slot] not in wanted)
        for turn in turns:
            slot = slots.slot_of[turn.request.sequence_id]
            if slot not in span:
                slots.swap(slot, next(strangers))
        turns.sort(key=lambda turn: slots.slot_of[turn.request.sequence_id])

    def _prefill(self, admitted: list[_Running]) -> list[TurnOutput]:
        self._line_up(self._running, 0)
        ended, first = [], len(self._running)
        for turns in self._of_like_length(admitted):
            self._line_up(turns, first)
            done, still_running = self._read(turns, first)
            first += len(turns)
            ended += done
            self._running += still_running
        return ended

    def _of_like_length(self, admitted: list[_Running]) -> list[list[_Running]]:
        """Return the turns in groups that share a forward pass: prompts and observations would pad one another."""
        groups: list[list[_Running]] = []
        longest = 0
        for turn in sorted(admitted, key=self._num_new, reverse=True):
            if not groups or self._num_new(turn) * LONGEST_PER_SHORTEST < longest:
                groups.append([])
                longest = self._num_new(turn)
            groups[-1].append(turn)
        return groups

    def _num_new(self, turn: _Running) -> int:
        return len(turn.request.token_ids) - self._slots.cached_tokens[turn.request.sequence_id]

    def _read(self, turns: list[_Running], first: int) -> tuple[list[TurnOutput], list[_Running]]:
        """Prefill turns that stand in the slots from `first` on, and give each its first token."""
        cached = self._slots.cached_tokens
        new_ids = [turn.request.token_ids[cached[turn.request.sequence_id] :] for turn in turns]
        longest = max(map(len, new_ids))
        ids_NL = [[self._pad_id] * (longest - len(ids)) + list(ids) for ids in new_ids]
        positions_NL = []
        for turn, ids in zip(turns, new_ids, strict=True):
            start = cached[turn.request.sequence_id]
            positions_NL.append([self._scratch] * (longest - len(ids)) + list(range(start, start + len(ids))))
        logits_NV = self._forward(first, ids_NL, positions_NL)
        for turn, ids in zip(turns, new_ids, strict=True):
            cached[turn.request.sequence_id] += len(ids)
        return self._sample(turns, logits_NV)

    def _decode(self) -> list[TurnOutput]:
        self._line_up(self._running, 0)
        cached = self._slots.cached_tokens
        ids_NL = [[turn.token_ids[-1]] for turn in self._running]
        positions_NL = [[cached[turn.request.sequence_id]] for turn in self._running]
        logits_NV = self._forward(0, ids_NL, positions_NL)
        for turn in self._running:
            cached[turn.request.sequence_id] += 1
        ended, self._running = self._sample(self._running, logits_NV)
        return ended

    def _forward(self, first: int, ids_NL: list[list[int]], positions_NL: list[list[int]]) -> torch.Tensor:
        """Run the model over the slots from `first` on and return the logits after every last token, [N, V]."""
        device = self.model.device
        source, target, num_columns = self._slots.pending_moves()
        positions = np.asarray(positions_NL)
        visible = int(positions[positions < self._scratch].max()) + 1
        visible = min(-(-visible // 8) * 8, self.max_context_tokens)
        positions_t = torch.from_numpy(positions).to(device)
        rows = slice(first, first + len(ids_NL))
        index_N1 = torch.arange(rows.start, rows.stop, device=device)[:, None]
        moves = torch.tensor([source, target], device=device)
        for layer in self._layers:
            if source:
                layer.move(*moves, num_columns)
            layer.rows, layer.index_N1, layer.positions_NL, layer.visible = rows, index_N1, positions_t, visible
        columns = torch.arange(visible, device=device)
        hidden = columns[None, None, :] > positions_t[:, :, None]
        mask = torch.zeros(hidden.shape, dtype=self.model.dtype, device=device)
        mask = mask.masked_fill_(hidden, torch.finfo(self.model.dtype).min)[:, None]
        return self.model(
            input_ids=torch.tensor(ids_NL, device=device),
            attention_mask=mask,
            position_ids=positions_t.clamp(max=self.max_context_tokens - 1),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def _sample(self, turns: list[_Running], logits_NV: torch.Tensor) -> tuple[list[TurnOutput], list[_Running]]:
        """Give every turn its next token; return (ended, still running)."""
        tokens, logprobs = sample_tokens(
            logits_NV,
            temperatures=[turn.request.temperature for turn in turns],
            seeds=[turn.request.seed for turn in turns],
            draws=[len(turn.request.token_ids) + len(turn.token_ids) for turn in turns],
        )
        ended, still_running = [], []
        for turn, token, logprob in zip(turns, tokens, logprobs, strict=True):
            turn.token_ids.append(token)
            turn.logprobs.append(logprob)
            if finish := self._ends.finish(turn.request, turn.token_ids):
                ended.append(TurnOutput(turn.request.sequence_id, turn.token_ids, turn.logprobs, finish))
            else:
                still_running.append(turn)
        return ended, still_running
