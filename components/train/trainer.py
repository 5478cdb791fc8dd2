"""The training loop of Search-R1: collect, score, advantages, update, publish weights; one function call each."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from components.agent.engines.protocol import TrainedEngine
from components.agent.episode_loop import EpisodeTask
from components.agent.prompt import Tokenizer, prompt_ids
from components.agent.rollout import RolloutCancelled, rollout
from components.contracts.answer import exact_match
from components.contracts.episode import Episode, StopReason
from components.contracts.errors import SearchError, StoppedBySignal
from components.contracts.question import Question
from components.tracking.tracker import Tracker
from components.train.ahead import BatchAhead
from components.train.alarms import (
    check_mismatch,
    collapse_reason,
    observe_dev,
    observe_mismatch,
    observe_rollouts,
    reset_alarms,
)
from components.train.checkpoint import Checkpoints, TrainState
from components.train.checkpoint_names import checkpoint_name
from components.train.clock import Clock, WorkTime
from components.train.config import TrainConfig
from components.train.episode_health import health_metrics, search_metrics
from components.train.experience import Experience, advantages_and_returns, gather_experience, group_metrics
from components.train.group_search import CountedSearch
from components.train.learner import Learner, Targets
from components.train.plan_memory import num_gpus
from components.train.prompts import episode_seed, questions_of_step
from components.train.ranks import rank, sum_over_ranks
from components.train.rewards import rewards
from components.train.rollout_metrics import rollout_metrics
from components.train.rollout_samples import RolloutSamples
from components.train.sharing import Hand, TaskSharing
from components.train.stop import StopRequest
from components.train.throughput import throughput_metrics
from components.train.weights import publish_weights


@dataclass(slots=True)
class Trainer:
    """Everything a training run holds together; `run` is the whole story."""

    config: TrainConfig
    learner: Learner
    engine: TrainedEngine
    tokenizer: Tokenizer
    client: CountedSearch
    train_questions: dict[str, list[Question]]
    dev_questions: Sequence[Question]
    checkpoints: Checkpoints
    tracker: Tracker
    metrics_file: Path
    announce: Callable[[TrainState, dict[str, float]], None]
    stop: StopRequest
    rollout_samples: RolloutSamples
    sharing: TaskSharing = field(init=False)
    ahead: BatchAhead = field(init=False)
    engine_time: WorkTime = field(init=False)
    """Of the engine's steps in all rollouts."""
    save_s: float = field(init=False)
    """What the last save kept the training from going on."""

    def __post_init__(self) -> None:
        self.sharing, self.ahead = TaskSharing(self.config), BatchAhead()
        self.engine_time, self.save_s = WorkTime(), 0.0

    def run(self, state: TrainState) -> TrainState:
        """Train from `state` to the last step and leave the learner at the best checkpoint of the dev split.

        Raises:
            TrainingStopped: too many updates were not fit to be applied, or engine and trainer are too far apart.
            SearchError: too many searches of a step or of a dev evaluation failed.
            EngineError: new weights did not reach the engine.
            StoppedBySignal: a rank received SIGTERM.
        """
        try:
            return self._run(state)
        except BaseException as error:
            self.ahead.discard()
            self.checkpoints.finish_after(error)
            raise

    def _run(self, state: TrainState) -> TrainState:
        if state.step == 0 and not state.em_curve:
            self._log_and_save(state, self._evaluate(state), save=True)
        if state.unfinished:
            self._finish_step(state)
        while state.step < self.config.steps:
            # Judged before a step, not after one, so that a run killed in between does the same when it resumes.
            self._check_mismatch(state)
            if reason := collapse_reason(state, self.config.dev):
                if state.num_rollbacks >= self.config.dev.max_rollbacks:
                    self._say(f"stopped at step {state.step}: {reason}, after {state.num_rollbacks} returns")
                    break
                state = self._return_to_best(state, reason)
            started_s = time.monotonic()
            state.unfinished = self.train_step(state)
            state.update_guard = self.learner.guard.state_dict()
            state.step += 1
            state.rl_s += time.monotonic() - started_s
            self._finish_step(state)
        self._check_mismatch(state)
        self.checkpoints.restore_best(state, self.learner)
        self.publish_weights()
        return state

    def _finish_step(self, state: TrainState) -> None:
        """Evaluate the weights if it is time, log the step that `state` holds as unfinished, and save.

        Raises:
            StoppedBySignal: a rank received SIGTERM; `state` is saved, with the step unfinished if need be.
        """
        started_s, evaluation = time.monotonic(), {}
        evaluated = state.step == self.config.steps or state.step % self.config.dev.every_steps == 0
        if evaluated:
            evaluation = self._evaluate(state)
        state.rl_s += time.monotonic() - started_s
        metrics = state.unfinished | evaluation | self._progress(state) | {"time/save_s": self.save_s}
        state.unfinished = {}
        self._log_and_save(state, metrics, save=evaluated or state.step % self.config.save_every_steps == 0)
        self.checkpoints.poll()
        self.announce(state, metrics)
        self._heed_stop(state)

    def train_step(self, state: TrainState) -> dict[str, float]:
        """Make one step and return its metrics (docs/metrics.md)."""
        clock, retries = Clock(self.engine_time), self.client.stats.retries
        staleness_steps, ahead_s = int(bool(state.ahead)), state.ahead_s
        questions, episodes = self.collect(state.step, state, state.ahead)
        self.engine.sleep()
        self._heed_stop(state)
        clock.lap("rollout")
        outcomes = rewards(episodes, questions, self.config.reward)
        experience = self.usable(episodes, questions, outcomes)
        clock.lap("reward")
        self._begin_ahead(state.step + 1)
        clock.lap("rollout")
        scores = self.learner.score(experience)
        clock.lap("score")
        targets, scoring = self.advantages(experience, scores)
        self.rollout_samples.keep(state.step + 1, experience, targets.advantages.numpy())
        clock.lap("reward")
        learning = self.learner.update(experience, targets, state.step, lambda: self._heed_stop(state))
        clock.lap("update")
        learning |= self._end_ahead(state, clock)
        learning |= self.publish_weights()
        clock.lap("publish")
        observed = rollout_metrics(episodes, outcomes, questions)
        observed |= health_metrics(episodes, questions, self.config.loop)
        observed |= search_metrics(episodes)
        observed |= sum_over_ranks({"search/retries": float(self.client.stats.retries - retries)})
        observed["rollout/staleness_steps"] = float(staleness_steps)
        observe_rollouts(state, observed, self.config.dev)
        mismatch_kl = learning["kl/rollout_vs_trainer"]
        observe_mismatch(state, mismatch_kl, self.config.correction, staleness_steps=staleness_steps)
        state.tokens += experience.num_tokens
        throughput = throughput_metrics(
            episodes,
            experience,
            clock.laps,
            self.learner.policy.config.to_dict(),
            has_critic=self.learner.critic is not None,
            config=self.config,
            ahead_s=ahead_s,
        )
        return observed | scoring | learning | clock.metrics(self.save_s) | throughput

    def collect(
        self, step: int, state: TrainState, ahead: Sequence[Episode] = ()
    ) -> tuple[list[Question], list[Episode]]:
        """Return the questions of `step` and an episode for each.

        They are those sampled `ahead`, where there are any, else sampled now, with the current weights on all ranks.

        Raises:
            StoppedBySignal: a rank received SIGTERM meanwhile; `state` is saved.
        """
        questions = questions_of_step(self.train_questions, self.config, step)
        return questions, list(ahead) or self._ask(self._tasks(questions, step), state)

    def _tasks(self, questions: Sequence[Question], step: int) -> list[EpisodeTask]:
        return [
            EpisodeTask(
                question.id,
                prompt_ids(question.question, self.config.loop, self.tokenizer),
                episode_seed(self.config.seed, step, index),
                self.config.temperature,
            )
            for index, question in enumerate(questions)
        ]

    def _ask(self, tasks: list[EpisodeTask], state: TrainState) -> list[Episode]:
        """Return an episode for every task; each rank plays its share, and all of them know the results.

        A rank that hears SIGTERM plays no further, and all of them end there with `state` saved.
        """
        hand = self.sharing.deal(tasks)
        try:
            own = self._play(hand, self._is_cut_short)
        except RolloutCancelled:
            own = []
        self._heed_stop(state)
        return self.sharing.gather(hand, own)

    def _is_cut_short(self) -> bool:
        # Ranks that share an engine hear a signal at different moments, and meet in every step of it.
        return self.stop.heard() and self.config.ranks_per_engine == 1

    def _play(self, hand: Hand, is_cancelled: Callable[[], bool] = lambda: False) -> list[Episode]:
        """Return this rank's episodes; no collective of all ranks, so that it may run in a thread.

        Ranks that share an engine play in lock step: all of a step's searches are waited for.
        """
        return rollout(
            self.engine,
            self.client,
            hand,
            self.config.loop,
            self.tokenizer,
            max_under_way=hand.max_under_way,
            reproducible=hand.max_under_way is None,
            engine_time=self.engine_time,
            is_cancelled=is_cancelled,
        )

    def _begin_ahead(self, step: int) -> None:
        """Begin the rollout of `step` beside what follows, if rollouts may run ahead and there is such a step."""
        if self.config.max_staleness_steps and step < self.config.steps:
            questions = questions_of_step(self.train_questions, self.config, step)
            hand = self.sharing.deal(self._tasks(questions, step))
            self.ahead.begin(hand, lambda dealt: self._play(dealt, self.ahead.is_abandoned))

    def _end_ahead(self, state: TrainState, clock: Clock) -> dict[str, float]:
        """Wait for the rollout ahead, keep its episodes in `state`, and return as a metric how long it cost nothing.

        Raises:
            SearchError: too many of its searches failed; nothing of it may reach a checkpoint.
        """
        state.ahead, state.ahead_s = [], 0.0
        if not self.ahead.is_under_way:
            return {}
        hand, own, seconds, beside_s = self.ahead.end()
        episodes = self.sharing.gather(hand, own)
        self._searched_well(episodes, "a training step")
        state.ahead, state.ahead_s = episodes, seconds
        clock.lap("ahead_wait")
        return {"time/overlapped_s": beside_s}

    def advantages(self, experience: Experience, scores: Sequence[torch.Tensor]) -> tuple[Targets, dict[str, float]]:
        """Return what the updates aim at, and the drift of the policy from its reference, by the learner's `scores`."""
        old_M, values_M, reference_M = scores
        kl_M = (old_M - reference_M).double().numpy()
        advantages_M, returns_M, keep_M = advantages_and_returns(
            experience, values_M.double().numpy(), kl_M, self.config
        )
        as_tensor = [torch.from_numpy(np.ascontiguousarray(x)).float() for x in (advantages_M, returns_M)]
        targets = Targets(old_M, values_M, reference_M, *as_tensor, torch.from_numpy(keep_M))
        metrics = {"value/mean": float(values_M.mean()), "advantage/abs_mean": float(np.abs(advantages_M).mean())}
        metrics["mask/frac_policy_tokens"] = experience.num_tokens / sum(len(s.token_ids) for s in experience.sequences)
        metrics["mask/retrieved_tokens_in_loss"] = float((experience.behaviour.turn_M == 0).sum())
        metrics["group/frac_kept_tokens"] = float(keep_M.mean())
        if self.learner.critic is None:
            metrics |= group_metrics(experience, self.config.reward.format_reward)
        if self.learner.reference is not None:
            metrics["kl/ref"] = float(kl_M.mean())
        return targets, metrics

    def evaluate_dev(self, state: TrainState) -> tuple[float, dict[str, float]]:
        """Return greedy EM on the dev questions, over all and by kind; the test sets are never seen here.

        A question whose search failed is left out: it says nothing about the model.

        Raises:
            SearchError: the share of failed searches exceeds `max_search_failure_frac`.
            StoppedBySignal: a rank received SIGTERM meanwhile; `state` is saved.
        """
        questions = list(self.dev_questions)[: self.config.dev.max_questions]
        tasks = [EpisodeTask(q.id, prompt_ids(q.question, self.config.loop, self.tokenizer), 0, 0.0) for q in questions]
        episodes = self._ask(tasks, state)
        self.engine.reset_cache()
        usable = self._searched_well(episodes, "a dev evaluation")
        questions, episodes = [questions[i] for i in usable], [episodes[i] for i in usable]
        hits = [exact_match(e.answer or "", q.golden_answers) for e, q in zip(episodes, questions, strict=True)]
        kinds = sorted({q.kind for q in questions})
        by_kind = {
            f"em/dev/{kind}": float(np.mean([h for h, q in zip(hits, questions, strict=True) if q.kind == kind]))
            for kind in kinds
        }
        return float(np.mean(hits)), by_kind

    def publish_weights(self) -> dict[str, float]:
        """Give the engine the current weights and return what was found when that was checked, as metrics.

        Raises:
            EngineError: they did not arrive.
        """
        return publish_weights(self.engine, self.learner, self.tokenizer)

    def _evaluate(self, state: TrainState) -> dict[str, float]:
        started_s = time.monotonic()
        dev_em, by_kind = self.evaluate_dev(state)
        observe_dev(state, dev_em, self.config.dev)
        return {"em/dev": dev_em, "time/dev_s": time.monotonic() - started_s} | by_kind

    def _log_and_save(self, state: TrainState, metrics: dict[str, float], *, save: bool) -> None:
        self.tracker.log(state.step, metrics)
        started_s = time.monotonic()
        if save:
            self.checkpoints.save(self.learner, state, self.metrics_file)
        self.save_s = time.monotonic() - started_s

    def _progress(self, state: TrainState) -> dict[str, float]:
        asked = state.step * self.config.questions_per_step
        questions = sum(len(self.train_questions.get(name, ())) for name in self.config.set_shares)
        return {
            "progress/samples_seen": float(asked * self.config.episodes_per_question),
            "progress/epoch": asked / questions,
            "time/training_s": state.rl_s,
            "progress/gpu_hours": state.rl_s * num_gpus(self.config) / 3600,
        }

    def usable(self, episodes: list[Episode], questions: list[Question], outcomes: list[float]) -> Experience:
        """Return the experience without episodes whose search failed.

        Raises:
            SearchError: the share of failed searches exceeds `max_search_failure_frac`.
        """
        usable = self._searched_well(episodes, "a training step")
        return gather_experience(
            [episodes[i] for i in usable],
            [questions[i] for i in usable],
            [outcomes[i] for i in usable],
            mask_retrieved=self.config.loss.mask_retrieved_tokens,
        )

    def _check_mismatch(self, state: TrainState) -> None:
        check_mismatch(state, self.config.correction, staleness_steps=self.config.max_staleness_steps)

    def _say(self, text: str) -> None:
        if rank() == 0:
            print(text, flush=True)

    def _heed_stop(self, state: TrainState) -> None:
        """End, if any rank was asked to stop, with what the last step left saved: nothing before the first evaluation.

        Raises:
            StoppedBySignal: that is so.
        """
        if not self.stop.asked():
            return
        name = checkpoint_name(state.step)
        if state.em_curve and name not in self.checkpoints.complete():
            self.checkpoints.save(self.learner, state, self.metrics_file)
        complete = self.checkpoints.complete()
        where = "there" if name in complete else [*complete[-1:], "the beginning"][0]
        raise StoppedBySignal(f"stopped by SIGTERM after step {state.step}; the same command continues from {where}")

    def _searched_well(self, episodes: Sequence[Episode], where: str) -> list[int]:
        """Return the indices of the episodes without a failed search, unless too many searches failed."""
        usable = [i for i, episode in enumerate(episodes) if episode.stop_reason is not StopReason.SEARCH_FAILED]
        num_searches = max(1, sum(episode.num_searches for episode in episodes))
        failed = len(episodes) - len(usable)
        if failed / num_searches > self.config.max_search_failure_frac or not usable:
            example = next(e.searches[-1].error for e in episodes if e.stop_reason is StopReason.SEARCH_FAILED)
            raise SearchError(f"{failed} of {num_searches} searches of {where} failed, for example: {example}")
        return usable

    def _return_to_best(self, state: TrainState, reason: str) -> TrainState:
        self.checkpoints.restore_best(state, self.learner)
        state.num_rollbacks += 1
        state.rate_scale *= 0.5
        self.learner.rate_scale = state.rate_scale
        state.update_guard = self.learner.guard.state_dict()
        reset_alarms(state)
        # Sampled with the weights that are given up.
        state.ahead, state.ahead_s = [], 0.0
        self.publish_weights()
        self._say(f"collapse at step {state.step}: {reason}; back to the weights of step {state.best_step}")
        self.checkpoints.save(self.learner, state, self.metrics_file)
        return state
