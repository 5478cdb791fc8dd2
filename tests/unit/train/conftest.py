"""Tiny random models and invented episodes: the trainer knows no text, only ids, masks and rewards."""

import random
from collections.abc import Callable
from functools import partial

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from components.contracts.episode import Action, Episode, SearchRecord, StopReason, Turn
from components.contracts.question import Question
from components.contracts.step import StepContext
from components.storage import open_storage
from components.train.checkpoint import Checkpoints
from components.train.config import TrainConfig
from components.train.experience import Experience, gather_experience
from components.train.learner import Learner
from components.train.rollout_samples import RolloutSamples
from components.train.stop import StopRequest
from components.train.supervised import SupervisedTrainer
from components.train.trainer import Trainer
from components.train.trainjob_run import run_train_job
from tests.unit.train.fake_kubernetes import FakeCluster, serve
from tests.unit.train.pupil import NUM_DEV, Client, LetterTokenizer, Log, Pupil, question
from tests.unit.train.trainjob_stories import PATIENCE, RESULT

VOCABULARY = 23


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tiny_policy(seed: int = 0, vocabulary: int = VOCABULARY) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 128}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = Qwen2Config(vocab_size=vocabulary, initializer_range=0.2, tie_word_embeddings=True, **shape, **heads)
    return Qwen2ForCausalLM(config).eval()


def invented_episode(rng: random.Random, question_id: str, lengths: tuple[int, ...] = ()) -> Episode:
    """Turns of random lengths with random retrieved text between them; `lengths` fixes the turns."""
    episode = Episode(question_id, [rng.randrange(VOCABULARY) for _ in range(rng.randint(2, 5))], 0)
    episode.prompt_length_tokens = len(episode.token_ids)
    turns = lengths or tuple(rng.randint(1, 4) for _ in range(rng.randint(1, 3)))
    for number, length in enumerate(turns):
        start = len(episode.token_ids)
        add(episode, rng, length, sampled=True)
        last = number == len(turns) - 1
        episode.turns.append(Turn(start, start + length, Action.ANSWER if last else Action.SEARCH, "x"))
        if not last:
            episode.searches.append(SearchRecord("x", [], 0.0))
            add(episode, rng, rng.randint(1, 6), sampled=False)
    episode.stop_reason = StopReason.ANSWERED
    return episode


def add(episode: Episode, rng: random.Random, count: int, *, sampled: bool) -> None:
    episode.token_ids += [rng.randrange(VOCABULARY) for _ in range(count)]
    episode.is_model_token += [sampled] * count
    episode.logprobs += [-rng.random() if sampled else 0.0 for _ in range(count)]


def invented_experience(count: int = 7, seed: int = 0, group: int = 1, *, mask: bool = True) -> Experience:
    """`count` episodes in groups of `group`, rewards drawn from 0 and 1, two kinds of questions."""
    rng = random.Random(seed)
    questions = [
        Question(id=f"q{i // group}", set_name=("nq", "hotpotqa")[i // group % 2], question="x?", golden_answers=("x",))
        for i in range(count)
    ]
    episodes = [invented_episode(rng, question.id) for question in questions]
    return gather_experience(episodes, questions, [float(rng.random() < 0.5) for _ in episodes], mask_retrieved=mask)


def small_config(**values) -> TrainConfig:
    base = {"minibatches": 1, "row_tokens": 32, "micro_batch_rows": 2, "questions_per_step": 4, "threads": 1}
    base |= {"set_shares": {"nq": 1.0, "hotpotqa": 1.0}}
    return TrainConfig.parse(base | values)


@pytest.fixture
def policy() -> Qwen2ForCausalLM:
    return tiny_policy()


@pytest.fixture
def make_policy() -> Callable[..., Qwen2ForCausalLM]:
    return tiny_policy


@pytest.fixture
def make_experience() -> Callable[..., Experience]:
    return invented_experience


@pytest.fixture
def make_config() -> Callable[..., TrainConfig]:
    return small_config


@pytest.fixture
def make_learner() -> Callable[..., Learner]:
    return lambda seed=0, **values: Learner(tiny_policy(seed), small_config(**values), pad_id=0)


@pytest.fixture
def make_trainer(tmp_path):
    def make(dev_scores, client=None, valid=True, folder="work", **values):
        base = {"questions_per_step": 6, "set_shares": {"nq": 1.0}, "steps": 6, "save_every_steps": 1}
        base |= {"loop": {"max_searches": 1, "max_turn_tokens": 24, "max_context_tokens": 160}, "row_tokens": 160}
        # The pupil's log-probabilities are not those of the policy.
        base |= {"correction": {"max_mismatch_kl": 1e9}}
        config = small_config(**base | values)
        storage = open_storage(f"file://{tmp_path}/{folder}")
        trainer_class = partial(SupervisedTrainer, storage=storage) if config.is_supervised else Trainer
        return trainer_class(
            config,
            Learner(tiny_policy(0, vocabulary=128), config, pad_id=0),
            Pupil(dev_scores, valid),
            LetterTokenizer(),
            client or Client(),
            {"nq": [question("nq", 100 + i) for i in range(40)]},
            [question("nq", i) for i in range(NUM_DEV)],
            Checkpoints(storage),
            Log(),
            tmp_path / folder / "metrics.jsonl",
            lambda state, metrics: None,
            StopRequest(),
            RolloutSamples(storage, config, LetterTokenizer()),
        )

    return make


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    fake = FakeCluster()
    server, kubeconfig = serve(fake)
    (tmp_path / "kubeconfig").write_text(kubeconfig)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for name, value in {"RUN_ID": "run-7", "POD_NAME": "step-pod", "POD_UID": "uid-1"}.items():
        monkeypatch.setenv(f"SEARCHR1_{name}", value)
    yield fake
    server.shutdown()
    server.server_close()


@pytest.fixture
def train(cluster, s3_root):
    def run(patience=PATIENCE, index=RESULT, **launch):
        launch = {"backend": "trainjob", "usd_per_gpu_hour": 3.0} | launch
        config = TrainConfig.parse({"launch": launch, "parallel": {"num_nodes": 2, "gpus_per_node": 8}})
        context = StepContext("train", s3_root, "c" * 64, config.sha256())
        return run_train_job(config, context, {"index": index}, patience)

    return run
