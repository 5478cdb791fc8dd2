"""Plans against the trainer's own objects, figures computed elsewhere, and the presets they are made for."""

import json
import re
from pathlib import Path

import pytest
import torch

from components.contracts.errors import ConfigError
from components.resolve.presets import load_preset, preset_names
from components.train import plan_memory
from components.train.config import TrainConfig
from components.train.cost import KNOWN_SHAPES, ModelShape, forward_flops, train_flops_per_token
from components.train.head import LOGITS_PER_CHUNK
from components.train.learner import Learner
from components.train.plan import model_shape
from components.train.plan_figures import make_plan
from components.train.plan_memory import GIB, memory_parts
from components.train.plan_remedies import refusal, remedies
from components.train.plan_time import GPUS, Assumptions, network_gb_per_node
from components.train.shards import shards_of

QWEN_3B = KNOWN_SHAPES["Qwen/Qwen2.5-3B"]
ON_GPUS = [name for name in preset_names() if not name.startswith("small-world")]
ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs" / "guides" / "presets.md"


def preset_plan(name, gpu="h100", **expected):
    tables = load_preset(name)
    config = TrainConfig.parse(tables["train"])
    return make_plan(config, model_shape(tables["base_model"]["source"]), GPUS[gpu], Assumptions(**expected))


def anchor(algorithm, episodes_per_question, **changes):
    """2,560 episodes of 2,000 tokens on eight H100 at 40 % MFU, as the published table assumes."""
    config = TrainConfig.parse(
        {
            "algorithm": algorithm,
            "questions_per_step": 2560 // episodes_per_question,
            "episodes_per_question": episodes_per_question,
            "parallel": {"gpus_per_node": 8, "compute_dtype": "bfloat16"} | changes.pop("parallel", {}),
            "loop": {"max_searches": 4, "max_turn_tokens": 500, "max_observation_tokens": 500}
            | {"max_context_tokens": 4096},
        }
        | changes
    )
    assumed = Assumptions(prompt_tokens=1, search_frac=0.75, turn_frac=0.3, observation_frac=1399 / 1500, mfu=0.4)
    return make_plan(config, QWEN_3B, GPUS["h100"], assumed)


WITHOUT_KL = {"kl_coefficient": 0.0}
UNMASKED = {"mask_retrieved_tokens": False}
CHECKPOINTED = {"activation_checkpointing": True}


@pytest.mark.parametrize(
    ("plan", "seconds"),
    [
        # The table runs the head on every token and for the critic; here it runs where it is needed, hence 10 %.
        pytest.param(anchor("grpo", 5, loss=UNMASKED, parallel=CHECKPOINTED), 63, id="grpo, 6 forwards"),
        pytest.param(anchor("grpo", 5, loss=WITHOUT_KL), 32, id="grpo, 3 forwards"),
        pytest.param(anchor("ppo", 1, loss=UNMASKED, parallel=CHECKPOINTED), 115, id="ppo, 11 forwards"),
        pytest.param(anchor("ppo", 1, loss=WITHOUT_KL), 73, id="ppo, 7 forwards"),
    ],
)
def test_training_time_agrees_with_figures_computed_elsewhere(plan, seconds):
    assert plan.expected.tokens == pytest.approx(2000)
    training_s = sum(phase.seconds for phase in plan.phases if not phase.name.startswith("rollout"))
    if not plan.config.loss.mask_retrieved_tokens:
        assert plan.phases[2].name == "old log-probabilities"
    assert training_s == pytest.approx(seconds, rel=0.1)
    assert training_s < 1.01 * seconds


@pytest.mark.parametrize(
    ("forwards", "seconds"),
    [pytest.param(6, 63, id="grpo"), pytest.param(11, 115, id="ppo"), pytest.param(7, 73, id="minimal ppo")],
)
def test_flops_give_the_published_seconds(forwards, seconds):
    one = forward_flops(QWEN_3B, [2000] * 2560, 2560 * 2000)
    assert forwards * one / (8 * 989e12 * 0.4) == pytest.approx(seconds, rel=0.01)
    assert 3 * one == pytest.approx(train_flops_per_token(QWEN_3B, 2000) * 2560 * 2000)


