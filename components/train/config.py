"""Configuration of the train step; the defaults fit the small world on two CPU cores."""

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from components.agent.config import EngineName, LoopConfig, VllmConfig
from components.contracts.config import StepConfig
from components.search.config import SearchConfig


class OptimizerConfig(StepConfig):
    """AdamW with linear warm-up, then a constant rate or a linear decay."""

    learning_rate: float = Field(default=7e-4, gt=0)
    warmup_steps: int = Field(default=3, ge=0)
    final_rate_frac: float = Field(default=1.0, ge=0, le=1)
    """Rate of the last step as a share of `learning_rate`; 1 keeps it constant."""
    beta2: float = Field(default=0.99, gt=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=0.5, gt=0)


class LossConfig(StepConfig):
    """Objective; Search-R1 section 3.1 with the stability guards of its successors."""

    clip_low: float = Field(default=0.2, gt=0, lt=1)
    clip_high: float = Field(default=0.28, gt=0)
    """Upper clip above the lower one keeps rare tokens alive (DAPO, arXiv 2503.14476)."""
    dual_clip: float = Field(default=3.0, gt=1)
    """Bound on the ratio for negative advantages."""
    value_clip: float = Field(default=0.5, gt=0)
    kl_coefficient: float = Field(default=0.002, ge=0)
    """k1 in the reward for PPO, k2 in the loss otherwise; 0 needs no reference model."""
    entropy_coefficient: float = Field(default=0.0, ge=0)
    gamma: float = Field(default=1.0, ge=0, le=1)
    gae_lambda: float = Field(default=1.0, ge=0, le=1)
    mask_retrieved_tokens: bool = True
    """False trains on retrieved text as if the model had written it; for the ablation only."""
    whiten_per_kind: bool = True
    """Whiten advantages within each kind of question, so that the easy kind does not drown the hard one."""
    mask_void_turns: bool = False
    """Episodes with a turn that neither searches nor answers leave the policy loss (SimpleTIR, arXiv 2509.02479).
    Off while a model still has to learn the format: it would never hear that such turns earn nothing."""
    mask_truncated: bool = False
    """Episodes ended by a limit of length leave the policy loss (overlong filtering, arXiv 2503.14476)."""
    likelihood_guard_coefficient: float = Field(default=0.0, ge=0)
    """Price of each nat that tokens of good turns lose within a step (LLDS, arXiv 2512.04220: 0.2). It compares an
    update with those before it, so it needs at least 2 minibatches."""


class CorrectionConfig(StepConfig):
    """What is done about the probabilities of the engine and those of the trainer not being the same."""

    mode: Literal["bypass", "decoupled"] = "bypass"
    """`bypass` takes the engine's log-probabilities for the old ones: right where engine and trainer share the
    model, as the torch engine does. `decoupled` lets the trainer compute the old ones and weighs every token by
    trainer / engine; with one minibatch the current policy is the old one, and that costs no forward pass."""
    token_cap: float = Field(default=2.0, ge=1)
    """Largest weight of a token."""
    sequence_low: float = Field(default=0.99, gt=0, le=1)
    sequence_high: float = Field(default=1.01, ge=1)
    """An episode leaves the loss when the geometric mean of its ratios lies outside these two. The ratios of episodes
    sampled one step ahead hold the last update too: widen it until `correction/masked_episodes_frac` is low."""
    veto_ratio: float = Field(default=1e-4, ge=0, lt=1)
    """An episode leaves the loss when one of its ratios is below this."""
    max_mismatch_kl: float = Field(default=0.05, gt=0)
    """KL(engine || trainer) above this, three steps in a row, stops the training, in both modes. For episodes that are
    a step old the limit is twice as high: once for the engine, once for the update that lies between."""


class RewardConfig(StepConfig):
    """Outcome reward of an episode."""

    outcome: Literal["em", "f1", "sub_em"] = "em"
    format_reward: float = Field(default=0.0, ge=0, le=0.2)
    """Least that an answer earns which came in the right format, wrong as it may be; 0 is the paper's choice."""


