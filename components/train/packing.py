"""Packs episodes of very different lengths into rows without padding between them.

Legend: R rows, T tokens of a row, M trained tokens.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch

ATTENTION_EQUALS_REST_TOKENS = 32_768
"""Length at which attention costs as much as all matrix products together; within a factor of two from 1.5 to 7 B."""


@dataclass(slots=True)
class EpisodeTokens:
    """One episode as the trainer sees it: ids and the positions whose tokens are trained (never the first)."""

    token_ids: list[int]
    trained_positions: list[int]


@dataclass(slots=True)
class PackedRows:
    """A micro-batch. The m-th trained token is predicted at `[row_M[m], column_M[m]]` and has id `targets_M[m]`."""

    ids_RT: torch.Tensor
    positions_RT: torch.Tensor
    """Position within the own episode."""
    segments_RT: torch.Tensor
    """Episode number within the row; -1 on padding."""
    row_M: torch.Tensor
    column_M: torch.Tensor
    targets_M: torch.Tensor
    order_M: torch.Tensor
    """Index of each trained token in the flat order of the sequences given to `pack`; always in the host's memory,
    where it is used: a copy from a GPU would wait for all passes before it."""
    segment_starts: torch.Tensor
    """First token of each episode, and of each row's padding, in the rows laid end to end; the end last; int32."""
    longest_segment: int

    def attention_mask(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the additive mask [R, 1, T, T]: causal within an episode, blind to every other one."""
        same_RTT = self.segments_RT[:, :, None] == self.segments_RT[:, None, :]
        length = self.ids_RT.shape[1]
        causal_TT = torch.ones(length, length, dtype=torch.bool, device=self.ids_RT.device).tril()
        mask = torch.zeros(same_RTT.shape, dtype=dtype, device=self.ids_RT.device)
        return mask.masked_fill_(~(same_RTT & causal_TT), torch.finfo(dtype).min)[:, None]


def pack(
    sequences: Sequence[EpisodeTokens],
    row_tokens: int,
    rows_per_batch: int,
    pad_id: int,
    device: torch.device | str,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> list[PackedRows]:
    """Return this rank's micro-batches of at most `rows_per_batch` rows; together the ranks hold every sequence once.

    A sequence longer than `row_tokens` gets a row of its own. Every rank gets equally many rows of about equal
    cost, so that none waits for another; a rank without a sequence gets rows of padding. Trained tokens of the
    same batch keep the order of the rows; `order_M` leads back to the order of `sequences`.
    """
    starts = [0]
    for sequence in sequences:
        starts.append(starts[-1] + len(sequence.trained_positions))
    lengths = [len(sequence.token_ids) for sequence in sequences]
    rows = _first_fit(lengths, row_tokens)
    if world_size > 1:
        rows = _spread(lengths, max(row_tokens, *lengths), -(-len(rows) // world_size) * world_size, world_size)
    rows.sort(key=lambda row: -sum(lengths[i] for i in row))
    mine = rows[rank::world_size]
    batches = [mine[i : i + rows_per_batch] for i in range(0, len(mine), rows_per_batch)]
    return [_batch(batch, sequences, starts, pad_id, device) for batch in batches]


def _first_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    rows: list[list[int]] = []
    room: list[int] = []
    first_open = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        for row in range(first_open, len(rows)):
            if room[row] >= lengths[index]:
                break
        else:
            row = len(rows)
            rows.append([])
            room.append(max(capacity, lengths[index]))
        rows[row].append(index)
        room[row] -= lengths[index]
        shortest = lengths[index]
        while first_open < len(rows) and room[first_open] < min(shortest, 8):
            first_open += 1
    return rows


def _spread(lengths: list[int], capacity: int, num_rows: int, world_size: int) -> list[list[int]]:
    """Return `num_rows` rows of about equal cost, or as many more as it takes; the longest sequences go first."""
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    room = [capacity] * num_rows
    cheapest = [(0.0, row) for row in range(num_rows)]
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        full = []
        while cheapest and room[cheapest[0][1]] < lengths[index]:
            full.append(heapq.heappop(cheapest))
        if not cheapest:
            return _spread(lengths, capacity, num_rows + world_size, world_size)
        cost, row = heapq.heappop(cheapest)
        rows[row].append(index)
        room[row] -= lengths[index]
        heapq.heappush(cheapest, (cost + lengths[index] * (1 + lengths[index] / ATTENTION_EQUALS_REST_TOKENS), row))
        for entry in full:
            heapq.heappush(cheapest, entry)
    return rows


def _batch(
    rows: list[list[int]], sequences: Sequence[EpisodeTokens], starts: list[int], pad_id: int, device
) -> PackedRows:
    # A row without a sequence still is a row: ranks must make the same number of passes.
    width = max(1, *(sum(len(sequences[i].token_ids) for i in row) for row in rows))
    ids, positions, segments, starts_of_segments = [], [], [], [0]
    row_M, column_M, targets_M, order_M = [], [], [], []
    for row_number, row in enumerate(rows):
        row_ids, row_positions, row_segments = [], [], []
        for segment, index in enumerate(row):
            sequence, offset = sequences[index], len(row_ids)
            row_ids += sequence.token_ids
            row_positions += range(len(sequence.token_ids))
            row_segments += [segment] * len(sequence.token_ids)
            starts_of_segments.append(starts_of_segments[-1] + len(sequence.token_ids))
            row_M += [row_number] * len(sequence.trained_positions)
            column_M += [offset + position - 1 for position in sequence.trained_positions]
            targets_M += [sequence.token_ids[position] for position in sequence.trained_positions]
            order_M += range(starts[index], starts[index] + len(sequence.trained_positions))
        padding = width - len(row_ids)
        if padding:
            starts_of_segments.append(starts_of_segments[-1] + padding)
        ids.append(row_ids + [pad_id] * padding)
        positions.append(row_positions + [0] * padding)
        segments.append(row_segments + [-1] * padding)
    # A batch of padding has no trained tokens: what an empty list is made of has to be said.
    numbers = (ids, positions, segments, row_M, column_M, targets_M)
    tensors = (torch.tensor(x, dtype=torch.long, device=device) for x in numbers)
    starts_t = torch.tensor(starts_of_segments, dtype=torch.int32)
    return PackedRows(
        *tensors, torch.tensor(order_M, dtype=torch.long), starts_t.to(device), int(starts_t.diff().max())
    )
