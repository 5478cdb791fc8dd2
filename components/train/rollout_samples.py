"""A few training episodes for readers: token by token, with the log-probabilities and advantages the loss saw.

One JSON file per kept step, `rollouts/step_000010.json`, a list of `EpisodeView`. It lies in the work storage and
goes with the checkpoint. A step's file is a function of its episodes alone, without clocks: a resumed run that takes
the step again writes the same bytes.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from components.agent.prompt import Tokenizer
from components.contracts.answer import exact_match
from components.contracts.episode import StopReason
from components.contracts.errors import StorageError
from components.report.episodes import EpisodeView
from components.report.spans import episode_spans
from components.storage import Storage
from components.train.config import TrainConfig
from components.train.experience import Experience
from components.train.ranks import rank

FOLDER = "rollouts"
EPISODES_PER_STEP = 8
MAX_STEPS = 12
"""Files of a run; of more dev evaluations, evenly spaced ones are kept and the last one."""


class RolloutSamples:
    """Keeps episodes of chosen steps in `storage`; holds nothing itself."""

    def __init__(self, storage: Storage, config: TrainConfig, tokenizer: Tokenizer) -> None:
        self._storage, self._tokenizer = storage, tokenizer
        self._steps = kept_steps(config)

    def keep(self, step: int, experience: Experience, advantages_M: np.ndarray) -> None:
        """Store some episodes of training step `step` (the first is 1) if it is one of those that are kept.

        Every rank holds the whole experience; the first one writes. What the storage refuses is missing in the viewer
        and ends no training.
        """
        if step not in self._steps or rank():
            return
        ends = np.cumsum([len(sequence.trained_positions) for sequence in experience.sequences])
        views = [
            self._view(step, experience, i, advantages_M[ends[i] - len(experience.sequences[i].trained_positions) :])
            for i in choose(experience)
        ]
        text = json.dumps([view.model_dump(mode="json") for view in views], ensure_ascii=True)
        try:
            self._storage.put_bytes(text.encode(), f"{FOLDER}/step_{step:06d}.json")
        except StorageError as error:
            print(f"warning: the episodes of step {step} are not kept for readers ({error})", flush=True)

    def copy_to(self, folder: Path) -> None:
        """Write the files of all kept steps into `folder`."""
        for info in self._storage.list(FOLDER):
            self._storage.get_file(info.key, folder / Path(info.key).name)

    def _view(self, step: int, experience: Experience, index: int, advantages: np.ndarray) -> EpisodeView:
        episode, question = experience.episodes[index], experience.questions[index]
        positions = experience.sequences[index].trained_positions
        by_position = dict(zip(positions, advantages[: len(positions)].tolist(), strict=True))
        return EpisodeView(
            question_id=question.id,
            set_name=question.set_name,
            question=question.question,
            golden_answers=question.golden_answers,
            prediction=episode.answer or "",
            has_answer=episode.stop_reason is StopReason.ANSWERED,
            em=exact_match(episode.answer or "", question.golden_answers),
            num_searches=episode.num_searches,
            stop_reason=episode.stop_reason.value,
            spans=episode_spans(episode, self._tokenizer.decode, by_position),
            training_step=step,
            reward=float(experience.outcomes[index]),
        )


def kept_steps(config: TrainConfig) -> frozenset[int]:
    """Return the steps whose episodes are kept: dev evaluations, at most `MAX_STEPS` of them, the last included."""
    evaluated = sorted({*range(config.dev.every_steps, config.steps + 1, config.dev.every_steps), config.steps})
    stride = -(-len(evaluated) // MAX_STEPS)
    return frozenset(evaluated[::-1][::stride])


def choose(experience: Experience) -> list[int]:
    """Return the indices of at most `EPISODES_PER_STEP` episodes: right and wrong, with and without a search, in turn.

    Within a kind the order of the step decides; a kind that has run out leaves its turns to the others.
    """
    pools: dict[tuple[bool, bool], list[int]] = {(r, s): [] for s in (True, False) for r in (True, False)}
    for i, (episode, question) in enumerate(zip(experience.episodes, experience.questions, strict=True)):
        is_right = exact_match(episode.answer or "", question.golden_answers) > 0
        pools[is_right, episode.num_searches > 0].append(i)
    return _in_turn(list(pools.values()), EPISODES_PER_STEP)


def _in_turn(pools: Sequence[list[int]], count: int) -> list[int]:
    longest = max(map(len, pools), default=0)
    return [pool[turn] for turn in range(longest) for pool in pools if turn < len(pool)][:count]