def test_rollouts_decode_at_a_share_of_the_published_roof():
    plan = anchor("grpo", 5, num_slots=256)
    phases, share = {phase.name: phase.seconds for phase in plan.phases}, plan.assumed.decode_roof_frac
    # 320 episodes of a GPU write 600 tokens each; 49,000 tokens/s at 256 sequences of 1,200 tokens, here of 1,000.
    assert phases["rollout: decode"] == pytest.approx(320 * 600 / (49_000 * share), rel=0.12)


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_sharded_parts_are_the_bytes_the_learner_holds(policy, algorithm):
    config = TrainConfig(algorithm=algorithm, episodes_per_question=2, parallel={"gpus_per_node": 1})
    learner = Learner(policy, config, 0)
    held = {}
    for name, module in learner.modules().items():
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        learner.optimizers[name].step()
        moments = [
            value
            for state in learner.optimizers[name].state.values()
            for key, value in state.items()
            if key.startswith("exp_avg")
        ]
        held[f"{name}: weights, float32"] = sum(p.nbytes for p in module.parameters())
        held[f"{name}: gradients, float32"] = sum(p.grad.nbytes for p in module.parameters())
        held[f"{name}: Adam moments, float32"] = sum(moment.nbytes for moment in moments)
    held["reference: weights"] = sum(p.nbytes for p in learner.reference.parameters())
    shape = ModelShape.from_hf_config(policy.config.to_dict())
    parts = {part.name: part.num_bytes for part in memory_parts(config, shape, 80 * GIB)}
    assert {name: parts[name] for name in held} == held
    assert [name for name in parts if ": " in name and "engine" not in name and name not in held] == []


def test_the_head_is_planned_as_it_computes():
    assert plan_memory.LOGITS_PER_CHUNK == LOGITS_PER_CHUNK


def test_peak_leaves_out_the_smaller_phase_and_what_lies_on_the_host():
    config = TrainConfig(parallel={"gpus_per_node": 1, "cpu_offload": True, "compute_dtype": "bfloat16"})
    plan = make_plan(config, QWEN_3B, GPUS["h100"], Assumptions(prompt_tokens=20))
    on_host = sum(part.num_bytes for part in plan.parts if part.on_host)
    trained = QWEN_3B.num_parameters + QWEN_3B.critic_parameters
    # Weights, gradients and two moments, and of all but the gradients a copy while a checkpoint is written.
    assert on_host == (4 + 3) * 4 * trained + 2 * QWEN_3B.num_parameters
    assert plan.checkpoint_bytes == 3 * 4 * trained
    assert plan.host_bytes_per_node == on_host
    sums = {
        when: sum(p.num_bytes for p in plan.parts if p.when == when and not p.on_host)
        for when in ("always", "update", "passes", "optimizers", "rollout")
    }
    assert plan.peak_bytes == sums["always"] + max(
        sums["update"] + max(sums["passes"], sums["optimizers"]), sums["rollout"]
    )


def vllm_parts(**settings):
    config = TrainConfig.parse(
        {"engine": "vllm", "vllm": settings, "parallel": {"gpus_per_node": 8, "compute_dtype": "bfloat16"}}
    )
    return {part.name: part for part in memory_parts(config, QWEN_3B, 80 * GIB) if part.name.startswith("vllm")}


def test_vllm_takes_its_share_or_the_cache_it_is_told():
    shared = vllm_parts(gpu_memory_frac=0.5)
    assert sum(part.num_bytes for part in shared.values()) == pytest.approx(40 * GIB)
    assert vllm_parts(kv_cache_bytes=5 * GIB)["vllm engine: cache"].num_bytes == 5 * GIB
    assert vllm_parts(gpu_memory_frac=0.01)["vllm engine: cache"].num_bytes == 385 * QWEN_3B.kv_bytes_per_token()
    halved = vllm_parts(tensor_parallel=2)["vllm engine: weights"].num_bytes
    assert 2 * halved == shared["vllm engine: weights"].num_bytes == 2 * QWEN_3B.num_parameters
    assert vllm_parts(dtype="float32")["vllm engine: weights"].num_bytes == 4 * QWEN_3B.num_parameters
    working = [vllm_parts(max_batched_tokens=n)["vllm engine: prefill and sampling"].num_bytes for n in (4096, 8192)]
    assert working[1] > working[0]
    assert {part.when for part in vllm_parts(sleep_between_rollouts=True).values()} == {"rollout"}


