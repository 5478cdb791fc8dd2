"""`searchr1 plan` as a person types it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from components.contracts.errors import ConfigError, MissingError
from components.train.cost import KNOWN_SHAPES, ModelShape
from components.train.plan import choose_gpu, model_shape
from pipeline.cli import main

ROOT = Path(__file__).parents[3]
QWEN_3B = KNOWN_SHAPES["Qwen/Qwen2.5-3B"]


def exit_code_of(*arguments):
    try:
        main(["plan", *arguments])
    except SystemExit as ended:
        return ended.code
    return 0


def test_the_command_prints_parts_phases_and_assumptions(capsys):
    assert exit_code_of("qwen2.5-3b-ppo-8x80gb") == 0
    shown = capsys.readouterr().out
    for words in ("critic: Adam moments", "fits,", "rollout: decode", "critic update", "GPU-hours", "mfu=0.35"):
        assert words in shown


def test_the_command_prints_numbers_for_programs(capsys):
    arguments = ["qwen2.5-3b-grpo-2x8x80gb", "--json", "--expect", "mfu=0.2", "--gpu", "h200"]
    assert exit_code_of(*arguments) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["gpu"] == {"name": "h200", "memory_gib": 139.8, "count": 16}
    assert shown["assumptions"]["mfu"] == 0.2
    assert shown["step_s"] == pytest.approx(sum(phase["seconds"] for phase in shown["phases"].values()))
    assert shown["network_gb_per_node_and_step"] > 0


def test_what_does_not_fit_ends_with_2_and_the_printed_remedy_works(capsys):
    given = ["qwen2.5-7b-ppo-8x80gb", "--set", "train.vllm.gpu_memory_frac=0.6", "--json"]
    given += ["--set", "train.vllm.kv_cache_bytes=30000000000"]
    assert exit_code_of(*given) == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out)["fits"] is False
    assert "vllm engine: cache" in shown.err
    found = re.search(r"--set (train\.\S+)", shown.err)
    assert exit_code_of(*given, "--set", found[1]) == 0


IN_GROUPS = ["--set", "train.engine=vllm", "--set"]


def test_plan_says_how_engines_lie_on_the_gpus(capsys):
    assert exit_code_of("qwen2.5-3b-grpo-8x80gb", *IN_GROUPS, "train.vllm.tensor_parallel=2") == 0
    assert "(4 engines of 2 GPUs each)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["small-world"], "trains on the CPU", id="no gpu"),
        pytest.param(["qwen2.5-3b"], "did you mean 'qwen2.5-3b-", id="unknown preset"),
        pytest.param(["qwen2.5-3b-ppo-1x80gb", "--gpu", "h1000"], "did you mean 'h100'", id="unknown gpu"),
        pytest.param(["qwen2.5-3b-ppo-1x80gb", "--tflops", "-1"], "tflops = -1", id="negative peak"),
        pytest.param(["qwen2.5-3b-ppo-1x80gb", "--expect", "mfu=2"], "--expect.mfu = 2", id="more than all"),
        pytest.param(["qwen2.5-3b-ppo-1x80gb", "--expect", "mfo=.2"], "did you mean 'mfu'", id="unknown assumption"),
        pytest.param(["qwen2.5-3b-ppo-1x80gb", "--expect", "prompt_tokens=4000"], "no room", id="long prompt"),
        pytest.param(
            ["qwen2.5-3b-ppo-1x80gb", "--set", "base_model.source=hf://Qwen/Qwen2.5-32B"], "--model-config", id="model"
        ),
        pytest.param(["qwen2.5-3b-ppo-1x80gb", "--set", "train.algorithm=sft"], "samples nothing", id="imitation"),
        pytest.param(
            ["qwen2.5-3b-ppo-2x8x80gb", "--set", "train.search.retriever_url=http://127.0.0.1:8000"],
            "2 nodes would each ask themselves",
            id="loopback",
        ),
        pytest.param(
            ["qwen2.5-7b-ppo-8x80gb", *IN_GROUPS, "train.vllm.tensor_parallel=8"], "28 attention heads", id="heads"
        ),
        pytest.param(
            ["qwen2.5-7b-ppo-8x80gb", "--set", "train.loop.max_context_tokens=40000"],
            "max_position_embeddings is 32768",
            id="positions",
        ),
        pytest.param(
            ["qwen2.5-7b-ppo-1x80gb", *IN_GROUPS, "train.vllm.tensor_parallel=2"], "a node has 1 ranks", id="groups"
        ),
    ],
)
def test_what_cannot_be_planned_ends_with_2(capsys, arguments, says):
    assert exit_code_of(*arguments) == 2
    assert says in capsys.readouterr().err


def test_a_gpu_may_have_other_numbers():
    gpu = choose_gpu("h100", memory_gib=60.0, bandwidth_tb_per_s=2.0)
    assert (gpu.memory_gib, gpu.bfloat16_tflops, gpu.bandwidth_tb_per_s) == (60.0, 989, 2.0)


@pytest.mark.parametrize("given", ["config.json", ""], ids=["file", "folder"])
def test_a_model_may_bring_its_configuration(policy, tmp_path, given):
    config = policy.config
    (tmp_path / "config.json").write_text(config.to_json_string())
    assert model_shape("hf://someone/else", tmp_path / given) == ModelShape.from_hf_config(config.to_dict())
    assert model_shape(str(tmp_path)) == model_shape("hf://someone/else", tmp_path)
    with pytest.raises(MissingError):
        model_shape("hf://someone/else", tmp_path / "nothing" / "config.json")


def test_a_revision_does_not_change_a_known_model():
    assert model_shape("hf://Qwen/Qwen2.5-3B-Instruct@abc123") == QWEN_3B
    with pytest.raises(ConfigError, match=r"did you mean 'Qwen/Qwen2\.5-7B'"):
        model_shape("hf://Qwen/Qwen2.5-72B")


def test_planning_loads_no_model_library():
    code = "import sys, components.train.plan; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
