"""What vLLM 0.32 does otherwise on a CPU than on a GPU, and must not where an engine there stands for one on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def vllm_as_on_gpus(async_scheduling: bool) -> Iterator[None]:
    """Let an engine that is built meanwhile take weights, meet its neighbours and plan its steps as one on a GPU."""
    with _updatable_linear_layers(), _collectives_of_torch(), _scheduling_as_asked(async_scheduling):
        yield


@contextmanager
def _updatable_linear_layers() -> Iterator[None]:
    """Keep the weights of linear layers where updates reach them.

    On a CPU vLLM 0.32 packs them into a private layout while loading and empties `weight`: a later `load_weights`
    changes nothing and raises nothing.
    """
    from vllm.model_executor.layers import utils

    def plain(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    packing, utils.dispatch_cpu_unquantized_gemm = utils.dispatch_cpu_unquantized_gemm, plain
    try:
        yield
    finally:
        utils.dispatch_cpu_unquantized_gemm = packing


@contextmanager
def _collectives_of_torch() -> Iterator[None]:
    """Let ranks on CPUs that share a model meet through torch's process group.

    vLLM 0.32 takes shared memory, which under torchrun has one name for all jobs of a machine: a second job fails, and
    so does every one after a job that was killed. A rank whose neighbour died waits there for ever, and at full load.
    """
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

    shared_memory = CpuCommunicator._all_group_ranks_share_shm_group_name
    CpuCommunicator._all_group_ranks_share_shm_group_name = lambda _: False
    try:
        yield
    finally:
        CpuCommunicator._all_group_ranks_share_shm_group_name = shared_memory


@contextmanager
def _scheduling_as_asked(asynchronous: bool) -> Iterator[None]:
    """Plan steps ahead on a CPU too, which gains nothing there, but is how engines on GPUs are tested without one.

    vLLM 0.32 switches it off for CPUs, whatever it was asked for; its engine and model runner do not mind.
    """
    from vllm.platforms.cpu import CpuPlatform

    update = vars(CpuPlatform)["check_and_update_config"]

    def kept(platform: type[CpuPlatform], config: Any) -> None:
        update.__get__(None, platform)(config)
        config.scheduler_config.async_scheduling = asynchronous

    CpuPlatform.check_and_update_config = classmethod(kept)
    try:
        yield
    finally:
        CpuPlatform.check_and_update_config = update