def shared_engine_plan(tensor_parallel, **values):
    vllm = {"tensor_parallel": tensor_parallel, "kv_cache_bytes": 8 * GIB}
    parallel = {"gpus_per_node": 8, "compute_dtype": "bfloat16"}
    config = TrainConfig.parse({"engine": "vllm", "vllm": vllm, "parallel": parallel, "num_slots": 64} | values)
    return make_plan(config, QWEN_3B, GPUS["h100"], Assumptions())


def decode_s(plan):
    return next(phase.seconds for phase in plan.phases if phase.name == "rollout: decode")


def test_engine_over_two_gpus_reads_its_weights_once_for_twice_the_sequences():
    few = {"questions_per_step": 8, "num_slots": 8}
    alone, shared = decode_s(shared_engine_plan(1, **few)), decode_s(shared_engine_plan(2, **few))
    # One sequence for each GPU: reading the weights is all there is to do.
    assert shared / alone == pytest.approx(0.5, rel=0.02)
    # Slots are those of an engine: with as many sequences in each, half of the engines are twice as fast.
    many = {"questions_per_step": 4096}
    assert decode_s(shared_engine_plan(2, **many)) == pytest.approx(decode_s(shared_engine_plan(1, **many)))


def test_two_gpus_share_the_cached_heads_and_four_have_no_more_than_two_to_share():
    smallest = [vllm_parts(gpu_memory_frac=0.01, tensor_parallel=n)["vllm engine: cache"].num_bytes for n in (1, 2, 4)]
    assert smallest[0] == 2 * smallest[1] == 2 * smallest[2]


def test_a_checkpoint_is_planned_as_large_as_it_is(policy, make_learner, tmp_path):
    learner = make_learner(algorithm="ppo")
    for name, module in learner.modules().items():
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
        learner.optimizers[name].step()
    held = sum(t.nbytes for part in shards_of(learner).values() for t in part.values() if t.ndim)
    shape = ModelShape.from_hf_config(policy.config.to_dict())
    assert plan_memory.checkpoint_bytes(learner.config, shape) == held


@pytest.mark.parametrize(
    ("backend", "memory", "fits"),
    [("trainjob", "64Gi", False), ("trainjob", "512Gi", True), ("trainjob", "1T", True), ("local", "64Gi", True)],
)
def test_a_pod_has_to_hold_what_lies_on_the_host(backend, memory, fits):
    config = TrainConfig.parse(
        {
            "launch": {"backend": backend, "memory": memory},
            "parallel": {"gpus_per_node": 1, "cpu_offload": True, "compute_dtype": "bfloat16"},
        }
    )
    plan = make_plan(config, QWEN_3B, GPUS["h100"], Assumptions(prompt_tokens=20))
    assert (plan.fits_gpu, plan.fits) == (True, fits)
    if not fits:
        assert re.search(r"takes 1\d\d GiB .* a pod gets 64Gi", str(refusal(plan)))
        needed = re.search(r"train.launch.memory=(\w+)", str(refusal(plan)))[1]
        values = config.model_dump() | {"launch": {"backend": backend, "memory": needed}}
        assert make_plan(TrainConfig.parse(values), QWEN_3B, GPUS["h100"], plan.assumed).fits


@pytest.mark.parametrize("name", ON_GPUS)
def test_every_shipped_preset_fits_the_pods_it_asks_for(name):
    tables = load_preset(name)
    tables["train"].setdefault("launch", {})["backend"] = "trainjob"
    config = TrainConfig.parse(tables["train"])
    assert make_plan(config, model_shape(tables["base_model"]["source"]), GPUS["h100"], Assumptions()).fits_pod


