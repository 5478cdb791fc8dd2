"""The DAG as Kubeflow Pipelines reads it."""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contracts.config import nearest
from components.contracts.errors import ConfigError
from pipeline.parameters import PARAMETERS
from pipeline.resources import CACHE_MOUNT, GPU_TOLERATION, RESOURCES, cache_mount, with_gpus

if TYPE_CHECKING:
    from kfp.dsl.graph_component import GraphComponent

NO_GPUS: Mapping[str, int] = {}
GPU_TASKS = {
    "train": ("train", "train-rl-no-search", "train-sft", "train-rejection-sampling"),
    "evaluate": ("evaluate",),
}
"""Name in `gpus` -> tasks that get so many each."""
_CLAIM = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
_TAGGED = re.compile(r"[^@\s]+:(?P<tag>[\w][\w.-]*)")


def compile_pipeline(
    output: Path,
    image: str = "",
    gpu_image: str = "",
    gpus: Mapping[str, int] = NO_GPUS,
    cache_claim: str = "",
) -> None:
    """Write the pipeline to `output` as KFP YAML; equal code and arguments give equal bytes.

    Every step runs in `image`, which holds this project (images/cpu); without one the steps keep a bare Python,
    in which they cannot run. `gpus` (`train`, `evaluate` -> GPUs of the task's own pod, with the memory and cores to
    feed them) moves these tasks to `gpu_image` (images/gpu). A training that a TrainJob runs needs none here.
    `cache_claim` names a PersistentVolumeClaim that keeps downloads from one pod to the next.
    Help texts and choices join the parameters here: the SDK's signature has no room for them.

    Raises:
        ConfigError: an image has no fixed tag or digest, `gpus` names another task or a number below 0, or there
            are GPUs and no image for them; `cache_claim` is no name of an object.
    """
    _check_gpus(gpus, gpu_image)
    if cache_claim and not _CLAIM.fullmatch(cache_claim):
        raise ConfigError(f"--cache-claim {cache_claim!r} is no name of a claim", "the name of a PersistentVolumeClaim")
    for option, reference in {"--image": image, "--gpu-image": gpu_image}.items():
        _check_image(option, reference)
    from kfp import compiler

    from pipeline.dag import search_r1

    output.parent.mkdir(parents=True, exist_ok=True)
    with _unchanged_after(search_r1):
        _explain_parameters(search_r1)
        executors = search_r1.pipeline_spec.deployment_spec["executors"]
        for executor in executors.values():
            executor["container"]["image"] = image or executor["container"]["image"]
        for name, count in gpus.items():
            for task in GPU_TASKS[name] if count else ():
                container = executors[f"exec-{task}"]["container"]
                container["image"] = gpu_image
                container["resources"].update(with_gpus(RESOURCES[task], count))
                _on_kubernetes(search_r1, task).update({"tolerations": [GPU_TOLERATION]})
        if cache_claim:
            _mount_cache(search_r1, cache_claim)
        compiler.Compiler().compile(search_r1, str(output))


@contextmanager
def _unchanged_after(pipeline: "GraphComponent") -> Iterator[None]:
    """Undo what is done to the pipeline: it is one object of this process, and the next caller wants it as it was."""
    from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

    before, platform_before = PipelineSpec(), PlatformSpec()
    before.CopyFrom(pipeline.pipeline_spec)
    platform_before.CopyFrom(pipeline.platform_spec)
    try:
        yield
    finally:
        pipeline.pipeline_spec.CopyFrom(before)
        pipeline.platform_spec.CopyFrom(platform_before)


def _mount_cache(pipeline: "GraphComponent", claim: str) -> None:
    containers = pipeline.pipeline_spec.deployment_spec["executors"]
    for task in (name for name, given in RESOURCES.items() if given.fetches_much):
        environment = containers[f"exec-{task}"]["container"]["env"]
        environment.append({"name": "SEARCHR1_CACHE", "value": CACHE_MOUNT})
        _on_kubernetes(pipeline, task).update({"pvcMount": [cache_mount(claim)]})


def _on_kubernetes(pipeline: "GraphComponent", task: str) -> Any:
    return pipeline.platform_spec.platforms["kubernetes"].deployment_spec.executors[f"exec-{task}"]


def _explain_parameters(pipeline: "GraphComponent") -> None:
    inputs = pipeline.pipeline_spec.root.input_definitions.parameters
    for parameter in PARAMETERS:
        declared = inputs[parameter.name]
        declared.description = parameter.help
        for choice in parameter.choices:
            declared.literals.add().string_value = choice


def _check_gpus(gpus: Mapping[str, int], gpu_image: str) -> None:
    for name, count in gpus.items():
        if name not in GPU_TASKS:
            raise ConfigError(f"No GPUs for {name!r}{nearest(name, list(GPU_TASKS))}", ", ".join(GPU_TASKS))
        if count < 0:
            raise ConfigError(f"{name} = {count} GPUs", "0 or more")
    if any(gpus.values()) and not gpu_image:
        raise ConfigError("Tasks with GPUs have no image", remedy="give the gpu image too: --gpu-image REFERENCE")


def _check_image(option: str, reference: str) -> None:
    """Refuse what may name other code tomorrow; KFP's cache would serve the old code's results all the same.

    Raises:
        ConfigError: the reference is malformed, or has neither a digest nor a tag of its own.
    """
    if not reference or _DIGEST.fullmatch(reference):
        return
    tagged = _TAGGED.fullmatch(reference)
    if "@" in reference or not tagged or "/" in tagged["tag"] or tagged["tag"] == "latest":
        raise ConfigError(
            f"{option} {reference} floats: it names no particular image",
            "REGISTRY/NAME@sha256:DIGEST, or a tag that is never moved such as REGISTRY/NAME:git-0123abc",
            "`docker inspect --format '{{index .RepoDigests 0}}' IMAGE` tells the digest of an image that was pushed",
        )
    print(
        f"warning: {option} {reference} is pinned by a tag only; whoever moves it changes what a cached step was",
        file=sys.stderr,
    )
