"""Continuous batching for any Hugging Face causal language model, on CPU or GPU.

A sequence owns a slot (a row of the key-value cache) from its first turn until it is released, so that
after a search only the observation is prefilled. Prefill pads on the left, which puts every last token in
the last column; padding writes to a scratch column of the cache that no mask ever shows.

Legend: S slots, N rows of one forward pass, L new tokens, C cache columns, T visible columns, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import Cache, CacheLayerMixin

from components.agent.engines.protocol import TurnOutput, TurnRequest
from components.agent.engines.sampling import sample_tokens


class _SlotLayer(CacheLayerMixin):
    """One layer's keys and values for all slots; `rows` and `positions_NL` say where a forward pass writes."""

    def __init__(self, num_slots: int, num_columns: int) -> None:
        super().__init__()
        self.num_slots, self.num_columns = num_slots, num_columns
        self.rows: torch.Tensor | slice = slice(0)
        self.positions_NL = torch.empty(0)
        self.visible = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        _, heads, _, head_size = key_states.shape
        shape = (self.num_slots, heads, self.num_columns, head_size)
        self.keys, self.values = key_states.new_zeros(shape), value_states.new_zeros(shape)
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows = self.rows
        index_N = torch.arange(rows.stop, device=key_states.device) if isinstance(rows, slice) else rows
        self.keys[index_N[:, None], :, self.positions_NL] = key_states.transpose(1, 2)
        self.values[index_N[:, None], :, self.positions_NL] = value_states.transpose(1, 2)
        return self.keys[:, :, : self.visible][rows], self.values[:, :, : self.visible][rows]

    def get_seq_length(self, *args) -> int:
        return self.visible

    def get_mask_sizes(self, query_length: int, *args) -> tuple[int, int]:
        return self.visible, 0

    def get_max_length(self) -> int:
        return self.num_columns


@dataclass(frozen=True, slots=True)
class _Stops:
    """Stop strings, the only tokens worth looking at for them, and how many tokens such a string can span."""

    strings: tuple[str, ...]
    closing_ids: frozenset[int]
    span_tokens: int