def test_machines_share_what_lies_on_them_and_one_alone_tells_nobody():
    def planned(num_nodes):
        parallel = {"num_nodes": num_nodes, "gpus_per_node": 8, "compute_dtype": "bfloat16", "cpu_offload": True}
        return make_plan(TrainConfig(parallel=parallel), QWEN_3B, GPUS["h100"], Assumptions(prompt_tokens=20))

    one, two = planned(1), planned(2)
    assert network_gb_per_node(one.config, QWEN_3B, 1e6) == 0
    assert network_gb_per_node(two.config, QWEN_3B, 1e6) > 0
    seconds = [next(phase.seconds for phase in plan.phases if phase.name == "optimizers") for plan in (one, two)]
    assert seconds[0] == pytest.approx(2 * seconds[1])


@pytest.mark.parametrize("ahead", [0, 1])
def test_engine_that_works_beside_the_update_needs_its_memory_then(ahead):
    config = TrainConfig.parse({"max_staleness_steps": ahead, "parallel": {"gpus_per_node": 8}})
    plan = make_plan(config, QWEN_3B, GPUS["h100"], Assumptions())
    assert {part.when for part in plan.parts if "engine" in part.name} == (
        {"always"} if ahead else {"always", "rollout"}
    )


MEASURED = json.loads((ROOT / "benchmarks" / "results" / "gpu.json").read_text())["cases"]


COMPILED = {"compile_layers": True}
RECOMPUTED = {"activation_checkpointing": True}
OFFLOADED = {"cpu_offload": True}


@pytest.mark.parametrize(
    ("name", "rows", "options"),
    [
        pytest.param("Qwen2.5-3B", 8192, {}, id="3 B"),
        pytest.param("Qwen2.5-3B", 8192, COMPILED, id="3 B, compiled"),
        pytest.param("Qwen2.5-3B", 16_384, COMPILED, id="3 B, compiled, long rows"),
        pytest.param("Qwen2.5-3B", 16_384, COMPILED | RECOMPUTED, id="3 B, compiled, inputs alone"),
        pytest.param("Qwen2.5-1.5B", 16_384, COMPILED, id="1.5 B, compiled, long rows"),
        pytest.param("Qwen2.5-1.5B", 24_576, COMPILED | RECOMPUTED | OFFLOADED, id="1.5 B, weights on the host"),
    ],
)
def test_memory_of_an_update_is_what_a_gpu_allocated(name, rows, options):
    words = {"compile_layers": "compiled", "activation_checkpointing": "checkpointing", "cpu_offload": "offloaded"}
    case = ", ".join([f"update, {name}, rows of {rows}", *(words[key] for key in options), "AdamW: memory"])
    (measured,) = (found["ours"] for found in MEASURED if found["case"] == case)
    parallel = {"gpus_per_node": 1, "compute_dtype": "bfloat16"} | options
    config = TrainConfig.parse(
        {"algorithm": "grpo", "row_tokens": rows, "micro_batch_rows": 1, "loss": WITHOUT_KL, "parallel": parallel}
    )
    kept = [
        part
        for part in memory_parts(config, KNOWN_SHAPES[f"Qwen/{name}"], 140 * GIB)
        if "engine" not in part.name and not part.name.startswith(("CUDA", "lost"))
    ]
    assert plan_memory.peak_bytes(kept) / GIB == pytest.approx(measured, rel=0.05)


def test_one_gpu_holds_policy_and_critic_whole_during_an_update():
    def gathered(**values):
        parallel = {"gpus_per_node": 1, "compute_dtype": "bfloat16"} | values.pop("parallel", {})
        config = TrainConfig.parse({"parallel": parallel} | values)
        (part,) = [p for p in memory_parts(config, QWEN_3B, 140 * GIB) if p.name == "gathered weights and gradients"]
        return part.num_bytes

    assert gathered(algorithm="ppo") - gathered(algorithm="grpo") == 2 * QWEN_3B.critic_parameters
    offloaded = OFFLOADED
    assert gathered(algorithm="ppo", parallel=offloaded) == gathered(algorithm="grpo", parallel=offloaded)
    assert gathered(algorithm="grpo", parallel=offloaded) < gathered(algorithm="grpo")


