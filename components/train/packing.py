"""Packs episodes of very different lengths into rows without padding between them.

Legend: R rows, T tokens of a row, M trained tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


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
    """Index of each trained token in the flat order of the sequences given to `pack`."""
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
    sequences: Sequence[EpisodeTokens], row_tokens: int, rows_per_batch: int, pad_id: int, device: torch.device | str
) -> list[PackedRows]:
    """Return micro-batches of at most `rows_per_batch` rows that hold every sequence exactly once.

    First fit on falling lengths; a sequence longer than `row_tokens` gets a row of its own. Trained tokens
    of the same batch keep the order of the rows; `order_M` leads back to the order of `sequences`.
    """
    starts = [0]
    for sequence in sequences:
        starts.append(starts[-1] + len(sequence.trained_positions))
    rows = _first_fit([len(sequence.token_ids) for sequence in sequences], row_tokens)
    rows.sort(key=lambda row: -sum(len(sequences[i].token_ids) for i in row))
    batches = [rows[i : i + rows_per_batch] for i in range(0, len(rows), rows_per_batch)]
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


def _batch(
    rows: list[list[int]], sequences: Sequence[EpisodeTokens], starts: list[int], pad_id: int, device
) -> PackedRows:
    width = max(sum(len(sequences[i].token_ids) for i in row) for row in rows)
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
    tensors = (torch.tensor(x, device=device) for x in (ids, positions, segments, row_M, column_M, targets_M, order_M))
    starts_t = torch.tensor(starts_of_segments, dtype=torch.int32)
    return PackedRows(*tensors, starts_t.to(device), int(starts_t.diff().max()))
