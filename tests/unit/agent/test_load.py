"""What is read of a model folder, and in which precision."""

from pathlib import Path

import pytest
import torch

import components.base_model
from components.agent.engines.load import load_model, load_tokenizer

BUNDLED = Path(components.base_model.__file__).parent / "bundled" / "model"


@pytest.fixture
def folder(tmp_path) -> Path:
    load_tokenizer(BUNDLED).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("saved_in", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def test_a_cpu_computes_in_float32_whatever_was_saved(folder, saved_in):
    model, _ = load_model(BUNDLED, "cpu")
    model.to(saved_in).save_pretrained(folder)
    reopened, _ = load_model(folder, "cpu")
    assert {parameter.dtype for parameter in reopened.parameters()} == {torch.float32}
    assert torch.equal(reopened.get_input_embeddings().weight, model.get_input_embeddings().weight.float())
    assert not reopened.training


def test_pickled_weights_are_not_read(folder):
    model, _ = load_model(BUNDLED, "cpu")
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_model(folder, "cpu")
