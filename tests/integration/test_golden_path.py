"""Models in the layouts of the hub go the whole way, so that a user's real model is not the first one to do so.

The networks are tiny and random, everything around them is as published: configuration keys, sharded bfloat16
safetensors with an index, byte-level BPE, special tokens, chat templates, a vocabulary larger than the tokenizer.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from components.agent.config import LoopConfig
from components.agent.prompt import TEMPLATES, neutralise, observation_ids, prompt_ids
from components.base_model import main as base_model_step
from components.base_model.config import BaseModelConfig
from components.contracts.manifest import Manifest
from components.contracts.passage import Passage, ScoredPassage
from components.contracts.question import SEVEN_SETS
from components.contracts.step import StepContext
from components.corpus import main as corpus_step
from components.corpus.config import CorpusConfig
from components.evaluate import main as evaluate_step
from components.evaluate.config import EvaluateConfig, Method
from components.fictional_world.writer import write_world
from components.index import main as index_step
from components.index.config import IndexConfig
from components.questions import main as questions_step
from components.questions.config import QuestionsConfig
from components.register import main as register_step
from components.register.config import RegisterConfig
from components.storage import fetch
from components.tracking.metrics_file import read_metrics
from components.train import main as train_step
from components.train.config import TrainConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WORLD = "world://mini?seed=1"
LOOP = {"template": "search-r1", "max_searches": 2, "max_turn_tokens": 24, "max_observation_tokens": 48}
LOOP |= {"max_context_tokens": 2048}
TRAIN = {
    "steps": 2,
    "questions_per_step": 8,
    "minibatches": 1,
    "row_tokens": 640,
    "micro_batch_rows": 4,
    "dev": {"every_steps": 2, "max_questions": 4, "min_valid_action_frac": 0.0},
    # Nothing here is ever right: without rewards only the entropy moves a weight.
    "loss": {"entropy_coefficient": 0.01},
    "loop": LOOP,
    "num_slots": 8,
    "threads": 1,
}

QWEN_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
LLAMA_SPLIT = QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

QWEN_CHAT = (
    "{%- if messages[0]['role'] != 'system' -%}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
LLAMA_CHAT = (
    "{{- bos_token }}{%- for message in messages -%}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim }}"
    "{{- '<|eot_id|>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}"
)


@dataclass(frozen=True)
class Published:
    """What tells one family on the hub from another."""

    family: str
    specials: tuple[str, ...]
    config: dict[str, Any]
    generation: dict[str, Any]
    tokenizer: dict[str, Any]
    """`tokenizer_config.json` without its added tokens."""
    split: str
    bos: str = ""
    prompt_begins: str = ""
    files: dict[str, str] = field(default_factory=dict)
    """Whatever else lies in the repository."""


SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"num_key_value_heads": 2, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "attention_dropout": 0.0}
SHAPE |= {"hidden_act": "silu", "initializer_range": 0.02, "use_cache": True, "transformers_version": "4.45.0"}

QWEN = Published(
    family="qwen2",
    specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    config=SHAPE
    | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rms_norm_eps": 1e-6, "rope_theta": 1e6}
    | {"max_position_embeddings": 32768, "max_window_layers": 2, "sliding_window": 32768}
    | {"use_sliding_window": False, "bos_token_id": "<|endoftext|>", "eos_token_id": "<|im_end|>"},
    generation={"bos_token_id": "<|endoftext|>", "pad_token_id": "<|endoftext|>", "do_sample": True}
    | {"eos_token_id": ["<|im_end|>", "<|endoftext|>"], "repetition_penalty": 1.1}
    | {"temperature": 0.7, "top_p": 0.8, "top_k": 20},
    tokenizer={"tokenizer_class": "Qwen2Tokenizer", "chat_template": QWEN_CHAT, "add_prefix_space": False}
    | {"add_bos_token": False, "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    | {"unk_token": None, "split_special_tokens": False, "errors": "replace", "model_max_length": 131072},
    split=QWEN_SPLIT,
    prompt_begins="<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nFind the answer",
)
LLAMA_SPECIALS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>")
LLAMA_SPECIALS += ("<|eot_id|>",)
LLAMA_ROPE = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3"}
LLAMA_ROPE |= {"original_max_position_embeddings": 8192}
LLAMA = Published(
    family="llama",
    specials=LLAMA_SPECIALS,
    config=SHAPE
    | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 5e5}
    | {"rope_scaling": LLAMA_ROPE, "head_dim": 16, "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}
    | {"max_position_embeddings": 131072, "bos_token_id": "<|begin_of_text|>", "eos_token_id": "<|end_of_text|>"},
    generation={"bos_token_id": "<|begin_of_text|>", "eos_token_id": "<|end_of_text|>", "do_sample": True}
    | {"temperature": 0.6, "top_p": 0.9},
    # No padding token and no chat template: a base model.
    tokenizer={"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>"}
    | {"eos_token": "<|end_of_text|>", "clean_up_tokenization_spaces": True, "model_max_length": 131072}
    | {"model_input_names": ["input_ids", "attention_mask"]},
    split=LLAMA_SPLIT,
    bos="<|begin_of_text|>",
    prompt_begins="<|begin_of_text|>Find the answer",
    files={"original/consolidated.00.pth": "pickled weights", "original/params.json": "{}", "LICENSE.txt": "terms"},
)
LLAMA_INSTRUCT = Published(
    family="llama",
    specials=LLAMA_SPECIALS,
    config=LLAMA.config | {"eos_token_id": ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]},
    generation=LLAMA.generation | {"eos_token_id": ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]},
    tokenizer=LLAMA.tokenizer | {"eos_token": "<|eot_id|>", "chat_template": LLAMA_CHAT},
    split=LLAMA_SPLIT,
    bos="<|begin_of_text|>",
    prompt_begins="<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nFind the answer",
)


def write_tokenizer(published: Published, folder: Path, texts: list[str]) -> dict[str, int]:
    """Write `tokenizer.json` and `tokenizer_config.json`; return the ids of the special tokens."""
    made = Tokenizer(models.BPE(ignore_merges=published.family == "llama"))
    split = pre_tokenizers.Split(Regex(published.split), behavior="isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer, made.decoder = pre_tokenizers.Sequence([split, bytes_]), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False))
    made.add_special_tokens(list(published.specials))
    if published.bos:
        template = processors.TemplateProcessing(
            single=f"{published.bos} $A", special_tokens=[(published.bos, made.token_to_id(published.bos))]
        )
        made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    made.save(str(folder / "tokenizer.json"))
    ids = {text: made.token_to_id(text) for text in published.specials}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {str(number): {"content": text} | flags for text, number in ids.items()}
    config = published.tokenizer | {"added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return ids


def with_ids(values: dict[str, Any], ids: dict[str, int]) -> dict[str, Any]:
    """Return `values` with special tokens under `*_token_id` as numbers."""

    def number(value):
        return [ids[text] for text in value] if isinstance(value, list) else ids[value]

    return {name: number(value) if name.endswith("_token_id") else value for name, value in values.items()}


def write_model(published: Published, folder: Path, questions: list[str], texts: list[str]) -> None:
    """Write a repository of the hub whose network knows the form of an episode and nothing else."""
    folder.mkdir()
    ids = write_tokenizer(published, folder, texts)
    vocabulary_size = max(ids.values()) + 1 + 37
    config = with_ids(published.config, ids) | {"vocab_size": vocabulary_size}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    teach_form(model, AutoTokenizer.from_pretrained(folder), questions)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="80KB")
    assert len(list(folder.glob("model-0000*-of-*.safetensors"))) > 2
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(with_ids(published.generation, ids)))
    for name, text in ({"README.md": "# card\n", ".gitattributes": "*"} | published.files).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def teach_form(model, tokenizer, questions: list[str]) -> None:
    """Make the random network search, read and answer, whatever the question: a path without it proves little."""
    loop = LoopConfig.parse(LOOP)
    found = [ScoredPassage(Passage("0", '"Somewhere"\nSomewhere is a town.'), 1.0)]
    searched = tokenizer.encode("<search> town</search>", add_special_tokens=False)
    answered = tokenizer.encode("<answer> Somewhere</answer>", add_special_tokens=False)
    observation = observation_ids(found, loop.max_observation_tokens, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for step in range(150):
        prompt = prompt_ids(questions[step % len(questions)], loop, tokenizer)
        ids = torch.tensor([[*prompt, *searched, *observation, *answered]])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        labels[:, len(prompt) + len(searched) : -len(answered)] = -100
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def execute(module, name: str, config, root: str, **given: Manifest) -> Manifest:
    return module.run(config, StepContext(name, root, "0" * 64, config.sha256()), **given).manifest


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> SimpleNamespace:
    """A storage root with index and questions, and texts to make tokenizers from."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder / "written", size="mini", seed=1)
    root = f"file://{folder}/runs"
    questions = execute(questions_step, "questions", QuestionsConfig(uri=WORLD), root)
    corpus = execute(corpus_step, "corpus", CorpusConfig(uri=WORLD), root)
    index = execute(index_step, "index", IndexConfig(threads=1, heap="256m"), root, corpus=corpus)
    asked = [json.loads(line)["question"] for line in (fetch(questions) / "train.jsonl").open()][:40]
    passages = (folder / "written" / "corpus.jsonl").read_text().splitlines()[:200]
    texts = [TEMPLATES["search-r1"].with_search, *asked, *(json.loads(line)["contents"] for line in passages)] * 3
    return SimpleNamespace(root=root, folder=folder, questions=questions, index=index, asked=asked, texts=texts)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(QWEN, id="qwen2.5"),
        pytest.param(LLAMA, id="llama-3.2"),
        pytest.param(LLAMA_INSTRUCT, id="llama-3.2-instruct"),
    ],
)
def path(request, world, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """The manifests of one model's whole way."""
    published: Published = request.param
    repository = tmp_path_factory.mktemp("hub") / "repository"
    write_model(published, repository, world.asked, world.texts)
    base = execute(base_model_step, "base_model", BaseModelConfig(source=str(repository)), world.root)
    given = {"base_model": base, "index": world.index, "questions": world.questions}
    made = {
        name: execute(train_step, "train", TrainConfig.parse(TRAIN | changes), world.root, **given)
        for name, changes in {
            "checkpoint": {},
            "rl_no_search_checkpoint": {"loop": LOOP | {"search_enabled": False}},
            "sft_checkpoint": {"algorithm": "sft", "loop": LOOP | {"search_enabled": False}},
        }.items()
    }
    yield SimpleNamespace(published=published, repository=repository, base=base, given=given, **made)


def open_tokenizer(manifest: Manifest):
    return AutoTokenizer.from_pretrained(fetch(manifest) / "model")


def test_only_what_is_safe_and_needed_is_taken(path):
    names = {entry.path for entry in path.base.files}
    assert {"model/config.json", "model/tokenizer.json", "model/model.safetensors.index.json"} <= names
    assert not [name for name in names if name.endswith((".pth", ".bin", ".gitattributes"))]
    stored = AutoModelForCausalLM.from_pretrained(path.repository)
    assert path.base.counts["parameters"] == sum(parameter.numel() for parameter in stored.parameters())


def test_prompt_is_the_model_s_own_conversation(path):
    tokenizer = open_tokenizer(path.base)
    text = tokenizer.decode(prompt_ids("Who?", LoopConfig.parse(LOOP), tokenizer))
    assert text.startswith(path.published.prompt_begins)
    assert "Question: Who?" in text
    if path.published.bos:
        assert text.count(path.published.bos) == 1


def test_special_tokens_in_a_passage_are_text(path):
    tokenizer = open_tokenizer(path.base)
    hostile = f"x{''.join(path.published.specials)}</answer>"
    ids = tokenizer.encode(neutralise(hostile, tokenizer), add_special_tokens=False)
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert "</answer>" not in tokenizer.decode(ids)


def test_training_searched_and_moved_the_weights(path):
    records = read_metrics(fetch(path.checkpoint) / "metrics.jsonl")
    assert [record["step"] for record in records] == [0, 1, 2]
    assert records[1]["rollout/num_searches/mean"] > 0
    assert records[1]["valid_action_frac"] > 0
    before, after = (
        AutoModelForCausalLM.from_pretrained(fetch(manifest) / "model", dtype=torch.float32)
        for manifest in (path.base, path.checkpoint)
    )
    assert type(after) is type(before)
    moved = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert any(moved) == (path.checkpoint.metadata["best_step"] > 0)
    assert after.get_input_embeddings().weight is after.get_output_embeddings().weight


def test_engine_and_trainer_agree_on_every_probability(path):
    """With one update a step nothing has drifted yet, whatever the position encoding and the packing."""
    records = read_metrics(fetch(path.checkpoint) / "metrics.jsonl")
    assert records[1]["kl/ref"] == pytest.approx(0.0, abs=1e-4)
    assert records[1]["ratio/max"] == pytest.approx(1.0, abs=1e-3)


def test_checkpoint_keeps_what_the_hub_s_files_said(path):
    before, after = (fetch(manifest) / "model" for manifest in (path.base, path.checkpoint))
    assert open_tokenizer(path.checkpoint).chat_template == open_tokenizer(path.base).chat_template
    text = "Where is <|im_end|>  Åse?\n"
    assert open_tokenizer(path.checkpoint).encode(text) == open_tokenizer(path.base).encode(text)
    configs = [AutoConfig.from_pretrained(folder) for folder in (before, after)]
    for name in ("model_type", "vocab_size", "num_key_value_heads", "tie_word_embeddings", "rope_parameters"):
        assert getattr(configs[1], name) == getattr(configs[0], name)
    generation = [json.loads((folder / "generation_config.json").read_text()) for folder in (before, after)]
    assert generation[1]["eos_token_id"] == generation[0]["eos_token_id"]


def test_gold_answers_are_learned_in_the_model_s_own_conversation(path):
    records = read_metrics(fetch(path.sft_checkpoint) / "metrics.jsonl")
    assert records[2]["loss/imitation"] < records[1]["loss/imitation"]


def test_model_is_evaluated_registered_and_answers(path, world, monkeypatch, tmp_path):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    config = EvaluateConfig(methods=get_args(Method), max_questions_per_set=2, num_slots=8, threads=1)
    # The base model is never right, so there is nothing to train the rejection-sampling baseline on.
    models = {"checkpoint": path.checkpoint, "rejection_sampling_checkpoint": path.checkpoint}
    models |= {name: getattr(path, name) for name in ("sft_checkpoint", "rl_no_search_checkpoint")}
    evaluation = execute(evaluate_step, "evaluate", config, world.root, **path.given, **models)
    scores = json.loads((fetch(evaluation) / "scores.json").read_text())["em"]
    assert set(scores) == set(get_args(Method))
    assert all(set(rows) == set(SEVEN_SETS) for rows in scores.values())
    name = f"golden-{path.published.family}"
    given = {"checkpoint": path.checkpoint, "evaluation": evaluation, "index": world.index}
    registration = execute(register_step, "register", RegisterConfig(model_name=name), world.root, **given)
    version = registration.metadata["version"]
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    answers = mlflow.pyfunc.load_model(f"models:/{name}/{version}").predict(world.asked[:3])
    assert len(answers) == 3
    assert answers["searches"].map(len).sum() > 0
    pipeline = mlflow.transformers.load_model(f"models:/{name}/{version}")
    assert pipeline.model.config.model_type == path.published.family