class DevConfig(StepConfig):
    """Greedy evaluation on held-out questions; chooses the checkpoint and watches for collapse."""

    every_steps: int = Field(default=10, ge=1)
    max_questions: int = Field(default=160, ge=1)
    max_drop: float = Field(default=0.15, gt=0, le=1)
    """Dev EM this far below the best, twice in a row, is a collapse: training returns to the best weights."""
    min_valid_action_frac: float = Field(default=0.3, ge=0, le=1)
    """Training rollouts below this share of valid actions, three steps in a row, are a collapse too."""
    max_truncated_frac: float = Field(default=0.5, ge=0, le=1)
    """So are training rollouts of which more than this share were cut off, after a time when fewer were."""
    max_logprob_drop: float = Field(default=0.3, gt=0)
    """And a mean log-probability of right episodes that fell at each of four evaluations in a row, by more than
    this in total: it goes before the answers do (arXiv 2512.04220)."""
    max_rollbacks: int = Field(default=2, ge=0)
    """After so many returns, each at half the learning rate, training stops with the best checkpoint."""


class ParallelConfig(StepConfig):
    """Where the ranks run and in which precision; world size and precision change speed and memory, not the loss."""

    num_nodes: int = Field(default=1, ge=1)
    """Machines."""
    gpus_per_node: int = Field(default=0, ge=0, le=16)
    """Ranks of a machine, one GPU each; 0 trains on CPUs."""
    cpu_ranks: int = Field(default=1, ge=1, le=64)
    """Ranks of a machine without GPUs."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of forward and backward passes; trained weights are kept in float32 whatever it is."""
    activation_checkpointing: bool = False
    """Keep only the input of each layer and compute the rest again in the backward pass: a third more work."""
    compile_layers: bool = False
    """Fuse what layers and head do between matrix products (torch.compile): a slow first step, faster ones after it."""
    cpu_offload: bool = False
    """Keep weights, gradients and optimizer states in the machine's memory between uses."""
    share_rollouts: Literal["fixed", "stealing"] = "fixed"
    """`fixed` deals the tasks of a rollout to the ranks in turns. With `stealing` a rank takes the next one when it has
    room and waits for no search of another episode: faster where a rank has more episodes than `num_slots`, but who
    plays what depends on timing, so that a resumed run no longer ends with the same bits."""

    @property
    def ranks_per_node(self) -> int:
        """Processes on each machine."""
        return self.gpus_per_node or self.cpu_ranks

    @property
    def num_ranks(self) -> int:
        """Processes in all."""
        return self.num_nodes * self.ranks_per_node


Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
"""An amount as Kubernetes writes it."""
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]


class LaunchConfig(StepConfig):
    """Where the ranks are started. Nothing here changes what is learned, nor from where a run resumes."""

    backend: Literal["local", "step", "trainjob"] = "local"
    """`local`: processes on this machine. `step`: the same, on GPUs that the pipeline asks for with the step's pod.
    `trainjob`: pods of a Kubeflow TrainJob, `parallel.num_nodes` of them; everything below is about these."""
    runtime: ObjectName = "searchr1-train"
    """The TrainingRuntime of the namespace: image, account, volumes, tolerations and node selectors are its own."""
    cpu: Quantity = "8"
    """Requested for a pod."""
    memory: Quantity = "64Gi"
    """Requested for a pod, and its limit."""
    queue: ObjectName | Literal[""] = ""
    """Kueue's queue of the namespace that the job waits in; empty starts it at once."""
    retriever_in_job: bool = False
    """The runtime brings a retriever of its own (manifests/components/retriever-in-job): the job names this run's
    index to it."""
    deadline_s: int = Field(default=7 * 24 * 3600, ge=60)
    """Longest time of a job from its admission; it then ends and a retry continues from its last checkpoint."""
    image_patience_s: float = Field(default=900, ge=0)
    """How long a pod may fail to get its image or its configuration before the job is given up."""
    usd_per_gpu_hour: float = Field(default=0.0, ge=0)
    """What an hour of one GPU costs, for the step's card and metrics; 0 where that is unknown."""