@pytest.mark.parametrize("gpu", ["h100", "a100-80"])
@pytest.mark.parametrize("name", ON_GPUS)
def test_every_shipped_preset_fits_its_machine(name, gpu):
    plan = preset_plan(name, gpu)
    assert plan.fits
    nodes, _, gpus = {"1x80gb": "1 x 1", "8x80gb": "1 x 8", "2x8x80gb": "2 x 8"}[name.rpartition("-")[2]].partition(
        " x "
    )
    assert (plan.config.parallel.num_nodes, plan.config.parallel.gpus_per_node) == (int(nodes), int(gpus))
    assert plan.longest.tokens <= plan.config.loop.max_context_tokens <= plan.config.row_tokens
    assert plan.longest_step_s > plan.step_s


def test_the_guide_says_what_the_plans_say():
    rows = re.findall(r"^\| `([\w.-]+)` \| ([\d.]+) \| (\d+) \| (\d+) \| ([\d.]+) \|$", GUIDE.read_text(), re.MULTILINE)
    planned = {name: preset_plan(name) for name in ON_GPUS if "instruct" not in name}
    assert {row[0]: row[1:] for row in rows} == {
        name: (
            f"{plan.peak_bytes / GIB:.1f}",
            f"{plan.host_bytes_per_node / GIB:.0f}",
            f"{plan.step_s:.0f}",
            f"{plan.run_hours:.1f}",
        )
        for name, plan in planned.items()
    }


TOO_LARGE = [
    pytest.param("qwen2.5-7b", {"parallel": {"gpus_per_node": 1}}, id="one float32 GPU"),
    pytest.param("qwen2.5-7b", {"parallel": {"gpus_per_node": 8, "compute_dtype": "bfloat16"}}, id="wide rows"),
    pytest.param("qwen2.5-3b", {"num_slots": 400, "parallel": {"gpus_per_node": 8}}, id="many slots"),
]


@pytest.mark.parametrize(("model", "changes"), TOO_LARGE)
def test_remedies_fit_and_change_what_they_say(model, changes):
    shape = {"qwen2.5-7b": KNOWN_SHAPES["Qwen/Qwen2.5-7B"], "qwen2.5-3b": QWEN_3B}[model]
    loop = {"max_turn_tokens": 500, "max_observation_tokens": 500, "max_context_tokens": 4096}
    config = TrainConfig.parse({"row_tokens": 16_384, "micro_batch_rows": 2, "loop": loop} | changes)
    plan = make_plan(config, shape, GPUS["h100"], Assumptions())
    assert not plan.fits
    found = remedies(plan)
    assert found and all(remedy.plan.fits for remedy in found)
    assert any(remedy.what.startswith("--set train.") for remedy in found)
    assert all(remedy.what in str(refusal(plan)) for remedy in found)
    assert all(remedy.plan.config != config or remedy.plan.gpu != plan.gpu for remedy in found)


@pytest.mark.parametrize(
    ("turn_tokens", "prompt_tokens", "says"),
    [
        pytest.param(4096, 300, r"max_turn_tokens = 4096 leaves no room for a prompt", id="turn-as-long-as-all"),
        pytest.param(4000, 300, r"(?s)prompt_tokens=300 leaves no room for a turn.*at most 96", id="long-prompt"),
    ],
)
def test_what_leaves_no_room_is_named(turn_tokens, prompt_tokens, says):
    loop = {"max_turn_tokens": turn_tokens, "max_observation_tokens": 500, "max_context_tokens": 4096}
    with pytest.raises(ConfigError, match=says):
        make_plan(TrainConfig.parse({"loop": loop}), QWEN_3B, GPUS["h100"], Assumptions(prompt_tokens=prompt_tokens))


def test_a_model_no_machine_holds_is_refused_without_a_promise():
    shape = ModelShape(200, 30_000, 90_000, 128, 128, 256, 150_000, False)
    plan = make_plan(TrainConfig(parallel={"gpus_per_node": 8}), shape, GPUS["h100"], Assumptions(prompt_tokens=20))
    assert remedies(plan) == []
    assert "take a smaller model" in str(refusal(plan))
