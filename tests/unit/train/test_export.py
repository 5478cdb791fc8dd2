"""The published model: whole, in the precision that was asked for, and read back in it."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from components.train.sharding import save_model
from tests.unit.train.conftest import tiny_policy


class NoTokenizer:
    """Has nothing to save."""

    def save_pretrained(self, folder) -> None:
        pass


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("loaded", [torch.float32, torch.bfloat16], ids=["from float32", "from bfloat16"])
def test_file_and_reader_agree_on_the_precision_whatever_the_model_was_loaded_in(tmp_path, dtype, loaded):
    policy = tiny_policy()
    policy.config.dtype = loaded  # as on a GPU, where the weights themselves are float32 while they are trained
    expected = policy.model.embed_tokens.weight.detach().to(getattr(torch, dtype))
    save_model(policy, NoTokenizer(), tmp_path, dtype)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == dtype
    read = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert read.dtype == getattr(torch, dtype)
    assert torch.equal(read.model.embed_tokens.weight, expected)
    assert read.lm_head.weight is read.model.embed_tokens.weight