class TrainConfig(StepConfig):
    """One training run."""

    algorithm: Literal["ppo", "grpo", "reinforce_loo", "sft", "rejection_sampling"] = "ppo"
    """The last two are the paper's trained baselines (section 4.2): imitation of gold answers, and of the base
    model's own correct episodes."""
    steps: int = Field(default=50, ge=1)
    questions_per_step: int = Field(default=384, ge=1)
    episodes_per_question: int = Field(default=1, ge=1)
    """Group size; at least 2 for grpo and reinforce_loo. The paper's rejection sampling takes 5."""
    rollout_steps: int = Field(default=4, ge=1)
    """Rejection sampling asks the base model the questions of so many steps before it learns from the right
    episodes, `questions_per_step` of them in a step."""
    minibatches: int = Field(default=4, ge=1)
    """Optimizer updates made from the episodes of a step."""
    row_tokens: int = Field(default=160, ge=16)
    """Length of a packed row; a longer episode gets a row of its own."""
    micro_batch_rows: int = Field(default=16, ge=1)
    """Rows per forward and backward pass; changes memory and speed, never the result."""
    temperature: float = Field(default=1.0, ge=0.01)
    """Of training rollouts, whole distribution (no top-p, no top-k). Log-probabilities on both sides are those of
    the scaled distribution, so another value keeps every ratio exact; 1 is what all published recipes use. Below .01
    vLLM samples at .01."""
    set_shares: dict[str, PositiveFloat] = Field(default={"nq": 1.0, "hotpotqa": 3.0}, min_length=1)
    """Share of each training set in a step. Mostly two hops: the easy kind alone unlearns the second search."""
    loop: LoopConfig = LoopConfig()
    loss: LossConfig = LossConfig()
    correction: CorrectionConfig = CorrectionConfig()
    reward: RewardConfig = RewardConfig()
    policy_optimizer: OptimizerConfig = OptimizerConfig()
    critic_optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3)
    dev: DevConfig = DevConfig()
    parallel: ParallelConfig = ParallelConfig()
    search: SearchConfig = SearchConfig()
    """Where the passages come from."""
    launch: LaunchConfig = LaunchConfig()
    save_every_steps: int = Field(default=10, ge=1)
    continue_from: str = Field(default="", pattern=r"^((file|s3)://.+)?$")
    """Where to go on from while there is no checkpoint of its own: the folder of another one's, as it printed it. For
    a training that was stopped and shall go on with other ranks, rows or rates; counters and curve go on too."""
    export_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the published weights, on every device; checkpoints hold float32 whatever it is."""
    max_search_failure_frac: float = Field(default=0.05, ge=0, le=1)
    """More failed searches than this in a step stop the training with the boundary named."""
    max_skipped_steps: int = Field(default=3, ge=0)
    """Consecutive updates with a non-finite loss or gradient, or an exploding one, before training stops."""
    max_grad_norm_jump: float = Field(default=10.0, gt=1)
    """An update whose policy gradient norm is more than so many times the running median is skipped."""
    max_staleness_steps: int = Field(default=0, ge=0, le=1)
    """1 samples the episodes of the next step beside the update of this one, with the weights from before it: a step
    takes as long as the longer of the two. Needs `correction.mode = "decoupled"` and, for the engine, weights of its
    own. Supervised baselines have nothing to sample ahead."""
    num_slots: int = Field(default=256, ge=1)
    """Sequences the engine holds at a time."""
    engine: EngineName = "torch"
    """What generates: `torch` runs everywhere, `vllm` is for GPUs and has to be installed."""
    vllm: VllmConfig = VllmConfig()
    """How vLLM uses its device."""
    threads: int = Field(default=2, ge=1)
    """CPU threads of torch."""
    seed: int = Field(default=0, ge=0)

    @property
    def is_supervised(self) -> bool:
        """Whether the model imitates given text instead of earning rewards."""
        return self.algorithm in ("sft", "rejection_sampling")

    @property
    def ranks_per_engine(self) -> int:
        """Neighbouring ranks that share an engine: they play the same episodes, step by step."""
        return self.vllm.tensor_parallel if self.engine == "vllm" else 1

    def sha256(self) -> str:
        """Return the hex digest of what the result depends on; checkpoints lie below it.

        Where the ranks run and where the index is asked is not part of it: whoever tries again elsewhere continues.
        """
        values = self.model_dump(mode="json", exclude={"launch", "search"})
        return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
