import pytest
import torch

from components.contracts.errors import ConfigError, MissingError
from components.evaluate.chunks import Rank
from components.evaluate.config import EvaluateConfig
from components.evaluate.models import open_model


def test_a_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(MissingError, match="holds no model"):
        open_model(tmp_path, 64, EvaluateConfig())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MissingError, match=r"auto"):
        open_model(tmp_path, 64, EvaluateConfig(device="cuda"))


def test_vllm_is_refused_on_many_ranks(tmp_path):
    with pytest.raises(ConfigError, match="'vllm' with 2 ranks"):
        open_model(tmp_path, 64, EvaluateConfig(engine="vllm"), Rank(0, 2))


def test_vllm_over_several_gpus_is_refused(tmp_path):
    config = EvaluateConfig.parse({"engine": "vllm", "vllm": {"tensor_parallel": 2}})
    with pytest.raises(ConfigError, match="lives on one GPU"):
        open_model(tmp_path, 64, config)
