"""The trained baselines (Search-R1, section 4.2): the same loop of steps, but imitation in place of rewards.

`sft` imitates gold answers; `rejection_sampling` imitates the base model's own right episodes, searches included.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from components.contracts.errors import QuestionError, TrainingStopped
from components.storage import Storage
from components.train.checkpoint import TrainState
from components.train.clock import Clock
from components.train.gold_answers import answer_turns
from components.train.kept_episodes import KeptEpisodes, episodes_of_step
from components.train.learner import Learner
from components.train.packing import EpisodeTokens
from components.train.prompts import questions_of_step
from components.train.ranks import sum_over_ranks
from components.train.rewards import rewards
from components.train.trainer import Trainer


def imitate(learner: Learner, demonstrations: Sequence[EpisodeTokens], step: int) -> dict[str, float]:
    """Make the optimizer updates of `step` on the trained tokens of `demonstrations` and return metrics.

    The loss is the mean negative log-probability over the trained tokens of a minibatch on all ranks: it does
    not depend on packing, micro-batches or world size.

    Raises:
        TrainingStopped: more than `max_skipped_steps` updates in a row had a non-finite loss or gradient.
    """
    learner.set_learning_rates(step)
    losses, entropies, tokens, grad_norms, skipped = 0.0, 0.0, 0, [], 0.0
    for chosen in learner.minibatches(len(demonstrations), step):
        sequences = [demonstrations[i] for i in chosen]
        count = sum(len(sequence.trained_positions) for sequence in sequences)
        sums = {"loss": 0.0, "entropy": 0.0}
        for rows in learner.packed(sequences):
            logprobs_M, entropy_M = learner.scorer(rows, temperature=1.0)
            loss = -logprobs_M.sum()
            (loss / max(1, count)).backward()
            sums["loss"] += loss.item()
            sums["entropy"] += entropy_M.sum().item()
        sums = sum_over_ranks(sums)
        done = learner.step_optimizers(finite=bool(np.isfinite(sums["loss"])))
        grad_norms.append(done["sum_updates/grad_norm"])
        skipped += done["skipped_updates"]
        losses, entropies, tokens = losses + sums["loss"], entropies + sums["entropy"], tokens + count
    return {
        "loss/imitation": losses / max(1, tokens),
        "entropy/mean": entropies / max(1, tokens),
        "grad_norm": float(np.mean(grad_norms)),
        "skipped_updates": skipped,
        "lr": learner.learning_rates()["lr"],
        "imitation/episodes": float(len(demonstrations)),
        "imitation/tokens": float(tokens),
    }


@dataclass(slots=True)
class SupervisedTrainer(Trainer):
    """A `Trainer` whose steps imitate; dev evaluation, checkpoints and alarms are the same."""

    storage: Storage
    """The run's own prefix for unfinished work."""
    right_episodes: list[EpisodeTokens] = field(default_factory=list)
    """What rejection sampling imitates; empty until the base model has been sampled."""

    def train_step(self, state: TrainState) -> dict[str, float]:
        """Make one step and return its metrics (docs/metrics.md).

        Raises:
            QuestionError: not one gold answer of the step fits a turn.
            TrainingStopped: the base model answered no question right, or updates were not finite.
            SearchError: too many searches of a rollout step failed.
        """
        clock = Clock(self.engine_time)
        if self.config.algorithm == "sft":
            demonstrations, metrics = self._gold_answers(state.step), {}
        else:
            self.right_episodes = self.right_episodes or self._sample_base_model(state)
            demonstrations, metrics = self._right_episodes(state.step)
        self._heed_stop(state)
        clock.lap("rollout")
        metrics |= imitate(self.learner, demonstrations, state.step)
        clock.lap("update")
        metrics |= self.publish_weights()
        clock.lap("publish")
        state.tokens += int(metrics["imitation/tokens"])
        return metrics | clock.metrics(self.save_s)

    def _gold_answers(self, step: int) -> list[EpisodeTokens]:
        # A group of equal questions would only repeat its gold answer.
        questions = questions_of_step(self.train_questions, self.config, step)[:: self.config.episodes_per_question]
        turns = answer_turns(questions, self.config.loop, self.tokenizer)
        if not turns:
            raise QuestionError(
                f"No gold answer of training step {step + 1} fits a turn",
                f"at most {self.config.loop.max_turn_tokens} tokens, tags included",
                "raise train.loop.max_turn_tokens",
            )
        return turns

    def _sample_base_model(self, state: TrainState) -> list[EpisodeTokens]:
        """Return the right episodes of every rollout step, sampling those that no earlier attempt stored."""
        kept = KeptEpisodes(self.storage)
        for number in range(self.config.rollout_steps):
            if kept.has(number):
                continue
            assert state.step == 0, "the base model is sampled before the first update"
            questions, episodes = self.collect(number, state)
            outcomes = rewards(episodes, questions, self.config.reward)
            experience = self.usable(episodes, questions, outcomes)
            right = [s for s, outcome in zip(experience.sequences, experience.outcomes, strict=True) if outcome == 1.0]
            kept.save(number, right)
            done = f"rollout step {number + 1}/{self.config.rollout_steps}"
            self._say(f"{done}: {len(right)} of {len(episodes)} episodes right")
            # Hours of sampling may lie between two steps.
            self._heed_stop(state)
        found = kept.load(self.config.rollout_steps)
        if not found:
            raise TrainingStopped(
                f"None of the base model's {self._num_sampled()} episodes was right, so there is nothing to imitate: "
                "raise train.rollout_steps or train.episodes_per_question, or start from a stronger base model"
            )
        return found

    def _right_episodes(self, step: int) -> tuple[list[EpisodeTokens], dict[str, float]]:
        kept = self.right_episodes
        chosen = episodes_of_step(kept, self.config.questions_per_step, step, self.config.seed)
        return chosen, {"rollout/num_kept": float(len(kept)), "rollout/frac_kept": len(kept) / self._num_sampled()}

    def _num_sampled(self) -> int:
        return self.config.rollout_steps * self.config.questions_per_step * self.config.episodes_per_question