@dataclass(slots=True)
class _Running:
    request: TurnRequest
    slot: int
    stops: _Stops
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class TorchEngine:
    """Engine over a loaded model; shares the module with a trainer when both live in one process."""

    def __init__(self, model, tokenizer, *, num_slots: int, max_context_tokens: int, prefill_at: float = 0.25) -> None:
        """Allocate `num_slots` sequences of `max_context_tokens`.

        `prefill_at` is the share of slots that must wait for prefill before running turns pause for it:
        larger batches of prompts are cheaper, smaller ones keep more turns running.
        """
        self.model, self.tokenizer = model, tokenizer
        self.num_slots, self.max_context_tokens = num_slots, max_context_tokens
        self._scratch = max_context_tokens
        self._prefill_at = max(1, int(prefill_at * num_slots))
        num_layers = model.config.get_text_config().num_hidden_layers
        self._layers = [_SlotLayer(num_slots, max_context_tokens + 1) for _ in range(num_layers)]
        self._cache = Cache(layers=self._layers)
        self._stops: dict[tuple[str, ...], _Stops] = {}
        self._eos_ids = _eos_ids(model, tokenizer)
        self._pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self.reset_cache()

    def reset_cache(self) -> None:
        """Forget every sequence; turns still queued or running are an error of the caller."""
        self._waiting: list[TurnRequest] = []
        self._running: dict[int, _Running] = {}
        self._slot_of: dict[int, int] = {}
        self._cached_tokens: dict[int, int] = {}
        self._free_slots = list(range(self.num_slots - 1, -1, -1))

    @torch.no_grad()
    def publish(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take new weights, one tensor at a time, and forget every sequence; a shared module has them already."""
        own = dict(self.model.named_parameters())
        for name, tensor in named_tensors:
            if own[name].data_ptr() != tensor.data_ptr():
                own[name].copy_(tensor)
        self.reset_cache()

    def add_request(self, request: TurnRequest) -> None:
        """Queue a turn.

        Raises:
            ValueError: the context and the turn together exceed `max_context_tokens`.
        """
        needed = len(request.token_ids) + request.max_new_tokens
        if needed > self.max_context_tokens:
            raise ValueError(f"turn needs {needed} tokens of context, the engine has {self.max_context_tokens}")
        self._waiting.append(request)

    def has_unfinished(self) -> bool:
        """Return whether a step would advance any turn; a queued turn without a free slot has to wait."""
        return bool(self._running) or self._num_ready() > 0

    def release(self, sequence_id: int) -> None:
        """Free the slot of a sequence; unknown ids are ignored."""
        slot = self._slot_of.pop(sequence_id, None)
        if slot is not None:
            del self._cached_tokens[sequence_id]
            self._free_slots.append(slot)
            self._free_slots.sort(reverse=True)

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

    def _stops_for(self, strings: tuple[str, ...]) -> _Stops:
        if strings not in self._stops:
            last = {string[-1] for string in strings}
            texts = (self.tokenizer.decode([i]) for i in range(len(self.tokenizer))) if last else ()
            closing = frozenset(i for i, text in enumerate(texts) if not last.isdisjoint(text))
            self._stops[strings] = _Stops(strings, closing, max(map(len, strings), default=0) + 1)
        return self._stops[strings]

    def _num_ready(self) -> int:
        continuing = sum(request.sequence_id in self._slot_of for request in self._waiting)
        return continuing + min(len(self._waiting) - continuing, len(self._free_slots))

    def _admit(self) -> list[_Running]:
        ready = self._num_ready()
        if not ready or (self._running and ready < self._prefill_at):
            return []
        admitted, still_waiting = [], []
        for request in self._waiting:
            slot = self._slot_of.get(request.sequence_id)
            if slot is None and self._free_slots:
                slot = self._slot_of[request.sequence_id] = self._free_slots.pop()
                self._cached_tokens[request.sequence_id] = 0
            if slot is None:
                still_waiting.append(request)
            else:
                admitted.append(_Running(request, slot, self._stops_for(request.stop_strings)))
        self._waiting = still_waiting
        return admitted

    def _prefill(self, admitted: list[_Running]) -> list[TurnOutput]:
        new_ids = [turn.request.token_ids[self._cached_tokens[turn.request.sequence_id] :] for turn in admitted]
        longest = max(map(len, new_ids))
        ids_NL = [[self._pad_id] * (longest - len(ids)) + list(ids) for ids in new_ids]
        positions_NL = []
        for turn, ids in zip(admitted, new_ids, strict=True):
            start = self._cached_tokens[turn.request.sequence_id]
            positions_NL.append([self._scratch] * (longest - len(ids)) + list(range(start, start + len(ids))))
            self._cached_tokens[turn.request.sequence_id] = start + len(ids)
            self._running[turn.slot] = turn
        rows = torch.tensor([turn.slot for turn in admitted], device=self.model.device)
        return self._forward(admitted, rows, ids_NL, positions_NL)

    def _decode(self) -> list[TurnOutput]:
        running = [self._running[slot] for slot in sorted(self._running)]
        span = running[-1].slot + 1
        ids_NL, positions_NL, order = [], [], {}
        for row, turn in enumerate(running):
            sequence_id = turn.request.sequence_id
            ids_NL.append([turn.token_ids[-1]])
            positions_NL.append([self._cached_tokens[sequence_id]])
            self._cached_tokens[sequence_id] += 1
            order[turn.slot] = row
        if len(running) * 2 < span:
            rows = torch.tensor([turn.slot for turn in running], device=self.model.device)
            return self._forward(running, rows, ids_NL, positions_NL)
        # A prefix of the slots is read without copying the cache; idle slots in it compute into the scratch column.
        idle = ([self._pad_id], [self._scratch])
        cells = [(ids_NL[order[s]], positions_NL[order[s]]) if s in order else idle for s in range(span)]
        padded: list[_Running | None] = [self._running.get(slot) for slot in range(span)]
        return self._forward(padded, slice(span), [cell[0] for cell in cells], [cell[1] for cell in cells])

    def _forward(self, turns, rows, ids_NL, positions_NL) -> list[TurnOutput]:
        """Run the model once, sample one token for every turn (None marks an idle row) and return ended turns."""
        device = self.model.device
        positions = np.asarray(positions_NL)
        visible = int(positions[positions < self._scratch].max()) + 1
        visible = min(-(-visible // 8) * 8, self.max_context_tokens)
        positions_t = torch.from_numpy(positions).to(device)
        for layer in self._layers:
            layer.rows, layer.positions_NL, layer.visible = rows, positions_t, visible
        columns = torch.arange(visible, device=device)
        hidden = columns[None, None, :] > positions_t[:, :, None]
        mask = torch.zeros(hidden.shape, dtype=self.model.dtype, device=device)
        mask = mask.masked_fill_(hidden, torch.finfo(self.model.dtype).min)[:, None]
        logits_NV = self.model(
            input_ids=torch.tensor(ids_NL, device=device),
            attention_mask=mask,
            position_ids=positions_t.clamp(max=self.max_context_tokens - 1),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        kept = [row for row, turn in enumerate(turns) if turn is not None]
        running = [turns[row] for row in kept]
        tokens, logprobs = sample_tokens(
            logits_NV if len(kept) == len(turns) else logits_NV[kept],
            temperatures=[turn.request.temperature for turn in running],
            seeds=[turn.request.seed for turn in running],
            draws=[len(turn.request.token_ids) + len(turn.token_ids) for turn in running],
        )
        return self._collect(running, tokens, logprobs)

    def _collect(self, running: list[_Running], tokens: list[int], logprobs: list[float]) -> list[TurnOutput]:
        ended = []
        for turn, token, logprob in zip(running, tokens, logprobs, strict=True):
            turn.token_ids.append(token)
            turn.logprobs.append(logprob)
            finish = self._finish(turn, token)
            if finish:
                del self._running[turn.slot]
                ended.append(TurnOutput(turn.request.sequence_id, turn.token_ids, turn.logprobs, finish))
        return ended

    def _finish(self, turn: _Running, token: int):
        if token in self._eos_ids:
            return "eos"
        if token in turn.stops.closing_ids:
            tail = self.tokenizer.decode(turn.token_ids[-turn.stops.span_tokens :])
            if any(stop in tail for stop in turn.stops.strings):
                return "stop"
        return "length" if len(turn.token_ids) >= turn.request.max_new_tokens else None


def _eos_ids(model, tokenizer) -> set[int]:
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ids = configured if isinstance(configured, list) else [configured]
    return {i for i in [*ids, tokenizer.eos_token_id] if i is not None}
