"""The plain peer: all episodes of a batch take their turns together, and every turn reads the whole context again.

This is how Search-R1's own generation loop is built, with Hugging Face's `generate`. Prompts, actions,
observations, stops and limits are ours (`EpisodeLoop`), all searches of a turn travel in one call, and no
log-probabilities are computed: what differs is the order of the work.
"""

from collections.abc import Sequence
from typing import Any

import torch

from components.agent.actions import STOP_STRINGS
from components.agent.config import LoopConfig
from components.agent.engines.protocol import TurnOutput
from components.agent.episode_loop import EpisodeLoop, EpisodeTask
from components.contracts.episode import Episode
from components.search.protocol import Searcher


def lock_step_rollout(
    model: Any, tokenizer: Any, searcher: Searcher, tasks: Sequence[EpisodeTask], loop: LoopConfig, batch_size: int
) -> list[Episode]:
    """Return one finished episode per task; `batch_size` of them are in memory at a time."""
    episodes = [EpisodeLoop(number, task, loop, tokenizer) for number, task in enumerate(tasks)]
    for begin in range(0, len(episodes), batch_size):
        active = episodes[begin : begin + batch_size]
        while active:
            _turn(model, tokenizer, searcher, active, loop.top_k, tasks[begin].temperature)
            active = [episode for episode in active if not episode.done]
    return [episode.episode for episode in episodes]


def _turn(model, tokenizer, searcher: Searcher, active: list[EpisodeLoop], top_k: int, temperature: float) -> None:
    asked = []
    for episode, token_ids in zip(active, _generate(model, tokenizer, active, temperature), strict=True):
        query = episode.end_turn(TurnOutput(episode.sequence_id, token_ids, [0.0] * len(token_ids), "stop"))
        if query:
            asked.append((episode, query))
    if asked:
        found = searcher.search([query for _, query in asked], top_k)
        for (episode, query), passages in zip(asked, found, strict=True):
            episode.observe(query, passages, 0.0)


@torch.inference_mode()
def _generate(model, tokenizer, active: list[EpisodeLoop], temperature: float) -> list[list[int]]:
    requests = [episode.next_turn() for episode in active]
    longest = max(len(request.token_ids) for request in requests)
    pad_id = tokenizer.pad_token_id
    padding = [longest - len(request.token_ids) for request in requests]
    ids = [[pad_id] * gap + list(request.token_ids) for gap, request in zip(padding, requests, strict=True)]
    mask = [[0] * gap + [1] * (longest - gap) for gap in padding]
    ends = end_ids(tokenizer)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    output = model.generate(
        torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        max_new_tokens=max(request.max_new_tokens for request in requests),
        eos_token_id=ends,
        pad_token_id=pad_id,
        **(sampling if temperature else {"do_sample": False}),
    )
    rows = zip(output[:, longest:].tolist(), requests, strict=True)
    return [_up_to_end(row, set(ends))[: request.max_new_tokens] for row, request in rows]


def end_ids(tokenizer: Any) -> list[int]:
    """Return the tokens that end a turn: in this vocabulary every closing tag is one token."""
    ids = [tokenizer.encode(stop, add_special_tokens=False) for stop in STOP_STRINGS]
    assert all(len(pieces) == 1 for pieces in ids), "the lock-step peers stop at tokens, not at strings"
    return [*(pieces[0] for pieces in ids), tokenizer.eos_token_id]


def _up_to_end(row: list[int], ends: set[int]) -> list[int]:
    for position, token in enumerate(row):
        if token in ends:
            return row[: position + 1]
    return row
