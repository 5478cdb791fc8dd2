"""Tells before a training starts whether it fits its GPUs, and what a step and a run will take.

The second door of this step beside main.py: it answers in a second because it loads no model library.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.contracts.config import nearest, read_config_file
from components.contracts.errors import ConfigError
from components.train.config import TrainConfig
from components.train.cost import KNOWN_SHAPES, ModelShape
from components.train.plan_figures import check_planned, make_plan
from components.train.plan_remedies import refusal
from components.train.plan_time import GPUS, Assumptions, Gpu
from components.train.plan_view import render


def preflight(
    preset: str,
    settings: Mapping[str, str],
    gpu: Gpu,
    *,
    model_config: Path | None = None,
    expected: Mapping[str, Any] | None = None,
    as_json: bool = False,
) -> tuple[str, ConfigError | None]:
    """Return the plan of the task `train` as text, and the error that refuses it when it does not fit.

    `settings` are those of the resolve step; `expected` replaces assumptions by name.

    Raises:
        ConfigError: the model or an assumption is not known, or there is nothing to plan.
        MissingError: there is no such config.json.
    """
    train, base_model = (json.loads(settings[task])["config"] for task in ("train", "base_model"))
    config = TrainConfig.parse(train, where="train")
    check_planned(config)
    plan = make_plan(
        config,
        model_shape(base_model["source"], model_config),
        gpu,
        Assumptions.parse(dict(expected or {}), where="--expect"),
    )
    text = json.dumps({"preset": preset} | plan.to_dict(), indent=1) if as_json else render(plan, preset)
    return text, None if plan.fits else refusal(plan)


def model_shape(source: str, model_config: Path | None = None) -> ModelShape:
    """Return the shape of the base model: of a config.json when one is given, else of a folder or a known name.

    Raises:
        ConfigError: the model is not known, or of a family that cannot be counted.
        MissingError: the file does not exist.
    """
    if model_config is None and Path(source).is_dir():
        model_config = Path(source)
    if model_config is not None:
        file = model_config / "config.json" if model_config.is_dir() else model_config
        return ModelShape.from_hf_config(read_config_file(file))
    name = source.removeprefix("hf://").partition("@")[0].removesuffix("-Instruct")
    if name not in KNOWN_SHAPES:
        raise ConfigError(
            f"The shape of {source} is not known here{nearest(name, list(KNOWN_SHAPES))}",
            ", ".join(KNOWN_SHAPES),
            "give its config.json with --model-config",
        )
    return KNOWN_SHAPES[name]


def choose_gpu(
    name: str, memory_gib: float | None = None, tflops: float | None = None, bandwidth_tb_per_s: float | None = None
) -> Gpu:
    """Return the GPU of that name, with the given numbers in place of the data sheet's.

    Raises:
        ConfigError: there is no such GPU here, or a number is not positive.
    """
    if name not in GPUS:
        raise ConfigError(f"Unknown GPU {name!r}{nearest(name, list(GPUS))}", ", ".join(GPUS), "or give its numbers")
    known = GPUS[name]
    given = {"memory_gib": memory_gib, "tflops": tflops, "bandwidth_tb_per_s": bandwidth_tb_per_s}
    for key, value in given.items():
        if value is not None and value <= 0:
            raise ConfigError(f"{key} = {value}", "more than 0")
    if not any(given.values()):
        return known
    return Gpu(
        f"{name} with other numbers",
        memory_gib or known.memory_gib,
        tflops or known.bfloat16_tflops,
        tflops or known.float32_tflops,
        bandwidth_tb_per_s or known.bandwidth_tb_per_s,
    )
